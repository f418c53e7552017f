//! A connection to a service: HTTP/1.1 or HTTP/2, over TLS or not.

use crate::{Failure, Options};
use bytes::Bytes;
use http::{Request, Response, Uri, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How a service is reached.
pub struct Dial {
    /// HOST:PORT, to connect to.
    address: String,
    /// What requests name as the service.
    authority: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// Whether a connection without TLS speaks HTTP/2.
    http2: bool,
}

/// A connection that is open.
pub enum Open {
    /// One request at a time.
    Http1(http1::SendRequest<Full<Bytes>>),
    /// Many.
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Dial {
    /// Reads `http://HOST:PORT` or `https://HOST:PORT`.
    pub fn to(url: &str, options: &Options) -> Result<Dial, Failure> {
        let wrong = || format!("{url}: write http://HOST:PORT or https://HOST:PORT");
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let authority = uri.authority().filter(|_| matches!(uri.path(), "" | "/")).ok_or_else(wrong)?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong().into()),
        };
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tls = if secure {
            let name = authority.host().trim_matches(['[', ']']).to_owned();
            Some((TlsConnector::from(Arc::new(client(options)?)), ServerName::try_from(name)?))
        } else {
            None
        };
        let http2 = options.http.as_deref() == Some("2");
        let address = format!("{}:{port}", authority.host());
        Ok(Dial { address, authority: authority.as_str().to_owned(), tls, http2 })
    }

    /// What requests name as the service, unless they say otherwise.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// A new connection.
    pub async fn connect(&self) -> Result<Open, &'static str> {
        let stream = TcpStream::connect(&self.address).await.map_err(|_| "connect")?;
        stream.set_nodelay(true).map_err(|_| "connect")?;
        let Some((connector, name)) = &self.tls else { return open(stream, self.http2).await };
        let stream = connector.connect(name.clone(), stream).await.map_err(|_| "tls")?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        open(stream, http2).await
    }
}

async fn open<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    http2: bool,
) -> Result<Open, &'static str> {
    let stream = TokioIo::new(stream);
    if http2 {
        let (open, driver) = http2::handshake(TokioExecutor::new(), stream).await.map_err(|_| "connect")?;
        tokio::task::spawn_local(driver);
        return Ok(Open::Http2(open));
    }
    let (mut open, driver) = http1::handshake(stream).await.map_err(|_| "connect")?;
    tokio::task::spawn_local(driver);
    open.ready().await.map_err(|_| "connect")?;
    Ok(Open::Http1(open))
}

/// Believes the system's authorities, or those of `--ca` instead; asks for the versions of HTTP that `--http` allows.
fn client(options: &Options) -> Result<ClientConfig, Failure> {
    let mut roots = RootCertStore::empty();
    match &options.ca {
        Some(path) => {
            let wrong = |error: rustls_pki_types::pem::Error| format!("--ca {}: {error}", path.display());
            for certificate in CertificateDer::pem_file_iter(path).map_err(wrong)? {
                roots.add(certificate.map_err(wrong)?)?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err("no certificate authority is known: name a file with --ca".into());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut client = builder.with_root_certificates(roots).with_no_client_auth();
    let wanted = options.http.as_deref();
    let spoken = [("2", &b"h2"[..]), ("1.1", b"http/1.1")];
    let offered = spoken.iter().filter(|(version, _)| wanted.is_none_or(|wanted| wanted == *version));
    client.alpn_protocols = offered.map(|(_, name)| name.to_vec()).collect();
    Ok(client)
}

impl Open {
    /// Whether it takes a request; waits for that.
    pub async fn is_ready(&mut self) -> bool {
        match self {
            Open::Http1(open) => open.ready().await.is_ok(),
            Open::Http2(open) => open.ready().await.is_ok(),
        }
    }

    /// The version that it speaks.
    pub fn version(&self) -> Version {
        match self {
            Open::Http1(_) => Version::HTTP_11,
            Open::Http2(_) => Version::HTTP_2,
        }
    }

    /// Another handle on it, where it takes several requests at once.
    pub fn another(&self) -> Option<Open> {
        match self {
            Open::Http1(_) => None,
            Open::Http2(open) => Some(Open::Http2(open.clone())),
        }
    }

    /// Sends a request; its answer's head.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Open::Http1(open) => open.send_request(request).await,
            Open::Http2(open) => open.send_request(request).await,
        }
    }
}
