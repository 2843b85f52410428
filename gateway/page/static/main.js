// The page: asks the server every two seconds what there is, and shows it.

import { problems, showProblems } from "./attention.js";
import { Away, Refused, call, getJson, hasKey, useKey } from "./api.js";
import { showDetails } from "./details.js";
import { byId, setClass, setHidden, setText } from "./dom.js";
import { ModelTable, showTotals, showWorkers } from "./fleet.js";
import { History, keyOf } from "./history.js";
import { Trying } from "./trying.js";
import { NOTHING } from "./units.js";

const EVERY_MS = 2000;
const PER_POLL = 10; // the pause is at least so many times as long as a poll takes
const LONGEST_PAUSE_MS = 30_000;

const history = new History();
const table = new ModelTable(choose);
const trying = new Trying(() => askForKey("The key is missing or wrong."));
let known = null;
let lanes = null; // what waits, by version; null if the broker does not say
let lanesAsked = false;
let lanesFrom = 0;
let chosen = fromAddress();
let timer = 0;
let failures = 0;
let asking = false;

// --- polling -----------------------------------------------------------------------------------------------------

async function poll() {
  clearTimeout(timer);
  if (asking || document.hidden) return;
  asking = true;
  let again = EVERY_MS;
  const began = performance.now();
  try {
    backlogs(); // without waiting: a broker that is away takes its time
    known = await getJson("v2/fleet/models");
    failures = 0;
    history.take(known);
    show();
    again = pauseAfter(began);
  } catch (error) {
    again = failed(error);
  } finally {
    asking = false;
  }
  if (again && !document.hidden) timer = setTimeout(poll, again);
}

// The pause until the next call of a kind: longer where thousands of models, or a slow network, make calls long.
const pauseAfter = (began) => Math.min(LONGEST_PAUSE_MS, Math.max(EVERY_MS, PER_POLL * (performance.now() - began)));

async function backlogs() {
  const began = performance.now();
  if (lanesAsked || began < lanesFrom) return;
  lanesAsked = true;
  try {
    lanes = (await getJson("v2/fleet/scaling", LONGEST_PAUSE_MS)).models;
  } catch {
    lanes = null;
  }
  lanesAsked = false;
  lanesFrom = performance.now() + pauseAfter(began) - EVERY_MS;
  if (known && !byId("fleet").hidden) show();
}

// Says that the server is away, or refuses; returns the pause until the next try, 0 for none.
function failed(error) {
  if (error instanceof Refused && error.status === 401) {
    askForKey(hasKey() ? "The server does not take this key." : "");
    return 0;
  }
  if (!(error instanceof Refused || error instanceof Away)) reportError(error); // a fault of this page: it is in the console
  failures += 1;
  const pause = Math.min(LONGEST_PAUSE_MS, EVERY_MS * 2 ** (failures - 1));
  const why = error instanceof Refused ? `The server cannot tell: ${error.message}`
    : error instanceof Away ? "The server is away" : `This page cannot show what the server says (${error.message})`;
  connection("away", `${why}; trying again in ${pause / 1000} s.${known ? " What is shown is old." : ""}`);
  return pause;
}

// A tab may be opened in the background.
function onVisibility() {
  if (document.hidden) {
    clearTimeout(timer);
    connection("", "Paused while this tab is hidden.");
  } else poll();
}

document.addEventListener("visibilitychange", onVisibility);
window.addEventListener("online", poll);

function connection(state, words) {
  setClass(byId("connection"), `connection ${state}`);
  setText(byId("connection"), words);
}

// --- showing -----------------------------------------------------------------------------------------------------

const figures = new Map();

function figuresOf(model) {
  const key = keyOf(model);
  if (!figures.has(key)) figures.set(key, history.figures(model));
  return figures.get(key);
}

const lanesOf = (model) => (lanes ?? []).filter((lane) => lane.model === model.name && lane.version === model.version);

function waitingOf(model) {
  return lanes && lanesOf(model).reduce((sum, lane) => sum + lane.backlog_requests, 0);
}

function show() {
  const fresh = byId("fleet").hidden;
  figures.clear();
  connection("live", "Live");
  setHidden(byId("key-form"), true);
  setHidden(byId("fleet"), false);
  setHidden(byId("forget"), !hasKey());
  showMetrics(known.metrics);
  const { models, workers } = known;
  chosen = nearest(models);
  const waiting = lanes && lanes.reduce((sum, lane) => sum + lane.backlog_requests, 0);
  showTotals(models, figuresOf, waiting, workers, history.bounds);
  if (known.problem) setText(byId("total-workers"), NOTHING.value); // then nobody looks at heartbeats
  table.show(models, figuresOf, waitingOf, chosen);
  showProblems(problems(known, figuresOf, waitingOf), (key) => choose(key, true));
  showWorkers(known);
  showChosen();
  if (fresh) table.reveal(chosen); // the address may name one far below
  if (!byId("version").textContent) showVersion();
}

// The chosen version if it is there, else another one of its model, else the first that is ready.
function nearest(models) {
  const name = chosen.split("\0")[0];
  const found = models.find((model) => keyOf(model) === chosen) ?? models.findLast((model) => model.name === name)
    ?? models.find((model) => model.state === "READY") ?? models[0];
  return found ? keyOf(found) : "";
}

function showChosen() {
  const model = known.models.find((each) => keyOf(each) === chosen);
  setHidden(byId("chosen"), !model);
  if (!model) return;
  showDetails(model, figuresOf(model), lanesOf(model), known.now_ms);
  const versions = known.models.filter((each) => each.name === model.name && each.state === "READY");
  trying.show(model, versions.length > 1 ? model.version : "");
}

function choose(key, byKeyboard) {
  chosen = key;
  const [name, version] = key.split("\0");
  window.history.replaceState(null, "", `#${new URLSearchParams({ model: name, version })}`);
  show();
  if (byKeyboard) byId("chosen-title").focus();
}

function fromAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  return asked.has("model") ? `${asked.get("model")}\0${asked.get("version") ?? ""}` : "";
}

window.addEventListener("hashchange", () => {
  const asked = fromAddress();
  if (asked && asked !== chosen && known) {
    chosen = asked;
    show();
  }
});

async function showVersion() {
  try {
    setText(byId("version"), (await getJson("v2")).version);
  } catch {
    // it is shown after the next poll
  }
}

function showMetrics(at) {
  setHidden(byId("metrics"), !at);
  setHidden(byId("no-metrics"), Boolean(at));
  if (!at) return;
  const port = at.slice(at.lastIndexOf(":") + 1);
  const host = at.slice(0, -port.length - 1);
  const anywhere = host === "0.0.0.0" || host === "[::]" || host === "";
  byId("metrics").href = `http://${anywhere ? location.hostname : host}:${port}/metrics`;
  const here = location.hostname === "localhost" || location.hostname.startsWith("127.") || location.hostname === "[::1]";
  const loopback = host === "localhost" || host.startsWith("127.") || host === "[::1]";
  byId("metrics").title = loopback && !here ? "only the gateway's own machine reaches this address" : "";
}

// --- the key -----------------------------------------------------------------------------------------------------

function askForKey(problem) {
  clearTimeout(timer);
  connection("", "Waiting for the API key.");
  setHidden(byId("fleet"), true);
  setHidden(byId("key-form"), false);
  setHidden(byId("forget"), true);
  setText(byId("key-problem"), problem);
  byId("key").value = "";
  byId("key").focus();
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = byId("key").value.trim();
  if (!/^[\x20-\x7e]+$/.test(key)) {
    setText(byId("key-problem"), "A key is printable ASCII.");
    return;
  }
  useKey(key);
  poll();
});

byId("forget").addEventListener("click", () => {
  useKey("");
  known = null;
  poll();
});

// A link cannot carry the key.
byId("openapi").addEventListener("click", async (event) => {
  if (!hasKey()) return;
  event.preventDefault();
  const document_ = await (await call("openapi.json")).blob();
  window.open(URL.createObjectURL(document_), "_blank", "noopener");
});

onVisibility();
