//! A short run of every fuzz case: real texts, changed at random from a stated seed. The long runs are `fuzz/`'s.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    reason = "a test reads its own variable, and fails by panicking"
)]

#[path = "../fuzz/cases.rs"]
mod cases;

use cases::CASES;
use fastrand::Rng;
use std::panic::catch_unwind;
use std::path::Path;
use std::{env, fs};

/// Changed texts a case is given; `WEIR_FUZZ_RUNS` sets another number.
const RUNS: usize = 3_000;

/// Pieces that mean something to one reader or another.
const WORDS: &[&str] = &[
    "\r\n",
    "\r\n\r\n",
    "\n",
    "0\r\n\r\n",
    "ffffffffffffffff\r\n",
    "1;a=b\r\n",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "transfer-encoding: chunked\r\n",
    "content-length: 5\r\n",
    "content-length: +5\r\n",
    "connection: close, x-a\r\n",
    ";",
    "=",
    ",",
    "session=",
    "Bearer ",
    "eyJhbGciOiJIUzI1NiJ9.",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'",
    "%",
    "99999999999999999999",
    "-1",
    "1e400",
    "NaN",
    "µs",
    "\u{2028}",
    "p95",
    "error_rate",
    " and ",
    " <= ",
    " > ",
    " of ",
    "stable",
    "baseline.",
    "shadow.",
    "24h",
    "12.5%",
    "64KiB",
    "&a",
    "*a",
    "<<",
    "!!",
    "- ",
    ": ",
    "#",
    "\0",
    "\u{7f}",
];

#[test]
fn changed_texts_break_no_rule() {
    let runs = env::var("WEIR_FUZZ_RUNS").ok().map_or(RUNS, |runs| runs.parse().expect("a number"));
    for &(name, case) in CASES {
        let seeds = seeds(name);
        assert!(!seeds.is_empty(), "{name} has nothing to change");
        let mut random = Rng::with_seed(0x7765_6972);
        for run in 0..runs {
            let mut bytes = seeds[random.usize(..seeds.len())].clone();
            for _ in 0..random.usize(..4) {
                change(&mut bytes, &mut random);
            }
            let broken = catch_unwind(|| case(&bytes)).is_err();
            assert!(!broken, "{name}, run {run}: {:?}", String::from_utf8_lossy(&bytes));
        }
    }
}

/// One small change anywhere.
fn change(bytes: &mut Vec<u8>, random: &mut Rng) {
    let at = random.usize(..=bytes.len());
    let end = (at + random.usize(..20)).min(bytes.len());
    match random.u8(..6) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..end)),
        2 => bytes.insert(at, random.u8(..)),
        3 => drop(bytes.splice(at..end, random.choice(WORDS).expect("there are some").bytes())),
        4 => drop(bytes.splice(at..at, random.choice(WORDS).expect("there are some").bytes())),
        _ => {
            let piece = bytes[at..end].to_vec();
            bytes.splice(at..at, piece);
        }
    }
}

/// Texts as users and upstreams write them; the first byte of some says how the rest is read.
fn seeds(case: &str) -> Vec<Vec<u8>> {
    let texts: Vec<String> = match case {
        "config" => configs(),
        "criterion" => ["p95 < 1.2 * stable.p95", "error_rate{upload} <= stable + 0.1%", "25.5%", "2m30s", "64KiB"]
            .map(str::to_owned)
            .into_iter()
            .chain(configs().iter().flat_map(|text| quoted(text)))
            .collect(),
        "unit" => ["a=1; session=4711; b=2", "10.0.0.1, [::1]:8080, 203.0.113.9", "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbmEifQ.c2ln"]
            .map(str::to_owned)
            .to_vec(),
        _ => [
            "\u{3}HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n",
            "\u{7}HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
            "\u{1}HTTP/1.0 404 Not Found\r\nconnection: close\r\n\r\n",
        ]
        .map(str::to_owned)
        .to_vec(),
    };
    texts.into_iter().map(String::into_bytes).collect()
}

/// The configs of this repository, each behind the byte that says in which form.
fn configs() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let plans = fs::read_dir(root.join("config/plans")).expect("the plans").flatten().map(|entry| entry.path());
    let mut files: Vec<_> =
        plans.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect();
    files.sort();
    files.push(root.join("config/weir.toml"));
    let texts = files.iter().map(|file| fs::read_to_string(file).expect("a config of ours"));
    let mut forms: Vec<String> = texts.map(|text| format!("\0{text}")).collect();
    forms.push("\u{1}listeners:\n- address: 127.0.0.1:1\nupstreams:\n  a: {endpoints: [\"b:1\"]}\n".to_owned());
    forms.push(
        "\u{2}{\"listeners\": [{\"address\": \"127.0.0.1:1\"}], \"upstreams\": {\"a\": {\"endpoints\": [\"b:1\"]}}}"
            .to_owned(),
    );
    forms
}

/// What stands in quotes on the lines of a config.
fn quoted(text: &str) -> Vec<String> {
    text.split('"').skip(1).step_by(2).filter(|word| !word.contains('\n')).map(str::to_owned).collect()
}
