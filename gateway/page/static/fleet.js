// The table of models, the sums above it, and the table of workers. Rows stay while they are updated, so that the focus stays too.

import { byId, make, setClass, setHidden, setMeasure, setText } from "./dom.js";
import { keyOf } from "./history.js";
import { quantile, together } from "./quantiles.js";
import { NOTHING, count, duration, perSecond, short, visible } from "./units.js";
import { isLive, isSilent, stateOf, stateWords } from "./words.js";

const COLUMNS = [["rate"], ["p50", "middle"], ["p99"], ["rows", "wide"], ["waiting", "middle"], ["workers", "wide"]];

export class ModelTable {
  constructor(choose) {
    this.choose = choose;
    this.rows = new Map();
    this.models = [];
    byId("filter").addEventListener("input", () => this.filter());
  }

  show(models, figuresOf, waitingOf, chosen) {
    this.models = models;
    const body = byId("rows");
    const keys = new Set(models.map(keyOf));
    for (const [key, row] of this.rows) {
      if (keys.has(key)) continue;
      row.node.remove();
      this.rows.delete(key);
    }
    models.forEach((model, place) => {
      const row = this.row(model);
      if (body.children[place] !== row.node) body.insertBefore(row.node, body.children[place] ?? null);
      fill(row, model, figuresOf(model), waitingOf(model), keyOf(model) === chosen);
    });
    setHidden(byId("no-models"), models.length > 0);
    setHidden(byId("table-frame"), models.length === 0);
    this.filter();
  }

  row(model) {
    const key = keyOf(model);
    const known = this.rows.get(key);
    if (known) return known;
    const button = make("button", { type: "button" }, make("bdi", {}, visible(model.name)));
    const [state, below] = [make("span", { class: "state" }), make("span", { class: "state" })]; // a narrow screen has it below the name
    const version = model.version ? [make("span", { class: "muted" }, ` version ${model.version}`)] : [];
    const name = make("th", { scope: "row" }, button, ...version, make("span", { class: "below" }, " ", below));
    const cells = Object.fromEntries(COLUMNS.map(([id, more]) => [id, make("td", { class: more ? `number ${more}` : "number" })]));
    const node = make("tr", {}, name, make("td", { class: "middle" }, state), ...Object.values(cells));
    node.addEventListener("click", (event) => this.choose(key, event.detail === 0));
    const row = { node, button, states: [state, below], cells };
    this.rows.set(key, row);
    return row;
  }

  // Scroll the table, not the page, to a row.
  reveal(key) {
    const row = this.rows.get(key);
    if (row) byId("table-frame").scrollTop = row.node.offsetTop - row.node.offsetHeight;
  }

  filter() {
    const asked = byId("filter").value.trim().toLowerCase();
    let shown = 0;
    for (const model of this.models) {
      const matches = `${model.name} version ${model.version} ${stateWords(stateOf(model))}`.toLowerCase().includes(asked);
      setHidden(this.rows.get(keyOf(model)).node, !matches);
      shown += matches;
    }
    setText(byId("shown"), asked ? `${shown} of ${this.models.length}` : "");
  }
}

function fill({ node, button, states, cells }, model, figures, waiting, chosen) {
  setClass(node, chosen ? "chosen" : "");
  if (chosen) button.setAttribute("aria-current", "true");
  else button.removeAttribute("aria-current");
  for (const state of states) {
    setClass(state, `state ${stateOf(model)}`);
    setText(state, stateWords(stateOf(model)));
  }
  setMeasure(cells.rate, perSecond(figures.rate));
  const measures = {
    rows: figures.rows === null ? NOTHING : { value: short(figures.rows), unit: "" },
    p50: duration(figures.p50),
    p99: duration(figures.p99),
  };
  for (const [id, measure] of Object.entries(measures)) {
    setMeasure(cells[id], measure);
    cells[id].classList.toggle("old", !figures.recent);
  }
  setMeasure(cells.waiting, waiting === null ? NOTHING : count(waiting));
  setMeasure(cells.workers, count(model.workers));
}

export function showTotals(models, figuresOf, waiting, workers, bounds) {
  const ready = models.filter((model) => model.state === "READY").length;
  const wanted = models.filter((model) => stateOf(model) !== "OFF").length;
  setText(byId("total-models"), `${ready} of ${wanted}`);
  setClass(byId("total-models"), models.some((model) => stateOf(model) === "UNAVAILABLE") ? "bad" : "");
  const sum = (name) => {
    const parts = models.map((model) => figuresOf(model)[name]).filter((part) => part !== null);
    return parts.length ? parts.reduce((all, part) => all + part, 0) : models.length ? null : 0;
  };
  setMeasure(byId("total-rate"), perSecond(sum("rate")));
  setMeasure(byId("total-failed"), perSecond(sum("failures")));
  const recent = models.map(figuresOf).filter((figures) => figures.recent).map((figures) => figures.answers);
  setMeasure(byId("total-p99"), duration(quantile(together(recent), 0.99, bounds)));
  setMeasure(byId("total-waiting"), waiting === null ? NOTHING : count(waiting));
  setMeasure(byId("total-workers"), count(workers.filter(isLive).length));
  setClass(byId("total-workers"), workers.some(isSilent) ? "bad" : "");
}

function marks(worker) {
  if (isSilent(worker)) return [make("span", { class: "bad" }, " silent")];
  return worker.draining ? [make("span", { class: "muted" }, " draining")] : [];
}

export function showWorkers({ workers, problem }) {
  setHidden(byId("no-workers"), workers.some(isLive) || Boolean(problem));
  setHidden(byId("workers").parentElement, workers.length === 0);
  const rows = workers.map((worker) => make(
    "tr", {},
    make("th", { scope: "row" }, make("bdi", {}, visible(worker.worker)), ...marks(worker)),
    make("td", {}, make("bdi", {}, visible(worker.host))),
    make("td", { class: "number wide" }, String(worker.pid)),
    make("td", { class: "number wide" }, String(worker.ready_models)),
    make("td", { class: "number wide" }, String(worker.restarts)),
    make("td", { class: "number" }, `${short(worker.age_ms / 1000)} s ago`),
  ));
  byId("worker-rows").replaceChildren(...rows);
}
