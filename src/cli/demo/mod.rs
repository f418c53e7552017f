//! `weir demo`: the whole story in one command. Two upstreams, a real proxy in front of them, steady traffic from a
//! thousand users, a plan of four hours that is over in a bit more than a minute, a live view, and keys that break the new
//! upstream and take the plan in hand.
//!
//! Everything but the proxy runs on one runtime on the main thread; the proxy is started as `serve` would start it, on
//! its own threads. Nothing is left behind: the state folder is removed and ports are closed, by `q`, Ctrl-C or time.

mod keys;
mod place;
mod traffic;
mod upstream;
mod view;

use super::args::{Demo, Global, Output};
use super::console::Console;
use super::render::Paint;
use super::screen::{Input, Screen, Signals};
use super::serve::{Options, Running, start};
use super::stop::{Outcome, Stop};
use crate::clock::Clock;
use crate::control::{Denied, Handle, Origin};
use crate::rollout::bucket::Weight;
use crate::rollout::course::{Back, Command};
use crate::rollout::report::{RolloutReport, State};
use crate::rollout::scale::TimeScale;
use keys::Key;
use place::Place;
use std::sync::Arc;
use std::time::Duration;
use traffic::Traffic;
use upstream::Upstream;
use view::View;

/// Runs until a key, a signal or the time ends it.
pub fn run(console: &mut Console, global: &Global, arguments: &Demo) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let failed =
        |what: &str, error: &dyn std::fmt::Display| Stop::Usage(format!("the demo cannot start: {what}: {error}"));
    let (legacy, new) = {
        let _inside = runtime.enter();
        let legacy = Upstream::start("legacy", 9001).map_err(|error| failed("its stable upstream", &error))?;
        let new = Upstream::start("new", 9002).map_err(|error| failed("its new upstream", &error))?;
        (legacy, new)
    };
    let place = Place::make(legacy.address, new.address).map_err(|error| failed("its folder", &error))?;
    // The person's own WEIR__ variables are about another config.
    let time_scale = TimeScale::new(TIME_SCALE).unwrap_or_default();
    let options = Options {
        config: place.config(),
        environment: Vec::new(),
        signals: false,
        time_scale,
        log_lost: Arc::default(),
    };
    let running = start(options).map_err(|error| failed("its proxy", &error))?;

    let shown = runtime.block_on(show(console, global, arguments, &running, &new));
    running.stop();
    drop(place);
    shown?;
    if global.output == Output::Text {
        console.line("The demo has ended; nothing is left behind.")?;
    }
    Ok(())
}

/// Traffic flows while the view is shown, and has drained when this returns.
async fn show(
    console: &mut Console<'_>,
    global: &Global,
    arguments: &Demo,
    running: &Running,
    new: &Upstream,
) -> Outcome {
    let Some(listener) = running.listeners.first().copied() else {
        return Err(Stop::Usage("the demo cannot start: its proxy listens nowhere".to_owned()));
    };
    let traffic = Traffic::start(listener, arguments.rate);
    let mut stage = Stage {
        handle: running.handle.clone(),
        view: View {
            listener,
            admin: running.admin,
            new: new.address,
            program: console.program.to_owned(),
            ..View::default()
        },
        clock: Clock::system(),
        paint: console.paint(global),
        traffic,
        new,
    };
    let live = console.out_is_terminal && console.in_is_terminal && global.output == Output::Text;
    let shown = match live {
        true => stage.live(console, arguments.duration).await,
        false => stage.lines(console, global.output, arguments.duration).await,
    };
    stage.traffic.stop().await;
    shown
}

/// What the view shows and the keys act on.
struct Stage<'a> {
    handle: Handle,
    view: View,
    clock: Clock,
    paint: Paint,
    traffic: Traffic,
    new: &'a Upstream,
}

impl Stage<'_> {
    /// Redraws and obeys keys until one of them, a signal or the time says stop.
    async fn live(&mut self, console: &mut Console<'_>, duration: Option<Duration>) -> Outcome {
        let screen = Screen::open()?;
        let (begun, mut signals, mut measured) = (self.clock.now(), Signals::new()?, None);
        loop {
            for input in screen.inputs()? {
                match input {
                    Input::Quit => return Ok(()),
                    Input::Key(event) => match keys::meaning(event) {
                        Some(Key::Quit) => return Ok(()),
                        Some(other) => self.obey(other).await,
                        None => continue,
                    },
                    Input::Resized => {}
                }
                measured = None;
            }
            let now = self.clock.now();
            if measured.is_none_or(|at| now.since(at) >= MEASURE_PERIOD) {
                self.measure().await;
                measured = Some(now);
                let (columns, rows) = screen.size();
                console.out.write_all(self.view.frame(columns, rows, self.paint).as_bytes())?;
                console.out.flush()?;
            }
            if duration.is_some_and(|duration| now.since(begun) >= duration) || signals.within(KEY_PERIOD).await {
                return Ok(());
            }
        }
    }

    /// One line a second, for pipes and files.
    async fn lines(&mut self, console: &mut Console<'_>, output: Output, duration: Option<Duration>) -> Outcome {
        let (begun, mut signals) = (self.clock.now(), Signals::new()?);
        if output == Output::Text {
            for line in self.view.invitation() {
                console.line(&line)?;
            }
            console.line("")?;
            console.out.flush()?;
        }
        loop {
            let elapsed = self.clock.now().since(begun);
            let left = duration.map_or(LINE_PERIOD, |duration| duration.saturating_sub(elapsed).min(LINE_PERIOD));
            if left.is_zero() || signals.within(left).await {
                return Ok(());
            }
            self.measure().await;
            let line = match (output, &self.view.report) {
                (Output::Text, _) => Some(self.view.line(self.clock.now().since(begun))),
                (Output::Json, Some(report)) => {
                    let form = crate::admin::view::Rollout::of(report, WINDOW);
                    Some(serde_json::to_string(&form).map_err(std::io::Error::from)?)
                }
                (Output::Json, None) => None,
            };
            if let Some(line) = line {
                console.line(&line)?;
                console.out.flush()?;
            }
        }
    }

    async fn measure(&mut self) {
        match self.handle.rollouts(WINDOW).await {
            Ok(reports) => self.view.report = reports.into_iter().find(|report| &*report.name == ROLLOUT),
            Err(denied) => self.view.note = said(&denied),
        }
        self.view.mode = self.new.mode();
        self.view.clients = self.traffic.counts();
    }

    async fn obey(&mut self, key: Key) {
        let done = match key {
            Key::More => self.step(true).await,
            Key::Less => self.step(false).await,
            Key::Pause => self.command(if self.is_paused() { Command::Resume } else { Command::Pause }).await,
            Key::Next => self.command(Command::Promote { force: false, full: false }).await,
            Key::Rollback => self.command(Command::Rollback(Back::Stable)).await,
            Key::Kill => self.handle.kill(ROLLOUT, None, pressed()).await.map(Some),
            Key::Revive => self.handle.revive(ROLLOUT, None, pressed()).await.map(Some),
            Key::Break(mode) => {
                self.new.set_mode(mode);
                Ok(None)
            }
            Key::Quit => Ok(None),
        };
        self.view.note = done.err().as_ref().map(said).unwrap_or_default();
    }

    async fn command(&self, command: Command) -> Result<Option<RolloutReport>, Denied> {
        self.handle.command(ROLLOUT, command, pressed()).await.map(Some)
    }

    fn is_paused(&self) -> bool {
        self.view.report.as_ref().is_some_and(|report| report.state == State::Paused)
    }

    /// To the next weight of the ladder, up or down.
    async fn step(&self, up: bool) -> Result<Option<RolloutReport>, Denied> {
        let Some(report) = &self.view.report else { return Ok(None) };
        let present = report.weight.ppm();
        let next = match up {
            true => LADDER_PPM.into_iter().find(|ppm| *ppm > present),
            false => LADDER_PPM.into_iter().rev().find(|ppm| *ppm < present),
        };
        let Some(weight) = next.and_then(Weight::from_ppm) else { return Ok(None) };
        self.handle.set_weight(ROLLOUT, weight, false, pressed()).await.map(Some)
    }
}

/// Who asks, for the audit trail.
fn pressed() -> Origin {
    Origin { actor: "demo".to_owned(), reason: "a key".to_owned() }
}

fn said(denied: &Denied) -> String {
    match denied {
        Denied::NotFound(message) | Denied::Conflict(message) | Denied::Invalid { message, .. } => message.clone(),
        Denied::Unavailable => "the control plane does not answer".to_owned(),
    }
}

/// An hour in 20 seconds.
const TIME_SCALE: u32 = 180;
/// The demo's only rollout.
const ROLLOUT: &str = "demo";
/// What `+` and `-` step through.
const LADDER_PPM: [u32; 8] = [0, 10_000, 50_000, 100_000, 250_000, 500_000, 750_000, 1_000_000];
/// Short, so that a key shows in the numbers within seconds.
const WINDOW: Duration = Duration::from_secs(5);
const MEASURE_PERIOD: Duration = Duration::from_millis(250);
const KEY_PERIOD: Duration = Duration::from_millis(40);
const LINE_PERIOD: Duration = Duration::from_secs(1);
