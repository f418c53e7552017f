//! Many requests at once through a relay that breaks connections by chance: the faults meet each other, pools, queues and
//! shared HTTP/2 connections, and still no POST is submitted twice and no client is told a success that is none.

use crate::chaos::{Lane, World};
use crate::harness::caller::{Caller, Ending};
use crate::harness::chance::{Telling, requests, rng};
use crate::harness::oracle::{Form, Framing, ask, is_right};
use crate::harness::parts::Part;
use crate::harness::relay::{At, Fate, Fault, Shot, Way};
use crate::harness::wait::eventually;
use fastrand::Rng;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Clients at once; every other one speaks HTTP/2.
const CLIENTS: u64 = 12;

/// Deadlines that a stalled connection does not hold up for long.
const UPSTREAM: &str = "response_timeout = \"1s\"\nmax_connections = 8";
const LIMITS: &str = "[limits]\nstream_idle = \"1s\"\n";

/// Where something may happen, and about how many bytes are there.
const PLACES: [(Way, Part, u64); 7] = [
    (Way::Up, Part::Opening, 40),
    (Way::Up, Part::Head, 250),
    (Way::Up, Part::Body, 250),
    (Way::Down, Part::Opening, 40),
    (Way::Down, Part::Head, 60),
    (Way::Down, Part::Body, 180),
    (Way::Down, Part::Trailers, 12),
];

/// What chance has in store for a connection.
fn fate(rng: &mut Rng, http2: bool) -> Fate {
    if rng.u8(..100) < 3 {
        return Fate { shot: None, refuse_for: Some(Duration::from_millis(rng.u64(1..20))) };
    }
    let (way, part, bytes) = PLACES[rng.usize(..PLACES.len())];
    let anywhere = match rng.u8(..10) {
        0 => At::Accept,
        1 => At::End(Way::Down),
        _ => At::Byte(way, part, rng.u64(..bytes)),
    };
    // A changed byte that no length and no fragment of a body hides, or one connection's garbage is the next answer.
    let telling = At::Byte(Way::Down, Part::Head, rng.u64(..if http2 { 2 } else { 5 }));
    let (at, fault) = match rng.u8(..100) {
        0..20 => return Fate::default(),
        20..60 => (anywhere, Fault::Reset),
        60..85 => (anywhere, Fault::Cut),
        85..90 => (telling, Fault::Garble),
        90..98 => (anywhere, Fault::Slow { bytes: rng.usize(8..100), pause: Duration::from_millis(1) }),
        _ => (anywhere, Fault::Stall),
    };
    Fate { shot: Some(Shot { at, fault, message: Some(rng.u64(..6)) }), refuse_for: None }
}

/// One client's requests; how many of them weir may have begun to send. Some of them are GETs, if it may repeat those.
async fn client(mut caller: Caller, lane: Arc<Lane>, number: u64, requests: u64, gets: bool, mut rng: Rng) -> u64 {
    let (name, mut sent) = (&lane.name, requests);
    for request in 0..requests {
        if rng.u8(..40) == 0 {
            lane.relay.end_connections(if rng.bool() { Fault::Cut } else { Fault::Reset });
        }
        let id = format!("{name}-{number}-{request:07}");
        let method = if gets && rng.u8(..4) == 0 { "GET" } else { "POST" };
        let (framing, form) = (Framing::ALL[rng.usize(..3)], Form::ALL[rng.usize(..3)]);
        let _telling = Telling(format!("{method} {id} with body {framing:?}, answer {form:?}"));
        let ending = caller.call(&ask(method, &format!("/{name}"), &id, framing, form)).await;
        let fine = match &ending {
            Ending::Answer { status: 200, .. } => is_right(&ending, &id),
            Ending::Answer { status, origin, .. } => (502..=504).contains(status) && origin.is_none(),
            Ending::Cut => true,
            Ending::Nothing => false,
        };
        assert!(fine, "neither the right answer nor a failure: {ending:?}");
        sent -= u64::from(matches!(&ending, Ending::Answer { body, .. } if body.starts_with("connect")));
    }
    sent
}

async fn storm(http2: bool, purpose: u64) {
    let world = World::start(http2, 2, 2, UPSTREAM, LIMITS).await;
    let each = requests(5).div_ceil(CLIENTS / 2);
    let mut clients = JoinSet::new();
    for (number, lane) in world.lanes.iter().enumerate() {
        let mut chance = rng(purpose + number as u64);
        // Whatever the seed, the first connection breaks.
        let first = Shot { at: At::Byte(Way::Down, Part::Head, 0), fault: Fault::Reset, message: Some(2) };
        lane.relay.schedule(move |number| match number {
            1 => Fate { shot: Some(first), refuse_for: None },
            _ => fate(&mut chance, http2),
        });
    }
    for number in 0..CLIENTS {
        let caller = Caller::new(world.weir.address, number % 4 < 2);
        let odd = number % 2 == 1;
        let lane = Arc::clone(&world.lanes[usize::from(odd)]);
        clients.spawn(async move { (odd, client(caller, lane, number, each, odd, rng(purpose + 10 + number)).await) });
    }
    let mut posts = 0;
    while let Some(client) = clients.join_next().await {
        let (odd, sent) = client.expect("no client fails");
        posts += if odd { 0 } else { sent };
    }
    // Of HTTP/2 requests that never arrive there is only their number to see.
    let begun = world.lanes[0].relay.look(|done| done.streams);
    assert!(begun <= posts, "{posts} POSTs were begun {begun} times");
    for lane in &world.lanes {
        lane.relay.calm();
        lane.relay.listen(true).await;
        let mut caller = Caller::new(world.weir.address, http2);
        let mut number = 0;
        eventually("a POST that succeeds after the storm", async || {
            number += 1;
            let id = format!("{}-calm-{number}", lane.name);
            let ask = ask("POST", &format!("/{}", lane.name), &id, Framing::Sized, Form::Sized);
            is_right(&caller.call(&ask).await, &id).then_some(())
        })
        .await;
    }
    let broken: usize = world.lanes.iter().map(|lane| lane.relay.look(|done| done.fired.len())).sum();
    println!("{broken} connections met a fault");
    assert!(broken > 0, "a storm without a fault shows nothing");
    world.settle(false).await;
}

#[tokio::test]
async fn a_storm_of_faults_on_http1_connections_submits_nothing_twice_and_leaves_nothing_behind() {
    storm(false, 100).await;
}

#[tokio::test]
async fn a_storm_of_faults_on_shared_http2_connections_submits_nothing_twice_and_leaves_nothing_behind() {
    storm(true, 200).await;
}
