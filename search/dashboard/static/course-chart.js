// The hypervolume over trials.
import { axis, faded, makeChart, tooltip } from "./charts.js";
import { significant } from "./numbers.js";

export function courseChart(place) {
  let front = null;
  const { draw } = makeChart(place, (colors) => front && {
    grid: { left: 62, right: 18, top: 12, bottom: 42 },
    tooltip: tooltip(colors, { trigger: "axis", formatter: ([{ data }]) => `after ${data[0]} trials\n${(100 * data[1]).toFixed(2)} %` }),
    xAxis: axis(colors, "trials done", { type: "value", min: 0, max: "dataMax", scale: false, splitLine: { show: false } }),
    yAxis: axis(colors, "area under the front, %", { type: "value", nameGap: 44, axisLabel: { color: colors.quiet, formatter: (value) => significant(100 * value, 4) } }),
    series: [{ type: "line", step: "end", showSymbol: false, sampling: "minmax", data: front.hypervolume.map((value, i) => [i + 1, value]), lineStyle: { color: colors.found, width: 1.6 }, itemStyle: { color: colors.found }, areaStyle: { color: faded(colors.found, 0.08) } }],
  });
  return { show(found) { front = found; draw(); } };
}
