//! `weir status --watch`: a screen that is left open. While weir is away it keeps the last picture, says so, and goes on by
//! itself. Without a terminal: lines once a second, for logs and pipes.

mod picture;
mod ring;

use super::args::{Global, Output, Status};
use super::client::{Client, encode};
use super::console::Console;
use super::contact::{Heard, Link};
use super::render::Paint;
use super::screen::{self, Input, Screen, Signals};
use super::status;
use super::stop::{Outcome, Stop};
use crate::admin::health::Upstreams;
use crate::admin::history::History;
use crate::admin::view::{Event, Events, Rollout};
use crate::clock::Clock;
use picture::Picture;
use std::collections::VecDeque;
use std::pin::pin;
use std::time::{Duration, SystemTime};

/// Shows until a key, Ctrl-C or a closed pipe ends it.
pub fn run(console: &mut Console, global: &Global, arguments: &Status) -> Outcome {
    let client = console.client(global)?;
    let able = console.out_is_terminal && console.in_is_terminal && console.variable("TERM") != Some("dumb");
    match able && global.output == Output::Text {
        true => client.block_on(show(console, global, arguments, &client)),
        false => client.block_on(lines(console, global, arguments, &client)),
    }
}

/// A line a rollout, or a JSON object, once a second. That weir is away, and that it is back, is a line too; beside JSON it
/// goes to standard error.
async fn lines(console: &mut Console<'_>, global: &Global, arguments: &Status, client: &Client) -> Outcome {
    let (clock, mut link) = (Clock::system(), Link::default());
    let path = status::path(arguments);
    loop {
        let asked = client.asking(&path, PATIENCE).await;
        let asked = asked.and_then(|answer| Ok((status::read(&answer, arguments)?, answer.text)));
        let told = match link.hear(asked, clock.wall())? {
            Heard::Answer { answer: (rollouts, body), back } => {
                if back {
                    tell(console, global, "weir answers again")?;
                }
                match global.output {
                    Output::Text => rollouts.iter().map(|one| status::line(one) + "\n").collect(),
                    // No string of JSON holds a raw line end, so this is the same object.
                    Output::Json => body.lines().collect::<String>() + "\n",
                }
            }
            Heard::Nothing { away, new: true } => {
                tell(console, global, &away.line())?;
                String::new()
            }
            Heard::Nothing { new: false, .. } => String::new(),
        };
        console.out.write_all(told.as_bytes())?;
        console.out.flush()?;
        tokio::time::sleep(PERIOD).await;
    }
}

fn tell(console: &mut Console<'_>, global: &Global, line: &str) -> Outcome {
    match global.output {
        Output::Text => console.line(line),
        Output::Json => Ok(writeln!(console.err, "{line}")?),
    }
}

/// Draws what was last heard, asks again, and obeys keys all the while: a weir that hangs cannot hold the terminal.
async fn show(console: &mut Console<'_>, global: &Global, arguments: &Status, client: &Client) -> Outcome {
    let (clock, paint, mut link, mut trail) =
        (Clock::system(), console.paint(global), Link::default(), Trail::default());
    let mut picture = Picture::of(arguments.rollout.as_deref());
    // Asked before the terminal is taken: what is wrong with the command is said where it was typed.
    let first = look(client, arguments, &mut trail).await;
    if let Ok(Look { rollouts, .. }) = &first {
        before(&mut picture, client, rollouts, &clock).await;
    }
    take(&mut picture, &mut link, first, &clock)?;
    let (mut signals, screen) = (Signals::new()?, Screen::open()?);
    loop {
        draw(console, &screen, &picture, &clock, paint)?;
        let (away, trail) = (link.is_away(), &mut trail);
        let mut asking = pin!(async {
            tokio::time::sleep(PERIOD).await;
            if away {
                // Another weir may come back, with another trail.
                *trail = Trail::default();
            }
            look(client, arguments, trail).await
        });
        let asked = loop {
            tokio::select! {
                asked = &mut asking => break asked,
                inputs = inputs(&screen, &mut signals) => {
                    let inputs = inputs?;
                    if inputs.contains(&Input::Quit) {
                        return Ok(());
                    }
                    if inputs.contains(&Input::Resized) {
                        draw(console, &screen, &picture, &clock, paint)?;
                    }
                }
                // Ages go on while an answer is waited for.
                () = tokio::time::sleep(PERIOD * 2) => draw(console, &screen, &picture, &clock, paint)?,
            }
        };
        take(&mut picture, &mut link, asked, &clock)?;
    }
}

/// What comes from the terminal next.
async fn inputs(screen: &Screen, signals: &mut Signals) -> Result<Vec<Input>, Stop> {
    loop {
        let inputs = screen.inputs()?;
        if !inputs.is_empty() {
            return Ok(inputs);
        }
        if signals.within(KEY_PERIOD).await {
            return Ok(vec![Input::Quit]);
        }
    }
}

fn draw(console: &mut Console<'_>, screen: &Screen, picture: &Picture, clock: &Clock, paint: Paint) -> Outcome {
    let (columns, rows) = screen.size();
    let frame = screen::frame(&picture.text(clock.wall(), columns, paint), columns, rows);
    console.out.write_all(frame.as_bytes())?;
    Ok(console.out.flush()?)
}

/// Everything that one picture shows.
struct Look {
    rollouts: Vec<Rollout>,
    /// The only rollout over the last seconds, for the curves.
    recent: Option<Rollout>,
    upstreams: Option<Upstreams>,
    events: Vec<Event>,
}

async fn look(client: &Client, arguments: &Status, trail: &mut Trail) -> Result<Look, Stop> {
    let answer = client.asking(&status::path(arguments), PATIENCE).await?;
    let rollouts = status::read(&answer, arguments)?;
    let recent = match rollouts.as_slice() {
        [only] => {
            let path = format!("/api/v1/rollouts/{}?window={}s", encode(&only.name), ring::STEP.as_secs());
            Some(client.asking(&path, PATIENCE).await?.form()?)
        }
        _ => None,
    };
    // What is beside the rollouts may be missing: they are what was asked for.
    let upstreams = client.asking("/api/v1/upstreams", BESIDE_PATIENCE).await.and_then(|answer| answer.form()).ok();
    let _ = trail.follow(client, arguments.rollout.as_deref()).await;
    Ok(Look { rollouts, recent, upstreams, events: trail.latest.iter().cloned().collect() })
}

/// Puts what the only rollout did in the last minutes on its curves; a weir that keeps no history leaves them to begin now.
async fn before(picture: &mut Picture, client: &Client, rollouts: &[Rollout], clock: &Clock) {
    let [only] = rollouts else { return };
    let path = format!("/api/v1/rollouts/{}/history?range={}s", encode(&only.name), ring::BEFORE.as_secs());
    let Ok(history) = client.asking(&path, BESIDE_PATIENCE).await.and_then(|answer| answer.form::<History>()) else {
        return;
    };
    let until = at(&history.until);
    let points = history.points.iter().filter_map(|point| Some((until?.duration_since(at(&point.at)?).ok()?, point)));
    picture.ring.fill(clock.now(), points);
}

fn at(rfc3339: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(rfc3339).ok()
}

fn take(picture: &mut Picture, link: &mut Link, asked: Result<Look, Stop>, clock: &Clock) -> Outcome {
    match link.hear(asked, clock.wall())? {
        Heard::Answer { answer: look, .. } => {
            if let Some(recent) = &look.recent {
                picture.ring.add(clock.now(), &recent.arms);
            }
            picture.rollouts = look.rollouts;
            picture.upstreams = look.upstreams;
            picture.events = look.events;
            picture.away = None;
        }
        Heard::Nothing { away, .. } => picture.away = Some(away),
    }
    Ok(())
}

/// The end of the audit trail, as far as it concerns what is shown.
#[derive(Debug, Default)]
struct Trail {
    next: u64,
    latest: VecDeque<Event>,
}

impl Trail {
    /// Reads what is new. A long trail takes several calls, so that the picture is not kept waiting.
    async fn follow(&mut self, client: &Client, rollout: Option<&str>) -> Result<(), Stop> {
        for _ in 0..PAGES_MAX {
            let path = format!("/api/v1/events?since={}&limit={PAGE}", self.next);
            let page: Events = client.asking(&path, BESIDE_PATIENCE).await?.form()?;
            let full = page.events.len() >= PAGE;
            self.next = page.next;
            self.keep(page.events, rollout);
            if !full {
                break;
            }
        }
        Ok(())
    }

    fn keep(&mut self, events: Vec<Event>, rollout: Option<&str>) {
        let concerns =
            |event: &Event| rollout.is_none() || event.rollout.is_none() || event.rollout.as_deref() == rollout;
        self.latest.extend(events.into_iter().filter(concerns));
        self.latest.drain(..self.latest.len().saturating_sub(EVENTS_SHOWN));
    }
}

const PERIOD: Duration = Duration::from_secs(1);
const KEY_PERIOD: Duration = Duration::from_millis(50);
/// A weir that takes longer is as good as away; its answer comes within milliseconds.
const PATIENCE: Duration = Duration::from_secs(3);
/// For what may be missing.
const BESIDE_PATIENCE: Duration = Duration::from_secs(1);
/// As many as the API gives at once.
const PAGE: usize = 1000;
const PAGES_MAX: usize = 10;
const EVENTS_SHOWN: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn the_trail_keeps_the_last_events_that_concern_the_rollout() {
        let event = |id: u64, rollout: Option<&str>| Event {
            id,
            time: String::new(),
            rollout: rollout.map(str::to_owned),
            kind: "weight".to_owned(),
            actor: String::new(),
            reason: String::new(),
            old: Value::Null,
            new: Value::Null,
            numbers: Value::Null,
        };
        let ids = |trail: &Trail| trail.latest.iter().map(|event| event.id).collect::<Vec<_>>();
        let mut trail = Trail::default();
        trail.keep(vec![event(1, Some("chat")), event(2, Some("other")), event(3, None)], Some("chat"));
        assert_eq!(ids(&trail), [1, 3]);
        trail.keep((4..9).map(|id| event(id, Some("chat"))).collect(), Some("chat"));
        assert_eq!(ids(&trail), [4, 5, 6, 7, 8]);
        let mut all = Trail::default();
        all.keep(vec![event(1, Some("chat")), event(2, Some("other"))], None);
        assert_eq!(ids(&all), [1, 2]);
    }
}
