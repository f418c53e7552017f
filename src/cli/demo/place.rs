//! Where the demo lives for its time: a folder with its config and state, removed on drop, and ports that are free.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

/// The demo's folder.
#[derive(Debug)]
pub struct Place {
    folder: PathBuf,
}

impl Place {
    /// Makes the folder and writes the config for a proxy in front of the two upstreams.
    pub fn make(legacy: SocketAddr, new: SocketAddr) -> io::Result<Place> {
        let name = format!("weir-demo-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let place = Place { folder: std::env::temp_dir().join(name) };
        std::fs::DirBuilder::new().mode(0o700).create(&place.folder)?;
        let (listener, admin) = (free_port(LISTENER_PORT)?, free_port(ADMIN_PORT)?);
        std::fs::write(place.config(), config(listener, admin, legacy, new))?;
        Ok(place)
    }

    /// The config file.
    pub fn config(&self) -> PathBuf {
        self.folder.join("weir.toml")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A listener on the usual port, or on any if that one is taken.
pub fn listen(usual: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, usual)).or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
}

/// The usual port, or one that is free at this moment.
fn free_port(usual: u16) -> io::Result<u16> {
    Ok(listen(usual)?.local_addr()?.port())
}

fn config(listener: u16, admin: u16, legacy: SocketAddr, new: SocketAddr) -> String {
    format!(
        r#"# Written by `weir demo` and removed when it ends.
state_dir = "state"
drain_timeout = "2s"

[[listeners]]
address = "127.0.0.1:{listener}"

[admin]
address = "127.0.0.1:{admin}"

[upstreams.legacy]
endpoints = ["{legacy}"]

[upstreams.new]
endpoints = ["{new}"]

[rollouts.demo]
unit = ["header:x-user-id"]
expose_arm = true
stable = {{ upstream = "legacy" }}
canary = {{ upstream = "new" }}

# Some seconds, as the demo lets time pass.
breaker = {{ cooldown = "10m" }}
{PLAN}"#
    )
}

/// What the rollout has besides its arms.
const PLAN: &str = r#"
[rollouts.demo.cohorts.testers]
users = ["tester-1", "tester-2"]

# Four hours, which the demo lets pass in a bit more than a minute: an hour in 20 seconds.
[[rollouts.demo.stages]]
name = "canary-5"
weight = "5%"
min_duration = "1h"
cohorts = ["testers"]
gates = ["error_rate <= stable + 0.5%", "p95 < 1.2 * stable"]

[[rollouts.demo.stages]]
name = "canary-25"
weight = "25%"
min_duration = "1h"
cohorts = ["testers"]
gates = ["error_rate <= stable + 0.5%", "p95 < 1.2 * stable"]

[[rollouts.demo.stages]]
name = "half"
weight = "50%"
min_duration = "1h"
cohorts = ["testers"]
gates = ["error_rate <= stable + 0.5%", "p95 < 1.2 * stable"]

[[rollouts.demo.stages]]
name = "everyone"
weight = "100%"
min_duration = "1h"
cohorts = ["testers"]
gates = ["error_rate < 1%"]

# A canary that fails on every second request may have no run of failures for a while; this comes within seconds.
[[rollouts.demo.triggers]]
name = "errors"
when = "error_rate > 5%"
window = "15m"
min_requests = 20
for = "3m"
action = "rollback"

[[rollouts.demo.triggers]]
name = "slow"
when = "p95 > 2 * stable"
window = "15m"
min_requests = 20
for = "6m"
action = "previous"
"#;
/// Where examples expect the proxy.
const LISTENER_PORT: u16 = 8080;
/// Where commands look for the admin address.
const ADMIN_PORT: u16 = 9900;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_private_and_goes_away() {
        use std::os::unix::fs::PermissionsExt;
        let upstream = "127.0.0.1:1".parse().unwrap();
        let place = Place::make(upstream, upstream).unwrap();
        let folder = place.config().parent().unwrap().to_owned();
        assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        let mut users = crate::config::UserFiles::default();
        let loaded = crate::config::load(&place.config(), &[], &mut users).unwrap();
        assert_eq!(loaded.config.rollouts[0].plan.stages.list.len(), 4);
        drop(place);
        assert!(!folder.exists());
    }

    #[test]
    fn a_port_that_is_taken_is_not_taken_twice() {
        let first = listen(0).unwrap();
        let usual = first.local_addr().unwrap().port();
        assert_ne!(free_port(usual).unwrap(), usual);
    }
}
