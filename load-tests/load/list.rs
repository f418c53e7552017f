//! The requests: made up, or read from a file.

use crate::{Failure, Options};
use http::Method;
use http::uri::PathAndQuery;
use std::collections::BTreeMap;
use std::io::Read;
use std::time::{Duration, SystemTime};

/// A request that is to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// When, from the start.
    pub due: Duration,
    /// Its method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Who asks.
    pub unit: Option<String>,
}

/// What is sent, and what of a file is not.
#[derive(Debug, Default)]
pub struct List {
    /// In the order of their times.
    pub asked: Vec<Asked>,
    /// Why, and how many.
    pub left_out: BTreeMap<&'static str, u64>,
}

/// A line of a file.
struct Line {
    time: Option<SystemTime>,
    method: String,
    target: String,
    unit: Option<String>,
}

/// The requests that the options ask for.
pub fn requests(options: &Options) -> Result<List, Failure> {
    if options.rate.is_some_and(|rate| !(rate.is_finite() && rate > 0.0))
        || options.speed.is_nan()
        || options.speed <= 0.0
    {
        return Err("--rate and --speed are above 0".into());
    }
    for method in &options.methods {
        method.parse::<Method>().map_err(|_| format!("--methods {method}: it is none"))?;
    }
    if options.requests.is_none()
        && let Some(path) = options.path.iter().find(|path| !is_target(path))
    {
        return Err(format!("--path {path}: write a path as it is asked for: /a?b=c").into());
    }
    let mut list = match &options.requests {
        None => made_up(options),
        Some(path) => {
            let mut text = String::new();
            if path.as_os_str() == "-" {
                std::io::stdin().read_to_string(&mut text)?;
            } else {
                text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
            }
            read(&text, options)?
        }
    };
    for (number, asked) in list.asked.iter_mut().enumerate() {
        if let Some(rate) = options.rate {
            asked.due = Duration::from_secs_f64(number as f64 / rate);
        }
        if asked.unit.is_none() && options.users > 0 {
            asked.unit = Some(format!("user-{}", number as u64 % options.users));
        }
    }
    Ok(list)
}

fn made_up(options: &Options) -> List {
    let rate = options.rate.unwrap_or(RATE);
    let count = ((options.duration.as_secs_f64() * rate) as usize).min(options.limit);
    let targets = options.path.iter().cycle().take(count).enumerate();
    let asked = targets.map(|(number, target)| Asked {
        due: Duration::from_secs_f64(number as f64 / rate),
        method: options.methods.first().cloned().unwrap_or_else(|| "GET".to_owned()),
        target: target.clone(),
        unit: None,
    });
    List { asked: asked.collect(), left_out: BTreeMap::new() }
}

/// The requests of a file, in the order of their times if all of them have one.
pub fn read(text: &str, options: &Options) -> Result<List, Failure> {
    let mut list = List::default();
    let mut lines = Vec::new();
    let whole: Option<serde_json::Value> = serde_json::from_str(text).ok();
    let examples = whole.as_ref().and_then(|whole| whole.get("examples")).and_then(|examples| examples.as_array());
    if let Some(examples) = examples {
        lines.extend(examples.iter().rev().filter_map(logged));
    } else {
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            lines.push(one(line).ok_or_else(|| format!("line {}: it is no request: {line:.80}", number + 1))?);
        }
    }
    lines.retain(|line| {
        let why = match line {
            line if !options.methods.contains(&line.method) => "method",
            line if line.target.len() >= LOGGED_BYTES_MAX => "cut",
            line if !is_target(&line.target) => "target",
            _ => return true,
        };
        *list.left_out.entry(why).or_default() += 1;
        false
    });
    // A log is in the order in which requests ended.
    let timed = lines.iter().all(|line| line.time.is_some());
    if timed {
        lines.sort_by_key(|line| line.time);
    } else if options.rate.is_none() && !lines.is_empty() {
        return Err("the requests have no times of their own: say how many a second with --rate".into());
    }
    lines.truncate(options.limit);
    let first = lines.first().and_then(|line| line.time);
    list.asked = lines
        .into_iter()
        .map(|Line { time, method, target, unit }| {
            let since = time.zip(first).and_then(|(time, first)| time.duration_since(first).ok()).unwrap_or_default();
            Asked { due: since.div_f64(options.speed), method, target, unit }
        })
        .collect();
    Ok(list)
}

fn is_target(text: &str) -> bool {
    text.starts_with('/') && text.parse::<PathAndQuery>().is_ok()
}

fn one(line: &str) -> Option<Line> {
    if line.trim_start().starts_with('{') {
        return logged(&serde_json::from_str(line).ok()?);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target, unit) = (words.next()?, words.next()?, words.next());
    words.next().is_none().then_some(Line { time: None, method, target, unit })
}

/// A line of an access log, or an example of a comparison. Query and unit are in neither; whoever adds them gets them sent.
fn logged(value: &serde_json::Value) -> Option<Line> {
    let text = |key: &str| value.get(key).and_then(|text| text.as_str()).map(str::to_owned);
    let query = text("query").map(|query| format!("?{query}")).unwrap_or_default();
    Some(Line {
        time: text("ts").or_else(|| text("time")).and_then(|time| humantime::parse_rfc3339(&time).ok()),
        method: text("method")?,
        target: text("path")? + &query,
        unit: text("unit"),
    })
}

impl List {
    /// What was left out, as an end of a sentence.
    pub fn left_out_told(&self) -> String {
        let told: Vec<String> = self.left_out.iter().map(|(why, count)| format!("{why} {count}")).collect();
        if told.is_empty() { String::new() } else { format!("; left out: {}", told.join(", ")) }
    }
}

/// Requests a second where nobody says how many.
const RATE: f64 = 100.0;
/// A path of that length was cut by the access log.
const LOGGED_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn options(more: &[&str]) -> Options {
        let mut options = Options::parse_from(["load", "--target", "http://127.0.0.1:1"].iter().chain(more));
        options.methods = crate::methods(&options);
        options
    }

    fn told(list: &List) -> Vec<(u64, String)> {
        list.asked
            .iter()
            .map(|asked| (asked.due.as_millis() as u64, format!("{} {}", asked.method, asked.target)))
            .collect()
    }

    #[test]
    fn an_access_log_is_replayed_in_the_order_and_at_the_pace_of_arrivals() {
        let log = r#"
{"ts":"2026-01-01T00:00:01.500Z","method":"GET","path":"/b","status":200,"arm":"canary"}
{"ts":"2026-01-01T00:00:01.000Z","method":"GET","path":"/a","status":200}
{"ts":"2026-01-01T00:00:02.000Z","method":"POST","path":"/c"}
{"ts":"2026-01-01T00:00:03.000Z","method":"HEAD","path":"/d","query":"x=1","unit":"u"}"#;
        let list = read(log, &options(&["--speed", "2"])).unwrap();
        assert_eq!(told(&list), [(0, "GET /a".into()), (250, "GET /b".into()), (1000, "HEAD /d?x=1".into())]);
        assert_eq!(list.asked[2].unit.as_deref(), Some("u"));
        assert_eq!(list.left_out, BTreeMap::from([("method", 1)]));
    }

    #[test]
    fn what_is_made_up_with_a_body_is_posted() {
        let list = made_up(&options(&["--body-size", "64KiB", "--rate", "2", "--duration", "1s"]));
        assert_eq!(told(&list), [(0, "POST /".into()), (500, "POST /".into())]);
        for (text, bytes) in
            [("12", Some(12)), ("2KiB", Some(2048)), ("1MiB", Some(1 << 20)), ("1GiB", None), ("", None)]
        {
            assert_eq!(crate::bytes(text).ok(), bytes, "{text}");
        }
    }

    #[test]
    fn lines_of_method_and_target_need_a_rate_and_examples_of_a_comparison_are_requests() {
        assert!(read("GET /a?x=1 ana\n", &options(&[])).is_err());
        let list = read("GET /a?x=1 ana\n\nGET /b\n", &options(&["--rate", "2"])).unwrap();
        assert_eq!((list.asked[0].target.as_str(), list.asked[0].unit.as_deref()), ("/a?x=1", Some("ana")));
        assert!(read("GET\n", &options(&["--rate", "2"])).is_err());
        let long = format!("GET /{}\nGET http://a/\n", "x".repeat(1024));
        assert_eq!(read(&long, &options(&["--rate", "2"])).unwrap().left_out.len(), 2);
        let diff = "{\"verdict\": \"fail\", \"examples\": [\n{\"time\": \"2026-01-01T00:00:03Z\", \"method\": \"GET\", \"path\": \"/late\"},\n\
                    {\"time\": \"2026-01-01T00:00:01Z\", \"method\": \"GET\", \"path\": \"/early\"}]}";
        assert_eq!(told(&read(diff, &options(&[])).unwrap()), [(0, "GET /early".into()), (2000, "GET /late".into())]);
    }
}
