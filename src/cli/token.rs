//! `weir token`: signs a token that forces an arm, with the secret that the config names.

use super::args::{Global, Token};
use super::console::Console;
use super::files;
use super::stop::{Outcome, Stop};
use crate::clock::{Clock, Wall};
use crate::rollout::force::{TOKEN_BYTES_MAX, sign};
use crate::snapshot::Secret;
use serde_json::json;

/// Signs and prints the token alone, so that a script can use it as it is.
pub fn run(console: &mut Console, global: &Global, arguments: &Token) -> Outcome {
    let config = files::load(console, global, &arguments.config)?.config;
    let names = files::rollout_names(&config);
    if !names.contains(&arguments.rollout.as_str()) {
        return Err(files::unknown_rollout(&arguments.rollout, &names));
    }
    let Some(Secret(secret)) = &config.force.secret else {
        let file = arguments.config.display();
        return Err(Stop::Usage(format!("{file}: no secret to sign with; add `secret_file` under [force]")));
    };
    let lifetime_ms = u64::try_from(arguments.expires.as_millis()).unwrap_or(u64::MAX);
    let expires_ms = Clock::system().wall().as_millis().checked_add(lifetime_ms).filter(|ms| *ms < LAST_MS);
    let Some(expires) = expires_ms.map(Wall::from_millis) else {
        return Err(Stop::Usage("--expires: that is too far ahead".to_owned()));
    };
    let token = sign(secret, &arguments.rollout, arguments.arm, expires);
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Stop::Usage("the rollout's name is too long for a token".to_owned()));
    }
    let body = json!({
        "token": token, "rollout": arguments.rollout, "arm": arguments.arm.name(), "expires": expires.to_string(),
    });
    console.print(global, &body.to_string(), || Ok(token + "\n"))
}

/// The end of the year 9999, the last that RFC 3339 can write.
const LAST_MS: u64 = 253_402_300_799_000;
