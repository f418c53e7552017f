//! The mirror and the comparison of its answers, as they are written.

use crate::config::decode::{Bytes, Spot, section};
use crate::rollout::bucket::Weight;
use std::time::Duration;

section! {
    /// The mirrored copy of requests, whose answers never reach a client.
    Shadow {
        /// Share of the units on stable.
        share: [optional] Weight = "0%",
        /// Methods that are mirrored.
        methods: [optional] Vec<Spot<String>> = "[\"GET\", \"HEAD\"]",
        /// Longest body that is mirrored.
        max_body: [optional] Bytes = "256KiB",
        /// Copies under way in the process.
        max_in_flight: [optional] u32 = "64",
        /// Time for the copy's answer.
        timeout: [optional] Duration = "10s",
        /// Memory of all copies in the process.
        max_memory: [optional] Bytes = "64MiB",
        /// Headers kept although they identify somebody: `authorization`, `cookie`.
        keep_headers: [optional] Vec<Spot<String>> = "[]",
        /// Comparison of the answers.
        diff: [optional] Diff,
    }
}

section! {
    /// Comparison of shadow and primary answers.
    Diff {
        /// Share of copies that are compared.
        share: [optional] Weight = "10%",
        /// Relative difference under which two numbers are equal.
        tolerance: [optional] f64 = "0.0",
        /// Difference under which two numbers are equal, whatever their size.
        absolute_tolerance: [optional] f64 = "0.0",
        /// Share of samples that may differ. Default: `tolerance`.
        max_diff_rate: [optional] Weight,
        /// What is not compared: JSON pointers with `*`, or `header:NAME`.
        ignore: [optional] Vec<Spot<String>> = "[]",
        /// What is compared and never shown, in the same form.
        redact: [optional] Vec<Spot<String>> = "[]",
        /// Share of samples that measure how much stable differs from itself.
        noise: [optional] Weight = "0%",
        /// Longest body that is compared.
        max_body: [optional] Bytes = "256KiB",
        /// Whether the order of lists matters.
        array_order: [optional] bool = "true",
        /// Whether fields that only the canary has are differences.
        added_fields: [optional] bool = "true",
    }
}
