// The same request for a shell and for Python. Pure. The API key is never in them: they read PENSTOCK_API_KEY.

import { bodyOf, encode } from "./request.js";
import { isRawOnly, isText } from "./tensors.js";
import { literal } from "./units.js";

// Bytes of a body that is printed.
const MOST_PRINTED = 4096;
export const FILE = "request.bin";

// A text as one word of a shell.
export const shellWord = (text) => `'${text.replaceAll("'", "'\\''")}'`;

// {curl, python, saved}: `saved` is the body that must be in `FILE` before, or null.
export function snippets({ url, base, model, version, inputs, outputs, keyed }) {
  const binaryOutput = outputs.some((output) => isRawOnly(output.datatype)); // JSON cannot say them
  const encoded = encode(inputs, binaryOutput);
  const { bytes, headers } = bodyOf(encoded);
  const printed = bytes.length <= MOST_PRINTED;
  const arrays = printed && !encoded.tail.length && !binaryOutput;
  return {
    curl: curl(url, encoded, bytes, headers, { keyed, printed, binaryOutput }),
    python: arrays ? withClient(base, model, version, inputs, keyed) : withUrllib(url, bytes, headers, { keyed, printed }),
    saved: printed ? null : bytes,
  };
}

function curl(url, { head, tail }, bytes, headers, { keyed, printed, binaryOutput }) {
  const lines = [`curl -sS ${shellWord(url)}`];
  if (keyed) lines.push('-H "Authorization: Bearer $PENSTOCK_API_KEY"');
  for (const [name, value] of Object.entries(headers)) lines.push(`-H '${name}: ${value}'`);
  const inline = printed && !tail.length;
  lines.push(inline ? `--data-binary ${shellWord(head)}` : printed ? "--data-binary @-" : `--data-binary @${FILE}`);
  if (binaryOutput) lines.push("--output answer.bin");
  const command = lines.join(" \\\n  ");
  return printed && !inline ? `echo ${base64(bytes)} | base64 -d |\n${command}` : command;
}

function base64(bytes) {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

const NUMPY = {
  BOOL: "np.bool_", UINT8: "np.uint8", UINT16: "np.uint16", UINT32: "np.uint32", UINT64: "np.uint64", INT8: "np.int8",
  INT16: "np.int16", INT32: "np.int32", INT64: "np.int64", FP32: "np.float32", FP64: "np.float64", BYTES: "np.object_",
};

function withClient(base, model, version, inputs, keyed) {
  const lines = [...(keyed ? ["import os", ""] : []), "import numpy as np", "", "from penstock import Client", "", "inputs = {"];
  for (const { name, datatype, shape, values } of inputs) {
    lines.push(`    ${literal(name)}: np.array([${list(values, datatype)}], ${NUMPY[datatype]}).reshape(${tuple(shape)}),`);
  }
  lines.push("}");
  const key = keyed ? ', api_key=os.environ["PENSTOCK_API_KEY"]' : "";
  lines.push(`with Client(${literal(base)}${key}) as client:`);
  const which = version ? `, version=${literal(version)}` : "";
  lines.push(`    answer = client.infer(${literal(model)}, inputs${which})`);
  lines.push("for name, values in answer.outputs.items():", "    print(name, values)");
  return lines.join("\n");
}

function list(values, datatype) {
  if (isText(datatype)) return values.texts.map((text) => literal(text)).join(", ");
  const all = values.literals ?? Array.from(values.numbers, String);
  if (datatype !== "BOOL") return all.join(", ");
  return all.map((each) => (each === "true" || each === "1" ? "True" : "False")).join(", ");
}

const tuple = (shape) => `(${shape.join(", ")}${shape.length === 1 ? "," : ""})`;

function withUrllib(url, bytes, headers, { keyed, printed }) {
  const lines = [...(printed ? ["import base64"] : []), ...(keyed ? ["import os"] : []), "import urllib.request"];
  if (!printed) lines.push("from pathlib import Path");
  lines.push("", printed ? `body = base64.b64decode("${base64(bytes)}")` : `body = Path("${FILE}").read_bytes()`, "headers = {");
  for (const [name, value] of Object.entries(headers)) lines.push(`    "${name}": "${value}",`);
  if (keyed) lines.push('    "Authorization": "Bearer " + os.environ["PENSTOCK_API_KEY"],');
  lines.push("}", `request = urllib.request.Request(${literal(url)}, body, headers)`);
  lines.push("with urllib.request.urlopen(request) as answer:", "    print(answer.read()[:2000])");
  return lines.join("\n");
}
