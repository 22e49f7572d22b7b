// The page of a job of one model: its front and what its trials keep, live.
import { aloneChart } from "./alone-chart.js";
import { call } from "./api.js";
import { courseChart } from "./course-chart.js";
import { element, sentence, showState } from "./dom.js";
import { frontChart } from "./front-chart.js";
import { drawFrontTable } from "./front-table.js";
import { keepChart } from "./keep-chart.js";
import { count, percent, significant, signed, steady, times } from "./numbers.js";
import { Picks } from "./picks.js";
import { whenSeen } from "./seen.js";
import { widthsChart } from "./widths-chart.js";

const at = (id) => document.getElementById(id);

/**
 * Returns `refresh()`, which fetches the front and draws it, and gives whether there is something to see.
 * `exported(trial)` hears what is to be exported, and is null where nothing may be; `failed(reasons)` why trials failed.
 */
export function frontPage(name, { say, exported, failed }) {
  const picks = new Picks();
  let front = null;
  let brushed = null;
  let budget = null;
  let chart = null;
  let course = null;
  let groups = null;
  let byGroup = null;
  // What is drawn of groups and widths, once somebody has come near it.

  function drawAll() {
    drawFigures();
    drawRows();
    chart.show(front);
    course?.show(front);
    failed(front.trials.reason);
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
        groups ??= await call(`/jobs/${name}/groups${deviceQuery("?")}`);
        draw();
      };
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
      at("alone-group").closest("label").hidden = !known.length;
      if (!known.length) return showState(at("alone"), "nothing", "Not measured in this job", "Controllers that start from sensitivities, such as auto and amc, measure them before their first trial.");
      const drawn = aloneChart(at("alone"));
      drawn.show(known);
      at("alone-group").append(...known.map((group) => element("option", {}, group.name)));
      at("alone-group").addEventListener("change", ({ target }) => drawn.pick(target.value));
    } catch (error) {
      showState(at("alone"), "broken", sentence(error));
    }
  }

  function drawRows() {
    drawFrontTable(at("picked"), front, picks, brushed, {
      compare: () => location.assign(`/jobs/${name}/compare?trials=${picks.numbers.join(",")}${deviceQuery("&")}`),
      exported,
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
    const winner = front.finalists.find((each) => each.exported);
    at("figures").replaceChildren(
      ...(winner ? [figure(winner.measured_ms ? "The winner, measured" : "The winner", `${percent(winner.accuracy)} %`, aboutWinner(winner))] : []),
      figure("Trials done", `${done}`, `${failed ? `${failed} failed · ` : ""}${trials.on_front.filter(Boolean).length} on the front`),
      figure("Dense", `${significant(dense.latency_ms)} ms`, `${percent(dense.accuracy)} % · ${count(dense.macs)} MACs`),
      figure("Front covers", `${percent(front.hypervolume.at(-1) ?? 0, 1)} %`, "of accuracy × time saved"),
      within === null
        ? figure(`Within ${steady(budget)} ms, searched`, "–", "no trial is so fast")
        : figure(`Within ${steady(budget)} ms, searched`, `${percent(trials.accuracy[within])} %`,
          `trial ${trials.number[within]} · ${signed(100 * (trials.accuracy[within] - dense.accuracy))} points · ${times(dense.latency_ms, trials.latency_ms[within])}`),
    );
  }

  /** What was exported, beside the dense model: on validation images and, where it was measured, in time. */
  function aboutWinner({ trial, accuracy, measured_ms: measured, dense_measured_ms: denseMeasured }) {
    const gained = `trial ${trial} · ${signed(100 * (accuracy - front.dense.accuracy))} points`;
    return measured ? `${gained} · ${times(denseMeasured, measured)}` : gained;
  }

  /** The index of the most accurate trial within a budget, of equals the fastest; null where none is. */
  function bestWithin(ms) {
    const { latency_ms: latency, accuracy } = front.trials;
    const isBetter = (i, than) => accuracy[i] > accuracy[than] || (accuracy[i] === accuracy[than] && latency[i] < latency[than]);
    let best = null;
    for (let i = 0; i < latency.length; i += 1) {
      if (accuracy[i] !== null && latency[i] <= ms && (best === null || isBetter(i, best))) best = i;
    }
    return best;
  }

  function setBudget(ms, { typed = false } = {}) {
    budget = ms;
    if (!typed) at("budget").value = Number(ms.toPrecision(4));
    drawFigures();
  }

  const deviceQuery = (before) => (at("device").value && at("device").selectedIndex > 0 ? `${before}device=${encodeURIComponent(at("device").value)}` : "");

  async function refresh() {
    const asked = deviceQuery("?");
    const found = await call(`/jobs/${name}/front${asked}`);
    if (asked !== deviceQuery("?")) return true;
    if (!found.trials.number.length) return false;
    at("found").hidden = false;
    const isFirst = front === null || front.device !== found.device;
    front = found;
    if (!chart) startChart();
    if (isFirst) {
      groups = null;
      setBudget(startingBudget());
      chart.setBudget(budget);
    }
    drawAll();
    return true;
  }

  function startingBudget() {
    const { dense, targets, target_unit: unit } = front;
    return unit === "ms" && targets.length ? Math.max(...targets) : dense.latency_ms / 2;
  }

  function startChart() {
    fillDevices().catch(say);
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

  /** The job's own devices, and then all others whose profile knows the model, which may take a while to tell. */
  async function fillDevices() {
    const select = at("device");
    const own = front.devices;
    const option = (device) => element("option", {}, device);
    select.replaceChildren(...own.map(option));
    select.addEventListener("change", () => refresh().catch(say));
    const others = (await call(`/jobs/${name}/devices`)).filter((device) => !own.includes(device));
    if (others.length) select.append(element("optgroup", { label: "not of this job, by their profiles" }, others.map(option)));
  }

  return { refresh };
}
