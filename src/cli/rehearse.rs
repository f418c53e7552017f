//! `weir rehearse`: the plans of a config on a virtual clock, told as a timeline or as data.

use super::args::{Global, Output, Patience, Rehearse};
use super::console::Console;
use super::files;
use super::render::{self, Paint, Tone};
use super::stop::{Outcome, Stop};
use crate::config::{self, Config};
use crate::rehearsal::assume::{Assumption, read};
use crate::rehearsal::usual::{Usual, written};
use crate::rehearsal::{Assumptions, End, Happening, Judged, Met, Passage, RolloutStory, Story, members, rehearse};
use crate::rollout::Arm;
use crate::rollout::report::Kind;
use crate::rollout::stages::span_text;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What `weir rehearse --help` ends with.
pub const HELP: &str = "\
An ASSUMPTION is KEY=VALUE[,KEY=VALUE...][@[ROLLOUT:]STAGE[+DELAY][..]]
  KEY    errors, timeouts, rate_4xx, p50 p75 p90 p95 p99 p999, signal.NAME, vitals.lcp.p75 (also inp, cls); of a part:
         p95{ROUTE}, errors{cohort:NAME}. With --assume also query.NAME, shadow.error_rate, shadow.diff_rate, shadow.p95,
         weir.memory, weir.cpu. Of the quantiles that are not said each keeps its proportion to the nearest that is.
  @      in that stage only, from DELAY after its beginning; with .. also in every later stage. The last one that holds
         counts, so a fault ends where another assumption begins.
Without assumptions the service is healthy: no errors, quick answers, and queries that say what their gates ask for, each
printed as it is taken. query.NAME=none is a query without data. People start and approve as soon as they are asked. A
rollout that the config switches off is rehearsed as if it were on.
Exit code 0: every plan completes as assumed; 1: one is rolled back, paused or stuck.

Example:  weir rehearse -c weir.toml
          weir rehearse -c weir.toml --canary errors=2%@ramp+1h --stable errors=0.1%
          weir rehearse -c weir.toml --canary 'p95=900ms@objects:ramp..' --assume query.memory=30MB --rps 20
          weir rehearse -c weir.toml --canary errors=30%@full --canary errors=0%@full+2m --approve-after 4h -o json";

/// Rehearses and prints. The answer is yes if every rollout that was asked about completes.
pub fn run(console: &mut Console, global: &Global, arguments: &Rehearse) -> Outcome {
    let config = files::load(console, global, &arguments.config)?.config;
    let assumed = assumptions(arguments, &config).map_err(Stop::Usage)?;
    let wanted = wanted(arguments, &config).map_err(Stop::Usage)?;
    let mut story = rehearse(&config, &assumed);
    let is_wanted = |name: &str| wanted.iter().any(|wanted| **wanted == *name);
    story.rollouts.retain(|rollout| is_wanted(&rollout.name));
    story.happenings.retain(|happening| is_wanted(&happening.rollout));
    let file = arguments.config.display().to_string();
    match global.output {
        Output::Json => console.line(&form(&story, &assumed, &file).to_string())?,
        Output::Text => {
            let text = head(&config, &assumed, &file, &story) + &text(&story, console.paint(global));
            console.out.write_all(text.as_bytes())?;
        }
    }
    if story.completes() { Ok(()) } else { Err(Stop::No) }
}

/// The rollouts whose story is told.
fn wanted(arguments: &Rehearse, config: &Config) -> Result<Vec<Arc<str>>, String> {
    let staged = config.rollouts.iter().map(|rollout| &rollout.plan).filter(|plan| plan.is_staged());
    let staged: Vec<Arc<str>> = staged.map(|plan| Arc::clone(&plan.name)).collect();
    if staged.is_empty() {
        return Err(format!("{}: no rollout has stages: there is nothing to rehearse", arguments.config.display()));
    }
    match &arguments.rollout {
        None => Ok(config.rollouts.iter().map(|rollout| Arc::clone(&rollout.plan.name)).collect()),
        Some(name) if staged.iter().any(|staged| **staged == **name) => Ok(vec![name.as_str().into()]),
        Some(name) => Err(format!("no rollout with stages is called `{name}`; there are {}", staged.join(", "))),
    }
}

fn assumptions(arguments: &Rehearse, config: &Config) -> Result<Assumptions, String> {
    let mut list: Vec<Assumption> = Vec::new();
    let said = [
        ("--assume", None, &arguments.assume),
        ("--stable", Some(Arm::Stable), &arguments.stable),
        ("--canary", Some(Arm::Canary), &arguments.canary),
    ];
    for (option, arm, texts) in said {
        for text in texts {
            list.extend(read(text, arm, config).map_err(|wrong| format!("{option} {wrong}"))?);
        }
    }
    let mut cohorts = BTreeMap::new();
    let known: Vec<&str> =
        config.rollouts.iter().flat_map(|rollout| &rollout.cohorts).map(|cohort| &*cohort.name).collect();
    for (name, share) in &arguments.cohort {
        if !known.contains(&name.as_str()) {
            return Err(format!("--cohort {name}: no cohort is called so; there are {}", known.join(", ")));
        }
        cohorts.insert(name.as_str().into(), f64::from(share.ppm()) / 1e6);
    }
    let approve_after = match arguments.approve_after {
        None => Some(Duration::ZERO),
        Some(Patience::After(span)) => Some(span),
        Some(Patience::Never) => None,
    };
    let (rps, users, seed) = (arguments.rps, arguments.users, arguments.seed);
    Ok(Assumptions { rps, users, seed, approve_after, cohorts, list })
}

/// What is assumed, said or not, in some lines.
fn head(config: &Config, assumed: &Assumptions, file: &str, story: &Story) -> String {
    let users = render::count(assumed.users);
    let mut text =
        format!("{file}, rehearsed with {} requests/s of {users} users (seed {})\n", assumed.rps, assumed.seed);
    text.push_str(match assumed.rps > 0.0 {
        true => "both arms answer at p50 5 ms, p95 10 ms, p99 12 ms and without errors unless it is said otherwise\n",
        false => "there is no traffic: gates on requests wait, and triggers on them stay quiet\n",
    });
    let cohorts = config.rollouts.iter().flat_map(|rollout| &rollout.cohorts).filter(|cohort| cohort.enabled);
    let shares: BTreeMap<&str, f64> = cohorts.map(|cohort| (&*cohort.name, members(cohort, assumed))).collect();
    if !shares.is_empty() {
        let one = |(name, share): (&&str, &f64)| format!("{} {}", render::clean(name), render::rate(Some(*share)));
        let list: Vec<String> = shares.iter().map(one).collect();
        text.push_str(&format!("users in cohorts: {} (--cohort NAME=SHARE)\n", list.join(", ")));
    }
    if !story.usual.is_empty() {
        text.push_str(
            "queries say what their gates ask for unless it is said otherwise (--assume query.NAME=VALUE):\n",
        );
        story.usual.iter().for_each(|usual| text.push_str(&format!("  {}\n", render::clean(&assumption(usual)))));
    }
    for name in &story.switched_on {
        let name = render::clean(name);
        text.push_str(&format!(
            "{name} is switched off in the config (`enabled = false`) and rehearsed as if it were on; to serve it: {}=true\n",
            config::variable(&format!("rollouts.{name}.enabled"))
        ));
    }
    text.push('\n');
    text
}

/// A value that was chosen, as it would be assumed.
fn assumption(usual: &Usual) -> String {
    let from = usual.from.as_ref().map_or(String::new(), |(rollout, stage)| format!("@{rollout}:{stage}.."));
    format!("query.{}={}{from}", usual.query, written(usual.value, usual.dimension))
}

/// The timeline, and how each rollout ends.
fn text(story: &Story, paint: Paint) -> String {
    let named = story.rollouts.len() > 1;
    let width = story.happenings.iter().map(|happening| when(happening.at).len()).max().unwrap_or(0).max(9);
    let names = story.happenings.iter().map(|happening| happening.rollout.len()).max().unwrap_or(0);
    let mut text = String::new();
    for happening in &story.happenings {
        let name = if named { format!("{:names$}  ", render::clean(&happening.rollout)) } else { String::new() };
        let (tone, what) = what(happening, story);
        text.push_str(&format!(
            "{:width$}  {}{}\n",
            when(happening.at),
            paint.tone(Tone::Bold, &name),
            paint.tone(tone, &what)
        ));
        let indent = " ".repeat(width + 2 + name.len() + 2);
        for line in why(happening, story) {
            text.push_str(&format!("{indent}{}\n", paint.tone(Tone::Dim, &render::clean(&line))));
        }
    }
    text.push('\n');
    for rollout in &story.rollouts {
        text.push_str(&ending(rollout, paint));
    }
    text
}

fn what(happening: &Happening, story: &Story) -> (Tone, String) {
    let stage = happening.stage.as_deref().unwrap_or("none");
    let place = passage(happening, story).map(|(of, passage)| format!(" ({} of {})", passage.index + 1, of.stages));
    let stage = format!("stage {}{}", render::clean(stage), place.unwrap_or_default());
    let weight = exposed(happening);
    match happening.kind {
        Kind::Stage => (Tone::Plain, format!("{stage} begins at {weight}")),
        Kind::Complete => (Tone::Green, format!("complete at {weight}")),
        Kind::Approval => (Tone::Yellow, format!("{stage} waits for approval")),
        Kind::Approve => (Tone::Plain, format!("{stage} is approved")),
        Kind::Rollback => (Tone::Red, format!("goes back to {weight}")),
        Kind::Trip => (Tone::Red, "the breaker trips: everything goes to stable".to_owned()),
        Kind::Recover => (Tone::Green, "the breaker closes: the split flows again".to_owned()),
        Kind::Pause => (Tone::Yellow, format!("pauses at {weight}")),
        Kind::Alert => (Tone::Yellow, "alert".to_owned()),
        Kind::Escalate => (Tone::Red, "escalates".to_owned()),
        Kind::Resume => (Tone::Plain, format!("{stage} goes on at {weight}")),
        other => (Tone::Plain, other.word().replace('_', " ")),
    }
}

/// The weight, and the users on the canary where those are others.
fn exposed(happening: &Happening) -> String {
    let weight = happening.weight;
    let by_weight = f64::from(weight.ppm()) / 1e6;
    let differs = (happening.share - by_weight).abs() > 0.0005 && happening.kind != Kind::Rollback;
    let users = if differs { format!(" ({} of users)", render::rate(Some(happening.share))) } else { String::new() };
    format!("{weight}{users}")
}

/// The reason, a line each; at the end of a stage the verdicts of its gates.
fn why(happening: &Happening, story: &Story) -> Vec<String> {
    let ended = story
        .rollouts
        .iter()
        .find(|rollout| rollout.name == happening.rollout)
        .and_then(|rollout| rollout.passages.iter().find(|passage| passage.ended == Some(happening.at)));
    let mut lines = Vec::new();
    match (happening.kind, ended) {
        (Kind::Stage | Kind::Complete, Some(passage)) => {
            let lasted = span_text(whole(happening.at.saturating_sub(passage.began)));
            lines.push(format!("stage {} lasted {lasted}", passage.stage));
            lines.extend(passage.gates.iter().map(|gate| format!("{}  {}", gate.verdict.word(), gate.reason)));
        }
        _ => lines.push(happening.reason.clone()),
    }
    if happening.again > 0 {
        lines.push(format!("and {} more", counted(happening.again, "time")));
    }
    let hurts = matches!(happening.kind, Kind::Rollback | Kind::Trip | Kind::Pause | Kind::Alert | Kind::Escalate);
    if hurts {
        let exposed = counted(happening.users_exposed, "user");
        let hurt = hurt(happening.failed, happening.users_hurt, &happening.signals);
        lines.push(format!("{hurt} by then, with {exposed} on the canary"));
    }
    lines.retain(|line| !line.is_empty());
    lines
}

fn ending(rollout: &RolloutStory, paint: Paint) -> String {
    let (tone, word) = match rollout.end {
        End::Completed => (Tone::Green, "completes"),
        End::RolledBack => (Tone::Red, "is rolled back"),
        End::Paused => (Tone::Yellow, "is paused"),
        End::Stuck => (Tone::Yellow, "is stuck"),
    };
    let stage = rollout.passages.last().filter(|_| rollout.end != End::Completed);
    let stage = stage.map_or(String::new(), |passage| format!(" in stage {}", render::clean(&passage.stage)));
    let after = match rollout.end {
        End::Stuck => format!(" from {} on", when(rollout.ended)),
        _ => format!(" at {}", when(rollout.ended)),
    };
    let mut text =
        format!("{} {}{stage}{after}\n", paint.tone(Tone::Bold, &render::clean(&rollout.name)), paint.tone(tone, word));
    if let Some(reason) = &rollout.reason {
        text.push_str(&format!("  {}\n", render::clean(reason)));
    }
    for hint in &rollout.hints {
        text.push_str(&format!("  it would pass with {}\n", render::clean(hint)));
    }
    let answered = match rollout.answered {
        0 => String::new(),
        answered => format!(", {} of them answered by stable instead", render::count(answered)),
    };
    text.push_str(&format!(
        "  {} on the canary; {}{answered}\n",
        counted(rollout.requests, "request"),
        hurt(rollout.failed, rollout.users_hurt, &rollout.signals)
    ));
    text
}

fn hurt(failed: u64, users: u64, signals: &[Met]) -> String {
    let signals = signals.iter().map(|met| {
        let (requests, users) = (counted(met.requests, "request"), counted(met.users, "user"));
        format!("signal.{} had come with {requests} of {users}", render::clean(&met.signal))
    });
    let failed = match failed {
        0 => "none had failed".to_owned(),
        failed => format!("{} of {} had failed", counted(failed, "request"), counted(users, "user")),
    };
    [failed].into_iter().chain(signals).collect::<Vec<_>>().join(", ")
}

fn counted(count: u64, what: &str) -> String {
    format!("{} {what}{}", render::count(count), if count == 1 { "" } else { "s" })
}

/// The stay in a stage that a happening belongs to.
fn passage<'s>(happening: &Happening, story: &'s Story) -> Option<(&'s RolloutStory, &'s Passage)> {
    let rollout = story.rollouts.iter().find(|rollout| rollout.name == happening.rollout)?;
    let here = |passage: &&Passage| passage.began <= happening.at && Some(&passage.stage) == happening.stage.as_ref();
    rollout.passages.iter().rev().find(here).map(|passage| (rollout, passage))
}

/// A moment of the virtual clock: `+12s`, `+5m12s`, `+24h00m`, `+14d02h`.
fn when(at: Duration) -> String {
    let seconds = at.as_secs();
    let (days, hours, minutes, rest) = (seconds / 86_400, seconds / 3600, seconds / 60 % 60, seconds % 60);
    let tail = if rest > 0 { format!("{rest:02}s") } else { String::new() };
    match seconds {
        0..60 => format!("+{seconds}s"),
        60..3600 => format!("+{minutes}m{rest:02}s"),
        _ if hours < 96 => format!("+{hours}h{minutes:02}m{tail}"),
        _ if minutes == 0 && rest == 0 => format!("+{days}d{:02}h", hours % 24),
        _ => format!("+{days}d{:02}h{minutes:02}m{tail}", hours % 24),
    }
}

/// Without the fraction of a second that a look takes.
fn whole(span: Duration) -> Duration {
    Duration::from_secs(span.as_secs())
}

fn form(story: &Story, assumed: &Assumptions, file: &str) -> Value {
    let seconds = |at: Duration| (at.as_secs_f64() * 1000.0).round() / 1000.0;
    let gate = |gate: &Judged| {
        let Judged { when, verdict, value, limit, reason } = gate;
        json!({ "when": when, "verdict": verdict.word(), "value": value, "limit": limit, "reason": reason })
    };
    let met = |met: &Met| json!({ "signal": *met.signal, "requests": met.requests, "users": met.users });
    let passage = |passage: &Passage| {
        json!({
            "stage": *passage.stage,
            "index": passage.index,
            "weight_ppm": passage.weight.ppm(),
            "began_s": seconds(passage.began),
            "ended_s": passage.ended.map(seconds),
            "gates": passage.gates.iter().map(gate).collect::<Vec<_>>(),
        })
    };
    let rollout = |rollout: &RolloutStory| {
        json!({
            "name": *rollout.name,
            "outcome": rollout.end.word(),
            "at_s": seconds(rollout.ended),
            "reason": rollout.reason,
            "hints": rollout.hints,
            "stages": rollout.passages.iter().map(passage).collect::<Vec<_>>(),
            "canary": {
                "requests": rollout.requests,
                "failed": rollout.failed,
                "answered_by_stable": rollout.answered,
                "users_hurt": rollout.users_hurt,
                "signals": rollout.signals.iter().map(met).collect::<Vec<_>>(),
            },
        })
    };
    let happening = |happening: &Happening| {
        json!({
            "at_s": seconds(happening.at),
            "rollout": *happening.rollout,
            "kind": happening.kind.word(),
            "actor": happening.actor,
            "reason": happening.reason,
            "stage": happening.stage.as_deref(),
            "weight_ppm": happening.weight.ppm(),
            "share": happening.share,
            "failed": happening.failed,
            "users_hurt": happening.users_hurt,
            "users_exposed": happening.users_exposed,
            "signals": happening.signals.iter().map(met).collect::<Vec<_>>(),
            "again": happening.again,
        })
    };
    json!({
        "file": file,
        "rps": assumed.rps,
        "users": assumed.users,
        "seed": assumed.seed,
        "completes": story.completes(),
        "assumed_by_default": story.usual.iter().map(assumption).collect::<Vec<_>>(),
        "switched_on": story.switched_on.iter().map(|name| &**name).collect::<Vec<_>>(),
        "took_s": seconds(story.took),
        "looks": story.looks,
        "rollouts": story.rollouts.iter().map(rollout).collect::<Vec<_>>(),
        "events": story.happenings.iter().map(happening).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rehearsal::fixture::{CHAT, SERVICE};

    /// Runs the command on a config of two stages.
    fn rehearse(arguments: &str) -> (u8, String, String) {
        rehearse_of(STAGES, arguments)
    }

    fn rehearse_of(tables: &str, arguments: &str) -> (u8, String, String) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("weir.toml");
        std::fs::write(&file, format!("{SERVICE}{CHAT}{tables}")).unwrap();
        let line = format!("weir rehearse -c {} {arguments}", file.display());
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut console = Console {
            out: &mut out,
            err: &mut err,
            input: &mut "".as_bytes(),
            program: "weir",
            environment: &[],
            out_is_terminal: false,
            err_is_terminal: false,
            in_is_terminal: false,
        };
        let code = crate::cli::run(&mut console, line.split_whitespace().map(Into::into));
        let text = |bytes| String::from_utf8(bytes).unwrap().replace(&file.display().to_string(), "weir.toml");
        (code, text(out), text(err))
    }

    const STAGES: &str = r#"
[[rollouts.chat.stages]]
name = "ramp"
weight = "10%"
min_duration = "1h"
approval = true
[[rollouts.chat.stages]]
name = "full"
weight = "100%"
min_duration = "2h"
gates = ["share >= 40%"]
[[rollouts.chat.triggers]]
name = "slow"
when = "p95 > 200ms"
for = "5m"
action = "previous"
"#;

    #[test]
    fn the_happy_path_is_a_timeline_with_verdicts() {
        let expected = "\
weir.toml, rehearsed with 100 requests/s of 10,000 users (seed 1)
both arms answer at p50 5 ms, p95 10 ms, p99 12 ms and without errors unless it is said otherwise

+0s        stage ramp (1 of 2) begins at 10%
             the plan begins
+1h00m     stage ramp (1 of 2) waits for approval
             stage `ramp` has passed and waits for approval
+1h10m     stage ramp (1 of 2) is approved
+1h10m     stage full (2 of 2) begins at 100%
             stage ramp lasted 1h10m
+3h10m     complete at 100%
             stage full lasted 2h
             pass  share 100.0% >= 40.0% (720000 requests in the stage)

chat completes at +3h10m
";
        let (code, out, err) = rehearse("--approve-after 10m");
        assert_eq!((code, err.as_str()), (0, ""));
        assert_eq!(out.lines().count(), expected.lines().count() + 1, "{out}");
        for (line, wanted) in out.lines().zip(expected.lines()) {
            // How many requests came to the last stage is a matter of one.
            let plain = |line: &str| {
                line.split(" requests in the stage")
                    .next()
                    .map(|line| line.trim_end_matches(char::is_numeric).to_owned())
            };
            assert_eq!(plain(line), plain(wanted), "{out}");
        }
        let last = out.lines().last().unwrap();
        assert!(last.ends_with("requests on the canary; none had failed"), "{last}");
    }

    #[test]
    fn a_plan_that_does_not_complete_is_a_no_with_its_reason() {
        let (code, out, _) = rehearse("--canary p95=900ms@full+30m");
        assert_eq!(code, 1, "{out}");
        assert!(out.contains("goes back to 10%\n             trigger `slow`: p95 "), "{out}");
        assert!(out.contains("for 5m\n             none had failed by then, with 10,000 users on the canary"), "{out}");
        assert!(out.contains("chat is paused in stage ramp at +"), "a second time back is a pause\n{out}");
        let (code, out, _) = rehearse("--canary p95=900ms@full+30m -o json");
        let story: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, &story["completes"]), (1, &json!(false)));
        assert_eq!(story["rollouts"][0]["outcome"], "paused");
        assert_eq!(story["rollouts"][0]["stages"][0]["stage"], "ramp");
    }

    #[test]
    fn what_is_taken_without_being_said_is_printed_as_it_would_be_said() {
        let tables = "enabled = false\n[queries.usage]\nurl = \"http://127.0.0.1:9\"\nexpr = \"up\"\n";
        let gate = "gates = [\"share >= 40%\", \"query.usage >= 40%\"]";
        let stages = STAGES.replace("gates = [\"share >= 40%\"]", gate);
        let (code, out, err) = rehearse_of(&format!("{tables}{stages}"), "");
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        let told = "queries say what their gates ask for unless it is said otherwise (--assume query.NAME=VALUE):\n  query.usage=70%\n";
        assert!(out.contains(told), "{out}");
        assert!(
            out.contains("\nchat is switched off in the config (`enabled = false`) and rehearsed as if it were on; "),
            "{out}"
        );
        assert!(out.contains(" to serve it: WEIR__ROLLOUTS__CHAT__ENABLED=true\n"), "{out}");
        let (_, out, _) = rehearse_of(&format!("{tables}{stages}"), "--assume query.usage=none -o json");
        let story: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((&story["assumed_by_default"], &story["switched_on"]), (&json!([]), &json!(["chat"])));
        assert_eq!(story["rollouts"][0]["hints"], json!(["--assume query.usage=70%@chat:full"]));
        let (code, out, _) = rehearse_of(&format!("{tables}{stages}"), "--assume query.usage=30%");
        let told = "  stage `full` never passes: fail: query.usage 30.0% < 40.0%\n  it would pass with --assume query.usage=70%@chat:full\n";
        assert!(code == 1 && out.contains(told), "{out}");
    }

    #[test]
    fn who_does_not_come_is_what_a_plan_waits_for() {
        let (code, out, _) = rehearse("--approve-after never");
        assert!(code == 1 && out.contains("chat is stuck in stage ramp from +1h00m on"), "{out}");
        assert!(out.contains("waits for an approval that does not come (--approve-after never)"), "{out}");
        let (code, out, _) = rehearse("--rps 0");
        assert!(code == 1 && out.contains("there is no traffic: gates on requests wait"), "{out}");
        assert!(out.contains("there is no traffic (--rps 0); stage `full` never passes: wait: share"), "{out}");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_option() {
        for (arguments, wanted) in [
            ("--canary errors=2%@fill", "error: --canary `@fill`: no stage `fill`; there are ramp, full"),
            ("--stable rps=2", "error: --stable `rps` follows from what else is assumed"),
            ("--rollout chet", "error: no rollout with stages is called `chet`; there are chat"),
            ("--cohort beta=5%", "error: --cohort beta: no cohort is called so"),
        ] {
            let (code, out, err) = rehearse(arguments);
            assert_eq!((code, out.as_str()), (2, ""), "{arguments}");
            assert!(err.contains(wanted), "{arguments}: {err}");
        }
    }

    #[test]
    fn moments_are_told_in_the_units_of_their_size() {
        let at = |seconds| when(Duration::from_secs(seconds));
        assert_eq!([at(0), at(59), at(60), at(312)], ["+0s", "+59s", "+1m00s", "+5m12s"]);
        assert_eq!([at(3600), at(86_400), at(86_400 + 312)], ["+1h00m", "+24h00m", "+24h05m12s"]);
        assert_eq!([at(14 * 86_400 + 7200), at(4 * 86_400 + 61)], ["+14d02h", "+4d00h01m01s"]);
    }
}
