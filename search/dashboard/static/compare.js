// Two to five trials side by side.
import { call } from "./api.js";
import { axis, makeChart, tooltip } from "./charts.js";
import { element, sentence, showState, table } from "./dom.js";
import { count, percent, significant, signed, times } from "./numbers.js";
import { MOST, ROLES, SHAPES } from "./picks.js";

const LAYERS = 24;
// The slowest that have a row of their own.

const at = (id) => document.getElementById(id);
const name = at("job").dataset.job;
const asked = new URLSearchParams(location.search);
const device = asked.get("device") ? `?device=${encodeURIComponent(asked.get("device"))}` : "";
const numbers = [...new Set((asked.get("trials") ?? "").split(",").filter((text) => /^\d{1,9}$/.test(text)))].slice(0, MOST);
const places = ["numbers", "measured", "widths", "layers", "classes"].map(at);

const color = (k) => ({ "--color": `var(--${ROLES[k]})` });
const named = (trial, k) => element("span.pick", { style: color(k) }, `trial ${trial.trial}`);

function drawNumbers(trials, front) {
  const { dense } = front;
  const i = (trial) => front.trials.number.indexOf(trial.trial);
  const fact = (get) => (trial) => (trial.facts ? get(trial.facts) : "–");
  const lines = [
    ["origin", (trial) => trial.origin],
    ["made for", (trial) => `${significant(trial.target)} ${front.target_unit}`],
    ["accuracy in the search, %", fact((facts) => `${percent(facts.accuracy)} ± ${percent(facts.accuracy_error)}`)],
    ["against dense, points", fact((facts) => signed(100 * (facts.accuracy - dense.accuracy)))],
    ["accuracy fine-tuned, %", (trial) => (trial.final ? percent(trial.final.accuracy) : "–")],
    ["accuracy on test, %", (trial) => percent(trial.final?.test_accuracy)],
    ["predicted, ms", (trial) => `${significant(trial.latency_ms)} ± ${significant(trial.error_ms, 2)}`],
    ["measured, ms", (trial) => significant(trial.final?.measured_ms)],
    ["faster than dense", (trial) => times(dense.latency_ms, trial.latency_ms)],
    ["MACs", (trial) => `${count(front.trials.macs[i(trial)])} (${percent(front.trials.macs[i(trial)] / dense.macs, 0)} %)`],
    ["parameters", (trial) => `${count(front.trials.parameters[i(trial)])} (${percent(front.trials.parameters[i(trial)] / dense.parameters, 0)} %)`],
    ["on the front", (trial) => (front.trials.on_front[i(trial)] ? "yes" : "no")],
    ["state", (trial) => trial.reason || trial.state],
  ];
  at("numbers").replaceChildren(table([["", ([what]) => what], ...trials.map((trial, k) => [named(trial, k), ([, cell]) => cell(trial), true])], lines));
}

function drawMeasured(trials) {
  const measured = trials.map((trial, k) => ({ trial, k, ms: trial.final?.measured_ms })).filter(({ ms }) => ms);
  if (!measured.length) return showState(at("measured"), "nothing", "None of these was measured", at("job").dataset.mayChange === "true" ? "Export one: it is trained to the end and measured first." : "");
  const off = ({ trial, ms }) => ms / trial.latency_ms - 1;
  const farthest = 1.2 * Math.max(0.001, ...measured.map((each) => Math.max(Math.abs(off(each)), each.trial.error_ms / each.trial.latency_ms)));
  at("measured").replaceChildren(table([
    ["trial", ({ trial, k }) => named(trial, k)],
    ["", (each) => {
      const half = (50 * each.trial.error_ms) / each.trial.latency_ms / farthest;
      return element("div.range", { style: color(each.k) },
        element("i.bar", { style: { left: `${50 - half}%`, width: `${2 * half}%` } }), element("i.predicted"),
        element("i.measured", { style: { left: `${50 + (50 * off(each)) / farthest}%` } }));
    }],
    ["predicted, ms", ({ trial }) => `${significant(trial.latency_ms)} ± ${significant(trial.error_ms, 2)}`, true],
    ["measured, ms", ({ ms }) => significant(ms), true],
    ["against predicted", (each) => `${signed(100 * off(each), 1)} %`, true],
  ], measured));
}

function drawWidths(trials, groups) {
  const largest = Math.max(...groups.map((group) => group.latency_share), 1e-9);
  at("widths").replaceChildren(table([
    ["group", (group) => group.name],
    ["time", (group) => element("span.share", { style: { "--part": String(group.latency_share / largest) } }, `${percent(group.latency_share, 1)} %`), true],
    ["units", (group) => String(group.size), true],
    ...trials.map((trial, k) => [named(trial, k), (group) => {
      const kept = trial.widths[group.name];
      const gone = group.name in trial.gone;
      return element("div.kept", { style: { ...color(k), "--part": gone ? "0%" : `${(100 * kept) / group.size}%` }, title: gone ? `gone with block ${trial.gone[group.name]}` : null }, gone ? "–" : String(kept));
    }, true]),
  ], groups, { kind: "table.widths" }));
}

function drawLayers(trials) {
  const total = {};
  for (const trial of trials) for (const [layer, ms] of Object.entries(trial.layers)) total[layer] = Math.max(total[layer] ?? 0, ms);
  const order = Object.keys(total).filter((layer) => total[layer] > 0);
  const slowest = new Set([...order].sort((a, b) => total[b] - total[a]).slice(0, LAYERS));
  const shown = order.filter((layer) => slowest.has(layer));
  const rest = (trial) => order.filter((layer) => !slowest.has(layer)).reduce((sum, layer) => sum + (trial.layers[layer] ?? 0), 0);
  const names = [...shown, ...(order.length > shown.length ? [`${order.length - shown.length} others`] : [])].reverse();
  at("layers").style.setProperty("height", `${70 + names.length * (6 + 7 * trials.length)}px`);
  makeChart(at("layers"), (colors) => ({
    grid: { left: Math.min(270, 20 + 6.6 * Math.max(...names.map((each) => each.length))), right: 18, top: 8, bottom: 42 },
    tooltip: tooltip(colors, { trigger: "axis", axisPointer: { type: "shadow", shadowStyle: { color: colors.soft } }, formatter: (all) => [all[0].name, ...all.map(({ seriesName, value }) => `${seriesName}: ${significant(value)} ms`)].join("\n") }),
    xAxis: axis(colors, "ms, predicted", { type: "value", scale: false }),
    yAxis: { type: "category", data: names, axisLine: { show: false }, axisTick: { show: false }, axisLabel: { color: colors.quiet, fontSize: 11, interval: 0, width: 250, overflow: "truncate" } },
    series: trials.map((trial, k) => ({
      name: `trial ${trial.trial}`, type: "bar", barGap: "10%", barCategoryGap: "35%", itemStyle: { color: colors[ROLES[k]] },
      data: [...shown.map((layer) => trial.layers[layer] ?? 0), ...(names.length > shown.length ? [rest(trial)] : [])].reverse(),
    })),
  }));
}

function drawClasses(trials) {
  const known = trials.map((trial, k) => ({ trial, k, of: trial.final?.class_accuracy?.length ? trial.final.class_accuracy : trial.facts?.class_accuracy ?? [] })).filter(({ of }) => of.length);
  if (!known.length) return showState(at("classes"), "nothing", "No accuracy by class is known of these");
  makeChart(at("classes"), (colors, chart) => ({
    grid: { left: 62, right: 18, top: 12, bottom: 42 },
    tooltip: tooltip(colors, { trigger: "axis", formatter: (all) => [`class ${all[0].axisValue}`, ...all.map(({ seriesName, value }) => `${seriesName}: ${percent(value)} %`)].join("\n") }),
    xAxis: axis(colors, "class", { type: "category", data: known[0].of.map((_, i) => String(i)), splitLine: { show: true, lineStyle: { color: colors.soft } } }),
    yAxis: axis(colors, "accuracy, %", { type: "value", nameGap: 44, max: 1, axisLabel: { color: colors.quiet, formatter: (value) => (100 * value).toFixed(0) } }),
    series: known.map(({ trial, k, of }) => ({ name: `trial ${trial.trial}`, type: "scatter", symbol: SHAPES[k], symbolSize: 10, symbolOffset: [Math.min(11, (chart.getWidth() - 80) / known[0].of.length / (known.length + 0.5)) * (k - (known.length - 1) / 2), 0], itemStyle: { color: colors[ROLES[k]], opacity: 0.85 }, data: of })),
  }));
}

try {
  if (!numbers.length) throw new Error("pick trials on the job's page, and press Compare");
  for (const place of places) showState(place, "loading", "Fetching …");
  const [front, groups, ...trials] = await Promise.all([call(`/jobs/${name}/front${device}`), call(`/jobs/${name}/groups${device}`), ...numbers.map((number) => call(`/jobs/${name}/trials/${number}${device}`))]);
  for (const place of places) place.classList.remove("loading"), place.replaceChildren();
  at("on").textContent = `on ${front.device}`;
  drawNumbers(trials, front);
  drawMeasured(trials);
  drawWidths(trials, groups);
  drawLayers(trials);
  drawClasses(trials);
} catch (error) {
  for (const place of places.slice(1)) place.closest("section").hidden = true;
  showState(places[0], "broken", sentence(error));
}
