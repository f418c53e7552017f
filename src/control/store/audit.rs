//! The audit trail's JSON: what the engine tells as plain data becomes the texts that the store keeps.

use super::NewEvent;
use super::incidents::{self, gates};
use crate::clock::Wall;
use crate::rollout::Arm;
use crate::rollout::incident::Incident;
use crate::rollout::report::{ArmReport, Entry, Facts, GateReport};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Both arms' numbers at the moment of an entry.
#[derive(Clone, Debug)]
pub enum Numbers {
    /// Of the rollout that it is about, with the gates of the stage that ended.
    One(Box<[ArmReport; 2]>, Vec<GateReport>),
    /// Of every rollout, where it is about the whole process.
    All(Vec<(Arc<str>, [ArmReport; 2])>),
}

/// The entry as it is kept, with the numbers of the moment; `tell` are the targets that are to be told of it. How far back it
/// went and by which trigger stands with what it is now.
pub fn event(
    entry: &Entry,
    time: Wall,
    numbers: &Numbers,
    tell: Vec<Arc<str>>,
    incident: Option<&Incident>,
) -> NewEvent {
    let mut new = facts(&entry.new);
    if let Value::Object(new) = &mut new {
        new.extend(entry.to.map(|to| ("to".to_owned(), Value::from(to.word()))));
        new.extend(entry.trigger.as_ref().map(|trigger| ("trigger".to_owned(), Value::from(&**trigger))));
    }
    NewEvent {
        time,
        rollout: entry.rollout.clone(),
        kind: entry.kind,
        origin: entry.origin.clone(),
        old: facts(&entry.old).to_string(),
        new: new.to_string(),
        numbers: json_of(numbers).to_string(),
        key: fastrand::u64(..),
        tell,
        incident: incident.map(|incident| incidents::incident(entry, time, incident)),
    }
}

fn json_of(numbers: &Numbers) -> Value {
    match numbers {
        Numbers::One(arms, judged) => {
            let mut numbers = both(arms);
            if let (Value::Object(numbers), false) = (&mut numbers, judged.is_empty()) {
                numbers.insert("gates".to_owned(), gates(judged));
            }
            numbers
        }
        Numbers::All(rollouts) => {
            rollouts.iter().map(|(rollout, arms)| (rollout.to_string(), both(arms))).collect::<Map<_, _>>().into()
        }
    }
}

fn both(arms: &[ArmReport; 2]) -> Value {
    let of = |report: &ArmReport| {
        json!({
            "requests": report.requests,
            "errors": report.errors,
            "error_rate": report.error_rate(),
            "p95_ms": report.p95_ms,
        })
    };
    Arm::ALL.iter().zip(arms).map(|(arm, report)| (arm.name().to_owned(), of(report))).collect::<Map<_, _>>().into()
}

fn facts(facts: &Facts) -> Value {
    match facts {
        Facts::None => Value::Null,
        Facts::Standing { state, stage, weight, killed, breaker } => {
            json!({
                "state": state.word(),
                "stage": stage.as_deref(),
                "weight_ppm": weight.ppm(),
                "killed": killed,
                "breaker": breaker.word(),
            })
        }
        Facts::Cohort { cohort, enabled, killed } => {
            json!({ "cohort": &**cohort, "enabled": enabled, "killed": killed })
        }
        Facts::Members { cohort, added, removed } => {
            json!({ "cohort": &**cohort, "added": added, "removed": removed })
        }
        Facts::Reload { changes, needs_restart } => json!({ "changes": some(changes), "needs_restart": needs_restart }),
        Facts::Problems(problems) => json!({ "problems": some(problems) }),
    }
}

/// The first lines of a list, and how many more there are.
fn some(lines: &[String]) -> Vec<String> {
    let mut some: Vec<String> = lines.iter().take(LINES_MAX).cloned().collect();
    if lines.len() > LINES_MAX {
        some.push(format!("... and {} more", lines.len() - LINES_MAX));
    }
    some
}

/// Lines of a list that an entry keeps; who needs all of them asks `weir check`.
const LINES_MAX: usize = 50;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::breaker;
    use crate::rollout::bucket::Weight;
    use crate::rollout::report::{Kind, Origin, State};

    #[test]
    fn an_event_tells_old_new_and_numbers_as_objects() {
        let standing = |ppm| {
            let weight = Weight::from_ppm(ppm).unwrap();
            Facts::Standing { state: State::Running, stage: None, weight, killed: false, breaker: breaker::State::Open }
        };
        let entry = Entry {
            rollout: Some("chat".into()),
            kind: Kind::Weight,
            origin: Origin { actor: "anna".into(), reason: "ramp".into() },
            old: standing(10),
            new: standing(20),
            to: None,
            trigger: None,
        };
        let arm = ArmReport { requests: 50, errors: 17, p95_ms: Some(1.5), ..ArmReport::default() };
        let numbers = Numbers::One(Box::new([ArmReport::default(), arm]), Vec::new());
        let event = event(&entry, Wall::from_millis(5), &numbers, Vec::new(), None);
        assert_eq!(event.new, r#"{"breaker":"open","killed":false,"stage":null,"state":"running","weight_ppm":20}"#);
        let numbers: Value = serde_json::from_str(&event.numbers).unwrap();
        assert_eq!(numbers["canary"]["error_rate"], 0.34);
        assert_eq!(numbers["stable"]["error_rate"], Value::Null);
    }

    #[test]
    fn long_lists_are_cut_and_say_so() {
        let lines: Vec<String> = (0..60).map(|n| n.to_string()).collect();
        let cut = some(&lines);
        assert_eq!((cut.len(), cut.last().unwrap().as_str()), (51, "... and 10 more"));
        assert_eq!(facts(&Facts::None), Value::Null);
    }
}
