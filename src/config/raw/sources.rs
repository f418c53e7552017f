//! What criteria read besides the requests themselves: signals and queries, as they are written; and who is told of requests.

use crate::config::decode::{FilePath, Map, SecretText, Spot, Url, section};
use crate::rollout::bucket::Weight;
use std::time::Duration;

section! {
    /// A named rate: responses that match, and events that are posted to `/api/v1/signals/NAME`, per request.
    Signal {
        /// Which responses count; everything that is set must match. Without it only posted events count.
        when: [optional] SignalWhen,
    }
}

section! {
    /// Which responses a signal counts.
    SignalWhen {
        /// Headers with their exact values.
        response_header: [optional] Map<String> = "{}",
        /// Statuses: `"422"`, `"4xx"` or `"500-504"`.
        status: [optional] Vec<Spot<String>> = "[]",
        /// gRPC statuses by number, in head or trailers.
        grpc_status: [optional] Vec<Spot<u32>> = "[]",
        /// The route that the request took.
        route: [optional] String,
    }
}

section! {
    /// A value read from a Prometheus server.
    Query {
        /// The server.
        url: [required] Url,
        /// PEM file with the authorities that may sign its certificate. Default: those of the system.
        ca: [optional] FilePath,
        /// The query; its answer must be one number.
        expr: [required] String,
        /// Time between queries.
        interval: [optional] Duration = "5s",
        /// Time for the answer.
        timeout: [optional] Duration = "2s",
        /// Age from which a value is no data.
        max_age: [optional] Duration = "1m",
    }
}

section! {
    /// A collector that is told of requests as OpenTelemetry spans (OTLP over HTTP, as JSON).
    Traces {
        /// Where. `/v1/traces` is added unless it is there.
        url: [required] Url,
        /// PEM file with the authorities that may sign its certificate. Default: those of the system.
        ca: [optional] FilePath,
        /// File with a bearer token for `authorization`.
        token_file: [optional] FilePath,
        /// The token itself; only as the environment variable `WEIR__TRACES__TOKEN`.
        token: [optional] SecretText,
        /// Share of requests it is told of. A `traceparent` of a peer in `trusted_proxies` says it for its own requests.
        share: [optional] Weight = "1%",
        /// What weir is called there.
        service: [optional] String = "weir",
        /// Time for one try.
        timeout: [optional] Duration = "5s",
    }
}
