//! Who a client is by the word of the load balancer in front: the PROXY protocol's header, version 1 or 2, with which every
//! connection of such a listener begins (HAProxy's `proxy-protocol.txt`). What stands in it besides the address is skipped.

use proxy_header::{ParseConfig, ProxyHeader};
use std::io;
use std::net::SocketAddr;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// What both versions have at least: the signature of version 2, the first words of version 1.
const FIRST_BYTES: usize = 12;
/// Bytes of version 2 between its signature and what its length counts.
const FIXED_BYTES: usize = 4;
/// The longest line of version 1.
const LINE_BYTES_MAX: usize = 107;
/// The most that version 2 may announce: addresses, and a few fields that load balancers add.
const ANNOUNCED_BYTES_MAX: usize = 4 * 1024;

/// Takes the header off the front of a connection. The client that it names, and `peer` if it speaks for itself; none if this is
/// no such header.
///
/// # Errors
/// The connection's own.
pub async fn client(stream: &mut TcpStream, peer: SocketAddr) -> io::Result<Option<SocketAddr>> {
    let mut header = Vec::with_capacity(128);
    more(stream, &mut header, FIRST_BYTES).await?;
    let is_whole = match header.first() {
        Some(b'P') => line(stream, &mut header).await?,
        Some(b'\r') => announced(stream, &mut header).await?,
        _ => false,
    };
    if !is_whole {
        return Ok(None);
    }
    Ok(named(&header, peer))
}

/// The rest of a version 1 header; false if it is too long.
async fn line(stream: &mut TcpStream, header: &mut Vec<u8>) -> io::Result<bool> {
    let mut ahead = [0; LINE_BYTES_MAX];
    while header.len() < LINE_BYTES_MAX {
        // Nothing beyond the line may be taken: it is the client's.
        let count = stream.peek(&mut ahead).await?;
        let seen = ahead.get(..count.min(LINE_BYTES_MAX.saturating_sub(header.len()))).unwrap_or_default();
        if seen.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let end = memchr::memchr(b'\n', seen);
        more(stream, header, end.map_or(seen.len(), |end| end.saturating_add(1))).await?;
        if end.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The rest of a version 2 header; false if it announces too much.
async fn announced(stream: &mut TcpStream, header: &mut Vec<u8>) -> io::Result<bool> {
    more(stream, header, FIXED_BYTES).await?;
    let length = header.last_chunk::<2>().map_or(0, |length| usize::from(u16::from_be_bytes(*length)));
    if length > ANNOUNCED_BYTES_MAX {
        return Ok(false);
    }
    more(stream, header, length).await?;
    Ok(true)
}

async fn more(stream: &mut TcpStream, header: &mut Vec<u8>, count: usize) -> io::Result<()> {
    let from = header.len();
    header.resize(from.saturating_add(count), 0);
    stream.read_exact(header.get_mut(from..).unwrap_or_default()).await.map(|_| ())
}

fn named(header: &[u8], peer: SocketAddr) -> Option<SocketAddr> {
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    let (header, _) = ProxyHeader::parse(header, config).ok()?;
    Some(header.proxied_address().map_or(peer, |named| named.source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9);

    /// What a header written in pieces of `step` bytes says, and what is left on the connection behind it.
    async fn read(header: &[u8], step: usize) -> (Option<SocketAddr>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        sender.set_nodelay(true).unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let bytes = [header, b"GET / HTTP/1.1\r\n"].concat();
        let sent = async move {
            for piece in bytes.chunks(step) {
                sender.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (client, ()) = tokio::join!(client(&mut stream, PEER), sent);
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        (client.ok().flatten(), rest)
    }

    fn version_2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [b"\r\n\r\n\0\r\nQUIT\n", &[0x20 | command, family][..], &length, body].concat()
    }

    #[tokio::test]
    async fn both_versions_name_the_client_and_take_nothing_of_what_follows() {
        let ip4 = [192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 1, 0xBB];
        let with_extras = [&ip4[..], &[4, 0, 3, 1, 2, 3]].concat();
        let ip6 = [&[0x20, 1, 0xD, 0xB8][..], &[0; 11], &[7], &[0; 16], &[0x30, 0x39, 1, 0xBB]].concat();
        for (header, expected) in [
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 443\r\n".to_vec(), "192.0.2.7:12345"),
            (b"PROXY TCP6 2001:db8::7 ::1 12345 443\r\n".to_vec(), "[2001:db8::7]:12345"),
            (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1:9"),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), "127.0.0.1:9"),
            (version_2(1, 0x11, &ip4), "192.0.2.7:12345"),
            (version_2(1, 0x11, &with_extras), "192.0.2.7:12345"),
            (version_2(1, 0x21, &ip6), "[2001:db8::7]:12345"),
            (version_2(0, 0, &[]), "127.0.0.1:9"),
            (version_2(0, 0x11, &ip4), "127.0.0.1:9"),
        ] {
            for step in [1, 7, 1000] {
                let (client, rest) = read(&header, step).await;
                let text = String::from_utf8_lossy(&header);
                assert_eq!(client.map(|client| client.to_string()).as_deref(), Some(expected), "{text}");
                assert_eq!(rest, b"GET / HTTP/1.1\r\n", "{text}");
            }
        }
    }

    #[tokio::test]
    async fn anything_else_is_no_header() {
        let far_too_long = [b"PROXY TCP4 ", &[b'1'; 200][..], b"\r\n"].concat();
        for header in [
            &b""[..],
            b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 12345\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 99999\r\n",
            b"PROXY TCP4 2001:db8::7 ::1 12345 443\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 443\n",
            b"PROXY UDP4 192.0.2.7 10.0.0.1 12345 443\r\n",
            b"proxy TCP4 192.0.2.7 10.0.0.1 12345 443\r\n",
            &far_too_long,
            &version_2(2, 0x11, &[0; 12]),
            &version_2(1, 0x11, &[0; 11]),
            &version_2(1, 0x41, &[0; 12]),
            &version_2(1, 0x11, &[0; 5000]),
        ] {
            assert_eq!(read(header, 1000).await.0, None, "{}", String::from_utf8_lossy(header));
        }
    }
}
