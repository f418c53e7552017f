//! The failure that completes a run takes the canary's share away before the next request is decided.

use crate::harness::client::read;
use crate::harness::piped::sized;
use crate::harness::raw::request;
use crate::harness::reply::Content;
use crate::harness::wait::soon;
use crate::harness::{Answer, Client, Config, Gate, Origin, RawClient, Reply, Weir};
use bytes::Bytes;
use weir::rollout::bucket::{Bucketer, Weight};

/// Everything on the canary; a breaker that only a run of five opens, and that stays open for the whole test. What the
/// canary answers reaches the client.
fn config(legacy: &Origin, new: &Origin) -> Config {
    Config::split(legacy, new).weight("100%").workers(1).tables(
        "[rollouts.chat.breaker]\nconsecutive_errors = 5\nmin_units = 3\nerror_rate = false\ncooldown = \"10m\"\n\
         fallback = \"off\"",
    )
}

async fn origins() -> (Origin, Origin) {
    (Origin::start("legacy").await, Origin::start("new").await)
}

fn unit(number: usize) -> String {
    format!("user-{number}")
}

/// The status that a unit gets.
async fn status(client: &mut Client, unit: &str) -> u16 {
    client.get("/", &[("x-user-id", unit)]).await.status
}

#[tokio::test]
async fn the_answer_that_completes_the_run_is_the_last_one_begun_on_the_canary() {
    for http2 in [false, true] {
        let (legacy, new) = origins().await;
        new.script(|_| Reply::status(500));
        let weir = Weir::start(&config(&legacy, &new)).await;
        let mut client = Client::to(weir.address, http2).await;
        let mut statuses = Vec::new();
        for number in 0..200 {
            statuses.push(status(&mut client, &unit(number)).await);
        }
        assert_eq!((&statuses[..5], new.count()), (&[500; 5][..], 5));
        assert!(statuses[5..].iter().all(|status| *status == 200) && legacy.count() == 195);
        assert_eq!(weir.explain("user-1").await["reason"], "breaker");
        weir.stop().await;
    }
}

#[tokio::test]
async fn a_head_that_fails_counts_while_its_body_is_still_to_come() {
    let (legacy, new) = origins().await;
    let gate = Gate::closed();
    let held = gate.clone();
    new.script(move |_| {
        let (first, last) = (Bytes::from_static(b"first"), Bytes::from_static(b"last"));
        let body = Content::Paused { first, gate: held.clone(), last };
        Reply::Answer(Answer { status: 503, body, ..Answer::default() })
    });
    let weir = Weir::start(&config(&legacy, &new)).await;
    let mut client = Client::http2(weir.address).await;
    let mut under_way = Vec::new();
    for number in 0..5 {
        let request = client.request("GET", "/", &[("x-user-id", &unit(number))], sized(""));
        under_way.push(client.send(request).await.expect("a head"));
    }
    for number in 0..20 {
        assert_eq!(status(&mut client, &unit(number)).await, 200);
    }
    assert_eq!((new.count(), legacy.count()), (5, 20));
    gate.open();
    for answer in under_way {
        assert_eq!(read(answer).await.expect("a whole answer").body, "firstlast");
    }
    weir.stop().await;
}

#[tokio::test]
async fn what_was_under_way_on_the_canary_ends_there() {
    let (legacy, new) = origins().await;
    let gate = Gate::closed();
    let held = gate.clone();
    new.script(move |seen| if seen.target == "/slow" { Reply::held(&held) } else { Reply::status(500) });
    let weir = Weir::start(&config(&legacy, &new)).await;
    let mut client = Client::http2(weir.address).await;
    let mut under_way = Vec::new();
    for number in 0..10 {
        let request = client.request("GET", "/slow", &[("x-user-id", &unit(number))], sized(""));
        under_way.push(tokio::spawn(client.begin(request)));
    }
    new.until("ten requests", |state| state.requests.len() == 10).await;
    for number in 0..5 {
        assert_eq!(status(&mut client, &unit(number)).await, 500);
    }
    gate.open();
    for answer in under_way {
        let answer = soon("an answer", answer).await.expect("no panic").expect("an answer");
        assert_eq!(read(answer).await.expect("a whole answer").body, "held");
    }
    // They ended well, but they were begun under a closed breaker and close nothing now.
    assert_eq!(status(&mut client, "user-1").await, 200);
    assert_eq!((new.count(), legacy.count()), (15, 1));
    weir.stop().await;
}

#[tokio::test]
async fn under_load_no_more_reach_the_canary_than_were_under_way() {
    for workers in [1, 2] {
        let (legacy, new) = origins().await;
        new.script(|_| Reply::status(500));
        let weir = Weir::start(&config(&legacy, &new).workers(workers)).await;
        let mut clients = Vec::new();
        for connection in 0..CLIENTS {
            let address = weir.address;
            clients.push(tokio::spawn(async move {
                let mut client = Client::to(address, connection % 2 == 0).await;
                let mut failed = 0;
                for number in 0..100 {
                    let unit = format!("user-{connection}-{number}");
                    failed += u64::from(status(&mut client, &unit).await == 500);
                }
                failed
            }));
        }
        let mut failed = 0;
        for client in clients {
            failed += soon("a client's end", client).await.expect("no panic");
        }
        // Four failures before the one that completes the run, and what every client may have had under way then.
        let most = 4 + CLIENTS as u64;
        assert!((5..=most).contains(&failed), "{workers} workers: {failed} of at most {most}");
        assert_eq!((new.count(), legacy.count()), (failed, 100 * CLIENTS as u64 - failed));
        weir.stop().await;
    }
}

const CLIENTS: usize = 16;

#[tokio::test]
async fn answers_that_are_cut_in_the_middle_complete_a_run_as_well() {
    let (legacy, new) = origins().await;
    new.script(|_| Reply::body(Content::Cut(Bytes::from_static(b"half"))));
    let weir = Weir::start(&config(&legacy, &new)).await;
    for number in 0..20 {
        let mut client = RawClient::connect(weir.address).await;
        client.send(request("GET", "/", &[("x-user-id", &unit(number))], b"")).await;
        let answer = client.try_answer().await;
        assert_eq!(answer.is_some_and(|answer| answer.complete), number >= 5, "request {number}");
    }
    assert_eq!((new.count(), legacy.count()), (5, 15));
    weir.stop().await;
}

#[tokio::test]
async fn one_unit_alone_completes_no_run_while_others_are_served() {
    let (legacy, new) = origins().await;
    new.script(|seen| Reply::status(if seen.target == "/bad" { 500 } else { 200 }));
    let weir = Weir::start(&config(&legacy, &new)).await;
    let mut client = Client::http1(weir.address).await;
    for number in 0..10 {
        assert_eq!(status(&mut client, &unit(number)).await, 200);
    }
    for name in ["abuser"; 50].into_iter().chain(["user-1", "user-2"]) {
        let got = client.get("/bad", &[("x-user-id", name)]).await;
        assert_eq!(got.status, 500, "{name} is on the canary");
    }
    assert_eq!(new.count(), 62);
    assert_eq!(status(&mut client, "user-3").await, 200);
    assert_eq!((new.count(), legacy.count()), (62, 1), "three units are enough");
    weir.stop().await;
}

#[tokio::test]
async fn a_stable_that_fails_alike_keeps_the_canary_its_share() {
    let (legacy, new) = origins().await;
    legacy.script(|_| Reply::status(500));
    new.script(|_| Reply::status(500));
    let weir = Weir::start(&config(&legacy, &new).weight("50%")).await;
    let half = Weight::from_percent(50).expect("a percentage");
    let on_canary = |unit: &String| Bucketer::native("chat").admits(unit, half);
    let (canary, stable): (Vec<String>, Vec<String>) = (0..200).map(unit).partition(on_canary);
    let mut client = Client::http1(weir.address).await;
    // Stable's failures lie within every run of the canary's.
    for (first, second) in canary.iter().zip(&stable).take(60) {
        assert_eq!(status(&mut client, first).await, 500);
        assert_eq!(status(&mut client, second).await, 500);
    }
    assert_eq!((new.count(), legacy.count()), (60, 60));
    weir.stop().await;
}

#[tokio::test]
async fn a_breaker_that_is_off_takes_nothing_away() {
    let (legacy, new) = origins().await;
    new.script(|_| Reply::status(500));
    let off = Config::split(&legacy, &new).weight("100%").tables("[rollouts.chat.breaker]\nenabled = false");
    let weir = Weir::start(&off).await;
    let mut client = Client::http1(weir.address).await;
    for number in 0..30 {
        status(&mut client, &unit(number)).await;
    }
    assert_eq!(new.count(), 30);
    weir.stop().await;
}
