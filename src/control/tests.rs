//! The control plane on real files: config, state folder and threads as in production, without a data plane. Tests wait
//! for what they expect to see, and fail only after a long time without it.

use super::*;
use crate::clock::Clock;
use crate::config::{self, UserFiles};
use crate::rollout::Arm;
use crate::rollout::breaker;
use crate::rollout::report::State;
use crate::rollout::scale::TimeScale;
use crate::tally::Series;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::thread::JoinHandle;
use tempfile::TempDir;

/// A folder with a config and a state, and the control plane on it.
struct Site {
    folder: TempDir,
    running: Option<(Handle, JoinHandle<()>)>,
}

impl Site {
    fn new(config: &str) -> Site {
        let mut site = Site { folder: TempDir::new().unwrap(), running: None };
        site.write(config);
        site.start();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, config: &str) {
        self.write_file("weir.toml", config);
    }

    /// At once: the watch may be about to read it.
    fn write_file(&self, name: &str, text: &str) {
        fs::write(self.path("draft"), text).unwrap();
        fs::rename(self.path("draft"), self.path(name)).unwrap();
    }

    fn start(&mut self) {
        self.start_with(false);
    }

    fn start_with(&mut self, signals: bool) {
        let mut users = UserFiles::default();
        let loaded = config::load(&self.path("weir.toml"), &[], &mut users).unwrap();
        let start = Start {
            config_path: self.path("weir.toml"),
            environment: Vec::new(),
            loaded,
            users,
            clock: Clock::system(),
            workers: 2,
            signals,
            time_scale: TimeScale::default(),
            log_lost: Arc::default(),
        };
        self.running = Some(super::start(start).unwrap());
    }

    async fn stop(&mut self) {
        if let Some((handle, thread)) = self.running.take() {
            handle.stop().await;
            tokio::task::spawn_blocking(|| thread.join().unwrap()).await.unwrap();
        }
    }

    async fn restart(&mut self) {
        self.stop().await;
        self.start();
    }

    fn handle(&self) -> Handle {
        self.running.as_ref().unwrap().0.clone()
    }

    fn weight(&self) -> u32 {
        self.handle().published.load().splits[0].weight.ppm()
    }

    fn killed(&self) -> bool {
        self.handle().published.load().rollouts[0].latch.read().killed()
    }

    async fn chat(&self) -> RolloutReport {
        self.handle().rollouts(Duration::from_secs(60)).await.unwrap().remove(0)
    }

    async fn details(&self) -> Vec<String> {
        let readiness = self.handle().readiness().await;
        assert!(readiness.ready);
        readiness.details
    }

    async fn kinds(&self) -> Vec<&'static str> {
        let (events, _) = self.handle().events(0, 1000).await.unwrap();
        events.iter().map(|event| event.kind).collect()
    }

    /// Takes the database away and puts something in its place that takes no writes.
    fn break_store(&self) {
        fs::remove_file(self.path("state/weir.db")).unwrap();
        fs::create_dir(self.path("state/weir.db")).unwrap();
    }
}

fn config(weight: &str, rest: &str) -> String {
    format!(
        "state_dir = \"state\"\n\
         [[listeners]]\naddress = \"127.0.0.1:18080\"\n\
         [upstreams.legacy]\nendpoints = [\"127.0.0.1:9001\"]\n\
         [upstreams.new]\nendpoints = [\"127.0.0.1:9002\"]\n\
         [rollouts.chat]\nunit = [\"header:x-user-id\"]\nweight = \"{weight}\"\n\
         stable = {{ upstream = \"legacy\" }}\ncanary = {{ upstream = \"new\" }}\n{rest}\n"
    )
}

fn ppm(ppm: u32) -> Weight {
    Weight::from_ppm(ppm).unwrap()
}

fn who() -> Origin {
    Origin { actor: "anna".into(), reason: "a test".into() }
}

/// Waits until `seen` says so; the time only bounds how long a failure takes.
async fn eventually(what: &str, mut seen: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !seen().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

fn conflict<T: std::fmt::Debug>(result: Result<T, Denied>) -> String {
    match result {
        Err(Denied::Conflict(reason)) => reason,
        other => panic!("expected a conflict, got {other:?}"),
    }
}

#[tokio::test]
async fn the_first_snapshot_is_there_when_start_returns() {
    let site = Site::new(&config("10%", ""));
    let snapshot = site.handle().published.load();
    assert_eq!((snapshot.generation, site.handle().published.generation()), (1, 1));
    assert_eq!(snapshot.upstreams[1].endpoints[0].address, "127.0.0.1:9002".parse().unwrap());
    assert_eq!(site.weight(), 100_000);
}

#[tokio::test]
async fn a_weight_holds_over_a_restart_until_the_files_value_changes() {
    let mut site = Site::new(&config("10%", ""));
    let report = site.handle().set_weight("chat", ppm(250_000), false, who()).await.unwrap();
    assert_eq!((report.weight, report.file_weight, report.generation), (ppm(250_000), ppm(100_000), 2));
    assert_eq!(site.weight(), 250_000);
    site.restart().await;
    assert_eq!(site.weight(), 250_000);
    site.handle().reload(who()).await.unwrap();
    assert_eq!(site.weight(), 250_000);
    site.write(&config("11%", ""));
    eventually("the file's weight", async || site.weight() == 110_000).await;
    site.restart().await;
    assert_eq!(site.weight(), 110_000);
}

#[tokio::test]
async fn two_hundred_reloads_good_and_bad_leave_the_right_state() {
    let site = Site::new(&config("10%", ""));
    let handle = site.handle();
    let (mut good, mut bad) = (0, 0);
    for round in 0..200 {
        let broken = round % 3 == 0;
        let text = if broken {
            format!("round = {round}\n[rollouts.chat]\nweight = 5")
        } else {
            config(&format!("{}%", round % 100), "")
        };
        site.write(&text);
        let before = handle.published.generation();
        match handle.reload(who()).await {
            Ok(reloaded) => {
                assert!(!broken);
                assert_eq!(reloaded.generation, handle.published.generation());
                assert_eq!(site.weight(), round % 100 * 10_000);
                good += 1;
            }
            Err(denied) => {
                assert!(broken, "{denied:?}");
                assert!(conflict::<()>(Err(denied)).contains("weir.toml:1:1: "));
                assert_eq!(handle.published.generation(), before, "a bad file changes nothing");
                assert!(site.details().await[0].contains("weir.toml:1:1: "));
                bad += 1;
            }
        }
    }
    assert_eq!(site.details().await, [""; 0]);
    let metrics = handle.metrics().await.unwrap();
    let counted = |result: &str| -> u32 {
        let start = format!("weir_config_reloads_total{{result=\"{result}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&start)).unwrap().parse().unwrap()
    };
    // The watch may have seen a file as well and read it before or after the command did.
    assert!(counted("ok") >= good && counted("failed") >= bad);
    let kinds = site.kinds().await;
    assert_eq!(kinds.iter().filter(|kind| **kind == "reload").count(), counted("ok") as usize);
    assert_eq!(kinds.iter().filter(|kind| **kind == "reload_failed").count(), counted("failed") as usize);
}

#[tokio::test]
async fn a_file_that_changes_is_read_and_a_bad_one_is_reported_until_it_is_mended() {
    let site = Site::new(&config("10%", ""));
    site.write("weight =");
    eventually("the problem", async || !site.details().await.is_empty()).await;
    assert!(site.details().await[0].contains("not in force"));
    assert_eq!(site.weight(), 100_000);
    fs::remove_file(site.path("weir.toml")).unwrap();
    eventually("the missing file", async || !site.details().await[0].contains("weir.toml:1:")).await;
    site.write(&config("20%", ""));
    eventually("the mended file", async || site.weight() == 200_000).await;
    assert_eq!(site.details().await, [""; 0]);
    assert_eq!(site.kinds().await, ["reload_failed", "reload_failed", "weight", "reload"]);
}

#[tokio::test]
async fn a_file_that_a_config_needs_may_come_after_it() {
    let site = Site::new(&config("0%", ""));
    site.write(&config("0%", "[rollouts.chat.cohorts.internal]\nusers_file = \"users.txt\""));
    eventually("the problem", async || !site.details().await.is_empty()).await;
    site.write_file("users.txt", "eng-1\neng-2\n");
    eventually("the cohort", async || site.chat().await.cohorts.iter().any(|cohort| cohort.units == 2)).await;
    assert_eq!(site.kinds().await, ["reload_failed", "reload"], "what is tried again is not told again");
    site.write_file("users.txt", "eng-1\neng-2\neng-3\n");
    eventually("the longer file", async || site.chat().await.cohorts[0].units == 3).await;
}

#[tokio::test]
async fn a_kill_acts_at_once_and_survives_even_if_the_store_cannot_be_written() {
    let mut site = Site::new(&config("10%", ""));
    site.break_store();
    let handle = site.handle();
    let report = handle.kill("chat", None, who()).await.unwrap();
    assert!(site.killed() && report.killed && !report.killed_by_config);
    assert_eq!(report.state_reason.unwrap(), "killed by anna: a test");
    assert_eq!(conflict(handle.set_weight("chat", ppm(500_000), false, who()).await), "state cannot be written");
    handle.set_weight("chat", ppm(50_000), false, who()).await.unwrap();
    assert_eq!(site.weight(), 50_000);
    assert_eq!(conflict(handle.revive("chat", None, who()).await), "state cannot be written");
    assert!(site.killed());
    site.write(&config("90%", ""));
    assert!(conflict(handle.reload(who()).await).contains("state cannot be written"));
    assert_eq!(site.weight(), 50_000);
    let details = site.details().await;
    assert!(details.iter().any(|line| line.starts_with("state cannot be written: ")), "{details:?}");
    site.stop().await;
    assert!(handle.published.load().rollouts[0].latch.read().killed());
}

#[tokio::test]
async fn what_could_not_be_written_is_written_as_soon_as_it_can() {
    let mut site = Site::new(&config("10%", ""));
    let lock = rusqlite::Connection::open(site.path("state/weir.db")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    site.handle().kill("chat", None, who()).await.unwrap();
    assert!(site.details().await[0].contains("locked"));
    lock.execute_batch("ROLLBACK").unwrap();
    eventually("the write", async || site.details().await.is_empty()).await;
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(conflict(site.handle().revive("chat", None, who()).await), "state cannot be written");
    lock.execute_batch("ROLLBACK").unwrap();
    eventually("the end of the complaint", async || site.details().await.is_empty()).await;
    site.restart().await;
    assert!(site.killed());
    assert_eq!(site.kinds().await, ["kill"]);
}

#[tokio::test]
async fn a_kill_needs_no_control_plane() {
    let mut site = Site::new(&config("10%", "[rollouts.chat.cohorts.internal]\nusers = [\"a\"]"));
    let handle = site.handle();
    site.stop().await;
    assert_eq!(handle.kill("chat", Some("internal"), who()).await.unwrap_err(), Denied::Unavailable);
    assert_eq!(handle.kill("chat", None, who()).await.unwrap_err(), Denied::Unavailable);
    let switches = handle.published.load().rollouts[0].latch.read();
    assert!(switches.killed() && switches.cohort_killed(0));
    assert_eq!(handle.metrics().await.unwrap_err(), Denied::Unavailable);
    assert!(handle.readiness().await.details[0].contains("does not answer"));
}

#[tokio::test]
async fn kills_survive_a_restart_and_the_files_kill_cannot_be_revived() {
    let mut site = Site::new(&config("10%", ""));
    site.handle().kill("chat", None, who()).await.unwrap();
    site.restart().await;
    assert!(site.killed());
    site.handle().revive("chat", None, who()).await.unwrap();
    assert!(!site.killed());
    assert!(conflict(site.handle().revive("chat", None, who()).await).contains("nothing to revive"));
    site.write(&config("10%", "kill = true"));
    eventually("the file's kill", async || site.killed()).await;
    assert!(conflict(site.handle().revive("chat", None, who()).await).contains("by file or environment"));
    assert!(matches!(site.handle().kill("other", None, who()).await, Err(Denied::NotFound(_))));
}

#[tokio::test]
async fn members_added_at_run_time_survive_a_restart() {
    let mut site = Site::new(&config("0%", "[rollouts.chat.cohorts.internal]\nusers = [\"eng-1\", \"eng-2\"]"));
    let add = vec!["eng-2".to_owned(), "guest".to_owned()];
    let report = site.handle().cohort_users("chat", "internal", add, vec!["eng-1".to_owned()], who()).await.unwrap();
    assert_eq!(report.cohorts[0].units, 2);
    site.restart().await;
    let snapshot = site.handle().published.load();
    let overlay = &snapshot.splits[0].cohorts[0].overlay;
    assert!(overlay.added.contains("guest") && overlay.removed.contains("eng-1"));
    assert_eq!(site.chat().await.cohorts[0].units, 2);
    let invalid = site.handle().cohort_users("chat", "internal", vec![String::new()], vec![], who()).await;
    assert!(matches!(invalid, Err(Denied::Invalid { field, .. }) if field == "add"));
}

#[tokio::test]
async fn a_killed_cohort_stays_killed_when_a_reload_moves_it() {
    let cohort = |name: &str| format!("[rollouts.chat.cohorts.{name}]\nusers = [\"{name}\"]\n");
    let site = Site::new(&config("0%", &(cohort("one") + &cohort("two"))));
    site.handle().kill("chat", Some("one"), who()).await.unwrap();
    let before = site.handle().published.load();
    site.write(&config("0%", &(cohort("new") + &cohort("two") + &cohort("one"))));
    site.handle().reload(who()).await.unwrap();
    let after = site.handle().published.load();
    let place = after.splits[0].cohorts.iter().position(|cohort| &*cohort.name == "one").unwrap();
    let killed: Vec<usize> = (0..3).filter(|index| after.rollouts[0].latch.read().cohort_killed(*index)).collect();
    assert_eq!(killed, [place]);
    assert!(before.rollouts[0].latch.read().cohort_killed(0), "a request under the old snapshot still sees it");
    site.handle().revive("chat", Some("one"), who()).await.unwrap();
    assert!(!after.rollouts[0].latch.read().cohort_killed(place));
}

#[tokio::test]
async fn lost_state_holds_rollouts_at_zero_until_an_operator_decides() {
    let mut site = Site::new(&config("50%", ""));
    site.stop().await;
    fs::write(site.path("state/weir.db"), "not a database at all").unwrap();
    for name in ["weir.db-wal", "weir.db-shm"] {
        let _ = fs::remove_file(site.path("state").join(name));
    }
    site.start();
    let report = site.chat().await;
    assert_eq!((report.state, report.weight, site.weight()), (State::Paused, Weight::ZERO, 0));
    assert_eq!(report.state_reason.unwrap(), "state unreadable");
    assert!(site.details().await[0].contains("weir.db.corrupt-"));
    assert_eq!(site.kinds().await, ["pause"]);
    site.restart().await;
    assert_eq!(site.weight(), 0, "a restart is no decision");
    site.handle().revive("chat", None, who()).await.unwrap();
    assert_eq!(site.weight(), 500_000);
    assert_eq!(site.details().await, [""; 0]);
}

#[tokio::test]
async fn what_only_a_restart_applies_is_said_and_the_rest_is_applied() {
    let site = Site::new(&config("10%", ""));
    let moved = config("20%", "").replace("18080", "18081").replace("\"state\"", "\"elsewhere\"");
    site.write(&moved);
    let reloaded = site.handle().reload(who()).await.unwrap();
    assert_eq!(reloaded.needs_restart, ["listeners", "state_dir"]);
    // The file may have been noticed before anybody asked: then it was that reading that changed the weight.
    let (events, _) = site.handle().events(0, 1000).await.unwrap();
    assert!(events.iter().any(|event| event.kind == "reload" && event.new.contains("weight")), "{events:?}");
    assert_eq!(site.weight(), 200_000);
    assert_eq!(&*site.handle().published.load().listeners[0].address, "127.0.0.1:18080");
    assert!(site.details().await[0].contains("listeners, state_dir"));
}

#[tokio::test]
async fn events_carry_both_arms_numbers_and_metrics_equal_what_was_counted() {
    let site = Site::new(&config("50%", ""));
    let snapshot = site.handle().published.load();
    let count = |arm: Arm, requests: u64, errors: u64| {
        let series: &Series = snapshot.routes[0].rollouts[0].series[arm.index()].of(1).unwrap();
        series.started.add(requests);
        series.codes[2].add(requests - errors);
        series.codes[5].add(errors);
        series.errors[0].add(errors);
        (0..requests).for_each(|_| series.first_byte.record(3_000));
        series.ended.add(requests);
    };
    count(Arm::Stable, 40, 0);
    count(Arm::Canary, 50, 17);
    eventually("the numbers", async || site.chat().await.arms[1].requests == 50).await;
    site.handle().set_weight("chat", ppm(10_000), false, Origin::default()).await.unwrap();
    let (events, next) = site.handle().events(0, 10).await.unwrap();
    let event = events.last().unwrap();
    assert_eq!((event.kind, event.actor.as_str(), event.id), ("weight", "operator", next));
    let numbers: Value = serde_json::from_str(&event.numbers).unwrap();
    assert_eq!(numbers["canary"]["requests"], 50);
    assert_eq!(numbers["canary"]["error_rate"], 0.34);
    assert_eq!(numbers["stable"]["errors"], 0);
    let (old, new): (Value, Value) =
        (serde_json::from_str(&event.old).unwrap(), serde_json::from_str(&event.new).unwrap());
    assert_eq!((old["weight_ppm"].as_u64(), new["weight_ppm"].as_u64()), (Some(500_000), Some(10_000)));
    let metrics = site.handle().metrics().await.unwrap();
    for line in [
        "weir_requests_total{rollout=\"chat\",arm=\"canary\",route=\"default\",code=\"2xx\"} 33\n",
        "weir_requests_total{rollout=\"chat\",arm=\"canary\",route=\"default\",code=\"5xx\"} 17\n",
        "weir_request_errors_total{rollout=\"chat\",arm=\"canary\",kind=\"status_5xx\"} 17\n",
        "weir_requests_in_flight{rollout=\"chat\",arm=\"stable\"} 0\n",
        "weir_request_duration_seconds_count{rollout=\"chat\",arm=\"stable\"} 40\n",
        "weir_rollout_weight_ratio{rollout=\"chat\"} 0.01\n",
        "weir_connections{listener=\"127.0.0.1:18080\"} 0\n",
        "weir_upstream_connections{upstream=\"new\",state=\"idle\"} 0\n",
        "weir_config_generation 2\n",
        "weir_audit_events_total{kind=\"weight\"} 1\n",
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
}

/// Five failures in a row of as many units, as workers that hold this snapshot tell of them.
fn run_of_failures(snapshot: &Snapshot) {
    let chat = &snapshot.rollouts[0];
    let guard = chat.guard.as_ref().unwrap();
    let era = chat.latch.read().era();
    for unit in ["a", "b", "c", "d", "e"] {
        chat.latch.saw(chat.latch.mark(unit));
        chat.latch.failed(chat.latch.mark(unit), era, guard);
    }
    assert_eq!(chat.latch.read().state(), breaker::State::Open, "it opens by itself");
}

async fn breaker_state(site: &Site) -> Option<breaker::State> {
    site.chat().await.breaker.map(|breaker| breaker.state)
}

#[tokio::test]
async fn a_trip_needs_no_disk_and_the_way_back_does() {
    let site = Site::new(&config("10%", "[rollouts.chat.breaker]\ncooldown = \"200ms\""));
    site.break_store();
    run_of_failures(&site.handle().published.load());
    eventually("the trip", async || breaker_state(&site).await == Some(breaker::State::Open)).await;
    let unwritten = |note: &str| note.contains("state cannot be written");
    eventually("a try to half-open", async || site.chat().await.breaker.unwrap().note.is_some_and(|it| unwritten(&it)))
        .await;
    assert_eq!(site.handle().published.load().rollouts[0].latch.read().state(), breaker::State::Open);
    let reason = conflict(site.handle().revive("chat", None, who()).await);
    assert_eq!(reason, "state cannot be written");
    let metrics = site.handle().metrics().await.unwrap();
    assert!(metrics.contains("weir_breaker_state{rollout=\"chat\"} 2\n"), "{metrics}");
    assert!(metrics.contains("weir_audit_events_total{kind=\"trip\"} 1\n"), "{metrics}");
}

#[tokio::test]
async fn a_request_that_began_under_a_breaker_opens_nothing_once_that_is_switched_off() {
    let site = Site::new(&config("10%", ""));
    let before = site.handle().published.load();
    site.write(&config("10%", "[rollouts.chat.breaker]\nenabled = false"));
    site.handle().reload(who()).await.unwrap();
    run_of_failures(&before);
    let latch = &before.rollouts[0].latch;
    eventually("the way back", async || latch.read().state() == breaker::State::Closed).await;
    assert_eq!(breaker_state(&site).await, None);
    // The watch may have seen the file too.
    let kinds = site.kinds().await;
    assert!(kinds.iter().all(|kind| *kind == "reload"), "{kinds:?}");
}

#[tokio::test]
async fn a_weight_that_a_hash_cannot_carry_out_is_refused() {
    let site = Site::new(&config("10%", "hash = \"unleash\""));
    let denied = site.handle().set_weight("chat", ppm(125_000), false, who()).await.unwrap_err();
    assert!(matches!(denied, Denied::Invalid { field, message } if field == "weight" && message.contains("1%")));
    site.handle().set_weight("chat", ppm(130_000), false, who()).await.unwrap();
}

#[tokio::test]
async fn a_name_of_a_new_upstream_is_known_before_the_snapshot_that_needs_it() {
    let site = Site::new(&config("10%", ""));
    site.write(&config("10%", "").replace("127.0.0.1:9002", "localhost:9002"));
    let reloaded = site.handle().reload(who()).await.unwrap();
    let snapshot = site.handle().published.load();
    assert_eq!(snapshot.generation, reloaded.generation);
    assert_eq!(snapshot.upstreams[1].endpoints[0].address, "127.0.0.1:9002".parse().unwrap());
}

#[tokio::test]
async fn a_hangup_reads_the_config_again() {
    let mut site = Site { folder: TempDir::new().unwrap(), running: None };
    site.write(&config("10%", ""));
    site.start_with(true);
    let pid = std::process::id().to_string();
    assert!(std::process::Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    eventually("the reload", async || site.kinds().await == ["reload"]).await;
    assert_eq!(site.handle().events(0, 1).await.unwrap().0[0].actor, "signal");
}

#[tokio::test]
async fn draining_is_not_ready() {
    let site = Site::new(&config("10%", ""));
    site.handle().draining();
    let readiness = site.handle().readiness().await;
    assert!(!readiness.ready);
    assert_eq!(readiness.details, ["draining"]);
}

#[tokio::test]
async fn the_effective_config_is_that_of_the_last_good_file() {
    let site = Site::new(&config("10%", ""));
    site.write(&config("30%", ""));
    site.handle().reload(who()).await.unwrap();
    let effective: Value = serde_json::from_str(&site.handle().config().await.unwrap()).unwrap();
    assert_eq!(effective["rollouts"]["chat"]["weight"], "30%");
}

#[test]
fn a_state_folder_that_cannot_be_used_is_a_start_error() {
    let mut site = Site { folder: TempDir::new().unwrap(), running: None };
    site.write(&config("10%", ""));
    fs::write(site.path("state"), "a file").unwrap();
    let mut users = UserFiles::default();
    let loaded = config::load(&site.path("weir.toml"), &[], &mut users).unwrap();
    let start = Start {
        config_path: site.path("weir.toml"),
        environment: Vec::new(),
        loaded,
        users,
        clock: Clock::system(),
        workers: 1,
        signals: false,
        time_scale: TimeScale::default(),
        log_lost: Arc::default(),
    };
    let error = super::start(start).map(|_| ()).unwrap_err().to_string();
    assert!(error.starts_with("state_dir: cannot write ") && error.contains("/state"), "{error}");
    site.running = None;
}
