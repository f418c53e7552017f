//! Certificates and keys to rustls configs: TLS 1.2 and 1.3, aws-lc-rs, ALPN prepared, no early data. A listener may have several
//! certificates, of which the name that a client asks for chooses, and may ask clients for theirs.
//!
//! Reads files and reports what is wrong with them as one sentence. Called by `validate`; the data plane only uses the result.

use crate::snapshot::ListenerTls;
use rustls::client::verify_server_name;
use rustls::crypto::aws_lc_rs;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// The bytes of a PEM file and the path that messages name.
#[derive(Clone, Copy, Debug)]
pub struct Pem<'a> {
    /// Where it was read.
    pub path: &'a Path,
    /// Its content.
    pub bytes: &'a [u8],
}

/// A certificate chain and its key.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// The chain, the leaf first.
    pub cert: Pem<'a>,
    /// The key.
    pub key: Pem<'a>,
}

/// What clients of a listener are asked for.
#[derive(Clone, Copy, Debug)]
pub struct ClientAuth<'a> {
    /// Who may have signed their certificates.
    pub ca: Pem<'a>,
    /// Whether one without a certificate is let in.
    pub optional: bool,
}

/// TLS of a listener. A client that names none of the identities' hosts gets the first of them; `protocols` are ALPN names in
/// order of preference.
pub fn server(
    identities: &[Identity<'_>],
    clients: Option<ClientAuth<'_>>,
    protocols: &[&str],
) -> Result<ListenerTls, String> {
    let mut provider = aws_lc_rs::default_provider();
    // The sort is stable: what is alike in this keeps its order.
    provider.cipher_suites.sort_by_key(|suite| !is_light(suite.suite()));
    let provider = Arc::new(provider);
    let mut certificates = Vec::new();
    for identity in identities {
        let (chain, key) = (chain(identity.cert)?, key(identity.key)?);
        let certified = CertifiedKey::from_der(chain, key, &provider).map_err(|error| mismatch(*identity, &error))?;
        certificates.push(Arc::new(certified));
    }
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(VERSIONS)
        .map_err(|error| format!("TLS cannot be set up: {error}"))?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(ClientAuth { ca, optional }) => {
            let roots = Arc::new(private_roots(ca)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            let verifier = if optional { verifier.allow_unauthenticated() } else { verifier };
            let unusable = |error| format!("{} cannot be used: {error}", ca.path.display());
            builder.with_client_cert_verifier(verifier.build().map_err(unusable)?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(ByName(certificates)));
    config.alpn_protocols = alpn(protocols);
    config.max_early_data_size = 0;
    if clients.is_some() {
        // A resumed session is not asked for its certificate again, and would outlive a change of the authorities.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    } else if let Some(ticketer) = shared_ticketer() {
        config.ticketer = ticketer;
    }
    let in_clients_order = Arc::new(config.clone());
    config.ignore_client_order = true;
    Ok(ListenerTls { in_own_order: Arc::new(config), in_clients_order })
}

/// Whether a suite goes with SHA-256, which processors have instructions for. A full handshake hashes so often that with
/// SHA-384 it takes a sixth more of weir's time.
fn is_light(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    )
}

/// The first certificate that is valid for the name which the client asks for, else the first of all.
#[derive(Debug)]
struct ByName(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let first = self.0.first()?;
        let named = hello.server_name().filter(|_| self.0.len() > 1).and_then(|name| {
            let name = ServerName::try_from(name).ok()?;
            self.0.iter().find(|certified| is_for(certified, &name))
        });
        Some(Arc::clone(named.unwrap_or(first)))
    }
}

fn is_for(certified: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let leaf = certified.cert.first().and_then(|leaf| ParsedCertificate::try_from(leaf).ok());
    leaf.is_some_and(|leaf| verify_server_name(&leaf, name).is_ok())
}

/// TLS towards an upstream; without `ca` the system's authorities are trusted.
pub fn client(
    ca: Option<Pem<'_>>,
    identity: Option<Identity<'_>>,
    protocol: &str,
) -> Result<Arc<ClientConfig>, String> {
    let roots = match ca {
        Some(ca) => private_roots(ca)?,
        None => system_roots()?,
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(VERSIONS)
        .map_err(|error| format!("TLS cannot be set up: {error}"))?
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder
            .with_client_auth_cert(chain(identity.cert)?, key(identity.key)?)
            .map_err(|error| mismatch(identity, &error))?,
    };
    config.alpn_protocols = alpn(&[protocol]);
    config.enable_early_data = false;
    Ok(Arc::new(config))
}

fn chain(pem: Pem<'_>) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.bytes).collect();
    match certificates {
        Ok(chain) if chain.is_empty() => Err(format!("{} holds no PEM certificate", pem.path.display())),
        Ok(chain) => Ok(chain),
        Err(error) => Err(format!("{} is no PEM file: {error}", pem.path.display())),
    }
}

fn key(pem: Pem<'_>) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem.bytes).map_err(|error| match error {
        rustls_pki_types::pem::Error::NoItemsFound => {
            let encrypted = memchr::memmem::find(pem.bytes, b"ENCRYPTED PRIVATE KEY").is_some();
            let hint = if encrypted { ": it is encrypted, and weir asks for no passphrase" } else { "" };
            format!("{} holds no PEM private key{hint}", pem.path.display())
        }
        // The error itself may quote a line of the key.
        _ => format!("{} is no PEM file", pem.path.display()),
    })
}

fn mismatch(identity: Identity<'_>, error: &rustls::Error) -> String {
    let (cert, key) = (identity.cert.path.display(), identity.key.path.display());
    match error {
        rustls::Error::InconsistentKeys(_) => format!("the key {key} does not belong to the certificate {cert}"),
        other => format!("{cert} and {key} cannot be used: {other}"),
    }
}

fn private_roots(ca: Pem<'_>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(ca)? {
        let added = roots.add(certificate);
        added.map_err(|error| format!("{} holds a certificate that cannot be used: {error}", ca.path.display()))?;
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    // Systems carry certificates that no library accepts; one that can be used is enough to start with.
    let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    match added {
        0 => Err("this system has no certificate authorities: name a file by `tls.ca`".to_owned()),
        _ => Ok(roots),
    }
}

/// One ticketer for the life of the process, so that sessions survive a change of certificates.
fn shared_ticketer() -> Option<Arc<dyn ProducesTickets>> {
    static TICKETER: OnceLock<Option<Arc<dyn ProducesTickets>>> = OnceLock::new();
    TICKETER.get_or_init(|| aws_lc_rs::Ticketer::new().ok()).clone()
}

fn alpn(protocols: &[&str]) -> Vec<Vec<u8>> {
    protocols.iter().map(|name| name.as_bytes().to_vec()).collect()
}

const VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
