//! `weir status ROLLOUT --wait`: prints each step of a plan until it is complete, or goes no further by itself.

use super::args::{Global, Output, Status};
use super::client::{Client, encode};
use super::console::Console;
use super::contact::Contact;
use super::plan;
use super::render;
use super::stop::{Outcome, Stop};
use crate::admin::view::Rollout;
use crate::clock::Clock;
use std::time::Duration;

/// Waits. Complete is success; rolled back, paused and out of time are no.
pub fn run(console: &mut Console, global: &Global, arguments: &Status) -> Outcome {
    let client = console.client(global)?;
    let clock = Clock::system();
    let ends = arguments.timeout.map(|timeout| clock.now() + timeout);
    let mut contact = Contact::new(clock.clone(), GRACE);
    let (mut shown, mut last) = (String::new(), None);
    let name = arguments.rollout.as_deref().unwrap_or_default();
    loop {
        if let Some((body, rollout)) = contact.with(console, || ask(&client, name))? {
            let step =
                format!("{} {:?} {}", rollout.state, rollout.stage.as_ref().map(|stage| &stage.name), rollout.killed);
            if step != shown && global.output == Output::Text {
                console.line(&format!("{}: {}", render::clean(&rollout.name), plan::stands(&rollout)))?;
                console.out.flush()?;
            }
            shown = step;
            if let Some(ended) = ended(&rollout) {
                console.print(global, &body, || Ok(String::new()))?;
                return ended;
            }
            last = Some(body);
        }
        if ends.is_some_and(|ends| clock.now() >= ends) {
            if let Some(stop) = contact.gone() {
                return Err(stop);
            }
            console.print(global, last.as_deref().unwrap_or("null"), || Ok(String::new()))?;
            let span = render::lasting(arguments.timeout.unwrap_or_default().as_secs_f64());
            writeln!(console.err, "not complete within {span}")?;
            return Err(Stop::No);
        }
        client.pause(LOOK_EVERY);
    }
}

fn ask(client: &Client, name: &str) -> Result<(String, Rollout), Stop> {
    let answer = client.ask(&format!("/api/v1/rollouts/{}", encode(name)))?;
    let rollout = answer.form()?;
    Ok((answer.text, rollout))
}

/// How the wait ends, if it does.
fn ended(rollout: &Rollout) -> Option<Outcome> {
    match rollout.state.as_str() {
        "completed" => Some(Ok(())),
        "rolled_back" | "paused" => Some(Err(Stop::No)),
        _ if rollout.stages.is_empty() => {
            let name = render::clean(&rollout.name);
            Some(Err(Stop::Usage(format!("rollout {name} has no stages: there is nothing to wait for"))))
        }
        _ => None,
    }
}

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long weir may be out of reach: long enough for a restart.
const GRACE: Duration = Duration::from_secs(10);
