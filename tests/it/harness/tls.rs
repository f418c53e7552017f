//! A certificate for this machine's loopback, and TLS over it for clients and origins.

use super::client::tcp;
use super::wait::soon;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A self-signed certificate for `localhost` and `127.0.0.1`.
pub struct Certificate {
    /// As PEM.
    pub cert: String,
    /// Its key, as PEM.
    pub key: String,
}

impl Certificate {
    /// A new one.
    pub fn new() -> Certificate {
        Certificate::of(&["localhost", "127.0.0.1"])
    }

    /// A new one for these names.
    pub fn of(names: &[&str]) -> Certificate {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let pair = rcgen::generate_simple_self_signed(names).expect("the names are valid");
        Certificate { cert: pair.cert.pem(), key: pair.signing_key.serialize_pem() }
    }

    /// Writes `cert.pem` and `key.pem`.
    pub fn write(&self, folder: &Path) {
        self.write_as(folder, "cert", "key");
    }

    /// Writes it and its key under these names.
    pub fn write_as(&self, folder: &Path, cert: &str, key: &str) {
        std::fs::write(folder.join(format!("{cert}.pem")), &self.cert).expect("the folder is ours");
        std::fs::write(folder.join(format!("{key}.pem")), &self.key).expect("the folder is ours");
    }

    /// A server with it.
    pub fn server(&self, protocols: &[&str]) -> Arc<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![self.der()], self.private()))
            .expect("a certificate of ours");
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    /// Connects as a client that trusts this certificate alone.
    pub async fn connect(&self, address: SocketAddr, protocols: &[&str]) -> TlsStream<TcpStream> {
        self.try_connect(address, protocols).await.expect("a server with this certificate")
    }

    /// As `connect`; an error if the server is somebody else.
    pub async fn try_connect(&self, address: SocketAddr, protocols: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        self.try_connect_over(tcp(address).await, protocols).await
    }

    /// As `try_connect`, over a connection that is there already.
    pub async fn try_connect_over(
        &self,
        stream: TcpStream,
        protocols: &[&str],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        self.shake_hands(stream, "localhost", protocols, None).await
    }

    /// As `try_connect_over`, asking for that name, and as the client with that certificate if there is one.
    pub async fn shake_hands(
        &self,
        stream: TcpStream,
        name: &str,
        protocols: &[&str],
        own: Option<&Certificate>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der()).expect("a certificate of ours");
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider's own versions")
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => builder.with_client_auth_cert(vec![own.der()], own.private()).expect("a certificate of ours"),
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(name.to_owned()).expect("a valid name");
        soon("a TLS handshake", TlsConnector::from(Arc::new(config)).connect(name, stream)).await
    }

    fn private(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key of ours")
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.cert.as_bytes()).expect("a certificate of ours")
    }
}

/// The protocol that ALPN chose.
pub fn protocol(stream: &TlsStream<TcpStream>) -> String {
    String::from_utf8_lossy(stream.get_ref().1.alpn_protocol().unwrap_or_default()).into_owned()
}
