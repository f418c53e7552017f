//! Prometheus servers as a source of criteria: one task per query asks on the control runtime and keeps the last answer.
//!
//! A value is what the latest question brought, and it grows old. A question that fails, or whose answer is not one number, is
//! no data with its reason: never a failure of the canary. Nothing waits for a server, and nothing that its URL may hide is
//! said. The supervisor hands the config in, `sources` reads the values.

mod answer;
mod ask;
#[cfg(test)]
mod tests;

use super::http::Lookups;
use crate::clock::{Clock, Time};
use crate::config::QueryConfig;
use crate::rollout::criterion::Reading;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// All queries of the config in force.
#[derive(Debug)]
pub struct Queries {
    clock: Clock,
    asked: BTreeMap<Arc<str>, Asking>,
    lookups: Lookups,
}

/// One query and the task that asks it.
#[derive(Debug)]
struct Asking {
    config: QueryConfig,
    latest: watch::Receiver<Latest>,
    task: JoinHandle<()>,
}

/// What the latest question brought.
#[derive(Clone, Debug, PartialEq)]
enum Latest {
    Unasked,
    Value(f64, Time),
    Failed(String),
}

impl Queries {
    /// No queries yet.
    pub fn new(clock: Clock) -> Queries {
        Queries { clock, asked: BTreeMap::new(), lookups: Lookups::new() }
    }

    /// Takes the queries of a config over: what has not changed goes on, the rest is asked anew. Must be called within a
    /// runtime.
    pub fn adopt(&mut self, configs: &[QueryConfig]) {
        let mut before = std::mem::take(&mut self.asked);
        for config in configs {
            let kept = before.remove(&config.name).filter(|asking| is_same(&asking.config, config));
            let asking = kept.unwrap_or_else(|| self.begin(config.clone()));
            self.asked.insert(Arc::clone(&config.name), asking);
        }
    }

    /// The present value of a query.
    pub fn reading(&self, name: &str, now: Time) -> Reading {
        let Some(asking) = self.asked.get(name) else { return Reading::NoData("there is no such query".into()) };
        match &*asking.latest.borrow() {
            Latest::Unasked => Reading::NoData("not answered yet".into()),
            Latest::Failed(why) => Reading::NoData(why.clone().into()),
            Latest::Value(value, at) => {
                let age = now.since(*at);
                match age > asking.config.max_age {
                    true => Reading::NoData(format!("no value for {}s", age.as_secs()).into()),
                    false => Reading::Value { value: *value, samples: 1 },
                }
            }
        }
    }

    /// The queries in order.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.asked.keys()
    }

    fn begin(&self, config: QueryConfig) -> Asking {
        let (tell, latest) = watch::channel(Latest::Unasked);
        let (clock, lookups, asked) = (self.clock.clone(), self.lookups.another(), config.clone());
        let task = tokio::spawn(async move {
            let mut ticks = interval(asked.interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let found = match tokio::time::timeout(asked.timeout, ask::ask(&asked, &lookups)).await {
                    Ok(Ok(body)) => answer::value(&body, clock.wall(), asked.max_age),
                    Ok(Err(why)) => Err(why),
                    Err(_) => {
                        let within = crate::config::units::print_span(asked.timeout);
                        Err(format!("no answer from {} within {within}", asked.server.authority))
                    }
                };
                let found = found.map_or_else(Latest::Failed, |value| Latest::Value(value, clock.now()));
                say(&asked.name, &tell.borrow(), &found);
                tell.send_replace(found);
            }
        });
        Asking { config, latest, task }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Says aloud when a query stops or begins to give a value, not each time.
fn say(name: &str, before: &Latest, now: &Latest) {
    match (before, now) {
        (Latest::Failed(before), Latest::Failed(now)) if before == now => {}
        (_, Latest::Failed(why)) => tracing::warn!(query = name, "no data: {why}"),
        (Latest::Failed(_), _) => tracing::info!(query = name, "has data again"),
        _ => {}
    }
}

/// Whether both ask the same thing in the same way.
fn is_same(one: &QueryConfig, other: &QueryConfig) -> bool {
    let plain = |it: &QueryConfig| (it.expr.clone(), it.interval, it.timeout, it.max_age);
    plain(one) == plain(other) && one.server.is_same(&other.server)
}
