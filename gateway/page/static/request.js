// A V2 infer request: its body, and its answer. Pure.

import { elements, isRawOnly, isText, literals, packBytes, packNumbers, unpack } from "./tensors.js";
import { literal } from "./units.js";

// Values beyond this many go as raw bytes: they are smaller, and quicker to read.
const MOST_IN_JSON = 1024;
// Elements of an output that are read from an answer; the rest is counted.
export const MOST_READ = 100_000;

// The path of a model's infer route; `version` is "" for the newest.
export function inferPath(model, version) {
  const of = `v2/models/${encodeURIComponent(model)}`;
  return version ? `${of}/versions/${encodeURIComponent(version)}/infer` : `${of}/infer`;
}

// The parts of a body: JSON text, and raw bytes behind it. An input is {name, datatype, shape, values}, and its values are one of
// {literals}, {numbers}, {texts} and {files}.
export function encode(inputs, binaryOutput) {
  const tail = [];
  const entries = inputs.map((input) => entryOf(input, tail));
  const parameters = binaryOutput ? ',"parameters":{"binary_data_output":true}' : "";
  return { head: `{"inputs":[${entries.join(",")}]${parameters}}`, tail };
}

function entryOf({ name, datatype, shape, values }, tail) {
  const start = `{"name":${literal(name)},"datatype":"${datatype}","shape":[${shape.join(",")}]`;
  const raw = values.files !== undefined || isRawOnly(datatype) || elements(shape) > MOST_IN_JSON;
  if (raw) {
    const bytes = isText(datatype) ? packBytes(values.files ?? values.texts) : packNumbers(values.literals ?? values.numbers, datatype);
    tail.push(bytes);
    return `${start},"parameters":{"binary_data_size":${bytes.length}}}`;
  }
  const data = isText(datatype) ? values.texts.map((each) => literal(each)) : values.literals ?? literals(values.numbers, datatype);
  return `${start},"data":[${data.join(",")}]}`;
}

// The bytes and the headers of an encoded body.
export function bodyOf({ head, tail }) {
  const start = new TextEncoder().encode(head);
  if (!tail.length) return { bytes: start, headers: { "Content-Type": "application/json" } };
  const bytes = new Uint8Array(start.length + tail.reduce((sum, part) => sum + part.length, 0));
  bytes.set(start);
  let at = start.length;
  for (const part of tail) {
    bytes.set(part, at);
    at += part.length;
  }
  return {
    bytes,
    headers: { "Content-Type": "application/octet-stream", "Inference-Header-Content-Length": String(start.length) },
  };
}

// The outputs of an answer, {name, datatype, shape, count, values}, with the first `MOST_READ` values.
export function decode(bytes, headerLength) {
  const length = headerLength === null ? bytes.length : Number(headerLength);
  const answer = JSON.parse(new TextDecoder().decode(bytes.subarray(0, length)));
  let at = length;
  const outputs = (answer.outputs ?? []).map(({ name, datatype, shape, data, parameters }) => {
    const size = parameters?.binary_data_size;
    const values = size === undefined ? (data ?? []).slice(0, MOST_READ) : unpack(bytes.subarray(at, at + size), datatype, MOST_READ);
    at += size ?? 0;
    return { name, datatype, shape, count: elements(shape), values };
  });
  return { version: answer.model_version ?? "", outputs };
}
