//! A rollout, its arms and cohorts, as they are written.

use super::{Breaker, Shadow, Stage, Trigger};
use crate::config::decode::{Decode, Path};
use crate::config::decode::{FilePath, Map, SecretText, Shape, Spot, section, words};
use crate::config::problem::Problems;
use crate::config::tree::{Kind, Node};
use crate::rollout::bucket::Weight;

section! {
    /// One controlled change: who is bucketed, by what, and where the two arms lead.
    Rollout {
        /// Where the unit's id comes from, the first present wins: `header:NAME`, `cookie:NAME`, `query:NAME`, `jwt:CLAIM`, `client-ip`.
        unit: [optional] Vec<Spot<String>> = "[]",
        /// What the unit is hashed with; another salt deals all units anew. Default: the rollout's name.
        salt: [optional] String,
        /// Share of units on the canary. With stages a ceiling for every stage, by default `"100%"`.
        weight: [optional] Weight = "0%",
        /// Another rollout: only units on its canary may be on this one's.
        requires: [optional] String,
        /// `true` adds `x-weir-arm` to answers.
        expose_arm: [optional] bool = "false",
        /// Cookie that carries a minted id for visitors without a unit.
        assign_cookie: [optional] String,
        /// How units are hashed; other than `murmur3` and `siphash`, the scheme of a feature-flag product.
        hash: [optional] Hash = "murmur3",
        /// The flag's name in that product. Default: the rollout's name.
        hash_key: [optional] String,
        /// The scheme's seed, where it has one.
        hash_seed: [optional] Seed,
        /// File with the 16-byte key of `siphash`, raw or as 32 hex digits.
        hash_key_file: [optional] FilePath,
        /// File with the secret that `jwt:` units are verified with (HS256, HS384, HS512). Without it only the payload is read.
        jwt_secret_file: [optional] FilePath,
        /// The secret itself; only as an environment variable, `WEIR__ROLLOUTS__NAME__JWT_SECRET`.
        jwt_secret: [optional] SecretText,
        /// `true` sends everything to stable, whatever else is set.
        kill: [optional] bool = "false",
        /// `false` keeps the rollout pending: everything to stable.
        enabled: [optional] bool = "true",
        /// Whether a rollout with stages starts by itself when first served.
        autostart: [optional] bool = "true",
        /// The legacy arm.
        stable: [optional] Arm,
        /// The new arm.
        canary: [optional] Arm,
        /// Named sets of units with their own switch.
        cohorts: [optional] Map<Cohort> = "{}",
        /// Which outcomes count as the arm's failure.
        errors: [optional] Errors,
        /// The local circuit that sends the canary's units to stable when it fails; on unless it says otherwise.
        breaker: [optional] Breaker,
        /// The mirrored copy of requests.
        shadow: [optional] Shadow,
        /// The plan.
        stages: [optional] Vec<Spot<Stage>> = "[]",
        /// What is watched while stages run.
        triggers: [optional] Vec<Spot<Trigger>> = "[]",
    }
}

words! {
    /// How units are hashed.
    Hash {
        /// The native scheme.
        Murmur3 = "murmur3",
        /// SipHash-2-4 under a secret key.
        Siphash = "siphash",
        /// LaunchDarkly's.
        LaunchDarkly = "launchdarkly",
        /// Unleash's.
        Unleash = "unleash",
        /// GrowthBook's first.
        GrowthBookV1 = "growthbook-v1",
        /// GrowthBook's second.
        GrowthBook = "growthbook",
        /// flagd core 1.x.
        Flagd = "flagd",
        /// Optimizely's.
        Optimizely = "optimizely",
        /// Eppo's.
        Eppo = "eppo",
        /// Statsig's.
        Statsig = "statsig",
        /// Flipt's.
        Flipt = "flipt",
    }
}

/// The seed of a hash: text or a whole number.
#[derive(Clone, Debug)]
pub struct Seed(pub String);

impl Decode for Seed {
    fn shape() -> Shape {
        Shape::Either(vec![Shape::Text, Shape::Count])
    }

    fn decode(node: &Node, path: &Path<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        match node.kind {
            Kind::Integer(value) => Some(Seed(value.to_string())),
            _ => String::decode(node, path, problems).map(Seed),
        }
    }
}

section! {
    /// What an arm does: `upstream`, `respond`, or neither, then requests go where the route says.
    Arm {
        /// Where its requests go.
        upstream: [optional] String,
        /// A fixed answer.
        respond: [optional] Respond,
        /// Headers set on requests to the upstream.
        set_headers: [optional] Map<String> = "{}",
        /// Headers removed from them.
        remove_headers: [optional] Vec<Spot<String>> = "[]",
    }
}

section! {
    /// A fixed answer.
    Respond {
        /// Status, 200 to 599.
        status: [required] u32,
        /// Body.
        body: [optional] String = "",
        /// Headers.
        headers: [optional] Map<String> = "{}",
    }
}

section! {
    /// A named set of units: a unit belongs to it if any of its criteria says so.
    Cohort {
        /// Its switch.
        enabled: [optional] bool = "true",
        /// Ids of its members.
        users: [optional] Vec<Spot<String>> = "[]",
        /// File with one id a line; blank lines and lines that start with `#` are ignored.
        users_file: [optional] FilePath,
        /// Header with its exact value that opts a request in, e.g. `x-beta: 1`.
        header: [optional] String,
        /// Cookie with its exact value that opts a request in, e.g. `beta=1`.
        cookie: [optional] String,
        /// Share of all units, under a salt of its own.
        share: [optional] Weight,
        /// `true` keeps its members on stable for good.
        exclude: [optional] bool = "false",
    }
}

section! {
    /// Which outcomes count as the arm's failure, besides failures to answer at all.
    Errors {
        /// Statuses: `5xx`, `429` or `500-504`.
        statuses: [optional] Vec<Spot<String>> = "[\"5xx\"]",
        /// Whether a `grpc-status` that means server fault counts.
        grpc: [optional] bool = "true",
    }
}
