// What somebody who looks after the fleet should see first. `problems` is pure.

import { byId, make, setHidden, setText } from "./dom.js";
import { keyOf } from "./history.js";
import { count, perSecond, text, visible } from "./units.js";
import { isLive, isSilent, stateOf } from "./words.js";

const MOST = 5;
const LONGEST = 200;

// Each {model: the version or null, words}. Reasons of other things are told by `penstock status` and `penstock doctor`.
export function problems({ models, workers, problem }, figuresOf, waitingOf) {
  const found = [];
  if (problem) found.push({ model: null, words: `This gateway is not ready: ${first(problem)}. What is shown of workers is old, and calls are refused.` });
  for (const model of models) {
    const say = (words) => found.push({ model, words });
    const waiting = waitingOf(model) ?? 0;
    const failures = figuresOf(model).failures ?? 0;
    if (stateOf(model) === "UNAVAILABLE") say(`cannot be served: ${first(model.reason)}`);
    else if (model.state === "READY" && model.reason) say(`is not ready: ${first(model.reason)}`);
    if (waiting && !model.workers) say(`has no worker, and ${text(count(waiting))} ${waiting === 1 ? "request waits" : "requests wait"}`);
    if (failures > 0) say(`has failures: ${text(perSecond(failures))}`);
  }
  if (problem) return found;
  if (models.length && !workers.some(isLive)) found.push({ model: null, words: "No worker is live: requests wait in the log until one comes." });
  for (const worker of workers) {
    if (isSilent(worker)) found.push({ model: null, words: `Worker ${visible(worker.worker)} is silent; its peers take over its requests.` });
  }
  return found;
}

function first(reason) {
  const line = visible(reason.split("\n").find((each) => each.trim()) ?? "no reason is given");
  return line.length > LONGEST ? `${line.slice(0, LONGEST)}…` : line;
}

// Show them above the models; a screen reader is told how many there are, when that changes.
export function showProblems(found, choose) {
  setHidden(byId("attention"), !found.length);
  setText(byId("attention-told"), found.length ? `${found.length === 1 ? "One thing needs" : `${found.length} things need`} attention.` : "");
  const list = byId("attention-list");
  const left = found.length - MOST;
  const shown = [...found.slice(0, MOST), ...(left > 0 ? [{ model: null, words: `and ${left} more; the filter finds them by their state` }] : [])];
  const items = [...list.children];
  shown.forEach(({ model, words }, place) => {
    const key = model ? keyOf(model) : "";
    let item = items[place];
    if (!item || item.dataset.key !== key) {
      const made = make("li", { "data-key": key }, ...(model ? [link(model, () => choose(key)), " "] : []), make("span"));
      if (item) item.replaceWith(made);
      else list.append(made);
      item = made;
    }
    setText(item.lastElementChild, words);
  });
  for (const item of items.slice(shown.length)) item.remove();
}

function link(model, choose) {
  const button = make("button", { type: "button", class: "link" }, make("bdi", {}, visible(model.name)), model.version ? ` version ${model.version}` : "");
  button.addEventListener("click", choose);
  return button;
}
