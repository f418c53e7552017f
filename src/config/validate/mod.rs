//! Raw to validated: references resolved, files read, bounds kept. Goes on after a problem, so that all are reported at once;
//! what it builds is used only if there was none.
//!
//! Called by `load`.

mod context;
mod health;
mod listeners;
mod names;
mod notify;
mod plan;
mod rollouts;
mod routes;
mod server;
mod sources;
mod traces;
mod upstreams;

pub use context::Context;
pub use rollouts::siphash_key;

use super::limits;
use super::model::{AccessLogConfig, Config, ForceConfig, LogTarget};
use super::raw;
use super::tree::Place;
use crate::snapshot::AccessLog;
use std::time::Duration;

/// The config of a raw file. Every problem is in the context; with an error among them the result is not to be used.
pub fn config(raw: &raw::Root, effective: serde_json::Value, context: &mut Context<'_, '_>) -> Config {
    let drain_timeout = drain_timeout(raw, context);
    let no_limits = raw::Limits::default();
    let raw_limits = raw.limits.as_ref().map_or(&no_limits, |limits| &limits.value);
    let (limits, defaults) = limits::read(raw_limits, drain_timeout, context.problems);
    let listeners = listeners::listeners(raw, context);
    let upstreams = upstreams::upstreams(raw, defaults, context);
    let rollouts = rollouts::rollouts(raw, context);
    rollouts::timeouts(raw, &rollouts, &upstreams, context);
    let routes = routes::routes(raw, &rollouts, context);
    let signals = sources::signals(raw, &routes, context);
    let mut https = None;
    let queries = sources::queries(raw, &mut https, context);
    let notify = notify::targets(raw, &mut https, context);
    let traces = traces::collector(raw, &mut https, context);
    unused(raw, context);
    let state_dir = raw.state_dir.as_ref().map_or("weir-state", |path| &path.value.0);
    Config {
        state_dir: context.path(state_dir),
        workers: workers(raw, context),
        drain_timeout,
        trusted_proxies: names::networks("trusted_proxies", raw.trusted_proxies.as_ref(), context),
        force: force(raw, context),
        access_log: access_log(raw, context),
        limits,
        admin: listeners::admin(raw, &listeners, context),
        listeners,
        upstreams,
        routes,
        rollouts,
        signals,
        queries,
        notify,
        traces,
        effective,
        digests: std::mem::take(&mut context.digests),
    }
}

fn drain_timeout(raw: &raw::Root, context: &mut Context<'_, '_>) -> Duration {
    let Some(spot) = &raw.drain_timeout else { return DRAIN_TIMEOUT };
    if spot.value > DRAIN_TIMEOUT_MAX {
        context.problems.error(spot.place, "drain_timeout: expected a duration of at most 1h");
    }
    spot.value
}

fn workers(raw: &raw::Root, context: &mut Context<'_, '_>) -> Option<usize> {
    let spot = raw.workers.as_ref()?;
    if spot.value == 0 || spot.value > WORKERS_MAX {
        let message = format!("workers: expected 1 to {WORKERS_MAX}, found {}", spot.value);
        context.problems.error(spot.place, message).with_help("without this key there is one per core");
    }
    Some(spot.value as usize)
}

fn force(raw: &raw::Root, context: &mut Context<'_, '_>) -> ForceConfig {
    let Some(force) = raw.force.as_ref().map(|force| &force.value) else { return ForceConfig::default() };
    let secret = context.secret("force.secret", force.secret.as_ref(), force.secret_file.as_ref());
    if let (Some(secret), Some(place)) = (&secret, force.secret_file.as_ref().map(|file| file.place)) {
        context.strong_enough("force.secret_file", &secret.0, place);
    } else if let (Some(secret), Some(spot)) = (&secret, &force.secret) {
        context.strong_enough("force.secret", &secret.0, spot.place);
    }
    ForceConfig { secret, trusted: names::networks("force.trusted", force.trusted.as_ref(), context) }
}

fn access_log(raw: &raw::Root, context: &mut Context<'_, '_>) -> AccessLogConfig {
    let default = raw::AccessLog::default();
    let log = raw.access_log.as_ref().map_or(&default, |log| &log.value);
    let mode = log.mode.as_ref().map_or(raw::AccessLogMode::Off, |mode| mode.value);
    if let Some(share) = log.share.as_ref().filter(|_| mode != raw::AccessLogMode::Sampled) {
        let message = format!("access_log.share: has no effect with `mode = \"{}\"`", mode.word());
        context.problems.error(share.place, message).with_help("write mode = \"sampled\", or remove the share");
    }
    let share_ppm = || log.share.as_ref().map_or(ACCESS_LOG_SHARE_PPM, |share| share.value.ppm());
    let keep = match mode {
        raw::AccessLogMode::Off => AccessLog::Off,
        raw::AccessLogMode::Sampled => AccessLog::Sampled(share_ppm()),
        raw::AccessLogMode::Full => AccessLog::Full,
    };
    let target = match log.path.as_ref().map_or("stdout", |path| &path.value.0) {
        "stdout" => LogTarget::Stdout,
        "stderr" => LogTarget::Stderr,
        file => LogTarget::File(context.path(file)),
    };
    AccessLogConfig { keep, target }
}

/// What is defined and named by nothing is probably a slip.
fn unused(raw: &raw::Root, context: &mut Context<'_, '_>) {
    if context.problems.any_error() {
        return;
    }
    let routes = || raw.routes.iter().flat_map(|routes| &routes.value).map(|route| &route.value);
    let rollouts = || raw.rollouts.iter().flat_map(|rollouts| &rollouts.value);
    let arms = || {
        let values = rollouts().filter_map(|rollout| rollout.value.as_ref());
        values.flat_map(|rollout| [&rollout.stable, &rollout.canary]).flatten().map(|arm| &arm.value)
    };
    for upstream in raw.upstreams.iter().flat_map(|upstreams| &upstreams.value) {
        let by_route = routes().any(|route| names::is(&route.upstream, &upstream.name));
        if !by_route && !arms().any(|arm| names::is(&arm.upstream, &upstream.name)) {
            let message = format!("`upstreams.{}` is used by no route and no arm", upstream.name);
            context.problems.warning(upstream.place, message);
        }
    }
    if routes().next().is_none() {
        return;
    }
    for rollout in rollouts() {
        let named = routes().flat_map(|route| &route.rollouts).any(|list| names::among(&list.value, &rollout.name));
        let required = rollouts().filter_map(|other| other.value.as_ref());
        if !named && !required.into_iter().any(|other| names::is(&other.requires, &rollout.name)) {
            let message = format!("`rollouts.{}` is on no route: it decides no request", rollout.name);
            context.problems.warning(rollout.place, message);
        }
    }
}

/// Reports a list that is longer than what this version is made for.
fn at_most(what: &str, count: usize, most: usize, place: Place, context: &mut Context<'_, '_>) {
    if count > most {
        context.problems.error(place, format!("{what}: {count} are more than the {most} that are possible"));
    }
}

/// The default of `drain_timeout`.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// No supervisor waits longer for a process to end.
const DRAIN_TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// More threads than any machine this is made for has cores.
const WORKERS_MAX: u32 = 1024;
/// The share that `mode = "sampled"` keeps unless told otherwise.
const ACCESS_LOG_SHARE_PPM: u32 = 10_000;
