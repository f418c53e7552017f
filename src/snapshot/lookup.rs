//! Which of many routes a request takes, without asking each of them: routes by host, and below that by path prefix.
//!
//! A request has few hosts and prefixes that a route could name: its own host and the names above it, its path and what is
//! left of it at each slash. Each is looked up once, so the cost grows with the labels and segments that routes really have and
//! not with the number of routes. What else a route asks for (methods, headers) is asked of those alone that share host and
//! prefix. The order of the config stays the law: among all that match the first wins. Built by `compile`, read by `proxy`.

use super::{HostPattern, Match, Route};
use ahash::AHashMap;
use std::borrow::Cow;
use std::iter;

/// Routes by what they match.
#[derive(Debug, Default)]
pub struct Lookup {
    /// Routes for any host.
    any: Prefixes,
    /// By host.
    exact: AHashMap<Box<str>, Prefixes>,
    /// By the end of the host, which starts with a dot.
    below: AHashMap<Box<str>, Prefixes>,
    /// The most dots that such an end has.
    dots_max: usize,
}

/// Routes by path prefix without slashes at its end, each list in the order of the config.
#[derive(Debug, Default)]
struct Prefixes {
    routes: AHashMap<Box<str>, Vec<usize>>,
    /// The most slashes that a prefix has.
    slashes_max: usize,
}

impl Lookup {
    /// None for few routes: asking each of them is quicker.
    pub fn if_many(routes: &[Route]) -> Option<Lookup> {
        let matches = || routes.iter().map(|route| &route.matches);
        (routes.len() > ASKED_ONE_BY_ONE_MAX).then(|| Lookup::of(matches()))
    }

    /// What routes match, in their order.
    pub fn of<'a>(matches: impl Iterator<Item = &'a Match>) -> Lookup {
        let mut lookup = Lookup::default();
        for (index, matches) in matches.enumerate() {
            let prefixes = match &matches.host {
                None => &mut lookup.any,
                Some(HostPattern::Exact(host)) => lookup.exact.entry(host.to_lowercase().into()).or_default(),
                Some(HostPattern::Suffix(end)) => {
                    lookup.dots_max = lookup.dots_max.max(end.matches('.').count());
                    lookup.below.entry(end.to_lowercase().into()).or_default()
                }
            };
            prefixes.add(matches.path_prefix.as_deref().unwrap_or_default(), index);
        }
        lookup
    }

    /// The first route that `accepts`, which has the last word: it is asked of candidates only.
    pub fn first(&self, host: &str, path: &str, accepts: impl Fn(usize) -> bool) -> Option<usize> {
        let mut best = self.any.first(path, None, &accepts);
        if self.exact.is_empty() && self.below.is_empty() {
            return best;
        }
        let host = match host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Cow::Owned(host.to_ascii_lowercase()),
            false => Cow::Borrowed(host),
        };
        if let Some(prefixes) = self.exact.get(&*host) {
            best = prefixes.first(path, best, &accepts);
        }
        for (dot, _) in host.rmatch_indices('.').take(self.dots_max) {
            if let Some(prefixes) = host.get(dot..).and_then(|end| self.below.get(end)) {
                best = prefixes.first(path, best, &accepts);
            }
        }
        best
    }
}

impl Prefixes {
    fn add(&mut self, prefix: &str, index: usize) {
        let prefix = prefix.trim_end_matches('/');
        self.slashes_max = self.slashes_max.max(prefix.matches('/').count());
        self.routes.entry(prefix.into()).or_default().push(index);
    }

    /// The first route that accepts among those before `best`, or else `best`.
    fn first(&self, path: &str, best: Option<usize>, accepts: &impl Fn(usize) -> bool) -> Option<usize> {
        if self.routes.is_empty() {
            return best;
        }
        // A prefix with n slashes ends at the path's slash number n + 1, or with the path; one with none is empty.
        let slashes = path.match_indices('/').map(|(slash, _)| slash).filter(|slash| *slash > 0);
        let cuts = iter::once(0).chain(slashes).chain([path.len()]);
        let mut best = best;
        for prefix in cuts.take(self.slashes_max.saturating_add(1)).filter_map(|end| path.get(..end)) {
            let Some(routes) = self.routes.get(prefix) else { continue };
            let mut earlier = routes.iter().copied().take_while(|index| best.is_none_or(|best| *index < best));
            best = earlier.find(|index| accepts(*index)).or(best);
        }
        best
    }
}

/// Some 100 instructions for each route that is asked, against some 500 for looking it up.
const ASKED_ONE_BY_ONE_MAX: usize = 8;
