// Sensitivity curves: what each group alone costs the model, over the share of it that is kept.
import { axis, makeChart, tooltip } from "./charts.js";
import { significant } from "./numbers.js";

/** Returns `show(groups)`, and `pick(name)` to bring one out; "" shows all alike. */
export function aloneChart(place) {
  let groups = null;
  let picked = "";
  const { draw } = makeChart(place, (colors) => groups && {
    grid: { left: 62, right: 18, top: 12, bottom: 42 },
    tooltip: tooltip(colors, { trigger: "item", formatter: ({ data, seriesName }) => `${seriesName}\n${data[2]} units, ${(100 * data[0]).toFixed(0)} %\n${significant(data[1])} nats` }),
    xAxis: axis(colors, "share of the group that is kept, %", { type: "value", min: 0, max: 1, axisLabel: { color: colors.quiet, formatter: (value) => (100 * value).toFixed(0) } }),
    yAxis: axis(colors, "divergence from dense, nats", { type: "value", nameGap: 44, min: 0 }),
    series: groups.map((group) => {
      const isPicked = group.name === picked;
      return {
        name: group.name, type: "line", symbolSize: isPicked ? 7 : 5, z: isPicked ? 5 : 2, triggerLineEvent: true,
        data: [...Object.entries(group.losses).map(([units, loss]) => [units / group.size, loss, Number(units)]), [1, 0, group.size]].sort((a, b) => a[0] - b[0]),
        lineStyle: { color: isPicked ? colors.found : colors.trial, width: isPicked ? 2.4 : 1.1, opacity: picked && !isPicked ? 0.35 : 0.9 },
        itemStyle: { color: isPicked ? colors.found : colors.trial },
        emphasis: { focus: "series", lineStyle: { color: colors.found, width: 2.4 }, itemStyle: { color: colors.found } },
      };
    }),
  });
  return {
    show(found) { groups = found; draw(); },
    pick(name) { picked = name; draw(); },
  };
}
