// What the last polls said of each model version, and what follows from their differences. Pure: the time comes with each document.

import { between, quantile } from "./quantiles.js";

const KEEP = 61; // polls: two minutes
const RATE_MS = 10_000;
const MEAN_MS = 60_000;

export const keyOf = (model) => `${model.name}\0${model.version}`;

export class History {
  constructor() {
    this.samples = new Map();
    this.bounds = [];
  }

  // Take in one document of `/v2/fleet/models`. Totals that went back (a store that lost its data) begin anew.
  take(known) {
    const former = this.samples;
    this.samples = new Map();
    this.bounds = known.answer_bounds_ms ?? []; // a gateway of an older version tells none
    for (const model of known.models) {
      const key = keyOf(model);
      const sample = { at: known.now_ms, ...summed(model.counts) };
      let list = former.get(key) ?? [];
      const last = list.at(-1);
      if (last && (last.success > sample.success || last.failed > sample.failed || last.at > sample.at)) list = [];
      this.samples.set(key, [...list.slice(1 - KEEP), sample]);
    }
  }

  // Figures of one version: rates are null until two polls have been; means are null where nothing ran.
  figures(model) {
    const list = this.samples.get(keyOf(model)) ?? [];
    const now = list.at(-1);
    if (!now) return { rate: null, failures: null, rows: null, queue: null, compute: null, p50: null, p99: null, answers: [], recent: false, rates: [] };
    const [rate, failures] = list.length > 1 ? rates(since(list, RATE_MS), now) : [null, null];
    const before = since(list, MEAN_MS);
    const recent = now.success > before.success;
    const base = recent ? before : ZERO;
    const answers = between(base.answers, now.answers);
    const [p50, p99] = [0.5, 0.99].map((share) => quantile(answers, share, this.bounds));
    return { rate, failures, ...means(base, now), p50, p99, answers, recent, rates: steps(list) };
  }
}

const ZERO = { success: 0, failed: 0, hits: 0, rows: 0, batches: 0, batchRows: 0, queue: 0, compute: 0, answers: [] };

function summed(counts) {
  return {
    success: counts.success,
    failed: counts.failed,
    hits: counts.cache_hits,
    batches: counts.batches.reduce((sum, each) => sum + each.count, 0),
    batchRows: counts.batches.reduce((sum, each) => sum + each.count * each.rows, 0),
    queue: counts.queue_ns,
    compute: counts.compute_ns,
    answers: counts.answers ?? [],
  };
}

// The oldest sample that is at most so old, but one of at least two.
function since(list, ms) {
  const from = list.at(-1).at - ms;
  return list.slice(0, -1).find((sample) => sample.at >= from) ?? list.at(-2) ?? list.at(-1);
}

function rates(before, now) {
  const seconds = (now.at - before.at) / 1000;
  return seconds > 0 ? [(now.success - before.success) / seconds, (now.failed - before.failed) / seconds] : [null, null];
}

function means(before, now) {
  const answers = now.success - before.success;
  const computed = answers - (now.hits - before.hits);
  const batches = now.batches - before.batches;
  return {
    rows: batches > 0 ? (now.batchRows - before.batchRows) / batches : null,
    queue: answers > 0 ? (now.queue - before.queue) / answers / 1e6 : null,
    compute: computed > 0 ? (now.compute - before.compute) / computed / 1e6 : null,
  };
}

function steps(list) {
  return list.slice(1).map((sample, place) => ({ at: sample.at, rate: rates(list[place], sample)[0] ?? 0 }));
}
