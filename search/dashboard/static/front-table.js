// The front, or what a brush holds, as rows to pick from: all that the chart says, for keyboards and readers too.
import { element, table } from "./dom.js";
import { percent, steady, times } from "./numbers.js";
import { MOST } from "./picks.js";

const ROWS = 200;

/** Draw at `place` the trials that `numbers` names, or the front where that is null. */
export function drawFrontTable(place, front, picks, numbers, { compare, exported, clear }) {
  const { trials, dense } = front;
  const wanted = numbers && new Set(numbers);
  const rows = trials.number.map((number, i) => i)
    .filter((i) => trials.accuracy[i] !== null && (wanted ? wanted.has(trials.number[i]) : trials.on_front[i]))
    .sort((a, b) => trials.latency_ms[a] - trials.latency_ms[b]);
  const focused = document.activeElement?.dataset?.pick;
  const picked = picks.numbers;
  place.replaceChildren(
    element("div.head", {}, element("h3", {}, wanted ? `In the brush: ${rows.length}` : `On the front: ${rows.length}`), element("span.spring"),
      wanted ? element("button.plain", { type: "button", onclick: clear }, "Back to the front") : null),
    element("div.rows", {}, table([
      ["", (i) => element("input", { type: "checkbox", "data-pick": trials.number[i], "aria-label": `pick trial ${trials.number[i]}`, checked: picks.has(trials.number[i]), onchange: () => picks.toggle(trials.number[i]) })],
      ["trial", (i) => element("span", {}, `${trials.number[i]}`, trials.origin[i] === "uniform" ? element("small.uniform", {}, " uniform") : null)],
      ["searched, %", (i) => percent(trials.accuracy[i]), true],
      ["ms", (i) => steady(trials.latency_ms[i]), true],
      ["faster", (i) => times(dense.latency_ms, trials.latency_ms[i]), true],
    ], rows.slice(0, ROWS), { classOf: (i) => (picks.has(trials.number[i]) ? "picked" : "") })),
    rows.length > ROWS ? element("p.note", {}, `The ${ROWS} fastest of ${rows.length}; brush fewer to see others.`) : "",
    element("div.actions", {},
      element("button.main", { type: "button", id: "compare", disabled: picked.length < 2, onclick: compare }, picked.length < 2 ? `Compare 2 to ${MOST}` : `Compare ${picked.join(", ")}`),
      exported ? element("button", { type: "button", id: "export", disabled: picked.length !== 1, onclick: () => exported(picked[0]) }, picked.length === 1 ? `Export trial ${picked[0]}` : "Export one") : null,
      picked.length ? element("button.plain", { type: "button", onclick: () => picks.set([]) }, "Pick none") : null),
  );
  if (focused !== undefined) place.querySelector(`[data-pick="${CSS.escape(focused)}"]`)?.focus();
}
