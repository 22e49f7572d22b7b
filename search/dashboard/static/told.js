// Events, failures with their reasons, and the log of a job.
import { answered, call } from "./api.js";
import { element, sentence, showState, table } from "./dom.js";
import { clock } from "./numbers.js";

const MOST = 500;

export class Told {
  #events = [];
  #shown = "events";
  #reasons = {};

  constructor(place, tools, job) {
    this.place = place;
    this.job = job;
    this.tools = tools;
    tools.addEventListener("click", ({ target }) => target.dataset.show && this.show(target.dataset.show));
  }

  /** "events", "failures" or "log". */
  show(what) {
    for (const each of this.tools.querySelectorAll("[data-show]")) each.setAttribute("aria-pressed", each.dataset.show === what);
    this.#shown = what;
    this.draw();
  }

  /** Take events that have happened; of many the newest stay. */
  add(...events) {
    this.#events = [...this.#events, ...events].slice(-MOST);
    if (this.#shown !== "failures") this.drawSoon();
  }

  /** Take why trials failed, by number. */
  failed(reasons) {
    this.#reasons = reasons;
    if (this.#shown === "failures") this.draw();
  }

  drawSoon() {
    this.waiting ??= setTimeout(() => { this.waiting = null; this.draw(); }, 500);
  }

  async draw() {
    if (this.#shown === "events") return this.#drawEvents();
    if (this.#shown === "failures") return this.#drawFailures();
    try {
      const text = await (await answered(`/jobs/${this.job}/log`)).text();
      if (this.#shown !== "log") return;
      if (!text) return showState(this.place, "nothing", "Nothing was printed");
      this.place.replaceChildren(element("pre", {}, text));
      this.place.scrollTop = this.place.scrollHeight;
    } catch (error) {
      showState(this.place, "broken", sentence(error));
    }
  }

  #drawEvents() {
    if (!this.#events.length) return showState(this.place, "nothing", "Nothing has happened yet");
    this.place.replaceChildren(table([
      ["time", ({ time_s: time }) => element("time", { datetime: new Date(1000 * time).toISOString() }, clock(time))],
      ["event", ({ kind }) => kind],
      ["", ({ message }) => message],
    ], [...this.#events].reverse(), { kind: "table.events", classOf: ({ kind }) => (/fail|died/.test(kind) ? "bad" : "") }));
  }

  #drawFailures() {
    const byReason = Map.groupBy(Object.entries(this.#reasons), ([, reason]) => reason);
    if (!byReason.size) return showState(this.place, "nothing", "No trial has failed");
    this.place.replaceChildren(table([
      ["trials", ([, entries]) => `${entries.slice(0, 12).map(([number]) => number).join(", ")}${entries.length > 12 ? ` and ${entries.length - 12} more` : ""}`],
      ["reason", ([reason]) => reason],
    ], [...byReason]));
  }
}

/** The events that there are, and the number of the last. */
export async function firstEvents(told, job) {
  try {
    const { events } = await call(`/jobs/${job}/events?newest=true`);
    told.add(...events);
    told.draw();
    return events.at(-1)?.number ?? 0;
  } catch (error) {
    showState(told.place, "broken", sentence(error));
    return 0;
  }
}
