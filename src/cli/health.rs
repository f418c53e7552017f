//! `weir health`: watches gates and triggers for a while, prints what changes, and stops at the first that fails or fires.

use super::args::{Global, Health, Output};
use super::client::{Client, encode};
use super::console::Console;
use super::contact::Contact;
use super::plan;
use super::render::{self, Paint, Tone};
use super::stop::{Outcome, Stop};
use crate::admin::view::{Gate, OnCohort, Rollout, Trigger};
use crate::clock::{Clock, Time};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// Watches until the time is over, or until something is wrong.
pub fn run(console: &mut Console, global: &Global, arguments: &Health) -> Outcome {
    let client = console.client(global)?;
    let (clock, paint) = (Clock::system(), console.paint(global));
    let ends = clock.now() + arguments.duration;
    let mut contact = Contact::new(clock.clone(), GRACE);
    let mut watch = Watch::default();
    loop {
        if let Some(rollout) = contact.with(console, || ask(&client, arguments))? {
            for change in watch.look(&rollout, clock.now()) {
                print(console, global, paint, &change)?;
            }
            if let Some(wrong) = watch.wrong.take() {
                let text = format!("{}: not healthy: {wrong}", render::clean(&rollout.name));
                finish(console, global, false, &text, paint.tone(Tone::Red, &text))?;
                return Err(Stop::No);
            }
        }
        if clock.now() >= ends {
            if let Some(stop) = contact.gone() {
                return Err(stop);
            }
            let well = format!(
                "{}: healthy for {}: no trigger fired and no gate failed",
                render::clean(&arguments.rollout),
                render::lasting(arguments.duration.as_secs_f64())
            );
            return finish(console, global, true, &well, paint.tone(Tone::Green, &well));
        }
        client.pause(LOOK_EVERY.min(ends.since(clock.now())).max(Duration::from_millis(1)));
    }
}

fn ask(client: &Client, arguments: &Health) -> Result<Rollout, Stop> {
    let mut path = format!("/api/v1/rollouts/{}", encode(&arguments.rollout));
    if let Some(cohort) = &arguments.cohort {
        path.push_str(&format!("?cohort={}", encode(cohort)));
    }
    client.ask(&path)?.form()
}

/// One change, as it happens.
fn print(console: &mut Console, global: &Global, paint: Paint, change: &Change) -> Outcome {
    let text = match global.output {
        Output::Json => {
            json!({"subject": change.subject, "was": change.was, "is": change.is, "reason": change.reason}).to_string()
        }
        Output::Text => {
            let was = change.was.as_ref().map_or(String::new(), |was| format!("{was} -> "));
            let is = paint.tone(change.tone, &change.is);
            let reason = if change.reason.is_empty() { String::new() } else { format!("  {}", change.reason) };
            format!("{}: {was}{is}{reason}", change.subject)
        }
    };
    console.line(&text)?;
    Ok(console.out.flush()?)
}

fn finish(console: &mut Console, global: &Global, healthy: bool, text: &str, painted: String) -> Outcome {
    let line = match global.output {
        Output::Json => json!({"healthy": healthy, "reason": text}).to_string(),
        Output::Text => painted,
    };
    console.line(&line)?;
    Ok(console.out.flush()?)
}

/// What has been seen so far.
#[derive(Debug, Default)]
struct Watch {
    known: BTreeMap<String, String>,
    /// The values last printed, for the trend.
    values: BTreeMap<String, f64>,
    /// Since when a trigger holds on the cohort's own numbers.
    holds: BTreeMap<String, Time>,
    /// The first thing that was wrong.
    wrong: Option<String>,
}

/// Something that is not what it was.
#[derive(Debug, PartialEq)]
struct Change {
    subject: String,
    was: Option<String>,
    is: String,
    tone: Tone,
    reason: String,
}

impl Watch {
    /// What has changed since the last look.
    fn look(&mut self, rollout: &Rollout, now: Time) -> Vec<Change> {
        let mut changes = Vec::new();
        let (word, tone, wrong) = standing(rollout);
        changes.extend(self.note("rollout", word, tone, &plan::stands(rollout), None));
        if let Some(wrong) = wrong {
            self.blame(wrong);
        }
        for gate in &rollout.gates {
            changes.extend(self.gate(gate));
        }
        for trigger in &rollout.triggers {
            changes.extend(self.trigger(trigger, now));
        }
        changes
    }

    fn gate(&mut self, gate: &Gate) -> Vec<Change> {
        let subject = format!("gate {}", render::clean(&gate.when));
        if gate.verdict == "fail" {
            self.blame(format!("gate fails: {}", render::clean(&gate.reason)));
        }
        let own = self.note(&subject, &gate.verdict, tone_of(&gate.verdict), &gate.reason, gate.value);
        let on = gate.cohort.as_ref().and_then(|on| {
            let verdict = match on.holds {
                Some(true) => "pass",
                Some(false) => "fail",
                None => "wait",
            };
            if verdict == "fail" {
                self.blame(format!("gate fails on the cohort: {}", render::clean(&on.reason)));
            }
            self.note(&format!("{subject} on the cohort"), verdict, tone_of(verdict), &on.reason, on.value)
        });
        own.into_iter().chain(on).collect()
    }

    fn trigger(&mut self, trigger: &Trigger, now: Time) -> Vec<Change> {
        let subject = format!("trigger {}", render::clean(&trigger.name));
        if trigger.state == "firing" {
            let what = if trigger.dry_run { "would fire (dry run)" } else { "fires" };
            self.blame(format!("trigger {} {what}: {}", render::clean(&trigger.name), render::clean(&trigger.reason)));
        }
        let own = self.note(&subject, &trigger.state, tone_of(&trigger.state), &trigger.reason, trigger.value);
        let on = trigger.cohort.as_ref().and_then(|on| {
            let state = self.on_cohort(trigger, on, now);
            if state == "firing" {
                let (name, reason) = (render::clean(&trigger.name), render::clean(&on.reason));
                self.blame(format!("trigger {name} fires on the cohort: {reason}"));
            }
            self.note(&format!("{subject} on the cohort"), state, tone_of(state), &on.reason, on.value)
        });
        own.into_iter().chain(on).collect()
    }

    /// The engine keeps no time for a cohort's own numbers: that is done here.
    fn on_cohort(&mut self, trigger: &Trigger, on: &OnCohort, now: Time) -> &'static str {
        if on.holds != Some(true) {
            self.holds.remove(&trigger.name);
            return "quiet";
        }
        let since = *self.holds.entry(trigger.name.clone()).or_insert(now);
        if now.since(since).as_secs_f64() >= trigger.for_s { "firing" } else { "pending" }
    }

    fn blame(&mut self, wrong: String) {
        self.wrong.get_or_insert(wrong);
    }

    fn note(&mut self, subject: &str, is: &str, tone: Tone, reason: &str, value: Option<f64>) -> Option<Change> {
        let was = self.known.insert(subject.to_owned(), is.to_owned());
        if was.as_deref() == Some(is) {
            return None;
        }
        let before = value.and_then(|value| self.values.insert(subject.to_owned(), value));
        let trend = match value.zip(before) {
            Some((value, before)) if value > before => " (rising)",
            Some((value, before)) if value < before => " (falling)",
            _ => "",
        };
        let reason = format!("{}{trend}", render::clean(reason));
        Some(Change { subject: subject.to_owned(), was, is: render::clean(is), tone, reason })
    }
}

/// The rollout's own state: its word, and what is wrong about it.
fn standing(rollout: &Rollout) -> (&str, Tone, Option<String>) {
    let because = || rollout.state_reason.as_deref().map_or(String::new(), |why| format!(": {}", render::clean(why)));
    if rollout.killed {
        return ("killed", Tone::Red, Some(format!("it is killed{}", because())));
    }
    let circuit = rollout.breaker.as_ref().filter(|breaker| matches!(breaker.state.as_str(), "open" | "half_open"));
    match (rollout.state.as_str(), circuit) {
        (state @ ("rolled_back" | "paused"), _) => {
            (state, Tone::Red, Some(format!("it is {}{}", state.replace('_', " "), because())))
        }
        (_, Some(breaker)) => {
            let why = breaker.last_reason.as_deref().map_or(String::new(), |why| format!(": {}", render::clean(why)));
            let state = breaker.state.replace('_', "-");
            ("breaker open", Tone::Red, Some(format!("its breaker is {state}{why}")))
        }
        (state, None) => (state, Tone::Green, None),
    }
}

fn tone_of(word: &str) -> Tone {
    match word {
        "pass" | "quiet" => Tone::Green,
        "fail" | "firing" => Tone::Red,
        _ => Tone::Yellow,
    }
}

/// The engine looks four times a second.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long weir may be out of reach: a restart is no illness of the canary.
const GRACE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn rollout(changes: Value) -> Rollout {
        let arm = json!({"requests": 0, "errors": 0, "error_rate": null, "rps": 0.0, "in_flight": 0});
        let mut form = json!({
            "name": "chat", "state": "running", "state_reason": null, "weight_ppm": 100_000, "file_weight_ppm": 0,
            "killed": false, "killed_by_config": false, "breaker": null, "arms": {"stable": arm, "canary": arm},
            "cohorts": [], "window_s": 60.0, "generation": 7,
        });
        for (name, value) in changes.as_object().unwrap() {
            form[name] = value.clone();
        }
        serde_json::from_value(form).unwrap()
    }

    fn gate(verdict: &str, value: f64) -> Value {
        json!({"when": "p95 < 20ms", "verdict": verdict, "value": value, "reason": format!("p95 {value}ms")})
    }

    fn lines(changes: Vec<Change>) -> Vec<String> {
        let line = |it: Change| format!("{}: {}{} {}", it.subject, it.was.unwrap_or_default(), it.is, it.reason);
        changes.into_iter().map(line).collect()
    }

    #[test]
    fn only_what_changes_is_told_with_its_trend() {
        let (mut watch, now) = (Watch::default(), Time::default());
        let first = lines(watch.look(&rollout(json!({"gates": [gate("wait", 12.0)]})), now));
        assert_eq!(first, ["rollout: running running at 10%", "gate p95 < 20ms: wait p95 12ms"]);
        assert!(watch.look(&rollout(json!({"gates": [gate("wait", 13.0)]})), now).is_empty());
        let second = lines(watch.look(&rollout(json!({"gates": [gate("pass", 14.0)]})), now));
        assert_eq!(second, ["gate p95 < 20ms: waitpass p95 14ms (rising)"]);
        assert_eq!(watch.wrong, None);
        watch.look(&rollout(json!({"gates": [gate("fail", 25.0)]})), now);
        assert_eq!(watch.wrong.as_deref(), Some("gate fails: p95 25ms"));
    }

    #[test]
    fn what_takes_the_rollout_out_of_service_is_wrong() {
        let open = json!({"state": "open", "last_reason": "5 errors"});
        for (changes, wrong) in [
            (json!({"killed": true, "state_reason": "killed by ana"}), "it is killed: killed by ana"),
            (json!({"state": "paused", "state_reason": "holidays"}), "it is paused: holidays"),
            (json!({"state": "rolled_back"}), "it is rolled back"),
            (json!({ "breaker": open }), "its breaker is open: 5 errors"),
            (
                json!({"triggers": [{"name": "t", "state": "firing", "reason": "p99 9s > 1s"}]}),
                "trigger t fires: p99 9s > 1s",
            ),
        ] {
            let mut watch = Watch::default();
            watch.look(&rollout(changes), Time::default());
            assert_eq!(watch.wrong.as_deref(), Some(wrong));
        }
    }

    #[test]
    fn a_trigger_must_hold_on_the_cohort_for_as_long_as_on_everybody() {
        let held = |holds: bool| {
            let on = json!({"holds": holds, "value": 0.1, "reason": "error_rate{cohort:beta} 10.0% > 1.0%"});
            rollout(json!({"triggers": [{"name": "t", "state": "quiet", "for_s": 60.0, "cohort": on}]}))
        };
        let at = |second: u64| Time::from_micros(second * 1_000_000);
        let mut watch = Watch::default();
        watch.look(&held(true), at(0));
        watch.look(&held(true), at(50));
        watch.look(&held(false), at(55));
        watch.look(&held(true), at(60));
        watch.look(&held(true), at(119));
        assert_eq!(watch.wrong, None);
        watch.look(&held(true), at(120));
        assert_eq!(watch.wrong.as_deref(), Some("trigger t fires on the cohort: error_rate{cohort:beta} 10.0% > 1.0%"));
    }
}
