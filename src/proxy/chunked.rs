//! The chunked transfer coding of HTTP/1.1 (RFC 9112 §7.1) as a pure decoder: bytes in, pieces of body out.
//!
//! It refuses what can be understood in two ways: sizes beyond 60 bits, bare LF line ends, control bytes in extensions.
//! The upstream leg (`h1`) calls it; requests from clients meet hyper's decoder.

use super::head::{MalformedHead, trailers};
use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

/// Longest size line, extensions included, in bytes.
const SIZE_LINE_BYTES_MAX: usize = 4096;
/// Largest trailer section, in bytes.
const TRAILER_BYTES_MAX: usize = 16 * 1024;
/// Most hexadecimal digits of a size.
const SIZE_DIGITS_MAX: usize = 15;

/// Where the decoder stands within the coding.
#[derive(Debug, Default)]
pub enum Chunked {
    /// Before a size line.
    #[default]
    Size,
    /// Inside a chunk with that many bytes to come.
    Data(u64),
    /// Before the line end that closes a chunk.
    DataEnd,
    /// Inside the trailer section.
    Trailers,
    /// After the end.
    Done,
}

/// What the decoder found.
#[derive(Debug)]
pub enum Piece {
    /// Body bytes; never empty.
    Data(Bytes),
    /// The trailer fields; comes at most once, before `End`, and only if there are any.
    Trailers(HeaderMap),
    /// The body is complete.
    End,
    /// More bytes are needed.
    NeedMore,
}

impl Chunked {
    /// Takes the next piece out of `buffer`.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Piece, MalformedHead> {
        loop {
            match self {
                Chunked::Size => {
                    let Some(line) = take_line(buffer, SIZE_LINE_BYTES_MAX)? else { return Ok(Piece::NeedMore) };
                    *self = match chunk_size(&line)? {
                        0 => Chunked::Trailers,
                        size => Chunked::Data(size),
                    };
                }
                Chunked::Data(left) => {
                    let ready = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                    if ready == 0 {
                        return Ok(Piece::NeedMore);
                    }
                    let data = buffer.split_to(ready).freeze();
                    *left = left.saturating_sub(data.len() as u64);
                    if *left == 0 {
                        *self = Chunked::DataEnd;
                    }
                    return Ok(Piece::Data(data));
                }
                Chunked::DataEnd => match buffer.get(..2) {
                    None => return Ok(Piece::NeedMore),
                    Some(b"\r\n") => {
                        buffer.advance(2);
                        *self = Chunked::Size;
                    }
                    Some(_) => return Err(MalformedHead::Chunk),
                },
                Chunked::Trailers => {
                    if buffer.starts_with(b"\r\n") {
                        buffer.advance(2);
                        *self = Chunked::Done;
                        return Ok(Piece::End);
                    }
                    let Some(end) = memchr::memmem::find(buffer, b"\r\n\r\n") else {
                        let full = buffer.len() > TRAILER_BYTES_MAX;
                        return if full { Err(MalformedHead::Chunk) } else { Ok(Piece::NeedMore) };
                    };
                    let section = buffer.split_to(end.saturating_add(4));
                    *self = Chunked::Done;
                    return Ok(Piece::Trailers(trailers(&section)?));
                }
                Chunked::Done => return Ok(Piece::End),
            }
        }
    }

    /// Whether the whole body, its trailers included, has been taken.
    pub fn is_done(&self) -> bool {
        matches!(self, Chunked::Done)
    }

    /// Goes on over line ends that are already here, so that the end of a body is seen with its last byte. Returns
    /// whether the body ended without trailers; with trailers the next call of `next` gives them.
    pub fn finish_if_buffered(&mut self, buffer: &mut BytesMut) -> bool {
        const ENDS: [&[u8]; 2] = [b"\r\n0\r\n\r\n", b"0\r\n\r\n"];
        let end = match self {
            Chunked::DataEnd => ENDS[0],
            Chunked::Size => ENDS[1],
            _ => return self.is_done(),
        };
        if buffer.starts_with(end) {
            buffer.advance(end.len());
            *self = Chunked::Done;
        }
        self.is_done()
    }
}

/// Takes a line that ends in CRLF, without its end; none if it is not all here yet.
fn take_line(buffer: &mut BytesMut, bytes_max: usize) -> Result<Option<BytesMut>, MalformedHead> {
    let Some(feed) = memchr::memchr(b'\n', buffer) else {
        return if buffer.len() > bytes_max { Err(MalformedHead::Chunk) } else { Ok(None) };
    };
    let Some(end) = feed.checked_sub(1).filter(|&end| buffer.get(end) == Some(&b'\r') && end <= bytes_max) else {
        return Err(MalformedHead::Chunk);
    };
    let line = buffer.split_to(end);
    buffer.advance(2);
    Ok(Some(line))
}

/// The size at the front of a size line; extensions are skipped.
fn chunk_size(line: &[u8]) -> Result<u64, MalformedHead> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, rest) = line.split_at_checked(digits).ok_or(MalformedHead::Chunk)?;
    let extension_is_clean = match rest.first() {
        None => true,
        Some(b';' | b' ' | b'\t') => rest.iter().all(|&byte| byte == b'\t' || !byte.is_ascii_control()),
        Some(_) => false,
    };
    if size.is_empty() || size.len() > SIZE_DIGITS_MAX || !extension_is_clean {
        return Err(MalformedHead::Chunk);
    }
    let text = std::str::from_utf8(size).map_err(|_| MalformedHead::Chunk)?;
    u64::from_str_radix(text, 16).map_err(|_| MalformedHead::Chunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes `text` fed in steps of `step` bytes: body, trailers, and whether it ended.
    fn decode(text: &[u8], step: usize) -> Result<(Vec<u8>, Option<HeaderMap>, bool), MalformedHead> {
        let (mut chunked, mut buffer) = (Chunked::default(), BytesMut::new());
        let (mut body, mut fields) = (Vec::new(), None);
        for part in text.chunks(step) {
            buffer.extend_from_slice(part);
            loop {
                match chunked.next(&mut buffer)? {
                    Piece::Data(data) => body.extend_from_slice(&data),
                    Piece::Trailers(map) => fields = Some(map),
                    Piece::End => return Ok((body, fields, true)),
                    Piece::NeedMore => break,
                }
            }
        }
        Ok((body, fields, false))
    }

    #[test]
    fn any_split_of_the_bytes_decodes_alike() {
        let text = b"5\r\nhello\r\n6;name=value\r\n world\r\n0\r\nx-sum: 7\r\n\r\n";
        for step in 1..=text.len() {
            let (body, fields, ended) = decode(text, step).unwrap();
            assert_eq!(body, b"hello world");
            assert_eq!(fields.unwrap()["x-sum"], "7");
            assert!(ended);
        }
    }

    #[test]
    fn a_body_that_is_cut_does_not_end() {
        let text = b"5\r\nhello\r\n0\r\n\r\n";
        for cut in 0..text.len() {
            assert!(!decode(&text[..cut], 3.min(cut.max(1))).unwrap().2, "cut at {cut}");
        }
    }

    #[test]
    fn what_has_two_readings_is_refused() {
        for text in [
            &b"5\nhello\r\n"[..],
            b"\r\n",
            b"g\r\n",
            b"+5\r\nhello",
            b"0x5\r\nhello",
            b"5\r\nhelloX\r\n",
            b"5 \x01\r\nhello",
            b"1234567890abcdef\r\n",
            b"-1\r\n",
        ] {
            assert!(decode(text, text.len()).is_err(), "{:?}", String::from_utf8_lossy(text));
        }
        assert!(decode(&[b'1'; SIZE_LINE_BYTES_MAX + 2], 1000).is_err());
    }

    #[test]
    fn the_end_is_seen_with_the_last_byte() {
        let mut buffer = BytesMut::from(&b"3\r\nabc\r\n0\r\n\r\n"[..]);
        let mut chunked = Chunked::default();
        assert!(matches!(chunked.next(&mut buffer), Ok(Piece::Data(_))));
        assert!(chunked.finish_if_buffered(&mut buffer));
        assert!(buffer.is_empty());
    }
}
