// Values of tensors: read from text, made up, packed into V2's raw bytes and unpacked. Pure.

// What is wrong with what somebody has typed.
export class Problem extends Error {}

const INTEGERS = {
  UINT8: [0n, 255n], UINT16: [0n, 65535n], UINT32: [0n, 2n ** 32n - 1n], UINT64: [0n, 2n ** 64n - 1n],
  INT8: [-128n, 127n], INT16: [-32768n, 32767n], INT32: [-(2n ** 31n), 2n ** 31n - 1n], INT64: [-(2n ** 63n), 2n ** 63n - 1n],
};
const SIZES = {
  BOOL: 1, UINT8: 1, UINT16: 2, UINT32: 4, UINT64: 8, INT8: 1, INT16: 2, INT32: 4, INT64: 8, FP16: 2, BF16: 2, FP32: 4, FP64: 8,
};
const LARGEST = { FP16: 65504, BF16: 3.39e38, FP32: 3.4028235e38, FP64: Number.MAX_VALUE };
const MOST = 16 * 1024 * 1024;

export const isText = (datatype) => datatype === "BYTES";
export const isInteger = (datatype) => datatype in INTEGERS;
// JSON cannot carry these.
export const isRawOnly = (datatype) => datatype === "FP16" || datatype === "BF16";

export const elements = (shape) => shape.reduce((product, size) => product * size, 1);

// A shape as people type it: "1, 3, 224, 224".
export function parseShape(text, rank) {
  const parts = text.replace(/[[\]()]/g, " ").split(/[\s,×x]+/).filter(Boolean);
  if (parts.some((part) => !/^\d{1,9}$/.test(part))) throw new Problem("a shape is a list of sizes, such as 1, 3, 224, 224");
  if (parts.length !== rank) throw new Problem(`the shape needs ${rank} sizes, and has ${parts.length}`);
  const shape = parts.map(Number);
  if (elements(shape) > MOST) throw new Problem(`this page sends at most ${MOST} values`);
  return shape;
}

// Numbers as people type them, with or without commas and brackets, as JSON's literals. 64-bit integers keep every digit.
export function parseNumbers(text, datatype) {
  const words = text.replace(/[[\](){}]/g, " ").split(/[\s,;]+/).filter(Boolean);
  if (words.length > MOST) throw new Problem(`this page sends at most ${MOST} values`);
  return words.map((word) => literal(word, datatype));
}

function literal(word, datatype) {
  if (datatype === "BOOL") {
    const lower = word.toLowerCase();
    if (lower === "true" || lower === "1") return "true";
    if (lower === "false" || lower === "0") return "false";
    throw new Problem(`“${cut(word)}” is neither true nor false`);
  }
  if (isInteger(datatype)) {
    if (!/^[-+]?\d{1,20}$/.test(word)) throw new Problem(`“${cut(word)}” is not an integer, and the datatype is ${datatype}`);
    const [low, high] = INTEGERS[datatype];
    const number = BigInt(word.replace("+", ""));
    if (number < low || number > high) throw new Problem(`${word} is outside the range of ${datatype}: ${low} to ${high}`);
    return number.toString();
  }
  const number = /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(word) ? Number(word) : NaN;
  if (Number.isNaN(number)) throw new Problem(`“${cut(word)}” is not a number`);
  if (Math.abs(number) > LARGEST[datatype]) throw new Problem(`${cut(word)} is outside the range of ${datatype}`);
  return String(number);
}

const cut = (word) => (word.length > 40 ? `${word.slice(0, 40)}…` : word);

// Made-up numbers by the table in protocol/random_values.py; the same for the same count, so that a printed request is the one that
// was sent.
export function madeUp(datatype, count) {
  let state = 0x9e3779b9;
  const next = () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  const whole = datatype === "BOOL" || isInteger(datatype);
  const draw = whole ? () => Math.floor(2 * next()) : () => Math.round(1000 * next()) / 1000;
  return Float64Array.from({ length: count }, draw);
}

// JSON's literals of numbers.
export function literals(numbers, datatype) {
  return Array.from(numbers, (number) => (datatype === "BOOL" ? String(number !== 0) : String(number)));
}

// The raw bytes of numbers or of JSON's literals, little-endian.
export function packNumbers(values, datatype) {
  const size = SIZES[datatype];
  const view = new DataView(new ArrayBuffer(size * values.length));
  const put = packers[datatype];
  for (let place = 0; place < values.length; place += 1) put(view, place * size, values[place]);
  return new Uint8Array(view.buffer);
}

const packers = {
  BOOL: (view, at, value) => view.setUint8(at, value === "true" || value === 1 ? 1 : 0),
  UINT8: (view, at, value) => view.setUint8(at, Number(value)),
  UINT16: (view, at, value) => view.setUint16(at, Number(value), true),
  UINT32: (view, at, value) => view.setUint32(at, Number(value), true),
  UINT64: (view, at, value) => view.setBigUint64(at, BigInt(value), true),
  INT8: (view, at, value) => view.setInt8(at, Number(value)),
  INT16: (view, at, value) => view.setInt16(at, Number(value), true),
  INT32: (view, at, value) => view.setInt32(at, Number(value), true),
  INT64: (view, at, value) => view.setBigInt64(at, BigInt(value), true),
  FP16: (view, at, value) => view.setUint16(at, toHalf(Number(value)), true),
  BF16: (view, at, value) => view.setUint16(at, toBrain(Number(value)), true),
  FP32: (view, at, value) => view.setFloat32(at, Number(value), true),
  FP64: (view, at, value) => view.setFloat64(at, Number(value), true),
};

// Texts or files as BYTES: each with its length in front.
export function packBytes(items) {
  const parts = items.map((item) => (typeof item === "string" ? new TextEncoder().encode(item) : item));
  const packed = new Uint8Array(parts.reduce((sum, part) => sum + 4 + part.length, 0));
  const view = new DataView(packed.buffer);
  let at = 0;
  for (const part of parts) {
    view.setUint32(at, part.length, true);
    packed.set(part, at + 4);
    at += 4 + part.length;
  }
  return packed;
}

// At most `most` elements of raw bytes: numbers, integers of 64 bits as BigInt, texts.
export function unpack(bytes, datatype, most) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (isText(datatype)) return unpackBytes(bytes, view, most);
  const size = SIZES[datatype];
  const get = unpackers[datatype];
  const count = Math.min(most, Math.floor(bytes.byteLength / size));
  return Array.from({ length: count }, (_, place) => get(view, place * size));
}

function unpackBytes(bytes, view, most) {
  const found = [];
  for (let at = 0; at + 4 <= bytes.length && found.length < most; ) {
    const length = view.getUint32(at, true);
    found.push(textOf(bytes.subarray(at + 4, at + 4 + length)));
    at += 4 + length;
  }
  return found;
}

function textOf(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return bytes; // no text
  }
}

const unpackers = {
  BOOL: (view, at) => view.getUint8(at) !== 0,
  UINT8: (view, at) => view.getUint8(at),
  UINT16: (view, at) => view.getUint16(at, true),
  UINT32: (view, at) => view.getUint32(at, true),
  UINT64: (view, at) => view.getBigUint64(at, true),
  INT8: (view, at) => view.getInt8(at),
  INT16: (view, at) => view.getInt16(at, true),
  INT32: (view, at) => view.getInt32(at, true),
  INT64: (view, at) => view.getBigInt64(at, true),
  FP16: (view, at) => fromHalf(view.getUint16(at, true)),
  BF16: (view, at) => fromBrain(view.getUint16(at, true)),
  FP32: (view, at) => view.getFloat32(at, true),
  FP64: (view, at) => view.getFloat64(at, true),
};

const wide = new Float32Array(1);
const bitsOf = new Uint32Array(wide.buffer);

export function toHalf(number) {
  wide[0] = number;
  const bits = bitsOf[0];
  const sign = (bits >>> 16) & 0x8000;
  const exponent = ((bits >>> 23) & 0xff) - 112;
  const fraction = bits & 0x7fffff;
  if ((bits & 0x7fffffff) > 0x7f800000) return sign | 0x7e00;
  if (exponent >= 31) return sign | 0x7c00;
  if (exponent <= 0) return exponent < -10 ? sign : sign | rounded(fraction | 0x800000, 14 - exponent);
  return sign + rounded((exponent << 23) | fraction, 13);
}

// Shifted to the right, to the nearest, ties to even.
function rounded(bits, shift) {
  const kept = bits >>> shift;
  const left = bits & ((1 << shift) - 1);
  const middle = 1 << (shift - 1);
  return kept + (left > middle || (left === middle && kept & 1) ? 1 : 0);
}

export function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 31;
  const fraction = bits & 0x3ff;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}

function toBrain(number) {
  wide[0] = number;
  return Number.isNaN(number) ? 0x7fc0 : ((bitsOf[0] + 0x7fff + ((bitsOf[0] >>> 16) & 1)) >>> 16) & 0xffff;
}

function fromBrain(bits) {
  bitsOf[0] = bits << 16;
  return wide[0];
}
