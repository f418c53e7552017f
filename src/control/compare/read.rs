//! An answer's bytes as what is compared: decoded, and read as JSON, as text, or as nothing in particular.
//!
//! Whatever the bytes are, it takes a stated effort: a body that decodes to more than its budget is compared as it came, JSON that
//! is too deep, too large or none is compared as text.

use crate::pairs::{Answer, Pair};
use crate::rollout::diff::value::{DEPTH_MAX, NODES_MAX, Number, Value};
use crate::rollout::diff::{Body, Found, Rules, Side, compare};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::cell::Cell;
use std::fmt;
use std::io::Read;

/// Compares a pair under rules.
pub fn compared(pair: &Pair, rules: &Rules) -> Found {
    let budget = rules.max_body.saturating_mul(DECODED_TIMES).min(DECODED_BYTES_MAX).max(rules.max_body);
    let (first, second) = (&pair.first, &pair.second);
    if first.longer || second.longer {
        return by_length(first, second, rules);
    }
    let bodies = [first, second].map(|answer| decoded(answer, budget));
    let [ours, theirs] = &bodies;
    let kind = |answer| header(answer, "content-type").unwrap_or_default();
    compare(&side(first, of_kind(kind(first), ours)), &side(second, of_kind(kind(second), theirs)), rules)
}

/// Compares what can be compared when a body was not read to its end.
fn by_length(first: &Answer, second: &Answer, rules: &Rules) -> Found {
    // Of bodies that are not coded alike nobody can say which is the longer one.
    let least = if coding(first) == coding(second) { rules.max_body.saturating_add(1) } else { 0 };
    let raw = [first, second].map(|answer| answer.body.concat());
    let [ours, theirs] = &raw;
    let [ours, theirs] = [(first, ours), (second, theirs)].map(|(answer, raw)| {
        side(answer, if answer.longer || least == 0 { Body::Longer(least) } else { Body::Bytes(raw) })
    });
    compare(&ours, &theirs, rules)
}

fn side<'a>(answer: &'a Answer, body: Body<'a>) -> Side<'a> {
    let headers = answer.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    Side { status: answer.status, headers, body }
}

/// As its content type says, or where that is not told as what it looks like.
fn of_kind<'a>(content_type: &str, body: &'a [u8]) -> Body<'a> {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let begins = body.iter().find(|byte| !byte.is_ascii_whitespace());
    let looks_like_json = kind.is_empty() && matches!(begins, Some(b'{' | b'['));
    if (kind == "application/json" || kind.ends_with("+json") || looks_like_json)
        && let Some(value) = json(body)
    {
        return Body::Json(value);
    }
    let is_binary = ["image/", "audio/", "video/", "font/"].iter().any(|prefix| kind.starts_with(prefix))
        || (kind.starts_with("application/") && BINARY.contains(&kind.as_str()));
    match std::str::from_utf8(body) {
        Ok(text) if !is_binary && !body.contains(&0) => Body::Text(text),
        _ => Body::Bytes(body),
    }
}

fn header<'a>(answer: &'a Answer, wanted: &str) -> Option<&'a str> {
    let found = answer.headers.iter().find(|(name, _)| name.as_str() == wanted);
    found.and_then(|(_, value)| value.to_str().ok())
}

/// How the body is coded, in lower case; nothing where it is not.
fn coding(answer: &Answer) -> String {
    let coding = header(answer, "content-encoding").unwrap_or_default().trim().to_ascii_lowercase();
    if coding == "identity" { String::new() } else { coding }
}

/// The body without its coding: as it came where that is not known, broken, or holds more than `budget` bytes.
fn decoded(answer: &Answer, budget: usize) -> Vec<u8> {
    let raw = answer.body.concat();
    if raw.is_empty() {
        return raw;
    }
    let plain = match coding(answer).as_str() {
        "gzip" | "x-gzip" => all(flate2::read::MultiGzDecoder::new(raw.as_slice()), budget),
        // The name means zlib's form (RFC 9110, section 8.4.1.2), but some send the bare one.
        "deflate" => all(flate2::read::ZlibDecoder::new(raw.as_slice()), budget)
            .or_else(|| all(flate2::read::DeflateDecoder::new(raw.as_slice()), budget)),
        "br" => all(brotli_decompressor::Decompressor::new(raw.as_slice(), BUFFER_BYTES), budget),
        _ => None,
    };
    plain.unwrap_or(raw)
}

/// Everything there is to read, unless it fails or is more than `budget`.
fn all(from: impl Read, budget: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    from.take(budget as u64 + 1).read_to_end(&mut out).ok()?;
    (out.len() <= budget).then_some(out)
}

/// The value that the bytes are; none if they are no JSON, or more of it than is compared.
pub fn json(bytes: &[u8]) -> Option<Value> {
    let nodes = Cell::new(NODES_MAX);
    let mut from = serde_json::Deserializer::from_slice(bytes);
    let value = Node { nodes: &nodes, depth: DEPTH_MAX }.deserialize(&mut from).ok()?;
    from.end().ok()?;
    Some(value)
}

/// Reads one value, as long as there are nodes left.
#[derive(Clone, Copy)]
struct Node<'n> {
    nodes: &'n Cell<usize>,
    depth: usize,
}

impl<'n> Node<'n> {
    fn within<E: Error>(self) -> Result<Node<'n>, E> {
        let depth = self.depth.checked_sub(1).ok_or_else(|| E::custom("too deep"))?;
        Ok(Node { depth, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        let left = self.nodes.get().checked_sub(1).ok_or_else(|| D::Error::custom("too large"))?;
        self.nodes.set(left);
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(Number::Whole(value.into())))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(Number::Whole(value.into())))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(Number::float(value)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let (inner, mut items) = (self.within()?, Vec::new());
        while let Some(item) = from.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let (inner, mut entries) = (self.within()?, Vec::new());
        while let Some(key) = from.next_key::<Box<str>>()? {
            entries.push((key, from.next_value_seed(inner)?));
        }
        Ok(Value::table(entries))
    }
}

/// Kinds of `application/...` in which lines mean nothing, though their bytes may be text.
const BINARY: [&str; 5] =
    ["application/octet-stream", "application/pdf", "application/zip", "application/protobuf", "application/grpc"];
/// How many times as long as the longest body that is compared a coded one may become.
const DECODED_TIMES: usize = 8;
/// And how long at most.
const DECODED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The buffer of the Brotli decoder, whose window is another 16 MiB at most.
const BUFFER_BYTES: usize = 4 * 1024;
