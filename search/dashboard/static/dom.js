// Elements by hand. Text that comes from users only ever becomes text.

/** `element("td.number", {title: "…"}, "text", child)`; nothing of null and undefined. */
export function element(kind, attributes = {}, ...children) {
  const [tag, ...classes] = kind.split(".");
  const made = document.createElement(tag);
  if (classes.length) made.className = classes.join(" ");
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "style") for (const [property, to] of Object.entries(value)) made.style.setProperty(property, to);
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

/** A table: `columns` are [heading, of a row → cell, isNumber]. */
export function table(columns, rows, { classOf = () => "", kind = "table" } = {}) {
  return element("div.wide", {}, element(kind, {},
    element("thead", {}, element("tr", {}, columns.map(([heading, , isNumber]) => element(isNumber ? "th.number" : "th", { scope: "col" }, heading)))),
    element("tbody", {}, rows.map((row) => element("tr", { class: classOf(row) || null },
      columns.map(([, cell, isNumber]) => element(isNumber ? "td.number" : "td", {}, cell(row))))))));
}

/** Show that something is being fetched, is not there, or cannot be had. */
export function showState(where, kind, text, hint = "") {
  where.classList.remove("loading", "nothing", "broken");
  where.classList.add(kind);
  where.replaceChildren(element("div.said", { role: kind === "broken" ? "alert" : "status" },
    element("p", {}, text), hint ? element("p.quiet", {}, hint) : null));
}

export function clearState(where) {
  if (!where.querySelector(":scope > .said")) return;
  where.classList.remove("loading", "nothing", "broken");
  where.replaceChildren();
}

/** What an error says, with a capital at its beginning and one mark at its end. */
export function sentence({ message }) {
  return `${message[0].toUpperCase()}${message.slice(1)}${/[.?!]$/.test(message) ? "" : "."}`;
}
