// Numbers as people read them. Pure.

const ENGLISH = "en-US";
const whole = new Intl.NumberFormat(ENGLISH, { maximumFractionDigits: 0 });
const digits = [0, 1, 2, 3].map((count) => new Intl.NumberFormat(ENGLISH, { maximumFractionDigits: count, minimumFractionDigits: count }));

export const NOTHING = { value: "–", unit: "" };

export const count = (number) => ({ value: whole.format(number), unit: "" });

// About three digits that mean something.
export function short(number) {
  const size = Math.abs(number);
  if (number === 0) return "0";
  if (size >= 100) return whole.format(number);
  return digits[size >= 10 ? 1 : size >= 0.095 ? 2 : 3].format(number);
}

export function perSecond(rate) {
  return rate === null ? NOTHING : { value: short(rate), unit: "/s" };
}

// A duration, given in milliseconds.
export function duration(ms) {
  if (ms === null || ms === undefined) return NOTHING;
  if (ms >= 1e3) return { value: short(ms / 1e3), unit: "s" };
  return ms >= 0.1 || ms === 0 ? { value: short(ms), unit: "ms" } : { value: short(ms * 1e3), unit: "µs" };
}

const HIDDEN = /[\0-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069\ufeff]/g;

// Text of strangers without what hides in it or turns it round: control characters, and Unicode's overrides of the direction.
export const visible = (words) => words.replace(HIDDEN, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);

// A text as JSON and Python write it, in which nothing hides either.
export const literal = (words) => visible(JSON.stringify(words));

export const text = ({ value, unit }) => (unit ? `${value} ${unit}` : value);

export function share(part, all) {
  const percent = all ? (100 * part) / all : 0;
  return percent > 0 && percent < 1 ? "<1 %" : `${Math.round(percent)} %`;
}

// A shape; a size that is free is "any".
export const shape = (sizes) => (sizes.length ? sizes.map((size) => (size < 0 ? "any" : String(size))).join(" × ") : "a single value");
