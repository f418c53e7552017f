//! The order of reasons, tried in every combination against a list that is read from top to bottom.

use super::ppm;
use proptest::prelude::*;
use std::borrow::Cow;
use std::sync::Arc;
use weir::rollout::Arm;
use weir::rollout::assign::{Asker, Decision, Phase, Reason, Split, Switches, UnitAsker, decide};
use weir::rollout::breaker::State;
use weir::rollout::bucket::{Bucketer, Weight};
use weir::rollout::cohort::{Cohort, UserSet};

/// How a cohort of the case stands.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Group {
    /// The unit is on its list (which takes a unit) ...
    lists: bool,
    /// ... or the request carries its header (which takes none).
    header: bool,
    enabled: bool,
    killed: bool,
}

impl Group {
    fn all() -> impl Iterator<Item = Group> + Clone {
        (0..16_u8).map(|bits| Group {
            lists: bits & 1 != 0,
            header: bits & 2 != 0,
            enabled: bits & 4 != 0,
            killed: bits & 8 != 0,
        })
    }

    fn has(self, unit: bool) -> bool {
        self.enabled && (self.header || (self.lists && unit))
    }

    fn cohort(self, name: &str, exclude: bool) -> Cohort {
        let users = if self.lists { UserSet::from_iter(["ann"]) } else { UserSet::default() };
        let header = self.header.then(|| (Arc::from(format!("x-{name}")), Arc::from("1")));
        Cohort { enabled: self.enabled, exclude, users: Arc::new(users), header, ..Cohort::new(name) }
    }
}

/// How the breaker stands, and whether everybody or nobody is in its trickle.
#[derive(Clone, Copy, Debug)]
struct Breaker {
    state: State,
    trickle: bool,
}

const CLOSED: Breaker = Breaker { state: State::Closed, trickle: false };
const BREAKERS: [Breaker; 4] = [
    CLOSED,
    Breaker { state: State::Open, trickle: true },
    Breaker { state: State::HalfOpen, trickle: false },
    Breaker { state: State::HalfOpen, trickle: true },
];

#[derive(Clone, Copy, Debug)]
struct Case {
    killed: bool,
    forced: Option<Arm>,
    phase: Phase,
    breaker: Breaker,
    /// Whether the rollout requires another, and whether that has the request on its canary.
    requires: Option<bool>,
    out: Group,
    beta: Group,
    unit: bool,
    full: bool,
}

/// The contract as one would read it out.
fn expected(case: &Case) -> (&'static str, Arm) {
    let admitted = case.beta.has(case.unit) && !case.beta.killed || case.unit && case.full;
    let canary = case.requires != Some(false) && !case.out.has(case.unit) && admitted;
    let probes = case.breaker.state == State::HalfOpen && case.breaker.trickle && canary;
    let rules = [
        (case.killed, "kill", Arm::Stable),
        (case.forced.is_some(), "forced", case.forced.unwrap_or(Arm::Stable)),
        (case.phase == Phase::RolledBack, "rolled_back", Arm::Stable),
        (case.phase == Phase::Pending, "pending", Arm::Stable),
        (probes, "probe", Arm::Canary),
        (case.breaker.state != State::Closed, "breaker", Arm::Stable),
        (case.requires == Some(false), "requires", Arm::Stable),
        (case.out.has(case.unit), "excluded", Arm::Stable),
        (case.beta.has(case.unit) && !case.beta.killed, "cohort:beta", Arm::Canary),
        (!case.unit, "no_unit", Arm::Stable),
        (case.full, "bucket", Arm::Canary),
        (true, "bucket", Arm::Stable),
    ];
    let (_, reason, arm) = rules.into_iter().find(|(applies, ..)| *applies).expect("the last one applies");
    (reason, arm)
}

fn split(name: &str, weight: Weight) -> Split {
    Split {
        name: Arc::from(name),
        phase: Phase::Serving,
        bucketer: Bucketer::native(name),
        weight,
        cohorts: Vec::new(),
        requires: None,
        probe: None,
    }
}

fn weight_of(full: bool) -> Weight {
    if full { Weight::FULL } else { Weight::ZERO }
}

struct Request<'a> {
    case: &'a Case,
    asker: UnitAsker<'a>,
}

impl Asker for Request<'_> {
    fn unit(&self, rollout: usize) -> Option<Cow<'_, str>> {
        // The required rollout always has a unit: what it decides is set by its weight.
        if rollout == REQUIRED || self.case.unit { Some(Cow::Borrowed("ann")) } else { None }
    }
    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        self.asker.header(name)
    }
    fn cookie(&self, name: &str) -> Option<Cow<'_, str>> {
        self.asker.cookie(name)
    }
    fn forced(&self, rollout: usize) -> Option<Arm> {
        self.case.forced.filter(|_| rollout == CHAT)
    }
    fn switches(&self, rollout: usize) -> Switches {
        self.asker.switches(rollout)
    }
}

/// Of the rollout: nothing required, or another one, which does or does not have the request on its canary.
const REQUIRES: [Option<bool>; 3] = [None, Some(false), Some(true)];
const CHAT: usize = 0;
const REQUIRED: usize = 1;

fn decided(case: &Case) -> (String, Arm) {
    let mut chat = split("chat", weight_of(case.full));
    chat.phase = case.phase;
    chat.probe = Some((Bucketer::native("chat.probe"), weight_of(case.breaker.trickle)));
    chat.requires = case.requires.map(|_| REQUIRED);
    chat.cohorts = vec![case.out.cohort("out", true), case.beta.cohort("beta", false)];
    let splits = [chat, split("objects", weight_of(case.requires == Some(true)))];
    let mut bits = if case.killed { Switches::KILLED.bits() } else { 0 };
    for (index, _) in [case.out, case.beta].iter().enumerate().filter(|(_, group)| group.killed) {
        bits |= Switches::cohort(index).expect("a cohort's bit").bits();
    }
    bits |= Switches::NONE.moved_to(case.breaker.state).bits();
    let mut asker = UnitAsker::default().with_switches([Switches::from_bits(bits)]);
    for (name, group) in [("x-out", case.out), ("x-beta", case.beta)] {
        if group.header {
            asker = asker.with_header(name, "1");
        }
    }
    let Decision { arm, reason } = decide(&splits, CHAT, &Request { case, asker });
    (reason.word(&splits[CHAT]).into_owned(), arm)
}

#[test]
fn every_combination_follows_the_printed_precedence() {
    let mut seen = std::collections::BTreeMap::<String, u32>::new();
    for killed in [false, true] {
        for forced in [None, Some(Arm::Stable), Some(Arm::Canary)] {
            for phase in [Phase::Serving, Phase::Pending, Phase::RolledBack] {
                for (breaker, requires) in BREAKERS.into_iter().flat_map(|breaker| REQUIRES.map(|it| (breaker, it))) {
                    for (out, beta) in Group::all().flat_map(|out| Group::all().map(move |beta| (out, beta))) {
                        for (unit, full) in [(false, false), (false, true), (true, false), (true, true)] {
                            let case = Case { killed, forced, phase, breaker, requires, out, beta, unit, full };
                            let (reason, arm) = decided(&case);
                            assert_eq!((reason.as_str(), arm), expected(&case), "{case:?}");
                            *seen.entry(reason).or_default() += 1;
                        }
                    }
                }
            }
        }
    }
    assert_eq!(seen.len(), 11, "{seen:?}");
}

#[test]
fn switching_a_kill_on_never_moves_anybody_to_the_canary() {
    for (out, beta) in Group::all().flat_map(|out| Group::all().map(move |beta| (out, beta))) {
        for (unit, full) in [(false, false), (false, true), (true, false), (true, true)] {
            let before = Case {
                killed: false,
                forced: None,
                phase: Phase::Serving,
                breaker: CLOSED,
                requires: None,
                out: Group { killed: false, ..out },
                beta: Group { killed: false, ..beta },
                unit,
                full,
            };
            if decided(&before).1 == Arm::Stable {
                for after in [Case { out, ..before }, Case { beta, ..before }, Case { out, beta, ..before }] {
                    assert_eq!(decided(&after).1, Arm::Stable, "{before:?} then {after:?}");
                }
            }
        }
    }
}

#[test]
fn the_first_cohort_in_config_order_is_named() {
    let on = Group { lists: true, header: false, enabled: true, killed: false };
    let mut chat = split("chat", Weight::ZERO);
    chat.cohorts = vec![on.cohort("first", false), on.cohort("second", false)];
    let decision = decide(&[chat], 0, &UnitAsker::of("ann"));
    assert_eq!(decision, Decision { arm: Arm::Canary, reason: Reason::Cohort(0) });
}

proptest! {
    #[test]
    fn raising_the_weight_changes_no_decision_except_towards_the_canary(
        unit in ".{0,20}", one in 0..=1_000_000_u32, other in 0..=1_000_000_u32,
        share in 0..=1_000_000_u32, excluded in 0..=1_000_000_u32,
    ) {
        let arm = Bucketer::native("chat");
        let shared = |name: &str, exclude, share| Cohort {
            exclude,
            share: Some((arm.cohort_share(name), ppm(share))),
            ..Cohort::new(name)
        };
        let at = |weight| {
            let mut chat = split("chat", ppm(weight));
            chat.cohorts = vec![shared("beta", false, share), shared("out", true, excluded)];
            decide(&[chat], 0, &UnitAsker::of(unit.as_str()))
        };
        let (low, high) = (at(one.min(other)), at(one.max(other)));
        prop_assert_eq!(low.reason, high.reason);
        prop_assert!(low.arm == high.arm || (low.arm, high.arm) == (Arm::Stable, Arm::Canary));
    }

    #[test]
    fn a_breaker_takes_away_and_never_gives(
        unit in ".{0,20}", weight in 0..=1_000_000_u32, one in 0..=1_000_000_u32, other in 0..=1_000_000_u32,
        share in 0..=1_000_000_u32, excluded in 0..=1_000_000_u32,
    ) {
        let arm = Bucketer::native("chat");
        let shared = |name: &str, exclude, share| Cohort {
            exclude,
            share: Some((arm.cohort_share(name), ppm(share))),
            ..Cohort::new(name)
        };
        let at = |state, trickle| {
            let mut chat = split("chat", ppm(weight));
            chat.cohorts = vec![shared("beta", false, share), shared("out", true, excluded)];
            chat.probe = Some((arm.probe_share(), ppm(trickle)));
            decide(&[chat], 0, &UnitAsker::of(unit.as_str()).with_switches([Switches::NONE.moved_to(state)]))
        };
        let breaker = Decision { arm: Arm::Stable, reason: Reason::Breaker };
        let probe = Decision { arm: Arm::Canary, reason: Reason::Probe };
        prop_assert_eq!(at(State::Open, one), breaker);

        let closed = at(State::Closed, one);
        let (narrow, wide) = (at(State::HalfOpen, one.min(other)), at(State::HalfOpen, one.max(other)));
        for half_open in [narrow, wide] {
            prop_assert!(half_open == breaker || (half_open == probe && closed.arm == Arm::Canary));
        }
        prop_assert!(narrow == wide || wide == probe, "a wider trickle keeps its units");
        prop_assert_eq!(at(State::HalfOpen, 0), breaker);
        prop_assert_eq!(at(State::HalfOpen, 1_000_000).arm, closed.arm);
    }
}

#[test]
fn the_trickle_is_its_share_of_the_canary_and_of_no_particular_part_of_it() {
    let mut chat = split("chat", ppm(500_000));
    chat.probe = Some((chat.bucketer.probe_share(), ppm(100_000)));
    let (mut probes, mut low) = (0, 0);
    for unit in (0..100_000).map(|number| format!("user-{number}")) {
        let half_open = UnitAsker::of(unit.as_str()).with_switches([Switches::HALF_OPEN]);
        if decide(std::slice::from_ref(&chat), 0, &half_open).arm == Arm::Canary {
            probes += 1;
            low += u32::from(chat.bucketer.bucket(&unit).ppm() < 250_000);
        }
    }
    // A tenth of half of 100,000 units, within five standard deviations of the counts.
    assert!((4_650..5_350).contains(&probes), "{probes}");
    assert!((2_250..2_750).contains(&low), "{low} of {probes} have low buckets");
}

#[test]
fn without_a_unit_only_the_widest_trickle_probes_and_without_a_trickle_nobody() {
    let mut chat = split("chat", Weight::ZERO);
    chat.cohorts = vec![Group { lists: false, header: true, enabled: true, killed: false }.cohort("beta", false)];
    let mut at = |probe| {
        chat.probe = probe;
        let asker = UnitAsker::default().with_header("x-beta", "1").with_switches([Switches::HALF_OPEN]);
        decide(std::slice::from_ref(&chat), 0, &asker).reason
    };
    assert_eq!(at(Some((Bucketer::native("p"), ppm(999_999)))), Reason::Breaker);
    assert_eq!(at(Some((Bucketer::native("p"), Weight::FULL))), Reason::Probe);
    assert_eq!(at(None), Reason::Breaker);
}
