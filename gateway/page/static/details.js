// The facts of the chosen model: signature, traffic, batch sizes, reasons of release.

import { bars, line, sizeClasses } from "./charts.js";
import { byId, make, setClass, setHidden, setMeasure, setText } from "./dom.js";
import { shellWord } from "./snippets.js";
import { NOTHING, count, duration, perSecond, shape as shapeText, short, text, visible } from "./units.js";
import { released, stateOf, stateWords } from "./words.js";

const MEANS = new Set(["p50: half within", "p99: 99 % within", "In the queue, mean", "Computing, mean", "Rows per batch"]);

export function showDetails(model, figures, lanes, now) {
  if (changed(byId("chosen-title"), [model.name, model.version])) {
    byId("chosen-title").replaceChildren(make("bdi", {}, visible(model.name)), model.version ? `, version ${model.version}` : "");
  }
  const state = stateOf(model);
  setClass(byId("chosen-state"), `state ${state}`);
  setText(byId("chosen-state"), stateWords(state));
  const batching = model.max_batch_size > 0 ? `batches of up to ${model.max_batch_size} rows` : "does not batch";
  const files = model.digests.length ? `files ${model.digests.join(", ")}` : "";
  setText(byId("chosen-what"), model.inputs.length ? [model.platform, batching, files].filter(Boolean).join(" · ") : "");
  const reason = state === "OFF" && (model.reason || "unloaded") === "unloaded" ? `To load it: penstock models load ${shellWord(model.name)}` : model.reason;
  setHidden(byId("chosen-reason"), !reason);
  setText(byId("chosen-reason"), visible(reason));
  setClass(byId("chosen-reason"), state === "UNAVAILABLE" ? "notice bad" : "notice");
  setHidden(byId("columns"), !model.inputs.length && !model.counts.success); // its state and the reason are all there is
  showSignature(model);
  showTraffic(model, figures, lanes, now);
  showBars("sizes", sizeClasses(model.counts.batches), "rows", "No batch has run yet.");
  const reasons = Object.entries(model.counts.releases).map(([reason, times]) => ({ label: released(reason), count: times }));
  const ran = model.counts.batches.length > 0;
  showBars("releases", reasons, "because", ran ? "The workers that ran them do not tell the reasons: they are older than this page." : "No batch has run yet.", true);
}

// Redraw only what has changed: a reader may be in the middle of it.
function changed(frame, fingerprint) {
  const text = JSON.stringify(fingerprint);
  if (frame.dataset.shown === text) return false;
  frame.dataset.shown = text;
  return true;
}

function showSignature({ inputs, outputs }) {
  const frame = byId("signature");
  if (!changed(frame, [inputs, outputs])) return;
  if (!inputs.length && !outputs.length) {
    frame.replaceChildren(make("p", { class: "muted" }, "They are known once the model is loaded."));
    return;
  }
  const table = (caption, tensors) => make(
    "table", { class: "tensors" },
    make("caption", {}, caption),
    make("tbody", {}, ...tensors.map((tensor) => make(
      "tr", {},
      make("th", { scope: "row" }, make("bdi", {}, visible(tensor.name)), ...(tensor.optional ? [make("span", { class: "muted" }, " optional")] : [])),
      make("td", {}, tensor.datatype),
      make("td", { class: "number" }, shapeText(tensor.shape)),
    ))),
  );
  frame.replaceChildren(table(inputs.length === 1 ? "Input" : "Inputs", inputs), table(outputs.length === 1 ? "Output" : "Outputs", outputs));
}

function showTraffic(model, figures, lanes, now) {
  const peak = Math.max(0, ...figures.rates.map((step) => step.rate));
  byId("chart").replaceChildren(line(figures.rates, now), make("p", { class: "muted over" }, `The last two minutes, up to ${text(perSecond(peak))}`));
  const all = [
    ["Requests", perSecond(figures.rate)],
    ["Failures", perSecond(figures.failures)],
    ["p50: half within", duration(figures.p50)],
    ["p99: 99 % within", duration(figures.p99)],
    ["In the queue, mean", duration(figures.queue)],
    ["Computing, mean", duration(figures.compute)],
    ["Answered in all", count(model.counts.success)],
    ["Failed in all", count(model.counts.failed)],
    ["Rows per batch", figures.rows === null ? NOTHING : { value: short(figures.rows), unit: "" }],
    ["Workers ready", count(model.workers)],
  ];
  if (model.counts.cache_hits) all.push(["From the response cache", count(model.counts.cache_hits)]);
  for (const lane of lanes) {
    const name = lane.lane === "batch" ? "Waiting in the batch lane" : "Waiting";
    if (lane.lane === "batch" && !lane.backlog_requests) continue;
    all.push([name, count(lane.backlog_requests)]);
    if (lane.backlog_requests) all.push([lane.lane === "batch" ? "Oldest in the batch lane" : "Oldest", duration(lane.oldest_age_ms)]);
  }
  const frame = byId("figures");
  if (frame.children.length !== all.length) frame.replaceChildren(...all.map(() => make("div", {}, make("dt"), make("dd"))));
  all.forEach(([name, measure], place) => {
    setText(frame.children[place].firstElementChild, name);
    setMeasure(frame.children[place].lastElementChild, measure);
    frame.children[place].lastElementChild.classList.toggle("old", !figures.recent && MEANS.has(name));
  });
  setHidden(byId("old-means"), figures.recent || figures.queue === null);
}

function showBars(id, rows, what, nothing, long = false) {
  const frame = byId(id);
  if (!changed(frame, rows.length ? rows : nothing)) return;
  frame.replaceChildren(rows.length ? bars(rows, what, long) : make("p", { class: "muted" }, nothing));
}
