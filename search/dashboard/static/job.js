// The page of a job: its state, what may be asked of it, and what it has found, live.
import { call } from "./api.js";
import { sentence, showState } from "./dom.js";
import { follow } from "./events.js";
import { showExports } from "./exports.js";
import { frontPage } from "./front-page.js";
import { showOutlook } from "./outlook.js";
import { setPage } from "./set-page.js";
import { showJob } from "./steering.js";
import { firstEvents, Told } from "./told.js";

const LEAST_MS = 1000;
// Between two looks at what was found.

const head = document.getElementById("job");
const name = head.dataset.job;
const mayChange = head.dataset.mayChange === "true";
const at = (id) => document.getElementById(id);
const told = new Told(at("told"), at("told-tools"), name);
const page = head.dataset.isSet === "true"
  ? setPage(name)
  : frontPage(name, { say, exported: mayChange ? exportTrial : null, failed: (reasons) => told.failed(reasons) });

async function exportTrial(trial) {
  try {
    waitingExports = (await call(`/jobs/${name}/exports`, { method: "POST", body: { trial } })).exports;
    await showExports(at("exports"), name, waitingExports);
    at("exports").scrollIntoView({ block: "center" });
    listen();
  } catch (error) {
    say(error);
  }
}

function say(error) {
  at("said").textContent = sentence(error);
  at("said").hidden = false;
}

let isFound = false;
function drawState() {
  showJob(job, mayChange ? asked : null);
  showOutlook(at("outlook"), job, { isFound, mayChange, showLog() { told.show("log"); at("told").scrollIntoView({ block: "center" }); at("told").focus(); } });
}

async function refresh() {
  try {
    // Of a job that is not planned there is nothing to ask for.
    isFound = (job.has_front || job.models.length > 0) && await page.refresh();
    at("found").hidden = !isFound;
    at("loading").hidden = true;
  } catch (error) {
    if (isFound) say(error);
    else showState(at("loading"), "broken", sentence(error));
  }
  drawState();
}

let waiting = null;
let refreshedMs = 0;
/** Refresh soon, and at most once in a while whatever happens. */
function refreshSoon() {
  waiting ??= setTimeout(async () => {
    const begunMs = performance.now();
    await refresh();
    refreshedMs = performance.now();
    waiting = null;
    if (refreshedMs - begunMs > LEAST_MS) refreshedMs += 2 * (refreshedMs - begunMs);
  }, Math.max(0, refreshedMs + LEAST_MS - performance.now()));
}

let listening = false;
/** Hear what happens until the job is over; again when something is asked of one that was. */
async function listen() {
  if (listening) return;
  listening = true;
  await follow(name, lastEvent, hear, { broken: (isBroken) => head.classList.toggle("cut-off", isBroken) });
  listening = false;
}

function asked(changed) {
  hear("job", changed);
  listen();
}

function hear(kind, data) {
  if (kind !== "job") {
    lastEvent = data.number;
    told.add(data);
    return refreshSoon();
  }
  job = data;
  if (!isFound || job.models.length) refreshSoon();
  drawState();
  if (`${data.exports}` !== `${waitingExports}`) showExports(at("exports"), name, data.exports);
  waitingExports = data.exports;
}

let job = JSON.parse(head.dataset.shown);
let waitingExports = job.exports;
drawState();
showState(at("loading"), "loading", "Fetching what it has found …");
at("loading").hidden = !job.has_front && !job.models.length;
showExports(at("exports"), name, waitingExports);
refreshSoon();
let lastEvent = await firstEvents(told, name);
listen();
