//! What goes wrong in a plan's world, and how its origins and its Prometheus carry that out.

use super::plan::Plan;
use crate::harness::origin::Seen;
use crate::harness::reply::Content;
use crate::harness::{Answer, Gate, Reply};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use weir::rollout::Arm;

/// What goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Of the canary's requests under that path, one in so many.
    Canary(&'static str, u64, What),
    /// The same on both arms.
    Both(&'static str, u64, What),
    /// Of those requests that another rollout has on its canary too.
    With(&'static str, u64, What),
    /// One single request of the canary.
    Once(&'static str, What),
    /// Prometheus has another number.
    Query(&'static str, f64),
    /// After one in so many of their answers the canary's users also ask for this.
    Report(&'static str, u64),
    /// Browsers measure this: LCP and INP in milliseconds, CLS.
    Vitals(f64, f64, f64),
    /// Somebody posts that signal for the canary.
    Post(&'static str),
    /// Clients send no unit any more.
    NoUnits,
    /// The canary fails its health checks.
    Unhealthy,
}

/// How a request goes wrong.
#[derive(Clone, Debug)]
pub enum What {
    /// With this status.
    Status(u16),
    /// By so many milliseconds.
    Slow(u64),
    /// By no answer at all.
    Silence,
    /// By an answer that breaks off after its head.
    Cut,
    /// By a field of the answer.
    Field(&'static str, &'static str),
}

/// One fault that is in force on the origins, and how many requests it has met.
struct Rule {
    arms: &'static [Arm],
    with: Option<&'static str>,
    path: &'static str,
    one_in: u64,
    once: bool,
    what: What,
    met: u64,
}

/// Everything that is in force.
pub struct Faults {
    plan: &'static Plan,
    present: Mutex<Present>,
    /// What is never answered is held here, so that its connection stays open.
    silence: Gate,
}

struct Present {
    rules: Vec<Rule>,
    numbers: BTreeMap<String, f64>,
    reports: Vec<(&'static str, u64, u64)>,
    vitals: (f64, f64, f64),
    no_units: bool,
    unhealthy: bool,
}

/// Browsers on a good day.
const GOOD_VITALS: (f64, f64, f64) = (1200.0, 80.0, 0.02);

impl Faults {
    pub fn new(plan: &'static Plan) -> Arc<Faults> {
        let numbers = plan.queries.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let present = Present {
            rules: Vec::new(),
            numbers,
            reports: Vec::new(),
            vitals: GOOD_VITALS,
            no_units: false,
            unhealthy: false,
        };
        Arc::new(Faults { plan, present: Mutex::new(present), silence: Gate::closed() })
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock().expect("nobody panics with it")
    }

    /// From now on; what is posted is the world's to post.
    pub fn begin(&self, fault: &Fault) {
        const CANARY: &[Arm] = &[Arm::Canary];
        const BOTH: &[Arm] = &[Arm::Stable, Arm::Canary];
        let mut present = self.present();
        let (arms, with, path, one_in, once, what) = match fault {
            Fault::Canary(path, one_in, what) => (CANARY, None, *path, *one_in, false, what),
            Fault::Both(path, one_in, what) => (BOTH, None, *path, *one_in, false, what),
            Fault::With(rollout, one_in, what) => (CANARY, Some(*rollout), "/", *one_in, false, what),
            Fault::Once(path, what) => (CANARY, None, *path, 1, true, what),
            Fault::Query(name, value) => {
                assert!(present.numbers.insert((*name).to_owned(), *value).is_some(), "there is no query {name}");
                return;
            }
            Fault::Report(target, one_in) => return present.reports.push((target, *one_in, 0)),
            Fault::Vitals(lcp, inp, cls) => return present.vitals = (*lcp, *inp, *cls),
            Fault::NoUnits => return present.no_units = true,
            Fault::Unhealthy => return present.unhealthy = true,
            Fault::Post(_) => return,
        };
        present.rules.push(Rule { arms, with, path, one_in, once, what: what.clone(), met: 0 });
    }

    /// Prometheus says what it says in that stage.
    pub fn stage(&self, stage: &str) {
        let mut present = self.present();
        for (_, query, value) in self.plan.later.iter().filter(|(of, ..)| *of == stage) {
            present.numbers.insert((*query).to_owned(), *value);
        }
    }

    /// All is well again.
    pub fn end(&self) {
        let mut present = self.present();
        present.rules.clear();
        present.reports.clear();
        present.vitals = GOOD_VITALS;
    }

    /// What an origin answers, the canary's own or another.
    pub fn answer(&self, seen: &Seen, of_canary: bool) -> Reply {
        let Some(decisions) = seen.field("x-weir-rollout") else {
            // Health checks, and routes that belong to no rollout.
            let sick = of_canary && seen.target == "/healthz" && self.present().unhealthy;
            return Reply::status(if sick { 503 } else { 200 });
        };
        let arm = if decisions.contains(&format!("{}=canary", self.plan.rollout)) { Arm::Canary } else { Arm::Stable };
        let mut answer = Answer {
            fields: vec![("x-test-arm", arm.name().to_owned())],
            body: Content::Sized(Bytes::from_static(b"{}")),
            delay: Duration::from_millis((self.plan.takes)(&seen.target, arm)),
            ..Answer::default()
        };
        for rule in &mut self.present().rules {
            let with = rule.with.is_none_or(|other| decisions.contains(&format!("{other}=canary")));
            if !rule.arms.contains(&arm) || !seen.target.starts_with(rule.path) || !with {
                continue;
            }
            rule.met += 1;
            if rule.met % rule.one_in != 0 || (rule.once && rule.met > 1) {
                continue;
            }
            match &rule.what {
                What::Status(status) => answer.status = *status,
                What::Slow(more) => answer.delay += Duration::from_millis(*more),
                What::Silence => answer.send_after = Some(self.silence.clone()),
                What::Cut => answer.body = Content::Cut(Bytes::from_static(b"{")),
                What::Field(name, value) => answer.fields.push((name, (*value).to_owned())),
            }
        }
        Reply::Answer(answer)
    }

    /// What Prometheus says; the query is told by the first part of the path.
    pub fn number(&self, seen: &Seen) -> Reply {
        let name = seen.target.trim_start_matches('/').split('/').next().unwrap_or_default();
        let Some(value) = self.present().numbers.get(name).copied() else { return Reply::status(404) };
        let sample = format!("{{\"metric\":{{}},\"value\":[9999999999.5,\"{value}\"]}}");
        let text = format!("{{\"status\":\"success\",\"data\":{{\"resultType\":\"vector\",\"result\":[{sample}]}}}}");
        Reply::body(Content::Sized(Bytes::from(text)))
    }

    /// What a canary's user asks for after this answer.
    pub fn report(&self) -> Option<&'static str> {
        let mut present = self.present();
        present.reports.iter_mut().find_map(|(target, one_in, met)| {
            *met += 1;
            (*met % *one_in == 0).then_some(*target)
        })
    }

    /// What browsers measure.
    pub fn vitals(&self) -> (f64, f64, f64) {
        self.present().vitals
    }

    /// Whether clients say who they are.
    pub fn has_units(&self) -> bool {
        !self.present().no_units
    }
}
