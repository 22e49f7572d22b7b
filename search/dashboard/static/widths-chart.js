// Parallel coordinates: the share kept of each group, and what that comes to.
import { chosen } from "./chosen.js";
import { faded, makeChart } from "./charts.js";
import { percent, significant } from "./numbers.js";
import { ROLES } from "./picks.js";

const MOST = 400;
const WIDEST = 24;
// Groups that there is room for; of more those that take the most time.

export function widthsChart(place, picks, note) {
  let drawn = null;
  const { draw } = makeChart(place, (colors) => drawn && options(drawn, colors, picks));
  return {
    show(front, widths, groups) {
      const rowOf = new Map(widths.number.map((number, row) => [number, row]));
      const shown = groups.map((group, column) => ({ ...group, column }))
        .sort((a, b) => b.latency_share - a.latency_share).slice(0, WIDEST).sort((a, b) => a.column - b.column);
      drawn = { front, widths, rowOf, shown, indices: chosen(front, picks.numbers, MOST).filter((i) => rowOf.has(front.trials.number[i])) };
      note(drawn.indices.length, shown.length, groups.length);
      draw();
    },
  };
}

function options({ front: { trials }, widths, rowOf, shown, indices }, colors, picks) {
  const axes = [
    ...shown.map(({ name }) => ({ name: name.length > 22 ? `…${name.slice(-21)}` : name, min: 0, max: 1, interval: 0.25, formatter: (value) => `${(100 * value).toFixed(0)}` })),
    { name: "latency, ms", formatter: (value) => significant(value) },
    { name: "accuracy, %", formatter: (value) => percent(value, 1) },
  ];
  const rows = (wanted) => wanted.map((i) => [...shown.map(({ column }) => widths.kept[rowOf.get(trials.number[i])][column] / widths.sizes[column]), trials.latency_ms[i], trials.accuracy[i]]);
  const scale = { parallelAxis: axes.map(({ name, min, max, interval, formatter }, dim) => ({
    dim, name, min: min ?? "dataMin", max: max ?? "dataMax", nameLocation: "end", nameRotate: 40, nameGap: 10, nameTextStyle: { color: colors.quiet, fontSize: 11, align: "left" },
    axisLine: { lineStyle: { color: colors.line } }, axisTick: { show: false }, splitNumber: 4, interval,
    // Labels of shares once, at the first axis; `show` of an axis is not heeded.
    axisLabel: {
      hideOverlap: true, color: colors.quiet, fontSize: 10, formatter: dim === 0 || dim >= shown.length ? formatter : () => "",
      // Left of the first axis, where no line runs; elsewhere lines run behind them.
      ...(dim === 0 ? { align: "right", margin: -8 } : { textBorderColor: colors.page, textBorderWidth: 3 }),
    },
    areaSelectStyle: { width: 14, color: faded(colors.found, 0.2), borderColor: colors.found, borderWidth: 1, opacity: 1 },
  })) };
  const others = indices.filter((i) => !trials.on_front[i] && !picks.has(trials.number[i]));
  const onFront = indices.filter((i) => trials.on_front[i] && !picks.has(trials.number[i]));
  const line = (color, width, opacity) => ({ color, width, opacity });
  return {
    ...scale,
    parallel: { left: 40, right: 70, top: 24 + 3.8 * Math.max(...axes.map(({ name }) => name.length)), bottom: 16, parallelAxisDefault: { realtime: indices.length < 500 } },
    series: [
      { name: "others", type: "parallel", lineStyle: line(colors.trial, 1, others.length > 100 ? 0.18 : 0.4), inactiveOpacity: 0.02, activeOpacity: 0.5, data: rows(others), progressive: 0 },
      { name: "front", type: "parallel", z: 3, lineStyle: line(colors.found, 1.2, onFront.length > 30 ? 0.35 : 0.75), inactiveOpacity: 0.05, activeOpacity: 0.9, data: rows(onFront), progressive: 0 },
      ...picks.numbers.map((number, k) => ({ name: `trial ${number}`, type: "parallel", z: 4, lineStyle: line(colors[ROLES[k]], 3, 1), data: rows(indices.filter((i) => trials.number[i] === number)) })),
    ],
  };
}
