//! A connection to a service: HTTP/1.1 or HTTP/2, over TLS or not.

use crate::shown::Shown;
use crate::{Failure, Options};
use bytes::Bytes;
use http::{Request, Response, Uri, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use std::error::Error;
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

/// Why there is no answer.
#[derive(Debug)]
pub struct Why {
    /// In a word.
    pub word: &'static str,
    /// In other words, where somebody said more.
    pub said: String,
    /// Whether the service did nothing of the request, so that it may be asked again.
    pub is_undone: bool,
}

impl Why {
    /// It failed there, and nobody knows how far it had got.
    pub fn at(word: &'static str, error: &dyn Error) -> Why {
        let mut said = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            // Some repeat their source in what they say.
            let more = error.to_string();
            if !said.contains(&more) {
                said = format!("{said}: {more}");
            }
            source = error.source();
        }
        Why { word, said, is_undone: false }
    }
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
        let port = match authority.port_u16() {
            Some(port) => port,
            // A user, or a port that is none.
            None if authority.as_str() != authority.host() => return Err(wrong().into()),
            None if secure => 443,
            None => 80,
        };
        let tls = if secure {
            let name = authority.host().trim_matches(['[', ']']).to_owned();
            let named = ServerName::try_from(name).map_err(|error| format!("{url}: {error}"))?;
            Some((TlsConnector::from(Arc::new(client(options)?)), named))
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
    pub async fn connect(&self) -> Result<Open, Why> {
        let stream = TcpStream::connect(&self.address).await.map_err(|error| Why::at("connect", &error))?;
        stream.set_nodelay(true).map_err(|error| Why::at("connect", &error))?;
        let Some((connector, name)) = &self.tls else { return open(stream, self.http2).await };
        let stream = connector.connect(name.clone(), stream).await.map_err(|error| Why::at("tls", &error))?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        open(stream, http2).await
    }
}

async fn open<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, http2: bool) -> Result<Open, Why> {
    let (stream, why) = (TokioIo::new(stream), |error| Why::at("connect", &error));
    if http2 {
        let (open, driver) = http2::handshake(TokioExecutor::new(), stream).await.map_err(why)?;
        tokio::task::spawn_local(driver);
        return Ok(Open::Http2(open));
    }
    let (mut open, driver) = http1::handshake(stream).await.map_err(why)?;
    tokio::task::spawn_local(driver);
    open.ready().await.map_err(why)?;
    Ok(Open::Http1(open))
}

/// Believes the system's authorities, or those of `--ca` instead; asks for the versions of HTTP that `--http` allows.
fn client(options: &Options) -> Result<ClientConfig, Failure> {
    let authorities = match &options.ca {
        Some(path) => {
            let wrong = |error: rustls_pki_types::pem::Error| format!("--ca {}: {error}", path.display());
            let read: Result<Vec<_>, _> =
                CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(wrong);
            let read = read?;
            if read.is_empty() {
                return Err(format!("--ca {}: there is no certificate in it", path.display()).into());
            }
            read
        }
        None => rustls_native_certs::load_native_certs().certs,
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let verifier = Arc::new(Shown::among(authorities, provider)?);
    let mut client = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
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
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Why> {
        let sent = match self {
            Open::Http1(open) => open.try_send_request(request).await,
            Open::Http2(open) => open.try_send_request(request).await,
        };
        sent.map_err(|failure| Why { is_undone: is_undone(&failure), ..Why::at("connection", failure.error()) })
    }
}

/// Whether nothing of the request was sent, or the service says that it did nothing of it: of a connection that goes away only
/// the streams beyond the last one that was taken end so.
fn is_undone(failure: &TrySendError<Request<Full<Bytes>>>) -> bool {
    let said = failure.error().source().and_then(|cause| cause.downcast_ref::<h2::Error>());
    let refused = |said: &h2::Error| said.is_reset() && said.reason() == Some(h2::Reason::REFUSED_STREAM);
    failure.message().is_some() || said.is_some_and(|said| said.is_remote() && (said.is_go_away() || refused(said)))
}
