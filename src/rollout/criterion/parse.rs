//! Text to criterion, with errors that point into the text.

use super::{
    Comparison, Criterion, Dimension, Expression, Filter, Metric, Number, Origin, Quantile, Quantity, Reference, UNITS,
    Vital,
};
use crate::rollout::Arm;
use std::fmt;
use std::sync::Arc;

/// Why a text is no criterion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CriterionError {
    /// The byte of the text where the trouble begins.
    pub at: usize,
    /// How many bytes it spans, at least 1.
    pub length: usize,
    /// What is wrong, in one sentence.
    pub message: String,
    /// What was probably meant, ready to be written.
    pub suggestion: Option<String>,
}

impl fmt::Display for CriterionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CriterionError {}

/// Reads a criterion.
///
/// # Errors
/// The first thing in the text that is not of the language, or units that do not agree.
pub fn parse(text: &str) -> Result<Criterion, CriterionError> {
    let mut parser = Parser { text, at: 0, depth: 0 };
    let quantity = parser.quantity()?;
    let comparison = parser.comparison()?;
    let start = parser.skip();
    let (limit, dimension) = parser.expression(&quantity)?;
    let end = parser.skip();
    if end < text.len() {
        let word = parser.rest().split(|c: char| !c.is_ascii_alphabetic() && c != '%').next().unwrap_or_default();
        return Err(match UNITS.iter().any(|(unit, _, _)| *unit == word) {
            true => parser.error(end, "a unit stands right behind its number: `20ms`, `0.5%`"),
            false => parser.error(end, "the criterion should end here, or go on with `+`, `-` or `*`"),
        });
    }
    let wanted = quantity.metric.dimension();
    if !agree(wanted, dimension) {
        return Err(clash(text, start, &quantity, dimension));
    }
    Ok(Criterion { quantity, comparison, limit })
}

/// Longest criterion, so that a hostile one costs nothing.
const BYTES_MAX: usize = 1024;
/// Deepest nesting of brackets.
const DEPTH_MAX: usize = 32;

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    /// Passes over spaces; the position after them.
    fn skip(&mut self) -> usize {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
        self.at
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn takes(&mut self, token: &str) -> bool {
        self.skip();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    /// The longest text of such characters.
    fn run(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest.find(|c| !belongs(c)).unwrap_or(rest.len());
        self.at += length;
        rest.get(..length).unwrap_or_default()
    }

    /// A word of the language.
    fn word(&mut self) -> &'a str {
        self.run(|c| c.is_ascii_alphanumeric() || c == '_')
    }

    /// A name that the config gives.
    fn name(&mut self, kind: &str) -> Result<Arc<str>, CriterionError> {
        let start = self.at;
        let name = self.run(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        if name.is_empty() { Err(self.error(start, format!("expected the name of a {kind}"))) } else { Ok(name.into()) }
    }

    /// An error about the token at `at`.
    fn error(&self, at: usize, message: impl Into<String>) -> CriterionError {
        let token = self.text.get(at..).unwrap_or_default();
        let length = token.find(|c: char| !(c.is_ascii_alphanumeric() || "_.-".contains(c))).unwrap_or(token.len());
        let message = message.into();
        let message = if at >= self.text.len() { format!("{message}, but the text ends") } else { message };
        CriterionError { at, length: length.max(1), message, suggestion: None }
    }

    fn quantity(&mut self) -> Result<Quantity, CriterionError> {
        if self.text.len() > BYTES_MAX {
            let message = format!("a criterion has at most {BYTES_MAX} bytes");
            return Err(CriterionError { at: 0, length: 1, message, suggestion: None });
        }
        let start = self.skip();
        let before = self.at;
        let arm = Arm::from_name(self.word()).filter(|_| self.rest().starts_with('.'));
        if arm.is_some() {
            self.at += 1;
        } else {
            self.at = before;
        }
        let metric_at = self.at;
        let metric = self.metric()?;
        if arm.is_some() && !metric.has_arms() {
            return Err(self.error(start, format!("`{metric}` does not belong to an arm")));
        }
        let filter = self.filter()?;
        if filter.is_some() && !metric.has_parts() {
            return Err(self.error(metric_at, format!("`{metric}` cannot be narrowed to a route or cohort")));
        }
        Ok(Quantity { arm: arm.unwrap_or(Arm::Canary), metric, filter })
    }

    fn filter(&mut self) -> Result<Option<Filter>, CriterionError> {
        if !self.takes("{") {
            return Ok(None);
        }
        let filter = match self.takes("cohort:") {
            true => Filter::Cohort(self.name("cohort")?),
            false => Filter::Route(self.name("route")?),
        };
        if self.takes("}") { Ok(Some(filter)) } else { Err(self.error(self.at, "expected `}`")) }
    }

    fn comparison(&mut self) -> Result<Comparison, CriterionError> {
        let signs = [Comparison::AtMost, Comparison::AtLeast, Comparison::Below, Comparison::Above];
        match signs.into_iter().find(|comparison| self.takes(comparison.sign())) {
            Some(comparison) if !self.rest().starts_with('=') => Ok(comparison),
            _ => Err(self.error(self.at, "expected `<`, `<=`, `>` or `>=`")),
        }
    }

    fn metric(&mut self) -> Result<Metric, CriterionError> {
        let start = self.at;
        let word = self.word();
        let metric = match word {
            "error_rate" => Metric::ErrorRate,
            "rate_5xx" => Metric::Rate5xx,
            "rate_4xx" => Metric::Rate4xx,
            "timeout_rate" => Metric::TimeoutRate,
            "rps" => Metric::Rps,
            "requests" => Metric::Requests,
            "share" => Metric::Share,
            "fallback_rate" => Metric::FallbackRate,
            "blocked_rate" => Metric::BlockedRate,
            "breaker_rate" => Metric::BreakerRate,
            "total" => Metric::Total(self.quantile(start)?),
            "signal" => Metric::Signal(self.dotted_name("signal")?),
            "query" => Metric::Query(self.dotted_name("query")?),
            "shadow" => self.of_shadow(start)?,
            "vitals" => self.of_vitals(start)?,
            "breaker" => self.one_of(start, &[("trips", Metric::BreakerTrips)])?,
            "weir" => self.one_of(start, &[("memory", Metric::OwnMemory), ("cpu", Metric::OwnCpu)])?,
            _ => match Quantile::from_word(word) {
                Some(quantile) => Metric::FirstByte(quantile),
                None => return Err(self.unknown_metric(start, word)),
            },
        };
        Ok(metric)
    }

    fn of_shadow(&mut self, start: usize) -> Result<Metric, CriterionError> {
        let before = self.at;
        if self.rest().starts_with('.') {
            self.at += 1;
            if let Some(quantile) = Quantile::from_word(self.word()) {
                return Ok(Metric::ShadowFirstByte(quantile));
            }
            self.at = before;
        }
        self.one_of(start, &[("error_rate", Metric::ShadowErrorRate), ("diff_rate", Metric::ShadowDiffRate)])
    }

    fn of_vitals(&mut self, start: usize) -> Result<Metric, CriterionError> {
        let vital = self.one_of(start, &Vital::ALL.map(|vital| (vital.word(), vital)))?;
        Ok(Metric::Vital(vital, self.quantile(start)?))
    }

    fn quantile(&mut self, start: usize) -> Result<Quantile, CriterionError> {
        self.one_of(start, &Quantile::ALL)
    }

    /// What follows a dot, out of a few words.
    fn one_of<T: Clone>(&mut self, start: usize, words: &[(&str, T)]) -> Result<T, CriterionError> {
        let dot = self.rest().starts_with('.');
        self.at += usize::from(dot);
        let word = if dot { self.word() } else { "" };
        if let Some((_, found)) = words.iter().find(|(name, _)| *name == word) {
            return Ok(found.clone());
        }
        let known: Vec<String> = words.iter().map(|(name, _)| format!("`.{name}`")).collect();
        let so_far = self.text.get(start..self.at).unwrap_or_default();
        let so_far = so_far.strip_suffix(word).unwrap_or(so_far).trim_end_matches('.');
        Err(self.error(start, format!("expected one of {} after `{so_far}`", known.join(", "))))
    }

    fn dotted_name(&mut self, kind: &str) -> Result<Arc<str>, CriterionError> {
        if !self.rest().starts_with('.') {
            return Err(self.error(self.at, format!("expected `.` and the name of a {kind}")));
        }
        self.at += 1;
        self.name(kind)
    }

    fn unknown_metric(&self, start: usize, word: &str) -> CriterionError {
        if word.is_empty() {
            return self.error(start, "expected a metric such as `error_rate` or `p95`");
        }
        let near = nearest(word);
        let mut error = self.error(start, format!("there is no metric `{word}`"));
        error.length = word.len();
        error.suggestion = near.map(str::to_owned);
        error
    }

    fn expression(&mut self, quantity: &Quantity) -> Result<(Expression, Dimension), CriterionError> {
        let start = self.skip();
        let mut left = self.product(quantity)?;
        loop {
            let plus = self.takes("+");
            if !plus && !self.takes("-") {
                return Ok(left);
            }
            let right = self.product(quantity)?;
            let Some(dimension) = added(left.1, right.1) else {
                return Err(self.mixed(start, quantity, left.1, right.1));
            };
            let (a, b) = (Box::new(left.0), Box::new(right.0));
            left = (if plus { Expression::Sum(a, b) } else { Expression::Difference(a, b) }, dimension);
        }
    }

    fn product(&mut self, quantity: &Quantity) -> Result<(Expression, Dimension), CriterionError> {
        let start = self.skip();
        let mut left = self.factor(quantity)?;
        while self.takes("*") {
            let right = self.factor(quantity)?;
            let dimension = match (left.1, right.1) {
                (Dimension::Plain, other) | (other, Dimension::Plain) => other,
                // 90 % of something is that thing, in whatever unit it is.
                (Dimension::Share, other) | (other, Dimension::Share) => other,
                _ => return Err(self.error(start, "only one factor of a product may have a unit")),
            };
            left = (Expression::Product(Box::new(left.0), Box::new(right.0)), dimension);
        }
        Ok(left)
    }

    fn factor(&mut self, quantity: &Quantity) -> Result<(Expression, Dimension), CriterionError> {
        let start = self.skip();
        if self.takes("(") {
            self.depth += 1;
            if self.depth > DEPTH_MAX {
                return Err(self.error(start, format!("brackets are nested more than {DEPTH_MAX} deep")));
            }
            let inner = self.expression(quantity)?;
            self.depth -= 1;
            return if self.takes(")") { Ok(inner) } else { Err(self.error(self.at, "expected `)`")) };
        }
        if self.rest().starts_with(|c: char| c.is_ascii_digit() || c == '.') {
            let number = self.number(start)?;
            let dimension = number.dimension();
            return Ok((Expression::Number(number), dimension));
        }
        let reference = self.reference(start, quantity)?;
        let dimension = reference.metric.as_ref().unwrap_or(&quantity.metric).dimension();
        Ok((Expression::Reference(reference), dimension))
    }

    fn number(&mut self, start: usize) -> Result<Number, CriterionError> {
        let digits = self.run(|c| c.is_ascii_digit() || c == '.');
        let written: f64 = digits.parse().map_err(|_| self.error(start, format!("`{digits}` is no number")))?;
        if self.rest().starts_with('%') {
            self.at += 1;
            return Ok(Number { written, unit: "%" });
        }
        let unit_at = self.at;
        let unit = self.run(|c| c.is_ascii_alphanumeric() || c == '_');
        if unit.is_empty() {
            return Ok(Number { written, unit: "" });
        }
        match UNITS.into_iter().find(|(name, _, _)| *name == unit) {
            Some((unit, _, _)) => Ok(Number { written, unit }),
            None => {
                let near = UNITS.into_iter().find(|(name, _, _)| name.eq_ignore_ascii_case(unit));
                let mut error = self.error(unit_at, format!("there is no unit `{unit}`"));
                error.suggestion = near.map(|(name, _, _)| format!("{digits}{name}"));
                Err(error)
            }
        }
    }

    fn reference(&mut self, start: usize, quantity: &Quantity) -> Result<Reference, CriterionError> {
        let word = self.word();
        let (origin, own_arm) = match word {
            "stable" => (Origin::Live, Some(Arm::Stable)),
            "canary" => (Origin::Live, Some(Arm::Canary)),
            "baseline" => (Origin::Baseline, None),
            "stage" if self.takes("(") => {
                let name = self.name("stage")?;
                if !self.takes(")") {
                    return Err(self.error(self.at, "expected `)`"));
                }
                (Origin::Stage(name), None)
            }
            "stage" => return Err(self.error(self.at, "expected `(` and the name of a stage")),
            _ => {
                let message = "expected a number, `stable`, `canary`, `baseline` or `stage(NAME)`";
                return Err(self.error(start, message));
            }
        };
        let named_arm = if own_arm.is_none() { self.dotted_arm() } else { None };
        let metric = match self.rest().starts_with('.') {
            true => {
                self.at += 1;
                Some(self.metric()?)
            }
            false => None,
        };
        let arm = own_arm.or(named_arm);
        let metric = metric.or_else(|| arm.and_then(|_| quantity.metric.of_an_arm()));
        let of = metric.as_ref().unwrap_or(&quantity.metric);
        // What belongs to no arm is recorded once, and has a baseline all the same.
        if !of.has_arms() && arm.is_some() {
            return Err(self.error(start, format!("`{of}` does not belong to an arm, so there is no `{word}` of it")));
        }
        if quantity.filter.is_some() && !of.has_parts() {
            return Err(self.error(start, format!("`{of}` cannot be narrowed to a route or cohort")));
        }
        Ok(Reference { origin, arm, metric })
    }

    /// `.stable` or `.canary`, if that comes next.
    fn dotted_arm(&mut self) -> Option<Arm> {
        let before = self.at;
        if self.rest().starts_with('.') {
            self.at += 1;
            if let Some(arm) = Arm::from_name(self.word()) {
                return Some(arm);
            }
        }
        self.at = before;
        None
    }

    fn mixed(&self, start: usize, quantity: &Quantity, left: Dimension, right: Dimension) -> CriterionError {
        let message = format!("{} and {} cannot be added", left.word(), right.word());
        let mut error = self.error(start, message);
        error.length = self.at.saturating_sub(start).max(1);
        if right == Dimension::Share && left == quantity.metric.dimension() {
            error.message.push_str("; a part of something is a product, such as `1.1 * stable`");
        }
        error
    }
}

/// Whether a value of one kind can be compared with one of another: a plain number may stand for a share.
fn agree(wanted: Dimension, given: Dimension) -> bool {
    wanted == given
        || wanted == Dimension::Any
        || given == Dimension::Any
        || (wanted == Dimension::Share && given == Dimension::Plain)
}

fn added(left: Dimension, right: Dimension) -> Option<Dimension> {
    match (left, right) {
        (Dimension::Any, other) | (other, Dimension::Any) => Some(other),
        (Dimension::Share, Dimension::Plain) | (Dimension::Plain, Dimension::Share) => Some(Dimension::Share),
        _ => (left == right).then_some(left),
    }
}

fn clash(text: &str, start: usize, quantity: &Quantity, given: Dimension) -> CriterionError {
    let wanted = quantity.metric.dimension();
    let example = match wanted {
        Dimension::Share => "0.5%",
        Dimension::Time => "200ms",
        Dimension::Size => "80MB",
        Dimension::Plain | Dimension::Any => "100",
    };
    let limit = text.get(start..).unwrap_or_default().trim_end();
    let (metric, wanted, given) = (&quantity.metric, wanted.word(), given.word());
    let message =
        format!("`{metric}` is {wanted}, and `{limit}` is {given}: compare it with {wanted} such as `{example}`");
    CriterionError { at: start, length: limit.len().max(1), message, suggestion: None }
}

/// The metric whose name is nearest to a word, if one is near.
fn nearest(word: &str) -> Option<&'static str> {
    const WORDS: [&str; 24] = [
        "error_rate",
        "rate_5xx",
        "rate_4xx",
        "timeout_rate",
        "p50",
        "p75",
        "p90",
        "p95",
        "p99",
        "p999",
        "rps",
        "requests",
        "share",
        "fallback_rate",
        "blocked_rate",
        "breaker_rate",
        "shadow",
        "signal",
        "vitals",
        "query",
        "total",
        "breaker",
        "weir",
        "stable",
    ];
    let near = WORDS.into_iter().map(|known| (strsim::levenshtein(word, known), known)).min();
    near.filter(|(distance, known)| *distance <= known.len().div_ceil(3)).map(|(_, known)| known)
}
