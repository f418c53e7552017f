//! `weir status`: how the rollouts stand. All of them in one table, one of them with its arms side by side.

use super::args::{Global, Status};
use super::client::{Answer, encode};
use super::console::Console;
use super::render::{self, DASH, Paint, Table, Tone};
use super::stop::{Outcome, Stop};
use super::{stages, upstreams, wait, watch};
use crate::admin::view::{Arm, Breaker, DiffInShort, Rollout, Rollouts, Shadow};
use crate::config::units::print_span;
use std::time::Duration;

/// Prints once; `--watch` and `--wait` go on.
pub fn run(console: &mut Console, global: &Global, arguments: &Status) -> Outcome {
    if arguments.wait {
        return wait::run(console, global, arguments);
    }
    if arguments.watch {
        return watch::run(console, global, arguments);
    }
    let client = console.client(global)?;
    let paint = console.paint(global);
    let answer = client.ask(&path(arguments))?;
    let rollouts = read(&answer, arguments)?;
    console.print(global, &answer.text, || {
        let text = match rollouts.as_slice() {
            [only] => detail(only, paint),
            many => overview(many, paint),
        };
        Ok(text + &upstreams::sick(&client, paint))
    })
}

/// What to ask for.
pub fn path(arguments: &Status) -> String {
    let window = encode(&print_span(arguments.window));
    match &arguments.rollout {
        Some(name) => format!("/api/v1/rollouts/{}?window={window}", encode(name)),
        None => format!("/api/v1/rollouts?window={window}"),
    }
}

/// The rollouts of the answer to that.
pub fn read(answer: &Answer, arguments: &Status) -> Result<Vec<Rollout>, Stop> {
    match arguments.rollout {
        Some(_) => Ok(vec![answer.form()?]),
        None => answer.form::<Rollouts>().map(|form| form.rollouts),
    }
}

/// One rollout on one line, for logs and pipes.
pub fn line(rollout: &Rollout) -> String {
    let arm = |name: &str, arm: &Arm| {
        let (rps, rate) = (render::frequency(arm.rps), render::rate(arm.error_rate));
        format!("{name} {rps} rps, {rate} errors, p95 {}", render::latency(arm.p95_ms))
    };
    let why = because(rollout).map_or(String::new(), |why| format!("  |  {why}"));
    format!(
        "{}  {}  weight {}  |  {}  |  {}{why}{}",
        render::clean(&rollout.name),
        standing(rollout).1,
        render::share(rollout.weight_ppm),
        arm("stable", &rollout.arms.stable),
        arm("canary", &rollout.arms.canary),
        rehearsal(rollout).map_or(String::new(), |scale| format!("  |  {scale}")),
    )
}

/// That plans do not run as written, where they do not.
pub fn rehearsal(rollout: &Rollout) -> Option<String> {
    (rollout.time_scale > 1).then(|| format!("rehearsal: time x {}", rollout.time_scale))
}

/// One line a rollout, and what its pairs of numbers mean.
pub fn overview(rollouts: &[Rollout], paint: Paint) -> String {
    if rollouts.is_empty() {
        return "no rollouts: every request goes where its route says\n".to_owned();
    }
    let span = rollouts.first().map_or(String::new(), span);
    let mut table = Table::new("<<>>>>>");
    table.head(["rollout", "state", "weight", "canary's part", "rps", "errors", "p95"]);
    for rollout in rollouts {
        let (stable, canary) = (&rollout.arms.stable, &rollout.arms.canary);
        let both = |show: &dyn Fn(&Arm) -> String| format!("{} | {}", show(stable), show(canary));
        let (tone, state) = standing(rollout);
        table.tones([
            (Tone::Bold, rollout.name.clone()),
            (tone, state),
            (Tone::Plain, render::share(rollout.weight_ppm)),
            (Tone::Plain, render::part(canary.requests, stable.requests + canary.requests)),
            (Tone::Plain, both(&|arm| render::frequency(arm.rps))),
            (blame(stable, canary), both(&|arm| render::rate(arm.error_rate))),
            (Tone::Plain, both(&|arm| render::latency(arm.p95_ms))),
        ]);
    }
    let legend = paint.tone(Tone::Dim, &format!("pairs are stable | canary, over the last {span}"));
    let mut text = format!("{}{legend}\n", table.print(paint));
    if let Some(scale) = rollouts.first().and_then(rehearsal) {
        text.push_str(&format!("{}\n", paint.tone(Tone::Yellow, &scale)));
    }
    let reasons = rollouts.iter().filter_map(|rollout| Some((rollout, because(rollout)?)));
    for (index, (rollout, why)) in reasons.enumerate() {
        let gap = if index == 0 { "\n" } else { "" };
        text.push_str(&format!("{gap}{}: {why}\n", paint.tone(Tone::Bold, &render::clean(&rollout.name))));
    }
    text
}

/// The name, how it stands, its weight and why.
pub fn headline(rollout: &Rollout, paint: Paint) -> String {
    let (tone, state) = standing(rollout);
    let mut text = format!(
        "{}  {}  weight {}",
        paint.tone(Tone::Bold, &render::clean(&rollout.name)),
        paint.tone(tone, &state),
        render::share(rollout.weight_ppm),
    );
    if rollout.file_weight_ppm != rollout.weight_ppm {
        text.push_str(&format!(" (file: {})", render::share(rollout.file_weight_ppm)));
    }
    if let Some(reason) = &rollout.state_reason {
        text.push_str(&format!("  {}", render::clean(reason)));
    }
    text
}

/// One rollout: a headline, its breaker, both arms side by side, its cohorts.
pub fn detail(rollout: &Rollout, paint: Paint) -> String {
    let mut text = headline(rollout, paint);
    text.push_str(&format!("\n{}\n", paint.tone(Tone::Dim, &format!("the last {}", span(rollout)))));
    if let Some(scale) = rehearsal(rollout) {
        text.push_str(&format!("{}\n", paint.tone(Tone::Yellow, &scale)));
    }
    text.push('\n');
    if let Some(breaker) = &rollout.breaker {
        text.push_str(&format!("{}\n", self::breaker(breaker, paint)));
    }
    text.push_str(&stages::tables(rollout, paint));
    text.push_str(&arms(rollout).print(paint));
    if let Some(shadow) = &rollout.shadow {
        text.push_str(&format!("\n{}\n", self::shadow(shadow, paint)));
    }
    if !rollout.cohorts.is_empty() {
        text.push('\n');
        text.push_str(&cohorts(rollout).print(paint));
    }
    text
}

/// Where the breaker stands, why it tripped last, and what else there is to say: a line each.
pub fn breaker(breaker: &Breaker, paint: Paint) -> String {
    let (tone, word) = match breaker.state.as_str() {
        "closed" => (Tone::Green, "closed"),
        "open" => (Tone::Red, "open"),
        "half_open" => (Tone::Yellow, "half-open"),
        other => (Tone::Yellow, other),
    };
    let mut text = format!("breaker {}", paint.tone(tone, &render::clean(word)));
    if let Some(next) = next(breaker) {
        text.push_str(&format!(", {next}"));
    }
    text.push('\n');
    if let Some(reason) = &breaker.last_reason {
        let when = if breaker.state == "closed" { "tripped last by" } else { "tripped by" };
        text.push_str(&format!("  {when} {}\n", render::clean(reason)));
    }
    if let Some(note) = &breaker.note {
        text.push_str(&format!("  {}\n", paint.tone(Tone::Yellow, &render::clean(note))));
    }
    text
}

/// What comes next, as far as it is known: `some units probe in 24s, trip 2 of 3`.
fn next(breaker: &Breaker) -> Option<String> {
    let step = match (breaker.cooldown_s, breaker.probe_ppm) {
        (Some(left), _) => Some(format!("some units probe in {}", render::wait(left))),
        (None, Some(probe)) => Some(format!("{} of canary units probe", render::share(probe))),
        (None, None) => None,
    };
    let trips = match (breaker.trips, breaker.max_trips) {
        (0, _) => None,
        (trips, 0) => Some(format!("trip {trips}")),
        (trips, most) => Some(format!("trip {trips} of {most}")),
    };
    let parts: Vec<String> = step.into_iter().chain(trips).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Why the rollout does not simply run, on one line: the breaker's reason, or a rollback's; else what the breaker notes.
fn because(rollout: &Rollout) -> Option<String> {
    if rollout.killed || rollout.state != "running" {
        return rollout.state_reason.as_deref().map(render::clean);
    }
    let breaker = rollout.breaker.as_ref()?;
    if breaker.state == "closed" {
        return breaker.note.as_deref().map(render::clean);
    }
    let reason = breaker.last_reason.as_deref().map(render::clean);
    let parts: Vec<String> = reason.into_iter().chain(next(breaker)).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// What the numbers cover.
pub fn span(rollout: &Rollout) -> String {
    print_span(Duration::from_secs_f64(rollout.window_s.clamp(0.0, 1e6)))
}

fn arms(rollout: &Rollout) -> Table {
    let (stable, canary) = (&rollout.arms.stable, &rollout.arms.canary);
    let all = stable.requests + canary.requests;
    let mut table = Table::new("<>>");
    table.head(["", "stable", "canary"]);
    let mut row = |name: &str, show: &dyn Fn(&Arm) -> String| {
        table.row([name.to_owned(), show(stable), show(canary)]);
    };
    row("share", &|arm| render::part(arm.requests, all));
    row("requests", &|arm| render::count(arm.requests));
    row("rps", &|arm| render::frequency(arm.rps));
    table.tones([
        (Tone::Plain, "errors".to_owned()),
        (Tone::Plain, render::rate(stable.error_rate)),
        (blame(stable, canary), render::rate(canary.error_rate)),
    ]);
    let mut row = |name: &str, show: &dyn Fn(&Arm) -> String| {
        table.row([name.to_owned(), show(stable), show(canary)]);
    };
    row("p50", &|arm| render::latency(arm.p50_ms));
    row("p95", &|arm| render::latency(arm.p95_ms));
    row("p99", &|arm| render::latency(arm.p99_ms));
    row("in flight", &|arm| render::count(arm.in_flight));
    table
}

/// What is mirrored, and what of it is not and why: `shadow 100%: 1,204 copies, errors 0.2%, p95 12ms; not copied: 31 method`.
pub fn shadow(shadow: &Shadow, paint: Paint) -> String {
    let errors = if shadow.errors > 0 { Tone::Yellow } else { Tone::Plain };
    let mut text = format!("shadow {}: {} copies", render::share(shadow.share_ppm), render::count(shadow.requests));
    if shadow.requests > 0 {
        let rate = paint.tone(errors, &render::rate(shadow.error_rate));
        text.push_str(&format!(", errors {rate}, p50 {}", render::latency(shadow.p50_ms)));
        text.push_str(&format!(", p95 {}, p99 {}", render::latency(shadow.p95_ms), render::latency(shadow.p99_ms)));
    }
    let skipped = |(reason, count): (&String, &u64)| format!("{} {}", render::count(*count), render::clean(reason));
    let skipped: Vec<String> = shadow.skipped.iter().map(skipped).collect();
    if !skipped.is_empty() {
        text.push_str(&format!("; not copied: {}", skipped.join(", ")));
    }
    text.extend(shadow.diff.as_ref().map(|diff| self::diff(diff, paint)));
    text
}

/// What comparing answers came to, and the requests whose answers differed last, each by its first difference.
fn diff(diff: &DiffInShort, paint: Paint) -> String {
    let (tone, word) = match diff.verdict.as_str() {
        "pass" => (Tone::Green, "pass"),
        "fail" => (Tone::Red, "fail"),
        _ => (Tone::Yellow, "not enough data"),
    };
    let mut text = format!("\ndiff {}: {}", paint.tone(tone, word), render::clean(&diff.reason));
    for example in &diff.examples {
        let Some(first) = example.differences.first() else { continue };
        let [method, path, place] = [&example.method, &example.path, &first.path].map(|part| render::clean(part));
        let [stable, canary] = [&first.stable, &first.canary].map(|value| render::clean(value));
        text.push_str(&format!("\n  {method} {path}  {place}: {stable} -> {canary}"));
        if example.differences.len() > 1 {
            text.push_str(&format!(" and {} more", example.differences.len() - 1));
        }
    }
    text
}

/// Its cohorts, their switches and where their members go.
pub fn cohorts(rollout: &Rollout) -> Table {
    let mut table = Table::new("<<<>");
    table.head(["cohort", "switch", "members go to", "listed"]);
    for cohort in &rollout.cohorts {
        let (tone, switch) = match (cohort.killed, cohort.enabled) {
            (true, _) => (Tone::Red, "killed"),
            (false, true) => (Tone::Green, "on"),
            (false, false) => (Tone::Dim, "off"),
        };
        // A kill stops a cohort admitting, never keeping out.
        let arm = match (cohort.exclude, cohort.enabled && (cohort.exclude || !cohort.killed)) {
            (_, false) => "their buckets' arms",
            (true, true) => "stable",
            (false, true) => "canary",
        };
        let units = if cohort.units == 0 { DASH.to_owned() } else { render::count(cohort.units as u64) };
        table.tones([
            (Tone::Plain, cohort.name.clone()),
            (tone, switch.to_owned()),
            (Tone::Plain, arm.to_owned()),
            (Tone::Plain, units),
        ]);
    }
    table
}

/// The state in a word or two, and how bad that is.
pub fn standing(rollout: &Rollout) -> (Tone, String) {
    if rollout.killed {
        let by = if rollout.killed_by_config { " by config" } else { "" };
        return (Tone::Red, format!("killed{by}"));
    }
    if rollout.state == "running"
        && let Some(breaker) = &rollout.breaker
    {
        match breaker.state.as_str() {
            "open" => return (Tone::Red, "breaker open".to_owned()),
            "half_open" => return (Tone::Yellow, "breaker half-open".to_owned()),
            _ => {}
        }
    }
    let tone = match rollout.state.as_str() {
        "running" => Tone::Green,
        "rolled_back" => Tone::Red,
        _ => Tone::Yellow,
    };
    (tone, render::clean(&rollout.state))
}

/// A hint for the eye, no verdict: the canary fails, and more than twice as often as stable.
pub fn blame(stable: &Arm, canary: &Arm) -> Tone {
    let rate = canary.error_rate.unwrap_or(0.0);
    if rate > 0.0 && rate > 2.0 * stable.error_rate.unwrap_or(0.0) { Tone::Red } else { Tone::Plain }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn rollout(name: &str, killed: bool) -> Rollout {
        let arm = |requests: u64, errors: u64, rps: f64| {
            json!({
                "requests": requests, "errors": errors, "error_rate": errors as f64 / requests as f64, "rps": rps,
                "p50_ms": 4.1, "p75_ms": 6.0, "p90_ms": 9.0, "p95_ms": 12.25, "p99_ms": 31.0, "p999_ms": 44.0,
                "in_flight": 3,
            })
        };
        let form = json!({
            "name": name, "state": "running", "state_reason": null, "stage": null, "weight_ppm": 250_000,
            "file_weight_ppm": 100_000, "killed": killed, "killed_by_config": false,
            "breaker": {"state": "closed", "trips": 0, "max_trips": 3},
            "arms": {"stable": arm(22_511, 5, 375.2), "canary": arm(7_431, 14, 123.9)},
            "cohorts": [
                {"name": "internal", "enabled": true, "killed": false, "exclude": false, "units": 1200},
                {"name": "partners", "enabled": true, "killed": true, "exclude": true, "units": 0},
            ],
            "gates": [], "triggers": [], "window_s": 60.0, "generation": 7,
        });
        serde_json::from_value(form).unwrap()
    }

    #[test]
    fn a_rehearsal_is_called_one_in_every_form() {
        let usual = rollout("chat", false);
        let fast = Rollout { time_scale: 600, ..usual.clone() };
        let plain = Paint { on: false };
        for (text, as_written) in [
            (line(&fast), line(&usual)),
            (detail(&fast, plain), detail(&usual, plain)),
            (overview(&[fast.clone(), fast.clone()], plain), overview(&[usual.clone(), usual.clone()], plain)),
        ] {
            assert!(text.contains("rehearsal: time x 600"), "{text}");
            assert!(!as_written.contains("rehearsal"), "{as_written}");
        }
    }

    #[test]
    fn one_rollout_shows_its_arms_side_by_side() {
        let expected = "\
chat  running  weight 25% (file: 10%)
the last 1m

breaker closed

            stable   canary
share        75.2%    24.8%
requests    22,511    7,431
rps          375.2    123.9
errors       0.02%    0.19%
p50        4.10 ms  4.10 ms
p95        12.2 ms  12.2 ms
p99        31.0 ms  31.0 ms
in flight        3        3

cohort    switch  members go to  listed
internal  on      canary          1,200
partners  killed  stable              -
";
        assert_eq!(detail(&rollout("chat", false), Paint::default()), expected);
    }

    fn tripped(state: &str, closed_by: Value) -> Rollout {
        let mut breaker = json!({
            "state": state, "trips": 2, "max_trips": 3,
            "last_reason": "error_rate 34.0% > 5.0% (17 of 50 requests in 10s; stable 0.1%)",
        });
        breaker.as_object_mut().unwrap().extend(closed_by.as_object().unwrap().clone());
        Rollout { breaker: serde_json::from_value(breaker).unwrap(), ..rollout("chat", false) }
    }

    #[test]
    fn an_open_breaker_says_why_and_what_comes_next_wherever_it_is_shown() {
        let open = tripped("open", json!({ "cooldown_s": 83.2 }));
        let reason = "error_rate 34.0% > 5.0% (17 of 50 requests in 10s; stable 0.1%)";
        let next = "some units probe in 1m23s, trip 2 of 3";
        let shown = detail(&open, Paint::default());
        assert!(shown.starts_with("chat  breaker open  weight 25% (file: 10%)\n"), "{shown}");
        assert!(shown.contains(&format!("\nbreaker open, {next}\n  tripped by {reason}\n\n")), "{shown}");
        let many = overview(&[open.clone(), rollout("shop", false)], Paint::default());
        assert!(many.contains("chat     breaker open     25%"), "{many}");
        assert!(many.ends_with(&format!("\n\nchat: {reason}; {next}\n")), "{many}");
        assert!(line(&open).starts_with("chat  breaker open  weight 25%  |  stable"));
        assert!(line(&open).ends_with(&format!("  |  {reason}; {next}")));
    }

    #[test]
    fn a_half_open_breaker_says_how_many_probe_and_a_closed_one_what_was() {
        let half =
            tripped("half_open", json!({ "probe_ppm": 20_000, "note": "too few units: the trickle was doubled" }));
        let shown = detail(&half, Paint::default());
        assert!(shown.starts_with("chat  breaker half-open  weight"), "{shown}");
        assert!(shown.contains("breaker half-open, 2% of canary units probe, trip 2 of 3\n"), "{shown}");
        assert!(shown.contains("\n  too few units: the trickle was doubled\n"), "{shown}");
        let closed = tripped("closed", json!({}));
        assert!(
            detail(&closed, Paint::default()).contains("breaker closed, trip 2 of 3\n  tripped last by error_rate")
        );
        assert!(!overview(&[closed], Paint::default()).contains("error_rate"), "it is over");
    }

    #[test]
    fn a_rolled_back_rollout_says_why_in_one_line() {
        let reason = Some("rolled back after 3 trips: 5 errors in a row".to_owned());
        let rollout = Rollout { state: "rolled_back".to_owned(), state_reason: reason, ..tripped("open", json!({})) };
        assert!(line(&rollout).starts_with("chat  rolled_back  weight"));
        assert!(line(&rollout).ends_with("  |  rolled back after 3 trips: 5 errors in a row"));
    }

    #[test]
    fn a_line_says_how_both_arms_do() {
        assert_eq!(
            line(&rollout("chat", true)),
            "chat  killed  weight 25%  |  stable 375.2 rps, 0.02% errors, p95 12.2 ms  |  \
             canary 123.9 rps, 0.19% errors, p95 12.2 ms"
        );
    }

    #[test]
    fn many_rollouts_take_a_line_each() {
        let expected = "\
rollout  state    weight  canary's part            rps         errors                p95
chat     running     25%          24.8%  375.2 | 123.9  0.02% | 0.19%  12.2 ms | 12.2 ms
shop     killed      25%          24.8%  375.2 | 123.9  0.02% | 0.19%  12.2 ms | 12.2 ms
pairs are stable | canary, over the last 1m
";
        assert_eq!(overview(&[rollout("chat", false), rollout("shop", true)], Paint::default()), expected);
        assert!(overview(&[], Paint::default()).starts_with("no rollouts"));
    }
}
