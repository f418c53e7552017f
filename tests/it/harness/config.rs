//! The config that most tests use: one rollout `chat` between `legacy` and `new`, with lines added where a test needs them.
//!
//! Its breaker is off unless a test writes one, so that a canary's failure is seen as it is.

use super::Origin;
use std::fmt;
use std::net::SocketAddr;

/// A config in the making. Each part is a piece of TOML that lands in the named place.
#[derive(Clone, Debug)]
pub struct Config {
    /// Data plane threads.
    pub workers: usize,
    /// Top-level keys.
    pub top: String,
    /// Keys of the only listener.
    pub listener: String,
    /// Keys of `[admin]`.
    pub admin: String,
    /// Keys of both upstreams.
    pub upstreams: String,
    /// The weight.
    pub weight: String,
    /// Further keys of the rollout, arms included.
    pub rollout: String,
    /// Whole tables.
    pub tables: String,
    legacy: String,
    new: String,
}

impl Config {
    /// Stable is `legacy`, canary is `new`; half of all units on each.
    pub fn split(legacy: &Origin, new: &Origin) -> Config {
        Config::between(legacy.address, new.address)
    }

    /// As `split`, for addresses.
    pub fn between(legacy: SocketAddr, new: SocketAddr) -> Config {
        Config::to(&legacy.to_string(), &new.to_string())
    }

    /// As `split`, for endpoints as text.
    pub fn to(legacy: &str, new: &str) -> Config {
        Config {
            workers: 2,
            top: String::new(),
            listener: String::new(),
            admin: String::new(),
            upstreams: String::new(),
            weight: "50%".to_owned(),
            rollout: "stable = { upstream = \"legacy\" }\ncanary = { upstream = \"new\" }".to_owned(),
            tables: String::new(),
            legacy: legacy.to_owned(),
            new: new.to_owned(),
        }
    }

    /// With this weight.
    pub fn weight(mut self, weight: &str) -> Config {
        self.weight = weight.to_owned();
        self
    }

    /// With these top-level keys.
    pub fn top(mut self, lines: &str) -> Config {
        append(&mut self.top, lines);
        self
    }

    /// With these keys of the listener.
    pub fn listener(mut self, lines: &str) -> Config {
        append(&mut self.listener, lines);
        self
    }

    /// With limits that a slow machine does not reach, for tests in which nothing is to end by its time.
    pub fn patient(self) -> Config {
        self.upstreams("connect_timeout = \"1m\"\nresponse_timeout = \"10m\"")
    }

    /// With these keys of `[admin]`.
    pub fn admin(mut self, lines: &str) -> Config {
        append(&mut self.admin, lines);
        self
    }

    /// With these keys of both upstreams.
    pub fn upstreams(mut self, lines: &str) -> Config {
        append(&mut self.upstreams, lines);
        self
    }

    /// With these further keys of the rollout.
    pub fn rollout(mut self, lines: &str) -> Config {
        append(&mut self.rollout, lines);
        self
    }

    /// With these whole tables.
    pub fn tables(mut self, lines: &str) -> Config {
        append(&mut self.tables, lines);
        self
    }

    /// With these arms instead of the two upstreams.
    pub fn arms(mut self, stable: &str, canary: &str) -> Config {
        self.rollout = format!("stable = {stable}\ncanary = {canary}");
        self
    }

    /// `chat`'s breaker, off unless the test has its own.
    fn breaker(&self) -> &'static str {
        let own = self.rollout.contains("breaker") || self.tables.contains("[rollouts.chat.breaker");
        if own { "" } else { "breaker = { enabled = false }" }
    }

    /// With that many data plane threads.
    pub fn workers(mut self, workers: usize) -> Config {
        self.workers = workers;
        self
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "state_dir = \"state\"\ndrain_timeout = \"5s\"\nworkers = {}\n{}\n\
             [[listeners]]\naddress = \"127.0.0.1:0\"\n{}\n\
             [admin]\naddress = \"127.0.0.1:0\"\n{}\n\
             [upstreams.legacy]\nendpoints = [\"{}\"]\n{}\n\
             [upstreams.new]\nendpoints = [\"{}\"]\n{}\n\
             [rollouts.chat]\nunit = [\"header:x-user-id\"]\nweight = \"{}\"\n{}\n{}\n\
             {}\n",
            self.workers,
            self.top,
            self.listener,
            self.admin,
            self.legacy,
            self.upstreams,
            self.new,
            self.upstreams,
            self.weight,
            self.rollout,
            self.breaker(),
            self.tables
        )
    }
}

fn append(text: &mut String, lines: &str) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(lines);
    text.push('\n');
}
