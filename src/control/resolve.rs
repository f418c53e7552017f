//! Turns the names of endpoints into addresses, off the workers.
//!
//! Every name is asked for at the start, with every reload and every 10 seconds. All addresses of a name become
//! endpoints. A question that fails leaves the last answer in force. It publishes nothing: it tells whether the answer
//! differs, and the supervisor does the rest.

use crate::clock::Time;
use crate::config::UpstreamConfig;
use crate::snapshot::{Endpoint, Health};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};

/// How long between two questions for the same name: the time-to-live that most load balancers' names have is longer.
pub const ASK_EVERY: Duration = Duration::from_secs(10);

/// What is known of every name.
#[derive(Debug)]
pub struct Resolver {
    names: BTreeMap<Name, Known>,
    ids: BTreeMap<(Arc<str>, Arc<str>, SocketAddr), Id>,
    next_id: u32,
    /// Lookups block a thread each; a resolver that hangs must not take them all.
    slots: Arc<Semaphore>,
    answers: mpsc::Sender<Answer>,
}

/// A name to be asked for, with the port that goes with it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    host: String,
    port: u16,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)
    }
}

/// The answer to one question.
#[derive(Debug)]
pub struct Answer {
    name: Name,
    addresses: Result<Vec<SocketAddr>, String>,
}

#[derive(Debug, Default)]
struct Known {
    addresses: Vec<SocketAddr>,
    asked: bool,
    answered: bool,
    problem: Option<String>,
}

#[derive(Debug)]
struct Id {
    id: u32,
    seen: Time,
    /// Shared by all snapshots that name the endpoint.
    health: Arc<Health>,
}

impl Resolver {
    /// Knows nothing; answers will go to `answers`.
    pub fn new(answers: mpsc::Sender<Answer>) -> Self {
        let slots = Arc::new(Semaphore::new(LOOKUPS_MAX));
        Resolver { names: BTreeMap::new(), ids: BTreeMap::new(), next_id: 0, slots, answers }
    }

    /// Takes note of the names in use; addresses need no question.
    pub fn adopt<'u>(&mut self, upstreams: impl IntoIterator<Item = &'u UpstreamConfig>) {
        let mut before = std::mem::take(&mut self.names);
        for endpoint in upstreams.into_iter().flat_map(|upstream| &upstream.endpoints) {
            let name = Name { host: endpoint.host.clone(), port: endpoint.port };
            let known = before.remove(&name);
            match self.names.entry(name) {
                Entry::Occupied(_) => {}
                Entry::Vacant(place) => drop(place.insert(known.unwrap_or_default())),
            }
        }
        for (name, known) in &mut self.names {
            if let Ok(address) = name.host.parse::<IpAddr>() {
                *known =
                    Known { addresses: vec![SocketAddr::new(address, name.port)], answered: true, ..Known::default() };
            }
        }
    }

    /// Asks for every name that is not being asked for already. Must be called within a runtime.
    pub fn ask(&mut self) {
        for (name, known) in &mut self.names {
            if known.asked || name.host.parse::<IpAddr>().is_ok() {
                continue;
            }
            known.asked = true;
            let (name, slots, answers) = (name.clone(), Arc::clone(&self.slots), self.answers.clone());
            tokio::spawn(async move {
                // The semaphore is never closed.
                let _slot = slots.acquire_owned().await;
                let addresses = look_up(&name).await;
                // The receiver is gone only when the control plane ends.
                let _ = answers.send(Answer { name, addresses }).await;
            });
        }
    }

    /// Takes an answer in. True if addresses changed.
    pub fn take(&mut self, answer: Answer) -> bool {
        let Answer { name, addresses } = answer;
        let Some(known) = self.names.get_mut(&name) else { return false };
        known.asked = false;
        known.answered = true;
        match addresses.map(one_family) {
            Ok(addresses) => {
                known.problem = None;
                let changed = known.addresses != addresses;
                known.addresses = addresses;
                changed
            }
            Err(problem) => {
                if known.problem.as_ref() != Some(&problem) {
                    let kept = known.addresses.len();
                    tracing::warn!(name = %name, problem, kept, "a name cannot be resolved");
                }
                known.problem = Some(problem);
                false
            }
        }
    }

    /// Whether every name has had an answer, good or bad.
    pub fn is_settled(&self) -> bool {
        self.names.values().all(|known| known.answered)
    }

    /// One line for every name that could not be resolved when it was last asked for.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        self.names.iter().filter_map(|(name, known)| {
            let problem = known.problem.as_ref()?;
            let kept = if known.addresses.is_empty() { "it has no address" } else { "its last addresses stay in use" };
            Some(format!("endpoint name `{name}` cannot be resolved ({problem}); {kept}"))
        })
    }

    /// The present endpoints of every upstream. The same upstream, authority and address always have the same id, and
    /// with it the same health.
    pub fn endpoints(&mut self, upstreams: &[UpstreamConfig], now: Time) -> BTreeMap<Arc<str>, Vec<Endpoint>> {
        let mut all = BTreeMap::new();
        for upstream in upstreams {
            let mut endpoints = Vec::new();
            for endpoint in &upstream.endpoints {
                let name = Name { host: endpoint.host.clone(), port: endpoint.port };
                for address in self.names.get(&name).map(|known| known.addresses.clone()).unwrap_or_default() {
                    let (id, health) = self.id_of(&upstream.name, &endpoint.authority, address, now);
                    let (authority, server_name) = (Arc::clone(&endpoint.authority), endpoint.server_name.clone());
                    endpoints.push(Endpoint { id, authority, server_name, address, health });
                }
            }
            all.insert(Arc::clone(&upstream.name), endpoints);
        }
        self.ids.retain(|_, id| now.since(id.seen) < FORGET_AFTER);
        all
    }

    fn id_of(
        &mut self,
        upstream: &Arc<str>,
        authority: &Arc<str>,
        address: SocketAddr,
        now: Time,
    ) -> (u32, Arc<Health>) {
        let next = &mut self.next_id;
        let id = self.ids.entry((Arc::clone(upstream), Arc::clone(authority), address)).or_insert_with(|| {
            *next = next.wrapping_add(1);
            Id { id: *next, seen: now, health: Arc::default() }
        });
        id.seen = now;
        (id.id, Arc::clone(&id.health))
    }
}

/// Lookups under way at once.
const LOOKUPS_MAX: usize = 8;
/// How long one lookup may take; its thread may be busy for longer.
const LOOK_UP_WITHIN: Duration = Duration::from_secs(5);
/// How long the id of an address that is gone is kept, in case it comes back: longer than pooled connections live.
const FORGET_AFTER: Duration = Duration::from_secs(600);

async fn look_up(name: &Name) -> Result<Vec<SocketAddr>, String> {
    let lookup = tokio::net::lookup_host((name.host.as_str(), name.port));
    match tokio::time::timeout(LOOK_UP_WITHIN, lookup).await {
        Ok(Ok(addresses)) => {
            let addresses: Vec<SocketAddr> = addresses.collect();
            if addresses.is_empty() { Err("no address".into()) } else { Ok(addresses) }
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", LOOK_UP_WITHIN.as_secs())),
    }
}

/// Every address once, in a fixed order. A name with addresses of both families names the same hosts twice, and often
/// one family does not reach them (`localhost` of a service that listens on 127.0.0.1): then IPv4 alone is used.
fn one_family(mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    if addresses.iter().any(SocketAddr::is_ipv4) {
        addresses.retain(SocketAddr::is_ipv4);
    }
    addresses.sort();
    addresses.dedup();
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(name: &str, hosts: &[(&str, u16)]) -> UpstreamConfig {
        let endpoints = hosts.iter().map(|(host, port)| crate::config::EndpointConfig {
            authority: format!("{host}:{port}").into(),
            host: (*host).to_owned(),
            port: *port,
            tls: false,
            server_name: None,
        });
        UpstreamConfig {
            name: name.into(),
            endpoints: endpoints.collect(),
            http2: false,
            tls: None,
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(1),
            max_connections: 1,
            health: None,
        }
    }

    fn resolver() -> (Resolver, mpsc::Receiver<Answer>) {
        let (answers, heard) = mpsc::channel(8);
        (Resolver::new(answers), heard)
    }

    fn answer(host: &str, addresses: Result<&[&str], &str>) -> Answer {
        let addresses = addresses.map(|all| all.iter().map(|text| text.parse().unwrap()).collect());
        Answer { name: Name { host: host.into(), port: 80 }, addresses: addresses.map_err(str::to_owned) }
    }

    fn addresses(resolver: &mut Resolver, upstreams: &[UpstreamConfig]) -> Vec<(String, u32)> {
        let all = resolver.endpoints(upstreams, Time::default());
        all.values().flatten().map(|endpoint| (endpoint.address.to_string(), endpoint.id)).collect()
    }

    #[test]
    fn addresses_need_no_question() {
        let (mut resolver, _heard) = resolver();
        let upstreams = [upstream("new", &[("127.0.0.1", 81), ("::1", 82)])];
        resolver.adopt(&upstreams);
        assert!(resolver.is_settled());
        let found = addresses(&mut resolver, &upstreams);
        assert_eq!(found, [("127.0.0.1:81".to_owned(), 1), ("[::1]:82".to_owned(), 2)]);
    }

    #[test]
    fn every_address_of_a_name_is_an_endpoint_and_keeps_its_id() {
        let (mut resolver, _heard) = resolver();
        let upstreams = [upstream("new", &[("svc", 80)])];
        resolver.adopt(&upstreams);
        assert!(!resolver.is_settled());
        assert!(resolver.take(answer("svc", Ok(&["10.0.0.2:80", "10.0.0.1:80", "10.0.0.2:80"]))));
        let first = addresses(&mut resolver, &upstreams);
        assert_eq!(first, [("10.0.0.1:80".to_owned(), 1), ("10.0.0.2:80".to_owned(), 2)]);
        assert!(!resolver.take(answer("svc", Ok(&["10.0.0.1:80", "10.0.0.2:80"]))), "another order is no change");
        assert!(resolver.take(answer("svc", Ok(&["10.0.0.2:80", "10.0.0.3:80"]))));
        let second = addresses(&mut resolver, &upstreams);
        assert_eq!(second, [("10.0.0.2:80".to_owned(), 2), ("10.0.0.3:80".to_owned(), 3)]);
        assert!(resolver.take(answer("svc", Ok(&["10.0.0.1:80"]))));
        assert_eq!(addresses(&mut resolver, &upstreams), [("10.0.0.1:80".to_owned(), 1)], "it came back");
    }

    #[test]
    fn a_failure_keeps_the_last_addresses_and_is_told() {
        let (mut resolver, _heard) = resolver();
        let upstreams = [upstream("new", &[("svc", 80)])];
        resolver.adopt(&upstreams);
        assert!(!resolver.take(answer("svc", Err("no such host"))));
        assert!(resolver.is_settled());
        assert!(resolver.problems().next().unwrap().contains("no address"));
        resolver.take(answer("svc", Ok(&["10.0.0.1:80"])));
        assert_eq!(resolver.problems().count(), 0);
        assert!(!resolver.take(answer("svc", Err("server failed"))));
        assert_eq!(addresses(&mut resolver, &upstreams).len(), 1);
        assert!(resolver.problems().next().unwrap().contains("last addresses stay"));
        resolver.adopt(&[upstream("new", &[("127.0.0.1", 80)])]);
        assert_eq!(resolver.problems().count(), 0);
        assert!(!resolver.take(answer("svc", Ok(&["10.0.0.9:80"]))), "nobody wants to know any more");
    }

    #[test]
    fn of_two_families_only_one_is_used() {
        let both = ["[::1]:80", "127.0.0.1:80"].map(|text| text.parse().unwrap());
        assert_eq!(one_family(both.to_vec()), ["127.0.0.1:80".parse().unwrap()]);
        assert_eq!(one_family(both[..1].to_vec()), both[..1]);
    }

    #[tokio::test]
    async fn a_real_name_is_looked_up() {
        let (mut resolver, mut heard) = resolver();
        let upstreams = [upstream("new", &[("localhost", 80)])];
        resolver.adopt(&upstreams);
        resolver.ask();
        resolver.ask();
        let answer = heard.recv().await.unwrap();
        assert!(resolver.take(answer));
        assert_eq!(addresses(&mut resolver, &upstreams), [("127.0.0.1:80".to_owned(), 1)]);
        assert!(heard.try_recv().is_err(), "a name is asked for once at a time");
    }
}
