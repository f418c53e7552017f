//! The service that tests rehearse a rollout of.

/// Two upstreams behind a listener.
pub const SERVICE: &str = r#"
[[listeners]]
address = "127.0.0.1:18080"
[upstreams.legacy]
endpoints = ["127.0.0.1:9001"]
[upstreams.new]
endpoints = ["127.0.0.1:9002"]
"#;

/// A rollout from one to the other, without its stages.
pub const CHAT: &str = r#"
[rollouts.chat]
unit = ["header:x-user-id"]
stable = { upstream = "legacy" }
canary = { upstream = "new" }
"#;
