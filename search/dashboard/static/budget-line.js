// A budget to drag along the x axis of a chart: drawn over it, so that the chart need not be drawn anew.

/** `moved(value)` hears of each drag. `set(value)` moves it, `draw()` is for when the chart was drawn anew. */
export function budgetLine(chart, place, moved) {
  const { Group, Polygon, Rect } = echarts.graphic;
  let budget = null;
  const grip = new Rect({ style: { fill: "transparent" } });
  const line = new Rect();
  const arrow = new Polygon({ shape: { points: [[-6, -9], [6, -9], [0, 0]] } });
  const all = new Group({ draggable: "horizontal", ignore: true });
  for (const part of [grip, line, arrow]) {
    part.attr({ z: 50, cursor: "ew-resize" });
    all.add(part);
  }
  all.on("drag", () => {
    budget = Math.max(0, chart.convertFromPixel({ xAxisIndex: 0 }, all.x));
    moved(budget);
  });
  all.on("dragend", draw);
  chart.getZr().add(all);

  function draw() {
    if (budget === null || !chart.getOption()?.xAxis) return;
    const { y, height } = chart.getModel().getComponent("grid").coordinateSystem.getRect();
    const fill = getComputedStyle(place).color;
    all.attr({ ignore: false, x: chart.convertToPixel({ xAxisIndex: 0 }, budget), y });
    grip.attr({ shape: { x: -8, y: 0, width: 16, height } });
    line.attr({ shape: { x: -0.75, y: 0, width: 1.5, height }, style: { fill } });
    arrow.attr({ style: { fill } });
  }

  addEventListener("themechange", draw);
  new ResizeObserver(draw).observe(place);
  return { draw, set(value) { budget = value; draw(); } };
}
