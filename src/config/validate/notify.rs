//! Who is told of what happens: each target with its address, its secrets and what it asks for.

use super::server::{Https, secret, server, trusted};
use super::{Context, at_most, names};
use crate::config::decode::{FilePath, SecretText, Spot};
use crate::config::digest;
use crate::config::model::{HttpServer, NotifyConfig, NotifyKind};
use crate::config::raw;
use crate::config::tree::Place;
use crate::config::units::print_span;
use crate::rollout::report::Kind;
use crate::snapshot::Secret;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// All targets.
pub fn targets(raw: &raw::Root, https: &mut Https, context: &mut Context<'_, '_>) -> Vec<NotifyConfig> {
    let Some(list) = &raw.notify else { return Vec::new() };
    at_most("notify", list.value.len(), TARGETS_MAX, list.place, context);
    let rollouts: Vec<&str> =
        raw.rollouts.iter().flat_map(|rollouts| &rollouts.value).map(|rollout| rollout.name.as_str()).collect();
    let mut found: Vec<NotifyConfig> = Vec::new();
    for (index, spot) in list.value.iter().take(TARGETS_MAX).enumerate() {
        let key = format!("notify[{index}]");
        let Some(target) = target(&key, &spot.value, &rollouts, https, context) else { continue };
        // Of a config with its secrets taken out nobody can tell.
        if !context.redacted && found.iter().any(|other| other.key == target.key) {
            let message = format!("{key}: is told the same way as another target: give each a `name` of its own");
            context.problems.error(spot.place, message).without_excerpt();
        }
        found.push(target);
    }
    found
}

fn target(
    key: &str,
    raw: &raw::Notify,
    rollouts: &[&str],
    https: &mut Https,
    context: &mut Context<'_, '_>,
) -> Option<NotifyConfig> {
    if let Some(name) = &raw.name {
        names::name("a target", &name.value, name.place, context);
    }
    let rollouts = raw.rollouts.as_ref().map(|list| {
        for name in list.value.iter().filter(|name| !rollouts.contains(&name.value.as_str())) {
            names::dangling(&format!("{key}.rollouts"), "rollout", &name.value, rollouts, name.place, context);
        }
        if list.value.is_empty() && !context.unread {
            context.problems.error(list.place, format!("{key}.rollouts: names none, so nothing would be told"));
        }
        list.value.iter().map(|name| Arc::from(name.value.as_str())).collect()
    });
    if let Some(events) = raw.events.as_ref().filter(|events| events.value.is_empty() && !context.unread) {
        context.problems.error(events.place, format!("{key}.events: names none, so nothing would be told"));
    }
    let events = match &raw.events {
        Some(events) => events.value.iter().map(|event| event.value.kind()).collect(),
        None => raw::NotifyEvent::ALL.map(raw::NotifyEvent::kind).to_vec(),
    };
    let mut span = |name: &str, spot: &Option<Spot<Duration>>, usual: Duration, bounds: RangeInclusive<Duration>| {
        let Some(spot) = spot else { return usual };
        if !bounds.contains(&spot.value) {
            let (least, most) = (print_span(*bounds.start()), print_span(*bounds.end()));
            context.problems.error(spot.place, format!("{key}.{name}: expected {least} to {most}"));
        }
        spot.value
    };
    let timeout = span("timeout", &raw.timeout, TIMEOUT, TIMEOUT_MIN..=TIMEOUT_MAX);
    let max_age = span("max_age", &raw.max_age, MAX_AGE, MAX_AGE_MIN..=MAX_AGE_MAX);
    let server = trusted(key, raw.ca.as_ref(), https, context, |https, context| address(key, raw, https, context));
    let kind = match raw.kind.as_ref()?.value {
        raw::NotifyKind::Webhook => NotifyKind::Webhook,
        raw::NotifyKind::Slack => NotifyKind::Slack,
        raw::NotifyKind::Alertmanager => NotifyKind::Alertmanager,
    };
    let mut server = server?;
    if kind == NotifyKind::Alertmanager {
        server.path = alerts_path(&server);
    }
    let (name, key) = match &raw.name {
        Some(name) => (name.value.clone(), format!("name {}", name.value)),
        None => (format!("{} {}", kind.word(), server.authority), identity(kind, &server)),
    };
    Some(NotifyConfig { name: name.into(), key: key.into(), kind, server, events, rollouts, timeout, max_age })
}

/// The server, with its token if there is one.
fn address(key: &str, raw: &raw::Notify, https: &mut Https, context: &mut Context<'_, '_>) -> Option<HttpServer> {
    let token = token(key, raw.token.as_ref(), raw.token_file.as_ref(), context);
    let example = "https://example.com/hook";
    let mut found = match (&raw.url, &raw.url_file) {
        (Some(_), Some(file)) => {
            context.problems.error(file.place, format!("{key}.url_file: there is `url` as well: choose one"));
            return None;
        }
        (None, None) => {
            if !context.unread {
                let message = format!("{key}: needs `url`, or `url_file` where the URL is a secret");
                context.problems.error(raw.kind.as_ref()?.place, message);
            }
            return None;
        }
        (Some(url), None) => server(&format!("{key}.url"), url.value.0.trim(), url.place, example, https, context)?,
        (None, Some(file)) => {
            let (_, bytes) = context.file(&format!("{key}.url_file"), file)?;
            let text = String::from_utf8(bytes).unwrap_or_default();
            server(&format!("{key}.url_file"), text.trim(), file.place, example, https, context)?
        }
    };
    authorize(key, &mut found, token, context);
    Some(found)
}

/// Gives a server its token.
pub fn authorize(key: &str, server: &mut HttpServer, token: Option<(Secret, Place)>, context: &mut Context<'_, '_>) {
    let Some((token, place)) = token else { return };
    if server.authorization.is_some() {
        let message = format!("{key}: the URL has a user and there is a token: only one of them can be sent");
        context.problems.error(place, message).without_excerpt();
    }
    server.authorization = Some(token);
}

/// The value of `authorization` with the bearer token, and where that is named.
pub fn token(
    key: &str,
    text: Option<&Spot<SecretText>>,
    file: Option<&Spot<FilePath>>,
    context: &mut Context<'_, '_>,
) -> Option<(Secret, Place)> {
    let place = text.map(|spot| spot.place).or(file.map(|spot| spot.place))?;
    let token = context.secret(&format!("{key}.token"), text, file)?;
    // RFC 6750, section 2.1: visible ASCII without spaces.
    if !token.0.iter().all(u8::is_ascii_graphic) {
        let message = format!("{key}.token: is no bearer token: it holds spaces or other than ASCII");
        context.problems.error(place, message).without_excerpt();
        return None;
    }
    let text = String::from_utf8_lossy(&token.0);
    Some((secret(&format!("Bearer {text}")), place))
}

/// Where an Alertmanager takes alerts: below the URL, unless that leads there already.
fn alerts_path(server: &HttpServer) -> Secret {
    let text = String::from_utf8_lossy(&server.path.0);
    let base = text.trim_end_matches('/');
    secret(&if base.ends_with(ALERTS_PATH) { base.to_owned() } else { format!("{base}{ALERTS_PATH}") })
}

/// What tells a target without a name from others, and gives nothing away: it stands in the state.
fn identity(kind: NotifyKind, server: &HttpServer) -> String {
    let mut bytes = format!("{} {} {}\n", kind.word(), server.tls.is_some(), server.authority).into_bytes();
    bytes.extend_from_slice(&server.path.0);
    bytes.push(b'?');
    bytes.extend_from_slice(&server.parameters.0);
    let digest = digest(&bytes);
    digest.iter().take(IDENTITY_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

impl raw::NotifyEvent {
    /// All of them, in the order of the contract.
    const ALL: [raw::NotifyEvent; 12] = [
        raw::NotifyEvent::Stage,
        raw::NotifyEvent::Approval,
        raw::NotifyEvent::Alert,
        raw::NotifyEvent::Pause,
        raw::NotifyEvent::Resume,
        raw::NotifyEvent::Trip,
        raw::NotifyEvent::Recover,
        raw::NotifyEvent::Rollback,
        raw::NotifyEvent::Escalate,
        raw::NotifyEvent::Kill,
        raw::NotifyEvent::Revive,
        raw::NotifyEvent::Complete,
    ];

    /// The same in the core's words.
    const fn kind(self) -> Kind {
        match self {
            raw::NotifyEvent::Stage => Kind::Stage,
            raw::NotifyEvent::Approval => Kind::Approval,
            raw::NotifyEvent::Alert => Kind::Alert,
            raw::NotifyEvent::Pause => Kind::Pause,
            raw::NotifyEvent::Resume => Kind::Resume,
            raw::NotifyEvent::Trip => Kind::Trip,
            raw::NotifyEvent::Recover => Kind::Recover,
            raw::NotifyEvent::Rollback => Kind::Rollback,
            raw::NotifyEvent::Escalate => Kind::Escalate,
            raw::NotifyEvent::Kill => Kind::Kill,
            raw::NotifyEvent::Revive => Kind::Revive,
            raw::NotifyEvent::Complete => Kind::Complete,
        }
    }
}

/// Where an Alertmanager takes alerts (its API, version 2).
const ALERTS_PATH: &str = "/api/v2/alerts";
/// Each has a connection of its own whenever something happens.
const TARGETS_MAX: usize = 32;
/// Of a SHA-256, enough to tell a handful of targets apart.
const IDENTITY_BYTES: usize = 16;
/// Time for one try unless a target says otherwise.
const TIMEOUT: Duration = Duration::from_secs(5);
/// No server answers sooner for certain.
const TIMEOUT_MIN: Duration = Duration::from_millis(100);
/// What takes longer will not come.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Age from which an event is not tried again unless a target says otherwise: longer than most outages of a receiver.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// Less is one try.
const MAX_AGE_MIN: Duration = Duration::from_secs(1);
/// What happened a week ago is no news.
const MAX_AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
