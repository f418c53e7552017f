//! A client that sends exactly the bytes it is told and shows exactly what came back.

use super::wait::soon;
use super::wire::{Head, Left, Piece, Stream, Wire};
use std::fmt;
use std::net::SocketAddr;
use tokio::net::TcpStream;

/// One HTTP/1.1 connection.
pub struct RawClient {
    /// The connection, for what the methods do not offer.
    pub wire: Wire,
}

/// One answer.
#[derive(Clone)]
pub struct RawAnswer {
    /// The status.
    pub status: u16,
    /// Status line and fields.
    pub head: Head,
    /// The body, chunks joined.
    pub body: Vec<u8>,
    /// Trailers of a chunked body.
    pub trailers: Vec<(String, String)>,
    /// Whether the body came to its proper end.
    pub complete: bool,
}

impl RawAnswer {
    /// The first field of that name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.field(name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|problem| panic!("{problem} in {:?}", self.text()))
    }
}

impl fmt::Debug for RawAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.complete { "complete" } else { "cut" };
        write!(f, "{} {:?} {:?} ({end})", self.head.start, self.head.fields, self.text())
    }
}

impl RawClient {
    /// Connects over TCP.
    pub async fn connect(address: SocketAddr) -> RawClient {
        let stream = soon("a connection", TcpStream::connect(address)).await.expect("something listens there");
        stream.set_nodelay(true).expect("a TCP socket");
        RawClient::over(stream)
    }

    /// Speaks over a stream that is there already.
    pub fn over(stream: impl Stream + 'static) -> RawClient {
        RawClient { wire: Wire::new(stream) }
    }

    /// Sends these bytes, if the other side still takes them.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        soon("room to send", self.wire.write(bytes.as_ref())).await
    }

    /// Sends these bytes.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("the other side reads");
    }

    /// The next answer to a request that may have a body in its answer; 1xx are passed over.
    pub async fn answer(&mut self) -> RawAnswer {
        self.try_answer().await.expect("an answer before the end of the connection")
    }

    /// The next answer; none if the connection ended instead.
    pub async fn try_answer(&mut self) -> Option<RawAnswer> {
        let (head, mut left) = self.head().await?;
        let mut answer =
            RawAnswer { status: status(&head), head, body: Vec::new(), trailers: Vec::new(), complete: false };
        loop {
            match soon("the answer's body", self.wire.piece(&mut left)).await {
                Ok(Piece::Data(data)) => answer.body.extend_from_slice(&data),
                Ok(Piece::End(trailers)) => {
                    (answer.trailers, answer.complete) = (trailers, true);
                    return Some(answer);
                }
                Ok(Piece::Cut) | Err(_) => return Some(answer),
            }
        }
    }

    /// The next answer's head and what its body will be; none if the connection ended instead.
    pub async fn head(&mut self) -> Option<(Head, Left)> {
        loop {
            let head = soon("an answer's head", self.wire.head()).await.ok().flatten()?;
            match status(&head) {
                100..=199 => {}
                204 | 304 => return Some((head, Left::Nothing)),
                _ => {
                    let left = head.framing().unwrap_or(Left::UntilEnd);
                    return Some((head, left));
                }
            }
        }
    }

    /// Sends a request without body and returns its answer.
    pub async fn get(&mut self, target: &str, fields: &[(&str, &str)]) -> RawAnswer {
        self.send(request("GET", target, fields, b"")).await;
        self.answer().await
    }

    /// Whether the other side has ended the connection, waiting for it to happen.
    pub async fn ended(&mut self) -> bool {
        !matches!(soon("the end of the connection", self.wire.fill()).await, Ok(true))
    }
}

/// The bytes of a request; `host: test` unless the fields have one, `content-length` unless there is no body.
pub fn request(method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{method} {target} HTTP/1.1\r\n");
    if !fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        text.push_str("host: test\r\n");
    }
    for (name, value) in fields {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        text.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// One request on a connection of its own.
pub async fn call(address: SocketAddr, method: &str, target: &str, fields: &[(&str, &str)], body: &[u8]) -> RawAnswer {
    let mut client = RawClient::connect(address).await;
    client.send(request(method, target, fields, body)).await;
    client.answer().await
}

/// The status of a status line; 0 if it is none.
pub fn status(head: &Head) -> u16 {
    head.start.split(' ').nth(1).and_then(|digits| digits.parse().ok()).unwrap_or(0)
}
