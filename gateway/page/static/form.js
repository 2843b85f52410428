// The form of one model: a group of fields for each input, and what they say as values of a request.

import { make } from "./dom.js";
import { SCALES, imageLayout, pixels, readImage, shapeFor } from "./image.js";
import { Problem, elements, isInteger, isText, literals, madeUp, parseNumbers, parseShape } from "./tensors.js";
import { shape as shapeText, visible } from "./units.js";

const TYPED = 32; // made-up values up to this many are put into the text field, to be changed
const MOST_BYTES = 64 * 1024 * 1024;

let made = 0;

// One input. `read()` returns {name, datatype, shape, values}, or null for an optional one that is not sent.
class InputField {
  constructor(spec, changed) {
    this.spec = spec;
    this.changed = changed;
    this.id = `input-${(made += 1)}`;
    this.layout = isText(spec.datatype) ? null : imageLayout(spec.shape);
    this.shape = spec.shape.map((size) => (size === -1 ? 1 : size));
    this.file = null;
    this.node = this.build();
    this.show();
  }

  build() {
    const { spec, id } = this;
    this.problem = make("p", { class: "problem", id: `${id}-problem`, role: "alert" });
    this.sent = make("input", { type: "checkbox", id: `${id}-sent`, checked: true });
    this.source = make("select", { id: `${id}-source` }, ...this.sources().map(([value, text]) => make("option", { value }, text)));
    this.sizes = make("input", { type: "text", id: `${id}-shape`, value: this.shape.join(", "), spellcheck: "false", autocomplete: "off" });
    this.text = make("textarea", { id: `${id}-text`, rows: String(this.lines()), spellcheck: "false", "aria-describedby": `${id}-problem` });
    this.textLabel = make("label", { for: `${id}-text` });
    this.picker = make("input", { type: "file", id: `${id}-file`, ...(isText(spec.datatype) ? {} : { accept: "image/*" }) });
    this.scale = make("select", { id: `${id}-scale` }, ...Object.entries(SCALES).map(([value, { label }]) => make("option", { value }, label)));
    this.scale.value = isInteger(spec.datatype) ? "bytes" : "unit";
    this.order = make("select", { id: `${id}-order` }, make("option", { value: "rgb" }, "RGB"), make("option", { value: "bgr" }, "BGR"));
    this.canvas = make("canvas", { class: "preview", role: "img", width: "0", height: "0", hidden: true });
    const labelled = (label, control) => make("label", { for: control.id }, make("span", {}, label), control);
    this.fileChoices = make("div", { class: "choices" }, labelled("File", this.picker));
    if (!isText(spec.datatype)) this.fileChoices.append(labelled("Pixels become", this.scale));
    if (this.layout?.channels > 1) this.fileChoices.append(labelled("Colours", this.order));
    const choices = make("div", { class: "choices" });
    if (spec.optional) choices.append(make("label", { for: this.sent.id }, this.sent, make("span", {}, "send this optional input")));
    choices.append(labelled("Values from", this.source));
    if (spec.shape.includes(-1)) choices.append(labelled("Shape", this.sizes));
    this.typed = make("div", { class: "typed" }, this.textLabel, this.text);
    const node = make(
      "fieldset", {},
      make("legend", {}, make("bdi", {}, visible(spec.name)), make("span", { class: "muted" }, ` ${spec.datatype}, ${shapeText(spec.shape)}`)),
      choices, this.typed, this.fileChoices, this.canvas, this.problem,
    );
    this.preset();
    node.addEventListener("input", (event) => this.onInput(event));
    return node;
  }

  // Lines of the text field: texts and long lists need more.
  lines() {
    return isText(this.spec.datatype) || elements(this.shape) > 8 ? 3 : 1;
  }

  sources() {
    if (isText(this.spec.datatype)) return [["typed", "text, one value per line"], ["file", "a file's bytes"]];
    return [["typed", "numbers"], ["random", "made-up numbers"], ["zeros", "zeros"], ...(this.layout ? [["file", this.layout.flat ? `an image file, ${this.layout.flat} × ${this.layout.flat} grey` : "an image file"]] : [])];
  }

  preset() {
    const { datatype } = this.spec;
    const count = elements(this.shape);
    if (isText(datatype)) this.text.value = Array(Math.min(count, TYPED)).fill("hello").join("\n");
    else if (count <= TYPED) this.text.value = literals(madeUp(datatype, count), datatype).join(", ");
    else this.source.value = "random";
  }

  onInput(event) {
    if (event.target === this.source) this.show();
    if (event.target === this.picker) {
      this.take(this.picker.files[0]).then(this.changed);
      return;
    }
    if (event.target === this.text) this.fitShape();
    this.complain("");
    this.changed();
  }

  // Only what belongs to the chosen source is shown.
  show() {
    const source = this.source.value;
    this.typed.hidden = source !== "typed";
    this.fileChoices.hidden = source !== "file";
    this.canvas.hidden = source !== "file" || !this.file || isText(this.spec.datatype);
    this.textLabel.textContent = isText(this.spec.datatype) ? "One value per line" : "Numbers, separated by commas or blanks";
    this.textLabel.className = "muted";
  }

  async take(file) {
    this.file = null;
    this.complain("");
    if (!file) return;
    try {
      if (isText(this.spec.datatype)) {
        if (file.size > MOST_BYTES) throw new Problem("this file has more than 64 MB");
        this.file = new Uint8Array(await file.arrayBuffer());
      } else {
        this.file = await readImage(file);
        this.setShape(shapeFor(this.spec.shape, this.layout, this.file));
        this.draw();
      }
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      this.complain(error.message);
    }
    this.show();
  }

  setShape(shape) {
    this.shape = shape;
    this.sizes.value = shape.join(", ");
  }

  // With one free size, the number of typed values says what it is.
  fitShape() {
    const free = this.spec.shape.flatMap((size, place) => (size === -1 ? [place] : []));
    if (free.length !== 1) return;
    const others = elements(this.spec.shape.filter((size) => size !== -1));
    const count = this.countTyped();
    if (count > 0 && others > 0 && count % others === 0) this.setShape(this.spec.shape.map((size) => (size === -1 ? count / others : size)));
  }

  countTyped() {
    if (isText(this.spec.datatype)) return this.text.value.split("\n").length;
    return this.text.value.replace(/[[\](){}]/g, " ").split(/[\s,;]+/).filter(Boolean).length;
  }

  draw() {
    const numbers = pixels(this.file, this.canvas, this.shape, this.layout, this.scale.value, this.order.value === "bgr");
    this.canvas.setAttribute("aria-label", `The image as the model gets it, ${this.canvas.width} by ${this.canvas.height} pixels`);
    return isInteger(this.spec.datatype) ? numbers.map(Math.round) : numbers.map(Math.fround);
  }

  complain(message) {
    this.problem.textContent = message;
    const fields = [this.text, this.sizes, this.picker];
    for (const field of fields) field.removeAttribute("aria-invalid");
    if (message) this.culprit().setAttribute("aria-invalid", "true");
  }

  culprit() {
    return this.source.value === "typed" ? this.text : this.source.value === "file" ? this.picker : this.sizes;
  }

  read() {
    const { name, datatype } = this.spec;
    if (this.spec.optional && !this.sent.checked) return null;
    if (this.spec.shape.includes(-1)) this.shape = parseShape(this.sizes.value, this.spec.shape.length);
    const values = this.values();
    const all = values.literals ?? values.numbers ?? values.texts ?? values.files;
    if (all.length !== elements(this.shape)) {
      throw new Problem(`shape ${shapeText(this.shape)} needs ${elements(this.shape)} values, and there are ${all.length}`);
    }
    return { name, datatype, shape: this.shape, values };
  }

  values() {
    const { datatype } = this.spec;
    const source = this.source.value;
    const count = elements(this.shape);
    if (source === "random") return { numbers: madeUp(datatype, count) };
    if (source === "zeros") return { numbers: new Float64Array(count) };
    if (source === "file") {
      if (!this.file) throw new Problem(isText(datatype) ? "choose a file" : "choose an image file");
      return isText(datatype) ? { files: [this.file] } : { numbers: this.draw() };
    }
    return isText(datatype) ? { texts: this.text.value.split("\n") } : { literals: parseNumbers(this.text.value, datatype) };
  }
}

// The fields of all inputs of a model.
export class RequestForm {
  // Whether sizes besides the batch's were guessed: others may fit a model that refuses these.
  get guesses() {
    return this.fields.some(({ spec, source }) => spec.shape.slice(1).includes(-1) && source.value !== "file");
  }

  constructor(frame, specs, changed) {
    this.fields = specs.map((spec) => new InputField(spec, changed));
    frame.replaceChildren(...this.fields.map((field) => field.node));
  }

  // The inputs of a request. With `focus`, the first field that has a problem says so and gets the focus.
  read({ focus = false } = {}) {
    const inputs = [];
    for (const field of this.fields) {
      try {
        const input = field.read();
        if (input) inputs.push(input);
        field.complain("");
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
        if (focus) {
          field.complain(error.message);
          field.culprit().focus();
        }
        throw error;
      }
    }
    return inputs;
  }
}
