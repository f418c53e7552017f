//! Pictures as text: what is on them, and what is not.

use super::*;
use crate::clock::Time;
use serde_json::{Value, json};

fn rollout(name: &str) -> Rollout {
    let arm = |requests: u64, errors: u64, p95: f64| {
        json!({
            "requests": requests, "errors": errors, "error_rate": errors as f64 / requests as f64,
            "rps": requests as f64 / 60.0, "p50_ms": 4.0, "p95_ms": p95, "p99_ms": 31.0, "in_flight": 3,
        })
    };
    let form = json!({
        "name": name, "state": "running", "state_reason": null, "weight_ppm": 100_000, "file_weight_ppm": 100_000,
        "killed": false, "killed_by_config": false, "breaker": {"state": "closed"},
        "arms": {"stable": arm(5400, 0, 12.0), "canary": arm(600, 6, 24.0)}, "cohorts": [], "window_s": 60.0, "generation": 7,
        "stage": {"name": "ten", "index": 1, "count": 3, "served_s": 7200.0, "min_duration_s": 86_400.0},
        "stages": [
            {"name": "team", "weight_ppm": 0, "min_duration_s": 3600.0, "finished": true},
            {"name": "ten", "weight_ppm": 100_000, "min_duration_s": 86_400.0},
            {"name": "full", "weight_ppm": 1_000_000, "min_duration_s": 0.0},
        ],
        "next": {"to": "full", "obstacles": [{"kind": "time", "remaining_s": 79_200.0}]},
        "gates": [
            {"when": "p95 < 20ms", "verdict": "fail", "value": 24.0, "limit": 20.0, "margin": -0.2, "unit": "ms",
             "samples": 1900, "min_requests": 100},
        ],
        "triggers": [
            {"name": "errors", "when": "error_rate > 0.5%", "state": "pending", "value": 0.01, "limit": 0.005,
             "margin": -1.0, "unit": "ratio", "for_s": 300.0, "held_s": 90.0, "action": "rollback"},
        ],
    });
    serde_json::from_value(form).unwrap()
}

fn event(id: u64, time: &str) -> Event {
    Event {
        id,
        time: time.to_owned(),
        rollout: Some("chat".to_owned()),
        kind: "weight".to_owned(),
        actor: "ada".to_owned(),
        reason: String::new(),
        old: json!({"weight_ppm": 50_000}),
        new: json!({"weight_ppm": 100_000}),
        numbers: Value::Null,
    }
}

/// 12:26:40 UTC.
const NOW: Wall = Wall::from_millis(1_600_000_000_000);

fn picture() -> Picture {
    let mut picture = Picture { rollouts: vec![rollout("chat")], ..Picture::of(Some("chat")) };
    picture.ring.add(Time::default(), &picture.rollouts[0].arms);
    picture.events = vec![event(1, "2020-09-13T11:26:40.000Z"), event(2, "2020-09-13T12:26:30.000Z")];
    picture
}

#[test]
fn one_rollout_is_shown_with_all_that_decides() {
    let expected = "weir status chat   12:26:40 UTC   the last 1m   q ends

chat  running  weight 10%
stage ten (2 of 3) at 10%; 22h to serve, then the next
  stage begins if its gate passes
+ team 0%  > ten 10% ──────── 2h of 24h    full 100%

            stable  50s          canary  50s
share        90.0%                10.0%
rps           90.0           █     10.0           █
errors       0.00%           ▁    1.00%           █
p95        12.0 ms           ▅  24.0 ms           █
p50        4.00 ms              4.00 ms
p99        31.0 ms              31.0 ms
in flight        3                    3

gate        verdict  value  limit  margin  samples
p95 < 20ms  fail      24ms   20ms    -20%  1,900

trigger  when               state    value  limit  margin  held         then
errors   error_rate > 0.5%  pending   1.0%  0.50%   -100%  1m30s of 5m  rollback

breaker closed

events
   10s ago  weight         chat  weight 5% -> 10%  by ada
    1h ago  weight         chat  weight 5% -> 10%  by ada
";
    assert_eq!(picture().text(NOW, 56, Paint::default()), expected);
}

#[test]
fn why_it_tripped_is_shown_to_the_last_word() {
    let mut picture = picture();
    let breaker =
        json!({"state": "open", "last_reason": "consecutive_errors 5 >= 5 (requests in a row: connect 5; 5 units)"});
    picture.rollouts[0].breaker = serde_json::from_value(breaker).unwrap();
    let text = picture.text(NOW, 40, Paint::default());
    let wanted = "tripped by consecutive_errors 5 >= 5 (requests in a row: connect 5; 5 units)\n";
    assert!(!text.contains(wanted) && text.replace("\n  ", " ").contains(wanted), "{text}");
}

#[test]
fn a_bar_is_full_when_the_time_is_served_and_never_before() {
    assert_eq!(
        ["0,60", "30,60", "59,60", "60,60", "90,60", "0,0"].map(|case| {
            let (served, least) = case.split_once(',').unwrap();
            bar(served.parse().unwrap(), least.parse().unwrap())
        }),
        ["────────", "━━━━────", "━━━━━━━─", "━━━━━━━━", "━━━━━━━━", "━━━━━━━━"]
    );
}

#[test]
fn cohorts_and_their_switches_are_on_it() {
    let mut with = picture();
    let cohort = json!({"name": "internal", "enabled": true, "killed": true, "exclude": false, "units": 40});
    with.rollouts[0].cohorts = vec![serde_json::from_value(cohort).unwrap()];
    let text = with.text(NOW, 56, Paint::default());
    assert!(text.lines().any(|line| line.starts_with("internal ") && line.ends_with(" 40")), "{text}");
}

#[test]
fn while_weir_is_away_the_rest_stays_where_it_is() {
    let mut picture = picture();
    let before = picture.text(NOW, 80, Paint::default());
    picture.away = Some(Away { since: Wall::from_millis(NOW.as_millis() - 75_400), cause: "refused".to_owned() });
    let after = picture.text(NOW, 80, Paint::default());
    let line = "weir is away since 12:25:24 UTC (1m15s), last picture below: refused";
    assert_eq!(after.lines().nth(1), Some(line));
    assert_eq!(before.lines().nth(1), Some(""));
    assert!(after.lines().skip(2).eq(before.lines().skip(2)), "{after}");
    assert!(picture.text(NOW, 80, Paint { on: true }).contains(&format!("\x1b[31m{line}\x1b[0m")));
}

#[test]
fn a_long_plan_takes_several_lines_and_a_narrow_window_no_curves() {
    let wide = timeline(&rollout("chat"), 80, Paint::default());
    assert_eq!(wide.lines().count(), 1);
    assert_eq!(
        timeline(&rollout("chat"), 30, Paint::default()),
        "+ team 0%\n> ten 10% ──────── 2h of 24h\n  full 100%\n"
    );
    let done = Rollout { state: "completed".to_owned(), ..rollout("chat") };
    assert!(!timeline(&done, 80, Paint::default()).contains('>'));
    let narrow = picture().text(NOW, 40, Paint::default());
    assert!(!narrow.contains('█') && narrow.contains("p95        12.0 ms"), "{narrow}");
}

#[test]
fn all_rollouts_take_a_line_each() {
    let picture = Picture { rollouts: vec![rollout("chat"), rollout("objects")], ..Picture::of(None) };
    let expected = "weir status   12:26:40 UTC   the last 1m   q ends

rollout  state    weight          rps         errors                p95  now
chat     running     10%  90.0 | 10.0  0.00% | 1.00%  12.0 ms | 24.0 ms  stage ten (2 of 3) at 10%; 22h to serve, then \
                    the next stage begins if its gate passes
objects  running     10%  90.0 | 10.0  0.00% | 1.00%  12.0 ms | 24.0 ms  stage ten (2 of 3) at 10%; 22h to serve, then \
                    the next stage begins if its gate passes
pairs are stable | canary
";
    assert_eq!(picture.text(NOW, 80, Paint::default()), expected);
    let narrow = picture.text(NOW, 40, Paint::default());
    let expected = "chat  running  weight 10%
  rps 90.0 | 10.0  errors 0.00% | 1.00%
  p95 12.0 ms | 24.0 ms
objects ";
    assert!(narrow.contains(expected), "{narrow}");
    assert!(Picture::of(None).text(NOW, 80, Paint::default()).contains("no rollouts"));
}

#[test]
fn an_age_that_cannot_be_read_is_shown_as_it_came() {
    assert_eq!(age("2020-09-13T12:26:41.900Z", NOW), "0s ago", "a clock that is ahead");
    assert_eq!(age("2020-09-13T12:26:38.900Z", NOW), "1s ago");
    assert_eq!(age("yester\x1bday", NOW), "yester\u{fffd}day");
}
