// The page of a job: its state and its charts, live.
import { aloneChart } from "./alone-chart.js";
import { call } from "./api.js";
import { courseChart } from "./course-chart.js";
import { clearState, element, sentence, showState } from "./dom.js";
import { follow } from "./events.js";
import { showExports } from "./exports.js";
import { frontChart } from "./front-chart.js";
import { drawFrontTable } from "./front-table.js";
import { keepChart } from "./keep-chart.js";
import { count, percent, significant, signed, times } from "./numbers.js";
import { Picks } from "./picks.js";
import { whenSeen } from "./seen.js";
import { showJob } from "./steering.js";
import { firstEvents, Told } from "./told.js";
import { widthsChart } from "./widths-chart.js";

const LEAST_MS = 1000;
// Between two fronts that are fetched.

const head = document.getElementById("job");
const name = head.dataset.job;
const mayChange = head.dataset.mayChange === "true";
const at = (id) => document.getElementById(id);
const picks = new Picks();
let front = null;
let brushed = null;
let budget = null;
let chart = null;
let course = null;
let groups = null;
let byGroup = null;
// What is drawn of groups and widths, once somebody has come near it.
let waitingExports = [];
const told = new Told(at("told"), at("told-tools"), name);

function drawAll() {
  drawFigures();
  drawRows();
  chart.show(front);
  course?.show(front);
  told.failed(front.trials.reason);
  byGroup?.();
}

/** Heat map and parallel coordinates, of widths as they are now; both follow the picks. */
async function drawWidths() {
  const note = (id, text) => { at(id).dataset.text ??= at(id).textContent; at(id).textContent = `${at(id).dataset.text} ${text}`; };
  try {
    const keep = keepChart(at("keep"), picks, (shown, all) => note("keep-note", shown < all ? `Of ${all} trials the front, what is picked and others evenly: ${shown}.` : ""));
    const lines = widthsChart(at("widths"), picks, (shown, axes, all) => note("widths-note", `${shown} trials${axes < all ? `; the ${axes} of ${all} groups that take the most time` : ""}.`));
    let widths = null;
    const draw = () => { keep.show(front, widths, groups); lines.show(front, widths, groups); };
    byGroup = async () => {
      if (!widths || widths.number.length !== front.trials.number.length) widths = await call(`/jobs/${name}/widths`);
      draw();
    };
    groups ??= await call(`/jobs/${name}/groups${deviceQuery("?")}`);
    await byGroup();
    picks.heard(draw);
  } catch (error) {
    showState(at("keep"), "broken", sentence(error));
  }
}

async function drawAlone() {
  try {
    groups ??= await call(`/jobs/${name}/groups${deviceQuery("?")}`);
    const known = groups.filter((group) => Object.keys(group.losses).length);
    if (!known.length) return showState(at("alone"), "nothing", "Not measured in this job", "Controllers that start from sensitivities, such as auto and amc, measure them before their first trial.");
    const drawn = aloneChart(at("alone"));
    drawn.show(known);
    at("alone-group").append(...known.map((group) => element("option", {}, group.name)));
    at("alone-group").addEventListener("change", ({ target }) => drawn.pick(target.value));
  } catch (error) {
    showState(at("alone"), "broken", sentence(error));
  }
}

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

function drawRows() {
  drawFrontTable(at("picked"), front, picks, brushed, {
    compare: () => location.assign(`/jobs/${name}/compare?trials=${picks.numbers.join(",")}${deviceQuery("&")}`),
    exported: mayChange ? exportTrial : null,
    clear() {
      brushed = null;
      chart.clearBrush();
      drawRows();
    },
  });
}

function drawFigures() {
  const { trials, dense } = front;
  const done = trials.state.filter((state) => state === "done").length;
  const failed = trials.state.filter((state) => state === "failed").length;
  const within = bestWithin(budget);
  const figure = (title, value, small) => element("div", {}, element("dt", {}, title), element("dd", {}, value, element("small", {}, small)));
  at("figures").replaceChildren(
    figure("Trials done", `${done}`, `${failed ? `${failed} failed · ` : ""}${trials.on_front.filter(Boolean).length} on the front`),
    figure("Dense", `${significant(dense.latency_ms)} ms`, `${percent(dense.accuracy)} % · ${count(dense.macs)} MACs`),
    figure("Front covers", `${percent(front.hypervolume.at(-1) ?? 0, 1)} %`, "of accuracy × time saved"),
    within === null
      ? figure(`Within ${significant(budget)} ms`, "–", "no trial is so fast")
      : figure(`Within ${significant(budget)} ms`, `${percent(trials.accuracy[within])} %`,
        `trial ${trials.number[within]} · ${signed(100 * (trials.accuracy[within] - dense.accuracy))} points · ${times(dense.latency_ms, trials.latency_ms[within])}`),
  );
}

/** The index of the most accurate trial within a budget; null where none is. */
function bestWithin(ms) {
  const { latency_ms: latency, accuracy } = front.trials;
  let best = null;
  for (let i = 0; i < latency.length; i += 1) {
    if (accuracy[i] !== null && latency[i] <= ms && (best === null || accuracy[i] > accuracy[best])) best = i;
  }
  return best;
}

function setBudget(ms, { typed = false } = {}) {
  budget = ms;
  if (!typed) at("budget").value = Number(ms.toPrecision(4));
  drawFigures();
}

const deviceQuery = (before) => (at("device").value && at("device").selectedIndex > 0 ? `${before}device=${encodeURIComponent(at("device").value)}` : "");

async function fetchFront() {
  try {
    const found = await call(`/jobs/${name}/front${deviceQuery("?")}`);
    const isFirst = front === null || front.device !== found.device;
    front = found;
    if (!chart) startChart();
    if (isFirst) {
      fillDevices();
      setBudget(startingBudget());
      chart.setBudget(budget);
    }
    drawAll();
    at("front-note").textContent = front.trials.number.length
      ? "Bars are the error of the predicted latency and one standard error of the accuracy. Dotted lines are the job's budgets; drag the other one to see what it would get. Shift and wheel zooms."
      : "No trial has ended yet. They appear here as they do.";
  } catch (error) {
    if (front) return say(error);
    showState(at("front"), "broken", sentence(error));
    at("picked").replaceChildren();
  }
}

function startingBudget() {
  const { dense, targets, target_unit: unit } = front;
  return unit === "ms" && targets.length ? Math.max(...targets) : dense.latency_ms / 2;
}

function startChart() {
  clearState(at("front"));
  chart = frontChart(at("front"), {
    picks,
    brushed(numbers) {
      brushed = numbers;
      if (numbers) picks.set(front.trials.number.filter((number, i) => front.trials.on_front[i] && numbers.includes(number)));
      drawRows();
    },
    budgeted: setBudget,
  });
  picks.heard(drawRows);
  for (const id of ["course", "keep", "widths", "alone"]) clearState(at(id));
  whenSeen(at("course"), () => { course = courseChart(at("course")); course.show(front); });
  whenSeen(at("keep"), drawWidths);
  whenSeen(at("alone"), drawAlone);
  at("budget").addEventListener("input", (event) => {
    const ms = event.target.valueAsNumber;
    if (!(ms > 0)) return;
    setBudget(ms, { typed: true });
    chart.setBudget(ms);
  });
  const tools = at("front-tools");
  tools.addEventListener("click", ({ target }) => {
    const tool = target.dataset.tool;
    if (!tool) return;
    if (tool === "whole") {
      const whole = target.getAttribute("aria-pressed") !== "true";
      target.setAttribute("aria-pressed", whole);
      return chart.setWhole(whole);
    }
    for (const each of tools.querySelectorAll("[data-tool=point], [data-tool=brush]")) each.setAttribute("aria-pressed", each === target);
    chart.setBrushing(tool === "brush");
  });
}

function fillDevices() {
  const select = at("device");
  if (select.options.length) return;
  select.replaceChildren(...front.devices.map((device) => element("option", {}, device)));
  select.addEventListener("change", fetchFront);
}

function say(error) {
  at("said").textContent = sentence(error);
  at("said").hidden = false;
}

function showUnplanned() {
  const isOver = ["failed", "cancelled", "paused"].includes(job.state);
  showState(at("front"), isOver ? "nothing" : "loading", isOver ? `This job is ${job.state}, and has found nothing` : "Nothing to show yet",
    isOver ? job.reason : job.state === "queued" ? "The job waits for its turn." : "Its model is read and its device measured first. The front appears as soon as there is one.");
}

let waiting = null;
let fetchedMs = 0;
/** Fetch the front soon, and at most once in a while whatever happens. */
function frontSoon() {
  if (!at("front")) return;
  if (!job.has_front) return showUnplanned();
  waiting ??= setTimeout(async () => {
    const begunMs = performance.now();
    await fetchFront();
    fetchedMs = performance.now();
    waiting = null;
    if (fetchedMs - begunMs > LEAST_MS) fetchedMs += 2 * (fetchedMs - begunMs);
  }, Math.max(0, fetchedMs + LEAST_MS - performance.now()));
}

let listening = false;
/** Hear what happens until the job is over; again when something is asked of one that was. */
async function listen() {
  if (listening) return;
  listening = true;
  await follow(name, lastEvent, hear, { broken: (isBroken) => head.classList.toggle("cut-off", isBroken) });
  listening = false;
}

function hear(kind, data) {
  if (kind !== "job") {
    lastEvent = data.number;
    told.add(data);
    return frontSoon();
  }
  job = data;
  if (!front) frontSoon();
  showJob(data, mayChange);
  if (at("exports") && `${data.exports}` !== `${waitingExports}`) showExports(at("exports"), name, data.exports);
  waitingExports = data.exports;
}

let job = await call(`/jobs/${name}`);
waitingExports = job.exports;
showJob(job, mayChange);
if (at("front")) {
  showState(at("front"), "loading", "Fetching the front …");
  if (job.has_front) showExports(at("exports"), name, waitingExports);
  else for (const id of ["course", "keep", "widths", "alone", "exports"]) showState(at(id), "nothing", "Comes with the first trials");
  frontSoon();
}
let lastEvent = await firstEvents(told, name);
listen();
