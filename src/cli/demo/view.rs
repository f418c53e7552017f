//! What the demo shows, as text: the live frame, the plain line, and what to try in a second terminal.

use super::WINDOW;
use super::traffic::Counts;
use super::upstream::Mode;
use crate::admin::view::Rollout;
use crate::cli::render::{self, DASH, Paint, Tone};
use crate::cli::{plan, screen, status};
use crate::config::units::{print_share, print_span};
use crate::rollout::breaker::State;
use crate::rollout::report::{ArmReport, GateReport, RolloutReport, State as Life, TriggerReport};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Everything a frame is made of.
#[derive(Clone, Debug)]
pub struct View {
    /// Where clients ask.
    pub listener: SocketAddr,
    /// Where operators ask.
    pub admin: Option<SocketAddr>,
    /// The new upstream.
    pub new: SocketAddr,
    /// What to type for this program.
    pub program: String,
    /// The rollout, once it has been measured.
    pub report: Option<RolloutReport>,
    /// How the new upstream behaves.
    pub mode: Mode,
    /// What the clients have seen.
    pub clients: Counts,
    /// Why the last key did nothing; empty if it did.
    pub note: String,
}

impl Default for View {
    fn default() -> Self {
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        View {
            listener: nowhere,
            admin: None,
            new: nowhere,
            program: "weir".to_owned(),
            report: None,
            mode: Mode::Healthy,
            clients: Counts::default(),
            note: String::new(),
        }
    }
}

/// A line of pieces, each with its tone.
type Line = Vec<(Tone, String)>;

impl View {
    /// A whole screen, drawn over the last one.
    pub fn frame(&self, columns: usize, rows: usize, paint: Paint) -> String {
        let print = |line: &Line| line.iter().map(|(tone, piece)| paint.tone(*tone, piece)).collect::<String>() + "\n";
        screen::frame(&self.lines(columns).iter().map(print).collect::<String>(), columns, rows)
    }

    /// One line of numbers, for pipes and files.
    pub fn line(&self, elapsed: Duration) -> String {
        let line = match &self.report {
            Some(report) => {
                let stage = report.stage.as_ref().map_or("no stage", |stage| &*stage.name);
                format!("{}  |  {}", render::clean(stage), status::line(&Rollout::of(report, WINDOW)))
            }
            None => "starting".to_owned(),
        };
        format!("{:>4}s  {line}  |  {}", elapsed.as_secs(), self.seen())
    }

    /// What to try in a second terminal, with the ports as they are.
    pub fn invitation(&self) -> Vec<String> {
        let mut lines = Vec::new();
        lines.extend(self.admin.map(|admin| format!("Open in a browser: http://{admin}/#/rollout/demo")));
        lines.push("Try in a second terminal:".to_owned());
        if let Some(admin) = self.admin.filter(|admin| admin.port() != USUAL_ADMIN_PORT) {
            lines.push(format!("  export WEIR_ADMIN=http://{admin}"));
        }
        let weir = match self.program.contains(|c: char| c.is_whitespace() || c == '\'') {
            true => format!("'{}'", self.program.replace('\'', "'\\''")),
            false => self.program.clone(),
        };
        lines.extend([
            format!("  {weir} status --watch"),
            format!("  {weir} validate demo"),
            format!("  {weir} explain demo --unit user-0042"),
            format!("  curl -i -H 'x-user-id: user-0042' http://{}/", self.listener),
            format!("  curl -X POST http://{}/demo/failing", self.new),
            format!("  {weir} kill demo --reason 'the new one fails'"),
        ]);
        lines
    }

    fn lines(&self, columns: usize) -> Vec<Line> {
        let plain = |text: &str| vec![(Tone::Plain, text.to_owned())];
        let mode = if self.mode == Mode::Healthy { Tone::Green } else { Tone::Red };
        let mut lines = vec![vec![(Tone::Bold, " weir demo".to_owned())]];
        if let Some(report) = &self.report {
            let (tone, standing) = standing(report);
            lines[0].extend([(Tone::Plain, "   ".to_owned()), (tone, standing)]);
        }
        lines[0].extend([(Tone::Plain, "   the new upstream is ".to_owned()), (mode, self.mode.name().to_owned())]);
        lines[0].push((Tone::Dim, format!("   the last {}", print_span(WINDOW))));
        match &self.report {
            Some(report) => {
                lines.push(plain(&format!(" {}", plan::stands(&Rollout::of(report, WINDOW)))));
                let why = report.state_reason.as_deref().map_or(String::new(), render::clean);
                lines.push(vec![(Tone::Yellow, format!(" {why}"))]);
                lines.extend(numbers(&report.arms, columns));
                let judged = judged(report);
                lines.extend((!judged.is_empty()).then(|| plain("")));
                lines.extend(judged);
            }
            None => lines.extend([plain(""), plain(" measuring ...")]),
        }
        lines.push(plain(""));
        lines.push(plain(&format!(" {}", self.seen())));
        lines.push(vec![(Tone::Yellow, format!(" {}", render::clean(&self.note)))]);
        lines.push(plain(" make the new upstream:   s slow   f failing   h healthy"));
        lines.push(plain(" the plan:   p pause, go on   n next stage   b back to stable   + more   - less"));
        lines.push(plain(" everything:   k kill   r revive   q quit"));
        lines.push(plain(""));
        lines.extend(self.invitation().iter().map(|line| vec![(Tone::Dim, format!(" {line}"))]));
        lines
    }

    fn seen(&self) -> String {
        let Counts { requests, failed } = self.clients;
        format!("clients: {} requests, {} failed", render::count(requests), render::count(failed))
    }
}

fn standing(report: &RolloutReport) -> (Tone, String) {
    let weight = print_share(report.weight);
    match (report.killed, report.state) {
        (true, _) => (Tone::Red, format!("killed (weight {weight})")),
        (false, Life::RolledBack) => (Tone::Red, "rolled back".to_owned()),
        (false, Life::Paused) => (Tone::Yellow, format!("paused at {weight}")),
        (false, _) => (Tone::Green, format!("weight {weight}")),
    }
}

/// What the plan looks at, as last judged: the gates of the stage, the triggers, the breaker.
fn judged(report: &RolloutReport) -> Vec<Line> {
    let line = |kind: &str, word: &str, tone: Tone, what: &str| {
        vec![
            (Tone::Dim, format!(" {kind:<8}")),
            (tone, if what.is_empty() { word.to_owned() } else { format!("{word:<10}") }),
            (Tone::Plain, render::clean(what)),
        ]
    };
    let gate = |gate: &GateReport| {
        let tone = match gate.verdict {
            "pass" => Tone::Green,
            "fail" => Tone::Red,
            _ => Tone::Plain,
        };
        line("gate", gate.verdict, tone, if gate.reason.is_empty() { &gate.when } else { &gate.reason })
    };
    let trigger = |trigger: &TriggerReport| {
        let tone = if trigger.state == "quiet" { Tone::Plain } else { Tone::Red };
        line("trigger", trigger.state, tone, &format!("{} ({})", trigger.when, trigger.action))
    };
    let breaker = report.breaker.as_ref().map(|breaker| {
        let tone = if breaker.state == State::Closed { Tone::Plain } else { Tone::Red };
        let why = breaker.last_reason.as_deref().map_or(String::new(), |why| format!("tripped by {why}"));
        line("breaker", breaker.state.word(), tone, &why)
    });
    report.gates.iter().map(gate).chain(report.triggers.iter().map(trigger)).chain(breaker).collect()
}

/// Both arms side by side, each number with a bar where a bar says something and there is room for it.
fn numbers(arms: &[ArmReport; 2], columns: usize) -> Vec<Line> {
    let bars = (columns.saturating_sub(BESIDE_BARS) / 2).min(BAR_MAX);
    let all: u64 = arms.iter().map(|arm| arm.requests).sum();
    let slowest = arms.iter().filter_map(|arm| arm.p99_ms).fold(0.0, f64::max);
    let row = |name: &str, show: &dyn Fn(&ArmReport) -> (Tone, String, f64)| {
        let mut line = vec![(Tone::Dim, format!(" {name:<8}"))];
        for arm in arms {
            let (tone, text, part) = show(arm);
            line.push((tone, format!("{text:>9}")));
            line.push((tone, format!(" {}", bar(part, bars))));
        }
        if let Some((_, last)) = line.last_mut() {
            last.truncate(last.trim_end().len());
        }
        line
    };
    let latency = |ms: Option<f64>| (Tone::Plain, render::latency(ms), ms.map_or(0.0, |ms| ms / slowest.max(ms)));
    let head = [" ".repeat(9), format!("{:>9} {:bars$}  ", "stable", ""), format!("{:>9}", "canary")].concat();
    vec![
        vec![(Tone::Bold, head)],
        row("share", &|arm| {
            let part = if all == 0 { 0.0 } else { arm.requests as f64 / all as f64 };
            (Tone::Plain, render::part(arm.requests, all), part)
        }),
        row("rps", &|arm| (Tone::Plain, render::frequency(arm.rps), 0.0)),
        row("errors", &|arm| match arm.error_rate() {
            None => (Tone::Plain, DASH.to_owned(), 0.0),
            Some(rate) => (if rate > 0.0 { Tone::Red } else { Tone::Plain }, render::rate(Some(rate)), rate),
        }),
        row("p50", &|arm| latency(arm.p50_ms)),
        row("p95", &|arm| latency(arm.p95_ms)),
        row("p99", &|arm| latency(arm.p99_ms)),
    ]
}

/// A bar of up to so many columns for a part of 0 to 1, with the gap to what follows; anything above nothing shows.
fn bar(part: f64, columns: usize) -> String {
    if columns == 0 {
        return "  ".to_owned();
    }
    let eighths = (part.clamp(0.0, 1.0) * (columns * 8) as f64).round() as usize;
    let eighths = if part > 0.0 { eighths.max(1) } else { eighths };
    let mut bar = "█".repeat(eighths / 8);
    bar.extend(["▏", "▎", "▍", "▌", "▋", "▊", "▉"].get((eighths % 8).wrapping_sub(1)).copied());
    format!("{bar:columns$}  ")
}

/// Columns of a bar, at most.
const BAR_MAX: usize = 20;
/// Columns that names, numbers and gaps take.
const BESIDE_BARS: usize = 32;
const USUAL_ADMIN_PORT: u16 = 9900;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::bucket::Weight;
    use crate::rollout::report::BreakerReport;
    use crate::rollout::scale::TimeScale;

    fn view() -> View {
        let arm = |requests, errors, p50: f64| ArmReport {
            requests,
            errors,
            rps: requests as f64 / 5.0,
            p50_ms: Some(p50),
            p75_ms: None,
            p90_ms: None,
            p95_ms: Some(2.0 * p50),
            p99_ms: Some(4.0 * p50),
            p999_ms: None,
            in_flight: 1,
        };
        let gate = GateReport {
            when: "error_rate < 1%".to_owned(),
            verdict: "fail",
            value: Some(0.5),
            limit: Some(0.01),
            reason: "error_rate 50.0% >= 1.0% (250 of 500 requests)".to_owned(),
            samples: 500,
            unit: "ratio",
            margin: None,
            window: None,
            min_requests: 100,
        };
        let report = RolloutReport {
            name: "demo".into(),
            state: Life::Running,
            state_reason: None,
            weight: Weight::from_ppm(250_000).unwrap(),
            file_weight: Weight::ZERO,
            killed: false,
            killed_by_config: false,
            stage: None,
            gates: vec![gate],
            triggers: Vec::new(),
            stages: Vec::new(),
            next: None,
            note: None,
            breaker: Some(BreakerReport::default()),
            arms: [arm(1500, 0, 10.0), arm(500, 250, 5.0)],
            shadow: None,
            cohorts: Vec::new(),
            time_scale: TimeScale::default(),
            generation: 1,
        };
        View {
            listener: "127.0.0.1:8080".parse().unwrap(),
            admin: Some("127.0.0.1:9900".parse().unwrap()),
            new: "127.0.0.1:9002".parse().unwrap(),
            program: "weir".to_owned(),
            report: Some(report),
            mode: Mode::Failing,
            clients: Counts { requests: 12_345, failed: 67 },
            note: String::new(),
        }
    }

    #[test]
    fn the_frame_shows_both_arms_with_bars() {
        let frame = view().frame(80, 40, Paint::default()).replace("\x1b[K\r\n", "\n");
        let expected = "\x1b[H weir demo   weight 25%   the new upstream is failing   the last 5s
 running at 25%

            stable                          canary
 share       75.0% ███████████████           25.0% █████
 rps         300.0                           100.0
 errors      0.00%                          50.00% ██████████
 p50       10.0 ms █████                   5.00 ms ██▌
 p95       20.0 ms ██████████              10.0 ms █████
 p99       40.0 ms ████████████████████    20.0 ms ██████████

 gate    fail      error_rate 50.0% >= 1.0% (250 of 500 requests)
 breaker closed

 clients: 12,345 requests, 67 failed
";
        assert!(frame.starts_with(expected), "{frame}");
    }

    #[test]
    fn a_small_terminal_cuts_and_never_wraps() {
        let frame = view().frame(20, 5, Paint::default());
        let lines: Vec<&str> = frame.trim_start_matches("\x1b[H").split("\x1b[K\r\n").collect();
        assert_eq!(lines.len(), 5);
        assert!(lines[..4].iter().all(|line| line.chars().count() <= 20), "{lines:?}");
        // Bars go before numbers do.
        let narrow = view().frame(40, 40, Paint::default());
        assert!(narrow.contains("\r\n p99       40.0 ms ████    20.0 ms ██\x1b[K"), "{narrow}");
    }

    #[test]
    fn a_line_says_it_all() {
        assert_eq!(
            view().line(Duration::from_millis(3_200)),
            "   3s  no stage  |  demo  running  weight 25%  |  stable 300.0 rps, 0.00% errors, p95 20.0 ms  |  \
             canary 100.0 rps, 50.00% errors, p95 10.0 ms  |  clients: 12,345 requests, 67 failed"
        );
    }

    #[test]
    fn the_lines_to_try_work_as_they_stand() {
        let mut view = view();
        view.program = "target/release/weir".to_owned();
        assert!(view.invitation().contains(&"  target/release/weir status --watch".to_owned()));
        view.program = "/my tools/weir".to_owned();
        assert!(view.invitation().contains(&"  '/my tools/weir' validate demo".to_owned()));
    }

    #[test]
    fn an_unusual_admin_port_is_told() {
        let mut view = view();
        assert!(!view.invitation().iter().any(|line| line.contains("WEIR_ADMIN")));
        view.admin = Some("127.0.0.1:4711".parse().unwrap());
        assert!(view.invitation().contains(&"  export WEIR_ADMIN=http://127.0.0.1:4711".to_owned()));
        assert!(view.invitation().contains(&"Open in a browser: http://127.0.0.1:4711/#/rollout/demo".to_owned()));
    }
}
