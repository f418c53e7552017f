//! Faults at every step of the protocol between weir and its upstreams, one request at a time: each request is answered or
//! fails in a way that its client can see, no POST is submitted twice, nothing is left behind, and the next request
//! succeeds.

use crate::chaos_cases::{Case, Cases, Layout, SLOW, Step};
use crate::harness::caller::{Caller, Ending};
use crate::harness::chance::{Telling, requests, rng, seed};
use crate::harness::metrics::Metrics;
use crate::harness::oracle::{Form, Framing, ID, Oracle, Submitted, ask, duplicates, is_right};
use crate::harness::relay::{At, Done, Fault, Shot};
use crate::harness::wait::eventually;
use crate::harness::{Config, Relay, Weir};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::task::{JoinSet, LocalSet};

/// One way from weir to an oracle, over a relay of its own.
pub struct Lane {
    /// Its upstream, rollout and route are called so.
    pub name: String,
    /// On the way.
    pub relay: Relay,
    /// At its end.
    pub oracle: Oracle,
    /// What the upstream speaks.
    pub http2: bool,
    /// Whether stable may answer what this one failed.
    pub falls_back: bool,
    /// What each request was to meet, by id.
    pub cases: Mutex<BTreeMap<String, Case>>,
}

/// A weir with several lanes, each the canary of a rollout of its own; stable is the same oracle for all.
pub struct World {
    /// The proxy.
    pub weir: Weir,
    /// The lanes; the odd ones fall back.
    pub lanes: Vec<Arc<Lane>>,
    /// Stable.
    pub steady: Oracle,
}

impl World {
    /// A new one. `upstream` are keys of every lane's upstream, `tables` whole tables.
    pub async fn start(http2: bool, lanes: usize, workers: usize, upstream: &str, tables: &str) -> World {
        let steady = Oracle::start("steady").await;
        let mut text = tables.to_owned();
        let mut ready = Vec::new();
        for number in 0..lanes {
            let (name, oracle) = (format!("lane{number}"), Oracle::start(&format!("lane{number}")).await);
            let relay = Relay::to(oracle.origin.address).await;
            let (protocol, address) = (if http2 { "h2" } else { "http/1.1" }, relay.address);
            let falls_back = number % 2 == 1;
            let fallback = if falls_back { "safe" } else { "off" };
            write!(
                text,
                "\n[upstreams.{name}]\nendpoints = [\"{address}\"]\nprotocol = \"{protocol}\"\n{upstream}\n\
                 [rollouts.{name}]\nunit = [\"header:x-user-id\"]\nweight = \"100%\"\n\
                 stable = {{ upstream = \"legacy\" }}\ncanary = {{ upstream = \"{name}\" }}\n\
                 breaker = {{ consecutive_errors = 0, error_rate = false, fallback = \"{fallback}\" }}\n\
                 [[routes]]\nname = \"{name}\"\nmatch = {{ path_prefix = \"/{name}/\" }}\nrollouts = [\"{name}\"]\n"
            )
            .expect("a text has room");
            ready.push(Arc::new(Lane { name, relay, oracle, http2, falls_back, cases: Mutex::default() }));
        }
        let config = Config::split(&steady.origin, &steady.origin).workers(workers).tables(&text);
        World { weir: Weir::start(&config).await, lanes: ready, steady }
    }

    /// Nothing was submitted twice, nothing is under way, and weir holds no connection that is of no use.
    pub async fn settle(self, garbled: bool) {
        let quiet = |metrics: &Metrics| {
            metrics.count("weir_requests_in_flight", &[]) == 0
                && metrics.count("weir_upstream_connections", &[("state", "active")]) == 0
        };
        self.weir.metrics_until("no request under way", quiet).await;
        for lane in &self.lanes {
            lane.relay.end_connections(Fault::Cut);
        }
        for lane in &self.lanes {
            lane.relay.until("weir to let go of every dead connection", |done| done.open == 0).await;
        }
        let idle = |metrics: &Metrics| self.lanes.iter().all(|lane| connections(metrics, lane) == 0);
        self.weir.metrics_until("no idle connection", idle).await;
        let mut counts = vec![self.steady.submitted("POST", None)];
        counts.extend(self.lanes.iter().map(|lane| lane.oracle.submitted("POST", Some(&lane.relay))));
        let posts: usize = counts.iter().map(BTreeMap::len).sum();
        println!("{posts} POSTs submitted, WEIR_CHAOS_SEED={}", seed());
        let twice: Vec<String> = duplicates(&counts).into_iter().map(|(id, sum)| self.tell(&id, sum)).collect();
        assert!(twice.is_empty(), "POSTs that were submitted twice, WEIR_CHAOS_SEED={}:\n{}", seed(), twice.join("\n"));
        if !garbled {
            let mixed_up: Vec<String> = self.lanes.iter().flat_map(|lane| lane.oracle.mixed_up()).collect();
            assert_eq!(mixed_up, Vec::<String>::new(), "requests that have another one's body");
        }
        self.weir.stop().await;
    }

    /// Where a request went, and what it met.
    fn tell(&self, id: &str, submitted: Submitted) -> String {
        let mut text = format!("{id}: {submitted:?}");
        for lane in &self.lanes {
            if let Some(case) = lane.cases.lock().expect("nobody panics with it").get(id) {
                write!(text, ", {case}").expect("a text has room");
            }
        }
        let origins = self.lanes.iter().map(|lane| &lane.oracle).chain([&self.steady]);
        for seen in origins.flat_map(|oracle| oracle.origin.state().requests).filter(|seen| seen.field(ID) == Some(id))
        {
            write!(text, "\n  {seen:?}").expect("a text has room");
        }
        text
    }
}

fn connections(metrics: &Metrics, lane: &Lane) -> u64 {
    metrics.count("weir_upstream_connections", &[("upstream", &lane.name)])
}

/// Whether requests before and after a case must succeed at once, or some time after weir has noticed.
#[derive(Clone, Copy, PartialEq)]
enum Next {
    AtOnce,
    Eventually,
}

/// Carries out cases on one lane, one after the other.
struct Runner {
    lane: Arc<Lane>,
    callers: [Caller; 2],
    next: Next,
    asked: u64,
    /// Requests that met the end of another connection than they were to.
    missed: u64,
}

impl Runner {
    fn new(lane: &Arc<Lane>, address: SocketAddr, next: Next) -> Runner {
        let callers = [Caller::new(address, false), Caller::new(address, true)];
        Runner { lane: Arc::clone(lane), callers, next, asked: 0, missed: 0 }
    }

    fn id(&mut self) -> String {
        self.asked += 1;
        format!("{}-{:07}", self.lane.name, self.asked)
    }

    async fn call(&mut self, http2: bool, method: &'static str, framing: Framing, form: Form) -> (Ending, String) {
        let id = self.id();
        let ask = ask(method, &format!("/{}", self.lane.name), &id, framing, form);
        (self.callers[usize::from(http2)].call(&ask).await, id)
    }

    /// A request that nothing stands in the way of; it leaves a pooled connection behind. It is a GET, because weir may
    /// learn of a connection's end together with the next request, and nobody may repeat a POST then.
    async fn clean(&mut self, http2: bool) {
        let (method, framing) = ("GET", Framing::Nothing);
        if self.next == Next::AtOnce {
            let (ending, id) = self.call(http2, method, framing, Form::Sized).await;
            assert!(is_right(&ending, &id), "nothing stood in the way of {method} {id}: {ending:?}");
            return;
        }
        eventually("a request that succeeds", async || {
            let (ending, id) = self.call(http2, method, framing, Form::Sized).await;
            is_right(&ending, &id).then_some(())
        })
        .await;
    }

    /// Makes weir open a new connection for the next request.
    async fn refresh(&mut self) {
        self.lane.relay.end_connections(Fault::Cut);
        // HTTP/1.1 connections lie idle until somebody wants them; a proper HTTP/2 client reads on.
        let http2 = self.lane.http2;
        self.lane.relay.until("the end of all", |done| if http2 { done.open == 0 } else { done.whole == 0 }).await;
    }

    async fn run(&mut self, case: Case) {
        let _telling = Telling(format!("{}: {case}", self.lane.name));
        self.clean(case.http2_client).await;
        if !case.pooled {
            self.refresh().await;
        }
        let look = |done: &Done| (done.fired.len(), done.streams, done.accepted, done.accepted - done.whole);
        let (fired, streams, accepted, broken) = self.lane.relay.look(look);
        match case.shot() {
            Some(shot) => self.lane.relay.arm(shot),
            None => self.lane.relay.listen(false).await,
        }
        let (ending, id) = self.call(case.http2_client, case.method, case.framing, case.form).await;
        self.lane.cases.lock().expect("nobody panics with it").insert(id.clone(), case);
        self.lane.relay.disarm();
        self.lane.relay.listen(true).await;
        let happened = self.lane.relay.look(|done| done.fired.len()) > fired || case.step == Step::BeforeAccept;
        self.judge(&case, happened, accepted, &ending, &id);
        if happened && case.breaks() {
            // What breaks after an answer may do so after its client has it.
            self.lane.relay.until("the break", |done| done.accepted - done.whole > broken).await;
        }
        let begun = self.lane.relay.look(|done| done.streams) - streams;
        assert!(case.method != "POST" || begun <= 1, "a POST was begun {begun} times: {ending:?}");
        if case.fault == Fault::Garble {
            // A changed length may have left the two sides at odds about where the next message begins.
            self.refresh().await;
        }
    }

    fn judge(&mut self, case: &Case, happened: bool, accepted: u64, ending: &Ending, id: &str) {
        let told = matches!(ending, Ending::Answer { status: 502..=504, origin: None, .. } | Ending::Cut);
        if self.next == Next::Eventually && told && (!happened || case.is_harmless()) {
            // Deadlines are so short here that a busy machine meets them by itself.
            return;
        }
        if !happened && !case.pooled && self.lane.relay.look(|done| done.accepted) == accepted {
            // The connection had ended in the moment before: the request met that end, not the one that it was to meet.
            self.missed += 1;
            assert!(self.missed <= 1 + self.asked / 1000, "weir sends on connections that it could know to be dead");
            assert!(told || (self.lane.falls_back && is_right(ending, id)), "{ending:?}");
            return;
        }
        if let Err(why) = case.allows(happened, self.lane.falls_back, ending, id) {
            panic!("{why}: {ending:?}");
        }
    }

    async fn layout(&mut self) -> Layout {
        let mut layout = Layout::default();
        for framing in Framing::ALL {
            for form in Form::ALL {
                self.refresh().await;
                let (ending, id) = self.call(false, "POST", framing, form).await;
                assert!(is_right(&ending, &id), "nothing stood in the way of {framing:?} {form:?}: {ending:?}");
                layout.note(framing, form, self.lane.relay.look(|done| done.lengths));
            }
        }
        layout
    }
}

/// Sweeps faults over every step on several lanes at once.
async fn sweep(world: World, faults: &[Fault], next: Next, budget: u64, purpose: u64) {
    let address = world.weir.address;
    let layout = {
        let _telling = Telling("the first requests, without any fault");
        Runner::new(&world.lanes[0], address, next).layout().await
    };
    // Each case is one request with a fault and one without.
    let mut cases = Cases::new(rng(purpose), layout, faults);
    let each = (budget as usize / 2).div_ceil(world.lanes.len());
    let (local, mut lanes) = (LocalSet::new(), JoinSet::new());
    for lane in &world.lanes {
        let cases: Vec<Case> = cases.by_ref().take(each).collect();
        let mut runner = Runner::new(lane, address, next);
        runner.asked = 100;
        let run = async move {
            for case in cases {
                runner.run(case).await;
            }
            runner.clean(false).await;
        };
        lanes.spawn_local_on(run, &local);
    }
    local.await;
    while let Some(lane) = lanes.join_next().await {
        lane.expect("no lane fails");
    }
    assert!(world.steady.origin.count() > 0, "no request fell back");
    world.settle(faults.contains(&Fault::Garble)).await;
}

#[tokio::test]
async fn faults_at_every_step_of_an_http1_upstream_are_seen_by_clients_and_submit_nothing_twice() {
    let world = World::start(false, 4, 1, "", "").await;
    sweep(world, &[Fault::Reset, Fault::Cut, SLOW], Next::AtOnce, requests(35), 1).await;
}

#[tokio::test]
async fn faults_at_every_step_of_an_http2_upstream_are_seen_by_clients_and_submit_nothing_twice() {
    let world = World::start(true, 4, 1, "", "").await;
    sweep(world, &[Fault::Reset, Fault::Cut, SLOW], Next::AtOnce, requests(35), 2).await;
}

/// Deadlines so short that a stalled exchange costs little; on a busy machine they may end others, too.
const HASTY: &str = "response_timeout = \"300ms\"";
const HASTY_LIMITS: &str = "[limits]\nstream_idle = \"300ms\"\nh2_ping = \"150ms\"\nh2_ping_timeout = \"150ms\"\n";

#[tokio::test]
async fn stalls_and_changed_bytes_at_every_step_of_an_http1_upstream_end_and_submit_nothing_twice() {
    let world = World::start(false, 8, 1, HASTY, HASTY_LIMITS).await;
    sweep(world, &[Fault::Stall, Fault::Garble], Next::Eventually, requests(10), 3).await;
}

#[tokio::test]
async fn stalls_and_changed_bytes_at_every_step_of_an_http2_upstream_end_and_submit_nothing_twice() {
    let world = World::start(true, 8, 1, HASTY, HASTY_LIMITS).await;
    sweep(world, &[Fault::Stall, Fault::Garble], Next::Eventually, requests(10), 4).await;
}

#[tokio::test]
async fn an_http2_connection_that_never_speaks_costs_the_requests_that_wait_on_it_and_no_other() {
    let world = World::start(true, 1, 1, "response_timeout = \"300ms\"", "").await;
    let relay = &world.lanes[0].relay;
    relay.arm(Shot { at: At::Accept, fault: Fault::Stall, message: None });
    let mut runner = Runner::new(&world.lanes[0], world.weir.address, Next::Eventually);
    let (ending, _) = runner.call(false, "GET", Framing::Nothing, Form::Sized).await;
    assert!(matches!(ending, Ending::Answer { status: 504, .. }), "{ending:?}");
    runner.clean(false).await;
    relay.until("the end of the silent one", |done| done.open == 1).await;
    world.settle(false).await;
}
