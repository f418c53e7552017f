//! Named sets of units: lists, files, opt-in headers and cookies, own shares.
//!
//! A cohort says who belongs to it; what follows from that is `assign`'s business. Called by `assign::decide`.

use super::assign::Asker;
use super::bucket::{Bucketer, Weight};
pub use super::users::{SET_BYTES_MAX, SetFull, UserSet};
use std::sync::Arc;

/// How many cohorts a rollout may have: each owns one bit of the rollout's latch.
pub const COHORTS_MAX: usize = 48;

/// Members added and removed at run time, over the configured set.
#[derive(Debug, Default)]
pub struct Overlay {
    /// Members although the config does not list them.
    pub added: UserSet,
    /// No members although the config lists them.
    pub removed: UserSet,
}

/// One cohort as a decision sees it. A unit belongs to it if any of its criteria says so.
#[derive(Clone, Debug)]
pub struct Cohort {
    /// Its name.
    pub name: Arc<str>,
    /// Its switch in the config; off means that the cohort neither admits nor excludes anybody.
    pub enabled: bool,
    /// Members go to stable for good instead of to the canary.
    pub exclude: bool,
    /// `users` and `users_file`.
    pub users: Arc<UserSet>,
    /// Changes made at run time.
    pub overlay: Arc<Overlay>,
    /// Opt-in header: lower-case name and exact value.
    pub header: Option<(Arc<str>, Arc<str>)>,
    /// Opt-in cookie: name and exact value.
    pub cookie: Option<(Arc<str>, Arc<str>)>,
    /// Its own share of all units, under its own salt.
    pub share: Option<(Bucketer, Weight)>,
}

impl Cohort {
    /// A cohort of that name that is enabled, includes, and has no criterion yet.
    pub fn new(name: impl Into<Arc<str>>) -> Cohort {
        Cohort {
            name: name.into(),
            enabled: true,
            exclude: false,
            users: Arc::default(),
            overlay: Arc::default(),
            header: None,
            cookie: None,
            share: None,
        }
    }

    /// Whether the request belongs to the cohort: by its unit (list or share) or, with or without a unit, by its header
    /// or cookie. The switches are not asked.
    #[inline]
    pub fn contains<A: Asker>(&self, unit: Option<&str>, asker: &A) -> bool {
        unit.is_some_and(|unit| self.lists(unit) || self.shares(unit)) || self.opted_in(asker)
    }

    /// Whether the lists have the unit: config and run-time additions, less those that were removed from the config's.
    #[inline]
    pub fn lists(&self, unit: &str) -> bool {
        (self.users.contains(unit) && !self.overlay.removed.contains(unit)) || self.overlay.added.contains(unit)
    }

    /// How many units the lists have.
    pub fn listed(&self) -> usize {
        let Overlay { added, removed } = &*self.overlay;
        let taken_out = removed.iter().filter(|unit| self.users.contains(unit) && !added.contains(unit)).count();
        let put_in = added.iter().filter(|unit| !self.users.contains(unit)).count();
        self.users.len() - taken_out + put_in
    }

    fn shares(&self, unit: &str) -> bool {
        self.share.as_ref().is_some_and(|(bucketer, weight)| bucketer.admits(unit, *weight))
    }

    fn opted_in<A: Asker>(&self, asker: &A) -> bool {
        let header = self.header.as_ref();
        let cookie = self.cookie.as_ref();
        header.is_some_and(|(name, value)| asker.header(name).is_some_and(|sent| sent == **value))
            || cookie.is_some_and(|(name, value)| asker.cookie(name).is_some_and(|sent| sent == **value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::assign::UnitAsker;

    fn cohort() -> Cohort {
        Cohort {
            users: Arc::new(UserSet::from_iter(["ann", "bob"])),
            overlay: Arc::new(Overlay {
                added: UserSet::from_iter(["bob", "cyd"]),
                removed: UserSet::from_iter(["ann", "bob", "nobody"]),
            }),
            header: Some((Arc::from("x-beta"), Arc::from("1"))),
            cookie: Some((Arc::from("beta"), Arc::from("yes"))),
            ..Cohort::new("internal")
        }
    }

    fn has(cohort: &Cohort, asker: &UnitAsker<'_>) -> bool {
        cohort.contains(asker.unit(0).as_deref(), asker)
    }

    #[test]
    fn removal_takes_out_listed_members_and_addition_outranks_it() {
        let cohort = cohort();
        let listed = ["ann", "bob", "cyd", "nobody"].map(|unit| has(&cohort, &UnitAsker::of(unit)));
        assert_eq!(listed, [false, true, true, false]);
        assert_eq!(cohort.listed(), 2);
    }

    #[test]
    fn a_removed_member_may_still_opt_in() {
        assert!(has(&cohort(), &UnitAsker::of("ann").with_header("x-beta", "1")));
    }

    #[test]
    fn header_and_cookie_need_no_unit_but_the_exact_value() {
        let cohort = cohort();
        assert!(has(&cohort, &UnitAsker::default().with_header("X-Beta", "1")));
        assert!(has(&cohort, &UnitAsker::default().with_cookie("beta", "yes")));
        assert!(!has(&cohort, &UnitAsker::default().with_header("x-beta", "10")));
        assert!(!has(&cohort, &UnitAsker::default().with_cookie("beta", "Yes")));
        assert!(!has(&cohort, &UnitAsker::default().with_cookie("Beta", "yes")));
        assert!(!has(&cohort, &UnitAsker::default()));
    }

    #[test]
    fn a_share_is_asked_of_units_only() {
        let everyone = Cohort { share: Some((Bucketer::native("s"), Weight::FULL)), ..Cohort::new("all") };
        assert!(has(&everyone, &UnitAsker::of("anyone")));
        assert!(!has(&everyone, &UnitAsker::default()));
    }
}
