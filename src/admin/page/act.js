// The dialog before every action: it says what will happen and asks why.

import { h, share, span } from "./dom.js";
import { tell, useToken } from "./link.js";

const dialog = document.getElementById("dialog");
const WHO = "weir-who";

// What each action will do, in words of the rollout as it stands.
function consequence(act, rollout, cohort) {
  const stage = rollout.stage;
  const weight = share(rollout.weight_ppm);
  if (cohort) {
    return act === "kill"
      ? `Members of cohort ${cohort} go to stable at once, unless their bucket is below the weight. Others stay where they are.`
      : `Members of cohort ${cohort} may be on the canary again, in stages that admit it.`;
  }
  const following = stage && rollout.stages[stage.index + 1];
  switch (act) {
    case "pause":
      return `The clock of stage ${stage?.name ?? "the rollout"} stands still. ${weight} of the units stay on the canary; triggers and breaker go on watching.`;
    case "resume":
      return stage ? `The clock of stage ${stage.name} goes on where it stopped: ${span(stage.remaining_s)} to serve.` : "The rollout starts at its first stage.";
    case "promote":
      return following ? `Stage ${stage.name} ends now and ${following.name} begins: ${weight} of the units become ${share(following.weight_ppm)}. weir refuses if a gate does not pass, unless it is forced.` : "The plan ends here. weir refuses if a gate does not pass, unless it is forced.";
    case "rollback":
      return "Everyone goes to stable at once, and the plan stops until it is revived.";
    case "approve":
      return `Stage ${stage?.name} may end${following ? ` and ${following.name} begin, with ${share(following.weight_ppm)} of the units` : ""}, as soon as its gates pass.`;
    case "weight":
      return `Another share of the units gets the canary, at once${stage ? ` and until stage ${stage.name} ends` : " and until the file's weight changes"}. Now it is ${weight}.`;
    case "kill":
      return "Everyone goes to stable at once, whatever the plan says. It holds over restarts, until it is revived.";
    case "revive":
      if (rollout.killed) return `The kill is undone: ${weight} of the units go to the canary again.`;
      if (rollout.state === "rolled_back") return stage ? `Stage ${stage.name} begins anew.` : "The rollout begins anew.";
      return `The breaker closes: ${weight} of the units go to the canary again.`;
    default:
      return "";
  }
}

const TITLES = { pause: "Pause", resume: "Resume", promote: "Promote", rollback: "Roll back", approve: "Approve", weight: "Set the weight of", kill: "Kill", revive: "Revive" };
const BACK = [["stable", "everyone to stable"], ["previous", "the start of the stage before"], ["half", "half the weight, and a pause"]];

export function openAction(act, rollout, cohort) {
  const title = cohort ? `${act === "kill" ? "Switch off" : "Switch on"} cohort ${cohort} of ${rollout.name}` : `${TITLES[act]} ${rollout.name}`;
  const check = (name, label) => h("label", { class: "check" }, h("input", { type: "checkbox", name }), ` ${label}`);
  const more = [];
  if (!cohort && act === "weight") more.push(h("label", {}, "Weight, like 12.5%", h("input", { name: "weight", required: true, pattern: "[0-9.]+ ?%", autocomplete: "off", inputmode: "decimal" })));
  if (!cohort && act === "weight" && rollout.stages.length > 0) more.push(check("force", "Even if it is more than the stage's"));
  if (act === "promote") more.push(check("force", "Force: ask neither gates nor approval"), check("full", "To the last stage, passing over those between"));
  if (!cohort && act === "rollback" && rollout.stages.length > 0) {
    more.push(h("fieldset", {}, h("legend", {}, "How far"), BACK.map(([to, label], place) => h("label", { class: "check" }, h("input", { type: "radio", name: "to", value: to, checked: place === 0 }), ` ${label}`))));
  }
  const problem = h("p", { class: "bad", role: "alert" });
  const go = h("button", { type: "submit", class: act === "kill" || act === "rollback" ? "danger" : "main" }, cohort ? (act === "kill" ? "Switch off" : "Switch on") : act === "weight" ? "Set weight" : TITLES[act]);
  const form = h("form", { method: "dialog" },
    h("h2", { id: "dialog-title" }, title), h("p", { id: "consequence" }, consequence(act, rollout, cohort)), more,
    h("label", {}, "Why? It goes into the audit trail.", h("textarea", { name: "reason", required: true, rows: 2, maxlength: 1000 })),
    h("label", {}, "Who are you? ", h("input", { name: "actor", autocomplete: "name", maxlength: 100 })),
    problem, h("div", { class: "buttons" }, h("button", { type: "button", "data-close": true }, "Cancel"), go));
  form.elements.actor.value = sessionStorage.getItem(WHO) ?? "";
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const given = new FormData(form);
    const body = { reason: given.get("reason").trim() };
    if (!body.reason) return problem.replaceChildren("Say why: whoever reads the trail later was not here.");
    const actor = given.get("actor").trim();
    sessionStorage.setItem(WHO, actor);
    if (actor) body.actor = actor;
    if (cohort) body.cohort = cohort;
    if (given.has("weight")) body.weight = given.get("weight").replace(" ", "");
    for (const flag of ["force", "full"]) if (given.has(flag)) body[flag] = true;
    if (given.has("to")) body.to = given.get("to");
    go.disabled = true;
    try {
      await tell(`/api/v1/rollouts/${encodeURIComponent(rollout.name)}/${act}`, body);
      dialog.close();
    } catch (error) {
      problem.replaceChildren(error.message);
    }
    go.disabled = false;
  });
  show(form);
}

// Asks for the token, which stays in this tab and is sent as a header only.
export function askToken(then, told) {
  const form = h("form", { method: "dialog" },
    h("h2", { id: "dialog-title" }, "Token"),
    h("p", {}, told ?? "The token of this address. It stays in this tab until the tab is closed."),
    h("label", {}, "Token", h("input", { type: "password", name: "token", required: true, autocomplete: "off" })),
    h("div", { class: "buttons" }, h("button", { type: "button", "data-close": true }, "Cancel"), h("button", { type: "submit", class: "main" }, "Use it")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    useToken(form.elements.token.value.trim());
    dialog.close();
    then();
  });
  show(form);
}

function show(form) {
  form.querySelector("[data-close]").addEventListener("click", () => dialog.close());
  dialog.replaceChildren(form);
  if (!dialog.open) dialog.showModal();
}
