//! Stages that wait for one another in a circle: none of them could ever begin.

use crate::config::decode::Map;
use crate::config::model::RolloutConfig;
use crate::config::raw;
use crate::config::validate::Context;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A stage, by the places of rollout and stage.
type Node = (usize, usize);

/// Reports every circle once, at the first `after` that closes it. A stage waits for the one before it, and for the one that
/// its `after` names.
pub fn circles(entries: &Map<raw::Rollout>, rollouts: &[RolloutConfig], context: &mut Context<'_, '_>) {
    let mut told: BTreeSet<Node> = BTreeSet::new();
    for (rollout, config) in rollouts.iter().enumerate() {
        for index in 0..config.plan.stages.list.len() {
            let Some(target) = waits_for((rollout, index), rollouts) else { continue };
            let Some(path) = path(target, (rollout, index), rollouts).filter(|_| !told.contains(&(rollout, index)))
            else {
                continue;
            };
            told.extend(&path);
            let name = |(rollout, stage): &Node| {
                let config = rollouts.get(*rollout)?;
                Some(format!("{}:{}", config.plan.name, config.plan.stages.list.get(*stage)?.name))
            };
            let names: Vec<String> = [(rollout, index)].iter().chain(&path).filter_map(name).collect();
            let raw = entries.get(rollout).and_then(|entry| entry.value.as_ref());
            let stages = raw.iter().flat_map(|raw| &raw.stages).flat_map(|stages| &stages.value);
            let own = config.plan.stages.list.get(index).map(|stage| &stage.name);
            let named = stages
                .enumerate()
                .find(|(_, stage)| stage.value.name.as_ref().map(|name| &*name.value) == own.map(|own| &**own));
            let Some((at, after)) = named.and_then(|(at, stage)| Some((at, stage.value.after.as_ref()?))) else {
                continue;
            };
            let key = format!("rollouts.{}.stages[{at}].after", config.plan.name);
            let message = format!("{key}: goes in a circle, so none of these can ever begin: {}", names.join(" -> "));
            let place = context.problems.source().inside(after.place, &after.value, 0);
            context.problems.error(place, message);
        }
    }
}

/// The stage that its `after` names.
fn waits_for((rollout, index): Node, rollouts: &[RolloutConfig]) -> Option<Node> {
    let after = rollouts.get(rollout)?.plan.stages.list.get(index)?.after.as_ref()?;
    let other = rollouts.iter().position(|config| config.plan.name == after.rollout)?;
    let (stage, _) = rollouts.get(other)?.plan.stages.find(&after.stage)?;
    Some((other, stage))
}

/// The shortest way from one stage to another by what they wait for, both ends included.
fn path(from: Node, to: Node, rollouts: &[RolloutConfig]) -> Option<Vec<Node>> {
    let mut came_from: BTreeMap<Node, Option<Node>> = BTreeMap::from([(from, None)]);
    let mut next = VecDeque::from([from]);
    while let Some(node) = next.pop_front() {
        if node == to {
            let mut path = vec![node];
            while let Some(Some(before)) = path.last().and_then(|node| came_from.get(node)) {
                path.push(*before);
            }
            path.reverse();
            return Some(path);
        }
        let before = node.1.checked_sub(1).map(|index| (node.0, index));
        for waited in [before, waits_for(node, rollouts)].into_iter().flatten() {
            if let Entry::Vacant(unseen) = came_from.entry(waited) {
                unseen.insert(Some(node));
                next.push_back(waited);
            }
        }
    }
    None
}
