//! `weir explain`: which arm a unit gets and why, from a running weir or from a file alone. Both ask `decide`.

use super::args::{Explain, Global};
use super::client::encode;
use super::console::Console;
use super::files;
use super::render::{self, Paint, Tone};
use super::stop::{Outcome, Stop};
use crate::admin::question::{Forcing, Question};
use crate::admin::view::Explanation;
use crate::clock::Clock;
use crate::config::{self, Live};

/// Asks and prints.
pub fn run(console: &mut Console, global: &Global, arguments: &Explain) -> Outcome {
    let paint = console.paint(global);
    let (body, explanation) = match &arguments.config {
        None => ask(console, global, arguments)?,
        Some(_) => {
            let explanation = from_file(console, global, arguments)?;
            (serde_json::to_string(&explanation).map_err(std::io::Error::from)?, explanation)
        }
    };
    console.print(global, &body, || Ok(text(&explanation, paint)))
}

fn ask(console: &Console, global: &Global, arguments: &Explain) -> Result<(String, Explanation), Stop> {
    let mut path = format!("/api/v1/rollouts/{}/explain?", encode(&arguments.rollout));
    if let Some(unit) = &arguments.unit {
        path.push_str(&format!("unit={}&", encode(unit)));
    }
    for (kind, pairs) in [("header", &arguments.header), ("cookie", &arguments.cookie)] {
        for (name, value) in pairs {
            path.push_str(&format!("{kind}={}:{}&", encode(name), encode(value)));
        }
    }
    let answer = console.client(global)?.ask(path.trim_end_matches(['&', '?']))?;
    let form = answer.form()?;
    Ok((answer.text, form))
}

fn from_file(console: &mut Console, global: &Global, arguments: &Explain) -> Result<Explanation, Stop> {
    let path = arguments.config.as_deref().unwrap_or(std::path::Path::new(""));
    let config = files::load(console, global, path)?.config;
    let splits = config::splits(&config, &Live::default());
    let Some(index) = splits.iter().position(|split| *split.name == *arguments.rollout) else {
        let known: Vec<&str> = splits.iter().map(|split| &*split.name).collect();
        return Err(files::unknown_rollout(&arguments.rollout, &known));
    };
    let question =
        Question { unit: arguments.unit.clone(), headers: arguments.header.clone(), cookies: arguments.cookie.clone() };
    let sources = config.rollouts.iter().map(|rollout| rollout.units.as_slice());
    let forcing = Forcing {
        rollouts: &files::rollout_names(&config),
        secret: config.force.secret.as_ref(),
        now: Clock::system().wall(),
    };
    let asker = question.asker(&forcing, sources, files::switches(&config));
    Explanation::of(&splits, index, &asker, 0).ok_or(Stop::No)
}

/// A sentence, then the facts it stands on.
fn text(explanation: &Explanation, paint: Paint) -> String {
    let who = match &explanation.unit {
        Some(unit) => format!("unit {}", render::clean(unit)),
        None => "a request without a unit".to_owned(),
    };
    let tone = if explanation.arm == "canary" { Tone::Green } else { Tone::Bold };
    let arm = paint.tone(tone, &explanation.arm);
    let mut text = format!("{}: {who} gets {arm}, {}\n", render::clean(&explanation.rollout), because(explanation));
    let mut fact = |name: &str, value: String| text.push_str(&format!("  {name:<8} {value}\n"));
    fact("reason", render::clean(&explanation.reason));
    if let Some(bucket) = explanation.bucket_ppm {
        fact("bucket", format!("{bucket} of 1000000 ({})", render::share(bucket)));
    }
    fact("weight", render::share(explanation.weight_ppm));
    if !matches!(explanation.breaker.as_str(), "" | "closed") {
        fact("breaker", render::clean(&explanation.breaker.replace('_', "-")));
    }
    if !explanation.cohorts.is_empty() {
        fact("cohorts", render::clean(&explanation.cohorts.join(", ")));
    }
    if let Some(required) = &explanation.requires {
        fact("requires", render::clean(&format!("{}, where it gets {}", required.rollout, required.arm)));
    }
    text
}

fn because(explanation: &Explanation) -> String {
    match explanation.reason.as_str() {
        "unmatched" => "because no rollout applies".to_owned(),
        "kill" => "because the rollout is killed".to_owned(),
        "forced" => "because a token or a trusted peer says so".to_owned(),
        "rolled_back" => "because the rollout is rolled back".to_owned(),
        "pending" => "because the rollout has not started".to_owned(),
        "breaker" if explanation.breaker == "half_open" => {
            "because the breaker is half-open, and it is not one of the few that probe".to_owned()
        }
        "breaker" => "because the breaker is open".to_owned(),
        "probe" => "because it is one of the few that probe while the breaker is half-open".to_owned(),
        "requires" => "because it is not on the canary of the rollout that this one requires".to_owned(),
        "excluded" => "because a cohort keeps it off the canary".to_owned(),
        "no_unit" => "because without a unit there is no bucket".to_owned(),
        "bucket" if explanation.arm == "canary" => "because its bucket is below the weight".to_owned(),
        "bucket" => "because its bucket is not below the weight".to_owned(),
        reason => match reason.strip_prefix("cohort:") {
            Some(cohort) => format!("because cohort {} admits it", render::clean(cohort)),
            None => format!("because of {}", render::clean(reason)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::view::Requirement;

    #[test]
    fn an_explanation_is_a_sentence_and_its_facts() {
        let explanation = Explanation {
            rollout: "chat".to_owned(),
            unit: Some("alice".to_owned()),
            bucket_ppm: Some(123_456),
            arm: "canary".to_owned(),
            reason: "cohort:internal".to_owned(),
            weight_ppm: 100_000,
            killed: false,
            breaker: "half_open".to_owned(),
            cohorts: vec!["internal".to_owned(), "beta".to_owned()],
            requires: Some(Requirement { rollout: "objects".to_owned(), arm: "canary".to_owned() }),
            generation: 3,
        };
        let expected = "\
chat: unit alice gets canary, because cohort internal admits it
  reason   cohort:internal
  bucket   123456 of 1000000 (12.3456%)
  weight   10%
  breaker  half-open
  cohorts  internal, beta
  requires objects, where it gets canary
";
        assert_eq!(text(&explanation, Paint::default()), expected);
    }
}
