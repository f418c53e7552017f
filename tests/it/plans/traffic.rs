//! The users of a plan's world: some dozen connections that ask without pause for thought, and browsers that post vitals.

use super::faults::Faults;
use super::plan::Plan;
use crate::harness::Client;
use crate::harness::client::read;
use crate::harness::piped::sized;
use crate::harness::raw::call;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// Connections at once.
const CLIENTS: u64 = 12;
/// Between two requests of a connection: enough requests for every minimum, without more load than a small machine has.
const PAUSE: Duration = Duration::from_millis(50);
/// Between two posts of vitals; an address may post 60 times in ten seconds.
const VITALS_EVERY: Duration = Duration::from_millis(250);

/// Users that go on until this is dropped.
pub struct Traffic {
    _tasks: JoinSet<()>,
}

impl Traffic {
    /// Begins to ask.
    pub fn start(plan: &'static Plan, faults: &Arc<Faults>, address: SocketAddr) -> Traffic {
        let mut tasks = JoinSet::new();
        let turn = Arc::new(AtomicU64::new(0));
        for _ in 0..CLIENTS {
            tasks.spawn(ask(plan, Arc::clone(faults), address, Arc::clone(&turn)));
        }
        if let Some(path) = plan.vitals {
            tasks.spawn(measure(plan, Arc::clone(faults), address, path));
        }
        Traffic { _tasks: tasks }
    }
}

async fn ask(plan: &'static Plan, faults: Arc<Faults>, address: SocketAddr, turn: Arc<AtomicU64>) {
    let mut client = None;
    loop {
        let nth = turn.fetch_add(1, Ordering::Relaxed);
        let user = (plan.user)(nth);
        let target = plan.targets[(nth % plan.targets.len() as u64) as usize];
        let arm = request(plan, &faults, &mut client, address, target, &user).await;
        if arm.as_deref() == Some("canary")
            && let Some(report) = faults.report()
        {
            request(plan, &faults, &mut client, address, report, &user).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// One request over a connection that is renewed when it has ended; the arm that answered, if one did.
async fn request(
    plan: &Plan,
    faults: &Faults,
    client: &mut Option<Client>,
    address: SocketAddr,
    target: &str,
    user: &str,
) -> Option<String> {
    let open = match client.take().filter(|client| !client.is_closed()) {
        Some(client) => client,
        None => Client::http1(address).await,
    };
    let open = client.insert(open);
    let value = format!("{}{user}", plan.unit.1);
    let fields = if faults.has_units() { vec![(plan.unit.0, value.as_str())] } else { Vec::new() };
    let request = open.request("GET", target, &fields, sized(""));
    let answer = match open.send(request).await {
        Ok(answer) => read(answer).await.ok(),
        Err(_) => None,
    };
    if answer.is_none() {
        *client = None;
    }
    answer?.field("x-test-arm").map(str::to_owned)
}

/// Browsers: each post is one user's, and tells of several pages.
async fn measure(plan: &'static Plan, faults: Arc<Faults>, address: SocketAddr, path: &'static str) {
    for nth in 0.. {
        let (lcp, inp, cls) = faults.vitals();
        let page = |id: u64| {
            let report =
                |name: &str, value: f64| format!("{{\"name\":\"{name}\",\"value\":{value},\"id\":\"v4-{id}\"}}");
            [report("LCP", lcp), report("INP", inp), report("CLS", cls)].join(",")
        };
        let body = format!("[{}]", (0..5).map(page).collect::<Vec<_>>().join(","));
        let user = format!("{}{}", plan.unit.1, (plan.user)(nth));
        call(address, "POST", path, &[(plan.unit.0, user.as_str())], body.as_bytes()).await;
        tokio::time::sleep(VITALS_EVERY).await;
    }
}
