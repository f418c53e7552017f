//! A client that survives whatever happens to its requests and says how each of them ended.

use super::client::{Client, read};
use super::piped::{piped, sized};
use super::raw::{RawClient, request};
use std::net::SocketAddr;

/// A client of weir that keeps its connection as long as it is any good.
pub struct Caller {
    address: SocketAddr,
    connection: Option<Connection>,
    http2: bool,
}

enum Connection {
    Http1(RawClient),
    Http2(Client),
}

/// A request.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The method.
    pub method: &'static str,
    /// Path and query.
    pub target: String,
    /// Fields besides framing.
    pub fields: Vec<(&'static str, String)>,
    /// The body.
    pub payload: Payload,
}

/// A request's body.
#[derive(Clone, Debug)]
pub enum Payload {
    /// None.
    Nothing,
    /// Of known length.
    Sized(String),
    /// Of unknown length, in these pieces.
    Chunked(Vec<String>),
}

/// How a request ended for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With a whole answer.
    Answer {
        /// The status.
        status: u16,
        /// Which origin gave it, if one did.
        origin: Option<String>,
        /// The body.
        body: String,
    },
    /// With an answer that was cut after its head; HTTP/2 may take the head back with the stream.
    Cut,
    /// With the connection, without any answer.
    Nothing,
}

impl Caller {
    /// One that has not connected yet.
    pub fn new(address: SocketAddr, http2: bool) -> Caller {
        Caller { address, connection: None, http2 }
    }

    /// Sends a request and reads its answer as far as it comes.
    pub async fn call(&mut self, ask: &Ask) -> Ending {
        let ending = match self.connection.take() {
            Some(Connection::Http1(client)) => self.http1(client, ask).await,
            Some(Connection::Http2(client)) if !client.is_closed() => self.http2(client, ask).await,
            _ if self.http2 => self.http2(Client::http2(self.address).await, ask).await,
            _ => self.http1(RawClient::connect(self.address).await, ask).await,
        };
        if !matches!(ending, Ending::Answer { status: 200, .. }) {
            // After an answer that came before the request's end, HTTP/1.1 connections may be over.
            self.connection = None;
        }
        ending
    }

    async fn http1(&mut self, mut client: RawClient, ask: &Ask) -> Ending {
        // What weir does not want to read any more does not matter: its answer does.
        let _ = client.wire.write(&text(ask)).await;
        let Some(answer) = client.try_answer().await else { return Ending::Nothing };
        if !answer.complete {
            return Ending::Cut;
        }
        if answer.field("connection").is_none_or(|value| !value.eq_ignore_ascii_case("close")) {
            self.connection = Some(Connection::Http1(client));
        }
        let origin = answer.field("x-origin").map(str::to_owned);
        Ending::Answer { status: answer.status, origin, body: answer.text() }
    }

    async fn http2(&mut self, mut client: Client, ask: &Ask) -> Ending {
        let body = match &ask.payload {
            Payload::Nothing => sized(""),
            Payload::Sized(text) => sized(text.clone()),
            Payload::Chunked(pieces) => {
                let (feed, body) = piped();
                let pieces = pieces.clone();
                tokio::spawn(async move {
                    for piece in pieces {
                        feed.data(piece).await;
                    }
                });
                body
            }
        };
        let fields: Vec<(&str, &str)> = ask.fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let request = client.request(ask.method, &ask.target, &fields, body);
        let response = match client.send(request).await {
            Ok(response) => response,
            Err(_) if client.is_closed() => return Ending::Nothing,
            Err(_) => return Ending::Cut,
        };
        self.connection = Some(Connection::Http2(client));
        let status = response.status().as_u16();
        match read(response).await {
            Ok(got) => {
                let origin = got.field("x-origin").map(str::to_owned);
                Ending::Answer { status, origin, body: String::from_utf8_lossy(&got.body).into_owned() }
            }
            Err(_) => Ending::Cut,
        }
    }
}

/// A request as HTTP/1.1 text.
fn text(ask: &Ask) -> Vec<u8> {
    let mut fields: Vec<(&str, &str)> = ask.fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    match &ask.payload {
        Payload::Nothing if ask.method == "POST" => {
            fields.push(("content-length", "0"));
            request(ask.method, &ask.target, &fields, b"")
        }
        Payload::Nothing => request(ask.method, &ask.target, &fields, b""),
        Payload::Sized(body) => request(ask.method, &ask.target, &fields, body.as_bytes()),
        Payload::Chunked(pieces) => {
            fields.push(("transfer-encoding", "chunked"));
            let mut bytes = request(ask.method, &ask.target, &fields, b"");
            for piece in pieces {
                bytes.extend_from_slice(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes());
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
            bytes
        }
    }
}
