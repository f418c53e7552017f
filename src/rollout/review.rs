//! What happened to a rollout over some time, worked out from its samples: both arms in all and by stay in a stage, the course
//! of their numbers, and what it took. Plain data; admin prints it.

use super::Arm;
use super::breaker;
use super::bucket::Weight;
use super::course::Captures;
use super::histogram::Histogram;
use super::incident::IncidentRecord;
use super::report::{Event, RolloutReport, State};
use super::sample::{Gauge, Key, Number, Resources, Sample, Stood, Sums, Visit};
use super::vital::Vital;
use super::window::{Counted, Counts};
use crate::clock::Wall;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What happened to a rollout over some time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Review {
    /// When what is known begins and ends; both are the end of the time if nothing is known.
    pub began: Wall,
    /// See `began`.
    pub ended: Wall,
    /// How much of that time weir served.
    pub covered: Duration,
    /// Both arms in all, by arm index.
    pub arms: [ArmReview; 2],
    /// Everything by part: routes, cohorts, probes.
    pub parts: Vec<(Key, ArmReview)>,
    /// Numbers besides.
    pub numbers: BTreeMap<Number, u64>,
    /// The 75th percentile of web vitals, in their reported unit, and how many reports there were.
    pub vitals: Vec<(Arm, Vital, f64, u64)>,
    /// Its stays in stages, the oldest first; without stages one stay in none.
    pub stays: Vec<Stay>,
    /// The course of things, the oldest first; time in which nobody served is not there.
    pub points: Vec<Point>,
    /// How long a point is.
    pub point_span: Duration,
    /// What weir took and what the queries said.
    pub resources: ResourcesReview,
}

/// Everything that is known of a rollout over some time.
#[derive(Clone, Debug)]
pub struct Dossier {
    /// When it was gathered.
    pub now: Wall,
    /// Since when.
    pub since: Wall,
    /// How the rollout stands now.
    pub rollout: RolloutReport,
    /// What its samples tell.
    pub review: Review,
    /// Why what was counted before the last sample is missing, if it is.
    pub without_history: Option<String>,
    /// The entries of the audit trail about it and about the whole process, the oldest first.
    pub trail: Vec<Event>,
    /// Whether older ones are left out.
    pub trail_is_cut: bool,
    /// Its last rollbacks in that time, the oldest first.
    pub incidents: Vec<IncidentRecord>,
    /// What was recorded of its stages; the baseline under the empty name.
    pub baselines: Captures,
}

/// An arm, or a part of it, over some time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ArmReview {
    /// Everything that was counted.
    pub counts: Counts,
    /// Requests per second of time served.
    pub rps: f64,
}

/// One stay in a stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Stay {
    /// Which.
    pub visit: Visit,
    /// The stage; none without stages or before the first.
    pub stage: Option<Arc<str>>,
    /// When its part of the time began and ended.
    pub began: Wall,
    /// See `began`.
    pub ended: Wall,
    /// How long it lasted.
    pub lasted: Duration,
    /// For how long of that the stage's clock went.
    pub served: Duration,
    /// The highest weight that was in force.
    pub weight: Weight,
    /// How it ended, or how it stands.
    pub state: State,
    /// Both arms.
    pub arms: [ArmReview; 2],
}

/// The numbers of a short time.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// When it ended.
    pub at: Wall,
    /// How much of it weir served.
    pub span: Duration,
    /// The weight at its end, 0 where nothing went to the canary: killed, or the breaker open.
    pub weight: Weight,
    /// Both arms.
    pub arms: [ArmPoint; 2],
}

/// An arm in a point.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ArmPoint {
    /// Requests ended.
    pub requests: u64,
    /// Of those, failures of the arm.
    pub errors: u64,
    /// Requests per second.
    pub rps: f64,
    /// The median of the time to the first byte in milliseconds; none without requests.
    pub p50_ms: Option<f64>,
    /// See `p50_ms`.
    pub p95_ms: Option<f64>,
    /// See `p50_ms`.
    pub p99_ms: Option<f64>,
    /// Requests under way at its end.
    pub in_flight: u64,
}

/// What weir took, and what the queries said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResourcesReview {
    /// Resident memory in bytes.
    pub memory: Option<Gauge>,
    /// CPU time as a share of one core; none if nothing is known.
    pub cpu_share: Option<f64>,
    /// By query.
    pub queries: BTreeMap<Arc<str>, Gauge>,
}

/// Points of a review: a chart shows no more.
const POINTS_MAX: u64 = 180;
/// Grain of a point.
const POINT_MS_MIN: u64 = 1_000;

impl Review {
    /// What these samples tell, the oldest first; `own` is every stretch of time in which something could be counted, and
    /// `now` the end of the time.
    pub fn of(own: &[Resources], samples: &[Sample], now: Wall) -> Review {
        let (Some(first), Some(last)) = (own.first(), own.last()) else {
            return Review { began: now, ended: now, ..Review::default() };
        };
        let mut sums = Sums::default();
        samples.iter().for_each(|sample| sums.add(&sample.sums));
        let covered: Duration = own.iter().map(|own| own.span).sum();
        let arm = |counts: Counts| ArmReview { rps: per_second(counts.ended, covered), counts };
        let began = before(first.ended_at, first.span);
        let point_ms = (last.ended_at.as_millis().saturating_sub(began.as_millis())).div_ceil(POINTS_MAX);
        let point_ms = point_ms.next_multiple_of(POINT_MS_MIN).max(POINT_MS_MIN);
        let pieces = pieces(own, samples);
        Review {
            began,
            ended: last.ended_at,
            covered,
            arms: Arm::ALL.map(|wanted| arm(sums.arm(wanted))),
            parts: sums.requests.iter().map(|(key, counts)| (key.clone(), arm(counts.clone()))).collect(),
            vitals: sums.vitals.iter().filter_map(|((arm, vital), reports)| seen(*arm, *vital, reports)).collect(),
            numbers: sums.numbers,
            stays: stays(&pieces),
            points: points(&pieces, began, point_ms),
            point_span: own.iter().map(|own| own.span).max().unwrap_or_default().max(Duration::from_millis(point_ms)),
            resources: resources(own, covered),
        }
    }

    /// Canary requests as a share of all; none without requests.
    pub fn share(&self) -> Option<f64> {
        let [stable, canary] = self.arms.each_ref().map(|arm| arm.counts.ended);
        let all = stable.saturating_add(canary);
        (all > 0).then(|| canary as f64 / all as f64)
    }
}

impl ArmReview {
    /// Failures per request; none without requests.
    pub fn error_rate(&self) -> Option<f64> {
        (self.counts.ended > 0).then(|| self.counts.failures() as f64 / self.counts.ended as f64)
    }

    /// A quantile of the time to the first byte, in milliseconds; none without requests.
    pub fn first_byte_ms(&self, share: f64) -> Option<f64> {
        ms(&self.counts.first_byte, share)
    }

    /// A quantile of the time to the end of the answer, in milliseconds; none without requests.
    pub fn total_ms(&self, share: f64) -> Option<f64> {
        ms(&self.counts.total, share)
    }
}

/// A stretch of time in which a rollout stood in one way, and what was counted in it.
struct Piece<'a> {
    ended_at: Wall,
    span: Duration,
    visit: Visit,
    stood: &'a Stood,
    sums: Option<&'a Sums>,
}

/// The whole time in pieces. A stretch without a sample is one to which nothing happened: the rollout stood as before.
fn pieces<'a>(own: &[Resources], samples: &'a [Sample]) -> Vec<Piece<'a>> {
    let mut pieces: Vec<Piece<'a>> = Vec::with_capacity(own.len().max(samples.len()));
    let mut rest = samples.iter().peekable();
    for stretch in own {
        let mut left = stretch.span;
        while let Some(sample) = rest.next_if(|sample| sample.ended_at <= stretch.ended_at) {
            let span = sample.span.min(left);
            left = left.saturating_sub(span);
            let Sample { visit, ended_at, stood, sums, .. } = sample;
            pieces.push(Piece { ended_at: *ended_at, span, visit: *visit, stood, sums: Some(sums) });
        }
        if let Some(Piece { visit, stood, .. }) = pieces.last().filter(|_| !left.is_zero()) {
            let (visit, stood) = (*visit, *stood);
            pieces.push(Piece { ended_at: stretch.ended_at, span: left, visit, stood, sums: None });
        }
    }
    for Sample { visit, ended_at, span, stood, sums } in rest {
        pieces.push(Piece { ended_at: *ended_at, span: *span, visit: *visit, stood, sums: Some(sums) });
    }
    pieces
}

fn stays(pieces: &[Piece<'_>]) -> Vec<Stay> {
    let mut stays = Vec::new();
    // Runs and not groups: a clock that was set back must not mix them.
    for run in pieces.chunk_by(|one, next| one.visit == next.visit) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        let lasted: Duration = run.iter().map(|piece| piece.span).sum();
        let serves = |stood: &Stood| {
            let goes = matches!(stood.state, State::Running | State::WaitingApproval);
            goes && !stood.killed && stood.breaker == breaker::State::Closed
        };
        let mut sums = Sums::default();
        run.iter().filter_map(|piece| piece.sums).for_each(|more| sums.add(more));
        stays.push(Stay {
            visit: first.visit,
            stage: last.stood.stage.clone(),
            began: before(first.ended_at, first.span),
            ended: last.ended_at,
            lasted,
            served: run.iter().filter(|piece| serves(piece.stood)).map(|piece| piece.span).sum(),
            weight: run.iter().map(|piece| piece.stood.weight).max().unwrap_or(Weight::ZERO),
            state: last.stood.state,
            arms: Arm::ALL.map(|arm| {
                let counts = sums.arm(arm);
                ArmReview { rps: per_second(counts.ended, lasted), counts }
            }),
        });
    }
    stays
}

fn points(pieces: &[Piece<'_>], began: Wall, point_ms: u64) -> Vec<Point> {
    let place = |piece: &Piece<'_>| piece.ended_at.as_millis().saturating_sub(began.as_millis() + 1) / point_ms;
    let mut points = Vec::new();
    for run in pieces.chunk_by(|one, next| place(one) == place(next)) {
        let Some(last) = run.last() else { continue };
        let span: Duration = run.iter().map(|piece| piece.span).sum();
        let exposed = !last.stood.killed && last.stood.breaker != breaker::State::Open;
        points.push(Point {
            at: last.ended_at,
            span,
            weight: if exposed { last.stood.weight } else { Weight::ZERO },
            arms: Arm::ALL.map(|arm| {
                let counts: Vec<Counts> = run.iter().filter_map(|piece| piece.sums).map(|sums| sums.arm(arm)).collect();
                let in_flight = last.stood.in_flight.get(arm.index()).copied().unwrap_or(0);
                ArmPoint { in_flight, ..point(&Counts::total(counts.iter()), span) }
            }),
        });
    }
    points
}

fn point(counts: &Counts, span: Duration) -> ArmPoint {
    ArmPoint {
        requests: counts.ended,
        errors: counts.failures(),
        rps: per_second(counts.ended, span),
        p50_ms: ms(&counts.first_byte, 0.50),
        p95_ms: ms(&counts.first_byte, 0.95),
        p99_ms: ms(&counts.first_byte, 0.99),
        in_flight: 0,
    }
}

fn resources(own: &[Resources], covered: Duration) -> ResourcesReview {
    let mut all = Resources::default();
    own.iter().cloned().for_each(|more| all.then(more));
    let seconds = covered.as_secs_f64();
    ResourcesReview {
        memory: all.memory,
        cpu_share: (seconds > 0.0 && all.memory.is_some()).then(|| all.cpu_us as f64 / 1e6 / seconds),
        queries: all.queries,
    }
}

fn seen(arm: Arm, vital: Vital, reports: &Histogram) -> Option<(Arm, Vital, f64, u64)> {
    Some((arm, vital, vital.quantile(reports, 0.75)?, reports.count()))
}

fn ms(times: &Histogram, share: f64) -> Option<f64> {
    times.quantile(share).map(|us| us as f64 / 1000.0)
}

fn per_second(requests: u64, span: Duration) -> f64 {
    let seconds = span.as_secs_f64();
    if seconds > 0.0 { requests as f64 / seconds } else { 0.0 }
}

fn before(at: Wall, span: Duration) -> Wall {
    let ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    Wall::from_millis(at.as_millis().saturating_sub(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH_MS: u64 = 1_600_000_000_000;
    const TICK: Duration = Duration::from_secs(10);

    fn wall(tick: u64) -> Wall {
        Wall::from_millis(EPOCH_MS + tick * 10_000)
    }

    fn own(tick: u64) -> Resources {
        let memory = Some(Gauge::of(tick as f64));
        Resources { ended_at: wall(tick), span: TICK, memory, cpu_us: 5_000_000, ..Resources::default() }
    }

    fn sample(tick: u64, visit: u64, state: State, requests: &[(Arm, u64, bool)]) -> Sample {
        let mut sums = Sums::default();
        for (arm, us, fails) in requests {
            let counts: &mut Counts = sums.requests.entry(Key::Route(*arm, "api".into())).or_default();
            counts.ended += 1;
            counts.errors[0] += u64::from(*fails);
            counts.first_byte.record(*us);
        }
        let weight = Weight::from_ppm(u32::try_from(visit).unwrap() * 100_000).unwrap();
        Sample {
            visit: Visit { number: visit, entered_at: wall(tick) },
            ended_at: wall(tick),
            span: TICK,
            stood: Stood {
                state,
                stage: Some(format!("s{visit}").into()),
                weight,
                killed: false,
                breaker: breaker::State::Closed,
                in_flight: [0; 2],
            },
            sums,
        }
    }

    fn in_visit(of: &Sample, tick: u64, state: State, requests: &[(Arm, u64, bool)]) -> Sample {
        Sample { visit: of.visit, ..sample(tick, of.visit.number, state, requests) }
    }

    #[test]
    fn with_no_data_there_is_nothing_and_it_says_when() {
        let review = Review::of(&[], &[], wall(7));
        assert_eq!((review.began, review.ended, review.share()), (wall(7), wall(7), None));
        assert!(review.stays.is_empty() && review.points.is_empty());
    }

    #[test]
    fn stays_have_their_own_numbers_and_quiet_time_counts_too() {
        let axis: Vec<Resources> = (1..=6).map(own).collect();
        let first = sample(1, 1, State::Running, &[(Arm::Canary, 20, false), (Arm::Stable, 10, false)]);
        let paused = in_visit(&first, 3, State::Paused, &[]);
        let second = sample(5, 2, State::Running, &[(Arm::Canary, 60, true), (Arm::Canary, 40, false)]);
        let review = Review::of(&axis, &[first, paused, second], wall(6));
        assert_eq!((review.covered, review.began), (TICK * 6, wall(0)));
        assert_eq!(review.share(), Some(0.75));
        let [one, two] = review.stays.as_slice() else { panic!("{:?}", review.stays) };
        // Ticks 1 and 2 running, 3 and 4 paused.
        assert_eq!((one.lasted, one.served), (TICK * 4, TICK * 2));
        assert_eq!((two.lasted, two.served, two.weight.ppm()), (TICK * 2, TICK * 2, 200_000));
        let canary = &two.arms[Arm::Canary.index()];
        assert_eq!((canary.error_rate(), canary.first_byte_ms(1.0), canary.rps), (Some(0.5), Some(0.06), 0.1));
        assert_eq!(review.arms[0].counts.ended + review.arms[1].counts.ended, 4);
        assert_eq!((review.resources.cpu_share, review.resources.memory.unwrap().max), (Some(0.5), 6.0));
        assert_eq!(review.points.len(), 6);
    }

    #[test]
    fn points_add_up_and_downtime_has_none() {
        // An hour, a day without anybody, another hour.
        let ticks: Vec<u64> = (1..=360).chain(9_000..9_360).collect();
        let axis: Vec<Resources> = ticks.iter().map(|tick| own(*tick)).collect();
        let first = sample(1, 1, State::Running, &[]);
        let busy = |tick: &u64| in_visit(&first, *tick, State::Running, &[(Arm::Canary, 50, tick.is_multiple_of(2))]);
        let samples: Vec<Sample> = ticks.iter().map(busy).collect();
        let review = Review::of(&axis, &samples, wall(9_360));
        assert!(review.points.len() as u64 <= POINTS_MAX && review.points.len() > 10, "{}", review.points.len());
        let total = |of: fn(&ArmPoint) -> u64| review.points.iter().map(|point| of(&point.arms[1])).sum::<u64>();
        assert_eq!((total(|arm| arm.requests), total(|arm| arm.errors)), (720, 360));
        let spans: Duration = review.points.iter().map(|point| point.span).sum();
        assert_eq!((spans, review.covered), (TICK * 720, TICK * 720));
        assert!(review.points.iter().all(|point| (point.arms[1].rps - 0.1).abs() < 1e-9));
        assert_eq!((review.stays.len(), review.stays[0].lasted), (1, TICK * 720));
    }

    #[test]
    fn an_open_breaker_exposes_nobody() {
        let mut open = sample(1, 5, State::Running, &[]);
        open.stood.breaker = breaker::State::Open;
        let review = Review::of(&[own(1)], &[open], wall(1));
        assert_eq!((review.points[0].weight, review.stays[0].served), (Weight::ZERO, Duration::ZERO));
    }
}
