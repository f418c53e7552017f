//! A WebSocket peer written by hand, for either end: frames as they stand on the wire, and every way to end.

use super::raw::{request, status};
use super::wait::soon;
use super::wire::{Head, Stream, Wire};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// Opcodes of RFC 6455 §5.2.
pub const TEXT: u8 = 1;
/// Arbitrary bytes.
pub const BINARY: u8 = 2;
/// The end.
pub const CLOSE: u8 = 8;

/// The key of the RFC's example, and what a server answers to it (§1.3).
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// One end of a WebSocket.
pub struct Peer {
    /// The connection, for what the methods do not offer.
    pub wire: Wire,
    /// A second handle on the socket, for a reset.
    socket: Option<socket2::Socket>,
    /// A client masks what it sends.
    masks: bool,
}

/// One message in one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its opcode.
    pub opcode: u8,
    /// Its payload, without the mask.
    pub payload: Bytes,
}

impl Frame {
    /// The code of a Close frame.
    pub fn code(&self) -> u16 {
        assert_eq!(self.opcode, CLOSE, "{self:?} is no Close frame");
        self.payload.get(..2).map_or(0, |code| u16::from_be_bytes([code[0], code[1]]))
    }
}

impl Peer {
    /// A client that connects and asks for a WebSocket; the head of the answer.
    pub async fn ask(address: SocketAddr, target: &str, unit: &str) -> (Peer, Head) {
        let stream = soon("a connection", TcpStream::connect(address)).await.expect("something listens there");
        let socket = socket(&stream);
        Peer::ask_over(stream, Some(socket), target, unit, b"").await
    }

    /// A client on a stream that carries a WebSocket already.
    pub fn over(stream: impl Stream + 'static) -> Peer {
        Peer { wire: Wire::new(stream), socket: None, masks: true }
    }

    /// The same over a stream that is there already, with bytes sent behind the head.
    pub async fn ask_over(
        stream: impl Stream + 'static,
        socket: Option<socket2::Socket>,
        target: &str,
        unit: &str,
        behind: &[u8],
    ) -> (Peer, Head) {
        let mut peer = Peer { wire: Wire::new(stream), socket, masks: true };
        let fields = [
            ("x-user-id", unit),
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", KEY),
            ("sec-websocket-protocol", "chat, superchat"),
        ];
        let bytes = [&request("GET", target, &fields, b"")[..], behind].concat();
        peer.write(&bytes).await;
        let head = soon("the answer to a handshake", peer.wire.head()).await.ok().flatten();
        (peer, head.expect("an answer"))
    }

    /// A client with an open WebSocket.
    pub async fn connect(address: SocketAddr, unit: &str) -> Peer {
        let (peer, head) = Peer::ask(address, "/socket", unit).await;
        assert_eq!(status(&head), 101, "{head:?}");
        peer
    }

    /// Sends exactly these bytes.
    pub async fn write(&mut self, bytes: &[u8]) {
        soon("room to send", self.wire.write(bytes)).await.expect("the other side reads");
    }

    /// Sends a message in one frame.
    pub async fn send(&mut self, opcode: u8, payload: &[u8]) {
        let bytes = frame(opcode, payload, self.masks);
        self.write(&bytes).await;
    }

    /// Sends a Close frame.
    pub async fn close(&mut self, code: u16) {
        self.send(CLOSE, &code.to_be_bytes()).await;
    }

    /// The next frame; none if the connection ended instead.
    pub async fn next(&mut self) -> Option<Frame> {
        let [first, second] = self.take(2).await?[..] else { return None };
        assert_eq!(first & 0x70, 0, "reserved bits");
        assert_eq!(second & 0x80 == 0, self.masks, "a client masks, and a server does not");
        let length = match second & 0x7f {
            126 => self.take(2).await?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)),
            127 => self.take(8).await?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)),
            length => usize::from(length),
        };
        let mask = if self.masks { Bytes::from_static(&[0; 4]) } else { self.take(4).await? };
        let payload = self.take(length).await?;
        let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        Some(Frame { opcode: first & 0x0f, payload })
    }

    /// The next frame, which must come.
    pub async fn frame(&mut self) -> Frame {
        self.next().await.expect("a frame before the end of the connection")
    }

    /// Sends each frame back, the Close frame included, until the other side ends, however long that takes.
    pub async fn echo(mut self) {
        while self.wire.peeked().await.unwrap_or(false) {
            let Some(frame) = self.next().await else { return };
            self.send(frame.opcode, &frame.payload).await;
        }
    }

    /// Whether the other side has ended the connection, waiting for it to happen.
    pub async fn ended(&mut self) -> bool {
        !matches!(soon("the end of the connection", self.wire.fill()).await, Ok(true))
    }

    /// Says that nothing more will be sent.
    pub async fn shut(&mut self) {
        self.wire.close().await.expect("an open connection");
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        let socket = self.socket.as_ref().expect("a socket of its own");
        socket.set_linger(Some(Duration::ZERO)).expect("an open socket");
    }

    async fn take(&mut self, length: usize) -> Option<Bytes> {
        soon("bytes of a frame", self.wire.exactly(length)).await.ok().flatten()
    }
}

/// An upstream whose connections a test plays by hand.
pub struct Sockets {
    /// Where it listens.
    pub address: SocketAddr,
    listener: TcpListener,
}

impl Sockets {
    /// Listens.
    pub async fn start() -> Sockets {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Sockets { address: listener.local_addr().expect("it is bound"), listener }
    }

    /// The next connection with the head of its first request, however long it takes.
    pub async fn asked(&self) -> (Peer, Head) {
        let (stream, _) = self.listener.accept().await.expect("a listener of ours");
        let socket = socket(&stream);
        let mut peer = Peer { wire: Wire::new(stream), socket: Some(socket), masks: false };
        let head = soon("a request", peer.wire.head()).await.ok().flatten().expect("a request");
        (peer, head)
    }

    /// The next connection, switched to WebSocket.
    pub async fn accept(&self) -> Peer {
        let (mut peer, head) = self.asked().await;
        peer.write(&switching(&head)).await;
        peer
    }

    /// Echoes on every connection from now on.
    pub fn echo(self) -> SocketAddr {
        let address = self.address;
        tokio::spawn(async move {
            loop {
                let peer = self.accept().await;
                tokio::spawn(peer.echo());
            }
        });
        address
    }
}

/// The answer that switches to WebSocket.
pub fn switching(asked: &Head) -> Vec<u8> {
    assert_eq!(asked.field("sec-websocket-key"), Some(KEY), "{asked:?}");
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    )
    .into_bytes()
}

/// An upstream's answer to whatever key it was asked with.
pub fn accepting(asked: &Head) -> Vec<u8> {
    let key = asked.field("sec-websocket-key").expect("a key");
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    let accept = BASE64_STANDARD.encode(digest);
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    )
    .into_bytes()
}

/// Whether an answer switches to WebSocket as a browser wants it.
pub fn is_switched(head: &Head) -> bool {
    status(head) == 101
        && head.field("upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket"))
        && head.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("upgrade"))
        && head.field("sec-websocket-accept") == Some(ACCEPT)
        && head.field("sec-websocket-protocol") == Some("chat")
}

/// A frame as it stands on the wire.
pub fn frame(opcode: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let mask_bit = if masked { 0x80 } else { 0 };
    let mut bytes = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..126 => bytes.push(mask_bit | length as u8),
        length @ 126..65_536 => {
            bytes.push(mask_bit | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(mask_bit | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    let mask = if masked { [0x37, 0xfa, 0x21, 0x3d] } else { [0; 4] };
    bytes.extend(&mask[..if masked { 4 } else { 0 }]);
    bytes.extend(payload.iter().zip(mask.into_iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn socket(stream: &TcpStream) -> socket2::Socket {
    stream.set_nodelay(true).expect("a TCP socket");
    socket2::SockRef::from(stream).try_clone().expect("a free descriptor")
}
