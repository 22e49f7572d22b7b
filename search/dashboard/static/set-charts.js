// Charts of a set of models: the front of all together, and what becomes of each along it.
import { budgetLine } from "./budget-line.js";
import { axis, makeChart, tooltip } from "./charts.js";
import { percent, significant } from "./numbers.js";
import { ROLES } from "./picks.js";

/** The mean accuracy of all models over what they cost together; `budgeted(cost)` hears where the line is dragged. */
export function wholeChart(place, budgeted) {
  let found = null;
  const { chart, draw } = makeChart(place, (colors) => found && options(found, colors));
  const line = budgetLine(chart, place, budgeted);
  return {
    show(set) { found = set; draw(); line.draw(); },
    setBudget: line.set,
  };
}

function options({ front, dense, taken, equal, limit, unit }, colors) {
  // What lies far below the budget's answer is not worth the room.
  const within = front.accuracy[Math.max(0, front.cost.findLastIndex((cost) => cost <= limit))];
  const least = Math.max(Math.min(...front.accuracy), dense.accuracy - Math.max(0.1, 2.5 * (dense.accuracy - within)));
  const point = (whole) => (whole ? [[whole.cost, whole.accuracy]] : []);
  const marks = [
    ["equal shares", "triangle", 11, equal, { color: colors.uniform }],
    ["dense", "rect", 11, dense, { color: colors.ink }],
    ["chosen", "diamond", 14, taken, { color: colors.page, borderColor: colors.ink, borderWidth: 2 }],
  ].filter(([, , , whole]) => whole);
  return {
    grid: { left: 62, right: 18, top: 44, bottom: 46 },
    legend: { top: 0, left: 0, itemWidth: 14, itemHeight: 10, itemGap: 14, selectedMode: false, textStyle: { color: colors.quiet, fontSize: 12 }, data: ["front", ...marks.map(([name]) => name)] },
    tooltip: tooltip(colors, { trigger: "item", formatter: ({ seriesName, data }) => `${seriesName}\n${percent(data[1])} % · ${significant(data[0], 4)} ${unit}` }),
    xAxis: axis(colors, `all models together, ${unit}`, { type: "value" }),
    yAxis: axis(colors, "mean accuracy by weight, %", { type: "value", nameGap: 44, min: Math.floor(100 * least) / 100, axisLabel: { color: colors.quiet, hideOverlap: true, showMinLabel: false, formatter: (value) => (100 * value).toFixed(1) } }),
    series: [
      {
        name: "front", type: "line", step: "end", showSymbol: front.cost.length <= 60, symbol: "circle", symbolSize: 7, z: 4, data: front.cost.map((cost, i) => [cost, front.accuracy[i]]),
        lineStyle: { color: colors.found, width: 1.5 }, itemStyle: { color: colors.found },
        markLine: { silent: true, precision: 9, symbol: "none", label: { show: false }, lineStyle: { color: colors.quiet, type: "dotted", width: 1 }, data: limit === null ? [] : [{ xAxis: limit }] },
      },
      ...marks.map(([name, symbol, symbolSize, whole, itemStyle]) => ({ name, type: "scatter", z: 6, symbol, symbolSize, data: point(whole), itemStyle })),
    ],
  };
}

/** Something of each model along the front: `value(option, model)`, a share of one, called `name`. */
export function alongChart(place, name, value) {
  let found = null;
  let budget = null;
  const { draw } = makeChart(place, (colors) => found && {
    grid: { left: 62, right: 18, top: 34, bottom: 46 },
    legend: { top: 0, left: 0, itemWidth: 18, itemHeight: 10, itemGap: 14, selectedMode: false, textStyle: { color: colors.quiet, fontSize: 12 } },
    tooltip: tooltip(colors, { trigger: "axis", formatter: (all) => [`${significant(all[0].data[0], 4)} ${found.unit} together`, ...all.map(({ seriesName, data }) => `${seriesName}: ${percent(data[1], 1)} %`)].join("\n") }),
    xAxis: axis(colors, `all models together, ${found.unit}`, { type: "value" }),
    yAxis: axis(colors, `${name}, %`, { type: "value", nameGap: 44, max: 1, axisLabel: { color: colors.quiet, hideOverlap: true, formatter: (share) => (100 * share).toFixed(0) } }),
    series: found.models.map((model, k) => {
      const color = colors[ROLES[k % ROLES.length]];
      return {
        name: model.name, type: "line", step: "end", showSymbol: false, sampling: "minmax",
        data: found.front.cost.map((cost, i) => [cost, value(model.options[found.front.options[i][k]], model)]),
        lineStyle: { color, width: 2, type: ["solid", "dashed", "dotted"][k % 3] }, itemStyle: { color },
        markLine: k || budget === null ? undefined : { silent: true, precision: 9, symbol: "none", label: { show: false }, lineStyle: { color: colors.ink, type: "solid", width: 1.5 }, data: [{ xAxis: budget }] },
      };
    }),
  });
  return {
    show(set) { found = set; draw(); },
    setBudget(cost) { budget = cost; draw(); },
  };
}
