//! The baseline by command: what was measured of the stage so far, or what a person says.

use super::{Denied, Supervisor};
use crate::config::hint;
use crate::control::{Baselines, Origin, Rebase};
use crate::rollout::Arm;
use crate::rollout::course::{Captured, recorded, records};
use crate::rollout::criterion::{Filter, Metric};
use crate::rollout::engine::Input;
use crate::rollout::stages::Span;
use std::sync::Arc;

impl Supervisor {
    /// What was recorded of a rollout.
    pub(super) fn baselines(&self, rollout: &str) -> Result<Baselines, Denied> {
        let standing = self.engine.standing(rollout);
        let standing = standing.ok_or_else(|| Denied::NotFound(format!("no rollout `{rollout}`")))?;
        Ok(Baselines { captures: standing.runtime.captures.clone(), warnings: Vec::new() })
    }

    /// Changes its baseline, and says what makes that doubtful.
    pub(super) fn rebase(&mut self, rollout: &str, change: Rebase, mut origin: Origin) -> Result<Baselines, Denied> {
        let (captured, replace, what, warnings) = match change {
            Rebase::Capture => {
                let captured = self.measured(rollout)?;
                let warnings = Arm::ALL.into_iter().filter_map(|arm| few(&captured, arm)).collect();
                (captured, false, "captured".to_owned(), warnings)
            }
            Rebase::Set(captured) => {
                self.check_names(rollout, "set", &captured)?;
                let what = format!("set: {}", listed(&captured));
                (captured, false, what, Vec::new())
            }
            Rebase::Import(captured) => {
                self.check_names(rollout, "import", &captured)?;
                let what = format!("imported: {}", listed(&captured));
                (captured, true, what, Vec::new())
            }
        };
        // What was done is told whether or not somebody said why.
        origin.reason = if origin.reason.is_empty() { what } else { format!("{} ({what})", origin.reason) };
        self.carry_out(Input::Baseline { rollout: rollout.to_owned(), captured, replace, origin })?;
        Ok(Baselines { warnings, ..self.baselines(rollout)? })
    }

    /// Both arms over the present stage so far.
    fn measured(&mut self, rollout: &str) -> Result<Captured, Denied> {
        let now = self.clock.now();
        self.collector.collect(&self.publisher.registry, now, false);
        let standing = self.engine.standing(rollout);
        let standing = standing.ok_or_else(|| Denied::NotFound(format!("no rollout `{rollout}`")))?;
        let config = Arc::clone(&self.config);
        let sources = self.sources(&config, now);
        let mut captured =
            Captured::take(records(&standing.plan.stages), |asked| sources.reading(rollout, Span::Stage, asked));
        // That there were no requests is no rate to compare with.
        captured.values.retain(|_, (_, samples)| *samples > 0);
        if captured.values.is_empty() {
            let within = standing.saved.progress.stage.as_ref().map(|stage| format!(" in stage `{stage}`"));
            let message = format!(
                "nothing has been measured of rollout `{rollout}`{} yet: there is nothing to capture",
                within.unwrap_or_default()
            );
            return Err(Denied::Conflict(message));
        }
        Ok(captured)
    }

    /// Whether the config knows what these values speak of: nothing would ever look for the others.
    fn check_names(&self, rollout: &str, field: &str, captured: &Captured) -> Result<(), Denied> {
        let standing = self.engine.standing(rollout);
        let standing = standing.ok_or_else(|| Denied::NotFound(format!("no rollout `{rollout}`")))?;
        let cohorts: Vec<&str> = standing.plan.cohorts.iter().map(|cohort| &*cohort.name).collect();
        let routes: Vec<&str> = self.config.routes.iter().map(|route| &*route.name).collect();
        let queries: Vec<&str> = self.config.queries.iter().map(|query| &*query.name).collect();
        let signals: Vec<&str> = self.config.signals.iter().map(|signal| &*signal.name).collect();
        for name in captured.values.keys() {
            let Some(quantity) = recorded::quantity(name) else { continue };
            let of_metric = match &quantity.metric {
                Metric::Query(query) => Some(("query", query, &queries)),
                Metric::Signal(signal) => Some(("signal", signal, &signals)),
                _ => None,
            };
            let of_filter = quantity.filter.as_ref().map(|filter| match filter {
                Filter::Route(route) => ("route", route, &routes),
                Filter::Cohort(cohort) => ("cohort", cohort, &cohorts),
            });
            for (what, wanted, known) in of_metric.into_iter().chain(of_filter) {
                if !known.contains(&&**wanted) {
                    let message = format!("`{name}`: there is no {what} `{wanted}`; {}", hint(wanted, known));
                    return Err(Denied::Invalid { field: field.to_owned(), message });
                }
            }
        }
        Ok(())
    }
}

/// What a baseline from so few requests is worth. An arm without any has nothing in it.
fn few(captured: &Captured, arm: Arm) -> Option<String> {
    let (_, requests) = captured.values.get(&format!("{arm} requests")).copied().unwrap_or_default();
    match (arm, requests) {
        (_, REQUESTS_MIN..) | (Arm::Canary, 0) => None,
        (Arm::Stable, 0) => Some("stable had no requests: `baseline` means stable's record".to_owned()),
        _ => Some(format!("{arm} had only {requests} requests: rates and latencies from so few say little")),
    }
}

/// Their names if they are few, or how many there are.
fn listed(captured: &Captured) -> String {
    let names: Vec<&str> = captured.values.keys().map(String::as_str).collect();
    if names.len() <= LISTED_MAX { names.join(", ") } else { format!("{} values", names.len()) }
}

/// As many as a gate asks for unless it says otherwise.
const REQUESTS_MIN: u64 = 100;
/// A line of the audit trail.
const LISTED_MAX: usize = 6;
