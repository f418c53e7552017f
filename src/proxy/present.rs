//! Which of the fields that weir itself looks for a request has: one look over its head in place of a search for each, as most
//! requests have none of them. What nobody is to read is taken away in the same look, so that whatever weir decides by is what
//! the upstream sees.

use http::{HeaderMap, HeaderName};

/// The fields that are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// `connection`.
    pub connection: bool,
    /// `content-length`.
    pub content_length: bool,
    /// `transfer-encoding`.
    pub transfer_encoding: bool,
    /// `upgrade`.
    pub upgrade: bool,
    /// `x-request-id`.
    pub request_id: bool,
    /// `traceparent`.
    pub traceparent: bool,
    /// `x-weir-force`.
    pub force: bool,
    /// `cookie`.
    pub cookie: bool,
    /// `x-weir-shadow`.
    pub shadow: bool,
    /// What only a trusted peer can say.
    hearsay: bool,
    /// A name with `_`.
    underscore: bool,
}

impl Present {
    /// Looks over a head and takes away what nobody is to read of it: what peers say who are not trusted, and names with `_`.
    pub fn settle(headers: &mut HeaderMap, trusts: impl FnOnce() -> bool) -> Present {
        let present = Present::of(headers);
        let unfounded = present.hearsay && !trusts();
        if present.underscore || unfounded {
            let is_unwanted = |name: &&HeaderName| {
                let said = unfounded && is_hearsay(name.as_str()) && !STRANGERS_MAY.contains(&name.as_str());
                said || has_underscore(name.as_str())
            };
            let unwanted: Vec<HeaderName> = headers.keys().filter(is_unwanted).cloned().collect();
            for name in unwanted {
                headers.remove(name);
            }
        }
        present
    }

    /// Looks over a head.
    pub fn of(headers: &HeaderMap) -> Present {
        let mut present = Present::default();
        for name in headers.keys() {
            // By length first, which leaves one name to compare with.
            match (name.as_str().len(), name.as_str()) {
                // The usual ones: they pass without a further look.
                (4, "host") | (6, "accept") | (10, "user-agent") | (12, "content-type") => {}
                (15, "accept-encoding" | "accept-language") => {}
                (10, "connection") => present.connection = true,
                (14, "content-length") => present.content_length = true,
                (17, "transfer-encoding") => present.transfer_encoding = true,
                (7, "upgrade") => present.upgrade = true,
                (12, "x-request-id") => present.request_id = true,
                (11, "traceparent") => present.traceparent = true,
                (12, "x-weir-force") => present.force = true,
                (6, "cookie") => present.cookie = true,
                (13, "x-weir-shadow") => present.shadow = true,
                (_, name) => {
                    present.hearsay |= is_hearsay(name);
                    present.underscore |= has_underscore(name);
                }
            }
        }
        present
    }
}

/// What weir asks strangers for although its name begins as that of what they cannot say: a token proves itself, and a mark
/// against loops can only do without copies.
const STRANGERS_MAY: [&str; 2] = ["x-weir-force", "x-weir-shadow"];

/// Whether a field is the word of whoever stands in front: believed of a trusted peer alone.
pub fn is_hearsay(name: &str) -> bool {
    name.starts_with("x-forwarded-") || name.starts_with("x-weir-") || name == "x-real-ip" || name == "forwarded"
}

/// CGI-like services read `x_a` and `x-a` as one name, so the first could smuggle the second.
pub fn has_underscore(name: &str) -> bool {
    memchr::memchr(b'_', name.as_bytes()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn what_is_there_is_found_and_nothing_else() {
        let of = |names: &[&'static str]| {
            Present::of(&names.iter().map(|name| (name.parse().unwrap(), HeaderValue::from_static("1"))).collect())
        };
        assert_eq!(of(&["host", "x-upgrade", "connection-id"]), Present::default());
        assert_eq!(of(&["Upgrade", "host"]), Present { upgrade: true, ..Present::default() });
        let all = [
            "connection",
            "content-length",
            "transfer-encoding",
            "upgrade",
            "x-request-id",
            "traceparent",
            "x-weir-force",
            "cookie",
            "x-weir-shadow",
            "x-forwarded-for",
            "a_b",
        ];
        let every = Present {
            connection: true,
            content_length: true,
            transfer_encoding: true,
            upgrade: true,
            request_id: true,
            traceparent: true,
            force: true,
            cookie: true,
            shadow: true,
            hearsay: true,
            underscore: true,
        };
        assert_eq!(of(&all), every);
    }

    #[test]
    fn what_only_a_trusted_peer_can_say_is_not_there_from_others() {
        let names =
            ["forwarded", "x-forwarded-user", "x-real-ip", "x-weir-arm", "x-weir-force", "x-weir-shadow", "a_b", "x-a"];
        let left = |trusted| {
            let mut headers: HeaderMap =
                names.iter().map(|name| (name.parse().unwrap(), HeaderValue::from_static("1"))).collect();
            Present::settle(&mut headers, || trusted);
            names.into_iter().filter(|name| headers.contains_key(*name)).collect::<Vec<_>>()
        };
        assert_eq!(left(false), ["x-weir-force", "x-weir-shadow", "x-a"]);
        assert_eq!(left(true).len(), names.len() - 1, "all but the name that has two readings");
    }
}
