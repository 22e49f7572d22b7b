// A budget to drag along the x axis of a chart.

/** `moved(value)` hears of each drag. `set(value)` moves it, `draw()` is for when the chart was drawn anew. */
export function budgetLine(chart, place, moved) {
  let budget = null;

  function draw() {
    if (budget === null || !chart.getOption()?.xAxis) return;
    const x = chart.convertToPixel({ xAxisIndex: 0 }, budget);
    const { y, height } = chart.getModel().getComponent("grid").coordinateSystem.getRect();
    const ink = getComputedStyle(place).color;
    chart.setOption({ graphic: [{
      id: "budget", type: "group", x, y, draggable: "horizontal", cursor: "ew-resize", z: 50,
      ondrag() {
        budget = Math.max(0, chart.convertFromPixel({ xAxisIndex: 0 }, this.x));
        moved(budget);
      },
      ondragend: draw,
      children: [
        { type: "rect", shape: { x: -8, y: 0, width: 16, height }, style: { fill: "transparent" } },
        { type: "rect", shape: { x: -0.75, y: 0, width: 1.5, height }, style: { fill: ink } },
        { type: "polygon", shape: { points: [[-6, -9], [6, -9], [0, 0]] }, style: { fill: ink } },
      ],
    }] });
  }

  addEventListener("themechange", draw);
  new ResizeObserver(draw).observe(place);
  return { draw, set(value) { budget = value; draw(); } };
}
