//! Who is asking: reads a request the way a decision needs it.
//!
//! Header and cookie values are trimmed and otherwise taken as they stand; a value that is not UTF-8 counts as absent.

use super::conn::Client;
use super::headers::hexadecimal;
use super::local::Worker;
use super::present::Present;
use crate::clock::Wall;
use crate::latch::UnitMark;
use crate::rollout::Arm;
use crate::rollout::assign::{Asker, Switches};
use crate::rollout::force;
use crate::snapshot::{ROLLOUTS_PER_ROUTE_MAX, Secret, Snapshot, UnitSource};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, COOKIE, SET_COOKIE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use std::borrow::Cow;
use std::cell::OnceCell;
use std::net::IpAddr;

/// Header and cookie that carry forced-arm tokens.
const FORCE: HeaderName = HeaderName::from_static(force::NAME);

/// One request, as a decision sees it.
pub struct RequestAsker<'a> {
    worker: &'a Worker,
    snapshot: &'a Snapshot,
    parts: &'a Parts,
    client: &'a Client,
    trusted: bool,
    forced: Vec<(usize, Arm)>,
    /// What the request brings for the rollouts that asked first, so that a claim or a cookie is not looked for twice.
    found: [OnceCell<(usize, Option<Own<'a>>)>; FOUND_MAX],
    minted: OnceCell<String>,
}

/// The unit that a request itself brings.
struct Own<'a> {
    text: Cow<'a, str>,
    /// Whether it is the client's address: everybody behind it, and every id that somebody there makes up, is one unit.
    is_address: bool,
}

/// How long a browser keeps a minted id: 400 days, the most that browsers allow (RFC 6265bis §5.5).
const MINTED_SECONDS: u32 = 400 * 24 * 3600;
/// Rollouts for which a request remembers its unit; more are rare on a route, and read it again.
const FOUND_MAX: usize = 2;

impl<'a> RequestAsker<'a> {
    /// Reads what may force an arm; the rest is read when a decision asks for it.
    pub fn new(
        worker: &'a Worker,
        snapshot: &'a Snapshot,
        parts: &'a Parts,
        present: Present,
        client: &'a Client,
        trusted: bool,
    ) -> Self {
        let forced = forced_arms(worker, snapshot, parts, present, client, trusted);
        let found = [const { OnceCell::new() }; FOUND_MAX];
        RequestAsker { worker, snapshot, parts, client, trusted, forced, found, minted: OnceCell::new() }
    }

    /// Who is to be told from others when failures are counted: the unit, or the client's address where the request has no
    /// unit of its own. Of IPv6 it is the network, because one client has as many addresses there as it likes.
    pub fn mark(&self, rollout: usize) -> UnitMark {
        let Some(latch) = self.snapshot.rollouts.get(rollout).map(|rollout| &rollout.latch) else {
            return UnitMark::default();
        };
        if let Some(own) = self.own_unit(rollout).filter(|own| !own.is_address) {
            return latch.mark(&own.text);
        }
        match self.address() {
            IpAddr::V4(address) => latch.mark(address.to_bits()),
            IpAddr::V6(address) => latch.mark((address.to_bits() >> 64) as u64),
        }
    }

    /// The client's address; behind trusted proxies the last one that none of them vouches for. Of IPv6 the network.
    pub fn address(&self) -> IpAddr {
        match self.forwarded_for().unwrap_or(self.client.address) {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        }
    }

    /// The unit that the request itself brings for that rollout; none is minted.
    pub fn brought_unit(&self, rollout: usize) -> Option<Cow<'_, str>> {
        self.own_unit(rollout).map(|own| own.text)
    }

    /// Sets the cookies that keep the id minted for this request, if a decision of these rollouts needed one.
    pub fn keep_minted(&self, headers: &mut HeaderMap, rollouts: impl Iterator<Item = usize>) {
        let Some(id) = self.minted.get() else { return };
        let mut cookies = Vec::new();
        for index in rollouts {
            let Some(rollout) = self.snapshot.rollouts.get(index) else { continue };
            let Some(cookie) = &rollout.assign_cookie else { continue };
            if self.own_unit(index).is_none() && !cookies.contains(&cookie) {
                cookies.push(cookie);
            }
        }
        let secure = if self.client.secure { "; Secure" } else { "" };
        for name in cookies {
            let cookie = format!("{name}={id}; Path=/; Max-Age={MINTED_SECONDS}; HttpOnly; SameSite=Lax{secure}");
            if let Ok(value) = HeaderValue::try_from(cookie) {
                headers.append(SET_COOKIE, value);
            }
        }
    }

    /// The unit that the request itself brings for that rollout.
    fn own_unit(&self, rollout: usize) -> Option<Own<'_>> {
        for place in &self.found {
            let (of, own) = place.get_or_init(|| (rollout, self.find_unit(rollout)));
            if *of == rollout {
                return own.as_ref().map(|own| Own { text: Cow::Borrowed(&own.text), is_address: own.is_address });
            }
        }
        self.find_unit(rollout)
    }

    fn find_unit(&self, rollout: usize) -> Option<Own<'a>> {
        let rollout = self.snapshot.rollouts.get(rollout)?;
        rollout.units.iter().find_map(|source| {
            let text = self.read(source)?;
            Some(Own { text, is_address: matches!(source, UnitSource::ClientIp) })
        })
    }

    fn read(&self, source: &UnitSource) -> Option<Cow<'a, str>> {
        match source {
            UnitSource::Header(name) => self.parts.headers.get(name).and_then(text),
            UnitSource::Cookie(name) => cookie(&self.parts.headers, name),
            UnitSource::Query(name) => {
                let pairs = form_urlencoded::parse(self.parts.uri.query()?.as_bytes());
                pairs.into_iter().find(|(key, value)| key == &**name && !value.is_empty()).map(|(_, value)| value)
            }
            UnitSource::Jwt { claim, secret } => {
                let token = text(self.parts.headers.get(AUTHORIZATION)?)?;
                let now = || self.worker.clock.wall();
                jwt_claim(&token, claim, secret.as_ref(), now).map(Cow::Owned)
            }
            UnitSource::ClientIp => Some(self.client_ip()),
        }
        .filter(|unit| !unit.is_empty())
    }

    /// The peer's address; behind trusted proxies the last address that none of them vouches for.
    fn client_ip(&self) -> Cow<'a, str> {
        self.forwarded_for().map_or(Cow::Borrowed(&self.client.address_text), |address| Cow::Owned(address.to_string()))
    }

    fn forwarded_for(&self) -> Option<IpAddr> {
        if !self.trusted {
            return None;
        }
        let values = self.parts.headers.get_all("x-forwarded-for").iter().rev().filter_map(text);
        let last_unknown = |value: Cow<'_, str>| addresses(&value).find(|hop| !self.snapshot.trusts(*hop));
        values.filter_map(last_unknown).next()
    }
}

impl Asker for RequestAsker<'_> {
    fn unit(&self, rollout: usize) -> Option<Cow<'_, str>> {
        if let Some(own) = self.own_unit(rollout) {
            return Some(own.text);
        }
        self.snapshot.rollouts.get(rollout)?.assign_cookie.as_ref()?;
        let mint = || String::from_utf8_lossy(&hexadecimal(self.worker.random())).into_owned();
        Some(Cow::Borrowed(self.minted.get_or_init(mint)))
    }

    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        self.parts.headers.get(name).and_then(text)
    }

    fn cookie(&self, name: &str) -> Option<Cow<'_, str>> {
        cookie(&self.parts.headers, name)
    }

    fn forced(&self, rollout: usize) -> Option<Arm> {
        self.forced.iter().find(|(index, _)| *index == rollout).map(|(_, arm)| *arm)
    }

    /// The latch's. A canary without a healthy endpoint is an open circuit from this moment on, and not from the moment at
    /// which the breaker has heard of it: then nobody is sent to where nothing is, and nothing of it enters its numbers.
    fn switches(&self, rollout: usize) -> Switches {
        let Some(rollout) = self.snapshot.rollouts.get(rollout) else { return Switches::NONE };
        let switches = rollout.latch.read();
        if self.snapshot.canary_is_healthy(rollout) { switches } else { switches.opened() }
    }
}

/// The arms that tokens, or a trusted peer's plain words `chat=canary`, force on this request.
fn forced_arms(
    worker: &Worker,
    snapshot: &Snapshot,
    parts: &Parts,
    present: Present,
    client: &Client,
    trusted: bool,
) -> Vec<(usize, Arm)> {
    let mut forced = Vec::new();
    let secret = snapshot.force.secret.as_ref();
    let header = present.force.then(|| parts.headers.get(FORCE).and_then(text)).flatten();
    let cookie = secret.filter(|_| present.cookie).and_then(|_| cookie(&parts.headers, FORCE.as_str()));
    if header.is_none() && cookie.is_none() {
        return forced;
    }
    let believed = trusted || snapshot.force.trusted.iter().any(|net| net.contains(&client.address));
    let now = worker.clock.wall();
    let secret = secret.map(|Secret(key)| &**key);
    for (name, arm) in header.iter().chain(&cookie).flat_map(|value| force::arms(value, secret, believed, now)) {
        let index = snapshot.splits.iter().position(|split| &*split.name == name);
        if let (Some(index), true) = (index, forced.len() < ROLLOUTS_PER_ROUTE_MAX) {
            forced.push((index, arm));
        }
    }
    forced
}

/// A header's value, trimmed; none if it is not UTF-8.
fn text(value: &HeaderValue) -> Option<Cow<'_, str>> {
    std::str::from_utf8(value.as_bytes()).ok().map(|value| Cow::Borrowed(value.trim()))
}

/// The first non-empty cookie of that name; reading crumb by crumb is the same as joining them first.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<Cow<'a, str>> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b';'));
    // What is no text in one cookie is no reason to read no other one: which of them share a line depends on the protocol.
    let mut values = pairs.filter_map(|pair| {
        let (key, value) = pair.split_at_checked(memchr::memchr(b'=', pair)?)?;
        let value = value.split_first().filter(|_| key.trim_ascii() == name.as_bytes())?.1;
        std::str::from_utf8(value).ok().map(str::trim)
    });
    values.find(|value| !value.is_empty()).map(Cow::Borrowed)
}

/// The addresses of an `x-forwarded-for` value from the last to the first, with or without ports.
pub fn addresses(value: &str) -> impl Iterator<Item = IpAddr> {
    let parse = |hop: &str| {
        let hop = hop.trim();
        let bare = hop.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(hop, |(address, _)| address);
        let parsed = bare.parse().ok();
        parsed.or_else(|| hop.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()))
    };
    value.rsplit(',').filter_map(parse)
}

/// A claim of a bearer token: text as it stands, numbers in decimal. With a secret the token must be signed with it
/// (HS256, HS384 or HS512) and not be past its `exp`; without, the payload is believed, as the service checks it.
pub fn jwt_claim(authorization: &str, claim: &str, secret: Option<&Secret>, now: impl Fn() -> Wall) -> Option<String> {
    let (scheme, token) = authorization.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (signed, signature) = token.trim().rsplit_once('.')?;
    let (header, payload) = signed.split_once('.')?;
    let json = |part: &str| serde_json::from_slice::<Value>(&BASE64_URL_SAFE_NO_PAD.decode(part).ok()?).ok();
    let payload = json(payload)?;
    if let Some(Secret(secret)) = secret {
        let algorithm = match json(header)?.get("alg")?.as_str()? {
            "HS256" => hmac::HMAC_SHA256,
            "HS384" => hmac::HMAC_SHA384,
            "HS512" => hmac::HMAC_SHA512,
            _ => return None,
        };
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).ok()?;
        hmac::verify(&hmac::Key::new(algorithm, secret), signed.as_bytes(), &signature).ok()?;
        let expired =
            payload.get("exp").is_some_and(|exp| exp.as_f64().is_none_or(|exp| exp <= now().as_secs() as f64));
        if expired {
            return None;
        }
    }
    match payload.get(claim)? {
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::config::{Format, Live, UserFiles, compile, load_text};
    use crate::latch::Latches;
    use crate::snapshot::Published;
    use crate::tally::Registry;
    use std::path::Path;
    use std::sync::Arc;

    /// The mark of a request from that peer under `unit = [units]`, and the unit that decides.
    fn asked(
        latches: &Latches,
        units: &str,
        peer: &str,
        headers: &[(&'static str, &str)],
    ) -> (UnitMark, Option<String>) {
        let text = format!(
            "trusted_proxies = [\"10.0.0.0/8\"]\n[[listeners]]\naddress = \"127.0.0.1:18080\"\n\
             [upstreams.u]\nendpoints = [\"127.0.0.1:9001\"]\n[rollouts.chat]\nunit = [{units}]\n\
             assign_cookie = \"id\"\nstable = {{ upstream = \"u\" }}\ncanary = {{ upstream = \"u\" }}\n"
        );
        let folder = Path::new("/");
        let loaded = load_text("weir.toml", &text, Format::Toml, folder, &[], &mut UserFiles::default());
        let config = loaded.expect("a config").config;
        let snapshot = compile(&config, &Live::default(), &mut Registry::new(1), latches, 1);
        let worker = Worker::new(0, Clock::system(), Arc::new(Published::new(1, snapshot)), None);
        let address: IpAddr = peer.parse().expect("an address");
        let client = Client::new((address, 1).into(), false, 0);
        let request =
            headers.iter().fold(http::Request::builder(), |builder, (name, value)| builder.header(*name, *value));
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        let adopted = worker.adopted();
        let trusted = adopted.snapshot.trusts(address);
        let asker =
            RequestAsker::new(&worker, &adopted.snapshot, &parts, Present::of(&parts.headers), &client, trusted);
        let unit = asker.unit(0).map(Cow::into_owned);
        (asker.mark(0), unit)
    }

    #[test]
    fn units_are_told_apart_by_what_the_request_brings_and_else_by_address() {
        let latches = Latches::default();
        let mark = |units, peer, headers: &[(&'static str, &str)]| asked(&latches, units, peer, headers).0;
        let by_header = |peer, unit| mark("\"header:x-user-id\"", peer, &[("x-user-id", unit)]);
        assert_eq!(by_header("192.0.2.1", "ann"), by_header("192.0.2.2", "ann"));
        assert_ne!(by_header("192.0.2.1", "ann"), by_header("192.0.2.1", "bob"));

        // An id minted for this request is new each time; the address is not.
        let (minted, again) = (
            asked(&latches, "\"header:x-user-id\"", "192.0.2.1", &[]),
            asked(&latches, "\"header:x-user-id\"", "192.0.2.1", &[]),
        );
        assert_ne!(minted.1, again.1);
        assert_eq!(minted.0, again.0);
        assert_eq!(minted.0, mark("\"client-ip\"", "192.0.2.1", &[]), "as where the address is the unit");
        assert_ne!(minted.0, mark("\"header:x-user-id\"", "192.0.2.2", &[]));
        assert_eq!(by_header("192.0.2.1", " "), minted.0, "an empty unit is none");
        // The cookie that keeps a minted id is the client's own unit from then on.
        assert_ne!(mark("\"header:x-user-id\"", "192.0.2.1", &[("cookie", "id=abc")]), minted.0);
    }

    #[test]
    fn the_address_is_the_one_that_a_trusted_proxy_forwards_for_and_of_ipv6_the_network() {
        let latches = Latches::default();
        let mark = |peer, forwarded: &str| asked(&latches, "\"client-ip\"", peer, &[("x-forwarded-for", forwarded)]).0;
        assert_eq!(mark("10.0.0.1", "192.0.2.9, 192.0.2.1, 10.0.0.2"), mark("192.0.2.1", "192.0.2.9"));
        assert_eq!(mark("2001:db8::1", ""), mark("2001:db8::ffff:1", ""));
        assert_ne!(mark("2001:db8::1", ""), mark("2001:db8:0:1::1", ""));
    }

    fn cookies(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (COOKIE, HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn crumbs_read_as_one_cookie_header() {
        let headers = cookies(&["a=1; session=", "session = x y ;b=2", "session=later"]);
        assert_eq!(cookie(&headers, "session").as_deref(), Some("x y"));
        assert_eq!(cookie(&headers, "b").as_deref(), Some("2"));
        assert_eq!(cookie(&headers, "ses"), None);
        let joined = HeaderMap::from_iter([(COOKIE, HeaderValue::from_bytes(b"a=\xff; session=u").unwrap())]);
        assert_eq!(cookie(&joined, "session").as_deref(), Some("u"), "as if it were a crumb of its own");
        assert_eq!(cookie(&joined, "a"), None);
    }

    #[test]
    fn forwarded_addresses_are_read_in_every_usual_form() {
        let read: Vec<String> = addresses("192.0.2.1, 192.0.2.2:80 ,2001:db8::1,[2001:db8::2]:443, junk")
            .map(|address| address.to_string())
            .collect();
        assert_eq!(read, ["2001:db8::2", "2001:db8::1", "192.0.2.2", "192.0.2.1"]);
    }

    fn token(header: &str, payload: &str, secret: &[u8]) -> String {
        let signed = format!("{}.{}", BASE64_URL_SAFE_NO_PAD.encode(header), BASE64_URL_SAFE_NO_PAD.encode(payload));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
        format!("Bearer {signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(tag))
    }

    #[test]
    fn a_claim_is_text_or_a_number() {
        let now = || Wall::from_millis(0);
        let bearer = token(r#"{"alg":"HS256"}"#, r#"{"sub":"alice","uid":42,"admin":true}"#, b"k");
        assert_eq!(jwt_claim(&bearer, "sub", None, now).as_deref(), Some("alice"));
        assert_eq!(jwt_claim(&bearer, "uid", None, now).as_deref(), Some("42"));
        assert_eq!(jwt_claim(&bearer, "admin", None, now), None);
        assert_eq!(jwt_claim(&bearer.replace("Bearer", "Basic"), "sub", None, now), None);
        assert_eq!(jwt_claim("Bearer x", "sub", None, now), None);
    }

    #[test]
    fn with_a_secret_only_a_signed_living_token_counts() {
        let secret = Secret(Arc::from(&b"secret"[..]));
        let now = || Wall::from_millis(1_000_000);
        let living = token(r#"{"alg":"HS256"}"#, r#"{"sub":"a","exp":1001}"#, b"secret");
        assert_eq!(jwt_claim(&living, "sub", Some(&secret), now).as_deref(), Some("a"));
        let expired = token(r#"{"alg":"HS256"}"#, r#"{"sub":"a","exp":1000}"#, b"secret");
        assert_eq!(jwt_claim(&expired, "sub", Some(&secret), now), None);
        let foreign = token(r#"{"alg":"HS256"}"#, r#"{"sub":"a"}"#, b"other");
        assert_eq!(jwt_claim(&foreign, "sub", Some(&secret), now), None);
        let unsigned = token(r#"{"alg":"none"}"#, r#"{"sub":"a"}"#, b"secret");
        assert_eq!(jwt_claim(&unsigned, "sub", Some(&secret), now), None);
    }
}
