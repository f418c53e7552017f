//! The program as people run it: exit codes, reports on bad files, signals, what it leaves behind.

use crate::harness::metrics::Metrics;
use crate::harness::piped::sized;
use crate::harness::raw::{call, request};
use crate::harness::wait::{eventually, settled};
use crate::harness::weir::folder;
use crate::harness::{Client, Config, Origin, RawClient, Reply};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(arguments)
        .env_remove("WEIR_ADMIN")
        .stdin(Stdio::null())
        .output()
        .expect("the binary is built")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `weir serve` as a process of its own; it is killed if a test fails before it ends.
pub struct Process {
    child: Child,
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where the admin API listens, if the config leaves that open.
    pub admin: SocketAddr,
}

/// A port that is free now and was ours a moment ago, for a config that needs it as text.
fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound")
}

fn spawn(file: &Path, address: SocketAddr, admin: SocketAddr, log: Stdio) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    if std::fs::read_to_string(file).expect("the folder is ours").contains("[admin]\naddress = \"127.0.0.1:0\"") {
        command.env("WEIR__ADMIN__ADDRESS", admin.to_string());
    }
    command
        .args(["serve", "-c", &file.to_string_lossy()])
        .env("WEIR__LISTENERS__0__ADDRESS", address.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("the binary is built")
}

async fn readiness(admin: SocketAddr) -> Option<u16> {
    let mut client = RawClient::over(tokio::net::TcpStream::connect(admin).await.ok()?);
    client.try_send(format!("GET /readyz HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n")).await.ok()?;
    Some(client.try_answer().await?.status)
}

impl Process {
    /// Starts it and waits until it listens.
    pub async fn start(file: &Path) -> Process {
        Process::start_logging(file, Stdio::null()).await
    }

    async fn start_logging(file: &Path, log: Stdio) -> Process {
        let (address, admin) = (free_address(), free_address());
        let mut process = Process { child: spawn(file, address, admin, log), address, admin };
        eventually("weir to listen", || {
            assert!(process.child.try_wait().expect("a child of ours").is_none(), "weir ended instead of serving");
            async move { tokio::net::TcpStream::connect(address).await.ok() }
        })
        .await;
        process
    }

    /// Starts another one on the same addresses of clients, and waits until it serves.
    pub async fn start_beside(&self, file: &Path) -> Process {
        let (address, admin) = (self.address, free_address());
        let mut process = Process { child: spawn(file, address, admin, Stdio::null()), address, admin };
        eventually("the second weir to be ready", || {
            assert!(process.child.try_wait().expect("a child of ours").is_none(), "weir ended instead of serving");
            async move { (readiness(admin).await == Some(200)).then_some(()) }
        })
        .await;
        process
    }

    /// Whether it says that it is ready: the status, if it answers at all.
    pub async fn readiness(&self) -> Option<u16> {
        readiness(self.admin).await
    }

    /// One scrape, if it answers.
    pub async fn metrics(&self) -> Option<Metrics> {
        let host = self.admin.to_string();
        let mut client = RawClient::over(tokio::net::TcpStream::connect(self.admin).await.ok()?);
        client.try_send(request("GET", "/metrics", &[("host", &host), ("connection", "close")], b"")).await.ok()?;
        Some(Metrics::parse(&client.try_answer().await?.text()))
    }

    /// The most memory it has held so far, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok());
        kib.map_or(0, |kib: u64| kib * 1024)
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill is there").success());
    }

    /// Its exit code, once it has ended.
    pub async fn exit_code(&mut self) -> Option<i32> {
        let child = &mut self.child;
        eventually("weir to end", || std::future::ready(child.try_wait().expect("a child of ours"))).await.code()
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).map_or(0, Iterator::count)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn sigterm_ends_it_with_success_and_sighup_reloads() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let folder = folder();
    let file = folder.path().join("weir.toml");
    std::fs::write(&file, Config::split(&legacy, &new).weight("0%").to_string()).expect("the folder is ours");
    let mut process = Process::start(&file).await;
    let mut client = Client::http1(process.address).await;
    assert_eq!(client.origin_of("u").await, "legacy");
    std::fs::write(&file, Config::split(&legacy, &new).weight("100%").to_string()).expect("the folder is ours");
    process.signal("-HUP");
    let address = process.address;
    eventually("the new weight", || async move {
        (Client::http1(address).await.origin_of("u").await == "new").then_some(())
    })
    .await;
    process.signal("-TERM");
    assert_eq!(process.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_log_that_nobody_reads_holds_nothing_up() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    new.script(|_| Reply::status(500));
    let folder = folder();
    let file = folder.path().join("weir.toml");
    // Only the control plane can judge a rate; a run would be seen on the request path.
    let config = Config::split(&legacy, &new).weight("100%").tables(
        "[rollouts.chat.breaker]\nconsecutive_errors = 0\nfallback = \"off\"\nmin_units = 1\nmax_unit_share = \"100%\"",
    );
    std::fs::write(&file, config.to_string()).expect("the folder is ours");
    let (_unread, mut log) = std::io::pipe().expect("a pipe");
    let taken = Arc::new(AtomicU64::new(0));
    let (own, counted) = (log.try_clone().expect("a descriptor"), Arc::clone(&taken));
    let fill = move || {
        while log.write_all(&[b'.'; 512]).is_ok() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::Builder::new().spawn(fill).expect("a thread");
    settled("a full pipe", 20, || taken.load(Ordering::Relaxed)).await;

    let mut process = Process::start_logging(&file, Stdio::from(own)).await;
    let mut client = Client::http1(process.address).await;
    eventually("the breaker", async || (client.get("/", &[("x-user-id", "u")]).await.status == 200).then_some(()))
        .await;
    let lost = async || Some(process.metrics().await?.count("weir_log_dropped_total", &[]));
    assert_eq!(lost().await, Some(0), "it waits in the queue");
    // Each problem of a file is a line, and with some readings they are more than the queue holds.
    let mistakes: String = (0..300).map(|number| format!("mistake-{number} = 1\n")).collect();
    std::fs::write(&file, mistakes).expect("the folder is ours");
    eventually("lines that are lost", async || {
        assert_eq!(call(process.admin, "POST", "/api/v1/reload", &[("host", "localhost")], b"").await.status, 409);
        lost().await.filter(|count| *count > 0)
    })
    .await;
    process.signal("-TERM");
    assert_eq!(process.exit_code().await, Some(0));
}

#[tokio::test]
async fn reloads_leave_no_descriptor_behind() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let folder = folder();
    let file = folder.path().join("weir.toml");
    let write = |weight: u32| {
        let config = Config::split(&legacy, &new).weight(&format!("{weight}%"));
        std::fs::write(&file, config.to_string()).expect("the folder is ours");
    };
    write(0);
    let mut process = Process::start(&file).await;
    let mut client = Client::http1(process.address).await;
    client.call("POST", "/", &[("x-user-id", "u")], sized("x")).await;
    let mut base = None;
    for round in 0..60 {
        let (weight, origin) = if round % 2 == 0 { (100, "new") } else { (0, "legacy") };
        write(weight);
        process.signal("-HUP");
        let client = &mut client;
        eventually("the reload", async || (client.origin_of("u").await == origin).then_some(())).await;
        if round == 9 {
            base = Some(process.descriptors());
        }
    }
    let (base, end) = (base.expect("round 9 was"), process.descriptors());
    assert!(end <= base + 2, "{base} descriptors after 10 reloads, {end} after 60");
    process.signal("-TERM");
    assert_eq!(process.exit_code().await, Some(0));
}

#[test]
fn a_good_config_passes_check_and_every_problem_of_a_bad_one_is_named_with_its_place() {
    let folder = folder();
    let file = folder.path().join("weir.toml");
    let name = file.to_string_lossy().into_owned();
    std::fs::write(&file, Config::to("127.0.0.1:1", "127.0.0.1:2").to_string()).expect("the folder is ours");
    let good = run(&["check", "-c", &name]);
    assert_eq!(good.status.code(), Some(0), "{}", text(&good.stderr));
    let bad = Config::to("127.0.0.1:1", "127.0.0.1:2")
        .weight("250%")
        .rollout("expose_armm = true")
        .arms("{ upstream = \"legcay\" }", "{ upstream = \"new\" }");
    std::fs::write(&file, bad.rollout("unti = \"x\"").to_string()).expect("the folder is ours");
    let output = run(&["check", "-c", &name]);
    assert_eq!(output.status.code(), Some(2));
    let problems = text(&output.stderr);
    for word in ["250%", "legcay", "unti"] {
        assert!(problems.contains(word), "{word} is not in:\n{problems}");
    }
    assert!(problems.contains("weir.toml:"), "no places in:\n{problems}");
    assert_eq!(run(&["serve", "-c", &name]).status.code(), Some(2));
}

#[test]
fn whatever_the_file_holds_there_is_a_report_and_no_panic() {
    let folder = folder();
    let file = folder.path().join("weir.toml");
    let name = file.to_string_lossy().into_owned();
    let contents: [Vec<u8>; 6] = [
        Vec::new(),
        vec![0, 159, 146, 150, 255],
        b"[rollouts".to_vec(),
        b"a = 1\na = 2\n".to_vec(),
        [b"[[listeners]]\n".to_vec(), b"x".repeat(10 * 1024 * 1024)].concat(),
        b"[".repeat(100_000),
    ];
    for content in contents {
        std::fs::write(&file, &content).expect("the folder is ours");
        let output = run(&["check", "-c", &name]);
        let problems = text(&output.stderr);
        let start = String::from_utf8_lossy(&content[..content.len().min(40)]).into_owned();
        assert_eq!(output.status.code(), Some(2), "{start:?}: {problems}");
        assert!(!problems.contains("panicked") && !problems.trim().is_empty(), "{start:?}: {problems}");
        assert!(problems.len() < 100_000, "{start:?}: a report of {} bytes", problems.len());
    }
    let missing = run(&["check", "-c", &folder.path().join("nothing.toml").to_string_lossy()]);
    assert_eq!(missing.status.code(), Some(2));
}

#[test]
fn yaml_and_json_say_the_same_as_toml() {
    let folder = folder();
    let json = r#"{"upstreams": {"a": {"endpoints": ["127.0.0.1:1"]}, "b": {"endpoints": ["127.0.0.1:2"]}},
        "listeners": [{"address": "127.0.0.1:0"}],
        "rollouts": {"chat": {"unit": ["header:x-user-id"], "weight": "12.5%",
        "stable": {"upstream": "a"}, "canary": {"upstream": "b"}}}}"#;
    let yaml = "upstreams:\n  a: { endpoints: [\"127.0.0.1:1\"] }\n  b: { endpoints: [\"127.0.0.1:2\"] }\n\
                listeners:\n  - address: 127.0.0.1:0\n\
                rollouts:\n  chat:\n    unit: [\"header:x-user-id\"]\n    weight: 12.5%\n\
                \x20   stable: { upstream: a }\n    canary: { upstream: b }\n";
    for (extension, content) in [("json", json), ("yaml", yaml)] {
        let file = folder.path().join(format!("weir.{extension}"));
        std::fs::write(&file, content).expect("the folder is ours");
        let output = run(&["check", "-c", &file.to_string_lossy()]);
        assert_eq!(output.status.code(), Some(0), "{extension}: {}", text(&output.stderr));
        let wrong = content.replace("weight", "wieght");
        std::fs::write(&file, wrong).expect("the folder is ours");
        let output = run(&["check", "-c", &file.to_string_lossy()]);
        assert_eq!(output.status.code(), Some(2), "{extension}");
        let problems = text(&output.stderr);
        assert!(problems.contains(&format!("weir.{extension}:")) && problems.contains("wieght"), "{problems}");
    }
}

#[test]
fn exit_codes_tell_usage_from_an_unreachable_admin() {
    assert_eq!(run(&["no-such-command"]).status.code(), Some(2));
    assert_eq!(run(&["weight"]).status.code(), Some(2));
    assert_eq!(run(&["--help"]).status.code(), Some(0));
    assert_eq!(run(&["status", "--admin", "http://127.0.0.1:1"]).status.code(), Some(3));
    let schema = run(&["schema"]);
    assert_eq!(schema.status.code(), Some(0));
    assert!(serde_json::from_slice::<serde_json::Value>(&schema.stdout).is_ok(), "the schema is JSON");
    assert_eq!(run(&["completions", "bash"]).status.code(), Some(0));
}
