//! Listeners and the admin address: who may connect, and how.

use super::Context;
use super::names::is_path;
use crate::config::decode::{FilePath, Spot};
use crate::config::model::{AdminAddress, AdminConfig, ListenerConfig};
use crate::config::raw::{self, Protocol};
use crate::config::tls;
use crate::config::tree::{Place, quoted};
use crate::snapshot::{ListenerTls, Secret};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// All listeners; at least one.
pub fn listeners(raw: &raw::Root, context: &mut Context<'_, '_>) -> Vec<ListenerConfig> {
    let Some(list) = &raw.listeners else { return Vec::new() };
    if list.value.is_empty() && !context.unread {
        context.problems.error(list.place, "listeners: weir needs at least one address to listen on");
    }
    super::at_most("listeners", list.value.len(), LISTENERS_MAX, list.place, context);
    let mut listeners: Vec<ListenerConfig> = Vec::new();
    for (index, spot) in list.value.iter().enumerate().take(LISTENERS_MAX) {
        let key = format!("listeners[{index}]");
        let Some(listener) = listener(&key, &spot.value, context) else { continue };
        let fixed = listener.address.port() != 0;
        if fixed && listeners.iter().any(|other| other.address == listener.address) {
            let place = spot.value.address.as_ref().map_or(spot.place, |address| address.place);
            context.problems.error(place, format!("{key}.address: another listener has {} already", listener.address));
        }
        listeners.push(listener);
    }
    listeners
}

/// The admin API, if there is one.
pub fn admin(raw: &raw::Root, listeners: &[ListenerConfig], context: &mut Context<'_, '_>) -> Option<AdminConfig> {
    let spot = raw.admin.as_ref()?;
    let admin = &spot.value;
    let place = admin.address.as_ref().map_or(spot.place, |address| address.place);
    let text = admin.address.as_ref().map_or(ADMIN_ADDRESS, |address| &address.value.0);
    let token = context.secret("admin.token", admin.token.as_ref(), admin.token_file.as_ref());
    if let Some(token) = &token {
        let place = admin.token_file.as_ref().map_or(spot.place, |file| file.place);
        context.strong_enough("admin.token_file", &token.0, place);
    }
    let read_token = read_token(admin, spot.place, token.as_ref(), context);
    let address = match text.strip_prefix("unix:") {
        Some(path) => AdminAddress::Unix(socket_path(path, place, context)?),
        None => AdminAddress::Tcp(socket_address("admin.address", text, place, context)?),
    };
    if let AdminAddress::Tcp(tcp) = &address {
        let asked_for = admin.token.is_some() || admin.token_file.is_some() || context.redacted;
        if !tcp.ip().is_loopback() && !asked_for {
            let message = format!("admin.address: {tcp} can be reached by others, so `token_file` must name a token");
            let help = "use a loopback address such as \"127.0.0.1:9900\", \"unix:PATH\", or add token_file";
            context.problems.error(place, message).with_help(help);
        }
        if listeners.iter().any(|listener| listener.address == *tcp && tcp.port() != 0) {
            context.problems.error(place, format!("admin.address: a listener has {tcp} already"));
        }
    }
    Some(AdminConfig { address, token, read_token })
}

/// The token of those who may only look.
fn read_token(
    admin: &raw::Admin,
    section: Place,
    token: Option<&Secret>,
    context: &mut Context<'_, '_>,
) -> Option<Secret> {
    let place = admin.read_token_file.as_ref().map_or(section, |file| file.place);
    let read_token = context.secret("admin.read_token", admin.read_token.as_ref(), admin.read_token_file.as_ref())?;
    context.strong_enough("admin.read_token_file", &read_token.0, place);
    let asked_for = admin.token.is_some() || admin.token_file.is_some() || context.redacted;
    if !asked_for {
        let message = "admin.read_token_file: without `token_file` whoever reaches the address may act";
        context.problems.error(place, message).with_help("add token_file, the token of those who may act");
    }
    if token.is_some_and(|token| token.0 == read_token.0) {
        let message = "admin.read_token_file: it is the token of `token_file`, so nobody could only look";
        context.problems.error(place, message);
    }
    Some(read_token)
}

/// A certificate and its key, read.
pub struct IdentityFiles {
    cert: (PathBuf, Vec<u8>),
    key: (PathBuf, Vec<u8>),
}

impl IdentityFiles {
    /// Reads both. None after a problem.
    pub fn read(
        key: &str,
        cert: Option<&Spot<FilePath>>,
        private: Option<&Spot<FilePath>>,
        context: &mut Context<'_, '_>,
    ) -> Option<Self> {
        let mut read = |name: &str, spot: Option<&Spot<FilePath>>| context.file(&format!("{key}.{name}"), spot?);
        // Both are read before either may fail, so that both are reported.
        let (cert, key) = (read("cert", cert), read("key", private));
        Some(IdentityFiles { cert: cert?, key: key? })
    }

    /// As `tls` takes it.
    pub fn identity(&self) -> tls::Identity<'_> {
        tls::Identity {
            cert: tls::Pem { path: &self.cert.0, bytes: &self.cert.1 },
            key: tls::Pem { path: &self.key.0, bytes: &self.key.1 },
        }
    }
}

fn listener(key: &str, raw: &raw::Listener, context: &mut Context<'_, '_>) -> Option<ListenerConfig> {
    let protocols = protocols(key, raw, context);
    let tls = raw.tls.as_ref().and_then(|spot| listener_tls(&format!("{key}.tls"), spot, &protocols, context));
    for (name, spot) in [("flags_path", &raw.flags_path), ("vitals_path", &raw.vitals_path)] {
        if let Some(spot) = spot.as_ref().filter(|spot| !is_path(&spot.value)) {
            let message = format!("{key}.{name}: expected a path such as \"/flags\", found {}", quoted(&spot.value));
            context.problems.error(spot.place, message);
        }
    }
    if let (Some(flags), Some(vitals)) = (&raw.flags_path, &raw.vitals_path)
        && flags.value == vitals.value
    {
        context.problems.error(vitals.place, format!("{key}.vitals_path: is the `flags_path` already"));
    }
    let spot = raw.address.as_ref()?;
    let address = socket_address(&format!("{key}.address"), &spot.value, spot.place, context)?;
    Some(ListenerConfig {
        address,
        label: Arc::from(spot.value.as_str()),
        tls,
        proxy_protocol: raw.proxy_protocol.as_ref().is_some_and(|spot| spot.value),
        http1: protocols.contains(&Protocol::Http1),
        http2: protocols.contains(&Protocol::H2),
        flags_path: raw.flags_path.as_ref().map(|path| Arc::from(path.value.as_str())),
        vitals_path: raw.vitals_path.as_ref().map(|path| Arc::from(path.value.as_str())),
    })
}

fn listener_tls(
    key: &str,
    spot: &Spot<raw::ListenerTls>,
    protocols: &[Protocol],
    context: &mut Context<'_, '_>,
) -> Option<Arc<ListenerTls>> {
    let raw = &spot.value;
    let first = IdentityFiles::read(key, raw.cert.as_ref(), raw.key.as_ref(), context);
    let others = raw.certs.as_ref().map(|certs| certs.value.as_slice()).unwrap_or_default();
    let mut identities = vec![first];
    for (index, files) in others.iter().enumerate().take(CERTIFICATES_MAX) {
        let key = format!("{key}.certs[{index}]");
        identities.push(IdentityFiles::read(&key, files.value.cert.as_ref(), files.value.key.as_ref(), context));
    }
    super::at_most(&format!("{key}.certs"), others.len(), CERTIFICATES_MAX, spot.place, context);
    if let (Some(auth), None) = (&raw.client_auth, &raw.client_ca) {
        let message =
            format!("{key}.client_auth: has no effect without `client_ca`, which says whose certificates count");
        context.problems.error(auth.place, message);
    }
    let ca = match &raw.client_ca {
        Some(file) => Some(context.file(&format!("{key}.client_ca"), file)?),
        None => None,
    };
    let identities: Vec<IdentityFiles> = identities.into_iter().collect::<Option<_>>()?;
    let identities: Vec<_> = identities.iter().map(IdentityFiles::identity).collect();
    let clients = ca.as_ref().map(|(path, bytes)| tls::ClientAuth {
        ca: tls::Pem { path, bytes },
        optional: raw.client_auth.as_ref().is_some_and(|auth| auth.value == raw::ClientAuth::Optional),
    });
    let names: Vec<&str> = protocols.iter().map(|protocol| protocol.word()).collect();
    let config = tls::server(&identities, clients, &names);
    config.map_err(|reason| context.problems.error(spot.place, format!("{key}: {reason}")).severity).ok().map(Arc::new)
}

fn protocols(key: &str, raw: &raw::Listener, context: &mut Context<'_, '_>) -> Vec<Protocol> {
    let Some(list) = &raw.protocols else { return vec![Protocol::H2, Protocol::Http1] };
    if list.value.is_empty() {
        context.problems.error(list.place, format!("{key}.protocols: a listener speaks at least one protocol"));
    }
    list.value.iter().map(|protocol| protocol.value).collect()
}

fn socket_address(key: &str, text: &str, place: Place, context: &mut Context<'_, '_>) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let message = format!("{key}: expected an address with port such as \"127.0.0.1:8080\", found {}", quoted(text));
    let problem = context.problems.error(place, message);
    let meant = match text.rsplit_once(':') {
        Some(("localhost", port)) => format!("127.0.0.1:{port}"),
        Some(("" | "*", port)) => format!("0.0.0.0:{port}"),
        _ if text.parse::<u16>().is_ok() => format!("0.0.0.0:{text}"),
        _ => String::new(),
    };
    if meant.parse::<SocketAddr>().is_ok() {
        problem.with_help(format!("did you mean \"{meant}\"?"));
    }
    None
}

fn socket_path(path: &str, place: Place, context: &mut Context<'_, '_>) -> Option<PathBuf> {
    let absolute = context.path(path);
    if path.is_empty() || absolute.as_os_str().len() > UNIX_PATH_BYTES_MAX {
        let message = format!("admin.address: expected `unix:` and a path of at most {UNIX_PATH_BYTES_MAX} bytes");
        context.problems.error(place, message);
        return None;
    }
    Some(absolute)
}

/// Each handshake looks through them.
const CERTIFICATES_MAX: usize = 64;
/// Each listener has a socket per worker.
const LISTENERS_MAX: usize = 64;
/// `sun_path` of Linux without its closing zero.
const UNIX_PATH_BYTES_MAX: usize = 107;
/// The usual admin address.
const ADMIN_ADDRESS: &str = "127.0.0.1:9900";
