//! Where a unit's id comes from.

use crate::config::decode::{Named, Spot};
use crate::config::raw;
use crate::config::tree::quoted;
use crate::config::validate::{Context, names};
use crate::snapshot::UnitSource;
use std::sync::Arc;

/// The sources of a rollout's unit, `assign_cookie` the last of them. `meant` is a rollout of nearly the same name: where
/// there is no unit at all, a slip in the name of a table like `[rollouts.chta.errors]` is likelier than a forgotten key.
pub fn units<'m>(
    key: &str,
    entry: &Named<raw::Rollout>,
    raw: &raw::Rollout,
    meant: impl FnOnce() -> Option<&'m str>,
    context: &mut Context<'_, '_>,
) -> Vec<UnitSource> {
    let secret = context.secret(&format!("{key}.jwt_secret"), raw.jwt_secret.as_ref(), raw.jwt_secret_file.as_ref());
    let written = raw.unit.as_ref().map(|list| list.value.as_slice()).unwrap_or_default();
    super::super::at_most(&format!("{key}.unit"), written.len(), UNIT_SOURCES_MAX, entry.place, context);
    let mut units: Vec<UnitSource> = Vec::new();
    for spot in written.iter().take(UNIT_SOURCES_MAX) {
        if let Some(mut source) = source(&format!("{key}.unit"), spot, context) {
            if let UnitSource::Jwt { secret: verified, .. } = &mut source {
                verified.clone_from(&secret);
            }
            units.push(source);
        }
    }
    let jwt = written.iter().any(|spot| spot.value.starts_with("jwt:"));
    if let Some(place) = raw.jwt_secret_file.as_ref().map(|file| file.place).filter(|_| !jwt) {
        let message = format!("{key}.jwt_secret_file: has no effect, because no unit comes from `jwt:CLAIM`");
        context.problems.error(place, message);
    }
    if let Some(cookie) = assign_cookie(key, raw, context) {
        let there = units.iter().any(|unit| matches!(unit, UnitSource::Cookie(name) if *name == cookie));
        if !there {
            units.push(UnitSource::Cookie(cookie));
        }
    }
    if written.is_empty() && raw.assign_cookie.is_none() && !context.unread {
        let message = format!("{key}: nothing says who is asking, so no unit could ever be on the canary");
        let help = "add unit = [\"header:x-user-id\"], [\"client-ip\"], or assign_cookie = \"weir_id\"";
        let help = meant().map_or(help.to_owned(), |meant| format!("did you mean `rollouts.{meant}`?"));
        context.problems.error(entry.place, message).with_help(help);
    }
    units
}

fn assign_cookie(key: &str, raw: &raw::Rollout, context: &mut Context<'_, '_>) -> Option<Arc<str>> {
    let spot = raw.assign_cookie.as_ref()?;
    if !names::is_token(&spot.value) || spot.value.to_lowercase().starts_with("x-weir-") {
        let message = format!("{key}.assign_cookie: {} is no cookie name", quoted(&spot.value));
        context.problems.error(spot.place, message).with_help("write for example \"weir_id\"");
        return None;
    }
    Some(Arc::from(spot.value.as_str()))
}

fn source(key: &str, spot: &Spot<String>, context: &mut Context<'_, '_>) -> Option<UnitSource> {
    let (kind, name) = spot.value.split_once(':').unwrap_or((&spot.value, ""));
    match kind {
        "client-ip" if !spot.value.contains(':') => return Some(UnitSource::ClientIp),
        "header" if !name.is_empty() => {
            return names::request_header(key, name, spot.place, context).map(UnitSource::Header);
        }
        "cookie" if names::is_token(name) => return Some(UnitSource::Cookie(Arc::from(name))),
        "query" if !name.is_empty() => return Some(UnitSource::Query(Arc::from(name))),
        "jwt" if !name.is_empty() => return Some(UnitSource::Jwt { claim: Arc::from(name), secret: None }),
        "header" | "cookie" | "query" | "jwt" => {
            let message = format!("{key}: {} needs a name after the colon", quoted(&spot.value));
            context.problems.error(spot.place, message).with_help(format!("write for example \"{kind}:user-id\""));
        }
        _ => {
            let kind = if kind == "client-ip" { spot.value.as_str() } else { kind };
            names::dangling(key, "source of units", kind, &UNIT_KINDS, spot.place, context);
        }
    }
    None
}

/// What a unit's id can come from.
const UNIT_KINDS: [&str; 5] = ["header", "cookie", "query", "jwt", "client-ip"];
/// Every request asks them in turn.
const UNIT_SOURCES_MAX: usize = 16;
