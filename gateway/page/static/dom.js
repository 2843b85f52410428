// Nodes. Strings of others (names, answers, errors) only ever become text: nothing here, or elsewhere, parses markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

// A new element; `attributes` by name, children are nodes or text.
export function make(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function makeSvg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

// Set text, an attribute or a class only if it changes: readers are not told, and nothing is laid out, for nothing.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setHidden(node, hidden) {
  if (node.hidden !== hidden) node.hidden = hidden;
}

export function setClass(node, names) {
  if (node.className !== names) node.className = names;
}

// A number and its unit, which is smaller.
export function setMeasure(node, { value, unit }) {
  const text = unit ? `${value} ${unit}` : value;
  if (node.textContent === text) return;
  node.replaceChildren(value, ...(unit ? [make("span", { class: "unit" }, ` ${unit}`)] : []));
}
