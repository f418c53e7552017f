//! `weir diff`: waits until enough answers were compared, and says whether they are the same.

use super::args::{Diff, Global};
use super::client::{Answer, Client, encode};
use super::console::Console;
use super::contact::Contact;
use super::render::{self, Paint, Table, Tone};
use super::stop::{Outcome, Stop};
use crate::admin::view;
use crate::clock::Clock;
use crate::rollout::diff::verdict::percent;
use std::time::Duration;

/// Asks until there are enough samples or the time is over, and prints.
pub fn run(console: &mut Console, global: &Global, arguments: &Diff) -> Outcome {
    let (client, paint) = (console.client(global)?, console.paint(global));
    let (clock, mut told) = (Clock::system(), false);
    let mut next_told = clock.now();
    // A restart begins the samples anew, and is no reason to stop waiting for them.
    let mut contact = Contact::new(clock.clone(), GRACE);
    let (answer, diff) = loop {
        let Some((answer, diff)) = contact.with(console, || ask(&client, arguments))? else {
            client.pause(ASK_EVERY);
            continue;
        };
        let left = arguments.timeout.saturating_sub(clock.now().since(crate::clock::Time::default()));
        if diff.samples >= arguments.samples || left.is_zero() {
            break (answer, diff);
        }
        if console.err_is_terminal {
            let bar = bar(diff.samples, arguments.samples, PROGRESS_WIDTH);
            write!(console.err, "\r{bar} {} of {} samples ", diff.samples, arguments.samples)?;
            console.err.flush()?;
            told = true;
        } else if clock.now() >= next_told {
            writeln!(console.err, "{} of {} samples, waiting for more", diff.samples, arguments.samples)?;
            next_told = clock.now() + TELL_EVERY;
        }
        client.pause(ASK_EVERY.min(left));
    };
    if told {
        // Clears the line of the progress.
        write!(console.err, "\r\x1b[K")?;
    }
    console.print(global, &answer.text, || Ok(text(&diff, paint)))?;
    if diff.verdict == "pass" { Ok(()) } else { Err(Stop::No) }
}

fn ask(client: &Client, arguments: &Diff) -> Result<(Answer, view::Diff), Stop> {
    let mut path = format!("/api/v1/rollouts/{}/diff?samples={}", encode(&arguments.rollout), arguments.samples);
    if let Some(tolerance) = arguments.tolerance {
        path.push_str(&format!("&tolerance={tolerance}"));
    }
    let answer = client.ask(&path)?;
    let form = answer.form()?;
    Ok((answer, form))
}

/// The verdict, then how large the differences are, where, and what they look like.
fn text(diff: &view::Diff, paint: Paint) -> String {
    let (tone, words) = match diff.verdict.as_str() {
        "pass" => (Tone::Green, "pass"),
        "fail" => (Tone::Red, "fail"),
        _ => (Tone::Yellow, "not enough data"),
    };
    let name = render::clean(&diff.rollout);
    let mut text = format!("{name}: {}: {}\n", paint.tone(tone, words), render::clean(&diff.reason));
    text.push_str(&format!(
        "  {} noise samples, tolerance {}, limit {}\n",
        diff.noise_samples,
        diff.tolerance,
        percent(diff.max_diff_rate)
    ));
    if diff.samples == 0 {
        text.push_str(&format!(
            "  nothing was compared in this stage yet: `weir status {name}` says what is mirrored\n"
        ));
    }
    text.push_str(&histogram(diff, paint));
    text.push_str(&fields(diff, paint));
    text.push_str(&outliers(diff, paint));
    text
}

fn histogram(diff: &view::Diff, paint: Paint) -> String {
    let most = diff.histogram.iter().map(|size| size.count).chain([diff.without_size]).max().unwrap_or(0);
    if most == 0 {
        return String::new();
    }
    let mut table = Table::new("<><");
    table.head(["difference", "count", ""]);
    let mut row = |name: String, count: u64, tolerated: bool| {
        let tone = if tolerated { Tone::Dim } else { Tone::Plain };
        table.tones([(tone, name), (tone, count.to_string()), (tone, bar(count, most, BAR_WIDTH))]);
    };
    let used = |size: &&view::Size| size.count > 0;
    let first = diff.histogram.iter().position(|size| used(&size)).unwrap_or(0);
    let last = diff.histogram.iter().rposition(|size| used(&size)).map_or(0, |last| last + 1);
    for size in diff.histogram.get(first..last).unwrap_or_default() {
        row(format!("<= {}%", (size.up_to * 1e6).round() / 1e4), size.count, size.up_to <= diff.tolerance);
    }
    if diff.without_size > 0 {
        row("not a number".to_owned(), diff.without_size, false);
    }
    format!("\n{}", table.print(paint))
}

fn fields(diff: &view::Diff, paint: Paint) -> String {
    if diff.fields.is_empty() {
        return String::new();
    }
    let mut table = Table::new("<<>>>>");
    table.head(["field", "class", "samples", "differ", "noise", "left"]);
    for field in diff.fields.iter().take(FIELDS_SHOWN) {
        let tone = match field.verdict.as_str() {
            "noise" => Tone::Dim,
            "fail" => Tone::Red,
            _ => Tone::Plain,
        };
        let noise = field.noise_rate.map_or_else(|| "-".to_owned(), percent);
        let left = if field.verdict == "noise" { "noise".to_owned() } else { percent(field.rate_without_noise) };
        let cells = [&field.path, &field.class, &field.samples.to_string(), &percent(field.rate), &noise, &left];
        table.tones(cells.map(|cell| (tone, cell.clone())));
    }
    let more = diff.fields_in_all.saturating_sub(FIELDS_SHOWN.min(diff.fields.len()));
    let rest = if more > 0 { format!("and {more} more fields\n") } else { String::new() };
    format!("\n{}{rest}", table.print(paint))
}

fn outliers(diff: &view::Diff, paint: Paint) -> String {
    let told = diff.fields.iter().filter(|field| field.verdict != "noise").filter_map(|field| field.outlier.as_ref());
    let mut table = Table::new("<<<>");
    table.head(["outlier", "stable", "canary", "size"]);
    let mut any = false;
    for outlier in told.take(OUTLIERS_SHOWN) {
        any = true;
        let size = outlier.size.map_or_else(|| outlier.class.clone(), percent);
        table.row([outlier.path.clone(), outlier.stable.clone(), outlier.canary.clone(), size]);
    }
    if any { format!("\n{}", table.print(paint)) } else { String::new() }
}

fn bar(part: u64, whole: u64, width: u64) -> String {
    let filled = part.min(whole).saturating_mul(width).checked_div(whole).unwrap_or(0).max(u64::from(part > 0));
    "#".repeat(usize::try_from(filled).unwrap_or(0))
}

/// How long weir may be out of reach: long enough for a restart.
const GRACE: Duration = Duration::from_secs(10);
/// Between two questions.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// Between two lines of progress where no terminal shows it in place.
const TELL_EVERY: Duration = Duration::from_secs(30);
const PROGRESS_WIDTH: u64 = 30;
const BAR_WIDTH: u64 = 40;
const FIELDS_SHOWN: usize = 15;
const OUTLIERS_SHOWN: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_a_sentence_with_sizes_fields_and_outliers() {
        let field = |path: &str, class: &str, verdict: &str, size: Option<f64>| view::Field {
            path: path.to_owned(),
            class: class.to_owned(),
            verdict: verdict.to_owned(),
            samples: 30,
            rate: 0.03,
            noise_rate: Some(if verdict == "noise" { 1.0 } else { 0.0 }),
            rate_without_noise: 0.03,
            outlier: Some(view::Difference {
                path: path.replace('*', "7"),
                class: class.to_owned(),
                stable: "100".to_owned(),
                canary: "94\u{1b}[2J".to_owned(),
                size,
            }),
        };
        let diff = view::Diff {
            rollout: "chat".to_owned(),
            verdict: "fail".to_owned(),
            reason: "30 of 1000 samples differ".to_owned(),
            samples: 1000,
            noise_samples: 50,
            tolerance: 0.005,
            max_diff_rate: 0.005,
            histogram: vec![
                view::Size { up_to: 1e-3, count: 0 },
                view::Size { up_to: 5e-3, count: 10 },
                view::Size { up_to: 0.1, count: 20 },
                view::Size { up_to: 1.0, count: 0 },
            ],
            without_size: 5,
            fields_in_all: 3,
            fields: vec![field("/items/*/price", "number", "fail", Some(0.06)), field("/id", "value", "noise", None)],
            ..view::Diff::default()
        };
        let shown = text(&diff, Paint::default());
        let expected = "\
chat: fail: 30 of 1000 samples differ
  50 noise samples, tolerance 0.005, limit 0.50%

difference    count
<= 0.5%          10  ####################
<= 10%           20  ########################################
not a number      5  ##########

field           class   samples  differ  noise   left
/items/*/price  number       30   3.00%     0%  3.00%
/id             value        30   3.00%   100%  noise
and 1 more fields

outlier         stable  canary   size
/items/7/price  100     94\u{fffd}[2J  6.00%
";
        let plain: String = shown.lines().map(|line| format!("{}\n", line.trim_end())).collect();
        assert_eq!(plain, expected);
        assert!(!shown.contains('\u{1b}'), "what answers hold moves no cursor");
    }
}
