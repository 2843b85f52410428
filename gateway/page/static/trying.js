// Sends the form's request and shows the answer, and the same request for other places.

import { Away, Refused, call, hasKey, urlOf } from "./api.js";
import { errorNodes, outputNodes, timingNodes } from "./answer.js";
import { byId, make, setHidden, setText } from "./dom.js";
import { RequestForm } from "./form.js";
import { bodyOf, decode, encode, inferPath } from "./request.js";
import { FILE, snippets } from "./snippets.js";
import { Problem } from "./tensors.js";
import { duration, text } from "./units.js";

const SLOW_MS = 2000;
const GUESSED = "The model leaves sizes free and may want others: type them at Shape, or let penstock infer --random find some.";

export class Trying {
  constructor(refused) {
    this.refused = refused; // told of an answer 401
    this.shown = "";
    this.flight = null;
    byId("try").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    byId("cancel").addEventListener("click", () => this.flight?.abort());
    byId("save").addEventListener("click", () => this.save());
    for (const button of document.querySelectorAll("button.copy")) button.addEventListener("click", () => copy(button));
  }

  // Show the form of a model; what has been typed stays as long as the model takes the same inputs.
  show(model, version) {
    this.model = model;
    this.version = version;
    setHidden(byId("elsewhere-title").parentElement, !model.inputs.length);
    setHidden(byId("try-title").parentElement, !model.inputs.length);
    const shown = JSON.stringify([model.name, model.version, version, model.inputs, model.outputs, hasKey()]);
    if (shown === this.shown) return;
    this.shown = shown;
    this.flight?.abort();
    this.form = new RequestForm(byId("inputs"), model.inputs, () => this.print());
    setHidden(byId("answer"), true);
    setText(byId("try-problem"), "");
    setText(byId("sending"), "");
    this.print();
  }

  print() {
    try {
      const { name, outputs } = this.model;
      const url = urlOf(inferPath(name, this.version));
      const base = urlOf("").replace(/\/$/, "");
      const made = snippets({ url, base, model: name, version: this.version, inputs: this.form.read(), outputs, keyed: hasKey() });
      setText(byId("curl"), made.curl);
      setText(byId("python"), made.python);
      this.saved = made.saved;
      setHidden(byId("body-note"), made.saved === null);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      for (const id of ["curl", "python"]) setText(byId(id), `# not yet: ${error.message.replace(/\s+/g, " ")}`);
      setHidden(byId("body-note"), true);
    }
  }

  async send() {
    if (this.flight) return;
    setText(byId("try-problem"), "");
    let body;
    try {
      body = bodyOf(encode(this.form.read({ focus: true }), true));
    } catch (error) {
      if (error instanceof Problem) return;
      throw error;
    }
    this.print();
    const flight = (this.flight = new AbortController());
    this.busy(true);
    const began = performance.now();
    try {
      const path = inferPath(this.model.name, this.version);
      const response = await call(path, { method: "POST", body: body.bytes, headers: body.headers, signal: flight.signal });
      const bytes = new Uint8Array(await response.arrayBuffer());
      const took = performance.now() - began;
      const answer = decode(bytes, response.headers.get("Inference-Header-Content-Length"));
      this.answered(`Answered in ${text(duration(took))}`, outputNodes(answer.outputs), timingNodes(response.headers.get("Penstock-Timing"), took), "Answer");
    } catch (error) {
      this.failed(error, performance.now() - began);
    } finally {
      this.flight = null;
      this.busy(false);
    }
  }

  failed(error, took) {
    if (error.name === "AbortError") {
      setText(byId("sending"), "Cancelled.");
    } else if (error instanceof Refused) {
      const aboutInputs = error.code === "INVALID_ARGUMENT" || error.code === "MODEL_FAILED";
      const hint = aboutInputs && this.form.guesses ? [make("p", { class: "muted" }, GUESSED)] : [];
      this.answered(`Refused after ${text(duration(took))}`, [...errorNodes(error), ...hint], error.timing ? timingNodes(error.timing, took) : []);
      if (error.status === 401) this.refused();
    } else {
      const message = error instanceof Away ? "The server does not answer. Is it still running?" : `The answer cannot be read: ${error.message}`;
      this.answered("No answer", errorNodes({ message }));
    }
  }

  // Show outputs or an error, and the timing if there is one.
  answered(words, outputs, timing = [], title = "Error") {
    setText(byId("sending"), words);
    setText(byId("answer-title"), title);
    byId("outputs").replaceChildren(...outputs);
    byId("timing").replaceChildren(...timing);
    setHidden(byId("timing-part"), !timing.length);
    setHidden(byId("answer"), false);
  }

  busy(on) {
    byId("send").disabled = on;
    setHidden(byId("cancel"), !on);
    clearInterval(this.clock);
    setText(byId("elapsed"), "");
    const began = performance.now();
    const tell = () => setText(byId("elapsed"), performance.now() - began < SLOW_MS ? "" : `${Math.round((performance.now() - began) / 1000)} s`);
    if (on) this.clock = setInterval(tell, 1000);
    if (on) setText(byId("sending"), "Sending…");
    else if (document.activeElement === document.body) byId("send").focus(); // the button was disabled while it had the focus
  }

  save() {
    const url = URL.createObjectURL(new Blob([this.saved], { type: "application/octet-stream" }));
    const link = make("a", { href: url, download: FILE });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
    setText(byId("copied"), `Saved as ${FILE}.`);
  }
}

async function copy(button) {
  const source = byId(button.dataset.copies);
  try {
    await navigator.clipboard.writeText(source.textContent);
    setText(byId("copied"), "Copied.");
  } catch {
    getSelection().selectAllChildren(source); // browsers copy for pages of this machine or of HTTPS only
    setText(byId("copied"), "This browser does not let the page copy: the text is selected, press Ctrl+C.");
  }
}
