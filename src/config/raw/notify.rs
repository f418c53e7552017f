//! Who is told of what happens, as it is written.

use crate::config::decode::{FilePath, SecretText, Spot, Url, section, words};
use std::time::Duration;

section! {
    /// Who is told of what happens.
    Notify {
        /// How.
        kind: [required] NotifyKind,
        /// What logs and `/readyz` call it, and by what it is known when its address changes. Default: kind and host.
        name: [optional] String,
        /// Where. A webhook and Slack are called as it stands; to an Alertmanager `/api/v2/alerts` is added unless it is there.
        url: [optional] Url,
        /// File with the URL, instead of `url`, where the URL is a secret.
        url_file: [optional] FilePath,
        /// PEM file with the authorities that may sign its certificate. Default: those of the system.
        ca: [optional] FilePath,
        /// File with a bearer token for `authorization`.
        token_file: [optional] FilePath,
        /// The token itself; only as an environment variable such as `WEIR__NOTIFY__0__TOKEN`.
        token: [optional] SecretText,
        /// Of what. Default: everything.
        events: [optional] Vec<Spot<NotifyEvent>>,
        /// Of which rollouts. Default: all.
        rollouts: [optional] Vec<Spot<String>>,
        /// Time for one try.
        timeout: [optional] Duration = "5s",
        /// Age from which an event that could not be delivered is not tried again.
        max_age: [optional] Duration = "24h",
    }
}

words! {
    /// How somebody is told.
    NotifyKind {
        /// JSON by POST.
        Webhook = "webhook",
        /// A Slack webhook.
        Slack = "slack",
        /// An Alertmanager.
        Alertmanager = "alertmanager",
    }
}

words! {
    /// What somebody is told of.
    NotifyEvent {
        /// A stage began.
        Stage = "stage",
        /// A stage waits for approval.
        Approval = "approval",
        /// A trigger alerts.
        Alert = "alert",
        /// A rollout paused.
        Pause = "pause",
        /// It goes on.
        Resume = "resume",
        /// The breaker tripped.
        Trip = "trip",
        /// It closed.
        Recover = "recover",
        /// A rollout was rolled back.
        Rollback = "rollback",
        /// Stable is sick after a rollback.
        Escalate = "escalate",
        /// Somebody killed a rollout.
        Kill = "kill",
        /// Somebody revived it.
        Revive = "revive",
        /// A rollout is complete.
        Complete = "complete",
    }
}
