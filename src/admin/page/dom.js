// Elements out of data, and how values read. Text goes in as text: no value ever becomes markup.

const SVG = "http://www.w3.org/2000/svg";
const DRAWN = new Set(["svg", "path", "g", "title", "desc"]);

// An element: its name, attributes, children; none of null, undefined and false is there.
export function h(name, attributes, ...children) {
  const drawn = DRAWN.has(name);
  const element = drawn ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    // Styles go past the parser: the page's policy takes none that are written as text.
    if (key === "style") for (const [property, to] of Object.entries(value)) element.style.setProperty(property, to);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

// Makes what is there into what should be there and touches nothing else, so that focus, selection and scroll stay.
export function morph(present, wanted) {
  const olds = [...present.childNodes];
  const news = [...wanted.childNodes];
  news.forEach((fresh, place) => {
    const old = olds[place];
    if (!old) return present.append(fresh);
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || old.id !== fresh.id) return old.replaceWith(fresh);
    if (old.nodeType === Node.TEXT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return;
    }
    for (const { name } of [...old.attributes]) if (name !== "style" && name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes) if (name !== "style" && old.getAttribute(name) !== value) old.setAttribute(name, value);
    if (old.style.cssText !== fresh.style.cssText) old.style.cssText = fresh.style.cssText;
    if (!old.hasAttribute("data-own")) morph(old, fresh);
  });
  olds.slice(news.length).forEach((old) => old.remove());
}

export const share = (ppm) => `${trim((ppm ?? 0) / 1e4)}%`;
export const percent = (value) => (value === null || value === undefined ? "–" : `${trim(value * 100, 2)}%`);
export const rate = (value) => (value === null || value === undefined ? "–" : `${(value * 100).toFixed(2)}%`);
export const count = (value) => Number(value ?? 0).toLocaleString("en-US");

// Weights are as fine as a part per million; what is measured is not.
function trim(value, small = 4) {
  const digits = value >= 1 && small < 4 ? 1 : small;
  return String(Number(value.toFixed(digits)));
}

export function rps(value) {
  const rate = value ?? 0;
  return rate >= 100 ? count(Math.round(rate)) : rate.toFixed(1);
}

export function ms(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 10000) return `${(value / 1000).toFixed(1)} s`;
  return value >= 100 ? `${Math.round(value)} ms` : `${value.toFixed(1)} ms`;
}

// A value of a criterion in the unit that it is held in.
export function held(value, unit) {
  if (value === null || value === undefined) return "–";
  if (unit === "ratio") return rate(value);
  if (unit === "ms") return ms(value);
  if (unit === "bytes") return `${(value / 1e6).toFixed(1)} MB`;
  return Number.isInteger(value) ? count(value) : String(Number(value.toPrecision(4)));
}

// A span of seconds in its two largest units.
export function span(seconds) {
  const parts = [["d", 86400], ["h", 3600], ["m", 60], ["s", 1]];
  let rest = Math.max(0, Math.round(seconds ?? 0));
  const said = [];
  for (const [unit, size] of parts) {
    const whole = Math.floor(rest / size);
    rest -= whole * size;
    if (whole > 0 && said.length < 2) said.push(`${whole}${unit}`);
    else if (said.length > 0) break;
  }
  return said.join(" ") || "0s";
}

// A moment in UTC as weir writes it; the day where it is not today.
export function moment(time) {
  const text = typeof time === "string" ? time : new Date(time).toISOString();
  const today = new Date().toISOString().slice(0, 10);
  return text.slice(0, 10) === today ? text.slice(11, 19) : `${text.slice(5, 10)} ${text.slice(11, 16)}`;
}

export const words = (text) => String(text ?? "").replaceAll("_", " ");
