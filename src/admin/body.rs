//! The JSON bodies of POST requests and the parameters of queries, taken apart by hand so that every refusal can name
//! the field. A field that a path does not know is an error: a misspelt `forse` must not pass for "not forced".

use super::failure::Failure;
use crate::config::units::{UnitError, parse_share, parse_span, print_span};
use crate::control::Origin;
use crate::rollout::bucket::Weight;
use axum::http::StatusCode;
use serde_json::{Map, Value};
use std::time::Duration;

/// The fields of a body, each taken out at most once; what is left at the end is unknown.
#[derive(Debug)]
pub struct Fields(Map<String, Value>);

impl Fields {
    /// The fields of a JSON object; an empty body has none.
    pub fn parse(body: &[u8]) -> Result<Fields, Failure> {
        if body.trim_ascii().is_empty() {
            return Ok(Fields(Map::new()));
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Fields(fields)),
            Ok(_) => Err(Failure::new(StatusCode::BAD_REQUEST, "the body must be a JSON object")),
            Err(error) => Err(Failure::new(StatusCode::BAD_REQUEST, format!("the body is not JSON: {error}"))),
        }
    }

    /// A text; absent and `null` are the same.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, Failure> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Failure::field(name, format!("`{name}` must be a string"))),
        }
    }

    /// `true` or `false`; absent is `false`.
    pub fn flag(&mut self, name: &str) -> Result<bool, Failure> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(on)) => Ok(on),
            Some(_) => Err(Failure::field(name, format!("`{name}` must be true or false"))),
        }
    }

    /// An object; absent and `null` are the same.
    pub fn object(&mut self, name: &str) -> Result<Option<Map<String, Value>>, Failure> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(_) => Err(Failure::field(name, format!("`{name}` must be an object"))),
        }
    }

    /// A whole number from 1 to `max`, or `default` if it is absent.
    pub fn count(&mut self, name: &str, default: u64, max: u64) -> Result<u64, Failure> {
        match self.take(name) {
            None => Ok(default),
            Some(value) => value
                .as_u64()
                .filter(|count| (1..=max).contains(count))
                .ok_or_else(|| Failure::field(name, format!("`{name}` must be a whole number from 1 to {max}"))),
        }
    }

    /// A list of texts; absent is empty.
    pub fn texts(&mut self, name: &str) -> Result<Vec<String>, Failure> {
        let wrong = || Failure::field(name, format!("`{name}` must be a list of strings"));
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => {
                let text = |item| if let Value::String(text) = item { Ok(text) } else { Err(wrong()) };
                items.into_iter().map(text).collect()
            }
            Some(_) => Err(wrong()),
        }
    }

    /// `weight` as a share (`"25%"`) or `weight_ppm` as an integer; exactly one of them.
    pub fn weight(&mut self) -> Result<Weight, Failure> {
        match (self.take("weight"), self.take("weight_ppm")) {
            (Some(Value::String(text)), None) => parse_share(&text).map_err(|error| unit_failure("weight", error)),
            (Some(_), None) => Err(Failure::field("weight", "`weight` must be a string like \"25%\"")),
            (None, Some(ppm)) => ppm
                .as_u64()
                .and_then(|ppm| Weight::from_ppm(u32::try_from(ppm).ok()?))
                .ok_or_else(|| Failure::field("weight_ppm", "`weight_ppm` must be an integer from 0 to 1000000")),
            (Some(_), Some(_)) => Err(Failure::field("weight_ppm", "give `weight` or `weight_ppm`, not both")),
            (None, None) => Err(Failure::field("weight", "`weight` is missing; give a share like \"25%\"")),
        }
    }

    /// `actor` and `reason`, for the audit trail.
    pub fn origin(&mut self) -> Result<Origin, Failure> {
        let actor = self.text("actor")?.filter(|actor| !actor.trim().is_empty());
        let reason = self.text("reason")?.unwrap_or_default();
        let actor = actor.unwrap_or_else(|| "operator".to_owned());
        for (name, text, bytes_max) in [("actor", &actor, ACTOR_BYTES_MAX), ("reason", &reason, REASON_BYTES_MAX)] {
            if text.len() > bytes_max {
                return Err(Failure::field(name, format!("`{name}` is longer than {bytes_max} bytes")));
            }
        }
        Ok(Origin { actor, reason })
    }

    /// Refuses whatever has not been taken.
    pub fn end(self) -> Result<(), Failure> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => {
                let shown: String = name.chars().take(SHOWN_CHARS_MAX).collect();
                Err(Failure::field(&shown, format!("`{shown}` is not a field of this request")))
            }
        }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }
}

/// The parameters of a query in order, percent-decoded.
#[derive(Debug)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Takes the text after the question mark apart.
    pub fn parse(query: Option<&str>) -> Query {
        let pairs = form_urlencoded::parse(query.unwrap_or("").as_bytes());
        Query(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    /// The first value of that name, unless it is empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(key, _)| key == name)?;
        Some(value.as_str()).filter(|value| !value.is_empty())
    }

    /// A number, or `default` if it is absent.
    pub fn number(&self, name: &str, default: u64) -> Result<u64, Failure> {
        match self.text(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| Failure::field(name, format!("`{name}` must be a whole number"))),
        }
    }

    /// A span of time like `5m` within `min` and `max`, or `default` if it is absent.
    pub fn span(&self, name: &str, default: Duration, min: Duration, max: Duration) -> Result<Duration, Failure> {
        let Some(text) = self.text(name) else { return Ok(default) };
        let span = parse_span(text).map_err(|error| unit_failure(name, error))?;
        if (min..=max).contains(&span) {
            return Ok(span);
        }
        Err(Failure::field(name, format!("`{name}` must be between {} and {}", print_span(min), print_span(max))))
    }

    /// Values of the form `name:value`, repeated for several.
    pub fn pairs(&self, name: &str) -> Result<Vec<(String, String)>, Failure> {
        let split = |text: &str| {
            let (key, value) = text.split_once(':')?;
            Some((key.trim().to_owned(), value.trim().to_owned()))
        };
        let wrong = || Failure::field(name, format!("`{name}` must be NAME:VALUE"));
        let named = self.0.iter().filter(|(key, _)| key == name);
        named.map(|(_, text)| split(text).ok_or_else(wrong)).collect()
    }
}

fn unit_failure(name: &str, error: UnitError) -> Failure {
    let hint = error.suggestion.map(|suggestion| format!("; write \"{suggestion}\"")).unwrap_or_default();
    Failure::field(name, format!("`{name}`: {}{hint}", error.message))
}

/// Names of people and programs are short; the audit trail keeps them for ever.
const ACTOR_BYTES_MAX: usize = 128;
/// A paragraph.
const REASON_BYTES_MAX: usize = 2048;
/// As much of an unknown field's name as an answer repeats.
const SHOWN_CHARS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(body: &str) -> Fields {
        Fields::parse(body.as_bytes()).unwrap()
    }

    #[test]
    fn a_weight_is_a_share_or_an_integer() {
        let ppm = |body: &str| fields(body).weight().map(Weight::ppm);
        assert_eq!(ppm(r#"{"weight": "12.5%"}"#), Ok(125_000));
        assert_eq!(ppm(r#"{"weight_ppm": 1000000}"#), Ok(1_000_000));
        assert_eq!(ppm(r#"{"weight": null, "weight_ppm": 0}"#), Ok(0));
        assert!(ppm(r#"{"weight": "25"}"#).unwrap_err().message.contains("25%"));
    }

    #[test]
    fn a_refusal_names_the_field() {
        let at = |failure: Failure| failure.field.unwrap();
        assert_eq!(at(fields(r#"{"weight": 25}"#).weight().unwrap_err()), "weight");
        assert_eq!(at(fields(r#"{"weight": "250%"}"#).weight().unwrap_err()), "weight");
        assert_eq!(at(fields("{}").weight().unwrap_err()), "weight");
        assert_eq!(at(fields(r#"{"weight_ppm": 1000001}"#).weight().unwrap_err()), "weight_ppm");
        assert_eq!(at(fields(r#"{"weight_ppm": 1.5}"#).weight().unwrap_err()), "weight_ppm");
        assert_eq!(at(fields(r#"{"force": "yes"}"#).flag("force").unwrap_err()), "force");
        for count in ["0", "-1", "1.5", "11", "\"3\""] {
            let body = format!(r#"{{"count": {count}}}"#);
            assert_eq!(at(fields(&body).count("count", 1, 10).unwrap_err()), "count", "{body}");
        }
        assert_eq!(at(fields(r#"{"add": ["a", 1]}"#).texts("add").unwrap_err()), "add");
        assert_eq!(at(fields(r#"{"forse": true}"#).end().unwrap_err()), "forse");
        assert_eq!(at(fields(&format!(r#"{{"reason": "{}"}}"#, "x".repeat(3000))).origin().unwrap_err()), "reason");
        assert_eq!(at(Query::parse(Some("limit=ten")).number("limit", 1).unwrap_err()), "limit");
        assert_eq!(at(Query::parse(Some("header=x")).pairs("header").unwrap_err()), "header");
    }

    #[test]
    fn absent_null_and_empty_are_alike() {
        for body in ["", "  \n", "{}", r#"{"actor": null, "reason": null}"#, r#"{"actor": " "}"#] {
            let mut fields = fields(body);
            let origin = fields.origin().unwrap();
            assert_eq!((origin.actor.as_str(), origin.reason.as_str()), ("operator", ""), "{body}");
            fields.end().unwrap();
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for body in ["[]", "1", "{", "weight=25%", "\u{0}"] {
            assert_eq!(Fields::parse(body.as_bytes()).unwrap_err().status, StatusCode::BAD_REQUEST, "{body}");
        }
    }

    #[test]
    fn queries_are_decoded_and_may_repeat() {
        let query = Query::parse(Some("unit=a%20b%2Bc&header=X-Beta:1&header=x-b:2%3A3&window=5m&unit=second"));
        assert_eq!(query.text("unit"), Some("a b+c"));
        let pairs = query.pairs("header").unwrap();
        assert_eq!(pairs, [("X-Beta".to_owned(), "1".to_owned()), ("x-b".to_owned(), "2:3".to_owned())]);
        let span = |query: &str| {
            let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
            Query::parse(Some(query)).span("window", second, second, hour)
        };
        assert_eq!(span("window=5m"), Ok(Duration::from_secs(300)));
        assert_eq!(span("window="), Ok(Duration::from_secs(1)));
        assert!(span("window=0s").is_err() && span("window=2h").is_err() && span("window=x").is_err());
    }
}
