//! What came back, as a table or as JSON.

use crate::Failure;
use crate::dial::Why;
use crate::pace::Late;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use weir::admin::view::Diff;

/// What came of all requests.
#[derive(Default)]
pub struct Report {
    /// By service: that of `--target`, then that of `--against`.
    pub targets: Vec<(String, Outcomes)>,
    /// How far behind requests were told.
    pub late: Late,
    /// Requests of the file that were not sent, by reason.
    pub left_out: BTreeMap<&'static str, u64>,
    /// What the comparison of two services came to.
    pub diff: Option<Diff>,
    /// From the first request to the last answer.
    pub seconds: f64,
}

/// What came of the requests to one service.
#[derive(Default)]
pub struct Outcomes {
    arms: BTreeMap<String, Arm>,
}

#[derive(Default)]
struct Arm {
    /// By class: 1xx to 5xx, then no answer.
    classes: [u64; 6],
    /// By reason: how often, and what was said the first time.
    failed: BTreeMap<&'static str, (u64, String)>,
    us: Vec<u32>,
}

impl Outcomes {
    /// An answer of that arm.
    pub fn answered(&mut self, arm: &str, status: u16, us: u32) {
        let arm = self.arm(arm);
        if let Some(count) = arm.classes.get_mut(usize::from(status / 100).saturating_sub(1).min(4)) {
            *count += 1;
        }
        arm.us.push(us);
    }

    /// No answer. It took that long all the same, and counts so: who waits for nothing has the worst latency.
    pub fn failed(&mut self, why: &Why, us: u32) {
        let arm = self.arm("");
        arm.classes[5] += 1;
        arm.failed.entry(why.word).or_insert_with(|| (0, why.said.clone())).0 += 1;
        arm.us.push(us);
    }

    fn arm(&mut self, name: &str) -> &mut Arm {
        let name = if self.arms.contains_key(name) || self.arms.len() < ARMS_MAX { name } else { "(others)" };
        self.arms.entry(name.to_owned()).or_default()
    }

    /// Every arm by its name, then all of them if there are several.
    fn rows(&self) -> Vec<(String, Arm)> {
        let named = |name: &String| if name.is_empty() { "-".to_owned() } else { name.clone() };
        let mut rows: Vec<(String, Arm)> = self.arms.iter().map(|(name, arm)| (named(name), arm.sorted())).collect();
        if rows.len() > 1 {
            let mut all = Arm::default();
            for (_, arm) in &rows {
                all.add(arm);
            }
            all.us.sort_unstable();
            rows.push(("all".to_owned(), all));
        }
        rows
    }
}

impl Arm {
    fn sorted(&self) -> Arm {
        let mut us = self.us.clone();
        us.sort_unstable();
        Arm { classes: self.classes, failed: self.failed.clone(), us }
    }

    fn add(&mut self, other: &Arm) {
        self.classes.iter_mut().zip(other.classes).for_each(|(own, other)| *own += other);
        for (why, (count, said)) in &other.failed {
            self.failed.entry(why).or_insert_with(|| (0, said.clone())).0 += count;
        }
        self.us.extend(&other.us);
    }

    fn ms(&self, share: f64) -> f64 {
        quantile(&self.us, share) / 1000.0
    }
}

impl Report {
    /// Whether every request was sent and answered, and two services answer the same.
    pub fn is_good(&self) -> bool {
        let answered =
            self.targets.iter().flat_map(|(_, outcomes)| outcomes.arms.values()).all(|arm| arm.classes[5] == 0);
        answered && self.late.lost == 0 && self.diff.as_ref().is_none_or(|diff| diff.verdict == "pass")
    }

    /// As one JSON object.
    pub fn json(&self) -> Result<String, Failure> {
        let arm = |(name, arm): &(String, Arm)| {
            let counts: BTreeMap<_, _> = arm.failed.iter().map(|(why, (count, _))| (why, count)).collect();
            let said: BTreeMap<_, _> = arm.failed.iter().map(|(why, (_, said))| (why, said)).collect();
            let mut value = json!({"arm": name, "requests": arm.us.len(), "no_answer": counts, "no_answer_said": said});
            for (class, count) in CLASSES.iter().zip(arm.classes) {
                value[*class] = json!(count);
            }
            for (quantile, share) in QUANTILES {
                value[format!("{quantile}_ms")] = json!(arm.ms(share));
            }
            value
        };
        let target = |(name, outcomes): &(String, Outcomes)| json!({"target": name, "arms": outcomes.rows().iter().map(arm).collect::<Vec<Value>>()});
        let value = json!({
            "seconds": self.seconds,
            "targets": self.targets.iter().map(target).collect::<Vec<Value>>(),
            "left_out": self.left_out,
            "not_sent": self.late.lost,
            "told_late_us": {"p50": quantile(&self.late.us, 0.5), "p99": quantile(&self.late.us, 0.99)},
            "diff": self.diff,
        });
        Ok(format!("{}\n", serde_json::to_string_pretty(&value)?))
    }

    /// As tables.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (name, outcomes) in &self.targets {
            let _ = writeln!(text, "{name}, {:.1} s", self.seconds);
            let _ = write!(text, "  {:<24} {:>9}", "arm", "requests");
            CLASSES.iter().skip(1).for_each(|class| {
                let _ = write!(text, " {class:>8}");
            });
            QUANTILES.iter().for_each(|(quantile, _)| {
                let _ = write!(text, " {:>9}", format!("{quantile} ms"));
            });
            text.push('\n');
            for (name, arm) in outcomes.rows() {
                let _ = write!(text, "  {name:<24} {:>9}", arm.us.len());
                arm.classes.iter().skip(1).for_each(|count| {
                    let _ = write!(text, " {count:>8}");
                });
                QUANTILES.iter().for_each(|(_, share)| {
                    let _ = write!(text, " {:>9.3}", arm.ms(*share));
                });
                text.push('\n');
                for (why, (count, said)) in &arm.failed {
                    let _ = writeln!(text, "    no answer: {why} {count}, the first: {said}");
                }
            }
        }
        for (why, count) in &self.left_out {
            let _ = writeln!(text, "left out: {why} {count}");
        }
        if self.late.lost > 0 {
            let _ = writeln!(text, "not sent, because too many waited: {}", self.late.lost);
        }
        let late = [0.5, 0.99].map(|share| quantile(&self.late.us, share));
        let _ = writeln!(
            text,
            "every latency includes how late a request was told: p50 {} us, p99 {} us",
            late[0], late[1]
        );
        if let Some(diff) = &self.diff {
            compared(&mut text, diff);
        }
        text
    }
}

fn compared(text: &mut String, diff: &Diff) {
    let _ = writeln!(text, "\n{}: {}", diff.verdict.replace('_', " "), diff.reason);
    let _ = writeln!(text, "  {} pairs, {} noise samples", diff.samples_kept, diff.noise_samples);
    for field in diff.fields.iter().take(FIELDS_SHOWN) {
        let _ =
            write!(text, "  {:<32} {:<8} {:<6} {:>6} differ", field.path, field.class, field.verdict, field.samples);
        if let Some(outlier) = &field.outlier {
            let _ = write!(text, "   {} -> {}", outlier.stable, outlier.canary);
        }
        text.push('\n');
    }
    if diff.fields_in_all > FIELDS_SHOWN {
        let _ = writeln!(text, "  and {} more fields; -o json has them", diff.fields_in_all - FIELDS_SHOWN);
    }
}

/// Of sorted values the one below which that share of them is.
fn quantile(sorted: &[u32], share: f64) -> f64 {
    let place = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(place).copied().map_or(0.0, f64::from)
}

const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "failed"];
const QUANTILES: [(&str, f64); 5] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)];
/// Arms that are told apart.
const ARMS_MAX: usize = 64;
const FIELDS_SHOWN: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_seen_and_arms_add_up() {
        assert_eq!([0.0, 0.5, 0.51, 1.0].map(|share| quantile(&[1, 2, 3, 4], share)), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(quantile(&[], 0.5), 0.0);
        let mut outcomes = Outcomes::default();
        outcomes.answered("chat=stable", 200, 10);
        outcomes.answered("chat=canary", 503, 30);
        let why = |said: &str| Why { word: "timeout", said: said.to_owned(), is_undone: false };
        outcomes.failed(&why("deadline has elapsed"), 50);
        outcomes.failed(&why("again"), 50);
        let rows: Vec<(String, usize, [u64; 6])> =
            outcomes.rows().into_iter().map(|(name, arm)| (name, arm.us.len(), arm.classes)).collect();
        assert_eq!(rows[0], ("-".into(), 2, [0, 0, 0, 0, 0, 2]));
        assert_eq!(rows[3], ("all".into(), 4, [0, 1, 0, 0, 1, 2]));
        let report = Report { targets: vec![("http://a".into(), outcomes)], ..Report::default() };
        assert!(!report.is_good(), "two had no answer");
        assert!(report.text().contains("no answer: timeout 2, the first: deadline has elapsed"), "{}", report.text());
    }
}
