//! What is wrong with a config, each with its place: collected, never thrown, so that all of it is reported at once.
//!
//! Knows nothing of keys or meaning. Filled by every step of `load`, printed by the command line and the log.

use super::tree::Place;
use std::fmt;

/// Whether a problem stops the config from being used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The config is refused.
    Error,
    /// The config is used; somebody should know this.
    Warning,
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whether it refuses the config.
    pub severity: Severity,
    /// The file as it was named, or the environment variable.
    pub file: String,
    /// Line, from 1; none where the problem is the whole file or a variable.
    pub line: Option<u32>,
    /// Column in characters, from 1.
    pub column: Option<u32>,
    /// What is wrong, one line.
    pub message: String,
    /// The offending line, and below it a caret under the column.
    pub excerpt: Option<String>,
    /// What to write instead, where that is known.
    pub help: Option<String>,
}

impl Problem {
    /// An error about a file as a whole.
    pub fn of_file(file: &str, message: String) -> Self {
        Problem {
            severity: Severity::Error,
            file: file.to_owned(),
            line: None,
            column: None,
            message,
            excerpt: None,
            help: None,
        }
    }

    /// An error about a file's content that no line of it is more to blame for than another.
    pub fn at_start_of(file: &str, message: String) -> Self {
        Problem { line: Some(1), column: Some(1), ..Problem::of_file(file, message) }
    }

    /// Adds what to do about it.
    pub fn with_help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    /// Takes the offending line out of the report, because it may hold a secret.
    pub fn without_excerpt(&mut self) -> &mut Self {
        self.excerpt = None;
        self
    }
}

/// `file:line:column: message`, then the offending line with a caret, then the help.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, ":{line}:{column}")?;
        }
        let kind = if self.severity == Severity::Warning { "warning: " } else { "" };
        write!(f, ": {kind}{}", self.message)?;
        let number = self.line.map(|line| line.to_string()).unwrap_or_default();
        for (index, line) in self.excerpt.iter().flat_map(|excerpt| excerpt.lines()).enumerate() {
            let label = if index == 0 { number.as_str() } else { "" };
            write!(f, "\n{label:>6} | {line}")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n       = {help}")?;
        }
        Ok(())
    }
}

/// What the places of a config refer to: its text and the variables that override it.
#[derive(Debug)]
pub struct Source<'a> {
    name: &'a str,
    text: &'a str,
    line_starts: Vec<usize>,
    variables: Vec<String>,
}

impl<'a> Source<'a> {
    /// A text under the name that problems show.
    pub fn new(name: &'a str, text: &'a str) -> Self {
        let newlines = memchr::memchr_iter(b'\n', text.as_bytes()).map(|at| at + 1);
        Source { name, text, line_starts: std::iter::once(0).chain(newlines).collect(), variables: Vec::new() }
    }

    /// Line and column of a place, from 1; none for the whole file and for variables.
    pub fn position(&self, place: Place) -> Option<(u32, u32)> {
        match place {
            Place::File | Place::Variable(_) => None,
            Place::Text { line, column } => Some((line, column)),
            Place::Offset(offset) => {
                let offset = (offset as usize).min(self.text.len());
                let line = self.line_starts.partition_point(|&start| start <= offset).saturating_sub(1);
                let start = self.line_starts.get(line).copied().unwrap_or(0);
                let column = self.text.get(start..offset).map_or(0, |before| before.chars().count());
                Some((number(line), number(column)))
            }
        }
    }

    /// The place of byte `at` of a text value: exact where the value stands in the text as it is, else where it begins.
    pub fn inside(&self, place: Place, value: &str, at: usize) -> Place {
        let start = match place {
            Place::Offset(offset) => offset as usize,
            Place::Text { line, column } => {
                let start = self.line_starts.get((line as usize).saturating_sub(1)).copied().unwrap_or(0);
                let before =
                    self.text.get(start..).unwrap_or_default().chars().take((column as usize).saturating_sub(1));
                start + before.map(char::len_utf8).sum::<usize>()
            }
            Place::File | Place::Variable(_) => return place,
        };
        let rest = self.text.get(start..).unwrap_or_default();
        // Behind one quote, or the three of a long text; written with escapes it does not stand there as it is.
        let behind = [0, 1, 3].into_iter().find(|quotes| {
            let (quote, text) = rest.split_at_checked(*quotes).unwrap_or_default();
            quote.chars().all(|c| c == '"' || c == '\'') && text.starts_with(value)
        });
        match behind.and_then(|quotes| u32::try_from(start + quotes + at.min(value.len())).ok()) {
            Some(offset) => Place::Offset(offset),
            None => place,
        }
    }

    /// The place of an environment variable.
    pub fn place_of_variable(&mut self, name: &str) -> Place {
        let index = u32::try_from(self.variables.len()).unwrap_or(u32::MAX);
        self.variables.push(name.to_owned());
        Place::Variable(index)
    }

    /// The offending line, shortened around the column, with a caret below it.
    fn excerpt(&self, line: u32, column: u32) -> Option<String> {
        let start = *self.line_starts.get(line.checked_sub(1)? as usize)?;
        let text = self.text.get(start..)?.lines().next().unwrap_or("");
        if text.trim().is_empty() {
            return None;
        }
        let column = column.saturating_sub(1) as usize;
        let first = column.saturating_sub(EXCERPT_BEFORE);
        let cut = if first > 0 { "..." } else { "" };
        let shown: String = text.chars().skip(first).take(EXCERPT_WIDTH).map(printable).collect();
        let caret = " ".repeat(cut.len() + column - first);
        Some(format!("{cut}{shown}\n{caret}^"))
    }
}

/// Collects problems; the order of finding does not matter, they are reported by place.
#[derive(Debug)]
pub struct Problems<'a> {
    source: Source<'a>,
    found: Vec<(Place, Problem)>,
    errors: usize,
    /// Takes what comes after `PROBLEMS_MAX`.
    overflow: Problem,
}

impl<'a> Problems<'a> {
    /// None yet.
    pub fn new(source: Source<'a>) -> Self {
        let overflow = Problem::of_file(source.name, String::new());
        Problems { source, found: Vec::new(), errors: 0, overflow }
    }

    /// What places refer to.
    pub fn source(&self) -> &Source<'a> {
        &self.source
    }

    /// The place of an environment variable.
    pub fn place_of_variable(&mut self, name: &str) -> Place {
        self.source.place_of_variable(name)
    }

    /// Something that refuses the config.
    pub fn error(&mut self, place: Place, message: impl Into<String>) -> &mut Problem {
        self.errors += 1;
        self.add(Severity::Error, place, message.into())
    }

    /// Something that somebody should know.
    pub fn warning(&mut self, place: Place, message: impl Into<String>) -> &mut Problem {
        self.add(Severity::Warning, place, message.into())
    }

    /// Whether the config is refused.
    pub fn any_error(&self) -> bool {
        self.errors > 0
    }

    /// Whether further problems are only counted: then no work need be put into them.
    pub fn full(&self) -> bool {
        self.found.len() >= PROBLEMS_MAX
    }

    /// How many problems refuse it.
    pub fn errors(&self) -> usize {
        self.errors
    }

    /// All problems of one severity, in the order of their places.
    pub fn finish(mut self, severity: Severity) -> Vec<Problem> {
        self.found.sort_by_key(|(place, _)| *place);
        let reported = self.found.iter().filter(|(_, problem)| problem.severity == Severity::Error).count();
        let mut problems: Vec<Problem> =
            self.found.into_iter().map(|(_, problem)| problem).filter(|problem| problem.severity == severity).collect();
        if severity == Severity::Error && self.errors > reported {
            let more = format!("and {} more problems", self.errors - reported);
            problems.push(Problem::of_file(self.source.name, more));
        }
        problems
    }

    fn add(&mut self, severity: Severity, place: Place, message: String) -> &mut Problem {
        if self.full() {
            return &mut self.overflow;
        }
        let mut problem = Problem { severity, ..Problem::of_file(self.source.name, message) };
        if let Place::Variable(index) = place {
            problem.file = self.source.variables.get(index as usize).cloned().unwrap_or_default();
        }
        if let Some((line, column)) = self.source.position(place) {
            problem.line = Some(line);
            problem.column = Some(column);
            problem.excerpt = self.source.excerpt(line, column);
        }
        let index = self.found.len();
        self.found.push((place, problem));
        self.found.get_mut(index).map_or(&mut self.overflow, |(_, problem)| problem)
    }
}

/// The nearest of `known` to a name that is not among them: at most one letter wrong in three, two in longer names.
pub fn nearest<'n>(wrong: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let wrong: String = wrong.chars().take(NAME_COMPARED_MAX).collect();
    let wrong = wrong.to_lowercase().replace('-', "_");
    let mut best: Option<(usize, &str)> = None;
    for name in known {
        let plain = name.to_lowercase().replace('-', "_");
        let distance = strsim::osa_distance(&wrong, &plain);
        let allowed = (wrong.chars().count().max(plain.chars().count()) / 3).clamp(1, 3);
        if distance <= allowed && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, name));
        }
    }
    best.map(|(_, name)| name)
}

/// What to say to somebody who named none of `known`: the one that was probably meant, else those there are.
pub fn hint(wrong: &str, known: &[&str]) -> String {
    if known.is_empty() {
        return "there are none".to_owned();
    }
    match nearest(wrong, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let shown: Vec<&str> = known.iter().copied().take(HINTS_MAX).collect();
            let rest = if shown.len() < known.len() { ", ..." } else { "" };
            format!("there are: {}{rest}", shown.join(", "))
        }
    }
}

/// The sentence that offers `nearest`, or lists what there is where that is short.
pub fn did_you_mean<'n>(wrong: &str, known: impl IntoIterator<Item = &'n str> + Clone) -> Option<String> {
    if let Some(name) = nearest(wrong, known.clone()) {
        return Some(format!("did you mean `{name}`?"));
    }
    let mut names: Vec<&str> = known.into_iter().collect();
    names.sort_unstable();
    names.dedup();
    match names.len() {
        0 => None,
        count if count <= NAMES_LISTED_MAX => Some(format!("there is {}", listed(&names))),
        _ => None,
    }
}

/// `` `a`, `b` and `c` ``.
pub fn listed(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

/// A number for people: from 1, and never too large for its type.
fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX - 1) + 1
}

/// Control characters would move the caret or speak to the terminal.
fn printable(character: char) -> char {
    if character.is_control() { ' ' } else { character }
}

/// More problems than anyone reads; the rest is counted.
const PROBLEMS_MAX: usize = 200;
/// Characters of the offending line that are shown.
const EXCERPT_WIDTH: usize = 120;
/// Of those, before the caret.
const EXCERPT_BEFORE: usize = 80;
/// A list of names longer than this helps nobody.
const NAMES_LISTED_MAX: usize = 16;
/// Names that a hint lists.
const HINTS_MAX: usize = 10;
/// Distances are quadratic; no name of ours is longer.
const NAME_COMPARED_MAX: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_shows_place_line_caret_and_help() {
        let mut problems = Problems::new(Source::new("weir.toml", "a = 1\n\tb = 25\n"));
        let place = Place::Offset(11);
        problems.error(place, "expected a share").with_help("did you mean \"25%\"?");
        let text = problems.finish(Severity::Error)[0].to_string();
        assert_eq!(
            text,
            "weir.toml:2:6: expected a share\n     2 |  b = 25\n       |      ^\n       = did you mean \"25%\"?"
        );
    }

    #[test]
    fn a_very_long_line_is_cut_around_the_caret() {
        let text = format!("{}x{}", " ".repeat(5000), "y".repeat(5000));
        let mut problems = Problems::new(Source::new("f", &text));
        problems.error(Place::Offset(5000), "m");
        let excerpt = problems.finish(Severity::Error)[0].excerpt.clone().unwrap();
        let (line, caret) = excerpt.split_once('\n').unwrap();
        assert!(line.len() < 130);
        assert_eq!(line.as_bytes()[caret.len() - 1], b'x');
    }

    #[test]
    fn problems_beyond_the_maximum_are_counted() {
        let mut problems = Problems::new(Source::new("f", ""));
        for _ in 0..1000 {
            problems.error(Place::File, "m");
        }
        let all = problems.finish(Severity::Error);
        assert_eq!(all.len(), PROBLEMS_MAX + 1);
        assert_eq!(all.last().unwrap().message, "and 800 more problems");
    }

    #[test]
    fn suggestions_need_a_near_name() {
        assert_eq!(nearest("wieght", ["weight", "salt"]), Some("weight"));
        assert_eq!(nearest("cc", ["ca", "sni"]), Some("ca"));
        assert_eq!(nearest("zebra", ["weight", "salt"]), None);
        assert_eq!(did_you_mean("zebra", ["weight", "salt"]).unwrap(), "there is `salt` and `weight`");
    }
}
