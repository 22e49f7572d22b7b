// Numbers as the report writes them.

export const percent = (share, digits = 2) => (share === null || share === undefined ? "–" : (100 * share).toFixed(digits));

export function significant(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  return value === 0 ? "0" : Number(value.toPrecision(digits)).toString();
}

/** With as many digits as any other, so that numbers that change, or stand below one another, keep their places. */
export function steady(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  return value >= 10 ** digits ? value.toFixed(0) : value.toPrecision(digits);
}

/** 80.6 M, 954 k, 12. */
export function count(value) {
  for (const [size, unit] of [[1e9, " G"], [1e6, " M"], [1e3, " k"]]) {
    if (Math.abs(value) >= size) return (value / size).toPrecision(3) + unit;
  }
  return String(value);
}

export const signed = (value, digits = 2) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;

export const times = (dense, other) => `${(dense / other).toFixed(2)}×`;

export function bytes(value) {
  for (const [size, unit] of [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]]) {
    if (value >= size) return `${(value / size).toFixed(1)} ${unit}`;
  }
  return `${value} B`;
}

export function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString([], { hour12: false });
}
