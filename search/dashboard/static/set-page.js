// The page of a set of models: who is pruned how much at which budget, and what that comes to.
import { call } from "./api.js";
import { element, table } from "./dom.js";
import { count, percent, signed, steady, times } from "./numbers.js";
import { ROLES } from "./picks.js";
import { alongChart, wholeChart } from "./set-charts.js";

const at = (id) => document.getElementById(id);

/** Returns `refresh()`, which fetches and draws, and gives whether there is something to see. */
export function setPage(name) {
  let found = null;
  let budget = null;
  let charts = null;

  async function refresh() {
    found = await call(`/jobs/${name}/shares`);
    drawModels();
    const isFound = found.front.cost.length > 0;
    at("together").hidden = !isFound;
    if (!isFound) return found.models.some(({ dense }) => dense);
    if (!charts) start();
    for (const chart of charts) chart.show(found);
    if (budget === null) setBudget(found.limit);
    else drawChoice();
    return true;
  }

  function start() {
    charts = [
      wholeChart(at("whole"), (cost) => setBudget(cost, { dragged: true })),
      alongChart(at("kept"), `of the dense model's ${found.unit}`, (option, { dense }) => option.cost / dense.cost),
      alongChart(at("accuracies"), "accuracy on validation", (option) => option.accuracy),
    ];
    const most = Math.max(found.dense.cost, ...found.front.cost);
    Object.assign(at("budget-range"), { min: found.front.cost[0], max: most, step: (most - found.front.cost[0]) / 200 });
    at("budget-range").addEventListener("input", ({ target }) => setBudget(target.valueAsNumber));
    at("budget").addEventListener("input", ({ target }) => target.valueAsNumber > 0 && setBudget(target.valueAsNumber, { typed: true }));
  }

  function setBudget(cost, { typed = false, dragged = false } = {}) {
    budget = cost;
    if (!typed) at("budget").value = Number(cost.toPrecision(4));
    at("budget-range").value = cost;
    at("budget-range").setAttribute("aria-valuetext", said(cost));
    charts.forEach((chart, k) => k === 0 && dragged || chart.setBudget(cost));
    drawChoice();
  }

  const said = (cost) => (["ms", "mJ"].includes(found.unit) ? `${steady(cost, 4)} ${found.unit}` : `${count(cost)} ${found.unit}`);

  /** What all models become within the budget. */
  function drawChoice() {
    const { front, models, dense } = found;
    const within = front.cost.findLastIndex((cost) => cost <= budget);
    const figure = (title, value, small) => element("div", {}, element("dt", {}, title), element("dd", {}, value, element("small", {}, small)));
    const whole = (title, { cost, accuracy }) => figure(title, `${percent(accuracy)} %`, `${said(cost)} · ${signed(100 * (accuracy - dense.accuracy))} points · ${times(dense.cost, cost)}`);
    at("figures").replaceChildren(
      figure("Dense together", said(dense.cost), `${percent(dense.accuracy)} %, mean by weight`),
      within < 0 ? figure(`Within ${said(budget)}`, "–", `the least is ${said(front.cost[0])}`) : whole(`Within ${said(budget)}`, { cost: front.cost[within], accuracy: front.accuracy[within] }),
      found.equal ? whole("Equal shares", found.equal) : "",
      found.taken ? whole("Chosen", found.taken) : figure("Asked for", found.limit === null ? "–" : said(found.limit), found.budget),
    );
    // Where nothing costs so little rows stay, empty: what is below them keeps its place.
    const rows = models.map((model, k) => ({ ...model, k, option: within < 0 ? null : model.options[front.options[within][k]] }));
    const known = (cell) => (row) => (row.option ? cell(row) : "–");
    at("choice").replaceChildren(table([
      ["model", ({ name: model, job, k, option }) => element("a.pick", { style: { "--color": `var(--${ROLES[k % ROLES.length]})` }, href: !option || option.stage === "tried" ? null : `/jobs/${job}` }, model)],
      ["becomes", known(({ option }) => (option.stage === "dense" ? "stays as it is" : option.stage === "tried" ? "an allocation that was tried" : `trial ${option.trial}${option.stage === "trained" ? ", trained" : ""}`))],
      [found.unit, known(({ option }) => (["ms", "mJ"].includes(found.unit) ? steady(option.cost) : count(option.cost))), true],
      ["of dense", known(({ option, dense: its }) => element("div.kept", { style: { "--color": "var(--found)", "--part": `${(100 * option.cost) / its.cost}%` } }, `${percent(option.cost / its.cost, 0)} %`)), true],
      ["accuracy, %", known(({ option, floor }) => element("span", { class: option.accuracy < floor ? "below" : null, title: option.accuracy < floor ? `its floor is ${percent(floor)} %` : null }, percent(option.accuracy), option.accuracy < floor ? element("small", {}, "below its floor") : null)), true],
      ["points", known(({ option, dense: its }) => signed(100 * (option.accuracy - its.accuracy))), true],
    ], rows, { kind: "table.choice" }), element("p.note", { role: "status" }, within < 0 ? "No choice costs so little." : "\u00a0"));
  }

  /** Each model, with its part of the budget and how far its job is. */
  function drawModels() {
    const cost = (value) => (value === undefined || value === null ? "–" : said(value));
    at("models").replaceChildren(table([
      ["model", ({ name: model, job, state }) => (state ? element("a", { href: `/jobs/${job}` }, model) : model)],
      ["state", ({ state }) => (state ? element("span", { class: `state ${state}` }, state) : element("span.quiet", {}, "begins when the budget is divided"))],
      ["trials", ({ finished }) => String(finished), true],
      ["weight", ({ weight }) => String(weight), true],
      ["dense", ({ dense }) => (dense ? `${said(dense.cost)}, ${percent(dense.accuracy)} %` : "–"), true],
      ["its share", ({ share, dense }) => (share ? `${said(share.cost)}, ${percent(share.cost / dense.cost, 0)} %` : "–"), true],
      ["equal share", ({ share }) => cost(share?.equal), true],
      ["floor, %", ({ floor }) => percent(floor), true],
      ["became", ({ taken }) => (taken ? `${taken.trial === null ? "stays as it is" : `trial ${taken.trial}`}, ${percent(taken.accuracy)} %` : "–")],
    ], found.models, { kind: "table.list" }));
  }

  return { refresh };
}
