//! The verbs that work with a plan.

use super::{ok, rollout, server, weir, weir_with};
use serde_json::{Value, json};

/// `chat` in the first of three stages.
fn staged(state: &str, weight_ppm: u32) -> Value {
    let mut form = rollout("chat");
    form["state"] = json!(state);
    form["weight_ppm"] = json!(weight_ppm);
    form["stage"] = json!({
        "name": "ten", "index": 0, "count": 3, "served_s": 7200.0, "min_duration_s": 86_400.0, "approval": true,
    });
    form["next"] = json!({"from": "ten", "to": "half", "verdict": "wait", "may_promote": true, "obstacles": [
        {"kind": "time", "verdict": "wait", "reason": "22h still to serve", "remaining_s": 79_200.0},
    ]});
    form
}

#[test]
fn a_word_on_a_plan_goes_out_with_who_and_why_and_says_how_it_stands() {
    let stands = "paused in stage ten (1 of 3) at 10%; the stage's clock stands still";
    for (line, state, path, body, said) in [
        ("pause chat --reason why", "paused", "pause", json!({"actor": "ada", "reason": "why"}), stands),
        (
            "resume chat",
            "running",
            "resume",
            json!({"actor": "ada"}),
            "stage ten (1 of 3) at 10%; 22h to serve, then the next stage begins if somebody approves",
        ),
        (
            "promote chat --force --full",
            "running",
            "promote",
            json!({"actor": "ada", "force": true, "full": true}),
            "stage ten (1 of 3) at 10%; 22h to serve, then the next stage begins if somebody approves",
        ),
        ("rollback chat --to half", "paused", "rollback", json!({"actor": "ada", "to": "half"}), stands),
        (
            "rollback chat --actor bot",
            "rolled_back",
            "rollback",
            json!({"actor": "bot", "to": "stable"}),
            "rolled back, everyone is on stable; `weir revive chat` begins stage ten anew",
        ),
        (
            "approve chat",
            "waiting_approval",
            "approve",
            json!({"actor": "ada"}),
            "stage ten (1 of 3) at 10% has passed and waits for approval: `weir approve chat`",
        ),
    ] {
        let (address, asked) = server(vec![ok(&staged(state, 100_000))]);
        let ran = weir_with(&format!("{line} --admin {address}"), &[("USER", "ada")], "");
        assert_eq!((ran.code, ran.out, ran.err.as_str()), (0, format!("chat: {said}\n"), ""), "{line}");
        let asked = asked.recv().unwrap();
        assert_eq!((asked.line, asked.body), (format!("POST /api/v1/rollouts/chat/{path}"), body), "{line}");
    }
}

#[test]
fn what_somebody_should_do_about_a_plan_is_said_below_how_it_stands() {
    let mut form = staged("running", 100_000);
    form["note"] = json!("stage `ten` ended with nothing measured");
    let (address, _asked) = server(vec![ok(&form), ok(&form)]);
    let ran = weir(&format!("promote chat --force --admin {address}"));
    assert!(ran.out.ends_with("\nnote: stage `ten` ended with nothing measured\n"), "{}", ran.out);
    form["stages"] = json!([{"name": "ten"}]);
    let (address, _asked) = server(vec![ok(&form), ok(&form)]);
    let ran = weir(&format!("status chat --admin {address}"));
    assert!(ran.out.contains("\nnote: stage `ten` ended with nothing measured\n\n"), "{}", ran.out);
}

#[test]
fn a_cohort_is_rolled_back_alone_and_the_answer_says_how_to_undo_it() {
    let (address, asked) = server(vec![ok(&staged("running", 100_000))]);
    let ran = weir(&format!("rollback chat --cohort partners --admin {address}"));
    let said = "chat: cohort partners is off the canary until `weir revive chat --cohort partners`\n";
    assert_eq!((ran.code, ran.out.as_str()), (0, said));
    assert_eq!(asked.recv().unwrap().body, json!({"cohort": "partners", "to": "stable"}));
}

#[test]
fn a_plan_that_says_no_is_exit_code_1_and_a_mistake_is_2() {
    let no = json!({"error": "rollout `chat`: a gate of stage `ten` does not pass (fail): error_rate 2.0% > 1.0%"});
    let wrong = json!({"error": "a cohort has no clock of its own", "field": "cohort"});
    let (address, asked) = server(vec![(409, no.to_string()), (409, no.to_string()), (400, wrong.to_string())]);
    let ran = weir(&format!("promote chat --admin {address}"));
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains("(fail): error_rate 2.0% > 1.0%"), "{}", ran.err);
    let ran = weir(&format!("promote chat -o json --admin {address}"));
    assert_eq!((ran.code, serde_json::from_str::<Value>(&ran.out).unwrap()), (1, no));
    let ran = weir(&format!("pause chat --cohort beta --admin {address}"));
    assert_eq!((ran.code, ran.err.as_str()), (2, "error: a cohort has no clock of its own\n"));
    assert_eq!(asked.iter().nth(2).unwrap().body["cohort"], json!("beta"));
}

#[test]
fn validate_is_yes_or_no_by_its_exit_code() {
    let validation = |may: bool, obstacles: Value| {
        json!({
            "rollout": "chat", "cohort": null, "may": may, "state": "running", "from": "ten", "to": "half",
            "entered": false, "verdict": if may { "pass" } else { "wait" }, "may_promote": may, "obstacles": obstacles,
            "stage": {"name": "ten", "index": 0, "count": 3, "served_s": 86_400.0, "min_duration_s": 86_400.0},
            "gates": [], "generation": 7,
        })
    };
    let time = json!([{"kind": "time", "verdict": "wait", "reason": "1h still to serve", "remaining_s": 3600.0}]);
    let (yes, no) = (validation(true, json!([])), validation(false, time));
    let wrong = json!({"error": "no stage of rollout `chat` admits cohort `x`", "field": "cohort"});
    let plain = json!({"error": "rollout `chat` has no stages"});
    let answers = vec![ok(&yes), ok(&no), ok(&no), (400, wrong.to_string()), (409, plain.to_string())];
    let (address, asked) = server(answers);
    let ran = weir(&format!("validate chat --admin {address}"));
    assert_eq!((ran.code, ran.out.lines().next()), (0, Some("chat: stage half may begin")), "{ran:?}");
    let ran = weir(&format!("validate chat --cohort a&b --admin {address}"));
    assert_eq!((ran.code, ran.out.lines().next()), (1, Some("chat: stage half may not begin yet")), "{ran:?}");
    assert_eq!(ran.err, "");
    let ran = weir(&format!("validate chat -o json --admin {address}"));
    assert_eq!((ran.code, serde_json::from_str::<Value>(&ran.out).unwrap()), (1, no));
    assert_eq!(weir(&format!("validate chat --cohort x --admin {address}")).code, 2);
    assert_eq!(weir(&format!("validate chat --admin {address}")).code, 1);
    let lines: Vec<String> = asked.iter().map(|asked| asked.line).take(2).collect();
    assert_eq!(lines[0], "GET /api/v1/rollouts/chat/validate");
    assert_eq!(lines[1], "GET /api/v1/rollouts/chat/validate?cohort=a%26b");
}

#[test]
fn a_wait_ends_when_the_plan_does_or_goes_no_further() {
    let with_plan = |state: &str| {
        let mut form = staged(state, 100_000);
        form["stages"] = json!([{"name": "ten"}]);
        ok(&form)
    };
    let (address, _asked) = server(vec![with_plan("running"), with_plan("completed")]);
    let ran = weir(&format!("status chat --wait --admin {address}"));
    assert_eq!((ran.code, ran.out.lines().count()), (0, 2), "a line a step: {ran:?}");
    assert!(ran.out.ends_with("chat: completed at 10%; breaker and triggers go on watching\n"), "{}", ran.out);
    for state in ["paused", "rolled_back"] {
        let (address, _asked) = server(vec![with_plan(state)]);
        assert_eq!(weir(&format!("status chat --wait --admin {address}")).code, 1, "{state}");
    }
    let (address, _asked) = server(vec![with_plan("running"), with_plan("running")]);
    let ran = weir(&format!("status chat --wait --timeout 10ms --admin {address}"));
    assert_eq!((ran.code, ran.err.as_str()), (1, "not complete within 0.0s\n"));
    let (address, _asked) = server(vec![ok(&rollout("chat"))]);
    let ran = weir(&format!("status chat --wait --admin {address}"));
    assert!(ran.code == 2 && ran.err.contains("nothing to wait for"), "{ran:?}");
}

#[test]
fn who_is_lost_in_the_end_has_no_answer() {
    let (address, _asked) = server(vec![ok(&staged("running", 100_000))]);
    let ran = weir(&format!("health chat --duration 600ms --admin {address}"));
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.err.contains("trying again for 10 s"), "{ran:?}");
    let ran = weir(&format!("health chat --duration 600ms --admin {address}"));
    assert!(ran.code == 3 && !ran.err.contains("trying again"), "it never was there: {ran:?}");
}

#[test]
fn health_ends_at_the_first_thing_that_is_wrong() {
    let well = staged("running", 100_000);
    let mut sick = well.clone();
    sick["triggers"] = json!([{"name": "errors", "state": "firing", "reason": "error_rate 2.0% > 0.50%"}]);
    let (address, asked) = server(vec![ok(&well), ok(&sick)]);
    let ran = weir(&format!("health chat --cohort a&b --duration 1h --admin {address}"));
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!((ran.code, lines.len()), (1, 3), "{ran:?}");
    assert_eq!(lines[1], "trigger errors: firing  error_rate 2.0% > 0.50%");
    assert_eq!(lines[2], "chat: not healthy: trigger errors fires: error_rate 2.0% > 0.50%");
    assert_eq!(asked.recv().unwrap().line, "GET /api/v1/rollouts/chat?cohort=a%26b");
    let (address, _asked) = server(vec![ok(&well); 8]);
    let ran = weir(&format!("health chat --duration 300ms -o json --admin {address}"));
    let last: Value = serde_json::from_str(ran.out.lines().last().unwrap()).unwrap();
    assert_eq!((ran.code, &last["healthy"]), (0, &json!(true)));
}

#[test]
fn a_baseline_is_a_table_of_both_arms_and_doubts_go_to_standard_error() {
    let form = json!({
        "rollout": "chat", "stages": {"team": {"stable": {}, "canary": {}}},
        "baseline": {
            "stable": {
                "error_rate": {"value": 0.0005, "unit": "ratio", "samples": 22_511},
                "p95": {"value": 150.0, "unit": "ms", "samples": 0},
            },
            "canary": {"p95": {"value": 93.0, "unit": "ms", "samples": 80}},
        },
        "warnings": ["canary had only 80 requests"],
    });
    let expected = "\
baseline    stable  samples  canary  samples
error_rate   0.05%   22,511       -        -
p95          150ms  by hand    93ms       80
recorded at the end of: team
";
    let none = json!({"rollout": "chat", "baseline": null, "stages": {}});
    let (address, asked) = server(vec![ok(&form), ok(&form), ok(&none)]);
    let ran = weir(&format!("baseline chat --capture --reason quiet --admin {address}"));
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, expected, "warning: canary had only 80 requests\n"));
    let request = asked.recv().unwrap();
    assert_eq!(request.line, "POST /api/v1/rollouts/chat/baseline");
    assert_eq!(request.body, json!({"capture": true, "reason": "quiet"}));
    let ran = weir(&format!("baseline chat --set stable.p95=150ms --set query.memory=30MB --admin {address}"));
    assert_eq!((ran.code, ran.out.as_str()), (0, expected));
    assert_eq!(asked.recv().unwrap().body, json!({"set": {"stable.p95": "150ms", "query.memory": "30MB"}}));
    let ran = weir(&format!("baseline chat --admin {address}"));
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "chat: no baseline\n", ""));
    assert_eq!(asked.recv().unwrap().line, "GET /api/v1/rollouts/chat/baseline");
}

#[test]
fn a_baseline_is_imported_from_what_was_printed_before() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chat.json");
    let baseline = json!({"stable": {"p95": {"value": 150.0, "unit": "ms", "samples": 9}}, "canary": {}});
    let form = json!({"rollout": "chat", "baseline": baseline, "stages": {"team": {}}, "warnings": []});
    std::fs::write(&file, form.to_string()).unwrap();
    let (address, asked) = server(vec![ok(&json!({"rollout": "chat", "baseline": baseline, "stages": {}}))]);
    let ran = weir(&format!("baseline chat --import {} -o json --admin {address}", file.display()));
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert_eq!(serde_json::from_str::<Value>(&ran.out).unwrap()["baseline"], baseline);
    assert_eq!(asked.recv().unwrap().body, json!({"import": {"baseline": baseline}}));
    for (text, says) in [("{", "no JSON"), ("{\"baseline\": null}", "no `baseline`"), ("[]", "no `baseline`")] {
        std::fs::write(&file, text).unwrap();
        let ran = weir(&format!("baseline chat --import {}", file.display()));
        assert!(ran.code == 2 && ran.err.contains(says) && ran.err.contains("chat.json"), "{text}: {}", ran.err);
    }
    let ran = weir(&format!("baseline chat --import {}/none", folder.path().display()));
    assert!(ran.code == 2 && ran.err.contains("none: "), "{}", ran.err);
    assert!(weir("baseline chat --set stable.p95=1ms --set stable.p95=2ms").err.contains("set twice"));
}
