// The state of a job, how far it is, and what its owner may ask of it.
import { call } from "./api.js";
import { element, sentence } from "./dom.js";

const WORKING = ["queued", "planning", "searching", "finishing", "interrupted"];
/** Verb → the states in which asking for it makes sense, and what it does. */
const VERBS = {
  pause: [WORKING, "No new trials; those that run finish, and the job waits"],
  resume: [["paused"], "Go on"],
  stop: [["searching", "paused"], "End the search now; the best of what is there is trained, measured and exported"],
  cancel: [[...WORKING, "paused"], "End it at once; what is finished is kept"],
  retry: [["failed", "cancelled"], "Start again, with all that it has found"],
};

/** Show what the API says of a job at the head of its page; `asked(job)` hears what became of it by a verb, and is null where none may be asked. */
export function showJob(job, asked) {
  const state = document.getElementById("state");
  state.textContent = job.wish ? `${job.state}, ${job.wish} asked` : job.state;
  state.className = `state ${job.state}`;
  const progress = document.getElementById("progress");
  const isGoing = job.at_work && job.progress.stage !== undefined;
  progress.hidden = !isGoing;
  if (isGoing) {
    progress.querySelector("progress").value = job.progress.share;
    progress.querySelector("span").textContent = [job.progress.stage, job.progress.text].filter(Boolean).join(" · ");
  }
  const verbs = asked ? Object.keys(VERBS).filter((verb) => VERBS[verb][0].includes(job.state) && job.wish !== verb && job.wish !== "cancel") : [];
  const place = document.getElementById("verbs");
  if (place.dataset.shown === verbs.join()) return;
  place.dataset.shown = verbs.join();
  place.replaceChildren(...verbs.map((verb) => element("button", { type: "button", title: VERBS[verb][1], onclick: () => ask(job.name, verb, asked) }, verb[0].toUpperCase() + verb.slice(1))));
}

async function ask(name, verb, asked) {
  const said = document.getElementById("said");
  said.hidden = true;
  try {
    asked(await call(`/jobs/${name}/${verb}`, { method: "POST" }));
  } catch (error) {
    said.textContent = sentence(error);
    said.hidden = false;
  }
}
