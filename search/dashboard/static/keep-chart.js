// Trials by groups: the share of units kept, beside each group's share of the latency.
import { chosen } from "./chosen.js";
import { makeChart, tooltip } from "./charts.js";
import { percent, significant } from "./numbers.js";
import { ROLES } from "./picks.js";

const MOST = 160;
const ROW = 17;
const ABOVE = 26;
const NARROW = 560;
// Pixels, below which bars leave their room to the trials.

export function keepChart(place, picks, note) {
  let drawn = null;
  const { chart, draw } = makeChart(place, (colors, made) => drawn && options(drawn, colors, picks, made.getWidth() < NARROW));
  chart.on("click", ({ seriesName, data }) => seriesName === "kept" && picks.toggle(drawn.front.trials.number[drawn.indices[data[0]]]));
  return {
    show(front, widths, groups) {
      const rowOf = new Map(widths.number.map((number, row) => [number, row]));
      const indices = chosen(front, picks.numbers, MOST).filter((i) => rowOf.has(front.trials.number[i]));
      drawn = { front, widths, groups, indices, rowOf };
      place.style.setProperty("height", `${ABOVE + 60 + ROW * groups.length}px`);
      chart.resize();
      note(indices.length, front.trials.accuracy.filter((value) => value !== null).length);
      draw();
    },
  };
}

function options({ front, widths, groups, indices, rowOf }, colors, picks, isNarrow) {
  const { trials } = front;
  const last = groups.length - 1;
  const cells = indices.flatMap((i, column) => widths.kept[rowOf.get(trials.number[i])].map((kept, group) => [column, last - group, kept / widths.sizes[group]]));
  const names = groups.map((group) => group.name).reverse();
  const marks = picks.numbers.map((number, k) => ({ at: indices.findIndex((i) => trials.number[i] === number), role: ROLES[k] })).filter(({ at }) => at >= 0);
  const bars = isNarrow ? 44 : 100;
  const left = Math.min(isNarrow ? 120 : 260, 30 + 6.4 * Math.max(...names.map((name) => name.length)));
  const label = { color: colors.quiet, fontSize: 11, width: left - 16, overflow: "truncate", interval: 0 };
  const bare = { axisLine: { show: false }, axisTick: { show: false }, splitLine: { show: false } };
  return {
    grid: [{ left, right: bars + 40, top: ABOVE, bottom: 58 }, { right: 22, width: bars, top: ABOVE, bottom: 58 }],
    tooltip: tooltip(colors, { formatter: ({ seriesName, data }) => {
      const group = groups[last - (seriesName === "kept" ? data[1] : data[1])];
      if (seriesName !== "kept") return `${group.name}\n${percent(group.latency_share, 1)} % of the latency\n${percent(group.macs_share, 1)} % of the MACs`;
      const i = indices[data[0]];
      return `trial ${trials.number[i]} · ${percent(trials.accuracy[i])} % · ${significant(trials.latency_ms[i])} ms\n${group.name}: ${Math.round(data[2] * group.size)} of ${group.size}`;
    } }),
    visualMap: { seriesIndex: 0, min: 0, max: 1, calculable: false, orient: "horizontal", left, bottom: 4, itemHeight: 110, itemWidth: 10, text: ["all", "none kept"], textStyle: { color: colors.quiet, fontSize: 11 }, inRange: { color: [colors.soft, colors.found] } },
    xAxis: [
      { type: "category", data: indices.map((i) => String(trials.number[i])), ...bare, position: "top", axisLabel: { color: colors.quiet, fontSize: 10, hideOverlap: true }, splitArea: { show: false } },
      { type: "value", gridIndex: 1, ...bare, position: "top", axisLabel: { color: colors.quiet, fontSize: 10, showMinLabel: false, hideOverlap: true, formatter: (value) => `${(100 * value).toFixed(0)} %` }, splitNumber: 2 },
    ],
    yAxis: [
      { type: "category", data: names, ...bare, axisLabel: label },
      { type: "category", gridIndex: 1, data: names, ...bare, axisLabel: { show: false } },
    ],
    series: [
      { name: "kept", type: "heatmap", data: cells, progressive: 0, itemStyle: { borderWidth: indices.length > 60 ? 0 : 1, borderColor: colors.page }, emphasis: { itemStyle: { borderColor: colors.ink, borderWidth: 1 } },
        markLine: { silent: true, symbol: ["none", "triangle"], symbolSize: 7, label: { show: false }, data: marks.map(({ at, role }) => ({ xAxis: at, lineStyle: { color: colors[role], type: "solid", width: 1.5 } })) } },
      { name: "latency share", type: "bar", xAxisIndex: 1, yAxisIndex: 1, barWidth: "60%", itemStyle: { color: colors.trial }, data: groups.map((group, row) => [group.latency_share, last - row]) },
    ],
  };
}
