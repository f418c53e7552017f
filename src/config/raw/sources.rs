//! What criteria read besides the requests themselves: signals and queries, as they are written.

use crate::config::decode::{FilePath, Map, Spot, Url, section};
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
