// What all charts share: the page's colours, a canvas that follows its place, and tooltips that are only text.

const probe = document.createElement("span");
probe.hidden = true;
document.documentElement.append(probe);

/** The page's colours as they are now, by role; those of categories do not rest on hue alone. */
export function palette() {
  const read = (role) => {
    probe.style.color = `var(--${role})`;
    return getComputedStyle(probe).color;
  };
  return Object.fromEntries(["page", "ink", "quiet", "line", "trial", "found", "uniform", "soft", "bad", "third", "fourth", "fifth"].map((role) => [role, read(role)]));
}

/** A colour of the palette, so opaque: rgb(…) → rgba(…). */
export function faded(color, opacity) {
  const [red, green, blue] = color.match(/[\d.]+/g);
  return `rgba(${red}, ${green}, ${blue}, ${opacity})`;
}

export const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';

/**
 * A chart at `place`, which is drawn by `options(colors)` at once and with each new theme.
 * Returns the chart of ECharts, and `draw()` for when the data have changed.
 */
export function makeChart(place, options, { merge = false } = {}) {
  const chart = echarts.init(place, null, { renderer: "canvas" });
  const draw = () => {
    const made = options(palette(), chart);
    if (made) chart.setOption({ animation: false, textStyle: { fontFamily: FONT }, ...made }, { notMerge: !merge });
  };
  addEventListener("themechange", draw);
  new ResizeObserver(() => chart.resize()).observe(place);
  draw();
  return { chart, draw };
}

export function axis(colors, name, more = {}) {
  return {
    name, nameLocation: "middle", nameGap: 30, nameTextStyle: { color: colors.quiet, fontSize: 12 },
    axisLine: { show: false }, axisTick: { show: false },
    axisLabel: { color: colors.quiet, hideOverlap: true },
    splitLine: { lineStyle: { color: colors.line } },
    scale: true, ...more,
  };
}

export function tooltip(colors, more = {}) {
  return {
    renderMode: "richText", confine: true, backgroundColor: colors.page, borderColor: colors.line, borderWidth: 1,
    padding: [8, 10], textStyle: { color: colors.ink, fontSize: 12, lineHeight: 18 }, ...more,
  };
}
