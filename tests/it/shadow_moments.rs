//! When a copy is sent: when its request is answered and its body has come, and not at all if either does not come about.

use crate::harness::client::read;
use crate::harness::piped::{piped, sized};
use crate::harness::reply::Content;
use crate::harness::{Client, Gate, Reply, Step, soon};
use crate::shadow::{Pair, UNIT, mirrored};

#[tokio::test]
async fn no_copy_starts_before_its_request_is_answered() {
    let own = Gate::closed();
    let held = own.clone();
    let pair = Pair::start(|config| mirrored(config, "methods = [\"GET\", \"POST\"]").workers(1)).await;
    pair.legacy.script(move |seen| if seen.target == "/held" { Reply::held(&held) } else { Reply::Hello });
    let address = pair.weir.address;
    let ask = |method: &'static str, body: &'static str| async move {
        Client::http1(address).await.call(method, "/held", UNIT, sized(body)).await
    };
    let waiting = [tokio::spawn(ask("GET", "")), tokio::spawn(ask("POST", "all of it"))];
    let came = |state: &crate::harness::origin::State| state.requests.iter().filter(|seen| seen.complete).count() == 2;
    pair.legacy.until("both requests", came).await;
    // Others come after them and have their copies before.
    for _ in 0..3 {
        pair.served("GET", &[], "").await;
    }
    let metrics = pair.counted("2xx", 3).await;
    assert!(pair.new.state().requests.iter().all(|seen| seen.target == "/path?a=1"));
    assert_eq!(metrics.count("weir_shadow_in_flight", &[]), 0, "what waits for its answer takes nobody's place");
    own.open();
    for waiting in waiting {
        assert_eq!(soon("the answer", waiting).await.expect("no panic").body, "held");
    }
    pair.counted("2xx", 5).await;
    let seen = pair.new.state().requests;
    let copies: Vec<_> = seen.iter().filter(|seen| seen.target == "/held").map(|seen| seen.body_bytes).collect();
    assert!(copies == [0, 9] || copies == [9, 0], "{copies:?}");
    pair.weir.stop().await;
}

#[tokio::test]
async fn a_request_whose_client_leaves_before_the_answer_has_no_copy() {
    let never = Gate::closed();
    let pair = Pair::start(|config| mirrored(config, "methods = [\"GET\", \"POST\"]")).await;
    pair.legacy.script(move |_| Reply::held(&never));
    for (number, method) in ["GET", "POST"].into_iter().enumerate() {
        let mut client = Client::http2(pair.weir.address).await;
        let (feed, body) = piped();
        let answer = client.begin(client.request(method, "/", UNIT, body));
        drop(feed);
        pair.legacy.until("the request", |state| state.requests.len() == number + 1).await;
        drop(answer);
        pair.counted("broken_off", number as u64 + 1).await;
        pair.gave_back().await;
    }
    assert_eq!(pair.new.count(), 0);
    pair.weir.stop().await;
}

#[tokio::test]
async fn a_request_that_stable_does_not_answer_has_its_copy_all_the_same() {
    let pair = Pair::start(|config| mirrored(config, "")).await;
    pair.legacy.script(|_| Reply::Raw(vec![Step::Close]));
    let mut client = Client::http1(pair.weir.address).await;
    assert_eq!(client.get("/", UNIT).await.status, 502);
    pair.counted("2xx", 1).await;
    pair.weir.stop().await;
}

#[tokio::test]
async fn a_body_that_goes_on_behind_the_head_of_the_answer_is_copied_when_it_has_ended() {
    let pair = Pair::start(|config| mirrored(config, "methods = [\"POST\"]")).await;
    pair.legacy.script(|_| Reply::body(Content::Echo));
    let mut client = Client::http2(pair.weir.address).await;
    let (feed, body) = piped();
    let answer = client.begin(client.request("POST", "/", UNIT, body));
    assert!(feed.data("half of ").await);
    let answer = soon("the head", answer).await.expect("an answer");
    assert_eq!(pair.new.count(), 0, "nobody sees half a request");
    assert!(feed.data("it").await);
    drop(feed);
    assert_eq!(read(answer).await.expect("a whole answer").body, "half of it");
    assert_eq!(pair.copy(0).await.body_bytes, 10);
    pair.counted("2xx", 1).await;
    pair.weir.stop().await;
}

#[tokio::test]
async fn a_request_that_breaks_off_has_no_copy() {
    let pair = Pair::start(|config| mirrored(config, "methods = [\"POST\"]")).await;
    let mut client = Client::http2(pair.weir.address).await;
    let (feed, body) = piped();
    let request = client.request("POST", "/", UNIT, body);
    let answer = client.begin(request);
    assert!(feed.data("half of ").await);
    pair.legacy.until("a part", |state| state.requests.iter().any(|seen| seen.body_bytes > 0)).await;
    feed.cut().await;
    drop(answer);
    pair.counted("broken_off", 1).await;
    pair.gave_back().await;
    assert_eq!(pair.new.count(), 0);
    pair.weir.stop().await;
}
