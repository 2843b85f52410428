// What is shown of an answer. Everything in it is a stranger's text.

import { make } from "./dom.js";
import { count, duration, shape as shapeText, text, visible } from "./units.js";
import { explain, parseTiming } from "./words.js";

const ROWS = 20;
const PER_ROW = 16;
const LONGEST_TEXT = 2000;
const HIGHEST = 5;

// The outputs as nodes.
export function outputNodes(outputs) {
  if (!outputs.length) return [make("p", { class: "muted" }, "The answer has no outputs.")];
  return outputs.map((output) => {
    const title = make("p", {}, make("strong", {}, make("bdi", {}, visible(output.name))),
      make("span", { class: "muted" }, ` ${output.datatype}, ${shapeText(output.shape)}`));
    const values = make("pre", { tabindex: "0", role: "region", "aria-label": `Values of ${visible(output.name)}` }, written(output));
    const highest = highestOf(output);
    return make("div", { class: "output" }, title, values, ...(highest ? [make("p", { class: "muted" }, highest)] : []));
  });
}

// The values, a line for each row of the last dimension.
export function written({ datatype, shape, values, count: all }) {
  if (all === 0) return "no values";
  if (datatype === "BYTES") {
    const lines = values.slice(0, ROWS).map(shownText);
    return [...lines, ...(all > lines.length ? [`… and ${text(count(all - lines.length))} more`] : [])].join("\n");
  }
  const width = shape.length ? shape.at(-1) : 1;
  const rows = Math.min(ROWS, Math.ceil(values.length / width));
  const cells = Array.from({ length: rows }, (_, row) => values.slice(row * width, row * width + Math.min(width, PER_ROW)).map(shownNumber));
  const broad = rows > 1 ? Math.max(...cells.flat().map((cell) => cell.length)) : 0; // rows stand below each other
  const lines = cells.map((some) => {
    const line = some.map((cell) => cell.padStart(broad)).join("  ");
    return `${line}${width > PER_ROW ? `  … ${text(count(width - PER_ROW))} more` : ""}`;
  });
  const left = Math.ceil(all / width) - rows;
  return [...lines, ...(left > 0 ? [`… and ${text(count(left))} more rows`] : [])].join("\n");
}

function shownText(value) {
  if (typeof value !== "string") {
    const bytes = Array.from(value.subarray(0, 32), (byte) => byte.toString(16).padStart(2, "0")).join(" ");
    return `${text(count(value.length))} bytes that are no text: ${bytes}${value.length > 32 ? " …" : ""}`;
  }
  return value.length > LONGEST_TEXT ? `${value.slice(0, LONGEST_TEXT)}… (${text(count(value.length))} characters)` : value;
}

function shownNumber(value) {
  if (typeof value !== "number") return String(value);
  return Number.isInteger(value) || !Number.isFinite(value) ? String(value) : String(Number(value.toPrecision(6)));
}

// The highest values of a single row of scores, with their places.
export function highestOf({ datatype, shape, values, count: all }) {
  const isScores = ["FP16", "BF16", "FP32", "FP64"].includes(datatype) && shape.at(-1) === all && all > 2 && values.length === all;
  if (!isScores) return "";
  const best = [...values.keys()].filter((place) => !Number.isNaN(values[place])).sort((one, other) => values[other] - values[one]).slice(0, Math.min(HIGHEST, all - 1));
  if (!best.length) return "";
  return `Highest: ${best.map((place) => `${shownNumber(values[place])} at ${place}`).join(", ")}`;
}

// The stages of a call as nodes.
export function timingNodes(header, roundTrip) {
  const { stages, batch } = explain(parseTiming(header), roundTrip);
  if (!stages.length) return [make("p", { class: "muted" }, "The answer has no Penstock-Timing header.")];
  const longest = Math.max(...stages.map((stage) => stage.ms), 1e-6);
  const rows = stages.map(({ words, ms }) => {
    const fill = make("span", { class: "fill", "aria-hidden": "true" });
    fill.style.width = `${(100 * ms) / longest}%`;
    return make("tr", {}, make("th", { scope: "row" }, words), make("td", {}, fill), make("td", { class: "number" }, text(duration(ms))));
  });
  const head = make("tr", {}, ...["stage", "", "time"].map((name, place) => make("th", { scope: "col", class: place > 1 ? "number" : "" }, name)));
  const table = make("table", { class: "bars long" }, make("thead", {}, head), make("tbody", {}, ...rows));
  return [table, ...(batch ? [make("p", { class: "muted" }, batch)] : [])];
}

// An error as nodes.
export function errorNodes({ message, status, code, requestId }) {
  const facts = [status && `HTTP status ${status}`, code, requestId && `request ${requestId}`].filter(Boolean).join(", ");
  return [make("p", { class: "problem" }, visible(message)), ...(facts ? [make("p", { class: "muted" }, facts)] : [])];
}
