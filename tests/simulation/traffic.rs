//! What arms do to requests, and what of it a collector would read.

use weir::latch::UnitMark;
use weir::rollout::breaker::{Happened, Measured, UNIT_ROWS, UNIT_SLOTS, UnitCounts};
use weir::rollout::histogram::bucket_of;
use weir::rollout::outcome::{CodeClass, ErrorKind};

/// How an arm behaves at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It answers.
    None,
    /// It fails so many percent of its requests.
    Fails(u32),
    /// It is slow with so many percent.
    Slow(u32),
    /// It answers nothing.
    Hangs,
}

/// How a request will end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Good,
    Bad(ErrorKind),
    /// The client does not wait for it.
    Left,
}

/// Where a request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Stable,
    Canary,
    Probe,
}

/// A request under way.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    pub role: Role,
    pub mark: UnitMark,
    pub era: u16,
    pub due_us: u64,
    pub first_us: u64,
    pub end: End,
}

/// How long an upstream may take to answer.
pub const TIMEOUT_US: u64 = 3_000_000;

impl Fault {
    /// What a request meets: how it ends and after how many microseconds. An abuser brings its own failures.
    pub fn meets(self, rng: &mut fastrand::Rng, abuses: bool) -> (End, u64) {
        // Often longer than until the next look, so that requests are under way when something turns.
        let quick = rng.u64(2_000..60_000);
        match self {
            _ if abuses => (End::Bad(ErrorKind::Status), quick),
            Fault::Hangs if rng.u8(..4) == 0 => (End::Left, rng.u64(100_000..TIMEOUT_US)),
            Fault::Hangs => (End::Bad(ErrorKind::Timeout), TIMEOUT_US),
            Fault::Fails(percent) if rng.u32(..100) < percent => {
                let kind =
                    *rng.choice(&[ErrorKind::Status, ErrorKind::Connect, ErrorKind::Reset]).expect("there are some");
                (End::Bad(kind), quick)
            }
            Fault::Slow(percent) if rng.u32(..100) < percent => (End::Good, rng.u64(300_000..900_000)),
            _ => (End::Good, quick),
        }
    }

    pub fn any(rng: &mut fastrand::Rng) -> Fault {
        match rng.u8(..6) {
            0 | 1 => Fault::None,
            2 => Fault::Fails(100),
            3 => Fault::Fails(rng.u32(5..100)),
            4 => Fault::Slow(rng.u32(5..=100)),
            _ => Fault::Hangs,
        }
    }
}

/// Counts a request that has ended; `of_era` is whether it started under the present state of the breaker.
pub fn count(measured: &mut Measured, flight: &Flight, slow_us: u64, of_era: bool) {
    let happened = match flight.role {
        Role::Stable => &mut measured.stable,
        Role::Canary => &mut measured.canary,
        Role::Probe => &mut measured.probes,
    };
    let counts = &mut happened.counts;
    counts.ended += 1;
    let class = match flight.end {
        End::Good => CodeClass::Success,
        End::Bad(_) => CodeClass::Server,
        End::Left => CodeClass::None,
    };
    counts.codes[class as usize] += 1;
    match flight.end {
        End::Good | End::Bad(_) => counts.first_byte.add(bucket_of(flight.first_us), 1),
        End::Left => counts.client_left += 1,
    }
    if let End::Bad(kind) = flight.end {
        counts.errors[kind as usize] += 1;
    }
    if flight.role == Role::Stable || !of_era {
        return;
    }
    let Happened { failures, slow, .. } = &mut measured.canary;
    if matches!(flight.end, End::Bad(_)) {
        add(failures, flight.mark);
    }
    if flight.end != End::Left && flight.first_us > slow_us {
        add(slow, flight.mark);
    }
}

fn add(units: &mut Option<Box<UnitCounts>>, mark: UnitMark) {
    let units = units.get_or_insert_with(|| Box::new([[0; UNIT_SLOTS]; UNIT_ROWS]));
    units.iter_mut().zip(mark.slots()).for_each(|(row, slot)| row[slot] += 1);
}
