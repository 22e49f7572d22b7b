// What one operator takes over its width: stairs of padding, and cliffs where narrower costs more.
import { axis, makeChart, tooltip } from "./charts.js";
import { significant } from "./numbers.js";

/** How high each of the stairs is, in pixels. */
export const HIGH = 264;

export function stairsChart(place) {
  let stairs = null;
  const { draw } = makeChart(place, (colors) => stairs && {
    grid: stairs.map((_, k) => ({ left: 72, right: 18, top: 14 + HIGH * k, height: HIGH - 70 })),
    tooltip: tooltip(colors, { trigger: "axis", formatter: (all) => {
      const { seriesIndex, dataIndex } = all[0];
      const { widths, latency_ms: latency, measured, cliffs, modelled } = stairs[Math.floor(seriesIndex / 3)];
      return `${widths[dataIndex]} channels\n${significant(latency[dataIndex])} ms, ${measured[dataIndex] ? (modelled ? "modelled" : "measured") : "interpolated"}${cliffs[dataIndex] ? "\na wider one costs less" : ""}`;
    } }),
    xAxis: stairs.map(({ axis: along }, k) => axis(colors, along.replace("_", " "), { type: "value", gridIndex: k, min: 0, max: "dataMax", minInterval: 1, splitLine: { show: false } })),
    yAxis: stairs.map((_, k) => axis(colors, "ms, alone", { type: "value", gridIndex: k, min: 0, nameGap: 50 })),
    series: stairs.flatMap((each, k) => {
      const rows = (wanted) => each.widths.map((width, i) => [width, wanted(i) ? each.latency_ms[i] : null]);
      const at = { xAxisIndex: k, yAxisIndex: k };
      const isEnd = (i) => each.measured[i] && (i === each.widths.length - 1 || each.latency_ms[i] !== each.latency_ms[i + 1]);
      return [
        { ...at, type: "line", step: "middle", showSymbol: false, data: rows(() => true), lineStyle: { color: colors.trial, width: 2 }, itemStyle: { color: colors.trial } },
        { ...at, type: "line", step: "middle", showSymbol: false, data: rows((i) => each.cliffs[i]), lineStyle: { color: colors.uniform, width: 3 }, itemStyle: { color: colors.uniform } },
        { ...at, type: "scatter", symbolSize: 7, data: rows(isEnd), itemStyle: { color: colors.found } },
      ];
    }),
  });
  return { show(found) { stairs = found; draw(); } };
}
