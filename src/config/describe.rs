//! What a config means, in words and aligned columns: the text of `weir check`.

mod columns;
mod plan;

use super::model::{
    AdminAddress, ArmConfig, ArmTo, CohortConfig, Config, HealthCheck, LogTarget, NotifyConfig, QueryConfig,
    RolloutConfig, RouteConfig, UpstreamConfig,
};
use super::units::{print_share, print_size, print_span};
use crate::rollout::Arm;
use crate::rollout::breaker::{COOLDOWN_MAX, Rules};
use crate::rollout::bucket::Weight;
use crate::snapshot::{AccessLog, Fallback, Signal};
use columns::lay_out;
use std::fmt::Write;
use std::path::Path;

/// The summary, one block per section, as wide as that many columns where words allow.
pub fn describe(config: &Config, columns: usize) -> String {
    let mut text = String::from("process\n");
    table(process(config), 2, columns, &mut text);
    let sections = [
        ("listeners", listeners(config)),
        ("upstreams", upstreams(config)),
        ("routes", routes(config)),
        ("signals", signals(config)),
        ("queries", queries(config)),
        ("told", notify(config)),
    ];
    for (title, rows) in sections.into_iter().filter(|(_, rows)| !rows.is_empty()) {
        let _ = writeln!(text, "\n{title}");
        table(rows, 2, columns, &mut text);
    }
    for rollout in &config.rollouts {
        let _ = writeln!(text, "\nrollout {}", rollout.plan.name);
        table(self::rollout(rollout, config), 2, columns, &mut text);
        if !rollout.cohorts.is_empty() {
            let _ = writeln!(text, "  cohorts");
            table(rollout.cohorts.iter().map(cohort).collect(), 4, columns, &mut text);
        }
        plan::tables(rollout, columns, &mut text);
    }
    text
}

fn process(config: &Config) -> Vec<Vec<String>> {
    let workers = config.workers.map_or("one per core".to_owned(), |count| count.to_string());
    let admin = match &config.admin {
        None => "none".to_owned(),
        Some(admin) => {
            let address = match &admin.address {
                AdminAddress::Tcp(address) => address.to_string(),
                AdminAddress::Unix(path) => format!("unix:{}", path.display()),
            };
            let token = if admin.token.is_some() { ", asks for a token" } else { "" };
            format!("{address}{token}")
        }
    };
    let log = match (config.access_log.keep, log_target(&config.access_log.target)) {
        (AccessLog::Off, _) => "off".to_owned(),
        (AccessLog::Sampled(ppm), target) => {
            format!("failed requests and {} of the others to {target}", share(ppm))
        }
        (AccessLog::Full, target) => format!("all requests to {target}"),
    };
    let forced = match (config.force.secret.is_some(), config.force.trusted.len()) {
        (false, 0) => "by nobody".to_owned(),
        (true, 0) => "by signed token".to_owned(),
        (token, networks) => {
            let by = if token { "by signed token, and " } else { "" };
            format!("{by}by {}", counted(networks, "trusted network"))
        }
    };
    let rows = [
        ("admin", admin),
        ("state", config.state_dir.display().to_string()),
        ("workers", workers),
        ("drain", format!("at most {}", print_span(config.drain_timeout))),
        ("access log", log),
        ("arms forced", forced),
    ];
    let traces = config.traces.as_ref().map(|traces| {
        let told =
            format!("{} of requests to {} as {}", share(traces.share.ppm()), traces.server.authority, traces.service);
        ("traces", told)
    });
    rows.into_iter().chain(traces).map(|(name, value)| vec![name.to_owned(), value]).collect()
}

fn listeners(config: &Config) -> Vec<Vec<String>> {
    let row = |listener: &super::model::ListenerConfig| {
        let protocols = match (listener.http2, listener.http1) {
            (true, true) => "h2, http/1.1",
            (true, false) => "h2",
            _ => "http/1.1",
        };
        let tls = if listener.tls.is_some() { "TLS" } else { "plain" };
        let flags = listener.flags_path.as_ref().map(|path| format!("flags at {path}"));
        let vitals = listener.vitals_path.as_ref().map(|path| format!("web vitals at {path}"));
        let proxy = listener.proxy_protocol.then(|| "clients named by PROXY protocol".to_owned());
        let paths: Vec<String> = proxy.into_iter().chain(flags).chain(vitals).collect();
        vec![listener.label.to_string(), tls.to_owned(), protocols.to_owned(), paths.join(", ")]
    };
    config.listeners.iter().map(row).collect()
}

fn upstreams(config: &Config) -> Vec<Vec<String>> {
    let row = |upstream: &UpstreamConfig| {
        let scheme = if upstream.tls.is_some() { "https://" } else { "" };
        let endpoints: Vec<String> =
            upstream.endpoints.iter().map(|endpoint| format!("{scheme}{}", endpoint.authority)).collect();
        let protocol = if upstream.http2 { "h2" } else { "http/1.1" };
        let times = format!(
            "connect {}, response {}",
            print_span(upstream.connect_timeout),
            print_span(upstream.response_timeout)
        );
        vec![upstream.name.to_string(), endpoints.join(", "), protocol.to_owned(), times, health(upstream)]
    };
    config.upstreams.iter().map(row).collect()
}

fn signals(config: &Config) -> Vec<Vec<String>> {
    let row = |signal: &Signal| {
        let mut when: Vec<String> = Vec::new();
        if let Some(matches) = &signal.when {
            let shown = |value: &http::HeaderValue| value.to_str().unwrap_or("...").to_owned();
            when.extend(matches.headers.iter().map(|(name, value)| format!("{name}: {}", shown(value))));
            let range = |(low, high): &(u16, u16)| if low == high { low.to_string() } else { format!("{low}-{high}") };
            if !matches.statuses.is_empty() {
                let ranges: Vec<String> = matches.statuses.iter().map(range).collect();
                when.push(format!("status {}", ranges.join(" or ")));
            }
            if !matches.grpc_statuses.is_empty() {
                let codes: Vec<String> = matches.grpc_statuses.iter().map(u8::to_string).collect();
                when.push(format!("gRPC status {}", codes.join(" or ")));
            }
            let route = matches.route.and_then(|index| config.routes.get(index));
            when.extend(route.map(|route| format!("route {}", route.name)));
        }
        let posted = if when.is_empty() { "posted events" } else { "and posted events" };
        vec![signal.name.to_string(), when.join(", "), posted.to_owned()]
    };
    config.signals.iter().map(row).collect()
}

fn queries(config: &Config) -> Vec<Vec<String>> {
    let row = |query: &QueryConfig| {
        let times = format!("every {}, good for {}", print_span(query.interval), print_span(query.max_age));
        vec![query.name.to_string(), query.server.authority.to_string(), times, query.expr.clone()]
    };
    config.queries.iter().map(row).collect()
}

/// Who is told of what.
fn notify(config: &Config) -> Vec<Vec<String>> {
    let row = |target: &NotifyConfig| {
        let events = match target.events.len() {
            EVENTS_ALL => "of everything".to_owned(),
            _ => format!("of {}", target.events.iter().map(|kind| kind.word()).collect::<Vec<_>>().join(", ")),
        };
        let rollouts = target.rollouts.as_ref().map_or("all rollouts".to_owned(), |names| names.join(", "));
        let name = if target.key.starts_with("name ") { &*target.name } else { "" };
        let to = format!("{} {}", target.kind.word(), target.server.authority);
        vec![name.to_owned(), to, events, rollouts]
    };
    config.notify.iter().map(row).collect()
}

/// What is asked of each endpoint and what the answers mean.
fn health(upstream: &UpstreamConfig) -> String {
    let Some(health) = &upstream.health else { return "not checked: always healthy".to_owned() };
    let asked = match &health.check {
        HealthCheck::Path(path) => format!("GET {path}"),
        HealthCheck::Tcp => "a connection".to_owned(),
    };
    let (interval, timeout) = (print_span(health.interval), print_span(health.timeout));
    let (down, up) = (health.unhealthy_after, health.healthy_after);
    format!(
        "checked by {asked} every {interval} within {timeout}: unhealthy after {down} failed, healthy after {up} passed"
    )
}

fn routes(config: &Config) -> Vec<Vec<String>> {
    config.routes.iter().map(|route| self::route(route, config)).collect()
}

fn route(route: &RouteConfig, config: &Config) -> Vec<String> {
    let mut matches: Vec<String> = Vec::new();
    if !route.methods.is_empty() {
        matches.push(route.methods.iter().map(http::Method::as_str).collect::<Vec<_>>().join("|"));
    }
    let target = format!("{}{}", route.host.as_deref().unwrap_or(""), route.path_prefix.as_deref().unwrap_or(""));
    if !target.is_empty() {
        matches.push(target);
    }
    matches.extend(route.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or("..."))));
    let matches = if matches.is_empty() { "everything".to_owned() } else { matches.join(", ") };
    let rollouts: Vec<&str> = route
        .rollouts
        .iter()
        .filter_map(|(index, _)| config.rollouts.get(*index))
        .map(|rollout| &*rollout.plan.name)
        .collect();
    let to = match (route.upstream.and_then(|index| config.upstreams.get(index)), rollouts.is_empty()) {
        (Some(upstream), true) => format!("-> {}", upstream.name),
        (Some(upstream), false) => format!("-> {} by {}", upstream.name, rollouts.join(", ")),
        (None, _) => format!("-> by {}", rollouts.join(", ")),
    };
    let to = if route.websocket { to } else { format!("{to}, no WebSockets") };
    let to = match route.body_bytes_max {
        None => to,
        Some(u64::MAX) => format!("{to}, bodies of any length"),
        Some(most) => format!("{to}, bodies up to {}", print_size(most)),
    };
    let to = if route.streaming { format!("{to}, streams may be silent") } else { to };
    vec![route.name.to_string(), matches, to]
}

fn rollout(rollout: &RolloutConfig, config: &Config) -> Vec<Vec<String>> {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    let plan = &rollout.plan;
    let weight = print_share(plan.weight);
    row("weight", if plan.is_staged() { format!("{weight} at most, by stages") } else { weight });
    let mut units = rollout.unit_texts.clone();
    if let Some(cookie) = &rollout.assign_cookie {
        units.push(format!("cookie:{cookie} (assigned)"));
    }
    row("unit", units.join(", then "));
    row("salt", rollout.bucketer.salt.to_string());
    row("hash", hash(rollout, config));
    if let Some(other) = rollout.requires.and_then(|index| config.rollouts.get(index)) {
        row("requires", format!("canary of {}", other.plan.name));
    }
    for arm in Arm::ALL {
        row(arm.name(), self::arm(rollout.arm(arm), config));
    }
    let statuses: Vec<String> = rollout
        .errors
        .statuses
        .iter()
        .map(|&(low, high)| match (low == high, low % 100, high - low) {
            (true, ..) => low.to_string(),
            (false, 0, 99) => format!("{}xx", low / 100),
            _ => format!("{low}-{high}"),
        })
        .collect();
    row("errors", format!("{}{}", statuses.join(", "), if rollout.errors.grpc { ", gRPC server faults" } else { "" }));
    for (index, line) in breaker(plan.breaker.as_ref()).into_iter().enumerate() {
        row(if index == 0 { "breaker" } else { "" }, line);
    }
    row("fallback", fallback(rollout).to_owned());
    match (plan.killed, plan.enabled, plan.is_staged()) {
        (true, ..) => row("state", "killed: everything goes to stable".to_owned()),
        (_, false, _) => row("state", "disabled: everything goes to stable".to_owned()),
        (_, _, true) if !plan.stages.autostart => row("state", "pending until somebody starts it".to_owned()),
        _ => {}
    }
    if let Some(time) = rollout.close_streams {
        row("streams", format!("the canary's long ones end within {} of its trip or kill", print_span(time)));
    }
    rows
}

fn fallback(rollout: &RolloutConfig) -> &'static str {
    match (rollout.fallback, &rollout.arm(Arm::Stable).to) {
        (Fallback::Safe, _) => "stable answers what fails on the canary, where nothing was sent or the method is safe",
        (Fallback::Idempotent, _) => {
            "stable answers what fails on the canary, where nothing was sent or the method is idempotent"
        }
        (Fallback::Off, ArmTo::Respond(_)) => "off: stable is a fixed answer",
        (Fallback::Off, _) => "off: clients see the canary's failures",
    }
}

/// What trips a breaker, on how much evidence, and how it comes back: one line per thing to know.
fn breaker(rules: Option<&Rules>) -> Vec<String> {
    let Some(rules) = rules else {
        return vec!["off: nothing but an operator takes a failing canary's share".to_owned()];
    };
    let mut trips = Vec::new();
    if rules.consecutive_errors > 0 {
        trips.push(format!("after {} failures in a row", rules.consecutive_errors));
    }
    if let Some(rule) = &rules.error_rate {
        let (above, window) = (print_share(rule.above), print_span(rule.window));
        trips.push(format!("when more than {above} of at least {} requests in {window} fail", rule.min_requests));
    }
    if let Some(rule) = &rules.latency {
        let quantile = quantile(rule.quantile_permille);
        let (above, window) = (print_span(rule.above), print_span(rule.window));
        trips.push(format!("when {quantile} of at least {} requests in {window} is above {above}", rule.min_requests));
    }
    if let Some(rule) = &rules.no_answer {
        let after = print_span(rule.after);
        trips.push(format!("when {} requests wait longer than {after} and none is answered", rule.min_requests));
    }
    trips.push("when the canary has no healthy endpoint".to_owned());
    let evidence = match rules.min_units {
        1 => "one unit's failures are enough".to_owned(),
        units => format!(
            "failures must come from at least {units} units, and one unit counts for {} of a window at most",
            print_share(rules.max_unit_share)
        ),
    };
    let both = match rules.spares_both {
        true => "a canary that is no worse than stable is spared, with an alert",
        false => "stable's failures excuse nothing",
    };
    let (cooldown, most) = (print_span(rules.cooldown), print_span(COOLDOWN_MAX));
    let probe = print_share(rules.probe);
    let back =
        format!("everything to stable for {cooldown} (doubling up to {most}), then {probe} of canary units probe");
    let end = match rules.max_trips {
        0 => "never rolled back by itself".to_owned(),
        1 => "rolled back at the first trip, until revived".to_owned(),
        trips => format!("rolled back at trip {trips}, until revived"),
    };
    let mut lines: Vec<String> = trips.iter().map(|trip| format!("trips {trip}")).collect();
    lines.extend([evidence, both.to_owned(), back, end]);
    lines
}

/// `p99`, `p999`.
fn quantile(permille: u32) -> String {
    if permille.is_multiple_of(10) { format!("p{}", permille / 10) } else { format!("p{permille}") }
}

/// The scheme by its word in the config.
fn hash(rollout: &RolloutConfig, config: &Config) -> String {
    let set = config.effective.pointer(&format!("/rollouts/{}/hash", rollout.plan.name));
    let word = set.and_then(serde_json::Value::as_str).unwrap_or("murmur3");
    let seed = rollout.bucketer.seed.as_ref().map_or(String::new(), |seed| format!(", seed {seed}"));
    match word {
        "murmur3" | "siphash" => word.to_owned(),
        foreign => format!("{foreign}, key {}{seed}", rollout.bucketer.key),
    }
}

fn arm(arm: &ArmConfig, config: &Config) -> String {
    let mut text = match &arm.to {
        ArmTo::Route => "where the route says".to_owned(),
        ArmTo::Upstream(index) => config.upstreams.get(*index).map_or(String::new(), |to| format!("-> {}", to.name)),
        ArmTo::Respond(answer) => format!("answers {}", answer.status),
    };
    for (name, _) in &arm.set_headers {
        let _ = write!(text, ", sets {name}");
    }
    for name in &arm.remove_headers {
        let _ = write!(text, ", removes {name}");
    }
    text
}

fn cohort(cohort: &CohortConfig) -> Vec<String> {
    let mut members: Vec<String> = Vec::new();
    if cohort.members.count > 0 {
        members.push(counted(cohort.members.count, "user"));
    }
    members.extend(cohort.header.as_ref().map(|(name, value)| format!("header {name}: {value}")));
    members.extend(cohort.cookie.as_ref().map(|(name, value)| format!("cookie {name}={value}")));
    members.extend(cohort.share.as_ref().map(|(_, weight)| format!("{} of units", print_share(*weight))));
    let members = if members.is_empty() { "nobody listed".to_owned() } else { members.join(", or ") };
    let to = if cohort.exclude { "-> always stable" } else { "-> canary" };
    let switch = if cohort.enabled { "on" } else { "off" };
    vec![cohort.name.to_string(), switch.to_owned(), members, to.to_owned()]
}

fn log_target(target: &LogTarget) -> String {
    match target {
        LogTarget::Stdout => "stdout".to_owned(),
        LogTarget::Stderr => "stderr".to_owned(),
        LogTarget::File(path) => Path::display(path).to_string(),
    }
}

fn share(ppm: u32) -> String {
    print_share(Weight::from_ppm(ppm).unwrap_or(Weight::FULL))
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Rows of one item per column, indented by that much.
fn table(rows: Vec<Vec<String>>, indent: usize, columns: usize, text: &mut String) {
    let cells = |row: Vec<String>| row.into_iter().map(|cell| vec![cell]).collect();
    lay_out(&rows.into_iter().map(cells).collect::<Vec<_>>(), indent, columns, text);
}

/// Kinds of events that somebody can be told of.
const EVENTS_ALL: usize = 12;
