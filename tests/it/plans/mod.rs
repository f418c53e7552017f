//! The plans of `config/plans`, unmodified, on a whole weir with live upstreams: each runs from its first stage to its end,
//! and each of its triggers is provoked by a real fault and does what the plan's document says.
//!
//! Files are changed by nothing but the environment: addresses, and how often the tests' Prometheus is asked.

mod cases;
mod faults;
mod plan;
mod traffic;
mod world;

mod chat_architecture;
mod chat_feature;
mod cohort_canary;
mod phase1_docflow;
mod structured_chart_payload;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use weir::config::UserFiles;

/// The folder of the plans.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/plans")
}

/// The plans, by file name.
fn files() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder()).expect("the folder is there");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be listed").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    files
}

#[test]
fn every_plan_is_tried_and_every_stage_gate_and_trigger_is_in_the_table() {
    let tried: BTreeSet<&str> = plan::ALL.iter().map(|plan| plan.file).collect();
    let table = std::fs::read_to_string(folder().join("README.md")).expect("the table is there");
    for file in files() {
        let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
        assert!(tried.contains(name), "{name} is run by no test");
        let loaded = weir::config::load(&file, &[], &mut UserFiles::default()).expect("it passes check");
        let own =
            table.split("\n## ").skip(1).find(|section| section.contains(&format!("({name})"))).expect("a section");
        for rollout in &loaded.config.rollouts {
            let stages = rollout.plan.stages.list.iter();
            let gates = stages.clone().flat_map(|stage| &stage.gates).map(|gate| gate.criterion.to_string());
            let triggers = rollout.plan.stages.triggers.iter().map(|trigger| trigger.name.to_string());
            for named in stages.map(|stage| stage.name.to_string()).chain(gates).chain(triggers) {
                assert!(own.contains(&format!("`{named}`")), "{name}: the table lacks `{named}`");
            }
        }
    }
}
