//! What a rehearsal assumes instead of measuring: `KEY=VALUE[,KEY=VALUE...][@[ROLLOUT:]STAGE[+DELAY][..]]`.
//!
//! Keys are metrics of the criteria, read by the parser of the criteria, so that units are checked the same way; `errors` and
//! `timeouts` are short for `error_rate` and `timeout_rate`. A place narrows an assumption to a stage, from `DELAY` after its
//! beginning, or with `..` to everything from there on. Where several hold, the last one given does.

use crate::clock::Time;
use crate::config::Config;
use crate::config::units::parse_span;
use crate::rollout::Arm;
use crate::rollout::criterion::{Dimension, Expression, Filter, Metric, parse};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Everything that is assumed.
#[derive(Clone, Debug, PartialEq)]
pub struct Assumptions {
    /// Requests per second, on every rollout.
    pub rps: f64,
    /// Users that send them, each as often as the others.
    pub users: u64,
    /// What the draws follow from.
    pub seed: u64,
    /// How long a person takes to approve; none is for ever.
    pub approve_after: Option<Duration>,
    /// Share of users that belong to a cohort, where the config does not say.
    pub cohorts: BTreeMap<Arc<str>, f64>,
    /// What the arms do, and what else is read; the last one that holds counts.
    pub list: Vec<Assumption>,
}

/// One thing that is assumed.
#[derive(Clone, Debug, PartialEq)]
pub struct Assumption {
    /// Of which arm; none is both, or neither for what belongs to no arm.
    pub arm: Option<Arm>,
    /// What.
    pub metric: Metric,
    /// Of which part of the requests.
    pub filter: Option<Filter>,
    /// Its value in the held unit; none is a query without data.
    pub value: Option<f64>,
    /// Where; none is everywhere.
    pub place: Option<Place>,
}

/// Where an assumption holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Rollouts with the index of the stage.
    stages: Vec<(Arc<str>, usize)>,
    /// From so long after the stage began.
    delay: Duration,
    /// Also in every later stage.
    onwards: bool,
}

/// Where every rollout is: the index of its stage and when that began.
pub type Spots = BTreeMap<Arc<str>, (usize, Time)>;
/// Where everything is at which time.
pub type Moment<'a> = (&'a Spots, Time);

impl Assumptions {
    /// What is assumed of a metric of a rollout at this moment; none if nothing is.
    pub fn of(
        &self,
        rollout: &str,
        arm: Arm,
        metric: &Metric,
        filter: Option<&Filter>,
        moment: Moment<'_>,
    ) -> Option<f64> {
        self.holding(rollout, arm, metric, filter, moment)?.value
    }

    /// The assumption that says it.
    pub fn holding(
        &self,
        rollout: &str,
        arm: Arm,
        metric: &Metric,
        filter: Option<&Filter>,
        moment: Moment<'_>,
    ) -> Option<&Assumption> {
        let holds = |assumption: &&Assumption| {
            let Assumption { arm: of, metric: what, filter: part, place, .. } = *assumption;
            what == metric
                && part.as_ref() == filter
                && (of.is_none_or(|of| of == arm) || !metric.has_arms())
                && place.as_ref().is_none_or(|place| place.holds(rollout, metric.has_arms(), moment))
        };
        self.list.iter().rev().find(holds)
    }

    /// The next moment at which an assumption begins to hold in the middle of a stage.
    pub fn next_change(&self, spots: &Spots, now: Time) -> Option<Time> {
        let places = self.list.iter().filter_map(|assumption| assumption.place.as_ref());
        let begins = places.flat_map(|place| {
            let at = |(name, index): &(Arc<str>, usize)| {
                let (stage, since) = spots.get(name)?;
                (stage == index).then(|| *since + place.delay)
            };
            place.stages.iter().filter_map(at)
        });
        begins.filter(|at| *at > now).min()
    }
}

impl Place {
    fn holds(&self, rollout: &str, of_rollout: bool, (spots, now): Moment<'_>) -> bool {
        let in_it = |(name, index): &(Arc<str>, usize)| {
            let Some((stage, since)) = spots.get(name) else { return false };
            (stage == index && now.since(*since) >= self.delay) || (self.onwards && stage > index)
        };
        self.stages.iter().filter(|(name, _)| !of_rollout || **name == *rollout).any(in_it)
    }
}

/// Reads what an option says. `arm` is that of `--stable` and `--canary`; none for `--assume`.
///
/// # Errors
/// What is wrong with it, naming the part at fault and what there is instead.
pub fn read(text: &str, arm: Option<Arm>, config: &Config) -> Result<Vec<Assumption>, String> {
    let (keys, place) = match text.rsplit_once('@') {
        Some((keys, place)) => (keys, Some(self::place(place.trim(), config)?)),
        None => (text, None),
    };
    let one = |pair: &str| {
        let (key, value) =
            pair.split_once('=').ok_or_else(|| format!("`{pair}`: expected KEY=VALUE, like errors=2% or p95=900ms"))?;
        let (metric, filter, value) = key_value(key.trim(), value.trim(), config)?;
        if arm.is_some() && !metric.has_arms() {
            return Err(format!("`{metric}` belongs to no arm: say it with --assume"));
        }
        Ok(Assumption { arm, metric, filter, value, place: place.clone() })
    };
    keys.split(',').map(str::trim).map(one).collect()
}

fn key_value(key: &str, value: &str, config: &Config) -> Result<(Metric, Option<Filter>, Option<f64>), String> {
    if value == NO_DATA {
        let query = key.strip_prefix("query.");
        let name = query.ok_or_else(|| format!("`{key}={value}`: only a query can be without data"))?;
        let metric = Metric::Query(name.into());
        check_names(key, &metric, None, config)?;
        return Ok((metric, None, None));
    }
    let long = [("errors", "error_rate"), ("timeouts", "timeout_rate")].into_iter().find_map(|(short, long)| {
        let rest = key.strip_prefix(short)?;
        (rest.is_empty() || rest.starts_with('{')).then(|| format!("{long}{rest}"))
    });
    let name = long.as_deref().unwrap_or(key);
    if ["stable.", "canary."].iter().any(|arm| name.starts_with(arm)) {
        return Err(format!("`{key}`: whose it is follows from the option: --stable, --canary or, for both, --assume"));
    }
    let criterion = parse(&format!("{name} >= {value}")).map_err(|error| {
        let meant = error.suggestion.map_or(String::new(), |meant| format!("; did you mean {meant}?"));
        format!("`{key}={value}`: {}{meant}", error.message)
    })?;
    let Expression::Number(number) = &criterion.limit else {
        return Err(format!("`{key}={value}`: expected a number"));
    };
    let (metric, filter, number) = (criterion.quantity.metric, criterion.quantity.filter, number.value());
    check_metric(key, &metric)?;
    check_names(key, &metric, filter.as_ref(), config)?;
    if number < 0.0 || (metric.dimension() == Dimension::Share && metric != Metric::OwnCpu && number > 1.0) {
        return Err(format!("`{key}={value}`: a share is 0% to 100%"));
    }
    Ok((metric, filter, Some(number)))
}

fn check_metric(key: &str, metric: &Metric) -> Result<(), String> {
    match metric {
        Metric::ErrorRate
        | Metric::TimeoutRate
        | Metric::Rate4xx
        | Metric::FirstByte(_)
        | Metric::ShadowErrorRate
        | Metric::ShadowDiffRate
        | Metric::ShadowFirstByte(_)
        | Metric::Signal(_)
        | Metric::Vital(..)
        | Metric::Query(_)
        | Metric::OwnMemory
        | Metric::OwnCpu => Ok(()),
        _ => Err(format!(
            "`{key}` follows from what else is assumed; errors, timeouts, rate_4xx, p50 to p999, signal.NAME, \
             vitals.*, shadow.*, query.NAME and weir.* can be said"
        )),
    }
}

fn check_names(key: &str, metric: &Metric, filter: Option<&Filter>, config: &Config) -> Result<(), String> {
    let known = |kind: &str, name: &str, known: Vec<&str>| match known.contains(&name) {
        true => Ok(()),
        false => Err(format!("`{key}`: no {kind} `{name}`{}", there_are(&known))),
    };
    match metric {
        Metric::Signal(name) => known("signal", name, config.signals.iter().map(|signal| &*signal.name).collect())?,
        Metric::Query(name) => known("query", name, config.queries.iter().map(|query| &*query.name).collect())?,
        _ => {}
    }
    match filter {
        None => Ok(()),
        Some(Filter::Route(name)) => known("route", name, config.routes.iter().map(|route| &*route.name).collect()),
        Some(Filter::Cohort(name)) => {
            let cohorts = config.rollouts.iter().flat_map(|rollout| &rollout.cohorts);
            known("cohort", name, cohorts.map(|cohort| &*cohort.name).collect())
        }
    }
}

/// The value of a query that has no data.
pub const NO_DATA: &str = "none";

/// `[ROLLOUT:]STAGE[+DELAY][..]`.
fn place(text: &str, config: &Config) -> Result<Place, String> {
    let (rest, onwards) = text.strip_suffix("..").map_or((text, false), |rest| (rest, true));
    let (rest, delay) = match rest.split_once('+') {
        Some((rest, delay)) => (rest, parse_span(delay).map_err(|error| format!("`@{text}`: {}", error.message))?),
        None => (rest, Duration::ZERO),
    };
    let (rollout, stage) = rest.split_once(':').map_or((None, rest), |(rollout, stage)| (Some(rollout), stage));
    let plans = || config.rollouts.iter().map(|rollout| &rollout.plan).filter(|plan| plan.is_staged());
    if let Some(rollout) = rollout.filter(|rollout| plans().all(|plan| *plan.name != **rollout)) {
        let names: Vec<&str> = plans().map(|plan| &*plan.name).collect();
        return Err(format!("`@{text}`: no rollout with stages is called `{rollout}`{}", there_are(&names)));
    }
    let of = || plans().filter(|plan| rollout.is_none_or(|name| *plan.name == *name));
    let found =
        |plan: &crate::rollout::plan::Plan| plan.stages.find(stage).map(|(index, _)| (Arc::clone(&plan.name), index));
    let stages: Vec<(Arc<str>, usize)> = of().filter_map(found).collect();
    if stages.is_empty() {
        let names: Vec<&str> = of().flat_map(|plan| &plan.stages.list).map(|stage| &*stage.name).collect();
        return Err(format!("`@{text}`: no stage `{stage}`{}", there_are(&names)));
    }
    Ok(Place { stages, delay, onwards })
}

fn there_are(names: &[&str]) -> String {
    match names {
        [] => "; there is none".to_owned(),
        names => format!("; there are {}", names.join(", ")),
    }
}
