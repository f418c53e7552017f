//! A weir in this process, from a config text in a folder of its own.

use super::metrics::Metrics;
use super::raw::{RawAnswer, call};
use super::wait::{eventually, soon};
use serde_json::{Value, json};
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;
use weir::cli::serve::{Options, Running, start};
use weir::rollout::scale::TimeScale;

/// A running weir.
pub struct Weir {
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where the admin API listens.
    pub admin: SocketAddr,
    /// Holds the config and the state.
    pub folder: Arc<TempDir>,
    running: Option<Running>,
}

impl Weir {
    /// Starts one in a new folder.
    pub async fn start(config: &impl Display) -> Weir {
        Weir::start_in(folder(), config).await
    }

    /// Starts one in a folder that may hold files and state already.
    pub async fn start_in(folder: Arc<TempDir>, config: &impl Display) -> Weir {
        std::fs::write(folder.path().join("weir.toml"), config.to_string()).expect("the folder is ours");
        Weir::start_with(folder, Vec::new()).await
    }

    /// Starts one from what the folder holds, with environment variables.
    pub async fn start_with(folder: Arc<TempDir>, environment: Vec<(String, String)>) -> Weir {
        Weir::start_scaled(folder, environment, 1).await
    }

    /// As `start_with`, its plans that many times as fast as written.
    pub async fn start_scaled(folder: Arc<TempDir>, environment: Vec<(String, String)>, factor: u32) -> Weir {
        let config = folder.path().join("weir.toml");
        Weir::start_file(folder, config, environment, factor).await
    }

    /// As `start_scaled`, from a config that lies elsewhere; the folder is then for state alone, if the environment says so.
    pub async fn start_file(
        folder: Arc<TempDir>,
        config: PathBuf,
        environment: Vec<(String, String)>,
        factor: u32,
    ) -> Weir {
        let time_scale = TimeScale::new(factor).expect("a factor of the contract");
        let options = Options { config, environment, signals: false, time_scale, log_lost: Arc::default() };
        // It may block and may make runtimes of its own, which a thread of this runtime must not.
        let started = tokio::task::spawn_blocking(move || start(options).map_err(|problem| problem.to_string()));
        let running = soon("a start", started).await.expect("a start does not panic");
        let running = running.unwrap_or_else(|problem| panic!("weir did not start:\n{problem}"));
        Weir {
            address: running.listeners[0],
            admin: running.admin.expect("the config has an admin address"),
            folder,
            running: Some(running),
        }
    }

    /// Drains and ends it.
    pub async fn stop(mut self) {
        self.begin_stop().await.expect("a stop does not panic");
    }

    /// Drains and ends it, in the background.
    pub fn begin_stop(&mut self) -> tokio::task::JoinHandle<()> {
        let running = self.running.take().expect("it is stopped once");
        tokio::task::spawn_blocking(move || {
            running.stop();
        })
    }

    /// Ends it and starts another one from the same folder and config.
    pub async fn restart(self) -> Weir {
        let folder = Arc::clone(&self.folder);
        self.stop().await;
        Weir::start_with(folder, Vec::new()).await
    }

    /// The generation that workers see.
    pub fn generation(&self) -> u64 {
        self.running.as_ref().expect("it runs").handle.published.generation()
    }

    /// The config file.
    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("weir.toml")
    }

    /// Writes the config file in one step, as a rename.
    pub fn write_config(&self, config: &impl Display) {
        let next = self.folder.path().join("weir.toml.next");
        std::fs::write(&next, config.to_string()).expect("the folder is ours");
        std::fs::rename(next, self.config_file()).expect("the folder is ours");
    }

    /// Asks the admin API.
    pub async fn ask(&self, method: &str, target: &str, body: &str) -> RawAnswer {
        let host = self.admin.to_string();
        let fields = [("host", host.as_str()), ("content-type", "application/json"), ("connection", "close")];
        call(self.admin, method, target, &fields, body.as_bytes()).await
    }

    /// A JSON answer of the admin API that must be a 200.
    pub async fn view(&self, target: &str) -> Value {
        let answer = self.ask("GET", target, "").await;
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        answer.json()
    }

    /// Carries out a command that must be accepted.
    pub async fn command(&self, target: &str, body: Value) -> Value {
        let answer = self.ask("POST", target, &body.to_string()).await;
        assert_eq!(answer.status, 200, "{target} {body}: {}", answer.text());
        answer.json()
    }

    /// Sets the weight of `chat`.
    pub async fn weigh(&self, weight: &str) -> Value {
        self.command("/api/v1/rollouts/chat/weight", json!({ "weight": weight, "reason": "a test" })).await
    }

    /// Reads the config file again; the status tells how it went.
    pub async fn reload(&self) -> RawAnswer {
        self.ask("POST", "/api/v1/reload", "{}").await
    }

    /// Reads the config file again without the way over the admin API; whether it was accepted.
    pub async fn reload_at_once(&self) -> bool {
        let handle = &self.running.as_ref().expect("it runs").handle;
        let origin = weir::control::Origin { actor: "test".to_owned(), reason: "a test".to_owned() };
        soon("a reload", handle.reload(origin)).await.is_ok()
    }

    /// How `explain` sees a unit of `chat`.
    pub async fn explain(&self, unit: &str) -> Value {
        self.view(&format!("/api/v1/rollouts/chat/explain?unit={unit}")).await
    }

    /// One scrape.
    pub async fn metrics(&self) -> Metrics {
        let answer = self.ask("GET", "/metrics", "").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        Metrics::parse(&answer.text())
    }

    /// Scrapes until `wanted` holds.
    pub async fn metrics_until(&self, what: &str, wanted: impl Fn(&Metrics) -> bool) -> Metrics {
        eventually(what, || async {
            let metrics = self.metrics().await;
            wanted(&metrics).then_some(metrics)
        })
        .await
    }
}

impl Drop for Weir {
    fn drop(&mut self) {
        // A test that fails must not wait for a drain on top; the process ends soon and takes the threads with it.
        if let Some(running) = self.running.take() {
            std::mem::forget(running);
        }
    }
}

/// A new folder.
pub fn folder() -> Arc<TempDir> {
    Arc::new(tempfile::tempdir().expect("a temporary folder"))
}
