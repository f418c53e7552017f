//! Every 25 ms: what happened to each rollout goes to its breaker, by way of the engine like every other input.

use super::super::measure::Subject;
use super::Supervisor;
use crate::clock::Time;
use crate::config::{ArmTo, Config, RolloutConfig};
use crate::rollout::Arm;
use crate::rollout::engine::Input;
use std::sync::Arc;

impl Supervisor {
    /// Measures every rollout for its breaker; whether one of them is not at rest.
    pub(super) fn look(&mut self, now: Time) -> bool {
        let config = Arc::clone(&self.config);
        let mut restless = false;
        let mut latches = Vec::with_capacity(config.rollouts.len());
        for rollout in &config.rollouts {
            let name = &rollout.plan.name;
            let moved = self.collector.take_moved(name);
            let Some(state) = self.engine.standing(name).map(|standing| standing.breaker()) else { continue };
            let latch = self.publisher.watch(name);
            let Some(rules) = &rollout.plan.breaker else {
                // A request that began under a breaker may have opened the circuit after that was switched off.
                if latch.read().state() != state {
                    self.publisher.circuit(name, state);
                }
                continue;
            };
            let units = self.publisher.registry.units(name);
            let healthy = self.canary_is_healthy(&config, rollout);
            let subject = Subject { rollout: name, rules, state, latch: &latch, units: &units, healthy };
            if let Some(measured) = self.measurer.look(&subject, moved, now) {
                restless = true;
                let input = Input::Measured { rollout: Arc::clone(name), measured: Box::new(measured) };
                // What is denied, because it cannot be written down, comes again by itself.
                let _ = self.carry_out(input);
                let breaker = self.engine.standing(name).and_then(|standing| standing.runtime.breaker.as_ref());
                latch.mark_stable_sick(breaker.is_some_and(|breaker| breaker.stable_sick()));
            }
            latches.push(latch);
        }
        self.measurer.turn(latches.iter().map(|latch| &**latch), now);
        restless
    }

    /// Whether the canary has somewhere to go that stable has not: what both depend on is nobody's fault.
    fn canary_is_healthy(&self, config: &Config, rollout: &RolloutConfig) -> bool {
        match (&rollout.arm(Arm::Stable).to, &rollout.arm(Arm::Canary).to) {
            (ArmTo::Upstream(stable), ArmTo::Upstream(canary)) if stable == canary => true,
            (_, ArmTo::Upstream(canary)) => {
                config.upstreams.get(*canary).is_none_or(|upstream| self.is_healthy(&upstream.name))
            }
            _ => true,
        }
    }

    /// Whether an upstream has an endpoint that passes its checks. Without checks everything does.
    fn is_healthy(&self, upstream: &str) -> bool {
        self.publisher.present().is_none_or(|snapshot| snapshot.is_healthy(upstream))
    }
}
