//! What `weir status --watch` shows, as text. Forms of the API and a time in, lines out.

use super::ring::{COLUMNS_MAX, Curve, Ring, STEP};
use crate::admin::health::Upstreams;
use crate::admin::view::{Arm, Event, Rollout};
use crate::cli::contact::Away;
use crate::cli::render::{self, Paint, Table, Tone};
use crate::cli::screen::fold;
use crate::cli::{events, plan, stages, status, upstreams};
use crate::clock::Wall;
use crate::rollout::course::span_text;
use std::time::{Duration, UNIX_EPOCH};

/// Everything a picture is made of; while weir is away, what was heard last.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    name: Option<String>,
    /// All, or the one that was asked for.
    pub rollouts: Vec<Rollout>,
    /// The last minutes of the only one.
    pub ring: Ring,
    /// How endpoints do, where that is known.
    pub upstreams: Option<Upstreams>,
    /// The latest, oldest first.
    pub events: Vec<Event>,
    /// Since when nothing has been heard.
    pub away: Option<Away>,
}

impl Picture {
    /// An empty one of that rollout, or of all.
    pub fn of(name: Option<&str>) -> Picture {
        Picture { name: name.map(str::to_owned), ..Picture::default() }
    }

    /// The lines for a window of that width; longer ones are to be cut.
    pub fn text(&self, now: Wall, columns: usize, paint: Paint) -> String {
        let name = self.name.as_deref().map_or(String::new(), |name| format!(" {}", render::clean(name)));
        let span = self.rollouts.first().map_or(String::new(), |one| format!("   the last {}", status::span(one)));
        let about = format!("   {}{span}   q ends", render::hour(now));
        let title = paint.tone(Tone::Bold, &format!("weir status{name}"));
        let mut text = format!("{title}{}\n", paint.tone(Tone::Dim, &about));
        // Where it stands when nothing is wrong, it is blank: nothing below moves when weir goes away.
        let away = self.away.as_ref().map_or(String::new(), |away| {
            let since = render::hour(away.since);
            format!("weir is away since {since} ({}), last picture below: {}", ago(away.since, now), away.cause)
        });
        text.push_str(&format!("{}\n", paint.tone(Tone::Red, &away)));
        match self.rollouts.as_slice() {
            [only] => text.push_str(&self.detail(only, columns, paint)),
            many => text.push_str(&overview(many, columns, paint)),
        }
        if let Some(upstreams) = &self.upstreams {
            text.push_str(&upstreams::table(upstreams, paint));
        }
        if !self.events.is_empty() {
            text.push_str(&format!("\n{}\n", paint.tone(Tone::Dim, "events")));
        }
        for event in self.events.iter().rev() {
            let age = paint.tone(Tone::Dim, &format!("{:>10}", age(&event.time, now)));
            text.push_str(&format!("{age}  {}\n", events::what(event, paint)));
        }
        text
    }

    fn detail(&self, rollout: &Rollout, columns: usize, paint: Paint) -> String {
        let lines = [status::headline(rollout, paint), plan::stands(rollout)].into_iter().chain(plan::note(rollout));
        let folded = |text: &str| text.lines().map(|line| fold(line, columns) + "\n").collect::<String>();
        let mut text: String = lines.map(|lines| folded(&lines)).collect();
        if let Some(scale) = status::rehearsal(rollout) {
            text.push_str(&format!("{}\n", paint.tone(Tone::Yellow, &scale)));
        }
        text.push_str(&format!("{}\n", timeline(rollout, columns, paint)));
        text.push_str(&format!("{}\n", self.arms(rollout, columns).print(paint)));
        text.push_str(&stages::criteria(rollout, paint));
        if let Some(breaker) = &rollout.breaker {
            text.push_str(&folded(&status::breaker(breaker, paint)));
        }
        if let Some(shadow) = &rollout.shadow {
            text.push_str(&format!("{}\n", status::shadow(shadow, paint)));
        }
        if !rollout.cohorts.is_empty() {
            text.push_str(&format!("\n{}", status::cohorts(rollout).print(paint)));
        }
        text
    }

    /// Both arms side by side, each with the curves of the last minutes.
    fn arms(&self, rollout: &Rollout, columns: usize) -> Table {
        let width = (columns.saturating_sub(BESIDE_CURVES) / 2).min(COLUMNS_MAX);
        let width = if width < CURVE_MIN { 0 } else { width };
        let steps = u32::try_from(width).unwrap_or(u32::MAX);
        let head = if width == 0 { String::new() } else { render::lasting((STEP * steps).as_secs_f64()) };
        let (stable, canary) = (&rollout.arms.stable, &rollout.arms.canary);
        let all = stable.requests + canary.requests;
        let mut table = Table::new("<><><");
        table.head(["", "stable", &head, "canary", &head]);
        let mut row = |name: &str, curve: Option<Curve>, tone: Tone, show: &dyn Fn(&Arm) -> String| {
            let [left, right] = curve.map_or_else(Default::default, |curve| self.ring.draw(curve, width));
            table.tones([
                (Tone::Dim, name.to_owned()),
                (Tone::Plain, show(stable)),
                (Tone::Plain, left),
                (tone, show(canary)),
                (tone, right),
            ]);
        };
        row("share", None, Tone::Plain, &|arm| render::part(arm.requests, all));
        row("rps", Some(Curve::Rps), Tone::Plain, &|arm| render::frequency(arm.rps));
        row("errors", Some(Curve::Errors), status::blame(stable, canary), &|arm| render::rate(arm.error_rate));
        row("p95", Some(Curve::P95), Tone::Plain, &|arm| render::latency(arm.p95_ms));
        row("p50", None, Tone::Plain, &|arm| render::latency(arm.p50_ms));
        row("p99", None, Tone::Plain, &|arm| render::latency(arm.p99_ms));
        row("in flight", None, Tone::Plain, &|arm| render::count(arm.in_flight));
        table
    }
}

/// The stages in order, as many a line as fit: done, present with its time, to come.
fn timeline(rollout: &Rollout, columns: usize, paint: Paint) -> String {
    let present = rollout.stage.as_ref().filter(|_| rollout.state != "completed");
    let (mut text, mut used) = (String::new(), 0);
    for (index, stage) in rollout.stages.iter().enumerate() {
        let called = format!("{} {}", render::clean(&stage.name), render::share(stage.weight_ppm));
        let (tone, shown) = match present.filter(|present| present.index == index) {
            Some(present) => {
                let served = render::lasting(present.served_s);
                let done = bar(present.served_s, stage.min_duration_s);
                (Tone::Bold, format!("> {called} {done} {served} of {}", render::lasting(stage.min_duration_s)))
            }
            None if stage.finished => (Tone::Green, format!("+ {called}")),
            None => (Tone::Dim, format!("  {called}")),
        };
        let width = shown.chars().count();
        if used > 0 && used + GAP + width > columns {
            text.push('\n');
            used = 0;
        } else if used > 0 {
            text.push_str(&" ".repeat(GAP));
            used += GAP;
        }
        text.push_str(&paint.tone(tone, &shown));
        used += width;
    }
    if text.is_empty() { text } else { text + "\n" }
}

/// How much of a stage's time is served.
fn bar(served_s: f64, min_duration_s: f64) -> String {
    let part = if min_duration_s > 0.0 { (served_s / min_duration_s).clamp(0.0, 1.0) } else { 1.0 };
    let done = (part * BAR as f64).floor() as usize;
    "━".repeat(done) + &"─".repeat(BAR.saturating_sub(done))
}

/// One line a rollout; where that does not fit, the numbers below the name.
fn overview(rollouts: &[Rollout], columns: usize, paint: Paint) -> String {
    if rollouts.is_empty() {
        return "no rollouts: every request goes where its route says\n".to_owned();
    }
    let mut table = Table::new("<<>>>><");
    table.head(["rollout", "state", "weight", "rps", "errors", "p95", "now"]);
    for rollout in rollouts {
        let (tone, state) = status::standing(rollout);
        let [rps, errors, p95] = pairs(rollout);
        table.tones([
            (Tone::Bold, rollout.name.clone()),
            (tone, state),
            (Tone::Plain, render::share(rollout.weight_ppm)),
            rps,
            errors,
            p95,
            (Tone::Plain, plan::stands(rollout)),
        ]);
    }
    let rows = match table.last_column() + NOW_MIN <= columns {
        true => table.print(paint),
        false => rollouts.iter().map(|rollout| narrow(rollout, columns, paint)).collect(),
    };
    let mut text = format!("{rows}{}\n", paint.tone(Tone::Dim, "pairs are stable | canary"));
    if let Some(scale) = rollouts.first().and_then(status::rehearsal) {
        text.push_str(&format!("{}\n", paint.tone(Tone::Yellow, &scale)));
    }
    text
}

fn narrow(rollout: &Rollout, columns: usize, paint: Paint) -> String {
    let numbers = ["rps", "errors", "p95"].iter().zip(pairs(rollout));
    // One that does not fit goes on in the next line as a whole.
    let numbers: Vec<String> = numbers
        .map(|(name, (tone, pair))| paint.tone(tone, &format!("{name} {pair}").replace(' ', NO_BREAK)))
        .collect();
    let lines = [status::headline(rollout, paint), format!("  {}", numbers.join("  "))];
    lines.map(|line| fold(&line, columns).replace(NO_BREAK, " ") + "\n").concat()
}

/// Requests per second, errors and latency of both arms.
fn pairs(rollout: &Rollout) -> [(Tone, String); 3] {
    let (stable, canary) = (&rollout.arms.stable, &rollout.arms.canary);
    let both = |show: &dyn Fn(&Arm) -> String| format!("{} | {}", show(stable), show(canary));
    [
        (Tone::Plain, both(&|arm| render::frequency(arm.rps))),
        (status::blame(stable, canary), both(&|arm| render::rate(arm.error_rate))),
        (Tone::Plain, both(&|arm| render::latency(arm.p95_ms))),
    ]
}

/// How long ago that was: `3m ago`. What cannot be read is shown as it is.
fn age(rfc3339: &str, now: Wall) -> String {
    let at = humantime::parse_rfc3339(rfc3339).ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    match at {
        Some(at) => format!("{} ago", ago(Wall::from_millis(u64::try_from(at.as_millis()).unwrap_or(u64::MAX)), now)),
        None => render::clean(rfc3339),
    }
}

/// Whole seconds, and none of what is yet to come: weir's clock may be a little ahead of ours.
fn ago(at: Wall, now: Wall) -> String {
    match now.as_millis().saturating_sub(at.as_millis()) / 1000 {
        0 => "0s".to_owned(),
        seconds => span_text(Duration::from_secs(seconds)),
    }
}

/// Characters of how a rollout stands that say anything.
const NOW_MIN: usize = 6;
/// Between words that stay together.
const NO_BREAK: &str = "\u{a0}";
/// Columns that names and numbers take.
const BESIDE_CURVES: usize = 36;
/// Narrower curves say nothing.
const CURVE_MIN: usize = 6;
/// Characters of the bar of the present stage.
const BAR: usize = 8;
/// Between stages of the timeline.
const GAP: usize = 2;

#[cfg(test)]
mod tests;
