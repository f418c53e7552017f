//! `weir bucket`: the bucket of a unit by any scheme, without config or proxy; in bulk from standard input.

use super::args::{Bucket, Global, Output};
use super::console::Console;
use super::render;
use super::stop::{Outcome, Stop};
use crate::config::siphash_key;
use crate::config::units::print_share;
use crate::rollout::Arm;
use crate::rollout::bucket::{Bucketer, Scheme};
use serde_json::json;
use std::io::BufRead;

/// Computes and prints; one line a unit if they come from standard input.
pub fn run(console: &mut Console, global: &Global, arguments: &Bucket) -> Outcome {
    let bucketer = bucketer(arguments)?;
    if arguments.unit != "-" {
        return match global.output {
            Output::Json => one(console, &bucketer, arguments, &arguments.unit, true),
            Output::Text => Ok(console.out.write_all(text(&bucketer, arguments).as_bytes())?),
        };
    }
    let mut line = String::new();
    loop {
        line.clear();
        let read = std::io::Read::take(&mut *console.input, LINE_BYTES_MAX).read_line(&mut line);
        if read.map_err(|error| Stop::Usage(format!("standard input: {error}")))? == 0 {
            return Ok(console.out.flush()?);
        }
        if line.len() as u64 == LINE_BYTES_MAX {
            return Err(Stop::Usage(format!("standard input: a unit is longer than {LINE_BYTES_MAX} bytes")));
        }
        let unit = line.trim_end_matches(['\n', '\r']);
        one(console, &bucketer, arguments, unit, global.output == Output::Json)?;
    }
}

/// For programs: a JSON object, or unit, bucket and arm with tabs between.
fn one(console: &mut Console, bucketer: &Bucketer, arguments: &Bucket, unit: &str, as_json: bool) -> Outcome {
    let bucket = bucketer.bucket(unit).ppm();
    let arm = arm(bucketer, arguments, unit);
    let line = match (as_json, arm) {
        (false, None) => format!("{unit}\t{bucket}"),
        (false, Some(arm)) => format!("{unit}\t{bucket}\t{arm}"),
        (true, None) => json!({ "unit": unit, "bucket_ppm": bucket }).to_string(),
        (true, Some(arm)) => {
            let weight = arguments.weight.map(|weight| weight.ppm());
            json!({ "unit": unit, "bucket_ppm": bucket, "arm": arm.name(), "weight_ppm": weight }).to_string()
        }
    };
    console.line(&line)
}

/// For people.
fn text(bucketer: &Bucketer, arguments: &Bucket) -> String {
    let bucket = bucketer.bucket(&arguments.unit).ppm();
    let mut text = format!("bucket   {bucket} of 1000000 ({})\n", render::share(bucket));
    if let (Some(arm), Some(weight)) = (arm(bucketer, arguments, &arguments.unit), arguments.weight) {
        text.push_str(&format!("arm      {arm} at {}\n", print_share(weight)));
    }
    text
}

fn arm(bucketer: &Bucketer, arguments: &Bucket, unit: &str) -> Option<Arm> {
    let weight = arguments.weight?;
    Some(if bucketer.admits(unit, weight) { Arm::Canary } else { Arm::Stable })
}

fn bucketer(arguments: &Bucket) -> Result<Bucketer, Stop> {
    let key = match &arguments.key_file {
        Some(path) => Some(secret(path)?),
        None => None,
    };
    let scheme = Scheme::from_name(&arguments.hash, key).map_err(|error| {
        let known = Scheme::NAMES.join(", ");
        Stop::Usage(format!("--hash {}: {error}; there are: {known}", render::clean(&arguments.hash)))
    })?;
    let needs_salt = matches!(scheme, Scheme::Murmur3 | Scheme::SipHash(_) | Scheme::Eppo | Scheme::Statsig);
    if needs_salt && arguments.salt.is_none() {
        return Err(Stop::Usage(format!("--hash {} needs --salt", scheme.name())));
    }
    let bucketer = Bucketer {
        scheme,
        salt: arguments.salt.as_deref().unwrap_or("").into(),
        key: arguments.key.as_str().into(),
        seed: arguments.seed.as_deref().map(Into::into),
    };
    match arguments.weight {
        Some(weight) if weight.ppm() % bucketer.step_ppm() != 0 => {
            let step = render::share(bucketer.step_ppm());
            Err(Stop::Usage(format!("--hash {} takes weights in steps of {step}", arguments.hash)))
        }
        _ => Ok(bucketer),
    }
}

fn secret(path: &std::path::Path) -> Result<[u8; 16], Stop> {
    let wrong = |what: String| Stop::Usage(format!("{}: {what}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    siphash_key(&bytes).ok_or_else(|| wrong("expected 16 bytes, raw or as 32 hex digits".to_owned()))
}

/// Longer than any id; a file without line ends is not read into memory whole.
const LINE_BYTES_MAX: u64 = 64 * 1024;
