//! The breaker while connections break: at full load, with users who want it to trip, with both arms in trouble, half-open,
//! and beside an operator who kills the rollout meanwhile.

use crate::harness::caller::Caller;
use crate::harness::chance::rng;
use crate::harness::client::read;
use crate::harness::metrics::Metrics;
use crate::harness::oracle::{Form, Framing, Oracle, answer_to, ask, duplicates, is_right};
use crate::harness::origin::Seen;
use crate::harness::parts::Part;
use crate::harness::piped::sized;
use crate::harness::relay::{At, Fate, Fault, Shot, Way};
use crate::harness::reply::Content;
use crate::harness::wait::eventually;
use crate::harness::{Answer, Client, Config, Gate, Origin, RawClient, Relay, Reply, Weir, soon};
use bytes::Bytes;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use weir::rollout::bucket::{Bucketer, Weight};

const CHAT: &str = "/api/v1/rollouts/chat";
/// Clients at once under load; every other one speaks HTTP/2.
const CLIENTS: usize = 16;
/// Failures in a row that trip the breaker.
const RUN: u64 = 5;

fn config(stable: SocketAddr, canary: SocketAddr, breaker: &str) -> Config {
    let breaker = format!("[rollouts.chat.breaker]\nconsecutive_errors = {RUN}\nmin_units = 3\n{breaker}");
    Config::between(stable, canary).tables(&breaker)
}

async fn breaker(weir: &Weir) -> Value {
    weir.view(CHAT).await["breaker"].clone()
}

async fn until(weir: &Weir, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || async { Some(breaker(weir).await).filter(|breaker| wanted(breaker)) }).await
}

async fn kinds(weir: &Weir) -> Vec<String> {
    let trail = weir.view("/api/v1/events?since=0").await;
    let events = trail["events"].as_array().expect("a list").iter();
    events.map(|event| event["kind"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Clients that send one request after the other until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    answered: watch::Sender<u64>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    /// Starts it; every request comes from another unit.
    fn start(address: SocketAddr, method: &'static str) -> Load {
        let (stop, answered) = (Arc::<AtomicBool>::default(), watch::Sender::default());
        let clients = (0..CLIENTS).map(|number| {
            let (stop, answered) = (Arc::clone(&stop), answered.clone());
            tokio::spawn(async move {
                let (mut caller, mut failed) = (Caller::new(address, number % 2 == 0), Vec::new());
                for request in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let id = format!("user-{number}-{request:07}");
                    let ending = caller.call(&ask(method, "/load", &id, Framing::Nothing, Form::Sized)).await;
                    if !is_right(&ending, &id) {
                        failed.push(format!("{id}: {ending:?}"));
                    }
                    answered.send_modify(|count| *count += 1);
                }
                failed
            })
        });
        Load { clients: clients.collect(), stop, answered }
    }

    /// Waits for so many more answers.
    async fn more(&self, count: u64) {
        let mut answered = self.answered.subscribe();
        let wanted = *answered.borrow() + count;
        soon("answers under load", answered.wait_for(|count| *count >= wanted))
            .await
            .expect("the load holds the sender");
    }

    /// Ends it; the requests that did not succeed.
    async fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut failed = Vec::new();
        for client in self.clients {
            failed.extend(soon("a client's end", client).await.expect("no panic"));
        }
        failed
    }
}

/// Ways in which a canary falls sick.
#[derive(Clone, Copy, Debug)]
enum Sickness {
    /// Its host is gone.
    Refused,
    /// Connections break before an answer.
    Reset,
    /// Connections end before an answer.
    Cut,
    /// It answers that it cannot.
    Status,
}

impl Sickness {
    async fn befall(self, relay: &Relay, oracle: &Oracle) {
        let at = At::Byte(Way::Down, Part::Head, 0);
        let fault = if matches!(self, Sickness::Cut) { Fault::Cut } else { Fault::Reset };
        match self {
            Sickness::Status => oracle.origin.script(|_| Reply::status(500)),
            Sickness::Reset | Sickness::Cut => relay.arm_for_good(Shot { at, fault, message: None }),
            Sickness::Refused => {
                relay.arm_for_good(Shot { at, fault, message: None });
                relay.listen(false).await;
            }
        }
    }

    /// Whether connections that requests share break while some of their answers are on their way.
    fn cuts_answers(self, http2: bool) -> bool {
        http2 && !matches!(self, Sickness::Status)
    }
}

#[tokio::test]
async fn a_canary_that_falls_sick_at_full_load_costs_no_get_and_few_attempts() {
    for sickness in [Sickness::Refused, Sickness::Reset, Sickness::Cut, Sickness::Status] {
        for (workers, http2) in [(1, false), (2, false), (1, true), (2, true)] {
            let (steady, oracle) = (Oracle::start("steady").await, Oracle::start("new").await);
            let relay = Relay::to(oracle.origin.address).await;
            let config = config(steady.origin.address, relay.address, "cooldown = \"10m\"").workers(workers);
            let weir = Weir::start(&config.upstreams(if http2 { "protocol = \"h2\"" } else { "" })).await;
            let load = Load::start(weir.address, "GET");
            oracle.origin.until("a canary at work", |state| state.requests.len() > 3 * CLIENTS).await;
            sickness.befall(&relay, &oracle).await;
            until(&weir, "a trip", |breaker| breaker["state"] == "open").await;
            load.more(10 * CLIENTS as u64).await;
            let case = format!("{sickness:?}, {workers} workers, h2 {http2}");
            let mut failed = load.end().await;
            failed.retain(|ending| !(sickness.cuts_answers(http2) && ending.ends_with("Cut")));
            assert_eq!(failed, Vec::<String>::new(), "{case}: a client of a safe method was told of it");
            // Every attempt since has failed: those that completed the run, and what each client had under way then.
            let labels = [("rollout", "chat"), ("arm", "canary")];
            let attempts = weir.metrics().await.count("weir_request_errors_total", &labels);
            let most = RUN - 1 + CLIENTS as u64;
            assert!((RUN..=most).contains(&attempts), "{case}: {attempts} attempts, {most} at most");
            assert_eq!(breaker(&weir).await["trips"], 1, "{case}");
            weir.stop().await;
        }
    }
}

/// Every request on the canary waits until the test lets it fail, so that it is known which failure completes the run.
#[tokio::test]
async fn after_the_crossing_answer_no_request_starts_on_the_canary_whatever_is_under_way() {
    for workers in [1, 2] {
        let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
        let gates: Arc<Vec<Gate>> = Arc::new((0..CLIENTS as u64 + RUN).map(|_| Gate::closed()).collect());
        let (held, next) = (Arc::clone(&gates), AtomicU64::new(0));
        new.script(move |_| {
            let number = next.fetch_add(1, Ordering::Relaxed) as usize;
            Reply::Answer(Answer { status: 500, send_after: Some(held[number].clone()), ..Answer::default() })
        });
        let breaker = "cooldown = \"10m\"\nfallback = \"off\"";
        let weir = Weir::start(&config(legacy.address, new.address, breaker).weight("100%").workers(workers)).await;
        let (finished, mut clients) = (watch::Sender::new(0_u64), Vec::new());
        for number in 0..CLIENTS {
            let (address, finished) = (weir.address, finished.clone());
            clients.push(tokio::spawn(async move {
                let mut client = Client::to(address, number % 2 == 0).await;
                let mut statuses = Vec::new();
                // One answer of the canary each, and again until stable answers.
                while statuses.last() != Some(&200) {
                    let request = client.request("GET", "/", &[("x-user-id", &format!("user-{number}"))], sized(""));
                    statuses.push(read(client.send(request).await.expect("a head")).await.expect("an answer").status);
                    finished.send_modify(|count| *count += 1);
                }
                statuses
            }));
        }
        new.until("all clients on the canary", |state| state.requests.len() == CLIENTS).await;
        for failure in 0..RUN as usize {
            // Each failure but the last makes its client begin anew on the canary.
            new.until("one request a client", |state| state.requests.len() == CLIENTS + failure).await;
            gates[failure].open();
        }
        let stable = legacy.until("a request on stable", |state| !state.requests.is_empty()).await;
        assert_eq!(stable.requests.len(), 1, "the client of the crossing answer alone is free to ask again");
        assert_eq!(new.count(), CLIENTS as u64 + RUN - 1, "{workers} workers: one more was begun on the canary");
        gates.iter().for_each(Gate::open);
        for client in clients {
            let statuses = soon("a client's end", client).await.expect("no panic");
            assert_eq!(statuses.last(), Some(&200));
        }
        assert_eq!((new.count(), legacy.count()), (CLIENTS as u64 + RUN - 1, CLIENTS as u64));
        weir.stop().await;
    }
}

#[tokio::test]
async fn one_abuser_with_half_of_the_traffic_trips_nothing_and_twenty_users_alike_do() {
    for offenders in [1, 20] {
        let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
        new.script(|seen: &Seen| if seen.target == "/bad" { Reply::status(500) } else { Reply::Hello });
        let rules = "error_rate = { above = \"30%\", min_requests = 20 }\ncooldown = \"10m\"\nfallback = \"off\"";
        let weir = Weir::start(&config(legacy.address, new.address, rules).weight("100%").workers(2)).await;
        let mut clients = [Client::http1(weir.address).await, Client::http2(weir.address).await];
        // Half of the requests are an offender's: at first every other one, then many in a row.
        let turns = (0..5).flat_map(|_| (0..80).map(|turn| if turn < 40 { turn % 2 == 1 } else { turn >= 60 }));
        for (number, bad) in turns.enumerate() {
            let offender = format!("offender-{}", number / 2 % offenders);
            let (unit, target) = if bad { (offender.clone(), "/bad") } else { (format!("user-{}", number % 30), "/") };
            clients[number % 2].get(target, &[("x-user-id", &unit)]).await;
            if number % 20 == 0 {
                abort(&weir, &offender).await;
            }
        }
        if offenders == 1 {
            let all = new.count() + legacy.count();
            eventually("the breaker to have seen everything", || async {
                let arms = weir.view(CHAT).await["arms"].clone();
                let requests = |arm: &str| arms[arm]["requests"].as_u64().unwrap_or(0);
                (requests("canary") + requests("stable") >= all).then_some(())
            })
            .await;
            assert_eq!(legacy.count(), 0, "the canary lost its share");
            assert_eq!(breaker(&weir).await["trips"], 0);
            assert!(!kinds(&weir).await.contains(&"trip".to_owned()));
        } else {
            until(&weir, "a trip", |breaker| breaker["state"] == "open").await;
        }
        weir.stop().await;
    }
}

/// Begins an upload and leaves; returns when weir knows.
async fn abort(weir: &Weir, unit: &str) {
    let left = |metrics: &Metrics| metrics.count("weir_client_left_total", &[]);
    let before = left(&weir.metrics().await);
    let mut client = RawClient::connect(weir.address).await;
    let head = format!("POST /bad HTTP/1.1\r\nhost: x\r\nx-user-id: {unit}\r\ncontent-length: 100\r\n\r\nhalf");
    client.send(head).await;
    weir.metrics_until("a request under way", |metrics| metrics.count("weir_requests_in_flight", &[]) == 1).await;
    drop(client);
    weir.metrics_until("its client's leaving", |metrics| left(metrics) > before).await;
}

#[tokio::test]
async fn both_arms_that_lose_their_network_trip_nothing_and_alert() {
    let (steady, oracle) = (Oracle::start("steady").await, Oracle::start("new").await);
    let (to_steady, to_new) = (Relay::to(steady.origin.address).await, Relay::to(oracle.origin.address).await);
    let config = config(to_steady.address, to_new.address, "cooldown = \"10m\"\nfallback = \"off\"").workers(2);
    let weir = Weir::start(&config).await;
    let load = Load::start(weir.address, "GET");
    load.more(3 * CLIENTS as u64).await;
    // Stable first: a canary alone in trouble would rightly lose its share.
    Sickness::Refused.befall(&to_steady, &steady).await;
    let labels = [("arm", "stable"), ("kind", "connect")];
    weir.metrics_until("stable's failures", |metrics| metrics.count("weir_request_errors_total", &labels) > 50).await;
    Sickness::Refused.befall(&to_new, &oracle).await;
    let seen = until(&weir, "a note", |breaker| breaker["note"].is_string()).await;
    assert!(seen["note"].as_str().is_some_and(|note| note.starts_with("both arms")), "{seen}");
    load.more(20 * CLIENTS as u64).await;
    let seen = breaker(&weir).await;
    assert_eq!([&seen["state"], &seen["trips"]], [&json!("closed"), &json!(0)], "{seen}");
    let kinds = kinds(&weir).await;
    assert!(kinds.contains(&"alert".to_owned()) && !kinds.contains(&"trip".to_owned()), "{kinds:?}");
    for relay in [&to_steady, &to_new] {
        relay.disarm();
        relay.listen(true).await;
    }
    eventually("answers again", async || {
        let mut caller = Caller::new(weir.address, false);
        is_right(&caller.call(&ask("GET", "/again", "again", Framing::Nothing, Form::Sized)).await, "again")
            .then_some(())
    })
    .await;
    load.end().await;
    weir.stop().await;
}

#[tokio::test]
async fn half_open_under_continued_failure_admits_only_the_trickle_and_recovery_closes_it() {
    let (steady, oracle) = (Oracle::start("steady").await, Oracle::start("new").await);
    oracle.origin.script(|_| Reply::status(500));
    let rules = "cooldown = \"200ms\"\nprobe = \"20%\"\nmax_trips = 0\nerror_rate = false";
    let weir = Weir::start(&config(steady.origin.address, oracle.origin.address, rules).weight("100%")).await;
    let trickle =
        |unit: &str| Bucketer::native("chat.probe").admits(unit, Weight::from_percent(20).expect("a percentage"));
    let mut caller = Caller::new(weir.address, false);
    let mut number = 0;
    let mut next = async || {
        number += 1;
        let id = format!("user-{number}");
        let ending = caller.call(&ask("GET", "/a", &id, Framing::Nothing, Form::Sized)).await;
        assert!(is_right(&ending, &id), "stable answers whatever the canary fails: {ending:?}");
    };
    for _ in 0..RUN {
        next().await;
    }
    assert_eq!(oracle.origin.count(), RUN);
    let trips = eventually("three more trips", async || {
        for _ in 0..20 {
            next().await;
        }
        breaker(&weir).await["trips"].as_u64().filter(|trips| *trips >= 4)
    })
    .await;
    let probes = oracle.origin.state().requests.split_off(RUN as usize);
    let outside = probes.iter().filter(|seen| !trickle(seen.field("x-user-id").unwrap_or_default())).count();
    assert_eq!(outside, 0, "units outside of the trickle on a canary that is still sick");
    // With one request at a time each half-open circuit opens again at its fifth probe; the last may be under way.
    assert!(probes.len() as u64 <= RUN * trips, "{} probes in {trips} trips", probes.len());
    oracle.origin.script(|seen| Reply::Answer(well(seen)));
    eventually("recovery", async || {
        for _ in 0..20 {
            next().await;
        }
        (breaker(&weir).await["state"] == "closed").then_some(())
    })
    .await;
    let before = oracle.origin.count();
    for _ in 0..20 {
        next().await;
    }
    assert_eq!(oracle.origin.count() - before, 20);
    assert!(kinds(&weir).await.contains(&"recover".to_owned()));
    weir.stop().await;
}

/// What the oracle would answer.
fn well(seen: &Seen) -> Answer {
    let id = seen.field("x-user-id").unwrap_or_default();
    let body = Bytes::from(answer_to(id));
    Answer { body: Content::Sized(body), ..Answer::default() }
}

#[tokio::test]
async fn a_kill_acts_while_connections_break_and_nothing_is_submitted_twice_meanwhile() {
    let (steady, oracle) = (Oracle::start("steady").await, Oracle::start("new").await);
    let relay = Relay::to(oracle.origin.address).await;
    let mut chance = rng(300);
    relay.schedule(move |_| {
        let fault = if chance.bool() { Fault::Reset } else { Fault::Cut };
        let at = At::Byte(Way::Down, Part::Head, chance.u64(..60));
        Fate { shot: Some(Shot { at, fault, message: Some(chance.u64(..20)) }), refuse_for: None }
    });
    let config = Config::between(steady.origin.address, relay.address)
        .tables("[rollouts.chat.breaker]\nconsecutive_errors = 0\nerror_rate = false\nfallback = \"safe\"");
    let weir = Weir::start(&config).await;
    let load = Load::start(weir.address, "POST");
    relay.until("faults", |done| done.fired.len() >= 10).await;
    weir.command(&format!("{CHAT}/kill"), json!({ "reason": "chaos" })).await;
    let decided = |metrics: &Metrics| metrics.count("weir_decisions_total", &[("rollout", "chat"), ("arm", "canary")]);
    let at_kill = decided(&weir.metrics().await);
    load.more(20 * CLIENTS as u64).await;
    let failed = load.end().await;
    // What a worker had just decided may be counted after the scrape.
    let after = decided(&weir.metrics().await) - at_kill;
    assert!(after <= 2, "{after} decisions for the canary after the kill");
    assert!(failed.len() as u64 >= 1, "faults that no POST noticed");
    let counts = [steady.submitted("POST", None), oracle.submitted("POST", Some(&relay))];
    assert_eq!(format!("{:?}", duplicates(&counts)), "[]");
    weir.stop().await;
}
