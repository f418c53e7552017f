//! Routes: what they match, where they lead, and which rollouts apply there.

use super::{Context, names};
use crate::config::decode::{Bytes, Named, OrOff, Spot};
use crate::config::model::{ArmTo, RolloutConfig, RouteConfig};
use crate::config::raw;
use crate::config::tree::{Place, quoted};
use crate::rollout::Arm;
use crate::snapshot::ROLLOUTS_PER_ROUTE_MAX;
use http::{HeaderName, HeaderValue, Method};
use std::collections::BTreeSet;
use std::sync::Arc;

/// All routes; without any the one that leads everything to the only rollout.
pub fn routes(raw: &raw::Root, rollouts: &[RolloutConfig], context: &mut Context<'_, '_>) -> Vec<RouteConfig> {
    let list = raw.routes.as_ref().map(|routes| routes.value.as_slice()).unwrap_or_default();
    if list.is_empty() {
        return the_default(raw, rollouts, context).into_iter().collect();
    }
    let place = raw.routes.as_ref().map(|routes| routes.place).unwrap_or_default();
    super::at_most("routes", list.len(), ROUTES_MAX, place, context);
    let mut routes: Vec<RouteConfig> = Vec::new();
    let (mut names, mut catches_all) = (BTreeSet::new(), None);
    for (index, spot) in list.iter().enumerate().take(ROUTES_MAX) {
        let route = route(index, spot, raw, rollouts, context);
        if !names.insert(Arc::clone(&route.name)) {
            let place = spot.value.name.as_ref().map_or(spot.place, |name| name.place);
            context.problems.error(place, format!("routes[{index}].name: another route is `{}` already", route.name));
        }
        if let Some(before) = &catches_all {
            let message = format!("routes[{index}]: never matches, because `{before}` before it matches everything");
            context.problems.warning(spot.place, message);
        } else if matches_everything(&route) {
            catches_all = Some(Arc::clone(&route.name));
        }
        routes.push(route);
    }
    routes
}

fn the_default(raw: &raw::Root, rollouts: &[RolloutConfig], context: &mut Context<'_, '_>) -> Option<RouteConfig> {
    let place = raw.rollouts.as_ref().map(|rollouts| rollouts.place).unwrap_or_default();
    let [rollout] = rollouts else {
        // A rollout or route that could not be read has been reported; this would only follow from it.
        if !context.unread {
            let message = match rollouts.len() {
                0 => "nothing to serve: there is no route and no rollout".to_owned(),
                count => format!("there is no route, and with {count} rollouts nothing says which one applies"),
            };
            context.problems.error(place, message).with_help("add [[routes]] with `upstream` or `rollouts`");
        }
        return None;
    };
    let name = &rollout.plan.name;
    if leads_nowhere(rollout) && !context.unread {
        let message = format!("rollouts.{name}: without routes both arms need `upstream` or `respond`");
        context.problems.error(place, message);
    }
    Some(RouteConfig {
        name: Arc::from("default"),
        host: None,
        path_prefix: None,
        methods: Vec::new(),
        headers: Vec::new(),
        upstream: None,
        rollouts: vec![(0, rollout.chooses())],
        websocket: true,
        body_bytes_max: None,
        streaming: false,
    })
}

fn route(
    index: usize,
    spot: &Spot<raw::Route>,
    raw: &raw::Root,
    rollouts: &[RolloutConfig],
    context: &mut Context<'_, '_>,
) -> RouteConfig {
    let route = &spot.value;
    let name = route.name.as_ref().map_or(format!("route-{}", index + 1), |name| name.value.clone());
    if let Some(written) = &route.name {
        names::name("a route", &name, written.place, context);
    }
    let key = format!("routes[{index}]");
    let default = raw::Match::default();
    let matches = route.r#match.as_ref().map_or(&default, |matches| &matches.value);
    let upstreams = raw.upstreams.as_ref().map(|map| map.value.as_slice()).unwrap_or_default();
    let upstream = route
        .upstream
        .as_ref()
        .map(|reference| names::find(&format!("{key}.upstream"), "upstream", reference, upstreams, context));
    let applied = applied(&key, route, raw, rollouts, context);
    let chooser = applied.iter().find(|(_, chooses)| *chooses).and_then(|(index, _)| rollouts.get(*index));
    let unread = route.rollouts.as_ref().is_some_and(|list| list.value.len() != applied.len());
    if upstream.is_none() && !unread && chooser.is_none_or(leads_nowhere) {
        let message = match chooser {
            None => format!("{key}: leads nowhere, name an `upstream` or a rollout whose arms have one"),
            Some(rollout) => format!("{key}: name an `upstream` for the arm of `{}` that has none", rollout.plan.name),
        };
        context.problems.error(spot.place, message);
    }
    RouteConfig {
        name: Arc::from(name),
        host: host(&key, matches, context),
        path_prefix: path_prefix(&key, matches, context),
        methods: methods(&key, matches, context),
        headers: headers(&key, matches, context),
        upstream: upstream.flatten(),
        rollouts: applied,
        websocket: route.websocket.as_ref().is_none_or(|websocket| websocket.value),
        body_bytes_max: route.max_body.as_ref().map(|most| match most.value {
            OrOff::On(Bytes(most)) => most,
            OrOff::Off => u64::MAX,
        }),
        streaming: route.streaming.as_ref().is_some_and(|streaming| streaming.value),
    }
}

/// The rollouts of a route; at most one of them chooses.
fn applied(
    key: &str,
    route: &raw::Route,
    raw: &raw::Root,
    rollouts: &[RolloutConfig],
    context: &mut Context<'_, '_>,
) -> Vec<(usize, bool)> {
    let Some(list) = &route.rollouts else { return Vec::new() };
    let key = format!("{key}.rollouts");
    super::at_most(&key, list.value.len(), ROLLOUTS_PER_ROUTE_MAX, list.place, context);
    let known: &[Named<raw::Rollout>] = raw.rollouts.as_ref().map(|map| map.value.as_slice()).unwrap_or_default();
    let mut applied: Vec<(usize, bool)> = Vec::new();
    for reference in list.value.iter().take(ROLLOUTS_PER_ROUTE_MAX) {
        let Some(index) = names::find(&key, "rollout", reference, known, context) else { continue };
        let Some(rollout) = rollouts.get(index) else { continue };
        let name = &rollout.plan.name;
        if applied.iter().any(|(other, _)| *other == index) {
            context.problems.error(reference.place, format!("{key}: `{name}` stands here a second time"));
        }
        let before = applied.iter().find(|(_, chooses)| *chooses).and_then(|(other, _)| rollouts.get(*other));
        if let Some(before) = before.filter(|_| rollout.chooses()) {
            let message = format!("{key}: `{}` and `{name}` both choose the upstream, only one may", before.plan.name);
            let help = "an arm of the other may only set and remove headers";
            context.problems.error(reference.place, message).with_help(help);
        }
        applied.push((index, rollout.chooses()));
    }
    applied
}

/// Whether an arm relies on the route's upstream.
fn leads_nowhere(rollout: &RolloutConfig) -> bool {
    Arm::ALL.into_iter().any(|arm| matches!(rollout.arm(arm).to, ArmTo::Route))
}

fn matches_everything(route: &RouteConfig) -> bool {
    route.host.is_none() && route.path_prefix.is_none() && route.methods.is_empty() && route.headers.is_empty()
}

fn headers(key: &str, matches: &raw::Match, context: &mut Context<'_, '_>) -> Vec<(HeaderName, HeaderValue)> {
    let key = format!("{key}.match.headers");
    for entry in matches.headers.iter().flat_map(|map| &map.value).filter(|entry| entry.name.contains('_')) {
        names::request_header(&key, &entry.name, entry.place, context);
    }
    names::headers(&key, matches.headers.as_ref(), context)
}

fn host(key: &str, matches: &raw::Match, context: &mut Context<'_, '_>) -> Option<Arc<str>> {
    let spot = matches.host.as_ref()?;
    let host = spot.value.to_lowercase();
    // With or without the dot at the end it is the same host.
    let host = host.strip_suffix('.').unwrap_or(&host);
    let name = host.strip_prefix("*.").unwrap_or(host);
    let bracketed = name.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
    let address = bracketed.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
    if address || super::upstreams::is_host(name) {
        return Some(Arc::from(host));
    }
    let message = format!("{key}.match.host: {} is no host", quoted(&spot.value));
    let problem = context.problems.error(spot.place, message);
    match name.split_once(':') {
        _ if name == "*" || name.is_empty() => problem.with_help("leave the host out to match every host"),
        Some((bare, _)) if super::upstreams::is_host(bare) => {
            problem.with_help(format!("without the port: \"{bare}\""))
        }
        _ => problem.with_help("write \"example.com\", or \"*.example.com\" for every name below"),
    };
    None
}

fn path_prefix(key: &str, matches: &raw::Match, context: &mut Context<'_, '_>) -> Option<Arc<str>> {
    let spot = matches.path_prefix.as_ref()?;
    if !names::is_path(&spot.value) {
        let message =
            format!("{key}.match.path_prefix: expected a path such as \"/api\", found {}", quoted(&spot.value));
        context.problems.error(spot.place, message);
        return None;
    }
    let trimmed = spot.value.trim_end_matches('/');
    (!trimmed.is_empty()).then(|| Arc::from(trimmed))
}

fn methods(key: &str, matches: &raw::Match, context: &mut Context<'_, '_>) -> Vec<Method> {
    let mut methods = Vec::new();
    for spot in matches.methods.iter().flat_map(|methods| &methods.value) {
        if let Some(method) = method(&format!("{key}.match.methods"), &spot.value, spot.place, context) {
            methods.push(method);
        }
    }
    methods
}

/// A method that weir passes on. None after a problem.
pub fn method(key: &str, text: &str, place: Place, context: &mut Context<'_, '_>) -> Option<Method> {
    let upper = text.to_uppercase();
    if matches!(upper.as_str(), "CONNECT" | "TRACE") {
        context.problems.error(place, format!("{key}: weir refuses every {upper} request"));
        return None;
    }
    let method = Method::from_bytes(text.as_bytes()).ok();
    let known = method.is_some() && upper == text;
    if !known {
        let problem = context.problems.error(place, format!("{key}: {} is no method", quoted(text)));
        if Method::from_bytes(upper.as_bytes()).is_ok() {
            problem.with_help(format!("methods are written in upper case: \"{upper}\""));
        }
    }
    method.filter(|_| known)
}

/// Each route has counts per rollout, arm and worker, some KiB in all, and a line of every metric by route.
const ROUTES_MAX: usize = 10_000;
