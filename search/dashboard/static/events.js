// What happens to a job, as it happens: server-sent events of any kind, none lost and none twice.
import { answered } from "./api.js";

const RETRY_MS = 1000;

/**
 * Tell `on(kind, data)` of each event behind number `after` until the job is over or `signal` aborts.
 * A stream that breaks is taken up again; `broken(isBroken)` hears of both.
 */
export async function follow(job, after, on, { signal, broken = () => {} } = {}) {
  let last = after;
  let isOver = false;
  while (!signal?.aborted && !isOver) {
    try {
      const answer = await answered(`/jobs/${job}/events`, { headers: { Accept: "text/event-stream", "Last-Event-ID": String(last) }, signal });
      broken(false);
      for await (const { id, kind, data } of told(answer.body)) {
        if (id) last = id;
        if (kind === "end") isOver = true;
        else on(kind, JSON.parse(data));
      }
    } catch (error) {
      if (signal?.aborted || [401, 404].includes(error.status)) return;
      broken(true);
    }
    if (!isOver) await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

async function* told(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const lines = Object.fromEntries(block.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]));
      if (lines.event) yield { id: lines.id, kind: lines.event, data: lines.data };
    }
  }
}
