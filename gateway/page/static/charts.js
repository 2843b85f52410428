// Bars and a line. Colour and size repeat what the text says, so readers lose nothing.

import { make, makeSvg } from "./dom.js";
import { count, perSecond, share, text } from "./units.js";

// A table of bars: one row for each {label, count}.
export function bars(rows, what, long = false) {
  const all = rows.reduce((sum, row) => sum + row.count, 0);
  const most = Math.max(...rows.map((row) => row.count));
  const body = rows.map((row) => {
    const fill = make("span", { class: "fill", "aria-hidden": "true" });
    fill.style.width = `${(100 * row.count) / most}%`;
    return make(
      "tr", {},
      make("th", { scope: "row" }, row.label),
      make("td", {}, fill),
      make("td", { class: "number" }, text(count(row.count))),
      make("td", { class: "number" }, share(row.count, all)),
    );
  });
  const heads = [what, "", "batches", "share"].map((head, place) => make("th", { scope: "col", class: place > 1 ? "number" : "" }, head));
  return make("table", { class: long ? "bars long" : "bars" }, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...body));
}

const WIDTH = 600;
const HEIGHT = 64;
const SPAN_MS = 120_000;

// Requests per second over the last two minutes.
export function line(steps, now) {
  const most = Math.max(1, ...steps.map((step) => step.rate));
  const x = (at) => WIDTH * (1 - (now - at) / SPAN_MS);
  const y = (rate) => HEIGHT - 2 - (HEIGHT - 6) * (rate / most);
  const points = steps.map((step) => `${x(step.at).toFixed(1)},${y(step.rate).toFixed(1)}`).join(" ");
  const last = steps.at(-1)?.rate ?? 0;
  const told = `Requests per second over the last two minutes: now ${text(perSecond(last))}, at most ${text(perSecond(steps.length ? most : 0))}`;
  const drawing = makeSvg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": told });
  drawing.append(makeSvg("line", { class: "base", x1: 0, x2: WIDTH, y1: HEIGHT - 1, y2: HEIGHT - 1 }));
  if (steps.length > 1) {
    drawing.append(
      makeSvg("polygon", { class: "area", points: `${x(steps[0].at).toFixed(1)},${HEIGHT} ${points} ${x(steps.at(-1).at).toFixed(1)},${HEIGHT}` }),
      makeSvg("polyline", { class: "edge", points }),
    );
  }
  return drawing;
}

const MOST_BARS = 8;

// Batch sizes as at most eight bars: neighbouring sizes are put together.
export function sizeClasses(batches) {
  if (batches.length <= MOST_BARS) return batches.map((each) => ({ label: rows(each.rows), count: each.count }));
  const classes = new Map();
  for (const each of batches) {
    const from = 2 ** Math.floor(Math.log2(each.rows));
    classes.set(from, (classes.get(from) ?? 0) + each.count);
  }
  return [...classes].map(([from, all]) => ({ label: from === 1 ? rows(1) : `${from} to ${2 * from - 1} rows`, count: all }));
}

const rows = (number) => (number === 1 ? "1 row" : `${number} rows`);
