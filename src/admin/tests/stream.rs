//! The stream through the router: who is let in, how it resumes, and what becomes of who does not read.

use super::*;
use crate::admin::stream::LISTENERS_MAX;
use std::time::Duration;

/// The text of a stream up to where `wanted` stands in it.
async fn read_until(body: &mut Body, wanted: &str) -> String {
    let mut text = String::new();
    while !text.contains(wanted) {
        let frame = body.frame().await.unwrap_or_else(|| panic!("it ended before `{wanted}`: {text}"));
        text.push_str(std::str::from_utf8(frame.unwrap().data_ref().unwrap()).unwrap());
    }
    text
}

async fn open_stream(site: &Site, feed: &Feed, path: &str) -> (u16, Body) {
    let request = Request::get(path).header("host", "localhost").body(Body::empty()).unwrap();
    let response = router(site.handle.clone(), open(), feed.clone()).oneshot(request).await.unwrap();
    (response.status().as_u16(), response.into_body())
}

#[tokio::test]
async fn it_refuses_what_it_does_not_understand() {
    let site = Site::new();
    for (path, status, word) in [
        ("/api/v1/stream?since=x", 400, "since"),
        ("/api/v1/stream?last=x", 400, "last"),
        ("/api/v1/stream?rollout=chta", 404, "did you mean `chat`"),
    ] {
        let answer = site.get(path).await;
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.text.contains(word), "{path}: {}", answer.text);
    }
    let answer = site.send(open(), "GET", "/api/v1/stream", &[("last-event-id", "x")], "").await;
    assert_eq!(answer.status, 400);
}

#[tokio::test]
async fn no_more_than_so_many_listen_and_room_comes_back() {
    let site = Site::new();
    let mut all = Vec::new();
    for _ in 0..LISTENERS_MAX {
        let (status, mut body) = open_stream(&site, &site.feed, "/api/v1/stream").await;
        assert_eq!(status, 200);
        read_until(&mut body, "event: rollout\n").await;
        all.push(body);
    }
    assert_eq!(open_stream(&site, &site.feed, "/api/v1/stream").await.0, 503);
    all.clear();
    while site.feed.room() < LISTENERS_MAX {
        tokio::task::yield_now().await;
    }
    assert_eq!(open_stream(&site, &site.feed, "/api/v1/stream").await.0, 200);
}

#[tokio::test]
async fn who_does_not_read_is_let_go_and_comes_back_without_a_gap() {
    let site = Site::new();
    let feed = Feed::patient(site.handle.clone(), Duration::from_millis(20));
    let (_, mut lazy) = open_stream(&site, &feed, "/api/v1/stream").await;
    read_until(&mut lazy, "event: rollout\n").await;
    for _ in 0..60 {
        site.post("/api/v1/rollouts/chat/kill", "{}").await;
        site.post("/api/v1/rollouts/chat/revive", "{}").await;
    }
    while feed.room() < LISTENERS_MAX {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let text = String::from_utf8(lazy.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    let ids = |text: &str| -> Vec<u64> {
        text.lines().filter_map(|line| line.strip_prefix("id: ")).map(|id| id.parse().unwrap()).collect()
    };
    let before = ids(&text);
    let (first, last) = (before[0], *before.last().unwrap());
    let end = first + 119;
    assert!(last < end, "all of it was taken");
    let (_, mut back) = open_stream(&site, &feed, &format!("/api/v1/stream?since={last}")).await;
    let rest = ids(&read_until(&mut back, &format!("id: {end}\n")).await);
    let all: Vec<u64> = before.into_iter().chain(rest).collect();
    assert_eq!(all, (first..=end).collect::<Vec<_>>());
}

#[tokio::test]
async fn it_says_good_bye() {
    let site = Site::new();
    let (_, mut body) = open_stream(&site, &site.feed, "/api/v1/stream?rollout=chat").await;
    read_until(&mut body, "event: rollout\n").await;
    site.feed.end();
    let rest = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    assert!(rest.ends_with("event: end\ndata: {\"reason\":\"weir ends\"}\n\n"), "{rest}");
}
