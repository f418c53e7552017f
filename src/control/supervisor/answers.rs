//! What the control plane answers. Questions change nothing; a change goes the way of every input.

use super::super::exposition::{self, Stand};
use super::super::inbox::Command;
use super::super::probe::UpstreamReport;
use super::super::reload::Asker;
use super::super::signals;
use super::{Denied, Supervisor, scaling};
use crate::clock::Time;
use crate::rollout::bucket::Weight;
use crate::rollout::engine::Input;
use crate::rollout::plan::CohortPlan;
use crate::rollout::report::{CohortReport, Event, PassageReport, REPORT_WINDOW, RolloutReport, ShadowReport};
use crate::rollout::standing::Standing;
use crate::snapshot::Snapshot;
use std::sync::Arc;
use std::time::Duration;

impl Supervisor {
    /// Answers a command. Whoever asked may have stopped waiting, so nothing depends on the answer's arrival.
    pub(super) fn answer(&mut self, command: Command) {
        match command {
            Command::Change { rollout, input, reply } => drop(reply.send(self.change(&rollout, input))),
            Command::Validate { rollout, cohort, reply } => {
                drop(reply.send(self.validate(&rollout, cohort.as_deref())))
            }
            Command::Narrowed { rollout, cohort, reply } => drop(reply.send(self.narrowed(&rollout, &cohort))),
            Command::Baselines { rollout, reply } => drop(reply.send(self.baselines(&rollout))),
            Command::Rebase { rollout, change, origin, reply } => {
                drop(reply.send(self.rebase(&rollout, change, origin)));
            }
            Command::Rollouts { window, reply } => drop(reply.send(self.reports(window))),
            Command::Upstreams { reply } => drop(reply.send(self.upstreams())),
            Command::Reload { origin, reply } => {
                self.reloader.want(Asker { origin, quiet: false, reply: Some(reply) });
            }
            Command::Events { since, limit, reply } => drop(reply.send(self.events(since, limit))),
            Command::Signal { signal, posting, reply } => {
                let now = self.clock.now();
                let snapshot = self.publisher.present().ok_or(Denied::Unavailable);
                let posted =
                    snapshot.and_then(|snapshot| signals::post(&snapshot, &mut self.collector, &signal, &posting, now));
                drop(reply.send(posted));
            }
            Command::Review { rollout, span, reply } => self.review(&rollout, span, reply),
            Command::Incidents { rollout, limit, reply } => drop(reply.send(self.incidents(&rollout, limit))),
            Command::Metrics { reply } => drop(reply.send(self.metrics())),
            Command::Config { reply } => drop(reply.send(self.config.effective.to_string())),
            Command::Readiness { reply } => drop(reply.send(self.details())),
            Command::Stop => {}
        }
    }

    fn change(&mut self, rollout: &str, input: Input) -> Result<RolloutReport, Denied> {
        if let Input::SetWeight { weight, .. } = &input {
            self.check_step(rollout, *weight)?;
        }
        self.carry_out(input)?;
        let snapshot = self.publisher.present();
        let now = self.clock.now();
        let standing = self.engine.standing(rollout).ok_or(Denied::Unavailable)?;
        Ok(self.report(&standing, snapshot.as_deref(), REPORT_WINDOW, now))
    }

    /// Some schemes know whole percents only; another weight would not be what it says.
    fn check_step(&self, rollout: &str, weight: Weight) -> Result<(), Denied> {
        let Some(config) = self.config.rollout(rollout).and_then(|index| self.config.rollouts.get(index)) else {
            return Ok(());
        };
        let step_ppm = config.bucketer.step_ppm();
        if step_ppm <= 1 || weight.ppm().is_multiple_of(step_ppm) {
            return Ok(());
        }
        let step = f64::from(step_ppm) / 10_000.0;
        let message = format!("the hash of rollout `{rollout}` takes weights in steps of {step}%");
        Err(Denied::Invalid { field: "weight".into(), message })
    }

    /// What stands between a rollout and its next stage, or the first one that admits a cohort.
    fn validate(&self, rollout: &str, cohort: Option<&str>) -> Result<(RolloutReport, PassageReport), Denied> {
        let standing = self.engine.standing(rollout);
        let standing = standing.ok_or_else(|| Denied::NotFound(format!("no rollout `{rollout}`")))?;
        let passage = match cohort {
            Some(cohort) => self.engine.passage_to(&standing, cohort)?,
            None => self.engine.passage(&standing).ok_or_else(|| {
                Denied::Conflict(format!("rollout `{rollout}` has no stages: its weight is set by hand"))
            })?,
        };
        let report = self.report(&standing, self.publisher.present().as_deref(), REPORT_WINDOW, self.clock.now());
        Ok((report, passage))
    }

    /// How every rollout stands, with what has been counted up to now.
    fn reports(&mut self, window: Duration) -> Vec<RolloutReport> {
        let (snapshot, now) = (self.publisher.present(), self.clock.now());
        self.collector.collect(&self.publisher.registry, now, false);
        self.engine.standings().map(|standing| self.report(&standing, snapshot.as_deref(), window, now)).collect()
    }

    pub(super) fn report(
        &self,
        standing: &Standing<'_>,
        snapshot: Option<&Snapshot>,
        window: Duration,
        now: Time,
    ) -> RolloutReport {
        let plan = standing.plan;
        let cohort = |cohort: &CohortPlan| CohortReport {
            name: Arc::clone(&cohort.name),
            enabled: cohort.enabled,
            killed: standing.cohort_killed(&cohort.name),
            exclude: cohort.exclude,
            units: units(standing, cohort, snapshot),
        };
        RolloutReport {
            name: Arc::clone(&plan.name),
            state: standing.state(),
            state_reason: standing.reason(),
            weight: standing.weight(),
            file_weight: plan.weight,
            killed: standing.killed(),
            killed_by_config: plan.killed,
            breaker: standing.breaker_report(now),
            stage: standing.stage_report(),
            gates: standing.gate_reports(),
            triggers: standing.trigger_reports(),
            stages: standing.planned(),
            next: self.engine.passage(standing),
            note: standing.lacks_baseline(),
            arms: self.collector.arms(&self.publisher.registry, &plan.name, window, now),
            shadow: self.shadow(standing, window, now),
            cohorts: plan.cohorts.iter().map(cohort).collect(),
            time_scale: self.time_scale,
            generation: self.publisher.generation(),
        }
    }

    /// What is mirrored to a rollout's canary; none where the config never mirrors anything.
    fn shadow(&self, standing: &Standing<'_>, window: Duration, now: Time) -> Option<ShadowReport> {
        let name = &standing.plan.name;
        let config = self.config.rollout(name).and_then(|index| self.config.rollouts.get(index))?;
        let usual = config.shadow.as_ref()?.share;
        let by_stage = standing.stage().and_then(|stage| stage.shadow);
        let share = if standing.serves() { by_stage.unwrap_or(usual) } else { Weight::ZERO };
        Some(self.collector.shadow(&self.publisher.registry, name, share, window, now))
    }

    fn events(&self, since: u64, limit: usize) -> Result<(Vec<Event>, u64), Denied> {
        self.store.events(since, limit).map_err(|error| {
            tracing::error!(%error, "the audit trail cannot be read");
            Denied::Conflict(format!("the audit trail cannot be read: {error}"))
        })
    }

    fn metrics(&mut self) -> String {
        let stands: Vec<Stand> = self.engine.standings().map(|standing| Stand::of(&standing)).collect();
        let mut text = exposition::render(&self.publisher.registry, &self.collector, &stands);
        text.push_str(&exposition::sources(&self.queries, &self.own, self.clock.now()));
        text.extend(self.archive.as_ref().map(|archive| exposition::history(archive.tally())));
        text.push_str(&exposition::diffs(&self.publisher.registry, &self.compared.totals()));
        text.push_str(&exposition::upstreams(&self.upstreams()));
        text.push_str(&exposition::traces(&self.publisher.registry.spans().counts));
        text.push_str(&self.facade.render());
        text
    }

    fn upstreams(&self) -> Vec<UpstreamReport> {
        self.prober.report(&self.config, self.publisher.present().as_deref())
    }

    /// One line per thing an operator should know.
    fn details(&self) -> Vec<String> {
        let notes = &self.notes;
        let mut details = Vec::new();
        details.extend(scaling::told(self.time_scale));
        let held = self.engine.standings().any(|standing| standing.saved.held);
        details.extend(notes.lost.clone().filter(|_| held));
        if let Some(first) = notes.refused.as_ref().and_then(|problems| problems.first()) {
            let more = notes.refused.as_ref().map_or(0, |problems| problems.len().saturating_sub(1));
            let line = first.lines().next().unwrap_or_default();
            let rest = if more > 0 { format!(" (and {more} more)") } else { String::new() };
            details.push(format!("the config in the file is not in force: {line}{rest}"));
        }
        details.extend(notes.unwritten.as_ref().map(|error| format!("state cannot be written: {error}")));
        if !notes.needs_restart.is_empty() {
            details.push(format!("only a restart applies: {}", notes.needs_restart.join(", ")));
        }
        details.extend(self.resolver.problems());
        details.extend(self.notifier.problems());
        details
    }
}

/// Members of a cohort by list, file and API.
fn units(standing: &Standing<'_>, cohort: &CohortPlan, snapshot: Option<&Snapshot>) -> usize {
    let Some(changed) = standing.members(&cohort.name) else { return cohort.listed };
    let split = snapshot.and_then(|snapshot| snapshot.splits.iter().find(|split| split.name == standing.plan.name));
    let listed = split.and_then(|split| split.cohorts.iter().find(|found| found.name == cohort.name));
    let is_listed = |unit: &str| listed.is_some_and(|cohort| cohort.users.contains(unit));
    changed.iter().fold(cohort.listed, |units, (unit, present)| match (present, is_listed(unit)) {
        (true, false) => units + 1,
        (false, true) => units.saturating_sub(1),
        _ => units,
    })
}
