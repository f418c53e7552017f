//! Plans that could never work, as their users meet them: every mistake at once, at its place.

use super::*;

#[test]
fn a_file_of_wrong_plans_is_told_every_mistake_at_once_and_where_it_is() {
    let text = include_str!("../../../tests/fixtures/config/wrong-plans.toml");
    check(
        text,
        &[
            "26:16 rollouts.chat.stages[0].max_duration: is shorter than `min_duration`",
            "27:12 rollouts.chat.stages[0].cohorts: there is no cohort \"internl\" | did you mean `internal`?",
            "27:23 rollouts.chat.stages[0].cohorts: `banned` keeps its members off the canary | `exclude = \
             true` needs no stage",
            "28:26 rollouts.chat.stages[0].gates[1]: nothing is mirrored (`shadow`), so the gate can never pass",
            "32:16 rollouts.chat.stages[1].min_duration: expected a duration such as \"30s\", \"250ms\" or \
             \"2m30s\", found \"-5m\"",
            "33:10 rollouts.chat.stages[1].after: goes in a circle, so none of these can ever begin: \
             chat:fifty -> chat:fifty",
            "35:6 rollouts.chat.stages[1].gates[0]: there is no metric `eror_rate` | did you mean `error_rate`?",
            "36:12 rollouts.chat.stages[1].gates[1]: `p95` is a time, and `5%` is a share: compare it with a \
             time such as `200ms`",
            "37:18 rollouts.chat.stages[1].gates[2]: there is no stage \"shadw\" | did you mean `shadow`?",
            "38:28 rollouts.chat.stages[1].gates[3]: `error_rate` is never below 0: the gate can never pass",
            "38:48 rollouts.chat.stages[1].gates[3].min_requests: expected 1 or more, found 0 | without a \
             request there is nothing to judge by",
            "38:60 rollouts.chat.stages[1].gates[3].window: expected 1s to 400d",
            "39:22 rollouts.chat.stages[1].gates[4]: `rps` is a plain number, and `99999999999999999999999%` \
             is a share: compare it with a plain number such as `100`",
            "42:8 rollouts.chat.stages[2].name: another stage is `fifty` already",
            "43:10 rollouts.chat.stages[2].weight: is less than the 50% of the stage before, `fifty` | a plan \
             goes forwards; triggers take it back",
            "44:16 rollouts.chat.stages[2].min_duration: expected a duration such as \"30s\", \"250ms\" or \
             \"2m30s\", found \"99999999999999999999d\"",
            "46:33 rollouts.chat.stages[2].gates[1]: there is no cohort \"intern\" | did you mean `internal`?",
            "46:67 rollouts.chat.stages[2].gates[2]: there is no signal \"orders\"",
            "49:22 rollouts.chat.triggers[0]: `error_rate` is never above 100%: the trigger can never fire",
            "50:7 rollouts.chat.triggers[0].for: expected a duration such as \"30s\", \"250ms\" or \"2m30s\", \
             found \"-1s\"",
            "51:10 rollouts.chat.triggers[0].action: \"rolback\" is none of its words | did you mean \
             `rollback`?",
            "53:8 rollouts.chat.triggers[1].name: another trigger is `errors` already",
            "56:11 rollouts.chat.triggers[1].rollout: there is no rollout \"perfer\" | did you mean `prefer`?",
            "57:13 rollouts.chat.triggers[1].both_arms: the criterion is about stable, which would always \
             spare it: it can never fire",
            "58:16 rollouts.chat.triggers[1].min_requests: expected a whole number from 0 to 4294967295, found \
             -1",
            "63:12 rollouts.pay.requires: goes in a circle: pay -> prefer -> pay",
            "68:10 rollouts.pay.stages[0].after: goes in a circle, so none of these can ever begin: pay:one -> \
             prefer:one -> pay:two -> pay:one",
            "76:7 rollouts.pay.triggers[0].for: no stage lasts longer than 1h, so it can never have held for 2h",
        ],
    );
}

/// A plan whose first stage has nobody on the canary, the second a cohort, the last everybody.
const EMPTY: &str = r#"[[routes]]
name = "all"
match = { path_prefix = "/a" }
rollouts = ["chat"]
[[routes]]
upstream = "legacy"
[rollouts.chat.cohorts.beta]
users = ["u"]
[signals.bad]
when = { status = ["500"] }
"#;

/// What is reported of such a plan with these gates in its first, second and last stage.
#[track_caller]
fn check_gates(gates: [&str; 3], expected: &[&str]) {
    let [first, second, last] = gates;
    check_added(
        &format!(
            "{EMPTY}[[rollouts.chat.stages]]\nname = \"zero\"\nweight = \"0%\"\ncapture_baseline = true\n\
             gates = [{first}]\n[[rollouts.chat.stages]]\nname = \"team\"\nweight = \"0%\"\ncohorts = [\"beta\"]\n\
             gates = [{second}]\n[[rollouts.chat.stages]]\nname = \"full\"\nweight = \"100%\"\ngates = [{last}]\n"
        ),
        expected,
    );
}

#[test]
fn a_gate_that_needs_somebody_on_the_canary_is_reported_where_nobody_is() {
    for metric in [
        "error_rate",
        "rate_5xx",
        "rate_4xx",
        "timeout_rate",
        "p95",
        "total.p99",
        "rps",
        "requests",
        "signal.bad",
        "fallback_rate",
        "breaker_rate",
    ] {
        let limit = match metric {
            "p95" | "total.p99" => "1s",
            "rps" | "requests" => "1",
            _ => "1%",
        };
        let why = "nobody is on the canary in stage `zero`, so the gate can never pass";
        let problem = format!("15:11 rollouts.chat.stages[0].gates[0]: {why}");
        check_gates([&format!("\"{metric} <= {limit}\""), "", ""], &[&problem]);
        check_gates(["", &format!("\"{metric} <= {limit}\""), ""], &[]);
    }
    check_gates(["\"stable.error_rate < 1%\", \"share <= 1%\", \"breaker.trips < 1\"", "", ""], &[]);
}

#[test]
fn a_gate_that_compares_a_value_with_itself_is_reported_where_it_can_never_pass() {
    let never = |gate: &str, at: usize, why: &str| {
        let problem = format!("20:{at} rollouts.chat.stages[1].gates[0]: {why}: the gate can never pass");
        check_gates(["", &format!("\"{gate}\""), ""], &[&problem]);
    };
    never("p95 < canary", 17, "`p95` is compared with itself");
    never("p95 < 1.0 * canary.p95", 17, "`p95` is compared with itself");
    never("p95 > 1.5 * canary + 1ms", 17, "`p95` is compared with itself");
    never("error_rate < stable * 0", 24, "`error_rate` is never below 0");
    never("p95 < stable - stable", 17, "`p95` is never below 0");
    for gate in ["p95 <= canary", "p95 < 2 * canary", "p95 < canary + 1ms", "p95 < stable", "p95 < 2 * stable - canary"]
    {
        check_gates(["", &format!("\"{gate}\""), ""], &[]);
    }
}

#[test]
fn what_is_never_counted_is_reported_too() {
    let gates = |gates: &[&str]| gates.iter().map(|gate| format!("\"{gate}\"")).collect::<Vec<_>>().join(", ");
    check_gates(
        [
            &gates(&["stable.p95{route-2} < 1s", "share > 1%", "shadow.p95 < 1s"]),
            &gates(&[
                "stable.p95{cohort:beta} < 1s",
                "error_rate{cohort:beta} <= stable",
                "p95 < 1.1 * stage(zero)",
                "p95 < baseline",
                "p95 < 2 * baseline.canary.p95",
                "signal.bad > 150%",
                "vitals.lcp.p75 < 2s",
            ]),
            &gates(&["p95{cohort:beta} < 1s", "error_rate <= stable", "p95 <= stage(team)"]),
        ],
        &[
            "15:18 rollouts.chat.stages[0].gates[0]: route `route-2` does not name rollout `chat`, so the gate can never pass",
            "15:47 rollouts.chat.stages[0].gates[1]: `share` is 0% in a stage of weight 0%: the gate can never pass",
            "15:53 rollouts.chat.stages[0].gates[2]: nothing is mirrored (`shadow`), so the gate can never pass",
            "20:18 rollouts.chat.stages[1].gates[0]: the units of cohort `beta` are never counted on stable, so the gate can \
             never pass",
            "20:92 rollouts.chat.stages[1].gates[2]: nobody is on the canary in stage `zero`, so the gate can never pass",
            "20:179 rollouts.chat.stages[1].gates[6]: no listener has a `vitals_path`, so the gate can never pass",
            "24:11 rollouts.chat.stages[2].gates[0]: cohort `beta` is not admitted in stage `full`, so the gate can never pass",
        ],
    );
}

#[test]
fn a_gate_that_may_wait_for_ever_is_a_warning() {
    let added = format!(
        "{EMPTY}[[rollouts.chat.stages]]\nname = \"zero\"\nweight = \"0%\"\ncapture_baseline = true\n\
         [[rollouts.chat.stages]]\nname = \"full\"\nweight = \"100%\"\nshadow = \"10%\"\n\
         gates = [\"p95 < 2 * baseline.canary.p95\", \"error_rate <= stable\", \"shadow.p95 < 1s\", \"p95 < baseline\"]\n"
    );
    let warnings =
        |text: &str| lines(&load_toml(text).unwrap().warnings).lines().map(str::to_owned).collect::<Vec<_>>();
    let everyone = "everyone with a unit is on the canary in stage `full`, and hardly anything is";
    let so = "so the gate may wait for ever";
    let help = "compare with `baseline` or `stage(NAME)`";
    assert_eq!(
        warnings(&format!("{BASE}{added}")),
        [
            "30:21 rollouts.chat.stages[1].gates[0]: nobody is on the canary in stage `zero`, so the gate waits for a baseline \
             that is set by hand"
                .to_owned(),
            format!("30:58 rollouts.chat.stages[1].gates[1]: {everyone} on stable, {so} | {help}"),
            format!("30:68 rollouts.chat.stages[1].gates[2]: {everyone} mirrored, {so}"),
        ]
    );
    let excluded = "[rollouts.chat.cohorts.careful]\nusers = [\"v\"]\nexclude = true\n";
    assert_eq!(warnings(&format!("{BASE}{added}{excluded}")).len(), 1, "somebody stays on stable");
}

#[test]
fn nothing_follows_from_a_weight_that_cannot_be_read() {
    check_added(
        "[[rollouts.chat.stages]]\nname = \"one\"\nweight = \"10\"\ngates = [\"p95 < 1s\", \"share > 1%\"]\n\
         [[rollouts.chat.stages]]\nname = \"two\"\nweight = \"20%\"\ngates = [\"p95 < stage(one)\"]\n\
         [[rollouts.chat.triggers]]\nname = \"t\"\nwhen = \"p95 > 1s\"\naction = \"alert\"\nstages = [\"one\"]\n",
        &[
            "3:10 rollouts.chat.stages[0].weight: expected a share such as \"12.5%\", found \"10\" | did you mean \"10%\"?",
        ],
    );
}

#[test]
fn a_plan_that_only_a_switch_has_emptied_is_not_refused() {
    let stage = "[[rollouts.chat.stages]]\nname = \"team\"\nweight = \"50%\"\ngates = [\"error_rate < 1%\"]\n";
    good(&format!("{}{stage}", BASE.replace("weight = \"10%\"", "weight = \"0%\"")));
    let cohort = "[rollouts.chat.cohorts.beta]\nusers = [\"u\"]\nenabled = false\n";
    let stage = stage.replace("50%", "0%") + "cohorts = [\"beta\"]\n";
    good(&format!("{BASE}{cohort}{stage}"));
}

#[test]
fn a_trigger_that_nothing_can_ever_fire_is_a_warning() {
    let added = format!(
        "{EMPTY}[[rollouts.chat.stages]]\nname = \"zero\"\nweight = \"0%\"\n[[rollouts.chat.stages]]\n\
         name = \"ten\"\nweight = \"10%\"\n[rollouts.chat.breaker]\nenabled = false\n\
         [[rollouts.chat.triggers]]\nname = \"a\"\nwhen = \"error_rate > 1%\"\naction = \"alert\"\nstages = [\"zero\"]\n\
         [[rollouts.chat.triggers]]\nname = \"b\"\nwhen = \"error_rate > 1%\"\naction = \"alert\"\n\
         [[rollouts.chat.triggers]]\nname = \"c\"\nwhen = \"breaker.trips >= 1\"\naction = \"alert\"\n"
    );
    let loaded = load_toml(&format!("{BASE}{added}")).unwrap();
    assert_eq!(
        lines(&loaded.warnings).lines().collect::<Vec<_>>(),
        [
            "32:9 rollouts.chat.triggers[0]: nobody is on the canary in stage `zero`, so the trigger can never fire",
            "41:9 rollouts.chat.triggers[2]: its breaker is off (`enabled = false`), so the trigger can never fire",
        ]
    );
}

#[test]
fn stages_that_wait_for_one_another_in_a_circle_are_reported_once() {
    let stage = |rollout: &str, name: &str, after: &str| {
        format!("[[rollouts.{rollout}.stages]]\nname = \"{name}\"\nweight = \"10%\"\n{after}\n")
    };
    let other = "[rollouts.pay]\nunit = [\"client-ip\"]\ncanary = { set_headers = { x-a = \"1\" } }\n";
    let route = "[[routes]]\nrollouts = [\"chat\", \"pay\"]\n";
    let waits = |chat: &str, pay: &str| {
        [stage("chat", "one", ""), stage("chat", "two", chat), other.into(), stage("pay", "one", pay), route.into()]
            .concat()
    };
    check_added(
        &waits("after = \"pay:one\"", "after = \"chat:two\""),
        &["8:10 rollouts.chat.stages[1].after: goes in a circle, so none of these can ever begin: \
           chat:two -> pay:one -> chat:two"],
    );
    check_added(
        &waits("after = \"chat:two\"", ""),
        &[
            "8:10 rollouts.chat.stages[1].after: goes in a circle, so none of these can ever begin: chat:two -> chat:two",
        ],
    );
    check_added(&waits("after = \"pay:one\"", "after = \"chat:one\""), &[]);
    check_added(&waits("after = \"chat:one\"", ""), &[]);
}

/// A plan with one of everything that its tables show.
const TABLED: &str = r#"[rollouts.chat.cohorts.internal]
users = ["eng-1"]
[rollouts.chat.cohorts.beta]
header = "x-beta: 1"
[rollouts.chat.shadow]
share = "50%"
[[rollouts.chat.stages]]
name = "shadow"
weight = "0%"
cohorts = ["internal"]
min_duration = "24h"
max_duration = "72h"
gates = ["shadow.error_rate < 1%", { when = "shadow.p95 < 1.1 * stable.p95", min_requests = 1000 }]
capture_baseline = true
[[rollouts.chat.stages]]
name = "ten"
weight = "10%"
shadow = "0%"
cohorts = ["internal", "beta"]
min_duration = "2h"
gates = [{ when = "error_rate <= stable + 0.5%", window = "30m" }, { when = "p95 < 1.2 * baseline + 20ms", window = "1h", min_requests = 50 }]
approval = true
[[rollouts.chat.stages]]
name = "full"
weight = "10%"
[[rollouts.chat.triggers]]
name = "errors"
when = "error_rate > 0.5%"
for = "5m"
action = "rollback"
[[rollouts.chat.triggers]]
name = "slow"
when = "p99 > 2 * stable"
action = "previous"
window = "10m"
min_requests = 200
both_arms = "alert"
dry_run = true
stages = ["ten", "full"]
"#;

#[test]
fn a_plan_is_shown_as_tables_that_fit_the_width() {
    let config = good(&format!("{BASE}{TABLED}"));
    let tables = |columns: usize| {
        let text = describe(&config, columns);
        text[text.find("  plan\n").unwrap()..].to_owned()
    };
    let wide = "  plan
    stage   weight  shadow  cohorts         time    gates                                   also
    shadow  0%      50%     internal        1d..3d  shadow.error_rate < 1%                  baseline
                                                    shadow.p95 < 1.1 * stable.p95 (of 1000
                                                      requests)
    ten     10%             internal, beta  2h..    error_rate <= stable + 0.5% (over 30m)  approval
                                                    p95 < 1.2 * baseline + 20ms (over 1h,
                                                      of 50 requests)
    full    10%     50%                     0s..
  triggers
    trigger  when                                          for      action              stages
    errors   error_rate > 0.5%                             5m       rollback            all
    slow     p99 > 2 * stable (over 10m, of 200 requests)  at once  previous (dry run)  ten, full
             unless stable's does too
";
    assert_eq!(tables(100), wide);
    let narrow = "  plan
    stage   weight  shadow  cohorts    time    gates                also
    shadow  0%      50%     internal   1d..3d  shadow.error_rate <  baseline
                                                 1%
                                               shadow.p95 < 1.1 *
                                                 stable.p95 (of
                                                 1000 requests)
    ten     10%             internal,  2h..    error_rate <=        approval
                            beta                 stable + 0.5%
                                                 (over 30m)
                                               p95 < 1.2 *
                                                 baseline + 20ms
                                                 (over 1h, of 50
                                                 requests)
    full    10%     50%                0s..
  triggers
    trigger  when                         for      action              stages
    errors   error_rate > 0.5%            5m       rollback            all
    slow     p99 > 2 * stable (over 10m,  at once  previous (dry run)  ten, full
             of 200 requests) unless
             stable's does too
";
    assert_eq!(tables(80), narrow);
}

#[test]
fn columns_that_no_stage_fills_are_left_out() {
    let stage = "[[rollouts.chat.stages]]\nname = \"ten\"\nweight = \"10%\"\nmin_duration = \"1h\"\n";
    let text = describe(&good(&format!("{BASE}{stage}")), 100);
    assert!(text.ends_with("  plan\n    stage  weight  time\n    ten    10%     1h..\n"), "{text}");
}
