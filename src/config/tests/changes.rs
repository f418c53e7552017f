//! What a reload would change.

use super::*;
use crate::config::change::{between, without_restart};

fn changes(old: &str, new: &str) -> change::Change {
    between(&good(old), &Live::default(), &good(new), &Live::default())
}

#[test]
fn the_same_config_changes_nothing() {
    assert_eq!(changes(BASE, BASE), change::Change::default());
}

#[test]
fn a_raised_weight_moves_the_difference_and_nobody_back() {
    let change = changes(BASE, &BASE.replace("10%", "25%"));
    assert_eq!(change.lines, ["rollouts.chat.weight: \"10%\" -> \"25%\"", "rollouts.chat: weight in force 10% -> 25%"]);
    let [moved] = change.moves.as_slice() else { panic!("{change:?}") };
    assert!((145_000..155_000).contains(&moved.to_canary_ppm), "{moved:?}");
    assert_eq!(moved.to_stable_ppm, 0);
    assert!(moved.to_string().starts_with("chat: about 1"), "{moved}");
    assert_eq!(change.needs_restart, [""; 0]);
}

#[test]
fn another_salt_moves_units_both_ways() {
    let change = changes(BASE, &BASE.replace("weight =", "salt = \"other\"\nweight ="));
    let moved = &change.moves[0];
    assert!((85_000..95_000).contains(&moved.to_canary_ppm), "{moved:?}");
    assert!((85_000..95_000).contains(&moved.to_stable_ppm), "{moved:?}");
}

#[test]
fn listed_members_are_counted_exactly() {
    let zero = BASE.replace("10%", "0%");
    let cohort = |users: &str| format!("{zero}[rollouts.chat.cohorts.team]\nusers = [{users}]\n");
    let change = changes(&cohort("\"a\", \"b\", \"c\""), &cohort("\"b\", \"d\""));
    let moved = &change.moves[0];
    assert_eq!((moved.members_to_canary, moved.members_to_stable), (1, 2));
    assert_eq!((moved.to_canary_ppm, moved.to_stable_ppm), (0, 0));
}

#[test]
fn a_kill_moves_everybody_to_stable() {
    let change = changes(&BASE.replace("10%", "100%"), &format!("{}[kill]\nall = true\n", BASE.replace("10%", "100%")));
    assert_eq!(change.moves[0].to_stable_ppm, 1_000_000);
}

#[test]
fn units_from_another_source_are_said_to_be_uncountable() {
    let change = changes(BASE, &BASE.replace("header:x-user-id", "client-ip"));
    assert!(change.moves[0].other_units);
    assert!(change.moves[0].to_string().contains("units are taken from other sources"));
}

#[test]
fn a_weight_set_at_run_time_is_where_units_move_from() {
    let config = good(BASE);
    let weight = |ppm| {
        let word = LiveRollout {
            phase: Phase::Serving,
            weight: Weight::from_ppm(ppm).unwrap(),
            probe: None,
            stage: None,
            admitted: None,
            shadow: None,
            overlays: BTreeMap::new(),
        };
        Live { rollouts: BTreeMap::from([(Arc::from("chat"), word)]), ..Live::default() }
    };
    let change = between(&config, &weight(500_000), &config, &weight(100_000));
    assert_eq!(change.lines, ["rollouts.chat: weight in force 50% -> 10%"]);
    assert!((395_000..405_000).contains(&change.moves[0].to_stable_ppm));
}

#[test]
fn what_only_a_restart_applies_is_named_and_kept_back() {
    let new = format!("workers = 3\nstate_dir = \"other\"\n{}", BASE.replace("8080", "8081").replace("10%", "20%"));
    let change = changes(BASE, &new);
    assert_eq!(change.needs_restart, ["listeners", "workers", "state_dir"]);
    let kept = without_restart(&good(BASE), good(&new));
    assert_eq!(kept.listeners[0].address.port(), 8080);
    assert_eq!(kept.workers, None);
    assert_eq!(kept.state_dir, good(BASE).state_dir);
    assert_eq!(kept.rollouts[0].plan.weight.ppm(), 200_000);
}

#[test]
fn a_removed_rollout_takes_its_units_to_stable() {
    let route = "[[routes]]\nupstream = \"legacy\"\nrollouts = []\n";
    let without: String = BASE.split("[rollouts.chat]").next().unwrap().to_owned() + route;
    let change = changes(&BASE.replace("10%", "50%"), &without);
    let moved = &change.moves[0];
    assert_eq!((&*moved.rollout, moved.to_canary_ppm), ("chat", 0));
    assert!((495_000..505_000).contains(&moved.to_stable_ppm));
}
