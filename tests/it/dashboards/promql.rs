//! As much of PromQL as it takes to see which metrics and labels an expression asks for; whether it is PromQL at all is for
//! `promtool` to say.

use std::collections::BTreeSet;

/// What an expression asks for.
#[derive(Debug, Default)]
pub struct Asked {
    /// Metrics, each with its matchers as label and wanted text.
    pub selectors: Vec<(String, Vec<(String, String)>)>,
    /// Labels that it groups or joins by.
    pub grouped: BTreeSet<String>,
}

/// Reads an expression.
pub fn asked(expression: &str) -> Asked {
    let mut scanner = Scanner { rest: expression };
    let mut asked = Asked::default();
    while let Some(first) = scanner.rest.chars().next() {
        match first {
            '"' => {
                scanner.text();
            }
            '[' => scanner.skip_past(']'),
            first if first.is_ascii_digit() => {
                scanner.word();
            }
            first if first.is_ascii_alphabetic() || first == '_' => {
                let word = scanner.word();
                match word {
                    "by" | "without" | "on" | "ignoring" | "group_left" | "group_right" => {
                        asked.grouped.extend(scanner.labels());
                    }
                    "and" | "or" | "unless" | "offset" | "bool" => {}
                    // A function, or an aggregation that says by what.
                    _ if scanner.peek() == Some('(') => {}
                    _ if ["by ", "without "].iter().any(|word| scanner.rest.starts_with(word)) => {}
                    _ => {
                        let matchers = scanner.matchers();
                        asked.selectors.push((word.to_owned(), matchers));
                    }
                }
            }
            other => scanner.rest = &scanner.rest[other.len_utf8()..],
        }
    }
    asked
}

struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    fn word(&mut self) -> &'a str {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start();
        self.rest.chars().next()
    }

    fn skip_past(&mut self, mark: char) {
        self.rest = self.rest.split_once(mark).map_or("", |(_, rest)| rest);
    }

    fn text(&mut self) -> String {
        let inside = self.rest.strip_prefix('"').expect("a text in double quotes");
        let (text, rest) = inside.split_once('"').expect("a text that ends");
        self.rest = rest;
        text.to_owned()
    }

    fn labels(&mut self) -> Vec<String> {
        if self.peek() != Some('(') {
            return Vec::new();
        }
        let (inside, rest) = self.rest[1..].split_once(')').expect("a list that ends");
        self.rest = rest;
        inside.split(',').map(|label| label.trim().to_owned()).filter(|label| !label.is_empty()).collect()
    }

    fn matchers(&mut self) -> Vec<(String, String)> {
        let mut matchers = Vec::new();
        if !self.rest.starts_with('{') {
            return matchers;
        }
        self.rest = &self.rest[1..];
        while self.peek() != Some('}') {
            let label = self.word().to_owned();
            assert!(!label.is_empty(), "a label is expected at: {}", self.rest);
            self.rest = self.rest.trim_start_matches(['=', '~', '!']);
            matchers.push((label, self.text()));
            self.rest = self.rest.trim_start_matches([',', ' ']);
        }
        self.rest = &self.rest[1..];
        matchers
    }
}

#[test]
fn selectors_matchers_and_groups_are_found() {
    let asked =
        asked("sum by (job, le) (rate(a_total{x=\"1\",y=~\"b|c\"}[5m])) > on (job) 2 * weir:b and up offset 5m == 8e6");
    let names: Vec<&str> = asked.selectors.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a_total", "weir:b", "up"]);
    assert_eq!(asked.selectors[0].1, [("x".to_owned(), "1".to_owned()), ("y".to_owned(), "b|c".to_owned())]);
    assert_eq!(asked.grouped.into_iter().collect::<Vec<_>>(), ["job", "le"]);
}
