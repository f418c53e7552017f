//! Reads Rust source as far as the rules need it: code without comments and text, paths, functions, test regions.
//!
//! It is no parser: it knows what rustfmt writes. Called by `tidy.rs` alone.

use std::ops::Range;
use std::path::Path;

/// One Rust file, prepared for the rules. Lines count from 1.
pub struct Source {
    /// Relative to the repository, with `/`.
    pub path: String,
    /// As it stands in the file.
    pub text: String,
    /// The text with comments and literals blanked out; every line keeps its number.
    pub code: String,
    test_lines: Vec<Range<usize>>,
}

/// A path as code names it, e.g. `crate::rollout::Arm`, also out of a nested `use`.
#[derive(Debug, PartialEq)]
pub struct Named {
    /// Where it begins.
    pub line: usize,
    /// Its segments.
    pub segments: Vec<String>,
}

impl Named {
    /// Whether the path begins with these segments, written `a::b`.
    pub fn is_under(&self, prefix: &str) -> bool {
        let prefix: Vec<&str> = prefix.split("::").collect();
        self.segments.len() >= prefix.len() && self.segments.iter().zip(&prefix).all(|(own, other)| own == other)
    }
}

/// A function with a body.
#[derive(Debug)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Line of its signature.
    pub line: usize,
    /// Lines from signature to closing brace.
    pub lines: usize,
}

impl Source {
    /// Prepares one file's text.
    pub fn new(path: &str, text: String) -> Source {
        let code = blank(&text);
        let mut source = Source { path: path.to_owned(), text, code, test_lines: Vec::new() };
        let stem = Path::new(path).file_stem().unwrap_or_default().to_string_lossy();
        source.test_lines = test_regions(&source.code);
        if stem == "tests" || stem.ends_with("_tests") {
            source.test_lines.push(0..usize::MAX);
        }
        source
    }

    /// Whether a line belongs to code that only tests compile.
    pub fn is_test(&self, line: usize) -> bool {
        self.test_lines.iter().any(|region| region.contains(&line))
    }

    /// Every path in the code.
    pub fn paths(&self) -> Vec<Named> {
        let tokens = tokens(&self.code);
        let mut paths = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            if tokens[at].text == "use" {
                at = use_tree(&tokens, at + 1, &[], &mut paths);
            } else if is_word(&tokens[at].text) {
                at = plain_path(&tokens, at, &mut paths);
            } else {
                at += 1;
            }
        }
        paths
    }

    /// Every function with a body.
    pub fn functions(&self) -> Vec<Function> {
        let tokens = tokens(&self.code);
        let mut functions = Vec::new();
        for (at, pair) in tokens.windows(2).enumerate() {
            if pair[0].text != "fn" || !is_word(&pair[1].text) {
                continue;
            }
            let Some(open) = body_start(&tokens, at) else { continue };
            let last = &tokens[matching_brace(&tokens, open)];
            functions.push(Function {
                name: pair[1].text.clone(),
                line: pair[0].line,
                lines: last.line - pair[0].line + 1,
            });
        }
        functions
    }
}

struct Token {
    text: String,
    line: usize,
}

fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// Words, `::` and single characters.
fn tokens(code: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut rest = code.chars().peekable();
    while let Some(first) = rest.next() {
        if first == '\n' {
            line += 1;
        }
        if first.is_whitespace() {
            continue;
        }
        let mut text = String::from(first);
        if first.is_alphanumeric() || first == '_' {
            while let Some(next) = rest.next_if(|next| next.is_alphanumeric() || *next == '_') {
                text.push(next);
            }
        } else if first == ':' && rest.next_if_eq(&':').is_some() {
            text.push(':');
        }
        tokens.push(Token { text, line });
    }
    tokens
}

/// Reads a path that stands in an expression or a type; returns where to go on.
fn plain_path(tokens: &[Token], start: usize, paths: &mut Vec<Named>) -> usize {
    let mut segments = vec![tokens[start].text.clone()];
    let mut at = start + 1;
    while at + 1 < tokens.len() && tokens[at].text == "::" && is_word(&tokens[at + 1].text) {
        segments.push(tokens[at + 1].text.clone());
        at += 2;
    }
    if segments.len() > 1 {
        paths.push(Named { line: tokens[start].line, segments });
    }
    at
}

/// Reads one tree of a `use`, e.g. `a::{b, c::d}`, into full paths; returns where to go on.
fn use_tree(tokens: &[Token], start: usize, prefix: &[String], paths: &mut Vec<Named>) -> usize {
    let mut segments = prefix.to_vec();
    let mut at = start;
    let line = tokens.get(start).map_or(0, |token| token.line);
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            "::" => at += 1,
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token.text != "}") {
                    at = use_tree(tokens, at, &segments, paths);
                    if tokens.get(at).is_some_and(|token| token.text == ",") {
                        at += 1;
                    }
                }
                return at + 1;
            }
            "as" => at += 2,
            "*" => {
                segments.push("*".to_owned());
                at += 1;
            }
            "self" if !prefix.is_empty() => at += 1,
            word if is_word(word) => {
                segments.push(word.to_owned());
                at += 1;
            }
            _ => break,
        }
    }
    paths.push(Named { line, segments });
    at
}

/// The opening brace of the body of the item at `start`; none if the item ends without one.
fn body_start(tokens: &[Token], start: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (at, token) in tokens.iter().enumerate().skip(start) {
        match token.text.as_str() {
            "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            "{" if depth == 0 => return Some(at),
            ";" if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

fn matching_brace(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_i32;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len() - 1
}

/// Lines of the items behind `#[cfg(test)]`.
fn test_regions(code: &str) -> Vec<Range<usize>> {
    let tokens = tokens(code);
    let mark = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut regions = Vec::new();
    for (at, window) in tokens.windows(mark.len()).enumerate() {
        if window.iter().zip(mark).any(|(token, mark)| token.text != mark) {
            continue;
        }
        let end = match body_start(&tokens, at + mark.len()) {
            Some(open) => tokens[matching_brace(&tokens, open)].line,
            None => tokens[at + mark.len()..].iter().find(|token| token.text == ";").map_or(window[0].line, |t| t.line),
        };
        regions.push(window[0].line..end + 1);
    }
    regions
}

/// Replaces comments and the inside of literals by spaces.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_or_comment_end(&chars, at);
        if end > at {
            out.extend(chars[at..end].iter().map(|&each| if each == '\n' { '\n' } else { ' ' }));
            at = end;
        } else {
            out.push(chars[at]);
            at += 1;
        }
    }
    out
}

/// Where the comment or literal that begins at `at` ends; `at` itself if none begins there.
fn literal_or_comment_end(chars: &[char], at: usize) -> usize {
    let follows = |offset: usize| chars.get(at + offset).copied().unwrap_or(' ');
    let after_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match (chars[at], follows(1)) {
        ('/', '/') => find(chars, at, |rest| rest[0] == '\n').unwrap_or(chars.len()),
        ('/', '*') => find(chars, at + 2, |rest| rest.starts_with(&['*', '/'])).map_or(chars.len(), |end| end + 2),
        ('"', _) => quoted_end(chars, at + 1, '"'),
        ('r', '"' | '#') if !after_word || chars[at - 1] == 'b' => raw_end(chars, at + 1).unwrap_or(at),
        ('\'', '\\') => quoted_end(chars, at + 1, '\''),
        // Anything else in quotes of one character is a char; otherwise the quote begins a lifetime.
        ('\'', _) if follows(2) == '\'' => at + 3,
        _ => at,
    }
}

fn quoted_end(chars: &[char], start: usize, quote: char) -> usize {
    let mut at = start;
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

/// The end of a raw string whose hashes begin at `start`; none if this is a raw identifier.
fn raw_end(chars: &[char], start: usize) -> Option<usize> {
    let hashes = chars[start..].iter().take_while(|&&each| each == '#').count();
    if chars.get(start + hashes) != Some(&'"') {
        return None;
    }
    let mut close = vec!['"'];
    close.extend(std::iter::repeat_n('#', hashes));
    find(chars, start + hashes + 1, |rest| rest.starts_with(&close)).map(|end| end + close.len())
}

fn find(chars: &[char], start: usize, found: impl Fn(&[char]) -> bool) -> Option<usize> {
    (start..chars.len()).find(|&at| found(&chars[at..]))
}
