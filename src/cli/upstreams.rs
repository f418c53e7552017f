//! What `weir status` says of upstreams: the endpoints that get no requests, since when and why. Nothing while all is well.

use super::client::Client;
use super::render::{DASH, Paint, Table, Tone};
use super::stop::Stop;
use crate::admin::health::Upstreams;

/// The endpoints that are not healthy, as a table with an empty line before it; empty if there are none. A weir that knows
/// nothing of them says nothing: the rollouts are what was asked for.
pub fn sick(client: &Client, paint: Paint) -> String {
    let asked = client.ask("/api/v1/upstreams").and_then(|answer| answer.form::<Upstreams>());
    asked.map_or_else(|_: Stop| String::new(), |upstreams| table(&upstreams, paint))
}

/// The same of an answer that is there.
pub fn table(upstreams: &Upstreams, paint: Paint) -> String {
    let mut table = Table::new("<<<<<");
    table.head(["upstream", "endpoint", "health", "since", "last check"]);
    let mut any = false;
    for upstream in &upstreams.upstreams {
        for endpoint in upstream.endpoints.iter().filter(|endpoint| !endpoint.healthy) {
            any = true;
            let address = endpoint.address.as_ref().filter(|address| **address != endpoint.endpoint);
            let address = address.map_or(String::new(), |address| format!(" ({address})"));
            let word = if upstream.healthy { "unhealthy" } else { "unhealthy, like all of them" };
            let text = |text: &Option<String>| text.clone().unwrap_or_else(|| DASH.to_owned());
            table.tones([
                (Tone::Bold, upstream.name.clone()),
                (Tone::Plain, format!("{}{address}", endpoint.endpoint)),
                (if upstream.healthy { Tone::Yellow } else { Tone::Red }, word.to_owned()),
                (Tone::Plain, text(&endpoint.since)),
                (Tone::Plain, text(&endpoint.last_error)),
            ]);
        }
    }
    // The table cleans what came from elsewhere.
    if any { format!("\n{}", table.print(paint)) } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn upstreams(legacy: bool) -> Upstreams {
        let form = json!({"upstreams": [
            {"name": "legacy", "checked": true, "healthy": true, "endpoints": [
                {"endpoint": "127.0.0.1:9001", "address": "127.0.0.1:9001", "healthy": legacy,
                 "since": "2026-03-01T12:00:00.250Z", "last_error": if legacy { None } else { Some("status 503") }},
                {"endpoint": "127.0.0.1:9003", "address": "127.0.0.1:9003", "healthy": true,
                 "since": null, "last_error": null},
            ]},
            {"name": "new", "checked": false, "healthy": legacy, "endpoints": [
                {"endpoint": "svc:80", "address": null, "healthy": legacy, "since": null,
                 "last_error": "its name has no address"},
            ]},
        ]});
        serde_json::from_value(form).unwrap()
    }

    #[test]
    fn only_what_is_sick_is_shown_and_why() {
        let expected = "
upstream  endpoint        health                       since                     last check
legacy    127.0.0.1:9001  unhealthy                    2026-03-01T12:00:00.250Z  status 503
new       svc:80          unhealthy, like all of them  -                         its name has no address
";
        assert_eq!(table(&upstreams(false), Paint::default()), expected);
        assert_eq!(table(&upstreams(true), Paint::default()), "");
    }
}
