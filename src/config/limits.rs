//! `[limits]` with its defaults: the raw section to `snapshot::Limits`, and the table that `weir check --limits` prints.

use super::decode::{Bytes, Decode, OrOff, Path, Shape, Spot};
use super::model::Config;
use super::parse;
use super::problem::{Problems, Source};
use super::raw;
use super::tree::Place;
use super::units::{print_size, print_span};
use crate::snapshot;
use rustix::process::{Resource, getrlimit};
use std::time::Duration;

/// What the limits set besides `snapshot::Limits`: the defaults of upstreams.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamDefaults {
    /// Time for the connection.
    pub connect_timeout: Duration,
    /// Time for the head of the answer.
    pub response_timeout: Duration,
    /// How long a connection may lie idle.
    pub idle_timeout: Duration,
}

/// The limits of a config; what is out of range is reported.
pub fn read(
    raw: &raw::Limits,
    drain_timeout: Duration,
    problems: &mut Problems<'_>,
) -> (snapshot::Limits, UpstreamDefaults) {
    let mut reader = Reader { problems };
    let limits = snapshot::Limits {
        tls_handshake_timeout: reader.span("tls_handshake_timeout", &raw.tls_handshake_timeout),
        first_byte_timeout: reader.span("first_byte_timeout", &raw.first_byte_timeout),
        header_timeout: reader.span("header_timeout", &raw.header_timeout),
        keep_alive_idle: reader.span("keep_alive_idle", &raw.keep_alive_idle),
        h2_idle: reader.span("h2_idle", &raw.h2_idle),
        body_idle: reader.span("body_idle", &raw.body_idle),
        body_min_rate: reader.size("body_min_rate", &raw.body_min_rate, 0, GIB),
        write_stall: reader.span("write_stall", &raw.write_stall),
        stream_idle: reader.span_or_off("stream_idle", &raw.stream_idle),
        connection_max_age: reader.span_or_off("connection_max_age", &raw.connection_max_age),
        requests_per_connection: reader.count("requests_per_connection", &raw.requests_per_connection, 1, u32::MAX),
        max_connections: match &raw.max_connections {
            Some(_) => reader.count("max_connections", &raw.max_connections, 1, COUNT_MAX),
            None => max_connections(),
        },
        max_connections_per_ip: reader.count_or_off("max_connections_per_ip", &raw.max_connections_per_ip),
        max_handshakes: reader.count("max_handshakes", &raw.max_handshakes, 1, COUNT_MAX),
        max_in_flight: reader.count("max_in_flight", &raw.max_in_flight, 1, COUNT_MAX),
        max_in_flight_per_arm: reader.count("max_in_flight_per_arm", &raw.max_in_flight_per_arm, 1, COUNT_MAX),
        max_headers: reader.count("max_headers", &raw.max_headers, 1, 10_000) as usize,
        max_header_bytes: wide(reader.size("max_header_bytes", &raw.max_header_bytes, KIB, GIB)),
        max_h2_header_bytes: narrow(reader.size("max_h2_header_bytes", &raw.max_h2_header_bytes, KIB, GIB)),
        max_uri_bytes: wide(reader.size("max_uri_bytes", &raw.max_uri_bytes, 64, MIB)),
        max_upstream_header_bytes: wide(reader.size(
            "max_upstream_header_bytes",
            &raw.max_upstream_header_bytes,
            KIB,
            GIB,
        )),
        h1_buffer: wide(reader.size("h1_buffer", &raw.h1_buffer, H1_BUFFER_BYTES_MIN, GIB)),
        h2_streams: reader.count("h2_streams", &raw.h2_streams, 1, 1_000_000),
        h2_stream_window: narrow(reader.size("h2_stream_window", &raw.h2_stream_window, KIB, H2_WINDOW_BYTES_MAX)),
        h2_connection_window: narrow(reader.size(
            "h2_connection_window",
            &raw.h2_connection_window,
            64 * KIB,
            H2_WINDOW_BYTES_MAX,
        )),
        h2_send_buffer: wide(reader.size("h2_send_buffer", &raw.h2_send_buffer, KIB, GIB)),
        h2_resets: reader.count("h2_resets", &raw.h2_resets, 1, 1_000_000) as usize,
        h2_local_resets: reader.count("h2_local_resets", &raw.h2_local_resets, 1, 1_000_000) as usize,
        h2_control_frames: reader.count("h2_control_frames", &raw.h2_control_frames, 1, u32::MAX),
        h2_ping: reader.span("h2_ping", &raw.h2_ping),
        h2_ping_timeout: reader.span("h2_ping_timeout", &raw.h2_ping_timeout),
        max_body: reader.size_or_off("max_body", &raw.max_body),
        upstream_max_lifetime: reader.span("upstream_max_lifetime", &raw.upstream_max_lifetime),
        drain_timeout,
    };
    let defaults = UpstreamDefaults {
        connect_timeout: reader.span("connect_timeout", &raw.connect_timeout),
        response_timeout: reader.span("response_timeout", &raw.response_timeout),
        idle_timeout: reader.span("upstream_idle", &raw.upstream_idle),
    };
    (limits, defaults)
}

/// Every limit: name, value in force, default, meaning.
pub fn table(config: &Config) -> Vec<(String, String, String, String)> {
    let set = config.effective.get("limits");
    let row = |key: super::decode::Key| {
        let default = match key.name {
            "max_connections" => max_connections().to_string(),
            _ => key.default.unwrap_or_default().to_owned(),
        };
        let value = match set.and_then(|limits| limits.get(key.name)) {
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => default.clone(),
        };
        let meaning = match key.later {
            Some(why) => format!("{} Not enforced by this version: {why}.", key.doc),
            None => key.doc.to_owned(),
        };
        (key.name.to_owned(), value, default, meaning)
    };
    keys().into_iter().map(row).collect()
}

/// A time that is waited for: longer than nothing, and short enough that timers can count it.
pub fn waiting(path: &str, spot: &Spot<Duration>, problems: &mut Problems<'_>) {
    if spot.value < WAIT_MIN || spot.value > WAIT_MAX {
        let (low, high) = (print_span(WAIT_MIN), print_span(WAIT_MAX));
        problems.error(spot.place, format!("{path}: expected a duration from {low} to {high}"));
    }
}

struct Reader<'p, 's> {
    problems: &'p mut Problems<'s>,
}

impl Reader<'_, '_> {
    fn span(&mut self, name: &'static str, raw: &Option<Spot<Duration>>) -> Duration {
        let Some(spot) = raw else { return default(name).unwrap_or_default() };
        waiting(&format!("limits.{name}"), spot, self.problems);
        spot.value
    }

    fn span_or_off(&mut self, name: &'static str, raw: &Option<Spot<OrOff<Duration>>>) -> Duration {
        let Some(spot) = raw else { return default(name).unwrap_or(Duration::MAX) };
        let OrOff::On(value) = spot.value else { return Duration::MAX };
        waiting(&format!("limits.{name}"), &Spot { value, place: spot.place }, self.problems);
        value
    }

    fn count(&mut self, name: &'static str, raw: &Option<Spot<u32>>, least: u32, most: u32) -> u32 {
        let Some(spot) = raw else { return default(name).unwrap_or_default() };
        if spot.value < least || spot.value > most {
            self.problems.error(spot.place, format!("limits.{name}: expected {least} to {most}, found {}", spot.value));
        }
        spot.value
    }

    fn count_or_off(&mut self, name: &'static str, raw: &Option<Spot<OrOff<u32>>>) -> Option<u32> {
        let Some(spot) = raw else { return default(name) };
        let OrOff::On(value) = spot.value else { return None };
        Some(self.count(name, &Some(Spot { value, place: spot.place }), 1, COUNT_MAX))
    }

    fn size_or_off(&mut self, name: &'static str, raw: &Option<Spot<OrOff<Bytes>>>) -> u64 {
        match raw {
            Some(Spot { value: OrOff::On(value), .. }) => value.0,
            Some(_) => u64::MAX,
            None => default::<Bytes>(name).map_or(u64::MAX, |bytes| bytes.0),
        }
    }

    fn size(&mut self, name: &'static str, raw: &Option<Spot<Bytes>>, least: u64, most: u64) -> u64 {
        let Some(spot) = raw else { return default::<Bytes>(name).map_or(0, |bytes| bytes.0) };
        if spot.value.0 < least || spot.value.0 > most {
            let (low, high, found) = (print_size(least), print_size(most), print_size(spot.value.0));
            self.problems.error(spot.place, format!("limits.{name}: expected {low} to {high}, found {found}"));
        }
        spot.value.0
    }
}

/// The default of a limit, read from the table it is declared in; a test shows that every one of them can be read.
fn default<T: Decode>(name: &str) -> Option<T> {
    let text = keys().into_iter().find(|key| key.name == name)?.default?;
    let mut problems = Problems::new(Source::new("", ""));
    T::decode(&parse::variable(text, Place::File), &Path::Root, &mut problems)
}

/// The default of `max_connections`, or less: so many that descriptors are left for as many connections to upstreams,
/// and a fifth for all else. What counts is the hard limit, up to which `weir serve` raises the other one.
fn max_connections() -> u32 {
    let allowed = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let affordable = u32::try_from(allowed / 5 * 2).unwrap_or(u32::MAX);
    default("max_connections").unwrap_or(u32::MAX).min(affordable).max(1)
}

fn keys() -> Vec<super::decode::Key> {
    match raw::Limits::shape() {
        Shape::Table(section) => section.keys,
        _ => Vec::new(),
    }
}

fn narrow(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn wide(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// hyper refuses a smaller read buffer.
const H1_BUFFER_BYTES_MIN: u64 = 8 * KIB;
/// RFC 9113, section 6.9.1: a window is at most 2^31 - 1.
const H2_WINDOW_BYTES_MAX: u64 = (1 << 31) - 1;
/// More than any machine holds.
const COUNT_MAX: u32 = 10_000_000;
/// Below the resolution of a timer a timeout means nothing.
const WAIT_MIN: Duration = Duration::from_millis(1);
/// No connection of ours waits longer than a day.
const WAIT_MAX: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_can_be_read_and_is_what_is_promised() {
        let mut problems = Problems::new(Source::new("", ""));
        let (limits, upstream) = read(&raw::Limits::default(), Duration::from_secs(30), &mut problems);
        assert!(!problems.any_error());
        assert_eq!(limits.tls_handshake_timeout, Duration::from_secs(5));
        assert_eq!(limits.stream_idle, Duration::from_secs(300));
        assert_eq!(limits.connection_max_age, Duration::MAX);
        assert_eq!(limits.max_connections_per_ip, Some(256));
        assert_eq!((limits.max_in_flight, limits.max_in_flight_per_arm), (10_000, 1_024));
        assert_eq!((limits.body_min_rate, limits.max_body), (240, u64::MAX));
        assert!((1..=10_000).contains(&limits.max_connections));
        assert_eq!(limits.max_headers, 100);
        assert_eq!(limits.h1_buffer, 65_536);
        assert_eq!(limits.h2_connection_window, 2 << 20);
        assert_eq!(limits.h2_local_resets, 128);
        assert_eq!(upstream.connect_timeout, Duration::from_secs(2));
        assert_eq!(upstream.response_timeout, Duration::from_secs(15));
        assert_eq!(upstream.idle_timeout, Duration::from_secs(30));
    }
}
