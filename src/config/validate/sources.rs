//! What criteria read besides the requests themselves: signals and Prometheus queries.

use super::server::{Https, server, trusted};
use super::{Context, at_most, names, rollouts};
use crate::config::decode::Spot;
use crate::config::model::{QueryConfig, RouteConfig};
use crate::config::raw;
use crate::config::tree::quoted;
use crate::config::units::print_span;
use crate::snapshot::{SIGNALS_MAX, Signal, SignalMatch};
use std::ops::RangeInclusive;
use std::time::Duration;

/// All signals.
pub fn signals(raw: &raw::Root, routes: &[RouteConfig], context: &mut Context<'_, '_>) -> Vec<Signal> {
    let Some(signals) = &raw.signals else { return Vec::new() };
    names::names("a signal", &signals.value, context);
    at_most("signals", signals.value.len(), SIGNALS_MAX, signals.place, context);
    let signal = |entry: &crate::config::decode::Named<raw::Signal>, context: &mut Context<'_, '_>| {
        let when = entry.value.as_ref()?.when.as_ref();
        let key = format!("signals.{}.when", entry.name);
        Some(Signal { name: entry.name.as_str().into(), when: when.map(|when| matches(&key, when, routes, context)) })
    };
    signals.value.iter().take(SIGNALS_MAX).filter_map(|entry| signal(entry, context)).collect()
}

fn matches(
    key: &str,
    spot: &Spot<raw::SignalWhen>,
    routes: &[RouteConfig],
    context: &mut Context<'_, '_>,
) -> SignalMatch {
    let raw = &spot.value;
    let headers = names::headers(&format!("{key}.response_header"), raw.response_header.as_ref(), context);
    let mut found = SignalMatch { headers, ..SignalMatch::default() };
    for status in raw.status.iter().flat_map(|list| &list.value) {
        match rollouts::status_range(&status.value) {
            Some(range) => found.statuses.push(range),
            None => {
                let message = format!("{key}.status: {} is no status", quoted(&status.value));
                context.problems.error(status.place, message).with_help("write \"422\", \"4xx\" or \"500-504\"");
            }
        }
    }
    for status in raw.grpc_status.iter().flat_map(|list| &list.value) {
        match u8::try_from(status.value).ok().filter(|code| *code <= GRPC_STATUS_MAX) {
            Some(code) => found.grpc_statuses.push(code),
            None => {
                let message = format!("{key}.grpc_status: expected 0 to {GRPC_STATUS_MAX}, found {}", status.value);
                context.problems.error(status.place, message);
            }
        }
    }
    if let Some(route) = &raw.route {
        found.route = routes.iter().position(|known| *known.name == *route.value);
        if found.route.is_none() {
            let known: Vec<&str> = routes.iter().map(|route| &*route.name).collect();
            names::dangling(&format!("{key}.route"), "route", &route.value, &known, route.place, context);
        }
    }
    let lists = [
        raw.response_header.as_ref().is_some_and(|map| !map.value.is_empty()),
        raw.status.as_ref().is_some_and(|list| !list.value.is_empty()),
        raw.grpc_status.as_ref().is_some_and(|list| !list.value.is_empty()),
    ];
    if !lists.contains(&true) && raw.route.is_none() && !context.unread {
        let help = "name a response_header, status, grpc_status or route; without `when` only posted events count";
        context.problems.error(spot.place, format!("{key}: says nothing of a response")).with_help(help);
    }
    found
}

/// All queries.
pub fn queries(raw: &raw::Root, https: &mut Https, context: &mut Context<'_, '_>) -> Vec<QueryConfig> {
    let Some(queries) = &raw.queries else { return Vec::new() };
    names::names("a query", &queries.value, context);
    at_most("queries", queries.value.len(), QUERIES_MAX, queries.place, context);
    let mut found = Vec::new();
    for entry in queries.value.iter().take(QUERIES_MAX) {
        let Some(raw) = &entry.value else { continue };
        found.extend(query(&entry.name, raw, https, context));
    }
    found
}

fn query(name: &str, raw: &raw::Query, https: &mut Https, context: &mut Context<'_, '_>) -> Option<QueryConfig> {
    let key = format!("queries.{name}");
    let mut span = |name: &str, spot: &Option<Spot<Duration>>, usual: Duration, bounds: RangeInclusive<Duration>| {
        let Some(spot) = spot else { return usual };
        if !bounds.contains(&spot.value) {
            let (least, most) = (print_span(*bounds.start()), print_span(*bounds.end()));
            context.problems.error(spot.place, format!("{key}.{name}: expected {least} to {most}"));
        }
        spot.value
    };
    let interval = span("interval", &raw.interval, INTERVAL, INTERVAL_MIN..=INTERVAL_MAX);
    let timeout = span("timeout", &raw.timeout, TIMEOUT, INTERVAL_MIN..=TIMEOUT_MAX);
    let max_age = span("max_age", &raw.max_age, MAX_AGE.max(interval), INTERVAL_MIN..=MAX_AGE_MAX);
    if let Some(spot) = raw.max_age.as_ref().filter(|spot| spot.value < interval) {
        let message = format!("{key}.max_age: is shorter than `interval`, so the value would be missing in between");
        context.problems.error(spot.place, message);
    }
    if let Some(expr) = raw.expr.as_ref().filter(|expr| expr.value.trim().is_empty()) {
        context.problems.error(expr.place, format!("{key}.expr: asks for nothing"));
    }
    let url = raw.url.as_ref()?;
    let server = trusted(&key, raw.ca.as_ref(), https, context, |https, context| {
        server(&format!("{key}.url"), &url.value.0, url.place, "http://127.0.0.1:9090", https, context)
    })?;
    let expr = raw.expr.as_ref()?.value.trim().to_owned();
    Some(QueryConfig { name: name.into(), server, expr, interval, timeout, max_age })
}

/// The last code there is: unauthenticated (gRPC "Status codes and their use").
const GRPC_STATUS_MAX: u8 = 16;
/// Each is a task, and a question every few seconds.
const QUERIES_MAX: usize = 64;
/// Time between two questions unless a query says otherwise.
const INTERVAL: Duration = Duration::from_secs(5);
/// No server is asked more often, nor given less time.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// A value that is asked for less often says nothing about the present.
const INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// Time for an answer unless a query says otherwise.
const TIMEOUT: Duration = Duration::from_secs(2);
/// What takes longer is not a question for every few seconds.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Age from which a value is no data unless a query says otherwise.
const MAX_AGE: Duration = Duration::from_secs(60);
/// A value from yesterday says nothing about the present.
const MAX_AGE_MAX: Duration = Duration::from_secs(24 * 3600);
