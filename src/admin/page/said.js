// What is said of a rollout in words: how it stands, what comes next, what an entry of the trail changed.

import { moment, share, span, words } from "./dom.js";

// The tone of a state: what wants a person is never quiet.
export function tone(rollout) {
  if (rollout.killed || rollout.state === "rolled_back" || rollout.breaker?.state === "open") return "bad";
  if (rollout.state === "paused" || rollout.state === "waiting_approval" || rollout.breaker?.state === "half_open") return "warn";
  if (rollout.state === "running" || rollout.state === "completed") return "good";
  return "quiet";
}

export function state(rollout) {
  if (rollout.killed) return "killed";
  if (rollout.state === "waiting_approval") return "waits for approval";
  if (rollout.state === "running" && rollout.breaker?.state === "open") return "breaker open";
  if (rollout.state === "running" && rollout.breaker?.state === "half_open") return "breaker half-open";
  return words(rollout.state);
}

export function breaker(rollout) {
  const breaker = rollout.breaker;
  if (!breaker) return "off";
  const trips = breaker.trips > 0 ? `, ${breaker.trips} ${breaker.trips === 1 ? "trip" : "trips"}` : "";
  return words(breaker.state).replace("half open", "half-open") + trips;
}

// What comes next and when it can, as one line.
export function next(rollout) {
  if (rollout.state === "completed") return "the plan is complete";
  if (rollout.state === "rolled_back") return "everyone is on stable until it is revived";
  if (rollout.killed) return "everyone is on stable until it is revived";
  if (rollout.stages.length === 0) return "no plan: the weight is set by hand";
  const passage = rollout.next;
  if (!passage) return "";
  const to = passage.to ?? "the end of the plan";
  const time = passage.obstacles.find((one) => one.remaining_s !== null);
  const others = passage.obstacles.filter((one) => one !== time);
  if (time) {
    const soonest = moment(Date.now() + time.remaining_s * 1000);
    return `${to} in ${span(time.remaining_s)} at the earliest (${soonest} UTC)${others.length ? `; ${others[0].reason}` : ""}`;
  }
  return others.length === 0 ? `${to} at the next look` : `${to}: ${others[0].reason}`;
}

const SHOWN = { state: words, stage: String, weight_ppm: share, breaker: words, killed: (yes) => (yes ? "killed" : "not killed") };

// What an entry changed, in a few words.
export function change(event) {
  const before = event.old ?? {};
  const after = event.new ?? {};
  const parts = [];
  for (const [key, show] of Object.entries(SHOWN)) {
    if (after[key] === undefined || after[key] === null || before[key] === after[key]) continue;
    const old = before[key];
    parts.push(old === undefined || old === null ? show(after[key]) : `${show(old)} → ${show(after[key])}`);
  }
  return parts.join(", ");
}

export const eventTone = (kind) =>
  ["trip", "kill", "rollback", "escalate", "reload_failed"].includes(kind) ? "bad"
    : ["alert", "pause", "approval"].includes(kind) ? "warn"
      : ["recover", "complete", "stage", "revive", "resume", "approve"].includes(kind) ? "good" : "quiet";
