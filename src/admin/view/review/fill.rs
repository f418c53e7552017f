//! How a dossier becomes the forms of a report.

use super::super::{Breaker, Event, Gate, Stage, Trigger, thousandths};
use super::*;
use crate::clock::Wall;
use crate::rollout::Arm as Side;
use crate::rollout::course::Captured;
use crate::rollout::incident::IncidentRecord;
use crate::rollout::outcome::{CodeClass, ErrorKind};
use crate::rollout::review::{self, ArmPoint, ArmReview, Dossier, Stay};
use crate::rollout::sample::{Gauge as Range, Key, Number};
use crate::rollout::vital::Vital;
use serde_json::Value;

impl Review {
    /// The form of a dossier.
    pub fn of(dossier: &Dossier) -> Review {
        let (review, rollout) = (&dossier.review, &dossier.rollout);
        let events: Vec<Event> = dossier.trail.iter().map(Event::of).collect();
        let own = || events.iter().filter(|event| event.rollout.is_some());
        let told = |kinds: &[&str]| own().filter(|event| kinds.contains(&event.kind.as_str())).map(Told::of).collect();
        let count = |number: &Number| review.numbers.get(number).copied().unwrap_or(0);
        let gates: Vec<Gate> = rollout.gates.iter().map(Gate::of).collect();
        let baseline = |(stage, captured): (_, &Captured)| Baseline {
            stage: String::clone(stage),
            values: captured.values.clone(),
        };
        let named: BTreeMap<String, _> = dossier.baselines.iter().map(|(stage, it)| (stage.to_string(), it)).collect();
        Review {
            rollout: rollout.name.to_string(),
            since: dossier.since.to_string(),
            until: dossier.now.to_string(),
            began: review.began.to_string(),
            covered_s: thousandths(review.covered.as_secs_f64()),
            note: dossier.without_history.clone(),
            state: rollout.state.word().to_owned(),
            state_reason: rollout.state_reason.clone(),
            killed: rollout.killed,
            weight_ppm: rollout.weight.ppm(),
            time_scale: rollout.time_scale.factor(),
            stage: rollout.stage.as_ref().map(Stage::of),
            breaker: rollout.breaker.as_ref().map(Breaker::of),
            arms: Compared::of(&review.arms),
            share: review.share().map(millionths),
            stages: stays(&review.stays, &events, &gates, dossier.since),
            gates,
            triggers: rollout.triggers.iter().map(Trigger::of).collect(),
            fired: own().map(Told::of).filter(|told| told.trigger.is_some()).collect(),
            trips: told(&["trip"]),
            approvals: told(&["approve"]),
            incidents: dossier.incidents.iter().map(Incident::of).collect(),
            baselines: named.iter().map(|(stage, captured)| baseline((stage, captured))).collect(),
            diff: None,
            parts: review.parts.iter().map(|(key, arm)| Part::of(key, arm)).collect(),
            fallbacks: count(&Number::Fallbacks),
            diverted: count(&Number::Diverted),
            signals: review.numbers.iter().filter_map(|(number, count)| signal(number, *count, &review.arms)).collect(),
            vitals: review.vitals.iter().map(VitalSum::of).collect(),
            resources: Resources {
                memory: review.resources.memory.map(Gauge::of),
                cpu_share: review.resources.cpu_share.map(millionths),
                queries: review.resources.queries.iter().map(|(name, it)| (name.to_string(), Gauge::of(*it))).collect(),
            },
            events,
            events_cut: dossier.trail_is_cut,
            point_s: thousandths(review.point_span.as_secs_f64()),
            points: review.points.iter().map(Point::of).collect(),
        }
    }

    /// Whether any request of an arm was counted.
    pub fn has_requests(&self) -> bool {
        self.arms.stable.requests + self.arms.canary.requests > 0
    }
}

impl Compared {
    fn of([stable, canary]: &[ArmReview; 2]) -> Compared {
        let (stable, canary) = (ArmSum::of(stable), ArmSum::of(canary));
        let pairs = stable.measures().into_iter().zip(canary.measures());
        let difference = pairs.filter_map(|((name, before), (_, after))| {
            let (before, after) = (before?, after?);
            let relative = (before != 0.0).then(|| millionths((after - before) / before));
            Some((name.to_owned(), Difference { absolute: millionths(after - before), relative }))
        });
        Compared { difference: difference.collect(), stable, canary }
    }
}

impl ArmSum {
    /// The form of an arm over some time.
    pub fn of(arm: &ArmReview) -> ArmSum {
        let (counts, total) = (&arm.counts, |share| arm.total_ms(share).map(thousandths));
        let first = |share| arm.first_byte_ms(share).map(thousandths);
        ArmSum {
            requests: counts.ended,
            errors: counts.failures(),
            error_rate: arm.error_rate().map(millionths),
            rps: thousandths(arm.rps),
            codes: named(CodeClass::ALL.map(CodeClass::label), counts.codes),
            errors_by_kind: named(ErrorKind::ALL.map(ErrorKind::label), counts.errors),
            client_left: counts.client_left,
            bytes_in: counts.bytes_in,
            bytes_out: counts.bytes_out,
            p50_ms: first(0.5),
            p75_ms: first(0.75),
            p90_ms: first(0.9),
            p95_ms: first(0.95),
            p99_ms: first(0.99),
            p999_ms: first(0.999),
            total_p50_ms: total(0.5),
            total_p95_ms: total(0.95),
            total_p99_ms: total(0.99),
        }
    }

    /// What can be compared, by name.
    pub fn measures(&self) -> [(&'static str, Option<f64>); 10] {
        [
            ("error_rate", self.error_rate),
            ("p50_ms", self.p50_ms),
            ("p75_ms", self.p75_ms),
            ("p90_ms", self.p90_ms),
            ("p95_ms", self.p95_ms),
            ("p99_ms", self.p99_ms),
            ("p999_ms", self.p999_ms),
            ("total_p50_ms", self.total_p50_ms),
            ("total_p95_ms", self.total_p95_ms),
            ("total_p99_ms", self.total_p99_ms),
        ]
    }
}

/// The stays with what the trail says of how they began and ended.
fn stays(stays: &[Stay], events: &[Event], present: &[Gate], since: Wall) -> Vec<Stayed> {
    let mut forms: Vec<Stayed> = stays.iter().map(|stay| Stayed::of(stay, since)).collect();
    let moves: Vec<&Event> = events.iter().filter(|event| moves_stage(event)).collect();
    let mut next_entered = None::<String>;
    for (place, form) in forms.iter_mut().enumerate().rev() {
        let is_last = place + 1 == stays.len();
        let within = |event: &&&Event| {
            form.entered_at.as_ref().is_none_or(|entered| second(&event.time) >= second(entered))
                && next_entered.as_ref().is_none_or(|next| second(&event.time) <= second(next))
        };
        let stage = form.stage.as_deref();
        let ended = moves.iter().rev().filter(within).find(|event| leaves(event, stage));
        let began = moves.iter().rev().find(|event| {
            let near = form.entered_at.as_ref().is_some_and(|entered| second(&event.time) == second(entered));
            near && event.new.get("stage").and_then(Value::as_str) == stage && !leaves(event, stage)
        });
        form.why_entered = began.map(|event| event.reason.clone()).unwrap_or_default();
        if let Some(event) = ended.filter(|_| !is_last || form.state == "rolled_back" || form.state == "completed") {
            form.why_left.clone_from(&event.reason);
            form.left_at = Some(event.time.clone());
            form.gates = gates_in(event);
        }
        if form.left_at.is_none() && !is_last {
            form.left_at.clone_from(&next_entered);
        }
        if is_last && form.gates.is_empty() {
            form.gates = present.to_vec();
        }
        next_entered.clone_from(&form.entered_at);
    }
    forms
}

/// A time to the second: a move is written down a moment after it was decided.
fn second(time: &str) -> Option<&str> {
    time.get(..19)
}

/// Whether an entry of the trail tells of another stage, or of the end of one.
fn moves_stage(event: &Event) -> bool {
    matches!(event.kind.as_str(), "stage" | "rollback" | "complete" | "revive")
}

/// Whether an entry tells that this stage ended.
fn leaves(event: &Event, stage: Option<&str>) -> bool {
    let of = |side: &Value| side.get("stage").and_then(Value::as_str).map(str::to_owned);
    let over = matches!(event.new.get("state").and_then(Value::as_str), Some("rolled_back" | "completed"));
    of(&event.old).as_deref() == stage && (over || of(&event.new).as_deref() != stage || event.kind == "rollback")
}

/// The gates as they were judged at an entry.
fn gates_in(event: &Event) -> Vec<Gate> {
    event.numbers.get("gates").and_then(|gates| serde_json::from_value(gates.clone()).ok()).unwrap_or_default()
}

impl Stayed {
    fn of(stay: &Stay, since: Wall) -> Stayed {
        let entered = Some(stay.visit.entered_at).filter(|at| *at != Wall::default());
        let entered = entered.or(Some(stay.began).filter(|began| *began > since));
        Stayed {
            stage: stay.stage.as_deref().map(str::to_owned),
            entered_at: entered.map(|at| at.to_string()),
            left_at: None,
            served_s: thousandths(stay.served.as_secs_f64()),
            lasted_s: thousandths(stay.lasted.as_secs_f64()),
            weight_ppm: stay.weight.ppm(),
            state: stay.state.word().to_owned(),
            why_entered: String::new(),
            why_left: String::new(),
            gates: Vec::new(),
            arms: Compared::of(&stay.arms),
        }
    }
}

impl Told {
    fn of(event: &Event) -> Told {
        let text = |side: &Value, key: &str| side.get(key).and_then(Value::as_str).map(str::to_owned);
        Told {
            time: event.time.clone(),
            kind: event.kind.clone(),
            stage: text(&event.old, "stage").or_else(|| text(&event.new, "stage")),
            trigger: text(&event.new, "trigger"),
            actor: event.actor.clone(),
            reason: event.reason.clone(),
        }
    }
}

impl Incident {
    /// The form of an incident that was kept; one that cannot be read shows its entry alone.
    pub fn of(record: &IncidentRecord) -> Incident {
        let body: Incident = serde_json::from_str(&record.body).unwrap_or_default();
        Incident {
            event: record.event,
            recheck: record.recheck.clone(),
            recheck_reason: record.recheck_reason.clone(),
            ..body
        }
    }
}

impl Part {
    fn of(key: &Key, arm: &ArmReview) -> Part {
        let (kind, name, side) = match key {
            Key::Route(side, name) => ("route", &**name, *side),
            Key::Cohort(side, name) => ("cohort", &**name, *side),
            Key::Probes => ("probes", "", Side::Canary),
            Key::Shadow => ("shadow", "", Side::Canary),
        };
        Part {
            kind: kind.to_owned(),
            name: name.to_owned(),
            arm: side.name().to_owned(),
            requests: arm.counts.ended,
            errors: arm.counts.failures(),
            error_rate: arm.error_rate().map(millionths),
            p95_ms: arm.first_byte_ms(0.95).map(thousandths),
        }
    }
}

fn signal(number: &Number, count: u64, arms: &[ArmReview; 2]) -> Option<Signal> {
    let Number::Signal(arm, name) = number else { return None };
    let requests = arms.get(arm.index()).map_or(0, |arm| arm.counts.ended);
    let rate = (requests > 0).then(|| millionths(count as f64 / requests as f64));
    Some(Signal { name: name.to_string(), arm: arm.name().to_owned(), count, rate })
}

impl VitalSum {
    fn of((arm, vital, p75, reports): &(Side, Vital, f64, u64)) -> VitalSum {
        let (vital, arm) = (vital.word().to_owned(), arm.name().to_owned());
        VitalSum { vital, arm, p75: thousandths(*p75), reports: *reports }
    }
}

impl Gauge {
    fn of(range: Range) -> Gauge {
        Gauge { min: range.min, last: range.last, max: range.max }
    }
}

impl Point {
    fn of(point: &review::Point) -> Point {
        let arm = |arm: &ArmPoint| PointArm {
            requests: arm.requests,
            errors: arm.errors,
            rps: thousandths(arm.rps),
            p50_ms: arm.p50_ms.map(thousandths),
            p95_ms: arm.p95_ms.map(thousandths),
            p99_ms: arm.p99_ms.map(thousandths),
            in_flight: arm.in_flight,
        };
        let [stable, canary] = &point.arms;
        Point {
            at: point.at.to_string(),
            span_s: thousandths(point.span.as_secs_f64()),
            weight_ppm: point.weight.ppm(),
            stable: arm(stable),
            canary: arm(canary),
        }
    }
}

/// Those that are not zero, by name.
fn named<const N: usize>(names: [&str; N], counts: [u64; N]) -> BTreeMap<String, u64> {
    names.iter().zip(counts).filter(|(_, count)| *count > 0).map(|(name, count)| ((*name).to_owned(), count)).collect()
}

/// Shares need more digits than times.
fn millionths(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}
