//! What is said of a rollout's plan: where it stands, and what comes next. Text out of the API's forms, nothing else.

use super::render;
use crate::admin::view::{Rollout, Stage};

/// How a rollout stands and what comes next, on one line: `paused in stage ten (1 of 3) at 10%; the stage's clock stands
/// still`.
pub fn stands(rollout: &Rollout) -> String {
    let name = render::clean(&rollout.name);
    let mut said = match (rollout.state.as_str(), &rollout.stage) {
        ("running", Some(stage)) => format!("{}; {}", within(rollout), next(rollout, stage)),
        ("running", None) => within(rollout),
        ("paused", Some(_)) => format!("paused in {}; the stage's clock stands still", within(rollout)),
        ("waiting_approval", Some(_)) => {
            format!("{} has passed and waits for approval: `weir approve {name}`", within(rollout))
        }
        ("completed", _) => format!("completed {}; breaker and triggers go on watching", at(rollout)),
        ("rolled_back", stage) => {
            let anew = stage.as_ref().map_or("starts it again".to_owned(), |stage| {
                format!("begins stage {} anew", render::clean(&stage.name))
            });
            format!("rolled back, everyone is on stable; `weir revive {name}` {anew}")
        }
        (state, _) => format!("{} {}", render::clean(&state.replace('_', " ")), at(rollout)),
    };
    if let Some(but) = but(rollout) {
        said.push_str(&format!("; {but}"));
    }
    said
}

/// What somebody should do about it, as a line.
pub fn note(rollout: &Rollout) -> Option<String> {
    rollout.note.as_deref().map(|note| format!("note: {}\n", render::clean(note)))
}

/// `stage ten (1 of 3) at 10%`, or the weight alone.
fn within(rollout: &Rollout) -> String {
    match &rollout.stage {
        Some(stage) => format!(
            "stage {} ({} of {}) {}",
            render::clean(&stage.name),
            stage.index.saturating_add(1),
            stage.count,
            at(rollout)
        ),
        None => format!("running {}", at(rollout)),
    }
}

fn at(rollout: &Rollout) -> String {
    format!("at {}", render::share(rollout.weight_ppm))
}

/// What must happen before a stage that runs can end.
pub fn next(rollout: &Rollout, stage: &Stage) -> String {
    let obstacles = rollout.next.as_ref().map(|next| next.obstacles.as_slice()).unwrap_or_default();
    if let Some(left) = obstacles.iter().find_map(|obstacle| obstacle.remaining_s) {
        return format!("{} to serve, then {}", render::lasting(left), after(rollout, stage));
    }
    // What keeps traffic off the canary is said elsewhere.
    match obstacles.iter().find(|obstacle| !matches!(obstacle.kind.as_str(), "killed" | "breaker")) {
        Some(gate) if gate.kind == "gate" => {
            format!("a gate holds it ({}): {}", render::clean(&gate.verdict), render::clean(&gate.reason))
        }
        Some(other) => render::clean(&other.reason),
        None => format!("{} at the next look", what(stage)),
    }
}

/// What comes once the stage's time is served.
fn after(rollout: &Rollout, stage: &Stage) -> String {
    let mut needs = Vec::new();
    match rollout.gates.len() {
        0 => {}
        1 => needs.push("its gate passes".to_owned()),
        gates => needs.push(format!("its {gates} gates pass")),
    }
    if stage.approval && !stage.approved {
        needs.push("somebody approves".to_owned());
    }
    let following = rollout.stages.get(stage.index.saturating_add(1));
    if let Some(after) = following.and_then(|following| following.after.as_ref()) {
        needs.push(format!("{} has ended", render::clean(after)));
    }
    match needs.as_slice() {
        [] => what(stage).to_owned(),
        [first @ .., last] if !first.is_empty() => format!("{} if {} and {last}", what(stage), first.join(", ")),
        [only, ..] => format!("{} if {only}", what(stage)),
    }
}

fn what(stage: &Stage) -> &'static str {
    match stage.index.saturating_add(1) >= stage.count {
        true => "the plan is complete",
        false => "the next stage begins",
    }
}

/// What keeps traffic off the canary besides the plan.
fn but(rollout: &Rollout) -> Option<String> {
    if rollout.killed {
        let until = if rollout.killed_by_config { "the config says otherwise" } else { "it is revived" };
        return Some(format!("but it is killed, so everyone is on stable until {until}"));
    }
    match rollout.breaker.as_ref()?.state.as_str() {
        "open" if rollout.state != "rolled_back" => {
            Some("but its breaker is open, so everyone is on stable".to_owned())
        }
        "half_open" => Some("but its breaker is half-open, so only a few probe the canary".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn rollout(state: &str, changes: Value) -> Rollout {
        let arm = json!({"requests": 0, "errors": 0, "error_rate": null, "rps": 0.0, "in_flight": 0});
        let mut form = json!({
            "name": "chat", "state": state, "state_reason": null, "weight_ppm": 100_000, "file_weight_ppm": 1_000_000,
            "stage": stage(7200.0, 0, false), "next": {"obstacles": [time()]},
            "killed": false, "killed_by_config": false, "breaker": {"state": "closed"},
            "arms": {"stable": arm, "canary": arm}, "cohorts": [], "gates": [], "triggers": [],
            "window_s": 60.0, "generation": 7,
        });
        for (name, value) in changes.as_object().unwrap() {
            form[name] = value.clone();
        }
        serde_json::from_value(form).unwrap()
    }

    #[track_caller]
    fn check(state: &str, changes: Value, expected: &str) {
        assert_eq!(stands(&rollout(state, changes)), expected);
    }

    fn stage(served: f64, index: usize, approval: bool) -> Value {
        let served = json!(served);
        json!({"name": "ten", "index": index, "count": 3, "served_s": served, "min_duration_s": 86_400.0,
               "approval": approval})
    }

    fn time() -> Value {
        json!({"kind": "time", "verdict": "wait", "reason": "22h still to serve", "remaining_s": 79_200.0})
    }

    #[test]
    fn a_running_stage_says_what_must_happen_before_it_ends() {
        let gate = json!({"when": "p95 < 20ms", "verdict": "pass"});
        check("running", json!({}), "stage ten (1 of 3) at 10%; 22h to serve, then the next stage begins");
        check(
            "running",
            json!({"gates": [gate, gate], "stage": stage(7200.0, 2, true)}),
            "stage ten (3 of 3) at 10%; 22h to serve, then the plan is complete if its 2 gates pass and somebody approves",
        );
        let planned = json!([{"name": "ten"}, {"name": "half", "after": "objects:ramp"}]);
        check(
            "running",
            json!({"gates": [gate], "stage": stage(7200.0, 0, true), "stages": planned}),
            "stage ten (1 of 3) at 10%; 22h to serve, then the next stage begins if its gate passes, somebody approves and \
             objects:ramp has ended",
        );
        let held = |kind: &str, verdict: &str, reason: &str| {
            json!({"next": {"obstacles": [
                {"kind": "breaker", "verdict": "wait", "reason": "its breaker is open"},
                {"kind": kind, "verdict": verdict, "reason": reason},
            ]}})
        };
        let slow = "p95 31ms >= 20ms (900 requests in the stage)";
        check(
            "running",
            held("gate", "fail", slow),
            &format!("stage ten (1 of 3) at 10%; a gate holds it (fail): {slow}"),
        );
        let after = "it waits for stage `ramp` of rollout `objects` to end";
        check("running", held("after", "wait", after), &format!("stage ten (1 of 3) at 10%; {after}"));
        check(
            "running",
            json!({"next": {"obstacles": []}}),
            "stage ten (1 of 3) at 10%; the next stage begins at the next look",
        );
        check("running", json!({"stage": null, "next": null}), "running at 10%");
    }

    #[test]
    fn other_states_say_how_to_go_on() {
        check("paused", json!({}), "paused in stage ten (1 of 3) at 10%; the stage's clock stands still");
        check(
            "waiting_approval",
            json!({}),
            "stage ten (1 of 3) at 10% has passed and waits for approval: `weir approve chat`",
        );
        check("completed", json!({"weight_ppm": 1_000_000}), "completed at 100%; breaker and triggers go on watching");
        let back = "rolled back, everyone is on stable; `weir revive chat`";
        check("rolled_back", json!({"weight_ppm": 0}), &format!("{back} begins stage ten anew"));
        check("rolled_back", json!({"weight_ppm": 0, "stage": null}), &format!("{back} starts it again"));
        check("pending", json!({"weight_ppm": 0, "stage": null}), "pending at 0%");
    }

    #[test]
    fn what_keeps_traffic_off_the_canary_is_said_too() {
        let paused = "paused in stage ten (1 of 3) at 10%; the stage's clock stands still";
        let killed = "but it is killed, so everyone is on stable until";
        check("paused", json!({"killed": true}), &format!("{paused}; {killed} it is revived"));
        check(
            "paused",
            json!({"killed": true, "killed_by_config": true}),
            &format!("{paused}; {killed} the config says otherwise"),
        );
        check(
            "paused",
            json!({"breaker": {"state": "open"}}),
            &format!("{paused}; but its breaker is open, so everyone is on stable"),
        );
    }
}
