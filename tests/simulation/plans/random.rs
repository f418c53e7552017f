//! Random plans that the config would accept, and the few criteria they are made of, with what each means said once more
//! by hand: the judge does not ask the code that it judges.

use std::sync::{Arc, LazyLock};
use std::time::Duration;
use weir::rollout::Arm;
use weir::rollout::breaker::Rules;
use weir::rollout::bucket::Weight;
use weir::rollout::criterion::{Criterion, parse};
use weir::rollout::plan::{CohortPlan, Plan};
use weir::rollout::stages::{Action, After, Gate, Span, Stage, Stages, Trigger};

/// What one arm shows: failures in thousandths, p95 in milliseconds, requests; none without traffic.
pub type Shows = Option<(u32, u32, u64)>;
/// What both arms show, by arm index.
pub type Numbers = [Shows; 2];

/// A criterion, and whether it holds for an arm; none without data.
pub struct Rule {
    pub text: &'static str,
    holds: fn(&Numbers, Arm, u64) -> Option<bool>,
}

static GATES: [Rule; 5] = [
    Rule { text: "error_rate <= 1%", holds: |n, arm, least| Some(of(n, arm, least)?.0 <= 10) },
    Rule {
        text: "error_rate <= stable + 2%",
        holds: |n, arm, least| Some(of(n, arm, least)?.0 <= of(n, Arm::Stable, least)?.0 + 20),
    },
    Rule { text: "p95 < 200ms", holds: |n, arm, least| Some(of(n, arm, least)?.1 < 200) },
    Rule {
        text: "p95 <= 2 * stable",
        holds: |n, arm, least| Some(of(n, arm, least)?.1 <= 2 * of(n, Arm::Stable, least)?.1),
    },
    // A number of requests needs no other number of requests, but some.
    Rule { text: "requests >= 50", holds: |n, arm, _| Some(of(n, arm, 0)?.2 >= 50) },
];

static TRIGGERS: [Rule; 4] = [
    Rule { text: "error_rate > 5%", holds: |n, arm, least| Some(of(n, arm, least)?.0 > 50) },
    Rule { text: "p95 > 1s", holds: |n, arm, least| Some(of(n, arm, least)?.1 > 1000) },
    Rule {
        text: "error_rate > stable + 5%",
        holds: |n, arm, least| Some(of(n, arm, least)?.0 > of(n, Arm::Stable, least)?.0 + 50),
    },
    Rule { text: "stable.error_rate > 10%", holds: |n, _, least| Some(of(n, Arm::Stable, least)?.0 > 100) },
];

fn of(numbers: &Numbers, arm: Arm, least: u64) -> Shows {
    numbers[arm.index()].filter(|(_, _, samples)| *samples >= least)
}

fn rule(criterion: &Criterion) -> &'static Rule {
    let known = READ.iter().find(|(known, _)| known == criterion);
    known.expect("plans are made of these rules only").1
}

static READ: LazyLock<Vec<(Criterion, &'static Rule)>> = LazyLock::new(|| {
    let read = |rule: &'static Rule| (parse(rule.text).expect("it is valid"), rule);
    GATES.iter().chain(&TRIGGERS).map(read).collect()
});

fn criterion(rng: &mut fastrand::Rng, from: &[Rule]) -> Criterion {
    let text = pick(rng, from).text;
    READ.iter().find(|(_, rule)| rule.text == text).expect("it is one of them").0.clone()
}

/// Whether a gate passes; none is a wait.
pub fn passes(gate: &Gate, numbers: &Numbers) -> Option<bool> {
    (rule(&gate.criterion).holds)(numbers, Arm::Canary, gate.min_requests)
}

/// Whether a trigger's criterion holds.
pub fn holds(trigger: &Trigger, numbers: &Numbers) -> bool {
    let holds = |arm| (rule(&trigger.criterion).holds)(numbers, arm, trigger.min_requests) == Some(true);
    holds(Arm::Canary) && !(trigger.spares_both && holds(Arm::Stable))
}

/// Whatever an arm may show; often nothing wrong, sometimes nothing at all.
pub fn shows(rng: &mut fastrand::Rng) -> Shows {
    let samples = *pick(rng, &[0, 5, 60, 500]);
    let errors = *pick(rng, &[0, 0, 8, 30, 60, 300, 1000]);
    let p95_ms = *pick(rng, &[50, 50, 150, 190, 400, 1500]);
    (samples > 0).then_some((errors, p95_ms, samples))
}

pub fn pick<'a, T>(rng: &mut fastrand::Rng, from: &'a [T]) -> &'a T {
    rng.choice(from).expect("there are some")
}

pub const ROLLOUTS: [&str; 3] = ["a", "b", "c"];
const STAGES: [&str; 5] = ["s0", "s1", "s2", "s3", "s4"];
const COHORTS: [&str; 2] = ["friends", "beta"];

/// One to three rollouts that refer to one another; a stage waits for stages of rollouts before its own only.
pub fn plans(rng: &mut fastrand::Rng) -> Vec<Plan> {
    let names = &ROLLOUTS[..*pick(rng, &[1, 1, 1, 2, 2, 3])];
    let mut plans: Vec<Plan> = Vec::new();
    for name in names {
        let next = plan(rng, name, &plans, names);
        plans.push(next);
    }
    plans
}

fn plan(rng: &mut fastrand::Rng, name: &str, before: &[Plan], names: &[&str]) -> Plan {
    let count = *pick(rng, &[0, 1, 2, 3, 3, 4]);
    let first = rng.usize(..=STAGES.len() - count);
    let mut weight_ppm = 0;
    let mut list = Vec::new();
    for stage in &STAGES[first..first + count] {
        weight_ppm = (weight_ppm + *pick(rng, &[0, 10_000, 100_000, 400_000])).min(1_000_000);
        list.push(self::stage(rng, stage, weight_ppm, before));
    }
    let triggers = (0..*pick(rng, &[0, 1, 2, 3])).map(|index| trigger(rng, index, name, names)).collect();
    Plan {
        name: name.into(),
        weight: ppm(*pick(rng, &[1_000_000, 1_000_000, 300_000])),
        killed: rng.u8(..30) == 0,
        enabled: rng.u8(..20) > 0,
        stages: Stages { list, triggers, autostart: rng.u8(..4) > 0, ..Stages::default() },
        cohorts: COHORTS
            .iter()
            .map(|name| CohortPlan { name: (*name).into(), enabled: true, exclude: false, listed: 0 })
            .collect(),
        breaker: (rng.u8(..3) == 0).then(rules),
    }
}

fn stage(rng: &mut fastrand::Rng, name: &str, weight_ppm: u32, before: &[Plan]) -> Stage {
    let min_duration = Duration::from_millis(*pick(rng, &[0, 500, 2_000, 8_000]));
    let gates = (0..*pick(rng, &[0, 1, 1, 2])).map(|_| Gate {
        criterion: criterion(rng, &GATES),
        span: *pick(rng, &[Span::Stage, Span::Last(Duration::from_secs(5))]),
        min_requests: *pick(rng, &[1, 1, 100]),
    });
    let gates = gates.collect();
    let others: Vec<&Plan> = before.iter().filter(|plan| plan.is_staged()).collect();
    let after = (!others.is_empty() && rng.u8(..5) == 0).then(|| {
        let other = *pick(rng, &others);
        After { rollout: Arc::clone(&other.name), stage: Arc::clone(&pick(rng, &other.stages.list).name) }
    });
    Stage {
        name: name.into(),
        weight: ppm(weight_ppm),
        shadow: None,
        min_duration,
        max_duration: (rng.u8(..3) == 0).then(|| min_duration + Duration::from_millis(*pick(rng, &[1_000, 6_000]))),
        cohorts: COHORTS.iter().filter(|_| rng.bool()).map(|name| Arc::from(*name)).collect(),
        after,
        gates,
        approval: rng.u8(..5) == 0,
        capture_baseline: rng.u8(..3) == 0,
    }
}

fn trigger(rng: &mut fastrand::Rng, index: usize, own: &str, names: &[&str]) -> Trigger {
    let actions = [
        Action::Rollback,
        Action::Rollback,
        Action::Previous,
        Action::Previous,
        Action::Half,
        Action::Pause,
        Action::Alert,
    ];
    let other = pick(rng, names);
    Trigger {
        name: format!("t{index}").into(),
        criterion: criterion(rng, &TRIGGERS),
        held_for: Duration::from_millis(*pick(rng, &[0, 0, 400, 2_000, 6_000])),
        action: *pick(rng, &actions),
        dry_run: rng.u8(..6) == 0,
        rollout: (rng.u8(..4) == 0 && *other != own).then(|| (*other).into()),
        window: Duration::from_secs(5),
        min_requests: *pick(rng, &[1, 1, 100]),
        spares_both: rng.u8(..5) == 0,
        stages: STAGES.iter().filter(|_| rng.u8(..20) == 0).map(|stage| Arc::from(*stage)).collect(),
    }
}

/// The same plans as somebody edits them: weights and gates, triggers, stages that come and go, switches, whole rollouts.
pub fn edited(rng: &mut fastrand::Rng, plans: &[Plan]) -> Vec<Plan> {
    if rng.u8(..8) == 0 {
        return self::plans(rng);
    }
    let mut plans = plans.to_vec();
    let names: Vec<Arc<str>> = plans.iter().map(|plan| Arc::clone(&plan.name)).collect();
    let names: Vec<&str> = names.iter().map(|name| &**name).collect();
    let index = rng.usize(..plans.len());
    let fresh = plan(rng, names[index], &plans[..index], &names);
    let plan = &mut plans[index];
    match rng.u8(..6) {
        0 => plan.stages.triggers = fresh.stages.triggers,
        1 => plan.killed = !plan.killed,
        2 => plan.enabled = !plan.enabled,
        3 => plan.weight = fresh.weight,
        4 => plan.breaker = fresh.breaker,
        // The same names with other contents, or other names.
        _ => plan.stages = fresh.stages,
    }
    plans
}

/// Small limits, so that short histories cross them.
fn rules() -> Rules {
    Rules {
        consecutive_errors: 5,
        error_rate: None,
        latency: None,
        no_answer: None,
        min_units: 3,
        max_unit_share: ppm(250_000),
        cooldown: Duration::from_secs(1),
        cooldown_max: Duration::from_secs(600),
        probe: ppm(1_000_000),
        max_trips: 2,
        spares_both: false,
    }
}

pub fn ppm(ppm: u32) -> Weight {
    Weight::from_ppm(ppm).expect("at most a million")
}
