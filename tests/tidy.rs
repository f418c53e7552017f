//! The rules of the house as tests: who may import whom, where things live, how long they may be, whether the papers
//! tell the truth. Every rule reports all its violations at once, each as `file:line: what is wrong`.
//!
//! ARCHITECTURE.md has the reasons. A rule that is in the way of better code is changed here, in the same commit.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a rule fails by panicking, with all its violations in its words"
)]

#[path = "tidy/source.rs"]
mod source;

use source::Source;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Lines of a file, its tests included.
const FILE_LINES_MAX: usize = 600;
/// Lines of a function: what fits a screen.
const FUNCTION_LINES_MAX: usize = 70;

/// Functions that may be longer than a screen: file, name, reason.
const LONG_FUNCTIONS: &[(&str, &str, &str)] = &[];

/// Who may import whom: each room with everything below it. `proxy` and `control` never see each other.
const BELOW: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    (
        "cli",
        &[
            "rehearsal",
            "admin",
            "control",
            "proxy",
            "config",
            "snapshot",
            "tally",
            "latch",
            "pairs",
            "spans",
            "allowance",
            "rollout",
            "clock",
        ],
    ),
    // Neither of the planes: a rehearsal counts for itself and has nothing to publish, serve or keep.
    ("rehearsal", &["config", "snapshot", "tally", "latch", "pairs", "spans", "allowance", "rollout", "clock"]),
    (
        "admin",
        &[
            "control",
            "proxy",
            "config",
            "snapshot",
            "tally",
            "latch",
            "pairs",
            "spans",
            "allowance",
            "rollout",
            "clock",
        ],
    ),
    ("control", &["config", "snapshot", "tally", "latch", "pairs", "spans", "allowance", "rollout", "clock"]),
    ("proxy", &["config", "snapshot", "tally", "latch", "pairs", "spans", "allowance", "rollout", "clock"]),
    ("config", &["snapshot", "tally", "latch", "pairs", "spans", "allowance", "rollout", "clock"]),
    ("snapshot", &["tally", "latch", "pairs", "spans", "allowance", "rollout", "clock"]),
    ("tally", &["pairs", "spans", "allowance", "rollout", "clock"]),
    ("pairs", &["rollout", "clock"]),
    ("spans", &["rollout", "clock"]),
    ("allowance", &[]),
    ("latch", &["rollout", "clock"]),
    ("rollout", &["clock"]),
    ("clock", &[]),
];

/// What the data plane may see of `rollout`: it cannot know what a stage is.
const ROLLOUT_FOR_PROXY: &[&str] =
    &["Arm", "assign", "outcome", "bucket", "cohort", "histogram", "flags", "force", "diff", "mirror", "vital"];

/// What the pure core must do without.
const IMPURE: &[&str] = &[
    "std::net",
    "std::fs",
    "std::io",
    "std::env",
    "std::thread",
    "std::process",
    "std::time::Instant",
    "std::time::SystemTime",
    "crate::clock::Clock",
    "tokio",
    "serde",
    "serde_json",
    "tracing",
    "hyper",
];

/// Things with a home: the paths that name them, and the files or folders that may.
const HOMES: &[(&str, &[&str], &[&str])] = &[
    (
        "wire forms",
        &["serde", "serde_json"],
        &[
            "src/config/",
            "src/control/store",
            "src/control/exposition.rs",
            "src/control/query/",
            "src/control/notify/",
            "src/control/compare/",
            "src/control/traces/",
            "src/admin/",
            "src/cli/",
            "src/proxy/access.rs",
            "src/proxy/unit.rs",
            "src/proxy/flags.rs",
            "src/proxy/vitals.rs",
        ],
    ),
    (
        "threads",
        &[
            "std::thread::Builder",
            "std::thread::spawn",
            "std::thread::scope",
            "thread::Builder",
            "thread::spawn",
            "thread::scope",
        ],
        &["src/control/", "src/cli/serve.rs", "src/cli/log.rs", "src/proxy/worker.rs", "src/proxy/access.rs"],
    ),
    (
        "the operating system's clocks",
        &["std::time::Instant", "std::time::SystemTime::now", "SystemTime::now"],
        &["src/clock.rs"],
    ),
    ("SQLite", &["rusqlite"], &["src/control/"]),
];

#[test]
fn imports_only_go_down() {
    let mut wrong = Vec::new();
    for source in sources("src") {
        let room = room(&source.path);
        if room == "lib" {
            continue;
        }
        let Some((_, below)) = BELOW.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!("{}:1: `{room}` is a room that the list of directions does not know", source.path));
            continue;
        };
        for named in source.paths() {
            let [root, target, ..] = named.segments.as_slice() else { continue };
            if (root != "crate" && root != "weir") || target == room {
                continue;
            }
            if !below.contains(&target.as_str()) {
                wrong.push(format!("{}:{}: `{room}` may not import `{target}`", source.path, named.line));
            }
        }
    }
    none(wrong);
}

#[test]
fn the_data_plane_sees_only_decisions_and_outcomes_of_the_core() {
    let mut wrong = Vec::new();
    for source in sources("src/proxy") {
        for named in source.paths().iter().filter(|named| named.is_under("crate::rollout")) {
            let part = named.segments.get(2).map_or("", String::as_str);
            if !part.is_empty() && !ROLLOUT_FOR_PROXY.contains(&part) {
                wrong.push(format!("{}:{}: `proxy` may not see `rollout::{part}`", source.path, named.line));
            }
        }
    }
    none(wrong);
}

#[test]
fn the_core_is_pure() {
    let mut wrong = Vec::new();
    for source in sources("src/rollout") {
        for named in source.paths().iter().filter(|named| !source.is_test(named.line)) {
            if let Some(impure) = IMPURE.iter().find(|impure| named.is_under(impure)) {
                wrong.push(format!("{}:{}: `rollout` does without `{impure}`", source.path, named.line));
            }
        }
    }
    none(wrong);
}

#[test]
fn things_with_a_home_stay_there() {
    let mut wrong = Vec::new();
    for source in sources("src") {
        for (what, marks, homes) in HOMES {
            if homes.iter().any(|home| source.path.starts_with(home)) {
                continue;
            }
            for named in source.paths().iter().filter(|named| !source.is_test(named.line)) {
                if marks.iter().any(|mark| named.is_under(mark)) {
                    let path = named.segments.join("::");
                    wrong.push(format!("{}:{}: `{path}`: {what} live elsewhere", source.path, named.line));
                }
            }
        }
    }
    none(wrong);
}

#[test]
fn files_and_functions_are_short() {
    let mut wrong = Vec::new();
    let mut excused = BTreeSet::new();
    for source in all_sources() {
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            wrong.push(format!("{}:{lines}: longer than {FILE_LINES_MAX} lines", source.path));
        }
        for function in source.functions() {
            if function.lines <= FUNCTION_LINES_MAX || source.is_test(function.line) || !source.path.starts_with("src/")
            {
                continue;
            }
            if let Some(excuse) =
                LONG_FUNCTIONS.iter().find(|(file, name, _)| *file == source.path && *name == function.name)
            {
                excused.insert(excuse);
                continue;
            }
            wrong.push(format!(
                "{}:{}: `{}` has {} lines, more than {FUNCTION_LINES_MAX}",
                source.path, function.line, function.name, function.lines
            ));
        }
    }
    for (file, name, _) in LONG_FUNCTIONS.iter().filter(|excuse| !excused.contains(excuse)) {
        wrong.push(format!("tests/tidy.rs:1: `{name}` in {file} needs no excuse any more"));
    }
    none(wrong);
}

#[test]
fn every_module_says_first_what_it_is() {
    let silent = all_sources().into_iter().filter(|source| !source.text.starts_with("//!"));
    none(silent.map(|source| format!("{}:1: does not open with `//!`", source.path)).collect());
}

#[test]
fn nothing_is_left_over() {
    let marks = ["todo!(", "unimplemented!(", "dbg!(", "#[ignore"];
    let mut wrong = Vec::new();
    for source in all_sources() {
        for (number, line) in source.code.lines().enumerate() {
            for mark in marks.iter().filter(|mark| line.contains(**mark)) {
                wrong.push(format!("{}:{}: `{mark}`", source.path, number + 1));
            }
        }
    }
    none(wrong);
}

#[test]
fn no_text_speaks_of_one_machine_or_ticket() {
    // Put together here, so that this file does not break its own rule.
    let places = ["work", "root", "farm", "home"].map(|folder| format!("/{folder}/"));
    let notes = ["TO", "FIX"].map(|head| format!("{head}{}", if head == "TO" { "DO" } else { "ME" }));
    let mut wrong = Vec::new();
    for (path, text) in texts() {
        for (number, line) in text.lines().enumerate() {
            for place in &places {
                if names_a_place(line, place) {
                    wrong.push(format!("{path}:{}: a path of one machine, `{place}`", number + 1));
                }
            }
            if notes.iter().any(|note| line.contains(note.as_str())) || names_a_ticket(line) {
                wrong.push(format!("{path}:{}: a note or a ticket instead of a reason", number + 1));
            }
        }
    }
    none(wrong);
}

#[test]
fn the_top_level_holds_only_what_belongs_there() {
    let folders = ["benches", "config", "fuzz", "load-tests", "src", "tests"];
    let files = ["ARCHITECTURE.md", "CHANGELOG.md", "Cargo.lock", "Cargo.toml", "Dockerfile", "LICENSE", "README.md"];
    let checks = ["SECURITY.md", "clippy.toml", "deny.toml", "rustfmt.toml"];
    let known = |name: &str| name.starts_with('.') || [&folders[..], &files, &checks].concat().contains(&name);
    // A release's archive has no history to ask, and only what was committed can have come in by mistake.
    let Ok(listed) = Command::new("git").args(["ls-files"]).current_dir(repository()).output() else { return };
    let listed = String::from_utf8(listed.stdout).unwrap();
    let top = listed.lines().filter_map(|path| path.split('/').next());
    none(top.filter(|name| !known(name)).map(|name| format!("{name}: does not belong at the top level")).collect());
}

#[test]
fn links_lead_somewhere() {
    let mut wrong = Vec::new();
    for (path, text) in texts().into_iter().filter(|(path, _)| path.ends_with(".md")) {
        let folder = repository().join(&path).parent().map(Path::to_owned).unwrap_or_default();
        for (number, target) in links(&text) {
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !folder.join(file).exists() {
                wrong.push(format!("{path}:{number}: link to `{target}`, which is not there"));
            }
        }
    }
    none(wrong);
}

#[test]
fn commands_of_the_readme_exist() {
    let mut wrong = Vec::new();
    for (number, line) in fenced(&read("README.md"), &["", "sh", "console"]) {
        let words: Vec<&str> = line.trim_start_matches("$ ").split_whitespace().collect();
        match weir_arguments(&words) {
            Some(["--version" | "--help", ..]) | None => {}
            Some([verb, rest @ ..]) => {
                let output = weir(&[verb, "--help"]);
                let help = String::from_utf8_lossy(&output.stdout).into_owned();
                if !output.status.success() {
                    wrong.push(format!("README.md:{number}: weir has no command `{verb}`"));
                }
                for option in rest.iter().filter(|word| word.starts_with('-')) {
                    let name = option.split('=').next().unwrap_or(option);
                    if output.status.success() && !help.contains(name) {
                        wrong.push(format!("README.md:{number}: `weir {verb}` has no option `{name}`"));
                    }
                }
            }
            Some([]) => wrong.push(format!("README.md:{number}: `weir` without a command")),
        }
        let program =
            words.first().filter(|word| word.contains('/') && !word.contains("target/") && !word.contains("://"));
        if let Some(program) = program.filter(|program| !repository().join(program).exists()) {
            wrong.push(format!("README.md:{number}: `{program}` is not there"));
        }
    }
    none(wrong);
}

#[test]
fn configs_of_the_readme_pass_check() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let blocks = fenced(&read("README.md"), &["toml"]);
    let file = folder.path().join("weir.toml");
    let mut text = String::new();
    for (at, (number, line)) in blocks.iter().enumerate() {
        text.push_str(line);
        text.push('\n');
        let ends = blocks.get(at + 1).is_none_or(|(next, _)| *next != number + 1);
        if ends {
            fs::write(&file, &text).expect("the folder is ours");
            let output = weir(&["check", "-c", &file.to_string_lossy()]);
            let problems = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "README.md:{number}: the config above does not pass:\n{problems}");
            text.clear();
        }
    }
    assert!(!blocks.is_empty(), "README.md shows no config");
}

/// The picture of the rooms names every file of `src`, and nothing that is not there unless it is marked `(later)`.
#[test]
fn the_picture_of_the_rooms_is_true() {
    let text = read("ARCHITECTURE.md");
    let mut folder = String::new();
    let mut drawn = BTreeSet::new();
    let mut wrong = Vec::new();
    for (number, line) in fenced(&text, &["text"]) {
        let Some(name) = line.split_whitespace().next() else { continue };
        let depth = line.len() - line.trim_start().len();
        if name.ends_with('/') {
            match depth {
                0 => folder = name.to_owned(),
                2 => folder = format!("src/{name}"),
                // A folder within a room stands for its files.
                _ => {}
            }
        } else if name.ends_with(".rs") {
            if depth == 2 {
                // The rooms have ended above it: it is no file of theirs.
                folder = "src/".to_owned();
            }
            let path = format!("{folder}{name}");
            if !line.contains("(later)") && !repository().join(&path).exists() {
                wrong.push(format!("ARCHITECTURE.md:{number}: {path} is not there; mark it `(later)`"));
            }
            if line.contains("(later)") && repository().join(&path).exists() {
                wrong.push(format!("ARCHITECTURE.md:{number}: {path} is there already"));
            }
            drawn.insert(path);
        }
    }
    for source in sources("src") {
        let name = Path::new(&source.path).file_name().map(|name| name.to_string_lossy().into_owned());
        let obvious = name.is_some_and(|name| name == "mod.rs" || name.ends_with("tests.rs"));
        // A file of a folder within a room is drawn by its folder.
        let nested = source.path.matches('/').count() > 2;
        if !obvious && !nested && !drawn.contains(&source.path) {
            wrong.push(format!("{}:1: ARCHITECTURE.md does not show this file", source.path));
        }
    }
    none(wrong);
}

#[test]
fn the_scanner_sees_through_comments_text_and_nesting() {
    let text = r##"//! doc
use crate::{config::{self, raw::Raw as R}, latch};
fn a<'x>(b: &'x str) -> char { /* crate::no */ "crate::no"; r#"crate::"no"#; b'"'; '\''; std::fs::read(b) }
#[cfg(test)]
mod tests { use crate::proxy; fn long() {
} }
"##;
    let source = Source::new("src/x.rs", text.to_owned());
    let paths: Vec<String> = source.paths().iter().map(|named| named.segments.join("::")).collect();
    assert_eq!(paths, ["crate::config", "crate::config::raw::Raw", "crate::latch", "std::fs::read", "crate::proxy"]);
    let functions = source.functions();
    let shape: Vec<(&str, usize, usize)> = functions.iter().map(|f| (f.name.as_str(), f.line, f.lines)).collect();
    assert_eq!(shape, [("a", 3, 1), ("long", 5, 2)]);
    assert!(source.is_test(5) && !source.is_test(3));
}

/// Fails with all violations, one a line.
fn none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}\n{} violations", wrong.join("\n"), wrong.len());
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|problem| panic!("{path}: {problem}"))
}

fn weir(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weir")).args(arguments).output().expect("the binary was built with this test")
}

/// The room of a file: its folder under `src`, or its own name.
fn room(path: &str) -> &str {
    let inner = path.trim_start_matches("src/");
    inner.split('/').next().unwrap_or(inner).trim_end_matches(".rs")
}

fn all_sources() -> Vec<Source> {
    ["src", "tests", "benches", "fuzz"].iter().flat_map(|folder| sources(folder)).collect()
}

/// Every Rust file below a folder, in order.
fn sources(folder: &str) -> Vec<Source> {
    let mut files = Vec::new();
    walk(&repository().join(folder), &mut files);
    let rust = files.into_iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs"));
    rust.map(|file| Source::new(&relative(&file), fs::read_to_string(&file).expect("source is UTF-8"))).collect()
}

/// Every text of the project that people read or write.
fn texts() -> Vec<(String, String)> {
    let mut files = Vec::new();
    walk(&repository(), &mut files);
    let named = files.into_iter().map(|file| (relative(&file), file));
    let ours =
        named.filter(|(path, _)| path != "Cargo.lock" && path != "LICENSE" && !path.contains(".proptest-regressions"));
    ours.filter_map(|(path, file)| fs::read_to_string(file).ok().map(|text| (path, text))).collect()
}

fn relative(file: &Path) -> String {
    file.strip_prefix(repository()).expect("walked from there").to_string_lossy().replace('\\', "/")
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    const OTHERS: &[&str] = &["target", ".git", "weir-state"];
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut entries: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if OTHERS.contains(&name.as_str()) {
            continue;
        }
        if path.is_dir() {
            walk(&path, files);
        } else {
            files.push(path);
        }
    }
}

/// A machine's folder at the beginning of a path; the same letters inside a URL or a longer path are something else.
fn names_a_place(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        let before = line[..at].chars().next_back().unwrap_or(' ');
        !before.is_alphanumeric() && !"._-/}*~".contains(before)
    })
}

fn names_a_ticket(line: &str) -> bool {
    let lower = line.to_lowercase();
    ["issue ", "issue #", "ticket ", "fixes #", "(#"].iter().any(|mark| {
        lower
            .match_indices(mark)
            .any(|(at, _)| lower[at + mark.len()..].starts_with(|next: char| next.is_ascii_digit()))
    })
}

/// Relative links of a Markdown text with their lines; code is no link.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_fence = false;
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_fence = !in_fence;
        }
        for (at, _) in line.match_indices("](").filter(|_| !in_fence) {
            let target: String = line[at + 2..].chars().take_while(|&each| each != ')').collect();
            if !target.contains("://") && !target.starts_with("mailto:") {
                found.push((number + 1, target));
            }
        }
    }
    found
}

/// Lines inside fences of these languages, with their numbers.
fn fenced(text: &str, languages: &[&str]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut language: Option<String> = None;
    for (number, line) in text.lines().enumerate() {
        if let Some(mark) = line.trim_start().strip_prefix("```") {
            language = if language.is_some() { None } else { Some(mark.trim().to_owned()) };
        } else if language.as_deref().is_some_and(|language| languages.contains(&language)) {
            found.push((number + 1, line.to_owned()));
        }
    }
    found
}

/// What a command line hands to weir; none if it runs something else. A pipe or a comment ends it.
fn weir_arguments<'a>(words: &'a [&'a str]) -> Option<&'a [&'a str]> {
    let end = words.iter().position(|word| matches!(*word, "|" | "#" | "&" | "&&" | ">")).unwrap_or(words.len());
    match &words[..end] {
        ["cargo", "run", options @ ..] => {
            options.iter().position(|word| *word == "--").map(|separator| &options[separator + 1..])
        }
        [program, arguments @ ..] if *program == "weir" || program.ends_with("/weir") => Some(arguments),
        _ => None,
    }
}
