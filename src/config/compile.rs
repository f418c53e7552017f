//! Config and the engine's word to a `Snapshot`: header names, patterns and fixed bodies prepared, counters attached.
//!
//! Cannot fail, because a `Config` is coherent. Called by the one publisher of snapshots; the latches' bits are not touched
//! here, they belong to the control plane.

use super::model::{
    ArmConfig, ArmTo, CohortConfig, Config, ListenerConfig, RolloutConfig, RouteConfig, UpstreamConfig,
};
use super::{Live, LiveRollout};
use crate::latch::{Guard, Latches};
use crate::rollout::Arm;
use crate::rollout::assign::{Phase, Split};
use crate::rollout::breaker::{LatencyRule, Rules};
use crate::rollout::bucket::{Bucketer, Weight};
use crate::rollout::cohort::{Cohort, Overlay};
use crate::rollout::mirror;
use crate::snapshot::{
    ArmRoute, ArmTarget, Diff, Force, HostPattern, Listener, Lookup, Match, Patience, Rollout, Route, RouteRollout,
    Shadow, Snapshot, UnitSource, Upstream,
};
use crate::spans::Traces;
use crate::tally::{AllowanceKey, GaugeKey, PerWorker, Registry, Series, SeriesKey};
use arrayvec::ArrayVec;
use http::HeaderName;
use http::header::{AUTHORIZATION, COOKIE, FORWARDED};
use std::collections::HashSet;
use std::sync::Arc;

/// The snapshot of a config as things stand.
pub fn compile(config: &Config, live: &Live, registry: &mut Registry, latches: &Latches, generation: u64) -> Snapshot {
    let routes: Vec<Route> = config.routes.iter().map(|it| route(it, config, live, registry)).collect();
    Snapshot {
        generation,
        listeners: config.listeners.iter().map(|it| listener(it, registry)).collect(),
        lookup: Lookup::if_many(&routes),
        routes,
        splits: splits(config, live),
        rollouts: config.rollouts.iter().map(|it| rollout(it, config, live, registry, latches)).collect(),
        signals: config.signals.clone(),
        upstreams: config.upstreams.iter().map(|it| upstream(it, live, registry)).collect(),
        trusted_proxies: config.trusted_proxies.clone(),
        decisive: decisive(config),
        ruled: ruled(config),
        force: Force { secret: config.force.secret.clone(), trusted: config.force.trusted.clone() },
        tokens: config.admin.as_ref().map(|admin| [admin.token.clone(), admin.read_token.clone()]).unwrap_or_default(),
        limits: Arc::new(config.limits.clone()),
        access_log: config.access_log.keep,
        counts: registry.counts(),
        in_flight: registry.allowance(AllowanceKey::Requests, config.limits.max_in_flight),
        connections: registry.allowance(AllowanceKey::Connections, config.limits.max_connections),
        addresses: registry.addresses(),
        copies: registry.copies(),
        traces: config.traces.as_ref().map(|traces| Traces { share_ppm: traces.share.ppm(), spans: registry.spans() }),
    }
}

/// The fields that decide something. Left out are those that everybody reads alike, because weir joins them or writes its
/// own word over them.
fn decisive(config: &Config) -> HashSet<HeaderName> {
    let of_unit = |source: &UnitSource| match source {
        UnitSource::Header(name) => Some(name.clone()),
        UnitSource::Jwt { .. } => Some(AUTHORIZATION),
        UnitSource::Cookie(_) | UnitSource::Query(_) | UnitSource::ClientIp => None,
    };
    let of_cohort = |cohort: &CohortConfig| HeaderName::from_bytes(cohort.header.as_ref()?.0.as_bytes()).ok();
    let units = config.rollouts.iter().flat_map(|rollout| &rollout.units).filter_map(of_unit);
    let cohorts = config.rollouts.iter().flat_map(|rollout| &rollout.cohorts).filter_map(of_cohort);
    let routes = config.routes.iter().flat_map(|route| &route.headers).map(|(name, _)| name.clone());
    let is_written = |name: &HeaderName| name.as_str().starts_with("x-forwarded-") || *name == FORWARDED;
    units.chain(cohorts).chain(routes).filter(|name| *name != COOKIE && !is_written(name)).collect()
}

fn ruled(config: &Config) -> HashSet<HeaderName> {
    let arms = config.rollouts.iter().flat_map(|rollout| &rollout.arms);
    let names = arms.flat_map(|arm| arm.set_headers.iter().map(|(name, _)| name).chain(&arm.remove_headers));
    names.cloned().collect()
}

/// What decisions need of every rollout, in the order of the config.
pub fn splits(config: &Config, live: &Live) -> Vec<Split> {
    let split = |rollout: &RolloutConfig| {
        let word = live.rollouts.get(&rollout.plan.name);
        let (phase, weight) = standing(rollout, word);
        Split {
            name: Arc::clone(&rollout.plan.name),
            phase,
            bucketer: rollout.bucketer.clone(),
            weight,
            cohorts: rollout.cohorts.iter().map(|it| cohort(it, word)).collect(),
            requires: rollout.requires,
            probe: probe(rollout, word),
        }
    };
    config.rollouts.iter().map(split).collect()
}

/// The trickle of a half-open breaker: as configured, unless the engine had to widen it.
fn probe(rollout: &RolloutConfig, word: Option<&LiveRollout>) -> Option<(Bucketer, Weight)> {
    let rules = rollout.plan.breaker.as_ref()?;
    let share = word.and_then(|word| word.probe).unwrap_or(rules.probe);
    Some((rollout.bucketer.probe_share(), share))
}

/// Phase and weight of a rollout. One that is switched off by the config is pending whatever anyone says; one with stages
/// is, until the engine says in which it is.
fn standing(rollout: &RolloutConfig, word: Option<&LiveRollout>) -> (Phase, Weight) {
    match word {
        _ if !rollout.plan.enabled => (Phase::Pending, Weight::ZERO),
        Some(word) => (word.phase, word.weight),
        None if rollout.plan.is_staged() => (Phase::Pending, Weight::ZERO),
        None => (Phase::Serving, rollout.plan.weight),
    }
}

fn cohort(config: &CohortConfig, word: Option<&LiveRollout>) -> Cohort {
    let overlay = word.and_then(|word| word.overlays.get(&config.name)).cloned();
    Cohort {
        name: Arc::clone(&config.name),
        // An excluding cohort keeps its members off in every stage.
        enabled: config.enabled && (config.exclude || admitted(config, word)),
        exclude: config.exclude,
        users: Arc::clone(&config.members.set),
        overlay: overlay.unwrap_or_else(|| Arc::new(Overlay::default())),
        header: config.header.clone(),
        cookie: config.cookie.clone(),
        share: config.share.clone(),
    }
}

fn admitted(config: &CohortConfig, word: Option<&LiveRollout>) -> bool {
    word.and_then(|word| word.admitted.as_ref()).is_none_or(|admitted| admitted.contains(&config.name))
}

fn listener(config: &ListenerConfig, registry: &mut Registry) -> Listener {
    Listener {
        address: Arc::clone(&config.label),
        tls: config.tls.clone(),
        proxy_protocol: config.proxy_protocol,
        http1: config.http1,
        http2: config.http2,
        flags_path: config.flags_path.clone(),
        vitals_path: config.vitals_path.clone(),
        connections: registry.gauge(GaugeKey::Connections(Arc::clone(&config.label))),
        counts: registry.listener(&config.label),
    }
}

fn upstream(config: &UpstreamConfig, live: &Live, registry: &mut Registry) -> Upstream {
    Upstream {
        name: Arc::clone(&config.name),
        http2: config.http2,
        tls: config.tls.clone(),
        endpoints: live.endpoints.get(&config.name).cloned().unwrap_or_default(),
        connect_timeout: config.connect_timeout,
        response_timeout: config.response_timeout,
        idle_timeout: config.idle_timeout,
        max_connections: config.max_connections,
        active: registry.gauge(GaugeKey::UpstreamActive(Arc::clone(&config.name))),
        idle: registry.gauge(GaugeKey::UpstreamIdle(Arc::clone(&config.name))),
        ejections: registry.gauge(GaugeKey::UpstreamEjections(Arc::clone(&config.name))),
    }
}

fn route(config: &RouteConfig, all: &Config, live: &Live, registry: &mut Registry) -> Route {
    let (mut rollouts, mut mirrors) = (ArrayVec::new(), false);
    for &(index, chooses) in &config.rollouts {
        let Some(rollout) = all.rollouts.get(index) else { continue };
        let series = both(|arm| {
            let (name, route) = (Arc::clone(&rollout.plan.name), Arc::clone(&config.name));
            registry.series(SeriesKey::Arm { rollout: name, arm, route })
        });
        mirrors |= reach(rollout, live.rollouts.get(&rollout.plan.name)).is_some();
        // A config holds no more rollouts on a route than there is room for.
        let _ = rollouts.try_push(RouteRollout { rollout: index, chooses, series });
    }
    Route {
        name: Arc::clone(&config.name),
        matches: Match {
            host: config.host.as_ref().map(host_pattern),
            path_prefix: config.path_prefix.clone(),
            methods: config.methods.clone(),
            headers: config.headers.clone(),
        },
        upstream: config.upstream,
        rollouts,
        plain: registry.series(SeriesKey::Plain { route: Arc::clone(&config.name) }),
        websocket: config.websocket,
        body_bytes_max: config.body_bytes_max.unwrap_or(all.limits.max_body),
        patience: if config.streaming { Patience::ENDLESS } else { Patience::of(&all.limits) },
        mirrors,
    }
}

/// `*.example.com` is every name that ends with `.example.com`.
fn host_pattern(host: &Arc<str>) -> HostPattern {
    match host.strip_prefix('*') {
        Some(suffix) => HostPattern::Suffix(Arc::from(suffix)),
        None => HostPattern::Exact(Arc::clone(host)),
    }
}

fn rollout(config: &RolloutConfig, all: &Config, live: &Live, registry: &mut Registry, latches: &Latches) -> Rollout {
    let name = &config.plan.name;
    let cohort_series = |cohort: &CohortConfig, registry: &mut Registry| {
        both(|arm| {
            let (rollout, cohort) = (Arc::clone(name), Arc::clone(&cohort.name));
            registry.series(SeriesKey::Cohort { rollout, arm, cohort })
        })
    };
    let responds = config.arms.iter().any(|arm| matches!(arm.to, ArmTo::Respond(_)));
    let takes_vitals = all.listeners.iter().any(|listener| listener.vitals_path.is_some());
    Rollout {
        units: config.units.clone(),
        assign_cookie: config.assign_cookie.clone(),
        expose_arm: config.expose_arm,
        arms: Arm::ALL.map(|arm| arm_route(config.arm(arm))),
        errors: config.errors.clone(),
        latch: latches.of(name),
        stage: live.rollouts.get(name).and_then(|word| word.stage.clone()),
        decisions: registry.decisions(name),
        cohort_series: config.cohorts.iter().map(|cohort| cohort_series(cohort, registry)).collect(),
        forced_series: both(|arm| registry.series(SeriesKey::Forced { rollout: Arc::clone(name), arm })),
        probe_series: registry.series(SeriesKey::Probe { rollout: Arc::clone(name) }),
        diverted: registry.diverted(name),
        blocked: responds.then(|| registry.gauge(GaugeKey::Blocked(Arc::clone(name)))),
        signals: all.signals.iter().map(|it| Arm::ALL.map(|arm| registry.signal(name, arm, &it.name))).collect(),
        vitals: takes_vitals.then(|| Arm::ALL.map(|arm| registry.vitals(name, arm))),
        canary_units: registry.units(name),
        in_flight: Arm::ALL
            .map(|arm| registry.allowance(AllowanceKey::Arm(Arc::clone(name), arm), all.limits.max_in_flight_per_arm)),
        guard: config.plan.breaker.as_ref().map(guard),
        fallback: config.fallback,
        fallback_by_key: config.fallback_by_key,
        fallbacks: registry.fallbacks(name),
        close_streams: config.close_streams,
        streams_closed: registry.gauge(GaugeKey::StreamsClosed(Arc::clone(name))),
        shadow: shadow(config, live, registry),
        diff: config.diff.as_ref().map(|diff| Diff {
            rules: Arc::clone(&diff.rules),
            share: diff.share.clone(),
            noise: diff.noise.clone(),
            pairs: registry.pairs(),
            lost: registry.lost_pairs(name),
        }),
    }
}

/// How far mirroring reaches at present: by the stage's share or else the rollout's. None if nothing is mirrored: nobody is
/// left on stable, or the rollout does not serve, and then its canary may be anything.
fn reach(config: &RolloutConfig, word: Option<&LiveRollout>) -> Option<Weight> {
    let shadow = config.shadow.as_ref()?;
    let (phase, weight) = standing(config, word);
    let share = word.and_then(|word| word.shadow).unwrap_or(shadow.share);
    mirror::reach(weight, share).filter(|_| phase == Phase::Serving)
}

fn shadow(config: &RolloutConfig, live: &Live, registry: &mut Registry) -> Option<Shadow> {
    let (own, name) = (config.shadow.as_ref()?, &config.plan.name);
    // Made even while nothing is mirrored, so that the counts are there from the start.
    let (series, counts) = (registry.series(SeriesKey::Shadow { rollout: Arc::clone(name) }), registry.mirrored(name));
    Some(Shadow {
        reach: reach(config, live.rollouts.get(name))?,
        methods: own.methods.clone(),
        max_body: own.max_body,
        max_in_flight: own.max_in_flight,
        timeout: own.timeout,
        max_memory: own.max_memory,
        keep_headers: own.keep_headers.clone(),
        series,
        counts,
    })
}

fn guard(rules: &Rules) -> Guard {
    let slow_us = |rule: &LatencyRule| u64::try_from(rule.above.as_micros()).unwrap_or(u64::MAX);
    Guard {
        consecutive_errors: rules.consecutive_errors,
        min_units: rules.min_units,
        slow_us: rules.latency.as_ref().map(slow_us),
        counts_waiting: rules.no_answer.is_some(),
        spares_both: rules.spares_both,
    }
}

fn arm_route(config: &ArmConfig) -> ArmRoute {
    ArmRoute {
        to: match &config.to {
            ArmTo::Route => ArmTarget::Route,
            ArmTo::Upstream(index) => ArmTarget::Upstream(*index),
            ArmTo::Respond(answer) => ArmTarget::Respond(Arc::clone(answer)),
        },
        set_headers: config.set_headers.clone(),
        remove_headers: config.remove_headers.clone(),
    }
}

/// One series per arm, by arm index.
fn both(series: impl FnMut(Arm) -> Arc<PerWorker<Series>>) -> [Arc<PerWorker<Series>>; 2] {
    Arm::ALL.map(series)
}
