//! An HTTP/2 client in exact frames, for what a proper client never sends.

use super::wait::soon;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One connection.
pub struct Streams {
    stream: TcpStream,
    /// Statuses that have come, by stream.
    statuses: BTreeMap<u32, u16>,
}

/// What came of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// An answer with that status, whole.
    Answer(u16),
    /// The stream was reset with that code.
    Reset(u32),
    /// The connection ended with that code.
    GoAway(u32),
    /// The connection ended without a word.
    Closed,
}

/// Kinds of frames (RFC 9113, section 6).
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RESET: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const GO_AWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;
/// Flags.
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

impl Streams {
    /// Connects and says that it speaks HTTP/2.
    pub async fn connect(address: SocketAddr) -> Streams {
        let stream = soon("a connection", TcpStream::connect(address)).await.expect("something listens there");
        stream.set_nodelay(true).expect("a TCP socket");
        let mut streams = Streams { stream, statuses: BTreeMap::new() };
        streams.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        streams.frame(SETTINGS, 0, 0, &[]).await;
        streams
    }

    /// Sends these bytes; false if nobody takes them any more.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        soon("room to send", self.stream.write_all(bytes)).await.is_ok()
    }

    /// Sends a frame; false if nobody takes it any more.
    pub async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.write(&frame(kind, flags, stream, payload)).await
    }

    /// Sends a head in one frame.
    pub async fn head(&mut self, stream: u32, flags: u8, fields: &[(&str, &str)]) -> bool {
        self.frame(HEADERS, END_HEADERS | flags, stream, &block(fields)).await
    }

    /// What comes of a stream.
    pub async fn end(&mut self, stream: u32) -> End {
        loop {
            let Some((kind, flags, id, payload)) = self.next().await else { return End::Closed };
            match kind {
                RESET if id == stream => return End::Reset(number(&payload)),
                GO_AWAY if number(&payload[4..]) != 0 => return End::GoAway(number(&payload[4..])),
                HEADERS | DATA if id == stream && flags & END_STREAM != 0 => {
                    return End::Answer(self.statuses.get(&id).copied().unwrap_or(0));
                }
                _ => {}
            }
        }
    }

    /// The next frame; none after the end. Settings are acknowledged, statuses kept.
    pub async fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        soon("a frame", self.stream.read_exact(&mut head)).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        soon("a frame's payload", self.stream.read_exact(&mut payload)).await.ok()?;
        let (kind, flags, id) = (head[3], head[4], number(&head[5..]));
        if kind == SETTINGS && flags & ACK == 0 {
            self.frame(SETTINGS, ACK, 0, &[]).await;
        }
        if kind == HEADERS {
            self.statuses.entry(id).or_insert_with(|| status(&payload));
        }
        Some((kind, flags, id, payload))
    }
}

/// A frame as bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
    let mut bytes = length.to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Fields as they stand, each as a literal without a name of the table (RFC 7541, section 6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            length(&mut bytes, text.len());
            bytes.extend(text.bytes());
        }
    }
    bytes
}

/// A length with a prefix of seven bits (RFC 7541, section 5.1).
fn length(bytes: &mut Vec<u8>, length: usize) {
    let Some(mut rest) = length.checked_sub(127) else { return bytes.push(length as u8) };
    bytes.push(127);
    while rest >= 128 {
        bytes.push((rest % 128 + 128) as u8);
        rest /= 128;
    }
    bytes.push(rest as u8);
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) & 0x7fff_ffff
}

/// The status, with which every block of ours begins: from the static table, or as three digits in Huffman's code.
fn status(block: &[u8]) -> u16 {
    // The size of the dynamic table may come first.
    let at = block.iter().position(|byte| byte & 0xe0 != 0x20).unwrap_or(0);
    match block[at] {
        byte @ 0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(byte - 0x88)],
        byte if byte & 0x0f == 8 => digits(&block[at + 1..]),
        byte => panic!("a block that begins with {byte:#x}"),
    }
}

fn digits(text: &[u8]) -> u16 {
    let (huffman, length) = (text[0] & 0x80 != 0, usize::from(text[0] & 0x7f));
    if !huffman {
        return String::from_utf8_lossy(&text[1..=length]).parse().expect("a status");
    }
    let bits: Vec<u8> = text[1..=length].iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let (mut at, mut value) = (0, 0);
    for _ in 0..3 {
        let take = |count: usize| bits[at..at + count].iter().fold(0, |sum, bit| sum * 2 + u16::from(*bit));
        // 0, 1 and 2 have five bits, the other digits six.
        let (digit, count) = if take(5) < 3 { (take(5), 5) } else { (take(6) - 0x19 + 3, 6) };
        (value, at) = (value * 10 + digit, at + count);
    }
    value
}
