//! A request that is only described: what `explain` and `/flags` are asked about.
//!
//! It finds a rollout's unit in the described headers and cookies as the data plane finds it in real ones; a unit that
//! comes from a query, a token or an address has to be given by name. Called by the API and by `weir explain -c`.

use crate::clock::Wall;
use crate::rollout::Arm;
use crate::rollout::assign::{Switches, UnitAsker};
use crate::rollout::force;
use crate::snapshot::{Secret, UnitSource};

/// The description.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// The unit for every rollout, if it is given by name.
    pub unit: Option<String>,
    /// Headers in order.
    pub headers: Vec<(String, String)>,
    /// Cookies in order.
    pub cookies: Vec<(String, String)>,
}

/// What tokens are held against.
pub struct Forcing<'a> {
    /// The rollouts' names, by index.
    pub rollouts: &'a [&'a str],
    /// What signs tokens, if anything does.
    pub secret: Option<&'a Secret>,
    /// The present time.
    pub now: Wall,
}

impl Question {
    /// Whether nothing is described.
    pub fn is_empty(&self) -> bool {
        self.unit.is_none() && self.headers.is_empty() && self.cookies.is_empty()
    }

    /// The asker for rollouts that take their units from `sources`, with their `switches`; both by index. A token in its
    /// header or cookie forces an arm; plain words do not, because nobody has sent them.
    pub fn asker<'s>(
        self,
        forcing: &Forcing<'_>,
        sources: impl Iterator<Item = &'s [UnitSource]>,
        switches: impl IntoIterator<Item = Switches>,
    ) -> UnitAsker<'static> {
        let units: Vec<Option<String>> = sources.map(|sources| self.unit_from(sources)).collect();
        let forced = self.forced(forcing);
        let asker = self.unit.map(UnitAsker::of).unwrap_or_default().with_units(units);
        let asker = asker.with_switches(switches).with_forced(forced);
        let asker = self.headers.into_iter().fold(asker, |asker, (name, value)| asker.with_header(&name, value));
        self.cookies.into_iter().fold(asker, |asker, (name, value)| asker.with_cookie(name, value))
    }

    fn forced(&self, Forcing { rollouts, secret, now }: &Forcing<'_>) -> Vec<(usize, Arm)> {
        let Some(Secret(key)) = secret else { return Vec::new() };
        let header = first(&self.headers, |given| given.eq_ignore_ascii_case(force::NAME));
        let cookie = first(&self.cookies, |given| given == force::NAME);
        let arms = header.into_iter().chain(cookie).flat_map(|value| force::arms(value, Some(key), false, *now));
        arms.filter_map(|(name, arm)| Some((rollouts.iter().position(|rollout| *rollout == name)?, arm))).collect()
    }

    fn unit_from(&self, sources: &[UnitSource]) -> Option<String> {
        let found = sources.iter().find_map(|source| match source {
            UnitSource::Header(name) => first(&self.headers, |given| given.eq_ignore_ascii_case(name.as_str())),
            UnitSource::Cookie(name) => first(&self.cookies, |given| given == &**name),
            UnitSource::Query(_) | UnitSource::Jwt { .. } | UnitSource::ClientIp => None,
        });
        found.map(str::to_owned)
    }
}

/// The first value of that name which is not empty.
fn first(pairs: &[(String, String)], is_named: impl Fn(&str) -> bool) -> Option<&str> {
    let mut values = pairs.iter().filter(|(name, _)| is_named(name)).map(|(_, value)| value.trim());
    values.find(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::assign::Asker;
    use http::HeaderName;

    #[test]
    fn each_rollout_finds_its_unit_where_its_sources_say() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let header = UnitSource::Header(HeaderName::from_static("x-user-id"));
        let cookie = UnitSource::Cookie("session".into());
        let sources = [vec![header.clone(), cookie.clone()], vec![cookie.clone()], vec![UnitSource::ClientIp]];
        let described = Question {
            unit: None,
            headers: vec![pair("X-User-Id", " "), pair("X-User-Id", " ann ")],
            cookies: vec![pair("Session", "no"), pair("session", "s1")],
        };
        let nobody = Forcing { rollouts: &[], secret: None, now: Wall::default() };
        let asker = described.clone().asker(&nobody, sources.iter().map(Vec::as_slice), []);
        let units: Vec<_> = (0..4).map(|rollout| asker.unit(rollout).map(String::from)).collect();
        assert_eq!(units, [Some("ann".to_owned()), Some("s1".to_owned()), None, None]);

        let (now, key) = (Wall::from_millis(1_000), Secret(b"a secret of theirs"[..].into()));
        let forcing = Forcing { rollouts: &["search", "chat"], secret: Some(&key), now };
        let token = |until| force::sign(&key.0, "chat", Arm::Canary, Wall::from_millis(until));
        for (until, arm) in [(9_000, Some(Arm::Canary)), (1_000, None)] {
            let words = format!("search=canary, {}", token(until));
            let headers = vec![pair("X-Weir-Force", &words)];
            let asker = Question { headers, ..Question::default() }.asker(&forcing, [].into_iter(), []);
            assert_eq!([0, 1].map(|rollout| asker.forced(rollout)), [None, arm]);
        }

        let named = Question { unit: Some("bob".to_owned()), ..described };
        let asker = named.asker(&nobody, sources.iter().map(Vec::as_slice), []);
        assert_eq!(asker.unit(2).as_deref(), Some("bob"));
    }
}
