// All rollouts at a glance.

import { h, ms, rate, rps, share } from "./dom.js";
import { breaker, next, state, tone } from "./said.js";

export function overview(page) {
  const all = page.names.map((name) => page.rollouts.get(name)).filter(Boolean);
  if (page.names.length === 0) {
    return [h("h1", {}, "Rollouts"), h("p", { class: "empty" }, "No rollouts: every request goes where its route says. A rollout is a table ", h("code", {}, "[rollouts.NAME]"), " in weir's config.")];
  }
  const wanted = page.filter.toLowerCase();
  const shown = all.filter((one) => one.name.toLowerCase().includes(wanted) || state(one).includes(wanted));
  const care = all.filter((one) => ["bad", "warn"].includes(tone(one)));
  return [
    h("h1", {}, "Rollouts"),
    h("div", { class: "lead" },
      h("p", {}, `${all.length} ${all.length === 1 ? "rollout" : "rollouts"}. `,
        care.length === 0 ? "Nothing waits for anybody." : h("b", { class: "warn" }, `${care.length} ${care.length === 1 ? "wants" : "want"} a look: ${care.slice(0, 3).map((one) => one.name).join(", ")}${care.length > 3 ? ", …" : ""}.`),
        " ", h("span", { class: "pairs" }, "Pairs are ", h("span", { class: "stable" }, "stable"), " ", h("span", { class: "canary" }, "canary"))),
      all.length > 8 && h("label", { class: "filter" }, "Filter ", h("input", { type: "search", id: "filter", autocomplete: "off" }))),
    shown.length === 0 ? h("p", { class: "empty" }, "No rollout has that in its name or state.") : table(shown),
  ];
}

function table(rollouts) {
  const heads = ["Rollout", "State", "Stage", "Weight", "Breaker", "Requests/s", "Errors", "p95", "Next"];
  return h("table", { class: "glance" },
    h("caption", {}, "All rollouts, numbers of the last minute"),
    h("thead", {}, h("tr", {}, heads.map((head, place) => h("th", { scope: "col", class: place >= 5 && place <= 7 && "number" }, head)))),
    h("tbody", {}, rollouts.map(row)));
}

function row(rollout) {
  const { stable, canary } = rollout.arms;
  const both = (label, show) => h("td", { class: "number both", "data-label": label },
    h("span", { class: "stable" }, h("span", { class: "unseen" }, "stable "), show(stable)), h("span", { class: "canary" }, h("span", { class: "unseen" }, " canary "), show(canary)));
  const stage = rollout.stage;
  return h("tr", { id: `row-${rollout.name}` },
    h("th", { scope: "row" }, h("a", { href: `#/rollout/${encodeURIComponent(rollout.name)}` }, rollout.name)),
    h("td", { "data-label": "State" }, h("span", { class: `chip ${tone(rollout)}` }, state(rollout))),
    h("td", { "data-label": "Stage" }, stage ? h("span", {}, stage.name, h("span", { class: "dim" }, ` ${stage.index + 1} of ${stage.count}`)) : h("span", { class: "dim" }, "no plan")),
    h("td", { "data-label": "Weight" }, h("span", { class: "weight" }, h("span", { class: "figure" }, share(rollout.weight_ppm)),
      h("span", { class: "bar", "aria-hidden": "true" }, h("span", { style: { width: `${rollout.weight_ppm / 1e4}%` } })))),
    h("td", { "data-label": "Breaker", class: rollout.breaker?.state === "open" ? "bad" : rollout.breaker?.state === "half_open" ? "warn" : null }, breaker(rollout)),
    both("Requests/s", (arm) => rps(arm.rps)),
    both("Errors", (arm) => rate(arm.error_rate)),
    both("p95", (arm) => ms(arm.p95_ms)),
    h("td", { "data-label": "Next", class: "next" }, next(rollout)));
}
