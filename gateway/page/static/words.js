// What codes and headers mean, in words. Pure.

const STATES = { READY: "Ready", LOADING: "Loading", UNLOADING: "Unloading", UNAVAILABLE: "Unavailable", OFF: "Not loaded" };
const WANTED_GONE = /^(unloaded|evicted)/; // begins the reason of a version that somebody, its lease or its disuse has unloaded

// The state of a version: the server's, or OFF for one that is not served because nobody wants it now.
export function stateOf({ state, reason }) {
  return state === "UNAVAILABLE" && (!reason || WANTED_GONE.test(reason)) ? "OFF" : state;
}

const SILENT_MS = 2000; // as `penstock status`

// Whether a worker has been silent for long, and whether it takes requests.
export const isSilent = (worker) => worker.age_ms > SILENT_MS;
export const isLive = (worker) => !isSilent(worker) && !worker.draining;

export const stateWords = (state) => STATES[state] ?? state;

// Why a worker released a batch: `Release` in workers/batching/types.py.
export const RELEASES = {
  preferred: "it had a preferred size",
  full: "it was full",
  closed: "the next request did not fit",
  delay: "its oldest request had waited max_queue_delay",
  no_delay: "an instance was idle, and no max_queue_delay is set",
  backlog: "the log holds enough to fill the next ones",
  age: "its oldest request was old already, and the log was empty",
  deadline: "a request's deadline was near",
  drain: "nothing more would come",
  alone: "the model does not batch",
  batch_lane: "it had rows of the batch lane only",
};

export const released = (reason) => (Object.hasOwn(RELEASES, reason) ? RELEASES[reason] : reason.replaceAll("_", " "));

const STAGES = [
  ["publish", "The gateway handed it to the log"],
  ["fetch", "A worker took it from the log"],
  ["enqueue", "It joined the worker's queue"],
  ["release", "It waited for its batch"],
  ["compute_start", "The batch waited for an instance, its inputs were joined"],
  ["compute_end", "The model ran"],
  ["emit", "The outputs were split and encoded"],
  ["wake", "The answer was stored, the gateway got it"],
];

// `Penstock-Timing`, a dictionary of numbers and words, by name.
export function parseTiming(header) {
  const found = {};
  for (const part of (header ?? "").split(",")) {
    const match = /^\s*([a-z_]+)=(?:"([^"]*)"|([A-Za-z0-9_.-]+))\s*$/.exec(part);
    if (!match) continue;
    const [, name, quoted, plain] = match;
    found[name] = quoted ?? (/^\d+$/.test(plain) ? Number(plain) : plain);
  }
  return found;
}

// How long each stage took, in milliseconds, and a sentence on the batch. A stage that the header leaves out goes into the next one.
export function explain(timing, roundTrip) {
  const stages = [];
  let before = 0;
  for (const [name, words] of STAGES) {
    const at = timing[name];
    if (typeof at !== "number" || at < before) continue;
    const gaps = name === "compute_end" ? at - before - (timing.compute ?? NaN) : NaN;
    if (gaps >= 0) stages.push({ words: "It waited between its batches", ms: gaps / 1000 });
    stages.push({ words, ms: (gaps >= 0 ? timing.compute : at - before) / 1000 });
    before = at;
  }
  const rest = roundTrip - before / 1000;
  if (stages.length && rest >= 0) stages.push({ words: "The network, and this browser", ms: rest });
  return { stages, batch: batch(timing) };
}

function batch({ rows, requests, reason, attempt, digest }) {
  const sentences = [];
  if (typeof rows === "number" && typeof requests === "number") {
    const company = requests === 1 ? "It ran alone" : `It ran together with ${requests - 1} other request${requests === 2 ? "" : "s"}`;
    const because = reason ? `; the batch was released because ${released(String(reason))}` : "";
    sentences.push(`${company}, in a batch of ${rows} row${rows === 1 ? "" : "s"}${because}.`);
  }
  if (reason === "cache_hit") sentences.push("It did not run: the response cache had the answer.");
  if (attempt > 1) sentences.push(`It was attempt ${attempt}: a worker died with it before.`);
  if (digest) sentences.push(`The model's files had digest ${digest}.`);
  return sentences.join(" ");
}
