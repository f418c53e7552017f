//! The text of `GET /metrics` for everything that is counted on the request path, straight from the cells.
//!
//! It formats and adds up, nothing else. Names and labels are those of the contract; label values come from the config
//! only. What happens off the request path is counted by `facade` and joined by the supervisor.

use super::archive::Tally;
use super::collect::{Collector, Reading};
use super::compare::{Totals, VERDICTS};
use super::own::Own;
use super::probe::UpstreamReport;
use super::query::Queries;
use crate::clock::Time;
use crate::rollout::Arm;
use crate::rollout::breaker::{self, Cause};
use crate::rollout::criterion::Reading::Value;
use crate::rollout::histogram::bucket_of;
use crate::rollout::outcome::{CodeClass, ErrorKind};
use crate::rollout::vital::Vital;
use crate::spans;
use crate::tally::{
    CONNECTIONS_CUT, CONNECTIONS_REFUSED, COPIES_SKIPPED, Cell, FALLBACKS, GaugeKey, ListenerCounts, Mirrored,
    PAIRS_LOST, PerWorker, REFUSALS, Registry, SeriesKey, SignalKey, VITALS_DROPPED,
};
use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::sync::Arc;

mod stands;

pub use stands::Stand;
use std::sync::atomic::Ordering;

/// Writes every metric of the request path in the text format of Prometheus, version 0.0.4.
pub fn render(registry: &Registry, collector: &Collector, stands: &[Stand]) -> String {
    let mut text = Text::default();
    let sums = Sums::of(registry);
    requests(&mut text, &sums);
    durations(&mut text, &sums);
    bodies(&mut text, &sums);
    shadow(&mut text, registry, &sums);
    decisions(&mut text, collector);
    fallbacks(&mut text, registry);
    stands::rollouts(&mut text, stands);
    stands::plans(&mut text, stands);
    breakers(&mut text, &sums, stands);
    signals(&mut text, registry, collector);
    vitals(&mut text, registry);
    process(&mut text, registry);
    text.0
}

/// What criteria read that is counted on no request path: answers to queries, and weir's own memory and CPU.
pub fn sources(queries: &Queries, own: &Own, now: Time) -> String {
    let mut text = Text::default();
    text.family("weir_query_value", "gauge", "Value of a query as criteria read it; without data there is none.");
    for name in queries.names() {
        if let Value { value, .. } = queries.reading(name, now) {
            text.sample("", &[("query", name)], value);
        }
    }
    text.family("process_resident_memory_bytes", "gauge", "Resident memory of weir.");
    own.memory.iter().for_each(|bytes| text.sample("", &[], bytes));
    text.family("process_cpu_seconds_total", "counter", "CPU time of weir.");
    own.cpu_us.iter().for_each(|us| text.sample("", &[], seconds(*us)));
    text.0
}

/// Writes how the keeping of the metric history goes.
pub fn history(tally: &Tally) -> String {
    let mut text = Text::default();
    let help = "Samples for the metric history on disk: those kept, and those lost because it took none.";
    text.family("weir_history_samples_total", "counter", help);
    for (result, count) in [("kept", &tally.kept), ("lost", &tally.lost)] {
        text.sample("", &[("result", result)], count.load(Ordering::Relaxed));
    }
    text.0
}

/// Writes what came of the spans that a collector of traces was to be told of.
pub fn traces(counts: &spans::Counts) -> String {
    let mut text = Text::default();
    let help =
        "Spans for the collector of traces: those it has, those it did not take, and those that found the queue full.";
    text.family("weir_trace_spans_total", "counter", help);
    for (result, count) in [("sent", &counts.sent), ("failed", &counts.failed), ("dropped", &counts.dropped)] {
        text.sample("", &[("result", result)], count.load(Ordering::Relaxed));
    }
    text.0
}

/// Writes how the endpoints of the upstreams do. A name that stands for several addresses is one endpoint here: addresses
/// come and go, and labels come from the config only.
pub fn upstreams(reports: &[UpstreamReport]) -> String {
    let mut text = Text::default();
    let help = "1 if requests may go to the endpoint, 0 if not; of a name with several addresses the healthy share.";
    text.family("weir_upstream_healthy", "gauge", help);
    for upstream in reports {
        for rows in upstream.endpoints.chunk_by(|one, next| one.endpoint == next.endpoint) {
            let healthy = rows.iter().filter(|row| row.healthy).count() as f64 / rows.len() as f64;
            let endpoint = rows.first().map_or("", |row| &*row.endpoint);
            text.sample("", &[("upstream", &upstream.name), ("endpoint", endpoint)], healthy);
        }
    }
    text.0
}

/// A rollout and an arm; requests without a rollout have the empty name and `stable`.
type ArmKey = (Arc<str>, Arm);

/// All series, read once and added up as the metrics need them.
#[derive(Default)]
struct Sums {
    by_route: BTreeMap<(Arc<str>, Arm, Arc<str>), [u64; CodeClass::COUNT]>,
    by_arm: BTreeMap<ArmKey, Reading>,
    forced: BTreeMap<ArmKey, [u64; CodeClass::COUNT]>,
    probes: BTreeMap<Arc<str>, [u64; CodeClass::COUNT]>,
    shadow: BTreeMap<Arc<str>, Reading>,
    by_cohort: BTreeMap<(Arc<str>, Arm, Arc<str>), [u64; CodeClass::COUNT]>,
}

impl Sums {
    fn of(registry: &Registry) -> Sums {
        let mut sums = Sums::default();
        for (key, cells) in registry.all_series() {
            let reading = Reading::of(cells);
            let (rollout, arm, route) = match key {
                SeriesKey::Arm { rollout, arm, route } => (Arc::clone(rollout), *arm, route),
                SeriesKey::Plain { route } => (Arc::from(""), Arm::Stable, route),
                SeriesKey::Forced { rollout, arm } => {
                    sums.forced.insert((Arc::clone(rollout), *arm), reading.codes);
                    continue;
                }
                SeriesKey::Probe { rollout } => {
                    sums.probes.insert(Arc::clone(rollout), reading.codes);
                    continue;
                }
                SeriesKey::Shadow { rollout } => {
                    sums.shadow.insert(Arc::clone(rollout), reading);
                    continue;
                }
                SeriesKey::Cohort { rollout, arm, cohort } => {
                    sums.by_cohort.insert((Arc::clone(rollout), *arm, Arc::clone(cohort)), reading.codes);
                    continue;
                }
            };
            sums.by_route.insert((Arc::clone(&rollout), arm, Arc::clone(route)), reading.codes);
            sums.by_arm.entry((rollout, arm)).or_default().add(&reading);
        }
        sums
    }
}

fn requests(text: &mut Text, sums: &Sums) {
    text.family("weir_requests_total", "counter", "Requests that ended, by arm, route and class of the status.");
    for ((rollout, arm, route), codes) in &sums.by_route {
        for (code, count) in CodeClass::ALL.iter().zip(codes) {
            let labels = [("rollout", &**rollout), ("arm", arm.name()), ("route", route), ("code", code.label())];
            text.sample("", &labels, count);
        }
    }
    text.family("weir_request_errors_total", "counter", "Requests that count as a failure of their arm, by kind.");
    for ((rollout, arm), reading) in &sums.by_arm {
        for (kind, count) in ErrorKind::ALL.iter().zip(reading.errors) {
            text.sample("", &[("rollout", rollout), ("arm", arm.name()), ("kind", kind.label())], count);
        }
    }
    text.family("weir_client_left_total", "counter", "Requests whose client left before the end; nobody's failure.");
    for ((rollout, arm), reading) in &sums.by_arm {
        text.sample("", &[("rollout", rollout), ("arm", arm.name())], reading.client_left);
    }
    text.family("weir_requests_in_flight", "gauge", "Requests under way.");
    for ((rollout, arm), reading) in &sums.by_arm {
        let in_flight = reading.started.saturating_sub(reading.ended);
        text.sample("", &[("rollout", rollout), ("arm", arm.name())], in_flight);
    }
    text.family(
        "weir_forced_requests_total",
        "counter",
        "Requests whose arm was forced and copies of a trusted weir; other counts of requests leave them out.",
    );
    for ((rollout, arm), codes) in &sums.forced {
        for (code, count) in CodeClass::ALL.iter().zip(codes) {
            text.sample("", &[("rollout", rollout), ("arm", arm.name()), ("code", code.label())], count);
        }
    }
    text.family("weir_cohort_requests_total", "counter", "Requests that a cohort decided.");
    for ((rollout, arm, cohort), codes) in &sums.by_cohort {
        for (code, count) in CodeClass::ALL.iter().zip(codes) {
            let labels = [("rollout", &**rollout), ("arm", arm.name()), ("cohort", cohort), ("code", code.label())];
            text.sample("", &labels, count);
        }
    }
}

fn durations(text: &mut Text, sums: &Sums) {
    let help = "Time from a request's head to the head of its answer.";
    text.family("weir_request_duration_seconds", "histogram", help);
    let edges = edges();
    for ((rollout, arm), reading) in &sums.by_arm {
        first_bytes(text, &[("rollout", rollout), ("arm", arm.name())], reading, &edges);
    }
}

/// The bounds as text, with the buckets that they are the lower edges of.
fn edges() -> Vec<(String, usize)> {
    bounds_us().map(|us| (seconds(us), bucket_of(us))).collect()
}

/// One histogram of the times to the first byte.
fn first_bytes(text: &mut Text, labels: &[(&str, &str)], reading: &Reading, edges: &[(String, usize)]) {
    let mut buckets = reading.first_byte.iter();
    let (mut seen, mut below) = (0, 0);
    for (edge, bucket) in edges {
        below += buckets.by_ref().take(bucket - seen).sum::<u64>();
        seen = *bucket;
        text.sample("_bucket", &[labels, &[("le", edge)]].concat(), below);
    }
    let count = below + buckets.sum::<u64>();
    text.sample("_bucket", &[labels, &[("le", "+Inf")]].concat(), count);
    text.sample("_sum", labels, seconds(reading.first_byte_us));
    text.sample("_count", labels, count);
}

/// What came of every request of the mirrored shares, each counted once, and how fast the copies were answered.
fn shadow(text: &mut Text, registry: &Registry, sums: &Sums) {
    let help =
        "Requests of the mirrored share: copies by status class or kind of failure, others by why there is none.";
    text.family("weir_shadow_requests_total", "counter", help);
    for (rollout, cells) in registry.all_mirrored() {
        let mut outcome = |word: &str, cell: &dyn Fn(&Mirrored) -> Option<&Cell>| {
            let count: u64 = cells.iter().filter_map(cell).map(Cell::read).sum();
            text.sample("", &[("rollout", rollout), ("outcome", word)], count);
        };
        // Others are no final answer.
        for class in [CodeClass::Success, CodeClass::Redirect, CodeClass::Client, CodeClass::Server] {
            outcome(class.label(), &|worker| worker.answered.get(class as usize));
        }
        for kind in ErrorKind::ALL {
            outcome(kind.label(), &|worker| worker.failed.get(kind as usize));
        }
        for (index, reason) in COPIES_SKIPPED.iter().enumerate() {
            outcome(reason, &|worker| worker.skipped.get(index));
        }
    }
    let help = "Time from a copy being sent to the head of its answer.";
    text.family("weir_shadow_request_duration_seconds", "histogram", help);
    let edges = edges();
    for (rollout, reading) in &sums.shadow {
        first_bytes(text, &[("rollout", rollout)], reading, &edges);
    }
    let (under_way, bytes) = registry.copies().taken();
    text.family("weir_shadow_in_flight", "gauge", "Copies under way in the process.");
    text.sample("", &[], under_way);
    text.family(
        "weir_shadow_memory_bytes",
        "gauge",
        "Memory that copies take, those that are being gathered included.",
    );
    text.sample("", &[], bytes);
}

fn bodies(text: &mut Text, sums: &Sums) {
    text.family("weir_request_bytes_total", "counter", "Bytes of request bodies sent upstream.");
    for ((rollout, arm), reading) in &sums.by_arm {
        text.sample("", &[("rollout", rollout), ("arm", arm.name())], reading.bytes_in);
    }
    text.family("weir_response_bytes_total", "counter", "Bytes of answer bodies sent to clients.");
    for ((rollout, arm), reading) in &sums.by_arm {
        text.sample("", &[("rollout", rollout), ("arm", arm.name())], reading.bytes_out);
    }
}

fn decisions(text: &mut Text, collector: &Collector) {
    text.family("weir_decisions_total", "counter", "Decisions, by arm and reason.");
    for ((rollout, arm, reason), count) in collector.decisions() {
        text.sample("", &[("rollout", &rollout), ("arm", arm.name()), ("reason", &reason)], count);
    }
}

fn fallbacks(text: &mut Text, registry: &Registry) {
    let help =
        "Failures of the canary that stable might make good, by what came of it; their requests count as the canary's.";
    text.family("weir_fallbacks_total", "counter", help);
    for (rollout, cells) in registry.all_fallbacks() {
        for (index, outcome) in FALLBACKS.iter().enumerate() {
            let count: u64 = cells.iter().filter_map(|worker| worker.outcomes.get(index)).map(Cell::read).sum();
            text.sample("", &[("rollout", rollout), ("outcome", outcome)], count);
        }
    }
}

fn breakers(text: &mut Text, sums: &Sums, stands: &[Stand]) {
    text.family("weir_breaker_state", "gauge", "0 is closed, 1 half-open, 2 open.");
    for stand in stands {
        let value = match stand.breaker {
            breaker::State::Closed => 0,
            breaker::State::HalfOpen => 1,
            breaker::State::Open => 2,
        };
        text.sample("", &[("rollout", &stand.rollout)], value);
    }
    text.family("weir_breaker_trips_total", "counter", "Trips of the breaker, by what tripped it.");
    for stand in stands {
        for (cause, count) in Cause::ALL.iter().zip(stand.tripped) {
            text.sample("", &[("rollout", &stand.rollout), ("reason", cause.word())], count);
        }
    }
    let help = "Requests that probed the canary of a half-open breaker; other counts of requests leave them out.";
    text.family("weir_probe_requests_total", "counter", help);
    for (rollout, codes) in &sums.probes {
        for (code, count) in CodeClass::ALL.iter().zip(codes) {
            text.sample("", &[("rollout", rollout), ("code", code.label())], count);
        }
    }
}

fn signals(text: &mut Text, registry: &Registry, collector: &Collector) {
    let mut totals: BTreeMap<SignalKey, u64> = BTreeMap::new();
    for (key, cells) in registry.all_signals() {
        *totals.entry(key.clone()).or_default() += cells.iter().map(Cell::read).sum::<u64>();
    }
    for (key, count) in collector.beside.posted() {
        *totals.entry(key.clone()).or_default() += count;
    }
    text.family("weir_signals_total", "counter", "Answers that a signal counts, and events that were posted to it.");
    for ((rollout, arm, signal), count) in totals {
        text.sample("", &[("rollout", &rollout), ("arm", arm.name()), ("signal", &signal)], count);
    }
    let help = "Requests meant for the canary that the breaker sent to stable.";
    text.family("weir_diverted_total", "counter", help);
    for (rollout, cells) in registry.all_diverted() {
        text.sample("", &[("rollout", rollout)], cells.iter().map(Cell::read).sum::<u64>());
    }
}

/// What came of the comparisons of answers, those that did not come about included.
pub fn diffs(registry: &Registry, totals: &BTreeMap<Arc<str>, Totals>) -> String {
    let mut text = Text::default();
    let help = "Pairs of answers that were to be compared, by what came of it.";
    text.family("weir_shadow_diffs_total", "counter", help);
    for (rollout, cells) in registry.all_lost_pairs() {
        let compared = totals.get(rollout).copied().unwrap_or_default();
        for (verdict, count) in VERDICTS.iter().zip(compared.verdicts) {
            text.sample("", &[("rollout", rollout), ("verdict", verdict)], count);
        }
        for (index, reason) in PAIRS_LOST.iter().enumerate() {
            let lost: u64 = cells.iter().filter_map(|worker| worker.reasons.get(index)).map(Cell::read).sum();
            text.sample("", &[("rollout", rollout), ("verdict", reason)], lost);
        }
    }
    text.0
}

fn vitals(text: &mut Text, registry: &Registry) {
    text.family("weir_vitals_total", "counter", "Web vitals that browsers reported.");
    for ((rollout, arm), cells) in registry.all_vitals() {
        for vital in Vital::ALL {
            let reports = cells.iter().map(|cells| cells.of(vital).reports.read()).sum::<u64>();
            text.sample("", &[("rollout", rollout), ("arm", arm.name()), ("vital", vital.word())], reports);
        }
    }
    text.family("weir_vitals_dropped_total", "counter", "Posts of web vitals that were not taken, by reason.");
    let counts = registry.counts();
    for (index, reason) in VITALS_DROPPED.iter().enumerate() {
        let dropped = counts.iter().filter_map(|worker| worker.vitals_dropped.get(index)).map(Cell::read);
        text.sample("", &[("reason", reason)], dropped.sum::<u64>());
    }
}

fn process(text: &mut Text, registry: &Registry) {
    let sum = |cells: &PerWorker<Cell>| cells.iter().map(Cell::read).sum::<u64>();
    text.family("weir_refused_total", "counter", "Requests that weir answered itself because they cannot be proxied.");
    let counts = registry.counts();
    for (index, reason) in REFUSALS.iter().enumerate() {
        let refused = counts.iter().filter_map(|worker| worker.refused.get(index)).map(Cell::read);
        text.sample("", &[("reason", reason)], refused.sum::<u64>());
    }
    text.family("weir_upstream_connections", "gauge", "Connections to upstreams: active ones carry requests.");
    for (key, cells) in registry.all_gauges() {
        match key {
            GaugeKey::UpstreamActive(upstream) => {
                text.sample("", &[("upstream", upstream), ("state", "active")], sum(cells));
            }
            GaugeKey::UpstreamIdle(upstream) => {
                text.sample("", &[("upstream", upstream), ("state", "idle")], sum(cells));
            }
            GaugeKey::Connections(_)
            | GaugeKey::StreamsClosed(_)
            | GaugeKey::Blocked(_)
            | GaugeKey::UpstreamEjections(_) => {}
        }
    }
    let help = "How often a worker passed an endpoint over for a while because requests to it failed in a row.";
    text.family("weir_upstream_ejections_total", "counter", help);
    for (key, cells) in registry.all_gauges() {
        if let GaugeKey::UpstreamEjections(upstream) = key {
            text.sample("", &[("upstream", upstream)], sum(cells));
        }
    }
    let help = "Long streams that were ended because the canary had lost its share.";
    text.family("weir_streams_closed_total", "counter", help);
    for (key, cells) in registry.all_gauges() {
        if let GaugeKey::StreamsClosed(rollout) = key {
            text.sample("", &[("rollout", rollout)], sum(cells));
        }
    }
    let help = "Requests that an arm answered by itself (`respond`).";
    text.family("weir_blocked_total", "counter", help);
    for (key, cells) in registry.all_gauges() {
        if let GaugeKey::Blocked(rollout) = key {
            text.sample("", &[("rollout", rollout)], sum(cells));
        }
    }
    text.family("weir_connections", "gauge", "Open client connections, by the listener's address.");
    for (key, cells) in registry.all_gauges() {
        if let GaugeKey::Connections(listener) = key {
            text.sample("", &[("listener", listener)], sum(cells));
        }
    }
    let help = "Client connections that were closed unserved, by the limit that they were beyond.";
    connections(text, registry, "weir_connections_refused_total", help, &CONNECTIONS_REFUSED, |of| &of.refused);
    let help = "Client connections and HTTP/2 streams that were cut, by the limit that the client exceeded.";
    connections(text, registry, "weir_connections_cut_total", help, &CONNECTIONS_CUT, |of| &of.cut);
    text.family("weir_access_log_dropped_total", "counter", "Access log lines that did not fit into the queue.");
    text.sample("", &[], counts.iter().map(|worker| worker.access_dropped.read()).sum::<u64>());
    let help = "Requests sent again because a pooled connection had been closed under them.";
    text.family("weir_upstream_retries_total", "counter", help);
    text.sample("", &[], counts.iter().map(|worker| worker.upstream_retries.read()).sum::<u64>());
    text.family("weir_build_info", "gauge", "1; the label is the version that runs.");
    text.sample("", &[("version", env!("CARGO_PKG_VERSION"))], 1);
}

/// One family of counts of connections by listener and reason.
fn connections(
    text: &mut Text,
    registry: &Registry,
    name: &'static str,
    help: &str,
    reasons: &[&str],
    cells: impl Fn(&ListenerCounts) -> &[Cell],
) {
    text.family(name, "counter", help);
    for (listener, counts) in registry.all_listeners() {
        for (index, reason) in reasons.iter().enumerate() {
            let count = counts.iter().filter_map(|worker| cells(worker).get(index)).map(Cell::read).sum::<u64>();
            text.sample("", &[("listener", listener), ("reason", reason)], count);
        }
    }
}

/// The upper bounds of the duration histogram: powers of two in microseconds and their 1.5 multiples, which are edges of
/// our buckets, so that no sample is ever on the wrong side of one.
fn bounds_us() -> impl Iterator<Item = u64> {
    let all = (FIRST_BOUND_BITS..=LAST_BOUND_BITS).flat_map(|bits| [1_u64 << bits, 3 << (bits - 1)]);
    all.take_while(|us| *us <= 1 << LAST_BOUND_BITS)
}

/// Microseconds as a decimal number of seconds, exact.
fn seconds(us: u64) -> String {
    let (whole, part) = (us / 1_000_000, us % 1_000_000);
    let text = format!("{whole}.{part:06}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The first bound, 256 us: under it a proxied request is only noise.
const FIRST_BOUND_BITS: u32 = 8;
/// The last bound, 67 s: beyond every sane response timeout.
const LAST_BOUND_BITS: u32 = 26;

/// The text so far, and the family that samples belong to.
#[derive(Default)]
struct Text(String, &'static str);

impl Text {
    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.1 = name;
        // Writing to a string cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let text = &mut self.0;
        text.push_str(self.1);
        text.push_str(suffix);
        for (index, (label, value)) in labels.iter().enumerate() {
            text.push(if index == 0 { '{' } else { ',' });
            text.push_str(label);
            text.push_str("=\"");
            escape(text, value);
            text.push('"');
        }
        if !labels.is_empty() {
            text.push('}');
        }
        let _ = writeln!(text, " {value}");
    }
}

/// Appends a label's value as the text format wants it.
fn escape(text: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests;
