// The page: what was heard of weir, and what is shown of it.

import { askToken, openAction } from "./act.js";
import { h, moment, morph, span } from "./dom.js";
import { ask, listen, session, useToken } from "./link.js";
import { overview } from "./overview.js";
import { rolloutView } from "./rollout.js";

const page = {
  names: [], rollouts: new Map(), events: [], role: null, asksToken: false, filter: "", range: "15m",
  history: null, historyError: "", diff: null, explained: null,
  // When something was last heard, when numbers last changed, and what is wrong.
  heard: 0, numbers: 0, wrong: "connecting", silent: "",
};
const EVENTS_MAX = 300;
const content = document.getElementById("content");
let quit = () => {};
let drawn = false;
let place = null;

const where = () => {
  const found = location.hash.match(/^#\/rollout\/(.+)$/);
  return found ? decodeURIComponent(found[1]) : null;
};

function draw() {
  if (drawn) return;
  drawn = true;
  requestAnimationFrame(() => {
    drawn = false;
    const name = where();
    document.title = name ? `${name} · weir` : "weir";
    morph(document.getElementById("crumbs"), h("nav", {}, name && [h("a", { href: "#/" }, "Rollouts"), h("span", { "aria-current": "page" }, name)]));
    status();
    const tokenless = page.role === null && page.asksToken;
    if (tokenless) morph(content, h("main", {}, h("h1", {}, "weir"), h("p", { class: "empty" }, "This address asks for a token. ", h("button", { type: "button", "data-token": true, class: "main" }, "Enter the token"))));
    else if (page.names.length === 0 && page.numbers === 0) morph(content, h("main", {}, h("p", { class: "empty" }, "Asking weir how things stand.")));
    else morph(content, h("main", {}, name ? rolloutView(page, name) : overview(page)));
    document.body.dataset.ready = String(page.numbers > 0);
  });
}

// How fresh what is shown is. The alarm is only for what is wrong: a screen reader hears it once.
function status() {
  const lost = page.wrong && page.numbers > 0;
  const since = page.numbers ? `${moment(page.numbers)} UTC` : "";
  document.body.classList.toggle("stale", Boolean(lost || page.silent));
  const link = lost ? "not connected" : page.wrong ? page.wrong : page.silent ? "no news" : "live";
  morph(document.getElementById("link"), h("p", { id: "link" }, h("span", { class: `dot ${lost ? "bad" : page.wrong || page.silent ? "warn" : "good"}` }), link));
  const told = lost ? `The connection to weir is lost. What you see is from ${since}. Trying again.`
    : page.silent ? `weir answers, but its control plane does not. What you see is from ${since}.` : "";
  morph(document.getElementById("alarm"), h("div", { id: "alarm" }, told && h("p", {}, told, h("span", { class: "age", "aria-hidden": "true" }, ` (${span((Date.now() - page.numbers) / 1000)} old)`))));
  const role = { operate: "may act", read: "may look only" }[page.role] ?? "";
  morph(document.getElementById("role"), h("p", { id: "role" }, role, page.asksToken && page.role && h("button", { type: "button", "data-forget": true }, "Forget token")));
}

function hear(kind, data) {
  page.heard = Date.now();
  if (kind === "lost") {
    page.wrong = data.error || "lost";
    if (data.status === 401) page.role = null;
  } else if (kind === "hello") {
    page.role = data.role;
    page.wrong = "";
  } else if (kind === "silent") {
    page.silent = data.error;
  } else if (kind === "rollouts") {
    page.names = data.names;
    page.numbers = Date.now();
    for (const name of page.rollouts.keys()) if (!data.names.includes(name)) page.rollouts.delete(name);
  } else if (kind === "rollout") {
    page.rollouts.set(data.name, data);
    page.numbers = Date.now();
    page.silent = "";
  } else if (kind === "beat") {
    // A sign of life: the numbers hold although none is new.
    if (!page.wrong && !page.silent) page.numbers = Date.now();
    return;
  } else if (kind === "audit") {
    if (!page.events.some((known) => known.id === data.id)) page.events.push(data);
    page.events.splice(0, Math.max(0, page.events.length - EVENTS_MAX));
    if (data.rollout === where()) readHistory();
  }
  draw();
}

async function start() {
  quit();
  try {
    const found = await session();
    page.role = found.role;
    page.asksToken = found.token;
    page.wrong = page.role ? "" : "asks for a token";
  } catch (error) {
    page.wrong = error.message;
    draw();
    return setTimeout(start, 1000);
  }
  draw();
  if (page.role === null) {
    if (sessionStorage.getItem("weir-token")) {
      useToken("");
      askToken(start, "weir does not take that token. Try another one.");
    }
    return;
  }
  quit = listen("last=200", hear);
  go();
}

// The charts of what is looked at; only the last question counts.
let asked = 0;
async function readHistory() {
  const name = where();
  if (!name || page.role === null) return;
  const mine = ++asked;
  const path = `/api/v1/rollouts/${encodeURIComponent(name)}`;
  try {
    const history = await ask(`${path}/history?range=${page.range}&draw=true`);
    if (mine !== asked) return;
    page.history = history;
    page.historyError = "";
  } catch (error) {
    if (mine !== asked) return;
    page.historyError = `The history cannot be read: ${error.message}`;
  }
  // Whether answers are compared is not known before it is asked; without a comparison weir says so.
  if (page.rollouts.get(name)?.shadow && page.compared !== `not ${name}`) {
    try {
      page.diff = await ask(`${path}/diff?samples=1000`);
    } catch (error) {
      if (error.status === 409) page.compared = `not ${name}`;
    }
  }
  draw();
}

function go() {
  const now = where();
  if (place !== null && now !== place) {
    [page.history, page.explained, page.diff, page.historyError] = [null, null, null, ""];
    scrollTo(0, 0);
    content.focus({ preventScroll: true });
  }
  place = now ?? "";
  draw();
  readHistory();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const { act, cohort, range, token, forget } = button.dataset;
  if (act) openAction(act, page.rollouts.get(where()), cohort);
  if (range) {
    page.range = range;
    page.history = page.history && { ...page.history, range: "" };
    draw();
    readHistory();
  }
  if (token !== undefined) askToken(start);
  if (forget !== undefined) {
    useToken("");
    quit();
    Object.assign(page, { role: null, names: [], events: [], history: null, numbers: 0 });
    page.rollouts.clear();
    start();
  }
});

document.addEventListener("input", (event) => {
  if (event.target.id !== "filter") return;
  page.filter = event.target.value;
  draw();
});

document.addEventListener("submit", async (event) => {
  if (event.target.id !== "explain") return;
  event.preventDefault();
  const unit = event.target.elements.unit.value;
  try {
    page.explained = await ask(`/api/v1/rollouts/${encodeURIComponent(where())}/explain?unit=${encodeURIComponent(unit)}`);
  } catch (error) {
    page.explained = { error: error.message };
  }
  draw();
});

addEventListener("hashchange", go);
document.addEventListener("visibilitychange", () => document.hidden || (draw(), readHistory()));

// Ages go on while nothing is heard; charts follow what is counted.
setInterval(() => document.hidden || (page.wrong || page.silent) && draw(), 1000);
setInterval(() => document.hidden || page.range !== "15m" || readHistory(), 5000);
setInterval(() => document.hidden || page.range === "15m" || readHistory(), 60000);
start();
