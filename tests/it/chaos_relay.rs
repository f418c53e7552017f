//! The instruments of the chaos tests themselves: a relay that does not break what it should, or an oracle that does not
//! see a request twice, would let every other test pass.

use crate::harness::caller::{Caller, Ending};
use crate::harness::oracle::{Form, Framing, Oracle, ask, duplicates, is_right};
use crate::harness::parts::Part;
use crate::harness::relay::{At, Fate, Fault, Shot, Way};
use crate::harness::{RawClient, Relay};
use std::io::ErrorKind;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn between() -> (Oracle, Relay) {
    let oracle = Oracle::start("one").await;
    let relay = Relay::to(oracle.origin.address).await;
    (oracle, relay)
}

fn at(way: Way, part: Part, byte: u64, fault: Fault) -> Shot {
    Shot { at: At::Byte(way, part, byte), fault, message: None }
}

#[tokio::test]
async fn a_relay_without_faults_changes_nothing() {
    let (oracle, relay) = between().await;
    for http2 in [false, true] {
        let mut caller = Caller::new(relay.address, http2);
        for framing in Framing::ALL {
            for form in Form::ALL {
                let id = format!("{http2}-{framing:?}-{form:?}");
                let ending = caller.call(&ask("POST", "/a", &id, framing, form)).await;
                assert!(is_right(&ending, &id), "{id}: {ending:?}");
            }
        }
    }
    assert_eq!(oracle.mixed_up(), Vec::<String>::new());
    assert_eq!(relay.look(|done| (done.accepted, done.fired.len())), (2, 0));
}

#[tokio::test]
async fn a_relay_breaks_at_exactly_the_byte_it_is_told() {
    let (oracle, relay) = between().await;
    for (byte, fault) in [(0, Fault::Cut), (1, Fault::Reset), (17, Fault::Cut), (40, Fault::Reset)] {
        let mut client = TcpStream::connect(relay.address).await.expect("it listens");
        relay.arm(at(Way::Down, Part::Head, byte, fault));
        client.write_all(b"GET /a/1 HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("room");
        let mut got = Vec::new();
        let end = client.read_to_end(&mut got).await;
        assert_eq!(
            end.err().map(|problem| problem.kind()),
            (fault == Fault::Reset).then_some(ErrorKind::ConnectionReset)
        );
        // A reset may overtake what was on its way.
        assert!(fault == Fault::Reset || got.len() as u64 == byte, "{} bytes before byte {byte}", got.len());
    }
    oracle.origin.until("all of them", |state| state.requests.len() == 4 && state.open == 0).await;
    let mut client = TcpStream::connect(relay.address).await.expect("it listens");
    relay.arm(at(Way::Down, Part::Body, 3, Fault::Garble));
    client.write_all(b"GET /a HTTP/1.1\r\nhost: a\r\nx-chaos-id: 1234\r\n\r\n").await.expect("room");
    let mut client = RawClient::over(client);
    assert_eq!(client.answer().await.body[..5], [b'1', b'2', b'3', b'4' ^ 0x80, b' ']);
}

#[tokio::test]
async fn a_relay_that_cuts_a_request_passes_no_byte_too_much() {
    let (oracle, relay) = between().await;
    relay.arm(at(Way::Up, Part::Body, 2, Fault::Cut));
    let mut caller = Caller::new(relay.address, false);
    assert_eq!(caller.call(&ask("POST", "/a", "1", Framing::Sized, Form::Sized)).await, Ending::Nothing);
    let state = oracle.origin.until("the end of the connection", |state| state.open == 0 && state.accepted == 1).await;
    assert_eq!((state.requests[0].body_bytes, state.requests[0].complete), (2, false));
}

#[tokio::test]
async fn a_stall_passes_nothing_and_a_slow_line_everything() {
    let (_oracle, relay) = between().await;
    relay.schedule(|number| {
        let fault = if number == 1 { Fault::Stall } else { Fault::Slow { bytes: 7, pause: Duration::from_millis(1) } };
        Fate { shot: Some(Shot { message: Some(1), ..at(Way::Down, Part::Head, 9, fault) }), refuse_for: None }
    });
    let mut stalled = RawClient::connect(relay.address).await;
    let mut slow = RawClient::connect(relay.address).await;
    for client in [&mut stalled, &mut slow] {
        assert_eq!(client.get("/a/1", &[]).await.status, 200);
    }
    stalled.send(crate::harness::raw::request("GET", "/a/2", &[], b"")).await;
    assert_eq!(slow.get("/a/3", &[]).await.status, 200);
    relay.until("both shots", |done| done.fired.len() == 2).await;
    drop(stalled);
    relay.until("the end of the stalled one", |done| done.open == 1).await;
}

#[tokio::test]
async fn a_relay_that_does_not_listen_refuses_and_takes_connections_again_later() {
    let (_oracle, relay) = between().await;
    for _ in 0..3 {
        relay.listen(false).await;
        let refused = TcpStream::connect(relay.address).await.expect_err("nobody listens");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        relay.listen(true).await;
        assert_eq!(RawClient::connect(relay.address).await.get("/a/1", &[]).await.status, 200);
    }
}

#[tokio::test]
async fn the_oracle_sees_a_request_that_is_submitted_twice_be_it_in_part() {
    for http2 in [false, true] {
        let (oracle, relay) = between().await;
        let mut caller = Caller::new(relay.address, http2);
        let twice = ask("POST", "/a", "twice", Framing::Sized, Form::Sized);
        caller.call(&ask("POST", "/a", "once", Framing::Sized, Form::Sized)).await;
        caller.call(&twice).await;
        assert_eq!(format!("{:?}", duplicates(&[oracle.submitted("POST", Some(&relay))])), "[]");
        // HTTP/2 servers may forget a request whose connection ends at once; the relay counts those.
        let whole = if http2 { 2 } else { 1 };
        if !http2 {
            relay.arm(at(Way::Up, Part::Body, 1, Fault::Cut));
        }
        caller.call(&twice).await;
        oracle.origin.until("both", |state| state.requests.len() == 3).await;
        let found = duplicates(&[oracle.submitted("POST", Some(&relay))]);
        let found: Vec<_> = found.iter().map(|(id, sum)| (id.as_str(), sum.begun, sum.whole)).collect();
        assert_eq!(found, [("twice", 2, whole)], "h2: {http2}");
    }
}

#[tokio::test]
async fn the_oracle_sees_a_request_whose_bytes_never_arrive() {
    let (oracle, relay) = between().await;
    let mut caller = Caller::new(relay.address, false);
    for _ in 0..2 {
        relay.arm(at(Way::Up, Part::Head, 0, Fault::Cut));
        assert_eq!(caller.call(&ask("POST", "/a", "unseen", Framing::Sized, Form::Sized)).await, Ending::Nothing);
    }
    relay.until("both", |done| done.begun.values().sum::<u64>() == 2).await;
    assert_eq!(oracle.origin.count(), 0);
    assert_eq!(duplicates(&[oracle.submitted("POST", Some(&relay))]).len(), 1);
}
