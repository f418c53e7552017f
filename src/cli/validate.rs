//! `weir validate`: whether the next stage may begin, or the first one that admits a cohort; every check on a line.

use super::args::{Global, Validate};
use super::client::encode;
use super::console::Console;
use super::render::{self, Paint, Table, Tone};
use super::stop::{Outcome, Stop};
use crate::admin::view::Validation;

/// Asks and prints; yes is success.
pub fn run(console: &mut Console, global: &Global, arguments: &Validate) -> Outcome {
    let mut path = format!("/api/v1/rollouts/{}/validate", encode(&arguments.rollout));
    if let Some(cohort) = &arguments.cohort {
        path.push_str(&format!("?cohort={}", encode(cohort)));
    }
    let paint = console.paint(global);
    let answer = console.client(global)?.ask(&path)?;
    let validation: Validation = answer.form()?;
    console.print(global, &answer.text, || Ok(text(&validation, paint)))?;
    if validation.may { Ok(()) } else { Err(Stop::No) }
}

/// The answer, then every check with its verdict, then what a person can do.
fn text(validation: &Validation, paint: Paint) -> String {
    let passage = &validation.passage;
    let tone = tone(&passage.verdict);
    let mut text = format!("{}: {}\n", render::clean(&validation.rollout), paint.tone(tone, &answer(validation)));
    let mut table = Table::new("<<<");
    for (verdict, what, reason) in checks(validation) {
        let indented = format!("  {verdict}");
        table.tones([(self::tone(&verdict), indented), (Tone::Plain, what), (Tone::Plain, reason)]);
    }
    text.push_str(&table.print(paint));
    if let Some(hint) = hint(validation) {
        text.push_str(&format!("{hint}\n"));
    }
    text
}

fn answer(validation: &Validation) -> String {
    let passage = &validation.passage;
    let what = match &passage.to {
        Some(stage) => format!("stage {}", render::clean(stage)),
        None => "the plan's end".to_owned(),
    };
    let for_whom = validation
        .cohort
        .as_deref()
        .map_or(String::new(), |cohort| format!(", the first that admits cohort {},", render::clean(cohort)));
    match (passage.entered, passage.verdict.as_str(), &passage.to) {
        (true, "pass", _) => format!("{what}{for_whom} has begun"),
        (true, ..) => format!("{what}{for_whom} has begun, but lets nobody of it in"),
        (_, "pass", None) => "the plan may be completed".to_owned(),
        (_, "pass", _) => format!("{what}{for_whom} may begin"),
        (_, _, None) if validation.state == "completed" => "no stage follows".to_owned(),
        (_, _, None) => "the plan may not be completed yet".to_owned(),
        (_, "fail", _) => format!("{what}{for_whom} may not begin"),
        _ => format!("{what}{for_whom} may not begin yet"),
    }
}

/// Every check: verdict, what it is about, and what there is to say. Those that hold are among them.
fn checks(validation: &Validation) -> Vec<(String, String, String)> {
    let passage = &validation.passage;
    let held = |kind: &str| passage.obstacles.iter().any(|obstacle| obstacle.kind == kind);
    let check = |verdict: &str, what: &str, reason: &str| (verdict.to_owned(), what.to_owned(), reason.to_owned());
    let mut checks = Vec::new();
    let gates = validation.gates.iter().filter(|_| !passage.entered && validation.state != "completed");
    for gate in gates {
        let reason =
            if gate.reason.is_empty() { format!("{}: not judged yet", gate.when) } else { gate.reason.clone() };
        checks.push(check(&gate.verdict, "gate", &reason));
    }
    if let Some(stage) = validation.stage.as_ref().filter(|_| !passage.entered && validation.state != "completed") {
        let (served, least) = (render::lasting(stage.served_s), render::lasting(stage.min_duration_s));
        if !held("time") && stage.min_duration_s > 0.0 {
            checks.push(check("pass", "time", &format!("{least} served")));
        }
        if stage.approval && stage.approved {
            checks.push(check("pass", "approval", "given"));
        }
        for time in passage.obstacles.iter().filter(|obstacle| obstacle.kind == "time") {
            checks.push(check(&time.verdict, "time", &format!("{}: {served} of {least}", time.reason)));
        }
    }
    for obstacle in passage.obstacles.iter().filter(|obstacle| obstacle.kind != "time") {
        // Gates are all there already, unless they could not be shown.
        if obstacle.kind != "gate" || validation.gates.is_empty() {
            checks.push(check(&obstacle.verdict, &obstacle.kind.replace('_', " "), &obstacle.reason));
        }
    }
    checks
}

/// What a person can do about it.
fn hint(validation: &Validation) -> Option<String> {
    let (name, passage) = (render::clean(&validation.rollout), &validation.passage);
    let stands = |kind: &str| passage.obstacles.iter().any(|obstacle| obstacle.kind == kind);
    if validation.may {
        return None;
    }
    let advice = if stands("killed") || stands("rolled_back") || stands("held") {
        format!("`weir revive {name}` takes that back")
    } else if stands("approval") {
        format!("`weir approve {name}` gives the approval")
    } else if stands("cohort") {
        match &validation.cohort {
            Some(cohort) => format!("`weir revive {name} --cohort {}` lets it on again", render::clean(cohort)),
            None => return None,
        }
    } else if passage.may_promote {
        format!("`weir promote {name}` does not wait for that")
    } else {
        return None;
    };
    Some(advice)
}

fn tone(verdict: &str) -> Tone {
    match verdict {
        "pass" => Tone::Green,
        "fail" => Tone::Red,
        _ => Tone::Yellow,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[track_caller]
    fn check(changes: Value, expected: &str) {
        let mut form = json!({
            "rollout": "chat", "cohort": null, "may": false, "state": "running", "from": "ten", "to": "half",
            "entered": false, "verdict": "wait", "may_promote": false, "obstacles": [],
            "stage": {"name": "ten", "index": 0, "count": 3, "served_s": 7200.0, "min_duration_s": 86_400.0},
            "gates": [
                {"when": "p95 < 20ms", "verdict": "pass", "reason": "p95 12ms < 20ms (900 requests in the stage)"},
                {"when": "error_rate < 1%", "verdict": "fail", "reason": "error_rate 2.0% >= 1.0% (18 of 900 requests)"},
                {"when": "share >= 40%", "verdict": "wait", "reason": ""},
            ],
            "generation": 7,
        });
        for (name, value) in changes.as_object().unwrap() {
            form[name] = value.clone();
        }
        assert_eq!(text(&serde_json::from_value(form).unwrap(), Paint::default()), expected);
    }

    fn obstacle(kind: &str, verdict: &str, reason: &str) -> Value {
        json!({"kind": kind, "verdict": verdict, "reason": reason})
    }

    #[test]
    fn every_check_is_on_a_line_and_so_is_what_helps() {
        let time = json!({"kind": "time", "verdict": "wait", "reason": "22h still to serve", "remaining_s": 79_200.0});
        let gate = obstacle("gate", "fail", "error_rate 2.0% >= 1.0% (18 of 900 requests)");
        let approval = obstacle("approval", "wait", "stage `ten` waits for approval");
        check(
            json!({"verdict": "fail", "obstacles": [time, gate, approval]}),
            "\
chat: stage half may not begin
  pass  gate      p95 12ms < 20ms (900 requests in the stage)
  fail  gate      error_rate 2.0% >= 1.0% (18 of 900 requests)
  wait  gate      share >= 40%: not judged yet
  wait  time      22h still to serve: 2h of 24h
  wait  approval  stage `ten` waits for approval
`weir approve chat` gives the approval
",
        );
        check(
            json!({"gates": [], "obstacles": [time], "may_promote": true}),
            "\
chat: stage half may not begin yet
  wait  time  22h still to serve: 2h of 24h
`weir promote chat` does not wait for that
",
        );
    }

    #[test]
    fn what_holds_is_said_too() {
        let stage = json!({"served_s": 90_000.0, "min_duration_s": 86_400.0, "approval": true, "approved": true});
        check(
            json!({"may": true, "verdict": "pass", "gates": [], "stage": stage}),
            "chat: stage half may begin\n  pass  time      24h served\n  pass  approval  given\n",
        );
        check(
            json!({"may": true, "verdict": "pass", "gates": [], "stage": null, "to": null}),
            "chat: the plan may be completed\n",
        );
    }

    #[test]
    fn a_state_that_says_no_says_how_to_go_on() {
        check(
            json!({"verdict": "fail", "gates": [], "stage": null,
                   "obstacles": [obstacle("rolled_back", "fail", "it is rolled back: flooded")]}),
            "chat: stage half may not begin\n  fail  rolled back  it is rolled back: flooded\n\
             `weir revive chat` takes that back\n",
        );
        check(
            json!({"verdict": "fail", "state": "completed", "to": null,
                   "obstacles": [obstacle("completed", "fail", "the plan is complete: no stage follows")]}),
            "chat: no stage follows\n\
             \u{20} fail  completed  the plan is complete: no stage follows\n",
        );
    }

    #[test]
    fn a_cohorts_stage_is_named_with_the_cohort() {
        check(
            json!({"cohort": "gp", "gates": [], "stage": null,
                   "obstacles": [obstacle("stages", "wait", "stage `pilot` comes before it")]}),
            "chat: stage half, the first that admits cohort gp, may not begin yet\n\
             \u{20} wait  stages  stage `pilot` comes before it\n",
        );
        check(
            json!({"cohort": "gp", "entered": true, "verdict": "fail",
                   "obstacles": [obstacle("cohort", "fail", "cohort `gp` was switched off: `revive` it")]}),
            "chat: stage half, the first that admits cohort gp, has begun, but lets nobody of it in\n\
             \u{20} fail  cohort  cohort `gp` was switched off: `revive` it\n`weir revive chat --cohort gp` lets it on again\n",
        );
        check(
            json!({"cohort": "gp", "entered": true, "may": true, "verdict": "pass"}),
            "chat: stage half, the first that admits cohort gp, has begun\n",
        );
    }
}
