//! Reloads and weight changes under load: no request fails, no connection closes, every worker follows, a bad file
//! changes nothing.

use crate::harness::piped::sized;
use crate::harness::wait::eventually;
use crate::harness::{Client, Config, Gate, Origin, Reply, Weir, soon};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Between two requests of a client.
const THINK: Duration = Duration::from_millis(20);

/// Clients that ask again and again, each over one connection for as long as it lives.
struct Load {
    clients: Vec<JoinHandle<u64>>,
    over: Arc<AtomicBool>,
}

impl Load {
    async fn start(weir: &Weir, connections: usize) -> Load {
        let over = Arc::new(AtomicBool::new(false));
        let mut clients = Vec::new();
        for number in 0..connections {
            let mut client = Client::to(weir.address, number % 2 == 1).await;
            let over = Arc::clone(&over);
            clients.push(tokio::spawn(async move {
                let mut done = 0;
                while !over.load(Ordering::Relaxed) {
                    let unit = format!("user-{number}-{done}");
                    let got = client.call("POST", "/", &[("x-user-id", &unit)], sized("some body")).await;
                    assert_eq!(got.status, 200, "connection {number}, request {done}");
                    assert!(!client.is_closed(), "connection {number} after request {done}");
                    done += 1;
                    // Clients that think leave room for what is tested: on few cores they would take all of them.
                    tokio::time::sleep(THINK).await;
                }
                done
            }));
        }
        Load { clients, over }
    }

    /// Ends the load; the number of requests, all of which went well over the first connections.
    async fn end(self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        let mut done = 0;
        for client in self.clients {
            done += soon("a client's end", client).await.expect("no request failed and no connection closed");
        }
        done
    }
}

#[tokio::test]
async fn two_hundred_reloads_good_and_bad_fail_no_request_and_close_no_connection() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    // Every reload changes something; a new weight is the slow kind, since weir counts whom it would move.
    let percent = |number: usize| number / 10 * 5;
    let config = |number: usize| {
        let timeout = format!("response_timeout = \"{}s\"", 15 + number);
        Config::split(&legacy, &new).workers(2).weight(&format!("{}%", percent(number))).upstreams(&timeout)
    };
    let weir = Weir::start(&config(0)).await;
    let load = Load::start(&weir, 12).await;
    let bad = ["", "no toml at all [", "[rollouts.chat]\nwieght = \"5%\"", "\u{0}\u{1}\u{2}"];
    let (mut accepted, mut refused) = (0, 0);
    for number in 0..200 {
        let is_bad = number % 3 == 2;
        let text = if is_bad { bad[number % bad.len()].to_owned() } else { config(number).to_string() };
        change(&weir, number, &text);
        let before = weir.explain("u").await["weight_ppm"].clone();
        // Most are asked for inside of the process, which is faster; the admin API says the same in more words.
        let taken = if number % 5 == 0 {
            let answer = weir.reload().await;
            let wanted = if is_bad { 400..500 } else { 200..201 };
            assert!(wanted.contains(&answer.status), "reload {number}: {} {}", answer.status, answer.text());
            answer.status == 200
        } else {
            weir.reload_at_once().await
        };
        assert_eq!(taken, !is_bad, "reload {number}");
        let after = weir.explain("u").await["weight_ppm"].clone();
        if is_bad {
            assert_eq!(after, before, "a bad file changed something");
            refused += 1;
        } else {
            assert_eq!(after, json!(percent(number) * 10_000));
            accepted += 1;
        }
    }
    let done = load.end().await;
    assert!(accepted > 100 && refused > 50 && done > 200, "{accepted} {refused} {done}");
    let sent = legacy.count() + new.count();
    assert_eq!(sent, done, "each request reached an origin once");
    weir.stop().await;
}

/// Changes the file in one of the ways files are changed: rewritten, renamed over, or a link to another folder.
fn change(weir: &Weir, number: usize, text: &str) {
    match number % 4 {
        0 | 1 => weir.write_config(&text),
        2 => {
            // Through a link, what it points to is rewritten.
            std::fs::write(weir.config_file(), text).expect("the folder is ours");
        }
        _ => {
            let folder = weir.folder.path();
            let version = format!("v{number}");
            std::fs::create_dir(folder.join(&version)).expect("the folder is ours");
            std::fs::write(folder.join(&version).join("weir.toml"), text).expect("the folder is ours");
            swap_link(folder, &format!("{version}/weir.toml"), "weir.toml");
        }
    }
}

#[tokio::test]
async fn two_hundred_weight_changes_fail_no_request_and_close_no_connection() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let weir = Weir::start(&Config::split(&legacy, &new).workers(2)).await;
    let load = Load::start(&weir, 12).await;
    let mut generation = weir.generation();
    for number in 0..200_u32 {
        let weight = (number * 7) % 101;
        let state = weir.weigh(&format!("{weight}%")).await;
        assert_eq!(state["weight_ppm"], json!(weight * 10_000));
        assert!(weir.generation() >= generation);
        generation = weir.generation();
    }
    let done = load.end().await;
    assert_eq!(legacy.count() + new.count(), done);
    weir.stop().await;
}

#[tokio::test]
async fn a_weight_change_that_was_answered_is_seen_by_every_worker() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let weir = Weir::start(&Config::split(&legacy, &new).workers(4).weight("0%")).await;
    let mut clients = Vec::new();
    for number in 0..32 {
        clients.push(Client::to(weir.address, number % 2 == 0).await);
    }
    for (weight, origin) in [("100%", "new"), ("0%", "legacy"), ("100%", "new"), ("0%", "legacy")] {
        weir.weigh(weight).await;
        for (number, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.origin_of("u").await, origin, "connection {number} after {weight}");
        }
    }
    weir.stop().await;
}

#[tokio::test]
async fn a_kill_that_was_answered_is_seen_by_every_worker() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let weir = Weir::start(&Config::split(&legacy, &new).workers(4).weight("100%")).await;
    let mut clients = Vec::new();
    for _ in 0..32 {
        let mut client = Client::http1(weir.address).await;
        assert_eq!(client.origin_of("u").await, "new");
        clients.push(client);
    }
    weir.command("/api/v1/rollouts/chat/kill", json!({})).await;
    for client in &mut clients {
        assert_eq!(client.origin_of("u").await, "legacy");
    }
    weir.stop().await;
}

#[tokio::test]
async fn a_request_under_way_keeps_the_snapshot_it_started_under() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let gate = Gate::closed();
    let held = gate.clone();
    new.script(move |_| Reply::held(&held));
    let weir = Weir::start(&Config::split(&legacy, &new).weight("100%")).await;
    let mut client = Client::http2(weir.address).await;
    let request = client.request("GET", "/", &[("x-user-id", "u")], sized(""));
    let answer = tokio::spawn(client.begin(request));
    new.until("the request", |state| state.requests.len() == 1).await;
    weir.weigh("0%").await;
    // Even its upstream leaves the config meanwhile.
    weir.write_config(&Config::split(&legacy, &legacy).weight("0%"));
    assert_eq!(weir.reload().await.status, 200);
    gate.open();
    let got = soon("the answer", answer).await.expect("no panic").expect("an answer");
    assert_eq!(got.status(), 200);
    weir.stop().await;
}

#[tokio::test]
async fn a_changed_file_is_picked_up_without_being_told() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let weir = Weir::start(&Config::split(&legacy, &new).weight("0%")).await;
    let reached = |weight: u32| {
        let weir = &weir;
        async move {
            eventually("the new weight", || async {
                (weir.explain("u").await["weight_ppm"] == json!(weight * 10_000)).then_some(())
            })
            .await;
        }
    };
    // As a rename.
    weir.write_config(&Config::split(&legacy, &new).weight("10%"));
    reached(10).await;
    // As an editor that empties the file and writes it again.
    let text = Config::split(&legacy, &new).weight("20%").to_string();
    std::fs::write(weir.config_file(), "").expect("the folder is ours");
    std::fs::write(weir.config_file(), text).expect("the folder is ours");
    reached(20).await;
    // As a mounted ConfigMap: a symlink to a folder that is swapped.
    let folder = weir.folder.path();
    for (name, weight) in [("v1", "30%"), ("v2", "40%")] {
        std::fs::create_dir(folder.join(name)).expect("the folder is ours");
        let text = Config::split(&legacy, &new).weight(weight).to_string();
        std::fs::write(folder.join(name).join("weir.toml"), text).expect("the folder is ours");
    }
    swap_link(folder, "v1", "data");
    swap_link(folder, "data/weir.toml", "weir.toml");
    reached(30).await;
    swap_link(folder, "v2", "data");
    reached(40).await;
    weir.stop().await;
}

/// Makes `link` point to `target` in one step.
fn swap_link(folder: &std::path::Path, target: &str, link: &str) {
    let next = folder.join("next-link");
    std::os::unix::fs::symlink(target, &next).expect("the folder is ours");
    std::fs::rename(next, folder.join(link)).expect("the folder is ours");
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_is_shown_until_it_is_mended() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let good = Config::split(&legacy, &new).weight("25%");
    let weir = Weir::start(&good).await;
    let before = weir.metrics().await;
    weir.write_config(&good.clone().rollout("wieght = \"30%\""));
    let answer = weir.reload().await;
    assert!((400..500).contains(&answer.status), "{}", answer.status);
    assert!(answer.text().contains("wieght"), "{}", answer.text());
    assert_eq!(weir.explain("u").await["weight_ppm"], json!(250_000));
    let ready = weir.ask("GET", "/readyz", "").await;
    assert_eq!(ready.status, 200, "a bad file is no reason to stop serving");
    assert!(ready.text().contains("wieght"), "{}", ready.text());
    let after = weir.metrics().await;
    let reloads = |metrics: &crate::harness::metrics::Metrics| metrics.count("weir_config_reloads_total", &[]);
    assert!(reloads(&after) > reloads(&before));
    weir.write_config(&good.clone().weight("26%"));
    assert_eq!(weir.reload().await.status, 200);
    let ready = weir.ask("GET", "/readyz", "").await;
    assert!(!ready.text().contains("wieght"), "{}", ready.text());
    weir.stop().await;
}

#[tokio::test]
async fn what_only_a_restart_applies_is_named_and_the_rest_applied() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let weir = Weir::start(&Config::split(&legacy, &new).workers(2).weight("10%")).await;
    weir.write_config(&Config::split(&legacy, &new).workers(3).weight("20%"));
    let answer = weir.reload().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text().contains("workers"), "{}", answer.text());
    assert_eq!(weir.explain("u").await["weight_ppm"], json!(200_000));
    weir.stop().await;
}
