// What is to come of a job, or what went wrong with it: the reason on top, and what to do next.
import { element } from "./dom.js";

const STEPS = [
  [["queued"], "It waits for its turn", "Who has the fewest jobs running comes first, then the oldest job."],
  [["planning", "interrupted"], "Its model is read and its device measured", "What can be pruned is found and proved; a device that is known is not measured again."],
  [["searching"], "Candidates are tried", "The front appears with the first that ends."],
  [["finishing"], "The best are trained, measured and exported", "With a report."],
];
/** State → what is said of it, how loudly, and what its owner may do next. */
const VERDICTS = {
  failed: ["This job has failed", "bad", "Mend what the reason names, and press Retry. If it names something of the job itself, submit the job anew."],
  cancelled: ["This job was cancelled", "", "Retry begins where it ended."],
  paused: ["This job is paused", "", "Resume goes on from where it is."],
};
const COPY = ["What it has made is still to be copied", "", "That is tried until it succeeds; until then it lies on the disk of the service alone."];

/** Show it at `place`; `isFound` says whether there is something to look at beside. */
export function showOutlook(place, job, { isFound, mayChange, showLog }) {
  const verdict = VERDICTS[job.state] ?? (job.copy_outstanding ? COPY : null);
  const steps = !verdict && !isFound && job.state !== "done";
  place.hidden = !verdict && !steps;
  const shown = [job.state, job.reason, isFound, job.copy_outstanding].join();
  if (place.dataset.shown === shown) return;
  place.dataset.shown = shown;
  place.replaceChildren(verdict ? said(job, verdict, isFound, mayChange, showLog) : steps ? toCome(job) : "");
}

function said(job, [title, loudness, next], isFound, mayChange, showLog) {
  return element(`div.notice${loudness ? `.${loudness}` : ""}`, { role: loudness ? "alert" : "status" },
    element("h2", {}, title, isFound ? null : ", and has found nothing"),
    job.reason ? element("p.reason", {}, job.reason) : null,
    mayChange ? element("p.quiet", {}, isFound ? `What it has found is kept. ${next}` : next) : null,
    loudness ? element("p", {}, element("button", { type: "button", onclick: showLog }, "What its processes printed")) : null);
}

function toCome(job) {
  const now = STEPS.findIndex(([states]) => states.includes(job.state));
  return element("ol.steps", { "aria-label": "What is done for a job" }, STEPS.map(([, title, text], k) => element("li", { class: k < now ? "over" : null, "aria-current": k === now ? "step" : null },
    element("strong", {}, title), element("span.quiet", {}, k === now ? job.progress.text || text : text))));
}
