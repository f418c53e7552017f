// One rollout: its plan, both arms, what decides, who is where, what happened.

import { charts } from "./charts.js";
import { count, h, held, moment, ms, percent, rate, rps, share, span, words } from "./dom.js";
import { breaker, change, eventTone, next, state, tone } from "./said.js";

export const RANGES = [["15m", "15 minutes"], ["24h", "24 hours"], ["rollout", "Whole rollout"]];

export function rolloutView(page, name) {
  const rollout = page.rollouts.get(name);
  if (!rollout) return [h("h1", {}, name), h("p", { class: "empty" }, page.names.length ? "There is no rollout of that name." : "Asking weir how it stands.")];
  return [
    head(page, rollout),
    plan(rollout),
    h("div", { class: "halves" }, section("Both arms, the last minute", arms(rollout)), h("div", {}, where(rollout), explain(page))),
    course(page, rollout),
    gates(rollout),
    triggers(rollout),
    cohorts(page, rollout),
    shadow(page, rollout),
    trail(page, rollout),
  ];
}

function section(title, ...content) {
  const id = `s-${title.toLowerCase().replace(/[^a-z]+/g, "-")}`;
  return h("section", { "aria-labelledby": id }, h("h2", { id }, title), content);
}

function head(page, rollout) {
  const stage = rollout.stage;
  const facts = [
    ["Weight", share(rollout.weight_ppm)],
    stage && ["Stage", `${stage.name}, ${stage.index + 1} of ${stage.count}`],
    ["Breaker", breaker(rollout)],
    ["Next", next(rollout)],
  ];
  // Each with its own tone: what is no trouble is not red because something else is.
  const trouble = [];
  const say = (text, how) => trouble.push(h("p", { class: `trouble ${how}` }, text));
  if (rollout.killed) say(`Killed: everyone is on stable. ${rollout.state_reason ?? ""}`, "bad");
  else if (rollout.state_reason) say(rollout.state_reason, tone(rollout));
  if (rollout.breaker?.state === "open") {
    const left = rollout.breaker.cooldown_s === null ? "" : ` Some probe it again in ${span(rollout.breaker.cooldown_s)}.`;
    say(`The breaker is open, so everyone is on stable: ${rollout.breaker.last_reason ?? ""}.${left}`, "bad");
  }
  if (rollout.breaker?.state === "half_open") say(`The breaker is half-open: ${share(rollout.breaker.probe_ppm)} of the canary's units probe it.`, "warn");
  if (rollout.breaker?.note) say(rollout.breaker.note, "warn");
  if (rollout.note) say(rollout.note, "warn");
  if (rollout.time_scale > 1) say(`A rehearsal: the plan runs ${rollout.time_scale} times as fast as written.`, "quiet");
  return h("div", { class: "head" },
    h("div", { class: "title" }, h("h1", {}, rollout.name), h("span", { class: `chip ${tone(rollout)}` }, state(rollout))),
    h("dl", { class: "facts" }, facts.filter(Boolean).map(([term, text]) => h("div", {}, h("dt", {}, term), h("dd", {}, text)))),
    trouble,
    actions(page, rollout));
}

function actions(page, rollout) {
  if (page.role !== "operate") return h("p", { class: "dim" }, "You may look. To act, use the token of those who may.");
  const open = rollout.breaker && rollout.breaker.state !== "closed";
  const planned = rollout.stages.length > 0;
  const back = rollout.state === "rolled_back";
  const all = [
    ["pause", "Pause", ["running", "waiting_approval"].includes(rollout.state) && planned],
    ["resume", "Resume", ["paused", "pending"].includes(rollout.state)],
    ["promote", "Promote", planned && !back && rollout.state !== "completed"],
    ["approve", "Approve", rollout.stage?.approval && !rollout.stage.approved && !back],
    ["weight", "Weight", !back],
    ["rollback", "Roll back", !back],
    ["revive", "Revive", rollout.killed || open || back],
    ["kill", "Kill", !rollout.killed],
  ];
  return h("div", { class: "actions", role: "group", "aria-label": "Actions" },
    all.filter(([, , fits]) => fits).map(([act, label]) =>
      h("button", { type: "button", id: `act-${act}`, "data-act": act, class: act === "kill" ? "danger" : null }, label)));
}

function plan(rollout) {
  if (rollout.stages.length === 0) {
    return section("Plan", h("p", { class: "empty" }, `No stages: the weight of ${share(rollout.weight_ppm)} holds until somebody sets another one.`));
  }
  const present = rollout.stage;
  const step = (stage, place) => {
    const here = present?.index === place && rollout.state !== "completed";
    const kind = here ? "here" : stage.finished ? "done" : "ahead";
    const part = here && stage.min_duration_s > 0 ? Math.min(1, present.served_s / stage.min_duration_s) : stage.finished ? 1 : 0;
    const conditions = [stage.cohorts.length > 0 && `with ${stage.cohorts.join(", ")}`, stage.after && `after ${stage.after}`, stage.approval && "asks for approval"].filter(Boolean);
    return h("li", { class: kind, "aria-current": here ? "step" : null },
      h("span", { class: "bar", "aria-hidden": "true" }, h("span", { style: { width: `${part * 100}%` } })),
      h("b", {}, stage.name), h("span", { class: "figure" }, share(stage.weight_ppm)),
      h("span", { class: "dim" }, here ? `${span(present.served_s)} of ${span(stage.min_duration_s)}` : kind === "done" ? "done" : `at least ${span(stage.min_duration_s)}`),
      conditions.length > 0 && h("span", { class: "dim" }, conditions.join("; ")));
  };
  const obstacles = rollout.next?.obstacles ?? [];
  const obstacle = (one) => h("li", { class: one.verdict === "fail" ? "bad" : null },
    one.reason, one.remaining_s === null ? null : h("span", { class: "dim" }, ` until ${moment(Date.now() + one.remaining_s * 1000)} UTC at the earliest`));
  const to = rollout.next?.to ?? "the end of the plan";
  const over = ["completed", "rolled_back"].includes(rollout.state);
  return section("Plan",
    h("ol", { class: "plan" }, rollout.stages.map(step)),
    obstacles.length > 0 && !over && [h("p", { class: "dim" }, `What stands before ${to}:`), h("ul", { class: "obstacles" }, obstacles.map(obstacle))],
    obstacles.length === 0 && !over && rollout.state === "running" && h("p", { class: "dim" }, `Nothing stands before ${to}: it begins at the next look.`));
}

function arms(rollout) {
  const { stable, canary } = rollout.arms;
  const apart = (key, show) => {
    const [before, after] = [stable[key], canary[key]];
    if (before === null || after === null) return "–";
    const sign = after > before ? "+" : after < before ? "−" : "±";
    return sign + show(Math.abs(after - before));
  };
  const rows = [
    ["Requests", "requests", count, false],
    ["Requests per second", "rps", rps, false],
    ["Errors", "errors", count, false],
    ["Error rate", "error_rate", rate, true],
    ["p50", "p50_ms", ms, true],
    ["p95", "p95_ms", ms, true],
    ["p99", "p99_ms", ms, true],
    ["In flight now", "in_flight", count, false],
  ];
  return h("table", { class: "arms" },
    h("caption", {}, "Both arms side by side"),
    h("thead", {}, h("tr", {}, h("td", {}), h("th", { scope: "col", class: "number stable" }, "stable"), h("th", { scope: "col", class: "number canary" }, "canary"), h("th", { scope: "col", class: "number" }, "difference"))),
    h("tbody", {}, rows.map(([label, key, show, differs]) => h("tr", {}, h("th", { scope: "row" }, label),
      h("td", { class: "number" }, show(stable[key])), h("td", { class: "number" }, show(canary[key])), h("td", { class: "number dim" }, differs ? apart(key, show) : "")))));
}

function course(page, rollout) {
  const history = page.history;
  const choice = ([range, label]) => h("button", { type: "button", id: `range-${range}`, "data-range": range, "aria-pressed": String(page.range === range) }, label);
  const ready = history && history.rollout === rollout.name && history.range === page.range;
  return section("Course",
    h("div", { class: "choice", role: "group", "aria-label": "How far back" }, RANGES.map(choice)),
    ready ? charts(history) : h("p", { class: "empty" }, page.historyError || "Reading the history."));
}

function where(rollout) {
  const { stable, canary } = rollout.arms;
  const all = stable.requests + canary.requests;
  const held = rollout.killed || rollout.breaker?.state === "open";
  const units = held ? 0 : rollout.weight_ppm / 1e6;
  const line = (label, part) => h("div", { class: "split" }, h("span", {}, label),
    h("span", { class: "halvesbar", "aria-hidden": "true" }, h("span", { class: "stable", style: { width: `${(1 - (part ?? 0)) * 100}%` } }), h("span", { class: "canary", style: { width: `${(part ?? 0) * 100}%` } })),
    h("span", { class: "number" }, part === null ? "no requests in the last minute" : `${percent(1 - part)} stable, ${percent(part)} canary`));
  return section("Who is where",
    line("Units by weight", units), line("Requests, last minute", all === 0 ? null : canary.requests / all),
    held && h("p", { class: "dim" }, `The weight is ${share(rollout.weight_ppm)}, and nobody gets the canary while ${rollout.killed ? "it is killed" : "the breaker is open"}.`));
}

function explain(page) {
  const found = page.explained;
  const said = found && (found.error ? h("p", { class: "bad" }, found.error) : h("p", {},
    h("b", {}, found.unit ?? "that request"), " gets ", h("b", { class: found.arm }, found.arm), ` (${found.reason}). `,
    found.bucket_ppm === null ? null : `Its bucket is ${count(found.bucket_ppm)} of 1,000,000; by weight the canary has those below ${count(found.weight_ppm)}. `,
    found.cohorts.length > 0 && `Cohorts: ${found.cohorts.join(", ")}.`,
    found.requires && ` On ${found.requires.rollout} it gets ${found.requires.arm}.`));
  return section("Explain a unit",
    h("form", { id: "explain" }, h("label", {}, "Unit ", h("input", { id: "unit", name: "unit", autocomplete: "off", spellcheck: "false", required: true })), h("button", { type: "submit" }, "Explain")),
    h("div", { role: "status" }, said || h("p", { class: "dim" }, "Which arm a user gets, and why.")));
}

function verdict(text) {
  const tones = { pass: "good", wait: "warn", fail: "bad", firing: "bad", pending: "warn", quiet: "quiet" };
  return h("span", { class: `chip ${tones[text] ?? "quiet"}` }, text);
}

function gates(rollout) {
  if (rollout.gates.length === 0) return section("Gates", h("p", { class: "empty" }, rollout.stages.length ? "This stage has none: time alone decides." : "None without a plan."));
  const row = (gate) => h("tr", {}, h("th", { scope: "row" }, h("code", {}, gate.when)), h("td", { "data-label": "Verdict" }, verdict(gate.verdict)),
    h("td", { "data-label": "Value", class: "number" }, held(gate.value, gate.unit)), h("td", { "data-label": "Limit", class: "number" }, held(gate.limit, gate.unit)),
    h("td", { "data-label": "Samples", class: "number" }, `${count(gate.samples)} of ${count(gate.min_requests)}`),
    h("td", { "data-label": "Window", class: "number" }, gate.window_s === null ? "stage" : span(gate.window_s)), h("td", { class: "why", "data-label": "Why" }, gate.reason));
  return section("Gates", table("Gates of the present stage", ["Gate", "Verdict", "#Value", "#Limit", "#Samples", "#Window", "Why"], rollout.gates.map(row)));
}

function triggers(rollout) {
  if (rollout.triggers.length === 0) return section("Triggers", h("p", { class: "empty" }, "None: only the breaker watches."));
  const row = (one) => {
    const part = one.for_s > 0 ? Math.min(1, one.held_s / one.for_s) : one.state === "firing" ? 1 : 0;
    return h("tr", {}, h("th", { scope: "row" }, one.name, h("br", {}), h("code", {}, one.when)), h("td", { "data-label": "State" }, verdict(one.state)),
      h("td", { "data-label": "Value", class: "number" }, held(one.value, one.unit)), h("td", { "data-label": "Limit", class: "number" }, held(one.limit, one.unit)),
      h("td", { "data-label": "Held", class: "number" }, h("span", { class: "weight" }, h("span", { class: "figure" }, `${span(one.held_s)} of ${span(one.for_s)}`), h("span", { class: `bar ${one.state}`, "aria-hidden": "true" }, h("span", { style: { width: `${part * 100}%` } })))),
      h("td", { "data-label": "Action" }, `${one.action}${one.rollout ? ` of ${one.rollout}` : ""}${one.dry_run ? " (dry run)" : ""}`), h("td", { class: "why", "data-label": "Why" }, one.reason));
  };
  return section("Triggers", table("Triggers", ["Trigger", "State", "#Value", "#Limit", "#Held", "Action", "Why"], rollout.triggers.map(row)));
}

function cohorts(page, rollout) {
  if (rollout.cohorts.length === 0) return section("Cohorts", h("p", { class: "empty" }, "None: the weight alone decides who is on the canary."));
  const row = (one) => {
    const off = !one.enabled ? "off in the config" : one.killed ? "switched off" : one.exclude ? "kept off the canary" : "on";
    const act = one.killed ? "revive" : "kill";
    const button = page.role === "operate" && one.enabled && !one.exclude
      && h("button", { type: "button", id: `cohort-${act}-${one.name}`, "data-act": act, "data-cohort": one.name, "aria-label": `Switch ${one.killed ? "on" : "off"} ${one.name}` }, one.killed ? "Switch on" : "Switch off");
    return h("tr", {}, h("th", { scope: "row" }, one.name), h("td", { "data-label": "Switch" }, h("span", { class: `chip ${one.killed ? "bad" : one.enabled && !one.exclude ? "good" : "quiet"}` }, off)),
      h("td", { "data-label": "Listed units", class: "number" }, count(one.units)), h("td", { class: "act" }, button));
  };
  return section("Cohorts", table("Cohorts", ["Cohort", "Switch", "#Listed units", "Actions"], rollout.cohorts.map(row)));
}

function shadow(page, rollout) {
  const shadow = rollout.shadow;
  if (!shadow) return null;
  const skipped = Object.entries(shadow.skipped).filter(([, times]) => times > 0);
  const facts = [["Share of stable's units", share(shadow.share_ppm)], ["Copies per second", rps(shadow.rps)], ["Copies, last minute", count(shadow.requests)], ["Errors of copies", rate(shadow.error_rate)], ["p95 of copies", ms(shadow.p95_ms)]];
  const diff = page.diff?.rollout === rollout.name ? page.diff : null;
  return section("Shadow",
    h("dl", { class: "facts" }, facts.map(([term, text]) => h("div", {}, h("dt", {}, term), h("dd", {}, text)))),
    skipped.length > 0 && h("p", { class: "dim" }, `Not copied since weir started: ${skipped.map(([reason, times]) => `${words(reason)} ${count(times)}`).join(", ")}.`),
    diff && compared(diff));
}

function compared(diff) {
  const tones = { pass: "good", ok: "good", fail: "bad", noise: "quiet" };
  const from = (told) => [h("span", { class: "stable" }, told.stable), " → ", h("span", { class: "canary" }, told.canary)];
  const field = (one) => h("tr", {}, h("th", { scope: "row" }, h("code", {}, one.path)), h("td", { "data-label": "Verdict" }, h("span", { class: `chip ${tones[one.verdict] ?? "warn"}` }, words(one.verdict))),
    h("td", { "data-label": "Differ", class: "number" }, rate(one.rate)), h("td", { "data-label": "Noise", class: "number" }, rate(one.noise_rate)), h("td", { class: "why", "data-label": "Furthest apart" }, one.outlier && h("span", {}, from(one.outlier))));
  // A place in a list is that of any.
  const noise = new Set(diff.fields.filter((one) => one.verdict === "noise").map((one) => one.path));
  const telling = (one) => ({ ...one, differences: one.differences.filter((told) => !noise.has(told.path.replace(/\/\d+(?=\/|$)/g, "/*"))) });
  const examples = diff.examples.map(telling).filter((one) => one.differences.length > 0);
  const example = (one) => h("li", {}, h("code", {}, `${one.method} ${one.path}`), h("span", { class: "dim" }, ` ${moment(one.time)} UTC`),
    h("ul", {}, one.differences.slice(0, 3).map((told) => h("li", {}, h("code", {}, told.path), " ", from(told)))));
  return [
    h("h3", {}, "Answers compared"),
    h("p", {}, h("span", { class: `chip ${tones[diff.verdict] ?? "warn"}` }, words(diff.verdict)), ` ${diff.reason}.`),
    diff.fields.length > 0 && table("Fields that differ", ["Field", "Verdict", "#Differ", "#Noise", "Furthest apart"], diff.fields.slice(0, 8).map(field)),
    examples.length === 0 ? h("p", { class: "dim" }, "No answer differed by more than noise lately.") : h("ul", { class: "examples" }, examples.slice(0, 5).map(example)),
  ];
}

function trail(page, rollout) {
  const known = new Map();
  for (const event of page.history?.rollout === rollout.name ? page.history.events : []) known.set(event.id, event);
  for (const event of page.events) if (event.rollout === null || event.rollout === rollout.name) known.set(event.id, event);
  const events = [...known.values()].sort((one, other) => other.id - one.id).slice(0, 50);
  const item = (event) => h("li", { id: `event-${event.id}` },
    h("time", { datetime: event.time }, moment(event.time)), h("b", { class: eventTone(event.kind) }, words(event.kind)),
    h("span", { class: "what" }, change(event), h("span", { class: "dim" }, `${change(event) ? ", " : ""}by ${event.actor}`), event.reason && h("span", { class: "reason" }, event.reason)));
  return section("Audit trail", events.length === 0 ? h("p", { class: "empty" }, "Nothing has happened yet.")
    : h("ol", { class: "trail", role: "log", "aria-label": "Audit trail, the newest first", "aria-live": "polite", "aria-relevant": "additions" }, events.map(item)));
}

// A head that begins with # is of numbers.
function table(name, heads, rows) {
  return h("table", { class: "rows" }, h("caption", {}, name),
    h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col", class: head.startsWith("#") ? "number" : null }, head.replace("#", ""))))), h("tbody", {}, rows));
}
