//! A plan that runs: weir with the plan's file, its origins, its Prometheus, whoever is told, and its users.

use super::faults::{Fault, Faults};
use super::folder;
use super::plan::Plan;
use super::traffic::Traffic;
use crate::harness::origin::Seen;
use crate::harness::wait::soon;
use crate::harness::weir::folder as state_folder;
use crate::harness::{Client, Hook, Origin, Weir};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use weir::config::{ArmTo, Config, UserFiles};
use weir::rollout::Arm;

/// How long a plan may take to reach something, above what any of them takes on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(240);
/// How often it may be begun, if a latency stops it.
const ATTEMPTS: u32 = 10;
/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(40);

/// A plan under way.
pub struct World {
    plan: &'static Plan,
    /// What goes wrong.
    pub faults: Arc<Faults>,
    /// It itself.
    pub weir: Weir,
    /// The rollouts that have stages.
    pub staged: Vec<String>,
    /// Who is told.
    told: Hook,
    traffic: Option<Traffic>,
    /// Its upstreams, then its Prometheus.
    origins: Vec<Origin>,
}

impl World {
    /// Starts the plan at that time scale, with its users.
    pub async fn start(plan: &'static Plan, scale: u32) -> World {
        let mut world = World::without_users(plan, scale, &[]).await;
        world.users_come();
        world
    }

    /// Starts it without any.
    pub async fn without_users(plan: &'static Plan, scale: u32, more: &[(&str, &str)]) -> World {
        let file = folder().join(plan.file);
        let config = weir::config::load(&file, &[], &mut UserFiles::default()).expect("it passes check").config;
        let text = std::fs::read_to_string(&file).expect("it is there");
        let faults = Faults::new(plan);
        let state = state_folder();
        let mut environment = vec![
            ("WEIR__STATE_DIR".to_owned(), state.path().join("state").display().to_string()),
            ("WEIR__WORKERS".to_owned(), "1".to_owned()),
            ("WEIR__LISTENERS__0__ADDRESS".to_owned(), "127.0.0.1:0".to_owned()),
            ("WEIR__ADMIN__ADDRESS".to_owned(), "127.0.0.1:0".to_owned()),
        ];
        if text.contains("[access_log]") {
            let log = state.path().join("access.log").display().to_string();
            environment.push(("WEIR__ACCESS_LOG__PATH".to_owned(), log));
        }
        let mut origins = Vec::new();
        for upstream in &config.upstreams {
            let origin = Origin::start(&upstream.name).await;
            let (faults, of_canary) = (Arc::clone(&faults), *upstream.name == *canary_upstream(plan, &config));
            origin.script(move |seen| faults.answer(seen, of_canary));
            environment
                .push((variable(&["UPSTREAMS", &upstream.name, "ENDPOINTS"]), format!("[\"{}\"]", origin.address)));
            origins.push(origin);
        }
        let prometheus = Origin::start("prometheus").await;
        let numbers = Arc::clone(&faults);
        prometheus.script(move |seen| numbers.number(seen));
        for query in &config.queries {
            let url = format!("http://{}/{}", prometheus.address, query.name);
            environment.push((variable(&["QUERIES", &query.name, "URL"]), url));
            environment.push((variable(&["QUERIES", &query.name, "INTERVAL"]), "100ms".to_owned()));
        }
        origins.push(prometheus);
        let told = Hook::start().await;
        for index in 0..text.matches("[[notify]]").count() {
            let url = format!("http://{}/{index}", told.address);
            environment.push((variable(&["NOTIFY", &index.to_string(), "URL"]), url));
        }
        let more = plan.environment.iter().chain(more);
        let more = more.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        // What a test sets wins over what its plan's world has.
        let environment: BTreeMap<String, String> = environment.into_iter().chain(more).collect();
        let environment = environment.into_iter().collect();
        let staged = config.rollouts.iter().filter(|rollout| !rollout.plan.stages.list.is_empty());
        let staged = staged.map(|rollout| rollout.plan.name.to_string()).collect();
        let weir = Weir::start_file(state, file, environment, scale).await;
        World { plan, faults, weir, staged, told, traffic: None, origins }
    }

    /// The users begin to ask.
    pub fn users_come(&mut self) {
        self.traffic = Some(Traffic::start(self.plan, &self.faults, self.weir.address));
    }

    /// How a rollout stands.
    pub async fn view(&self, rollout: &str) -> Value {
        self.weir.view(&format!("/api/v1/rollouts/{rollout}")).await
    }

    /// Everything that has happened, oldest first.
    pub async fn events(&self) -> Vec<Value> {
        let page = self.weir.view("/api/v1/events?since=0&limit=1000").await;
        page["events"].as_array().cloned().expect("a list")
    }

    /// A command for a rollout; the engine may say no.
    pub async fn say(&self, rollout: &str, command: &str, body: Value) -> u16 {
        self.weir.ask("POST", &format!("/api/v1/rollouts/{rollout}/{command}"), &body.to_string()).await.status
    }

    /// What goes wrong from now on.
    pub async fn begin(&self, faults: &[Fault]) {
        for fault in faults {
            self.faults.begin(fault);
            if let Fault::Post(signal) = fault {
                let body = json!({ "rollout": self.plan.rollout, "arm": "canary", "count": 1 });
                self.weir.command(&format!("/api/v1/signals/{signal}"), body).await;
            }
        }
    }

    /// A plan that has run to its end, and what `gather` finds in it then. The plans compare real milliseconds, and a machine
    /// that stands still for a moment looks like a slow canary: one that a latency has stopped is begun anew.
    pub async fn completed<T>(plan: &'static Plan, scale: u32, mut gather: impl AsyncFnMut(&World) -> T) -> (World, T) {
        for attempt in 1.. {
            let world = World::start(plan, scale).await;
            world.until("the end", async || world.has_ended().await.then_some(())).await;
            let gathered = gather(&world).await;
            if attempt == ATTEMPTS || !world.was_stopped_by_a_latency().await {
                return (world, gathered);
            }
            world.end().await;
        }
        unreachable!("the last one is returned")
    }

    /// Whether every rollout is complete, or one stands still or was rolled back. Does what a person would do meanwhile: he
    /// starts what is to be started by hand and approves what waits.
    async fn has_ended(&self) -> bool {
        let mut complete = true;
        for rollout in &self.staged {
            match self.view(rollout).await["state"].as_str() {
                Some("completed") => {}
                Some("paused" | "rolled_back") => return true,
                _ => complete = false,
            }
            self.attend(rollout).await;
        }
        complete
    }

    /// Whether one that is not what this is about has been noticed.
    pub async fn was_stopped_by_a_latency(&self) -> bool {
        self.events().await.iter().any(|event| {
            let stopped = matches!(event["kind"].as_str(), Some("pause" | "rollback" | "trip" | "alert"));
            let why = event["reason"].as_str().unwrap_or_default();
            stopped && ["p50", "p75", "p90", "p95", "p99"].iter().any(|quantile| why.contains(quantile))
        })
    }

    /// The first thing that `look` finds.
    pub async fn until<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
        let found = tokio::time::timeout(DEADLINE, async {
            loop {
                if let Some(found) = look().await {
                    return found;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        match found.await {
            Ok(found) => found,
            Err(_) => panic!("{}: not within {DEADLINE:?}: {what}\n{}", self.plan.file, self.story().await),
        }
    }

    async fn attend(&self, rollout: &str) {
        let view = self.view(rollout).await;
        self.faults.stage(view["stage"]["name"].as_str().unwrap_or_default());
        match view["state"].as_str() {
            Some("pending") if self.plan.by_hand => {
                self.say(rollout, "resume", json!({ "reason": "all checks are green" })).await;
            }
            Some("waiting_approval") => {
                self.say(rollout, "approve", json!({ "reason": "looked at it" })).await;
            }
            _ => {}
        }
    }

    /// A plan that has been taken to that stage of a rollout. One that a latency has taken back on its way is begun anew.
    pub async fn in_stage(plan: &'static Plan, scale: u32, rollout: &str, stage: &str) -> World {
        for _ in 1..ATTEMPTS {
            let world = World::start(plan, scale).await;
            if world.reach(rollout, stage).await {
                return world;
            }
            let by_a_latency = world.was_stopped_by_a_latency().await;
            assert!(by_a_latency, "{rollout} is taken back before it is in {stage}\n{}", world.story().await);
            world.end().await;
        }
        panic!("{}: {rollout} is too slow for this machine to reach {stage}", plan.file)
    }

    /// Takes a rollout to that stage by a person's word; the first one lasts until there is something to record of it. False
    /// if it is taken back.
    pub async fn reach(&self, rollout: &str, stage: &str) -> bool {
        self.until(&format!("{rollout} in {stage}"), async || {
            let view = self.view(rollout).await;
            if view["state"] == "rolled_back" {
                return Some(false);
            }
            if view["stage"]["name"] == stage {
                // A machine that was slow for a moment may have made it stand still.
                if view["state"] == "paused" {
                    self.say(rollout, "resume", json!({ "reason": "to try what comes then" })).await;
                }
                return (view["state"] == "running").then_some(true);
            }
            // The baseline is the first stage's record.
            let known = view["arms"]["stable"]["requests"].as_u64() >= Some(RECORDED_REQUESTS);
            let served = view["stage"]["served_s"].as_f64() >= Some(RECORDED_S);
            let later = view["stage"]["index"].as_u64() > Some(0);
            // What begins by itself is left to do so, or the first stage might be over before it was looked at.
            let waits = view["state"] == "pending" && self.plan.by_hand;
            if waits || later || (known && served) {
                self.say(rollout, "promote", json!({ "force": true, "reason": "to try what comes then" })).await;
            }
            None
        })
        .await
    }

    /// What happened and how things stand, for a test that fails.
    pub async fn story(&self) -> String {
        let mut story = String::new();
        for event in self.events().await {
            story.push_str(&format!(
                "{} {} {} {} -> {}\n",
                event["rollout"], event["kind"], event["reason"], event["old"], event["new"]
            ));
        }
        for rollout in &self.staged {
            let view = self.view(rollout).await;
            story.push_str(&format!("{rollout}: {} {}\n{}\n", view["state"], view["stage"], view["arms"]));
            for list in ["gates", "triggers"] {
                for one in view[list].as_array().into_iter().flatten() {
                    story.push_str(&format!(
                        "  {} {} {} {}\n",
                        one["name"], one["verdict"], one["state"], one["reason"]
                    ));
                }
            }
        }
        story
    }

    /// Waits until the first of those who are told has been told of everything that a trigger caused, each once.
    pub async fn is_told_of(&self, trigger: &str) {
        let named = format!("`{trigger}`");
        self.until(&format!("somebody is told of {trigger}"), async || {
            let caused = |event: &&Value| event["reason"].as_str().is_some_and(|why| why.contains(&named));
            let events = self.events().await.iter().filter(caused).count();
            let told = self.told.told();
            let told = told.iter().filter(|told| told.target == "/0" && told.body.to_string().contains(&named)).count();
            assert!(told <= events, "{trigger} was told more than once");
            (events > 0 && told == events).then_some(())
        })
        .await;
    }

    /// Which arm answers each of so many users, asked anew.
    pub async fn arms(&self, users: u64) -> Vec<String> {
        let mut client = Client::http1(self.weir.address).await;
        let mut arms = Vec::new();
        for nth in 0..users {
            let value = format!("{}{}", self.plan.unit.1, (self.plan.user)(nth));
            let got = soon("an answer", client.get(self.plan.targets[0], &[(self.plan.unit.0, value.as_str())])).await;
            // A fixed answer is stable's.
            arms.push(got.field("x-test-arm").unwrap_or("stable").to_owned());
        }
        arms
    }

    /// How `explain` sees a user.
    pub async fn reason(&self, rollout: &str, user: &str) -> (String, String) {
        let explained = self.weir.view(&format!("/api/v1/rollouts/{rollout}/explain?unit={user}")).await;
        let text = |key: &str| explained[key].as_str().unwrap_or_default().to_owned();
        (text("arm"), text("reason"))
    }

    /// The next request that an origin sees of that arm, or the latest one that it has seen.
    pub async fn request_of(&self, arm: Arm) -> Seen {
        let decision = format!("{}={}", self.plan.rollout, arm.name());
        let decided = |seen: &&Seen| seen.field("x-weir-rollout").is_some_and(|given| given.contains(&decision));
        self.until(&format!("a request with {decision}"), async || {
            self.origins.iter().find_map(|origin| origin.state().requests.iter().rev().find(decided).cloned())
        })
        .await
    }

    /// Ends it.
    pub async fn end(mut self) {
        self.traffic = None;
        self.weir.stop().await;
    }
}

/// Requests of stable from which its numbers are worth a record.
const RECORDED_REQUESTS: u64 = 100;
/// Seconds in a stage from which they are.
const RECORDED_S: f64 = 1.0;

/// The upstream of the canary's arm; the route's own where the arm names none.
fn canary_upstream(plan: &Plan, config: &Config) -> Arc<str> {
    let rollout =
        config.rollouts.iter().find(|rollout| *rollout.plan.name == *plan.rollout).expect("it is in the file");
    match &rollout.arm(Arm::Canary).to {
        ArmTo::Upstream(index) => Arc::clone(&config.upstreams[*index].name),
        _ => "".into(),
    }
}

fn variable(steps: &[&str]) -> String {
    format!("WEIR__{}", steps.join("__").to_uppercase().replace('-', "_"))
}
