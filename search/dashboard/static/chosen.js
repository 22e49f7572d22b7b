// Of many trials those that a chart has room for: the front and the picks, and others evenly over the latencies.

/** Indices into `front.trials`, the fastest first, at most about `most`. */
export function chosen({ trials }, picked, most) {
  const sorted = trials.number.map((_, i) => i).filter((i) => trials.accuracy[i] !== null)
    .sort((a, b) => trials.latency_ms[a] - trials.latency_ms[b]);
  const step = Math.max(1, sorted.length / most);
  const evenly = new Set(Array.from({ length: Math.min(most, sorted.length) }, (_, k) => sorted[Math.floor(k * step)]));
  return sorted.filter((i) => evenly.has(i) || trials.on_front[i] || picked.includes(trials.number[i]));
}
