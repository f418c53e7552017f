// The drawings that weir works out, as elements: the same that the report prints.

import { h, moment } from "./dom.js";

export function charts(history) {
  const drawings = history.charts ?? [];
  if (drawings.length === 0) return h("p", { class: "empty" }, "Nothing has been counted in this time yet.");
  const marked = drawings.some((drawing) => drawing.marks.length > 0);
  return h("div", {},
    h("p", { class: "legend" }, ["stable", "canary"].map((arm) => h("span", {},
      h("svg", { width: 26, height: 8, "aria-hidden": "true" }, h("path", { class: `line ${arm}`, d: "M1 4H25" })), arm))),
    h("div", { class: "charts" }, drawings.map(figure)),
    h("p", { class: "key" },
      `${moment(history.since)} to ${moment(history.until)} UTC, a point is ${Math.round(history.point_s)} s. `,
      marked && ["Marks: ", h("b", { class: "stage" }, "stage"), h("b", { class: "trip" }, "trip or kill"), h("b", { class: "rollback" }, "rollback")]),
    history.note && h("p", { class: "warn" }, `Numbers are missing: ${history.note}`));
}

function figure(drawing) {
  const id = `chart-${drawing.id}`;
  const line = (one) => one.path && h("path", { class: `line ${one.class}`, d: one.path });
  const mark = (one) => h("g", { class: `mark ${one.class}` }, h("title", {}, one.text), h("path", { d: `M${one.x} 0V${drawing.height}` }));
  const word = (kind, side) => (one) => h("span", { class: `${kind} ${one.class}`, style: { [side]: `${one.at}%` } }, one.text);
  const label = (one) => one.label && h("span", { class: `m ${one.label.class} ${one.class}`, style: { left: `${one.label.at}%` } }, one.label.text);
  return h("figure", { class: "chart", id },
    h("figcaption", {}, drawing.title),
    h("div", { class: "plot" },
      h("svg", { viewBox: `0 0 ${drawing.width} ${drawing.height}`, preserveAspectRatio: "none", role: "img", "aria-labelledby": `${id}-t ${id}-d` },
        h("title", { id: `${id}-t` }, drawing.title), h("desc", { id: `${id}-d` }, drawing.description),
        drawing.grid.map((y) => h("path", { class: "grid", d: `M0 ${y}H${drawing.width}` })),
        drawing.marks.map(mark), drawing.lines.map(line)),
      drawing.y.map(word("y", "bottom")), drawing.x.map(word("x", "left")), drawing.marks.map(label)));
}
