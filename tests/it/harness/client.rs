//! A well-behaved client over one kept connection, HTTP/1.1 or HTTP/2, in clear text or over any stream.

use super::piped::{AnyBody, pairs, sized};
use super::wait::soon;
use super::wire::Stream;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::net::SocketAddr;
use std::pin::Pin;
use tokio::net::TcpStream;

/// One connection.
pub struct Client {
    sender: Sender,
}

enum Sender {
    Http1(http1::SendRequest<AnyBody>),
    Http2(http2::SendRequest<AnyBody>),
}

/// An answer on its way.
type Answering = Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>>;

/// One answer, read to its end.
#[derive(Clone, Debug)]
pub struct Got {
    /// The status.
    pub status: u16,
    /// Fields, names in lower case.
    pub fields: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
    /// The trailers.
    pub trailers: Vec<(String, String)>,
}

impl Got {
    /// The first field of that name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|problem| panic!("{problem} in {:?}", self.body))
    }

    /// Which origin answered, for `Reply::Hello`.
    pub fn origin(&self) -> &str {
        self.field("x-origin").unwrap_or_else(|| panic!("no origin answered: {self:?}"))
    }
}

impl Client {
    /// HTTP/1.1 in clear text.
    pub async fn http1(address: SocketAddr) -> Client {
        Client::over(tcp(address).await, false).await
    }

    /// HTTP/2 in clear text, by prior knowledge.
    pub async fn http2(address: SocketAddr) -> Client {
        Client::over(tcp(address).await, true).await
    }

    /// One of the two.
    pub async fn to(address: SocketAddr, http2: bool) -> Client {
        Client::over(tcp(address).await, http2).await
    }

    /// Over a stream that is there already.
    pub async fn over(stream: impl Stream + 'static, http2: bool) -> Client {
        let io = TokioIo::new(stream);
        let sender = if http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.expect("an HTTP/2 server");
            tokio::spawn(connection);
            Sender::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await.expect("an open connection");
            tokio::spawn(connection);
            Sender::Http1(sender)
        };
        Client { sender }
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    /// A request for this connection's protocol; `host` is `test` unless a field says otherwise.
    pub fn request(&self, method: &str, target: &str, fields: &[(&str, &str)], body: AnyBody) -> Request<AnyBody> {
        let host = fields.iter().find(|(name, _)| *name == "host").map_or("test", |(_, value)| value);
        let mut builder = Request::builder().method(method);
        builder = match &self.sender {
            Sender::Http1(_) => builder.uri(target).header("host", host),
            Sender::Http2(_) => builder.uri(format!("http://{host}{target}")).version(hyper::Version::HTTP_2),
        };
        for (name, value) in fields.iter().filter(|(name, _)| *name != "host") {
            builder = builder.header(*name, *value);
        }
        builder.body(body).expect("a test's request is valid")
    }

    /// Sends a request; the answer's body is left to the caller.
    pub async fn send(&mut self, request: Request<AnyBody>) -> hyper::Result<Response<Incoming>> {
        match &mut self.sender {
            Sender::Http1(sender) => {
                soon("the last answer's end", sender.ready()).await?;
                soon("an answer's head", sender.send_request(request)).await
            }
            Sender::Http2(sender) => {
                soon("a free stream", sender.ready()).await?;
                soon("an answer's head", sender.send_request(request)).await
            }
        }
    }

    /// Sends a request whose body may take longer than any event; who feeds it watches over that.
    pub fn send_patiently(&mut self, request: Request<AnyBody>) -> Answering {
        match &mut self.sender {
            Sender::Http1(sender) => Box::pin(sender.send_request(request)),
            Sender::Http2(sender) => Box::pin(sender.send_request(request)),
        }
    }

    /// Sends a request without waiting for room or for the answer; HTTP/2 only.
    pub fn begin(
        &mut self,
        request: Request<AnyBody>,
    ) -> impl Future<Output = hyper::Result<Response<Incoming>>> + use<> {
        match &mut self.sender {
            Sender::Http1(_) => panic!("HTTP/1.1 carries one request at a time"),
            Sender::Http2(sender) => sender.send_request(request),
        }
    }

    /// Sends a request and reads its answer to the end.
    pub async fn call(&mut self, method: &str, target: &str, fields: &[(&str, &str)], body: AnyBody) -> Got {
        let request = self.request(method, target, fields, body);
        let response = self.send(request).await.expect("an answer");
        read(response).await.expect("a whole answer")
    }

    /// Sends a GET and reads its answer to the end.
    pub async fn get(&mut self, target: &str, fields: &[(&str, &str)]) -> Got {
        self.call("GET", target, fields, sized("")).await
    }

    /// The arm of a unit by `x-user-id`, read from which origin answered.
    pub async fn origin_of(&mut self, unit: &str) -> String {
        self.get("/", &[("x-user-id", unit)]).await.origin().to_owned()
    }
}

/// Reads an answer to its end.
pub async fn read(response: Response<Incoming>) -> hyper::Result<Got> {
    let (parts, body) = response.into_parts();
    let collected = soon("an answer's body", body.collect()).await?;
    let trailers = collected.trailers().map(pairs).unwrap_or_default();
    Ok(Got { status: parts.status.as_u16(), fields: pairs(&parts.headers), body: collected.to_bytes(), trailers })
}

/// The next bytes of an answer's body; none at its proper end. HTTP/2 may end a body with an empty frame.
pub async fn next_data(body: &mut Incoming) -> Option<Bytes> {
    while let Some(frame) = soon("more of an answer's body", body.frame()).await {
        match frame.expect("an unbroken body").into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) => return Some(data),
            Err(_) => return None,
        }
    }
    None
}

/// A TCP connection without delay.
pub async fn tcp(address: SocketAddr) -> TcpStream {
    let stream = soon("a connection", TcpStream::connect(address)).await.expect("something listens there");
    stream.set_nodelay(true).expect("a TCP socket");
    stream
}
