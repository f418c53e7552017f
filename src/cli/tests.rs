//! The command line as its users meet it: words in, text and exit code out, against a server that only remembers what it
//! was asked and answers as told.

use super::args::Cli;
use super::console::Console;
use clap::Parser;
use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, sync_channel};

mod plan;

/// What a command printed and how it ended.
#[derive(Debug)]
struct Ran {
    code: u8,
    out: String,
    err: String,
}

fn weir(line: &str) -> Ran {
    weir_with(line, &[], "")
}

fn weir_with(line: &str, environment: &[(&str, &str)], input: &str) -> Ran {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = weir_into(line, environment, input, &mut out, &mut err);
    Ran { code, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
}

fn weir_into(line: &str, environment: &[(&str, &str)], input: &str, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let environment: Vec<_> = environment.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let mut console = Console {
        out,
        err,
        input: &mut input.as_bytes(),
        program: "weir",
        environment: &environment,
        out_is_terminal: false,
        err_is_terminal: false,
        in_is_terminal: false,
    };
    super::run(&mut console, std::iter::once("weir").chain(line.split_whitespace()).map(Into::into))
}

/// A request as the server saw it.
#[derive(Debug, PartialEq)]
struct Asked {
    line: String,
    token: Option<String>,
    body: Value,
}

/// Answers one request a connection, in order, then is gone.
fn server(answers: Vec<(u16, String)>) -> (SocketAddr, Receiver<Asked>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, asked) = sync_channel(answers.len());
    std::thread::Builder::new()
        .spawn(move || {
            for (status, body) in answers {
                let (stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(&stream);
                tell.send(read(&mut reader)).unwrap();
                let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
                (&stream).write_all((head + &body).as_bytes()).unwrap();
            }
        })
        .unwrap();
    (address, asked)
}

fn read(reader: &mut impl BufRead) -> Asked {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let header =
        |name: &str| lines.iter().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned());
    let mut body = vec![0; header("content-length:").map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut body).unwrap();
    Asked {
        line: lines[0].trim_end_matches(" HTTP/1.1").to_owned(),
        token: header("authorization:"),
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    }
}

fn rollout(name: &str) -> Value {
    let arm = json!({
        "requests": 4, "errors": 0, "error_rate": 0.0, "rps": 0.1,
        "p50_ms": 4.0, "p75_ms": 4.0, "p90_ms": 4.0, "p95_ms": 4.0, "p99_ms": 4.0, "p999_ms": 4.0,
        "in_flight": 0,
    });
    json!({
        "name": name, "state": "running", "state_reason": null, "stage": null, "weight_ppm": 250_000,
        "file_weight_ppm": 0, "killed": false, "killed_by_config": false, "breaker": null,
        "arms": {"stable": arm, "canary": arm}, "cohorts": [], "gates": [], "triggers": [], "window_s": 60.0,
        "generation": 7,
    })
}

fn ok(body: &Value) -> (u16, String) {
    (200, body.to_string())
}

#[test]
fn help_is_an_answer_and_a_mistake_is_not() {
    let help = weir("--help");
    assert_eq!((help.code, help.err.as_str()), (0, ""));
    let of_plans = ["pause", "resume", "promote", "rollback", "approve"];
    let others = ["serve", "check", "demo", "status", "weight", "kill", "revive", "explain", "bucket", "token"];
    for verb in of_plans.into_iter().chain(others) {
        assert!(help.out.contains(verb), "{verb}");
        assert_eq!(weir(&format!("{verb} --help")).code, 0, "{verb}");
    }
    assert_eq!(weir("--version").out, format!("weir {}\n", env!("CARGO_PKG_VERSION")));
    for mistake in ["", "frobnicate", "weight chat 25", "kill"] {
        let ran = weir(mistake);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{mistake}");
        assert!(!ran.err.is_empty(), "{mistake}");
    }
}

#[test]
fn a_weight_goes_out_with_the_persons_name_and_token() {
    let (address, asked) = server(vec![ok(&rollout("chat"))]);
    let admin = address.to_string();
    let environment = [("WEIR_ADMIN", admin.as_str()), ("USER", "ada"), ("WEIR_TOKEN", "secret")];
    let ran = weir_with("weight chat 25% --force --reason calm", &environment, "");
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "chat: weight is 25%\n", ""));
    let asked = asked.recv().unwrap();
    assert_eq!(asked.line, "POST /api/v1/rollouts/chat/weight");
    assert_eq!(asked.token.as_deref(), Some("Bearer secret"));
    assert_eq!(asked.body, json!({"actor": "ada", "force": true, "reason": "calm", "weight": "25%"}));
}

#[test]
fn json_output_is_the_body_of_the_api() {
    let (address, _asked) = server(vec![ok(&rollout("chat"))]);
    let ran = weir(&format!("status chat -o json --admin http://{address}"));
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(serde_json::from_str::<Value>(&ran.out).unwrap(), rollout("chat"));
}

#[test]
fn a_denial_is_exit_code_1_with_its_reason() {
    let denial = json!({"error": "killed by the config"}).to_string();
    let (address, _asked) = server(vec![(409, denial.clone()), (409, denial.clone())]);
    let ran = weir(&format!("revive chat --admin {address}"));
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (1, "", "error: killed by the config\n"));
    let ran = weir(&format!("revive chat --admin {address} -o json"));
    assert_eq!((ran.code, ran.out.trim_end()), (1, denial.as_str()));
}

#[test]
fn a_missing_token_and_a_wrong_name_are_the_persons_to_mend() {
    let error = |message: &str| json!({ "error": message }).to_string();
    let (address, _asked) = server(vec![(401, error("token please")), (404, error("no rollout `chta`"))]);
    let ran = weir(&format!("status --admin {address}"));
    assert!(ran.code == 2 && ran.err.contains("WEIR_TOKEN"), "{ran:?}");
    let ran = weir(&format!("status chta --admin {address}"));
    assert!(ran.code == 2 && ran.err.contains("chta"), "{ran:?}");
}

#[test]
fn nobody_there_or_somebody_else_is_exit_code_3() {
    let (address, _asked) = server(vec![(404, "<html>".to_owned()), (200, "<html>".to_owned())]);
    for _ in 0..2 {
        let ran = weir(&format!("status --admin {address}"));
        assert!(ran.code == 3 && ran.err.contains(&address.to_string()), "{ran:?}");
    }
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ran = weir(&format!("kill chat --admin {gone}"));
    assert!(ran.code == 3 && ran.err.contains("--admin"), "{ran:?}");
    let ran = weir(&format!("kill chat --admin {gone} -o json"));
    let told: Value = serde_json::from_str(&ran.out).unwrap();
    assert!(told["error"].as_str().is_some_and(|error| error.contains("cannot reach")), "{ran:?}");
}

#[test]
fn kill_all_goes_on_after_a_failure() {
    let list = json!({"rollouts": [rollout("a"), rollout("b"), rollout("c")], "generation": 1});
    let failure = (503, json!({"error": "busy"}).to_string());
    let (address, asked) = server(vec![ok(&list), ok(&rollout("a")), failure, ok(&rollout("c"))]);
    let ran = weir(&format!("kill --all --reason smoke --admin {address}"));
    assert_eq!((ran.code, ran.out.as_str()), (3, "killed 2 of 3 rollouts\n"));
    assert!(ran.err.starts_with("b: busy\n"), "{}", ran.err);
    let lines: Vec<String> = asked.iter().map(|asked| asked.line).collect();
    assert_eq!(lines[1..], ["a", "b", "c"].map(|name| format!("POST /api/v1/rollouts/{name}/kill")));
}

#[test]
fn explain_sends_unit_headers_and_cookies_encoded() {
    let explanation = json!({
        "rollout": "chat", "unit": "a&b", "bucket_ppm": 7, "arm": "canary", "reason": "bucket", "weight_ppm": 250_000,
        "killed": false, "cohorts": [], "requires": null, "generation": 7,
    });
    let (address, asked) = server(vec![ok(&explanation)]);
    let ran = weir(&format!("explain chat --unit a&b --header x-beta:1 --cookie beta=1 --admin {address}"));
    let expected = "chat: unit a&b gets canary, because its bucket is below the weight\n";
    assert!(ran.code == 0 && ran.out.starts_with(expected), "{ran:?}");
    let line = "GET /api/v1/rollouts/chat/explain?unit=a%26b&header=x-beta:1&cookie=beta:1";
    assert_eq!(asked.recv().unwrap().line, line);
}

#[test]
fn events_are_the_latest_or_all_after_an_id() {
    let event = |id: u64| {
        json!({
            "id": id, "time": "2026-03-01T12:00:00.000Z", "rollout": "chat", "kind": "kill", "actor": "ada",
            "reason": "", "old": null, "new": null, "numbers": null,
        })
    };
    let page = |ids: std::ops::RangeInclusive<u64>| {
        let next = *ids.end();
        ok(&json!({"events": ids.map(event).collect::<Vec<_>>(), "next": next}))
    };
    let (address, asked) = server(vec![page(1..=1000), page(1001..=1002), page(8..=9)]);
    let ran = weir(&format!("events --limit 3 -o json --admin {address}"));
    let ids: Vec<u64> =
        ran.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_u64().unwrap()).collect();
    assert_eq!((ran.code, ids), (0, vec![1000, 1001, 1002]));
    let ran = weir(&format!("events --since 7 --admin {address}"));
    assert_eq!((ran.code, ran.out.lines().count()), (0, 2));
    let since: Vec<String> = asked.iter().map(|asked| asked.line).collect();
    let since: Vec<&str> = since.iter().filter_map(|line| line.split("since=").nth(1)?.split('&').next()).collect();
    assert_eq!(since, ["0", "1000", "7"]);
}

#[test]
fn buckets_are_computed_one_by_one_and_in_bulk() {
    let bucket = crate::rollout::bucket::Bucketer::native("s").bucket("alice").ppm();
    let one = weir("bucket --salt s --unit alice --weight 100% -o json");
    let expected = json!({"unit": "alice", "bucket_ppm": bucket, "arm": "canary", "weight_ppm": 1_000_000});
    assert_eq!(serde_json::from_str::<Value>(&one.out).unwrap(), expected);
    assert!(weir("bucket --salt s --unit alice").out.contains(&format!("{bucket} of 1000000")));

    let bulk = weir_with("bucket --salt s --unit - --weight 0%", &[], "alice\nbob builder\r\n");
    let lines: Vec<&str> = bulk.out.lines().collect();
    assert_eq!(lines[0], format!("alice\t{bucket}\tstable"));
    assert!(lines.len() == 2 && lines[1].starts_with("bob builder\t"), "{lines:?}");
}

#[test]
fn a_bucket_that_cannot_be_computed_says_why() {
    for (line, why) in [
        ("bucket --unit a", "--salt"),
        ("bucket --salt s --unit a --hash crc", "murmur3"),
        ("bucket --salt s --unit a --hash siphash", "16 bytes"),
        ("bucket --key k --unit a --hash unleash --weight 12.5%", "steps of 1%"),
    ] {
        let ran = weir(line);
        assert!(ran.code == 2 && ran.err.contains(why), "{line}: {ran:?}");
    }
}

/// A config in a folder of its own, with a secret beside it.
fn config(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weir.toml");
    std::fs::write(&path, text).unwrap();
    std::fs::write(folder.path().join("force.key"), "0123456789abcdef0123456789abcdef").unwrap();
    let path = path.display().to_string();
    (folder, path)
}

const SPLIT: &str = r#"
[[listeners]]
address = "127.0.0.1:8080"
[force]
secret_file = "force.key"
[upstreams.legacy]
endpoints = ["127.0.0.1:9001"]
[upstreams.new]
endpoints = ["127.0.0.1:9002"]
[rollouts.chat]
unit = ["header:x-user-id"]
weight = "0%"
stable = { upstream = "legacy" }
canary = { upstream = "new" }
[rollouts.chat.cohorts.internal]
users = ["eng-1"]
header = "x-beta: 1"
"#;

#[test]
fn check_prints_what_a_config_means_and_every_problem_of_a_bad_one() {
    let (_folder, good) = config(SPLIT);
    let ran = weir(&format!("check -c {good}"));
    assert!(ran.code == 0 && ran.out.contains("ok") && ran.out.contains("rollout chat"), "{ran:?}");
    let ran = weir(&format!("check -c {good} -o json"));
    let plain = json!([{"name": "chat", "weight_ppm": 0, "stages": [], "triggers": []}]);
    let expected = json!({"ok": true, "problems": [], "rollouts": plain});
    assert_eq!(serde_json::from_str::<Value>(&ran.out).unwrap(), expected);
    let ran = weir(&format!("check -c {good} --limits"));
    assert!(ran.code == 0 && ran.out.contains("h2_streams") && ran.out.contains("of memory if every limit"), "{ran:?}");
    assert!(!ran.out.contains("Not enforced"), "{ran:?}");

    let (_folder, bad) = config(&SPLIT.replace("weight = \"0%\"", "wieght = \"0%\"").replace("\"new\" }", "\"nwe\" }"));
    let ran = weir(&format!("check -c {bad}"));
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    for part in ["weir.toml:12:1: ", "wieght", "\"nwe\"", "2 problems"] {
        assert!(ran.err.contains(part), "{part}: {}", ran.err);
    }
    let ran = weir(&format!("check -c {bad} -o json"));
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, &report["ok"], report["problems"].as_array().unwrap().len()), (2, &json!(false), 2));
    assert_eq!((&report["problems"][0]["line"], &report["problems"][0]["column"]), (&json!(12), &json!(1)));
    assert_eq!(weir("check -c nowhere.toml").code, 2);
}

#[test]
fn check_says_what_a_reload_would_change() {
    let (_old_folder, old) = config(SPLIT);
    let (_new_folder, new) = config(&SPLIT.replace("\"0%\"", "\"25%\""));
    let same = weir(&format!("check -c {old} --against {old}"));
    assert!(same.out.contains("would change nothing"), "{same:?}");
    let ran = weir(&format!("check -c {new} --against {old}"));
    assert!(ran.code == 0 && ran.out.contains("rollouts.chat.weight"), "{ran:?}");
    assert!(ran.out.contains("to the canary, 0% to stable"), "{ran:?}");
}

#[test]
fn check_compares_with_the_weight_that_a_running_instance_has() {
    let (folder, old) = config(SPLIT);
    let (_folder, new) = config(&SPLIT.replace("\"0%\"", "\"10%\""));
    let mut running = rollout("chat");
    running["weight_ppm"] = json!(1_000_000);
    let loaded = crate::config::load(old.as_ref(), &[], &mut crate::config::UserFiles::default()).unwrap();
    let (effective, list) = (ok(&loaded.effective), ok(&json!({"rollouts": [running], "generation": 1})));
    let (address, _asked) = server(vec![effective.clone(), list.clone(), effective, list]);
    let ran = weir(&format!("check -c {new} --against http://{address} -o json"));
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(report["needs_restart"], json!([]));
    let moved = report["moves"][0]["to_stable_ppm"].as_u64().unwrap();
    assert!((890_000..910_000).contains(&moved), "{report}");
    let ran = weir(&format!("check -c {old} --against http://{address}"));
    assert!(!ran.out.contains("move"), "the file's weight stays, so the operator's does: {ran:?}");
    drop(folder);
}

#[test]
fn explain_answers_from_a_file_alone() {
    let (_folder, path) = config(SPLIT);
    let explain = |rest: &str| {
        let ran = weir(&format!("explain chat -c {path} -o json {rest}"));
        assert_eq!(ran.code, 0, "{}", ran.err);
        let form: Value = serde_json::from_str(&ran.out).unwrap();
        (form["arm"].as_str().unwrap().to_owned(), form["reason"].as_str().unwrap().to_owned())
    };
    let answer = |arm: &str, reason: &str| (arm.to_owned(), reason.to_owned());
    assert_eq!(explain("--unit eng-1"), answer("canary", "cohort:internal"));
    assert_eq!(explain("--unit ann"), answer("stable", "bucket"));
    assert_eq!(explain("--header x-beta:1"), answer("canary", "cohort:internal"));
    assert_eq!(explain("--header x-beta:0"), answer("stable", "no_unit"));
    let ran = weir_with(&format!("explain chat -c {path} --unit eng-1"), &[("WEIR__ROLLOUTS__CHAT__KILL", "true")], "");
    assert!(ran.out.contains("because the rollout is killed"), "{ran:?}");
    let ran = weir(&format!("explain caht -c {path} --unit a"));
    assert!(ran.code == 2 && ran.err.contains("did you mean `chat`"), "{ran:?}");
}

#[test]
fn a_token_of_the_command_line_is_believed_by_the_data_plane() {
    let (_folder, path) = config(SPLIT);
    let ran = weir(&format!("token -c {path} --rollout chat --arm canary --expires 1h"));
    assert_eq!(ran.code, 0, "{}", ran.err);
    let now = crate::clock::Clock::system().wall();
    let secret = b"0123456789abcdef0123456789abcdef";
    let verified = crate::rollout::force::verify(secret, ran.out.trim_end(), now);
    assert_eq!(verified, Some(("chat", crate::rollout::Arm::Canary)));

    assert_eq!(weir(&format!("token -c {path} --rollout chta --arm canary --expires 1h")).code, 2);
    let (_folder, without) = config(&SPLIT.replace("secret_file = \"force.key\"", ""));
    let ran = weir(&format!("token -c {without} --rollout chat --arm canary --expires 1h"));
    assert!(ran.code == 2 && ran.err.contains("secret_file"), "{ran:?}");
}

#[test]
fn every_shell_gets_its_completions_and_editors_the_schema() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let ran = weir(&format!("completions {shell}"));
        assert!(ran.code == 0 && ran.out.contains("weir"), "{shell}");
    }
    let schema = weir("schema");
    assert_eq!(schema.code, 0);
    assert!(serde_json::from_str::<Value>(&schema.out).is_ok());
}

#[test]
fn colour_is_for_those_who_ask() {
    let (address, _asked) = server(vec![ok(&rollout("chat")); 4]);
    let plain = weir(&format!("status chat --admin {address}"));
    assert!(!plain.out.contains('\x1b'));
    let painted = weir(&format!("status chat --admin {address} --color always"));
    assert!(painted.out.contains("\x1b[32mrunning"));
}

/// A reader that has seen enough once it has seen that.
struct Until<'a> {
    seen: String,
    last: &'a str,
}

impl Write for Until<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.seen.push_str(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        if self.seen.contains(self.last) { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }
}

fn weir_until(last: &str, line: &str) -> Ran {
    let (mut out, mut err) = (Until { seen: String::new(), last }, Vec::new());
    let code = weir_into(line, &[], "", &mut out, &mut err);
    Ran { code, out: out.seen, err: String::from_utf8(err).unwrap() }
}

fn away() -> (u16, String) {
    (503, json!({"error": "weir is starting"}).to_string())
}

#[test]
fn watching_outlives_a_restart_of_weir() {
    let all = |names: &[&str]| {
        let rollouts: Vec<Value> = names.iter().map(|name| rollout(name)).collect();
        ok(&json!({"rollouts": rollouts, "generation": 1}))
    };
    let answers = || vec![all(&["a", "b"]), away(), away(), all(&["c"])];
    let (address, _asked) = server(answers());
    let ran = weir_until("c  ", &format!("status --watch --admin {address}"));
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(ran.code == 0 && ran.err.is_empty() && lines.len() == 5, "{ran:?}");
    assert!(lines[0].starts_with("a  running") && lines[1].starts_with("b  running"), "{ran:?}");
    assert!(lines[2].starts_with("weir is away since ") && lines[2].ends_with(": weir is starting"), "{ran:?}");
    assert!(lines[3] == "weir answers again" && lines[4].starts_with("c  running"), "{ran:?}");

    let (address, _asked) = server(answers());
    let ran = weir_until(r#""name":"c""#, &format!("status --watch -o json --admin {address}"));
    assert!(ran.code == 0 && ran.err.contains("weir is away since ") && ran.err.contains("answers again"), "{ran:?}");
    let objects: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects.len(), 2, "{ran:?}");
    assert_eq!(objects[1]["rollouts"][0]["name"], "c");
}

#[test]
fn watching_a_weir_that_never_was_there_or_a_rollout_that_is_none_ends() {
    let (address, _asked) = server(vec![away()]);
    assert_eq!(weir(&format!("status --watch --admin {address}")).code, 3);
    let (address, _asked) = server(vec![(404, json!({"error": "no rollout `x`"}).to_string())]);
    let ran = weir(&format!("status x --watch --admin {address}"));
    assert!(ran.code == 2 && ran.err.contains("no rollout `x`"), "{ran:?}");
}

#[test]
fn following_events_goes_on_from_the_last_id_after_a_restart() {
    let page = |ids: &[u64], next: u64| {
        let event = |id: &u64| {
            json!({"id": id, "time": "2026-03-01T12:00:00.000Z", "rollout": "chat", "kind": "kill", "actor": "ada",
                   "reason": "", "old": null, "new": null, "numbers": null})
        };
        ok(&json!({"events": ids.iter().map(event).collect::<Vec<_>>(), "next": next}))
    };
    let (address, asked) = server(vec![page(&[7], 7), away(), page(&[7, 8], 8), page(&[9], 9)]);
    let ran = weir_until("    9 2026", &format!("events --follow --admin {address}"));
    let ids: Vec<&str> = ran.out.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(ran.code == 0 && ids == ["7", "8", "9"], "{ran:?}");
    assert!(ran.err.contains("weir is away since ") && ran.err.contains("weir answers again"), "{ran:?}");
    let lines: Vec<String> = asked.try_iter().map(|asked| asked.line).collect();
    assert!(
        lines[1].contains("since=7&") && lines[2].contains("since=6&") && lines[3].contains("since=8&"),
        "{lines:?}"
    );
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    for line in ["completions bash", "bucket --salt s --unit a", "--help"] {
        let mut err = Vec::new();
        assert_eq!(weir_into(line, &[], "", &mut Closed, &mut err), 0, "{line}");
        assert!(err.is_empty(), "{line}");
    }
}

/// Alerts tell people at 3 am what to type: it must be a command.
#[test]
fn commands_that_alerts_name_are_commands() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/config/prometheus/rules");
    let mut commands = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let rules = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for runbook in rules.lines().filter(|line| line.trim_start().starts_with("runbook:")) {
            let runbook = runbook.replace("\\\"", "\"").replace("{{ $labels.rollout }}", "chat");
            let runbook = runbook.replace("{{ $labels.instance }}", "127.0.0.1:9900");
            let named = runbook.split('`').skip(1).step_by(2).filter(|text| text.starts_with("weir "));
            let before = commands;
            for command in named {
                // A text in quotes is one argument.
                let parts = command.split('"').enumerate();
                let words = parts.flat_map(|(index, part)| match index % 2 {
                    0 => part.split_whitespace().map(str::to_owned).collect(),
                    _ => vec![part.to_owned()],
                });
                if let Err(problem) = Cli::try_parse_from(words) {
                    panic!("{command}: {problem}");
                }
                commands += 1;
            }
            assert!(commands > before || runbook.contains("`/"), "no command: {runbook}");
        }
    }
    assert!(commands > 80, "only {commands} commands were found");
}
