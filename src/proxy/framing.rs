//! Where the requests of an HTTP/1 connection begin and end, read so that there is one reading only (RFC 9112).
//!
//! Pure: bytes in, and where the head ends and what kind of body follows, or a refusal. Whoever stands behind weir, or
//! before it, must not be able to see a request where weir sees none. So everything that parsers are known to read
//! differently is refused, where a lenient one would repair it: a line that ends in LF alone, two lengths, a length
//! beside a coding, a space before the colon, a value that goes on in the next line. `strict` asks it before hyper sees a
//! byte. What a head means beyond its frame is not its business.

use super::refusal::Refusal;

/// What may be of a head.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// Bytes, its last line end included.
    pub head_bytes: usize,
    /// Fields.
    pub fields: usize,
    /// Bytes of the target.
    pub target_bytes: usize,
}

/// How a request goes on behind its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follows {
    /// It does not.
    Nothing,
    /// With a body of so many bytes.
    Sized(u64),
    /// With a body in the chunked coding.
    Chunks,
}

/// The head at whose first byte `bytes` begins: how many bytes it has, and what follows; none if its end is not here. Of
/// these bytes `seen` were looked through in vain before.
pub fn head(bytes: &[u8], seen: usize, caps: &Caps) -> Result<Option<(usize, Follows)>, Refusal> {
    // A head that comes byte by byte is not judged anew with each of them.
    if seen > 0 && !has_end(bytes, seen)? {
        return within(bytes, caps).map(|()| None);
    }
    let mut lines = Lines::of(bytes);
    let Some(first) = lines.next()? else { return within(bytes, caps).map(|()| None) };
    let newer = request_line(first, caps)?;
    let mut said = Said::default();
    let mut fields = 0_usize;
    while let Some(line) = lines.next()? {
        if line.is_empty() {
            let end = lines.at;
            let whole = bytes.get(..end).unwrap_or_default();
            within(whole, caps)?;
            if fields > caps.fields {
                return Err(Refusal::HeadTooLong);
            }
            // The first line and the empty one, which old clients may have sent in front as well.
            let line_ends = fields.saturating_add(if whole.starts_with(b"\r\n") { 3 } else { 2 });
            if controls(whole) != line_ends.saturating_mul(2) {
                return Err(Refusal::BadRequest);
            }
            return Ok(Some((end, said.follows(newer)?)));
        }
        fields = fields.saturating_add(1);
        let (name, value) = field(line)?;
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => said.length(value)?,
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => said.coding(value)?,
            _ => {}
        }
    }
    within(bytes, caps).map(|()| None)
}

/// Whether the empty line is there that ends a head.
fn has_end(bytes: &[u8], seen: usize) -> Result<bool, Refusal> {
    // It may stand across the border of what was looked through, so the line before that is looked at again.
    let before = bytes.get(..seen.saturating_sub(2)).unwrap_or_default();
    let mut lines = Lines { bytes, at: memchr::memrchr(b'\n', before).map_or(0, |feed| feed.saturating_add(1)) };
    while lines.next()?.is_some() {
        if bytes.get(..lines.at).is_some_and(|so_far| so_far.ends_with(b"\r\n\r\n")) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Refuses what has become too long: the first line, or the whole.
fn within(head: &[u8], caps: &Caps) -> Result<(), Refusal> {
    let too_long = || {
        if memchr::memchr(b'\n', head).is_none() { Refusal::UriTooLong } else { Refusal::HeadTooLong }
    };
    if head.len() > caps.head_bytes { Err(too_long()) } else { Ok(()) }
}

/// What a head has said of what follows it.
#[derive(Default)]
struct Said<'a> {
    length: Option<u64>,
    coding: Option<&'a [u8]>,
}

impl<'a> Said<'a> {
    fn length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        let stated = super::head::decimal(value.trim_ascii()).ok_or(Refusal::BadFraming)?;
        self.length.replace(stated).map_or(Ok(()), |_| Err(Refusal::BadFraming))
    }

    fn coding(&mut self, value: &'a [u8]) -> Result<(), Refusal> {
        self.coding.replace(value.trim_ascii()).map_or(Ok(()), |_| Err(Refusal::BadFraming))
    }

    /// RFC 9112, section 6.3, without its mercy.
    fn follows(&self, newer: bool) -> Result<Follows, Refusal> {
        match (self.coding, self.length) {
            (None, None | Some(0)) => Ok(Follows::Nothing),
            (None, Some(length)) => Ok(Follows::Sized(length)),
            (Some(_), Some(_)) => Err(Refusal::BadFraming),
            // A coding is as old as HTTP/1.1: an older client's own proxy may not have read it (RFC 9112, section 6.1).
            (Some(_), None) if !newer => Err(Refusal::BadFraming),
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Follows::Chunks),
            (Some(coding), None) if ends_in_chunks(coding) => Err(Refusal::Coding),
            (Some(_), None) => Err(Refusal::BadFraming),
        }
    }
}

/// Whether it names known or unknown codings before the chunked one, which comes once and last: that has one reading, and
/// is not undone here.
fn ends_in_chunks(codings: &[u8]) -> bool {
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let mut names = codings.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).rev();
    names.next().is_some_and(is_chunked) && names.all(|name| is_token(name) && !is_chunked(name))
}

/// Checks the first line; whether the version is 1.1.
fn request_line(line: &[u8], caps: &Caps) -> Result<bool, Refusal> {
    let mut words = line.splitn(3, |&byte| byte == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let newer = match words.next() {
        Some(b"HTTP/1.1") => true,
        Some(b"HTTP/1.0") => false,
        Some(version) if version.starts_with(b"HTTP/") && !version.contains(&b' ') => return Err(Refusal::Version),
        _ => return Err(Refusal::BadRequest),
    };
    if !is_token(method) || !is_target(target) {
        return Err(Refusal::BadRequest);
    }
    if target.len() > caps.target_bytes && target.starts_with(b"/") {
        return Err(Refusal::UriTooLong);
    }
    Ok(newer)
}

/// No control byte, no space, and no fragment, which belongs to the client alone. What else may not stand there is seen
/// when it is parsed.
fn is_target(target: &[u8]) -> bool {
    let is_clean = |clean, &byte: &u8| clean & (byte > b' ' && byte != 0x7f && byte != b'#');
    !target.is_empty() && target.iter().fold(true, is_clean)
}

/// Name and value of a line.
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    // A name that ends in a space, a line that goes on from the one before, no name at all: none of them is a token.
    let name_bytes = line.iter().position(|&byte| !may_be_in_token(byte)).unwrap_or(line.len());
    match line.split_at_checked(name_bytes) {
        Some((name, [b':', value @ ..])) if !name.is_empty() => Ok((name, value)),
        _ => Err(Refusal::BadRequest),
    }
}

/// How many control bytes there are, tabs aside: the two of each line end, and whatever nobody may send. Counted over the
/// whole head, because a loop without a way out is done many bytes at a time.
fn controls(head: &[u8]) -> usize {
    let is_control = |byte: u8| (byte < b' ' && byte != b'\t') | (byte == 0x7f);
    let count = |part: &[u8]| part.iter().fold(0_u8, |count, &byte| count.wrapping_add(u8::from(is_control(byte))));
    // As many as fit the counter.
    head.chunks(128).map(|part| usize::from(count(part))).sum()
}

/// RFC 9110, section 5.6.2.
fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|&byte| may_be_in_token(byte))
}

fn may_be_in_token(byte: u8) -> bool {
    TOKEN.get(usize::from(byte)).copied().unwrap_or(false)
}

/// Which bytes a token may have: looked up, because every name of every request is.
#[expect(clippy::indexing_slicing, reason = "worked out when weir is built")]
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let marks = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut at = 0;
    while at < marks.len() {
        table[marks[at] as usize] = true;
        at += 1;
    }
    table
};

/// Lines without their ends, each of which must be CRLF.
struct Lines<'a> {
    bytes: &'a [u8],
    /// Where the next one begins.
    at: usize,
}

impl<'a> Lines<'a> {
    /// The lines of a head. One empty line may stand before it: old clients end a body with one (RFC 9112, section 2.2).
    fn of(bytes: &'a [u8]) -> Self {
        Lines { bytes, at: if bytes.starts_with(b"\r\n") { 2 } else { 0 } }
    }

    /// The next line that has come whole.
    fn next(&mut self) -> Result<Option<&'a [u8]>, Refusal> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let Some(feed) = memchr::memchr(b'\n', rest) else { return Ok(None) };
        self.at = self.at.saturating_add(feed).saturating_add(1);
        let line = rest.get(..feed).unwrap_or_default();
        line.strip_suffix(b"\r").map(Some).ok_or(Refusal::BadFraming)
    }
}

/// Where a body in the chunked coding ends (RFC 9112, section 7.1). It is followed, not decoded.
#[derive(Debug, Default)]
pub struct Chunks {
    at: Place,
    /// Bytes of the line so far.
    line_bytes: usize,
    /// Bytes of the trailer section so far.
    trailer_bytes: usize,
    /// Bytes of the chunk that are still to come; while its size is read, the size so far.
    left: u64,
    /// Whether the last byte was the CR of a line end.
    returned: bool,
}

/// Within the coding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// In the digits of a size.
    #[default]
    Size,
    /// In the spaces that may follow them.
    Space,
    /// In an extension.
    Extension,
    /// In a chunk.
    Data,
    /// At the line end that closes a chunk.
    DataEnd,
    /// In the trailer section.
    Trailer,
    /// After the end.
    Done,
}

impl Chunks {
    /// Follows what comes now; how many of these bytes belong to the body.
    pub fn pass(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        let mut rest = bytes;
        while self.at != Place::Done && !rest.is_empty() {
            if self.at == Place::Data {
                let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest.len());
                self.left = self.left.saturating_sub(count as u64);
                rest = rest.get(count..).unwrap_or_default();
                if self.left == 0 {
                    self.at = Place::DataEnd;
                }
            } else if let Some((&byte, after)) = rest.split_first() {
                rest = after;
                self.take(byte)?;
            }
        }
        Ok(bytes.len().saturating_sub(rest.len()))
    }

    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        self.at == Place::Done
    }

    /// Takes one byte of a line.
    fn take(&mut self, byte: u8) -> Result<(), Refusal> {
        if self.returned {
            // A CR ends a line or stands for a second reading.
            self.returned = false;
            return if byte == b'\n' { self.end_line() } else { Err(Refusal::BadFraming) };
        }
        if byte == b'\r' {
            self.returned = true;
            return Ok(());
        }
        self.line_bytes = self.line_bytes.saturating_add(1);
        let bytes_max = if self.at == Place::Trailer { TRAILER_BYTES_MAX } else { SIZE_LINE_BYTES_MAX };
        if self.line_bytes.saturating_add(self.trailer_bytes) > bytes_max || (byte < b' ' && byte != b'\t') {
            return Err(Refusal::BadFraming);
        }
        match (self.at, byte) {
            (Place::Size, _) if byte.is_ascii_hexdigit() && self.line_bytes <= SIZE_DIGITS_MAX => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                self.left = self.left.saturating_mul(16).saturating_add(u64::from(digit));
            }
            (Place::Size, b' ' | b'\t') if self.line_bytes > 1 => self.at = Place::Space,
            (Place::Size, b';') if self.line_bytes > 1 => self.at = Place::Extension,
            (Place::Space, b' ' | b'\t') => {}
            (Place::Space, b';') => self.at = Place::Extension,
            (Place::Extension | Place::Trailer, _) => {}
            _ => return Err(Refusal::BadFraming),
        }
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), Refusal> {
        let empty = std::mem::take(&mut self.line_bytes);
        self.at = match self.at {
            Place::Size if empty == 0 => return Err(Refusal::BadFraming),
            Place::Size | Place::Space | Place::Extension if self.left > 0 => Place::Data,
            Place::Size | Place::Space | Place::Extension => Place::Trailer,
            Place::Trailer if empty == 0 => Place::Done,
            Place::Trailer => {
                self.trailer_bytes = self.trailer_bytes.saturating_add(empty);
                Place::Trailer
            }
            Place::DataEnd | Place::Data | Place::Done => Place::Size,
        };
        Ok(())
    }
}

/// Longest size line, extensions included, in bytes.
const SIZE_LINE_BYTES_MAX: usize = 4096;
/// Largest trailer section, in bytes.
const TRAILER_BYTES_MAX: usize = 16 * 1024;
/// Most hexadecimal digits of a size: below 2^60, so that nobody's counter runs over.
const SIZE_DIGITS_MAX: usize = 15;

#[cfg(test)]
mod tests {
    use super::*;

    const CAPS: Caps = Caps { head_bytes: 512, fields: 5, target_bytes: 64 };

    fn read(head: &str) -> Result<Follows, Refusal> {
        let (end, follows) = super::head(head.as_bytes(), 0, &CAPS)?.expect("a whole head");
        assert_eq!(end, head.len(), "{head:?}");
        Ok(follows)
    }

    fn with(fields: &str) -> Result<Follows, Refusal> {
        read(&format!("POST /p?q HTTP/1.1\r\n{fields}\r\n"))
    }

    #[test]
    fn what_follows_a_head_has_one_reading() {
        assert_eq!(with(""), Ok(Follows::Nothing));
        assert_eq!(with("Content-Length: 0\r\n"), Ok(Follows::Nothing));
        assert_eq!(with("content-length:\t7 \r\n"), Ok(Follows::Sized(7)));
        assert_eq!(with("Transfer-Encoding: CHUNKED\r\n"), Ok(Follows::Chunks));
        for fields in [
            "content-length: 5\r\ncontent-length: 5\r\n",
            "content-length: 5, 5\r\n",
            "content-length: +5\r\n",
            "content-length: -5\r\n",
            "content-length: 0x5\r\n",
            "content-length: 5 5\r\n",
            "content-length:\r\n",
            "content-length: 18446744073709551616\r\n",
            "content-length: 5\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: chunked, chunked\r\n",
            "transfer-encoding: chunked, identity\r\n",
            "transfer-encoding: identity\r\n",
            "transfer-encoding: xchunked\r\n",
            "transfer-encoding: ,chunked\r\n",
            "transfer-encoding:\r\n",
        ] {
            assert_eq!(with(fields), Err(Refusal::BadFraming), "{fields:?}");
        }
        assert_eq!(with("transfer-encoding: gzip, chunked\r\n"), Err(Refusal::Coding));
        assert_eq!(read("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n"), Err(Refusal::BadFraming));
    }

    #[test]
    fn a_line_that_is_no_field_is_refused() {
        for fields in
            ["a\r\n", ": 1\r\n", "a : 1\r\n", " a: 1\r\n", "a: 1\r\n b\r\n", "a: \0\r\n", "a: \r1\r\n", "\u{e4}: 1\r\n"]
        {
            assert_eq!(with(fields), Err(Refusal::BadRequest), "{fields:?}");
        }
        assert_eq!(with("a: \u{e4}\r\nx_y: \r\n"), Ok(Follows::Nothing));
    }

    #[test]
    fn the_first_line_has_three_words() {
        for line in [
            "GET /",
            "GET  / HTTP/1.1",
            "GET / HTTP/1.1 ",
            "GET /a b HTTP/1.1",
            "G\tT / HTTP/1.1",
            " GET / HTTP/1.1",
            "GET /#f HTTP/1.1",
            "GET /\x01 HTTP/1.1",
            "GET / http/1.1",
            "",
        ] {
            assert_eq!(read(&format!("{line}\r\n\r\n")), Err(Refusal::BadRequest), "{line:?}");
        }
        assert_eq!(read("GET / HTTP/2.0\r\n\r\n"), Err(Refusal::Version));
        assert_eq!(read("\r\nGET / HTTP/1.1\r\n\r\n"), Ok(Follows::Nothing), "one empty line may come before");
    }

    #[test]
    fn a_head_ends_where_every_line_ends_in_two_bytes() {
        let head = b"GET / HTTP/1.1\r\na: 1\r\n\r\nrest";
        for count in 0..head.len() {
            for seen in 0..=count.min(21) {
                let found = super::head(&head[..count], seen, &CAPS);
                assert_eq!(found, Ok((count >= 24).then_some((24, Follows::Nothing))), "{seen} of {count}");
            }
        }
        for text in ["GET / HTTP/1.1\n", "GET / HTTP/1.1\r\na: 1\n\r\n", "\n"] {
            assert_eq!(super::head(text.as_bytes(), 0, &CAPS), Err(Refusal::BadFraming), "{text:?}");
        }
    }

    #[test]
    fn what_is_too_long_is_named() {
        let long = "x".repeat(600);
        assert_eq!(head(long.as_bytes(), 0, &CAPS), Err(Refusal::UriTooLong));
        assert_eq!(head(format!("GET / HTTP/1.1\r\na: {long}").as_bytes(), 0, &CAPS), Err(Refusal::HeadTooLong));
        assert_eq!(read(&format!("GET /{} HTTP/1.1\r\n\r\n", &long[..64])), Err(Refusal::UriTooLong));
        assert_eq!(with(&"a: 1\r\n".repeat(6)), Err(Refusal::HeadTooLong));
        assert_eq!(with(&"a: 1\r\n".repeat(5)), Ok(Follows::Nothing));
    }

    /// How many bytes belong to the body, fed in steps of `step` bytes; none if it does not end.
    fn follow(text: &[u8], step: usize) -> Result<Option<usize>, Refusal> {
        let (mut chunks, mut count) = (Chunks::default(), 0);
        for part in text.chunks(step) {
            count += chunks.pass(part)?;
            if chunks.is_done() {
                return Ok(Some(count));
            }
        }
        Ok(None)
    }

    #[test]
    fn a_body_in_chunks_ends_where_it_says() {
        for body in [
            &b"5\r\nhello\r\n0\r\n\r\n"[..],
            b"5;a=\"b\"\r\nhello\r\n00\r\nx: 1\r\ny: 2\r\n\r\n",
            b"A \t;x\r\n0123456789\r\n0 \r\n\r\n",
        ] {
            let text = [body, b"GET / HTTP/1.1"].concat();
            for step in 1..=text.len() {
                assert_eq!(follow(&text, step), Ok(Some(body.len())), "in steps of {step}");
            }
            assert_eq!(follow(&body[..body.len() - 1], 3), Ok(None));
        }
    }

    #[test]
    fn chunks_with_two_readings_are_refused() {
        for text in [
            &b"5\nhello\r\n"[..],
            b"\r\n",
            b"g\r\n",
            b"+5\r\nhello",
            b"0x5\r\nhello",
            b"5\r\nhelloX\r\n",
            b"5\r\nhello\n0\r\n",
            b"5 \x01\r\nhello",
            b"5 5\r\n",
            b";\r\n",
            b" 5\r\n",
            b"1234567890abcdef\r\n",
            b"-1\r\n",
            b"0\r\nx: 1\n\r\n",
            b"0\r\nx: \r1\r\n",
            b"0\r\n\rX",
            b"5;a\nb\r\nhello",
        ] {
            assert_eq!(follow(text, text.len()), Err(Refusal::BadFraming), "{:?}", String::from_utf8_lossy(text));
        }
        assert_eq!(follow(&[b'0'; 20], 20), Err(Refusal::BadFraming));
        assert_eq!(follow(&[b"1;".as_slice(), &[b'x'; SIZE_LINE_BYTES_MAX]].concat(), 1000), Err(Refusal::BadFraming));
        assert_eq!(follow(&[b"0\r\n".as_slice(), &b"xy: 1\r\n".repeat(4000)].concat(), 1000), Err(Refusal::BadFraming));
    }
}
