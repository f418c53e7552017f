//! Which of the fields that weir itself looks for a request has: one look over its head in place of a search for each, as most
//! requests have none of them.

use http::HeaderMap;

/// The fields that are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// `connection`.
    pub connection: bool,
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
}

impl Present {
    /// Looks over a head.
    pub fn of(headers: &HeaderMap) -> Present {
        let mut present = Present::default();
        for name in headers.keys() {
            match name.as_str() {
                "connection" => present.connection = true,
                "transfer-encoding" => present.transfer_encoding = true,
                "upgrade" => present.upgrade = true,
                "x-request-id" => present.request_id = true,
                "traceparent" => present.traceparent = true,
                "x-weir-force" => present.force = true,
                "cookie" => present.cookie = true,
                _ => {}
            }
        }
        present
    }
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
        let all =
            ["connection", "transfer-encoding", "upgrade", "x-request-id", "traceparent", "x-weir-force", "cookie"];
        let every = Present {
            connection: true,
            transfer_encoding: true,
            upgrade: true,
            request_id: true,
            traceparent: true,
            force: true,
            cookie: true,
        };
        assert_eq!(of(&all), every);
    }
}
