//! The JSON form of how upstreams do: `GET /api/v1/upstreams`, and what `weir status` prints of it.

use crate::control::{EndpointReport, UpstreamReport};
use serde::{Deserialize, Serialize};

/// `GET /api/v1/upstreams`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Upstreams {
    /// In config order.
    pub upstreams: Vec<Upstream>,
}

/// One upstream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Upstream {
    /// Its name.
    pub name: String,
    /// Whether its endpoints are checked; if not, every one that has an address counts as healthy.
    pub checked: bool,
    /// Whether any of them is healthy; if not, its arm is tripped, or answers 503 if that is stable.
    pub healthy: bool,
    /// One per address, in config order.
    pub endpoints: Vec<Endpoint>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    /// `host:port` as configured.
    pub endpoint: String,
    /// What that stands for; null if it cannot be resolved.
    pub address: Option<String>,
    /// Whether requests may go there.
    pub healthy: bool,
    /// Since when, RFC 3339 in UTC; null if that has never changed.
    pub since: Option<String>,
    /// What its last check failed with; null if it passed or there was none.
    pub last_error: Option<String>,
}

impl Upstream {
    /// The form of a report.
    pub fn of(report: &UpstreamReport) -> Upstream {
        Upstream {
            name: report.name.to_string(),
            checked: report.checked,
            healthy: report.endpoints.iter().any(|endpoint| endpoint.healthy),
            endpoints: report.endpoints.iter().map(Endpoint::of).collect(),
        }
    }
}

impl Endpoint {
    fn of(report: &EndpointReport) -> Endpoint {
        Endpoint {
            endpoint: report.endpoint.to_string(),
            address: report.address.map(|address| address.to_string()),
            healthy: report.healthy,
            since: report.since.map(|time| time.to_string()),
            last_error: report.last_error.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Wall;
    use serde_json::json;

    #[test]
    fn an_upstream_has_its_endpoints_with_the_last_error() {
        let row = |healthy, address: Option<&str>, error: Option<&str>| EndpointReport {
            endpoint: "svc:80".into(),
            address: address.map(|text| text.parse().unwrap()),
            healthy,
            since: error.map(|_| Wall::from_millis(1_600_000_000_000)),
            last_error: error.map(str::to_owned),
        };
        let report = |endpoints| UpstreamReport { name: "new".into(), checked: true, endpoints };
        let endpoints = vec![row(true, Some("10.0.0.1:80"), None), row(false, Some("10.0.0.2:80"), Some("status 503"))];
        let expected = json!({
            "name": "new", "checked": true, "healthy": true,
            "endpoints": [
                {"endpoint": "svc:80", "address": "10.0.0.1:80", "healthy": true, "since": null, "last_error": null},
                {"endpoint": "svc:80", "address": "10.0.0.2:80", "healthy": false,
                 "since": "2020-09-13T12:26:40.000Z", "last_error": "status 503"},
            ],
        });
        assert_eq!(serde_json::to_value(Upstream::of(&report(endpoints))).unwrap(), expected);
        assert!(!Upstream::of(&report(vec![row(false, None, Some("no address"))])).healthy);
    }
}
