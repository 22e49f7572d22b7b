// Accuracy over latency: every trial, the front, uniform baselines, finalists, dense, and a budget to drag.
import { budgetLine } from "./budget-line.js";
import { axis, faded, makeChart, tooltip } from "./charts.js";
import { percent, significant, times } from "./numbers.js";

const BARS_OF_ALL = 60;
// Up to so many trials each has its error bars; of more only those that matter.
const NARROW = 480;
// Of a window: the legend takes three lines there, in place of two.

/**
 * `picks` hears clicks, `brushed(numbers | null)` what a brush holds, and `budgeted(ms)` where the line is dragged.
 * The chart shows what was given to `show(front)` last.
 */
export function frontChart(place, { picks, brushed, budgeted }) {
  let front = null;
  let whole = false;
  const { chart, draw } = makeChart(place, (colors) => front && options(front, colors, picks, whole));
  const line = budgetLine(chart, place, budgeted);

  chart.on("click", ({ data }) => Array.isArray(data) && data[2] !== undefined && picks.toggle(front.trials.number[data[2]]));
  chart.on("brushEnd", ({ areas }) => {
    if (!areas.length) return brushed(null);
    const [[left, right], [bottom, top]] = areas[0].coordRange;
    const { latency_ms: x, accuracy: y, number } = front.trials;
    brushed(number.filter((_, i) => y[i] !== null && x[i] >= left && x[i] <= right && y[i] >= bottom && y[i] <= top));
  });
  picks.heard(() => redraw());

  function redraw() {
    draw();
    line.draw();
  }

  return {
    show(found) {
      front = found;
      redraw();
    },
    setBudget: line.set,
    setWhole(isWhole) {
      whole = isWhole;
      redraw();
    },
    setBrushing(isBrushing) {
      chart.dispatchAction({ type: "takeGlobalCursor", key: "brush", brushOption: { brushType: isBrushing && "rect", brushMode: "single" } });
    },
    clearBrush() {
      chart.dispatchAction({ type: "brush", areas: [] });
    },
    chart,
  };
}

/** What is drawn where: rows of [latency, accuracy, index of the trial]. */
function sorted({ trials }) {
  const found = { trial: [], uniform: [], front: [] };
  for (let i = 0; i < trials.number.length; i += 1) {
    if (trials.accuracy[i] === null) continue;
    const row = [trials.latency_ms[i], trials.accuracy[i], i];
    if (trials.on_front[i]) found.front.push(row);
    else if (trials.origin[i] === "uniform") found.uniform.push(row);
    else found.trial.push(row);
  }
  found.front.sort((a, b) => a[0] - b[0]);
  return found;
}

function options(front, colors, picks, whole) {
  const { trials, dense, finalists } = front;
  const rows = sorted(front);
  const index = new Map(trials.number.map((number, i) => [number, i]));
  const picked = picks.numbers.filter((number) => index.has(number) && trials.accuracy[index.get(number)] !== null)
    .map((number) => [trials.latency_ms[index.get(number)], trials.accuracy[index.get(number)], index.get(number)]);
  const done = [...rows.front, ...rows.uniform, ...rows.trial];
  const barred = done.length <= BARS_OF_ALL ? done : [...rows.front.slice(0, BARS_OF_ALL), ...picked];
  const { bottom, below } = focus(front, done, whole);
  const shape = (row) => (trials.origin[row[2]] === "uniform" ? "triangle" : "circle");
  const many = done.length > 2000;
  const timedFinalists = finalists.filter((each) => index.has(each.trial) && each.accuracy >= bottom);

  return {
    grid: { left: 62, right: 18, top: innerWidth < NARROW ? 76 : 52, bottom: 46 },
    legend: {
      top: 0, left: 0, itemWidth: 14, itemHeight: 10, itemGap: 14, selectedMode: false, textStyle: { color: colors.quiet, fontSize: 12 },
      data: ["trial", ...(rows.uniform.length || rows.front.some((row) => trials.origin[row[2]] === "uniform") ? ["uniform widths"] : []), "front", ...(timedFinalists.length ? ["fine-tuned", "measured"] : []), "dense"],
    },
    tooltip: tooltip(colors, { trigger: "item", formatter: ({ data, seriesName }) => told(data, seriesName, front) }),
    toolbox: { show: false },
    brush: { toolbox: [], z: 10000, xAxisIndex: 0, yAxisIndex: 0, throttleType: "debounce", throttleDelay: 100, outOfBrush: { colorAlpha: 1 }, brushStyle: { borderWidth: 1, color: faded(colors.found, 0.12), borderColor: colors.found } },
    dataZoom: [{ type: "inside", xAxisIndex: 0, zoomOnMouseWheel: "shift", moveOnMouseMove: false, moveOnMouseWheel: false, filterMode: "none" }],
    xAxis: axis(colors, `latency on ${front.device}, ms${front.modelled ? " (modelled)" : ""}`, { type: "value" }),
    yAxis: axis(colors, "accuracy on validation, %", { type: "value", nameGap: 44, min: bottom, max: topOf(front, done), axisLabel: { color: colors.quiet, hideOverlap: true, showMinLabel: false, showMaxLabel: false, formatter: (value) => (100 * value).toFixed(1) } }),
    series: [
      // Without a zlevel, which a custom series has not by itself, its elements lose theirs when a brush is drawn.
      { name: "bars", type: "custom", silent: true, zlevel: 0, z: 2, clip: true, data: barred, renderItem: errorBars(trials, colors), encode: { x: 0, y: 1 } },
      { name: "trial", type: "scatter", large: many, z: 3, symbolSize: many ? 4 : 7, data: rows.trial, itemStyle: { color: colors.trial, opacity: 0.75 }, progressive: 0 },
      { name: "uniform widths", type: "scatter", z: 4, symbol: "triangle", symbolSize: 9, data: rows.uniform, itemStyle: { color: colors.uniform, opacity: 0.85 } },
      {
        name: "front", type: "line", step: "end", z: 5, showSymbol: true, symbol: (row) => shape(row), symbolSize: 8, data: rows.front,
        lineStyle: { color: colors.found, width: 1.4 }, itemStyle: { color: colors.found },
        markLine: { silent: true, precision: 9, symbol: "none", label: { show: false }, lineStyle: { color: colors.quiet, type: "dotted", width: 1 }, data: front.target_unit === "ms" && front.device === front.devices[0] ? front.targets.map((ms) => ({ xAxis: ms })) : [] },
      },
      { name: "fine-tuned", type: "scatter", z: 6, symbol: (row) => (trials.origin[row[2]] === "uniform" ? "triangle" : "circle"), symbolSize: 13, data: timedFinalists.map((each) => [trials.latency_ms[index.get(each.trial)], each.accuracy, index.get(each.trial)]), itemStyle: { color: colors.page, borderColor: colors.found, borderWidth: 2 } },
      { name: "measured", type: "scatter", z: 7, symbol: "diamond", symbolSize: 9, data: timedFinalists.filter((each) => each.measured_ms !== null).map((each) => [each.measured_ms, each.accuracy, index.get(each.trial)]), itemStyle: { color: colors.page, borderColor: colors.ink, borderWidth: 1.5 } },
      { name: "dense", type: "scatter", z: 6, symbol: "rect", symbolSize: 11, data: [[dense.latency_ms, dense.accuracy]], itemStyle: { color: colors.ink }, label: { show: true, position: "bottom", formatter: "dense", color: colors.ink, fontSize: 12, textBorderColor: colors.page, textBorderWidth: 3 } },
      { name: "picked", type: "scatter", z: 8, silent: true, symbolSize: 19, data: picked, itemStyle: { color: "transparent", borderColor: colors.ink, borderWidth: 2 }, label: { show: true, position: "top", color: colors.ink, fontSize: 12, fontWeight: 600, formatter: ({ data }) => String(trials.number[data[2]]) } },
    ],
    graphic: below ? [{ id: "below", type: "text", left: 68, bottom: 52, silent: true, style: { text: `${below} trial${below > 1 ? "s" : ""} below ${percent(bottom, 1)} %`, fill: colors.quiet, fontSize: 12 } }] : [],
  };
}

/** The accuracies worth comparing, as the report shows them; what fell far below is counted. */
function focus({ trials, dense, finalists }, done, whole) {
  const all = done.map((row) => row[1]);
  const best = [dense.accuracy, ...done.filter((row) => trials.on_front[row[2]]).map((row) => row[1]), ...finalists.map((each) => each.accuracy)];
  const least = (values) => values.reduce((a, b) => Math.min(a, b), 1);
  const top = [...best, ...all].reduce((a, b) => Math.max(a, b), 0);
  const height = Math.max(top - least(best), 0.03);
  const floor = least([...best, ...all]);
  const bottom = Math.max(0, (whole ? floor : Math.max(floor, least(best) - 0.7 * height)) - 0.06 * height);
  return { bottom, below: all.filter((value) => value < bottom).length };
}

function topOf({ dense, finalists }, done) {
  const best = [dense.accuracy, ...done.map((row) => row[1]), ...finalists.map((each) => each.accuracy)].reduce((a, b) => Math.max(a, b), 0);
  return Math.ceil(1000 * (best + 0.004)) / 1000;
}

function errorBars(trials, colors) {
  return (_, api) => {
    const [x, y, i] = [api.value(0), api.value(1), api.value(2)];
    const [dx, dy] = [trials.error_ms[i] ?? 0, trials.accuracy_error[i] ?? 0];
    const line = (from, to) => {
      const [x1, y1] = api.coord(from);
      const [x2, y2] = api.coord(to);
      return { type: "line", shape: { x1, y1, x2, y2 }, style: { stroke: trials.on_front[i] ? colors.found : colors.trial, opacity: 0.35, lineWidth: 1 } };
    };
    return { type: "group", children: [line([x - dx, y], [x + dx, y]), line([x, y - dy], [x, y + dy])] };
  };
}

function told(data, name, { trials, dense }) {
  if (name === "dense") return `dense\n${percent(dense.accuracy)} % · ${significant(dense.latency_ms)} ms`;
  const i = data[2];
  const lines = [
    `trial ${trials.number[i]} · ${trials.origin[i]}${name === "fine-tuned" || name === "measured" ? ` · ${name}` : ""}`,
    `${percent(data[1])} %${name === "fine-tuned" || name === "measured" ? "" : ` ± ${percent(trials.accuracy_error[i])}`}`,
    `${significant(data[0])} ms ± ${significant(trials.error_ms[i], 2)} · ${times(dense.latency_ms, data[0])} as fast as dense`,
  ];
  return lines.join("\n");
}
