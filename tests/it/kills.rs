//! A process that is killed at any moment while its plan moves: what requests have seen is written down, and the next
//! process goes on from there.

use crate::harness::wait::eventually;
use crate::harness::weir::folder;
use crate::harness::{Config, Origin, Weir};
use crate::process::Process;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use weir::rollout::bucket::Bucketer;

/// Kills unless `WEIR_KILLS` asks for others.
const KILLS: u64 = 12;
/// Stages of the plan; one ends at every look, so every kill is near a change.
const STAGES: u32 = 40;
/// Of each stage more than of the one before.
const STEP_PPM: u32 = 20_000;

fn plan() -> String {
    let stage = |number: u32| {
        format!("[[rollouts.chat.stages]]\nname = \"s{number}\"\nweight = \"{}%\"\n", (number + 1) * STEP_PPM / 10_000)
    };
    (0..STAGES).map(stage).collect()
}

/// Sends a request and reads what comes; the process may end at any moment.
fn say(address: SocketAddr, text: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(text.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn ask(admin: SocketAddr, target: &str) -> Option<Value> {
    let answer = say(admin, &format!("GET {target} HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n")).ok()?;
    serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
}

fn order(admin: SocketAddr, command: &str, body: &str) {
    let head = format!("POST /api/v1/rollouts/chat/{command} HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n");
    let text = format!("{head}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    // Denied, or cut in the middle: both are part of it.
    let _ = say(admin, &text);
}

/// Requests of random units until it is told to stop.
fn traffic(address: SocketAddr, stop: &Arc<AtomicBool>, seed: u64) -> std::thread::JoinHandle<()> {
    let stop = Arc::clone(stop);
    let mut chance = fastrand::Rng::with_seed(seed);
    let send = move || {
        while !stop.load(Ordering::Relaxed) {
            let unit = chance.u16(..);
            let head = format!("GET / HTTP/1.1\r\nhost: a\r\nx-user-id: u{unit}\r\nconnection: close\r\n\r\n");
            let _ = say(address, &head);
        }
    };
    std::thread::Builder::new().spawn(send).expect("a thread")
}

/// What is on the disk of a process that is no more: the rollout's row and the whole trail.
struct Recorded {
    state: String,
    stage: Option<String>,
    /// `old` and `new` of every event of the rollout that tells how it stands, in order.
    trail: Vec<(Value, Value)>,
}

fn recorded(folder: &TempDir) -> Recorded {
    // A copy, so that the next process finds exactly what the last one left.
    let copy = tempfile::tempdir().expect("a temporary folder");
    for entry in std::fs::read_dir(folder.path().join("state")).expect("the state folder is there") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().to_string_lossy().into_owned();
        assert!(!name.contains("corrupt"), "{name}: the state could not be read");
        std::fs::copy(entry.path(), copy.path().join(&name)).expect("a copy");
    }
    let database = rusqlite::Connection::open(copy.path().join("weir.db")).expect("a database");
    let whole: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("it is readable");
    assert_eq!(whole, "ok");
    let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?));
    let sql = "SELECT state, stage FROM rollouts WHERE name = 'chat'";
    let (state, stage) = database.query_row(sql, [], row).unwrap_or(("pending".to_owned(), None));
    let sql = "SELECT old, new FROM events WHERE rollout = 'chat' ORDER BY id";
    let mut events = database.prepare(sql).expect("a table of events");
    let json = |text: String| serde_json::from_str::<Value>(&text).expect("JSON");
    // How it stands; what else is told of a step is about the way there.
    let standing = |text: String| {
        let mut facts = json(text);
        facts.as_object_mut().and_then(|facts| facts.remove("to"));
        facts
    };
    let event = |row: &rusqlite::Row<'_>| Ok((standing(row.get(0)?), standing(row.get(1)?)));
    let trail = events.query_map([], event).expect("events").map(|event| event.expect("an event"));
    Recorded { state, stage, trail: trail.filter(|(_, new)| new.get("state").is_some()).collect() }
}

impl Recorded {
    /// Every entry begins where the one before has led, and the last one leads to what is saved.
    fn is_whole(&self) {
        for (before, after) in self.trail.iter().zip(self.trail.iter().skip(1)) {
            assert_eq!(before.1, after.0, "the trail has a gap");
        }
        if let Some((_, last)) = self.trail.last() {
            assert_eq!((last["state"].as_str(), last["stage"].as_str()), (Some(&*self.state), self.stage.as_deref()));
        }
    }
}

fn weight_of(stage: &str) -> u32 {
    let number: u32 = stage.trim_start_matches('s').parse().expect("a stage of the plan");
    (number + 1) * STEP_PPM
}

/// Everything that the canary has seen lay within what was written down by then.
fn is_within(new: &Origin, recorded: &Recorded, met: &mut BTreeSet<String>) {
    let bucketer = Bucketer::native("chat");
    let stages: BTreeSet<&str> = recorded.trail.iter().filter_map(|(_, new)| new["stage"].as_str()).collect();
    for seen in new.state().requests {
        let told = seen.field("x-weir-rollout").expect("weir says where it comes from").to_owned();
        let stage = told.split(';').find_map(|part| part.strip_prefix("stage=")).expect("a stage").to_owned();
        assert!(stages.contains(&*stage), "a request of `{stage}`, which nobody wrote down: {told}");
        let unit = seen.field("x-user-id").expect("its unit");
        assert!(bucketer.bucket(unit).ppm() < weight_of(&stage), "`{unit}` is beyond the weight of `{stage}`");
        met.insert(stage);
    }
}

#[tokio::test]
async fn a_process_that_is_killed_at_any_moment_goes_on_where_it_was_and_exposes_no_more() {
    let mut chance = crate::harness::chance::rng(7);
    let (mut home, mut met, mut commands) = (folder(), BTreeSet::new(), 0);
    for kill in 0..crate::harness::chance::kills(KILLS) {
        let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let admin = free.local_addr().expect("it is bound");
        drop(free);
        let config = Config::split(&legacy, &new).weight("100%").tables(&plan()).to_string();
        let config = config.replace("[admin]\naddress = \"127.0.0.1:0\"", &format!("[admin]\naddress = \"{admin}\""));
        let file = home.path().join("weir.toml");
        std::fs::write(&file, config).expect("the folder is ours");
        let before = home.path().join("state").exists().then(|| recorded(&home));
        let process = Process::start(&file).await;
        let stop = Arc::default();
        let clients = [0, 1].map(|client| traffic(process.address, &stop, kill * 2 + client));
        let view = eventually("the state", || async { ask(admin, "/api/v1/rollouts/chat") }).await;
        let state = view["state"].as_str().expect("a state").to_owned();
        if let Some(before) = &before {
            assert_eq!(state == "rolled_back", before.state == "rolled_back", "{view} after {}", before.state);
        }
        if state == "rolled_back" || state == "paused" {
            order(admin, if state == "paused" { "resume" } else { "revive" }, "{}");
        }
        tokio::time::sleep(Duration::from_millis(chance.u64(..900))).await;
        // Often in the middle of a person's word.
        let ordered = (chance.u8(..3) > 0).then(|| {
            commands += 1;
            let (command, body) = match chance.u8(..4) {
                0 => ("rollback", json!({ "to": "previous" })),
                1 => ("rollback", json!({ "to": "stable" })),
                2 => ("promote", json!({ "force": true })),
                _ => ("rollback", json!({ "to": "half" })),
            };
            let order = move || order(admin, command, &body.to_string());
            std::thread::Builder::new().name("operator".into()).spawn(order).expect("a thread")
        });
        tokio::time::sleep(Duration::from_micros(chance.u64(..4_000))).await;
        drop(process);
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().chain(ordered).for_each(|thread| thread.join().expect("it ends"));
        let after = recorded(&home);
        after.is_whole();
        is_within(&new, &after, &mut met);
        if let Some(before) = &before {
            assert_eq!(&after.trail[..before.trail.len()], &before.trail[..], "what was written down stays");
        }
        if after.state == "completed" || met.len() as u32 == STAGES {
            (home, met) = (folder(), BTreeSet::new());
        }
    }
    println!("{commands} commands");
}

#[tokio::test]
async fn state_that_is_lost_in_the_middle_of_a_stage_leaves_everything_on_stable() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let stage = |name: &str, weight: &str| {
        format!("[[rollouts.chat.stages]]\nname = \"{name}\"\nweight = \"{weight}\"\nmin_duration = \"1h\"\n")
    };
    let plan = stage("ten", "10%") + &stage("all", "100%");
    for (what, content) in [("foreign", Some(b"this is no database at all".as_slice())), ("cut", None)] {
        let weir = Weir::start(&Config::split(&legacy, &new).weight("100%").tables(&plan)).await;
        eventually("the first stage", async || {
            (weir.view("/api/v1/rollouts/chat").await["stage"]["name"] == json!("ten")).then_some(())
        })
        .await;
        weir.command("/api/v1/rollouts/chat/promote", json!({ "force": true })).await;
        let folder = Arc::clone(&weir.folder);
        weir.stop().await;
        let database = folder.path().join("state/weir.db");
        match content {
            Some(content) => std::fs::write(&database, content).expect("the folder is ours"),
            None => {
                let file = std::fs::OpenOptions::new().write(true).open(&database).expect("it is there");
                file.set_len(5_000).expect("it is ours");
            }
        }
        let weir = Weir::start_with(folder, Vec::new()).await;
        let view = weir.view("/api/v1/rollouts/chat").await;
        assert_eq!((&view["state"], &view["weight_ppm"]), (&json!("paused"), &json!(0)), "{what}: {view}");
        assert!(view.to_string().contains("state unreadable"), "{what}: {view}");
        assert!(weir.ask("GET", "/readyz", "").await.text().contains("state unreadable"), "{what}");
        let moved = std::fs::read_dir(weir.folder.path().join("state"))
            .expect("a folder")
            .any(|entry| entry.expect("an entry").file_name().to_string_lossy().starts_with("weir.db.corrupt-"));
        assert!(moved, "{what}: the file is kept for whoever wants to know");
        let denied = weir.ask("POST", "/api/v1/rollouts/chat/promote", "{}").await;
        assert_eq!(denied.status, 409, "{}", denied.text());
        weir.command("/api/v1/rollouts/chat/revive", json!({})).await;
        eventually("the plan to begin", async || {
            (weir.view("/api/v1/rollouts/chat").await["stage"]["name"] == json!("ten")).then_some(())
        })
        .await;
        weir.stop().await;
    }
}
