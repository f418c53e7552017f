//! The access log: what it keeps, and that no request waits for it.

use crate::harness::weir::folder;
use crate::harness::{Client, Config, Origin, Reply, Weir};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

/// More than the queue, a pipe and the buffer between them can hold, by far.
const REQUESTS: usize = 10_000;
const CLIENTS: usize = 8;

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("a log");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[tokio::test]
async fn a_reader_that_stands_still_costs_lines_and_no_request() {
    let origin = Origin::start("new").await;
    let folder = folder();
    let pipe = folder.path().join("access.pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo is there").success());
    let nonblocking = rustix::fs::OFlags::NONBLOCK;
    let reader = OpenOptions::new().read(true).custom_flags(nonblocking.bits() as i32).open(&pipe).expect("a pipe");
    let config = Config::split(&origin, &origin).tables("[access_log]\nmode = \"full\"\npath = \"access.pipe\"");
    let weir = Weir::start_in(Arc::clone(&folder), &config).await;

    let address = weir.address;
    let clients = (0..CLIENTS).map(|number| {
        tokio::spawn(async move {
            let unit = format!("u{number}");
            let mut client = Client::http1(address).await;
            for _ in 0..REQUESTS / CLIENTS {
                assert_eq!(client.get("/", &[("x-user-id", &unit)]).await.status, 200);
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.expect("no request failed");
    }
    let dropped = |metrics: &crate::harness::metrics::Metrics| metrics.count("weir_access_log_dropped_total", &[]);
    let metrics = weir.metrics_until("dropped lines", |metrics| dropped(metrics) > 0).await;
    weir.stop().await;

    // Now somebody reads: what was kept comes, in whole lines, and nothing of it twice.
    let flags = rustix::fs::fcntl_getfl(&reader).expect("flags");
    rustix::fs::fcntl_setfl(&reader, flags - nonblocking).expect("flags");
    let read = tokio::task::spawn_blocking(move || {
        let mut kept: BTreeMap<String, usize> = BTreeMap::new();
        for line in BufReader::new(reader).lines() {
            let line: Value = serde_json::from_str(&line.expect("a text")).expect("JSON");
            *kept.entry(line["request_id"].as_str().expect("an id").to_owned()).or_default() += 1;
        }
        kept
    });
    let kept = read.await.expect("every line is one");
    assert!(kept.values().all(|count| *count == 1));
    assert!(kept.len() > REQUESTS / 2 && kept.len() as u64 + dropped(&metrics) <= REQUESTS as u64, "{}", kept.len());
}

#[tokio::test]
async fn of_a_sample_every_failure_is_kept_with_its_rollout_arm_reason_and_trace() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let config = Config::split(&legacy, &new)
        .weight("100%")
        .rollout("errors = { statuses = [\"5xx\", \"429\"] }")
        .tables("[access_log]\nmode = \"sampled\"\nshare = \"0%\"\npath = \"access.log\"");
    new.script(|seen| match seen.target.as_str() {
        "/fails" => Reply::status(500),
        "/busy" => Reply::status(429),
        "/missing" => Reply::status(404),
        _ => Reply::Hello,
    });
    let folder = folder();
    let weir = Weir::start_in(Arc::clone(&folder), &config).await;
    let mut client = Client::http1(weir.address).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for path in ["/", "/missing", "/fails", "/busy", "/"] {
        client.get(path, &[("x-user-id", "u"), ("traceparent", trace), ("x-request-id", "id-1")]).await;
    }
    weir.stop().await;
    let lines = lines(&folder.path().join("access.log"));
    let of = |line: &Value| {
        let keys = ["path", "status", "rollout", "arm", "stage", "reason", "trace_id", "request_id"];
        keys.map(|key| line[key].to_string().replace('"', "")).join(" ")
    };
    let known: Vec<String> = lines.iter().map(of).collect();
    let rest = "chat canary null bucket 0af7651916cd43dd8448eb211c80319c id-1";
    assert_eq!(known, [format!("/fails 500 {rest}"), format!("/busy 429 {rest}")]);
}

#[tokio::test]
async fn a_log_that_is_off_is_switched_on_by_a_reload() {
    let origin = Origin::start("new").await;
    let folder = folder();
    let config = |mode: &str| {
        Config::split(&origin, &origin).tables(&format!("[access_log]\nmode = \"{mode}\"\npath = \"access.log\""))
    };
    let weir = Weir::start_in(Arc::clone(&folder), &config("off")).await;
    let mut client = Client::http1(weir.address).await;
    client.get("/off", &[("x-user-id", "u")]).await;
    weir.write_config(&config("full"));
    assert_eq!(weir.reload().await.status, 200);
    client.get("/on", &[("x-user-id", "u")]).await;
    weir.stop().await;
    let paths: Vec<Value> = lines(&folder.path().join("access.log")).iter().map(|line| line["path"].clone()).collect();
    assert_eq!(paths, ["/on"]);
}
