//! A request as any upstream may be asked with it: the client's words, and on whose behalf weir passes them on.

use super::conn::Client;
use super::headers::{Ids, Rewrite, Shown, Why};
use super::present::Present;
use crate::rollout::Arm;
use crate::rollout::assign::Decision;
use crate::snapshot::{ArmRoute, Route, Snapshot};
use http::HeaderName;
use http::request::Parts;

/// A request, with what is known of who sent it.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// The client's request.
    pub parts: &'a Parts,
    /// Which fields it has, of those that are looked for.
    pub present: Present,
    /// Who sent it.
    pub client: &'a Client,
    /// Its ids.
    pub ids: &'a Ids,
    /// The authority it asked for.
    pub host: &'a str,
    /// Whether its peer's forwarding headers are believed.
    pub trusted: bool,
    /// Whether it asks for a WebSocket that may be had.
    pub websocket: bool,
}

/// What an upstream is asked for.
#[derive(Clone, Copy)]
pub enum Role<'a> {
    /// The answer that the client gets.
    Primary,
    /// That answer, in the place of a canary that failed.
    Fallback,
    /// An answer that no client gets.
    Copy {
        /// The place on the route of the rollout that mirrors.
        place: usize,
        /// Whose answer is asked for: the canary's, or stable's once more.
        arm: Arm,
        /// Headers kept although they identify somebody.
        keep: &'a [HeaderName],
    },
}

impl<'a> Asked<'a> {
    /// What the rules for headers look at.
    pub fn rewrite(
        &self,
        snapshot: &'a Snapshot,
        route: &'a Route,
        decisions: &'a [Decision],
        role: Role<'a>,
    ) -> Rewrite<'a> {
        let Asked { parts, present, client, ids, host, trusted, websocket } = *self;
        let arms = Arms { snapshot, route, decisions, role };
        Rewrite { parts, present, websocket, client, trusted, host, ids, arms }
    }
}

/// The arms that an upstream stands for, one for each rollout on the route.
#[derive(Clone, Copy)]
pub struct Arms<'a> {
    snapshot: &'a Snapshot,
    route: &'a Route,
    decisions: &'a [Decision],
    /// As what it is asked.
    pub role: Role<'a>,
}

impl<'a> Arms<'a> {
    /// What the upstream is told of each, and what each sets and removes. As a fallback every rollout's stable arm applies.
    pub fn each(&self) -> impl Iterator<Item = (Shown<'a>, &'a ArmRoute)> {
        let Arms { snapshot, route, decisions, role } = *self;
        route.rollouts.iter().zip(decisions).enumerate().filter_map(move |(index, (on, decision))| {
            let (arm, why) = match (role, decision.arm) {
                (Role::Fallback, Arm::Canary) => (Arm::Stable, Why::Fallback),
                (Role::Copy { place, arm, .. }, _) if place == index => (arm, Why::Shadow),
                (_, arm) => (arm, Why::Decided(decision.reason)),
            };
            let (split, rollout) = (snapshot.splits.get(on.rollout)?, snapshot.rollouts.get(on.rollout)?);
            Some((Shown { split, stage: rollout.stage.as_deref(), arm, why }, rollout.arms.get(arm.index())?))
        })
    }
}
