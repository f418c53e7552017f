//! Which answers the config's signals count. Headers are looked at when the answer's head is there, the rest when the request
//! ends: a gRPC status comes with the trailers, and a rate must count what its requests count.
//!
//! It decides nothing and keeps nothing; `observe` calls it, and not at all where no signal is configured.

use crate::snapshot::{Signal, SignalMatch};
use http::{HeaderMap, StatusCode};

/// The signals whose headers an answer has, as one bit each in the order of the config.
pub fn heads(signals: &[Signal], headers: &HeaderMap) -> u64 {
    let bits = (0_u32..).zip(signals).filter(|(_, signal)| signal.when.as_ref().is_some_and(|when| has(when, headers)));
    bits.fold(0, |bits, (place, _)| bits | bit(place))
}

/// What is known of a request at its end.
pub struct Ended {
    /// The bits of its answer's head; 0 if there was no answer.
    pub heads: u64,
    /// The status the client got.
    pub status: Option<StatusCode>,
    /// The gRPC status of head or trailers.
    pub grpc_status: Option<u8>,
    /// The index of its route.
    pub route: usize,
}

/// The indices of the signals that count it.
pub fn counted<'a>(signals: &'a [Signal], ended: &'a Ended) -> impl Iterator<Item = usize> + 'a {
    let counts = |place: u32, when: &SignalMatch| {
        (when.headers.is_empty() || ended.heads & bit(place) != 0) && when_ended(when, ended)
    };
    let counted = (0_u32..)
        .zip(signals)
        .filter(move |(place, signal)| signal.when.as_ref().is_some_and(|when| counts(*place, when)));
    counted.map(|(place, _)| place as usize)
}

fn has(when: &SignalMatch, headers: &HeaderMap) -> bool {
    when.headers.iter().all(|(name, value)| headers.get_all(name).iter().any(|sent| sent == value))
}

fn when_ended(when: &SignalMatch, ended: &Ended) -> bool {
    let in_ranges =
        |status: StatusCode| when.statuses.iter().any(|(low, high)| (low..=high).contains(&&status.as_u16()));
    (when.statuses.is_empty() || ended.status.is_some_and(in_ranges))
        && (when.grpc_statuses.is_empty() || ended.grpc_status.is_some_and(|code| when.grpc_statuses.contains(&code)))
        && when.route.is_none_or(|route| route == ended.route)
}

/// A config holds no more signals than a word has bits.
fn bit(place: u32) -> u64 {
    1_u64.checked_shl(place).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn signal(when: Option<SignalMatch>) -> Signal {
        Signal { name: "it".into(), when }
    }

    fn failed_header() -> Vec<(HeaderName, HeaderValue)> {
        vec![(HeaderName::from_static("x-validation"), HeaderValue::from_static("failed"))]
    }

    /// Which of the signals count an answer with these headers that ended so.
    fn counted_of(signals: &[Signal], headers: &[(&'static str, &'static str)], ended: Ended) -> Vec<usize> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        let ended = Ended { heads: heads(signals, &map), ..ended };
        counted(signals, &ended).collect()
    }

    fn ended(status: u16, grpc_status: Option<u8>, route: usize) -> Ended {
        Ended { heads: 0, status: StatusCode::from_u16(status).ok(), grpc_status, route }
    }

    #[test]
    fn everything_that_is_set_must_match() {
        let both = SignalMatch { headers: failed_header(), statuses: vec![(422, 422)], ..SignalMatch::default() };
        let signals = [signal(Some(both))];
        let failed = [("x-validation", "failed")];
        assert_eq!(counted_of(&signals, &failed, ended(422, None, 0)), [0]);
        assert!(counted_of(&signals, &failed, ended(200, None, 0)).is_empty());
        assert!(
            counted_of(&signals, &[("x-validation", "Failed")], ended(422, None, 0)).is_empty(),
            "values are exact"
        );
        assert!(counted_of(&signals, &[], ended(422, None, 0)).is_empty());
        assert_eq!(
            counted_of(&signals, &[("x-validation", "ok"), ("x-validation", "failed")], ended(422, None, 0)),
            [0]
        );
    }

    #[test]
    fn route_status_and_grpc_status_count_by_themselves() {
        let signals = [
            signal(None),
            signal(Some(SignalMatch { route: Some(1), ..SignalMatch::default() })),
            signal(Some(SignalMatch { statuses: vec![(500, 599), (404, 404)], ..SignalMatch::default() })),
            signal(Some(SignalMatch { grpc_statuses: vec![3, 9], ..SignalMatch::default() })),
        ];
        assert_eq!(counted_of(&signals, &[], ended(404, Some(9), 1)), [1, 2, 3]);
        assert_eq!(counted_of(&signals, &[], ended(503, Some(0), 0)), [2]);
        assert!(counted_of(&signals, &[], ended(200, None, 0)).is_empty(), "posted events alone feed the first");
    }

    #[test]
    fn sixty_four_signals_are_told_apart() {
        let of = |place: usize| match place {
            63 => signal(Some(SignalMatch { headers: failed_header(), ..SignalMatch::default() })),
            _ => signal(None),
        };
        let signals: Vec<Signal> = (0..64).map(of).collect();
        assert_eq!(counted_of(&signals, &[("x-validation", "failed")], ended(200, None, 0)), [63]);
    }
}
