//! HTTP/1.1 on the wire, read exactly as it stands: used by the origins for requests and by the raw client for answers.

use bytes::{Buf, Bytes, BytesMut};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Any two-way stream.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A connection with what has been read of it.
pub struct Wire {
    stream: Box<dyn Stream>,
    buffer: BytesMut,
}

/// The first line and the fields of a message, in order, names as sent.
#[derive(Clone, Debug)]
pub struct Head {
    /// Request line or status line.
    pub start: String,
    /// Name and value.
    pub fields: Vec<(String, String)>,
}

/// What is still to come of a body.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Left {
    /// That many bytes.
    Sized(u64),
    /// Chunks.
    Chunked,
    /// Whatever comes until the connection ends.
    UntilEnd,
    /// Nothing.
    Nothing,
}

/// One step of a body.
#[derive(Debug)]
pub enum Piece {
    /// Some of it.
    Data(Bytes),
    /// Its proper end, with trailers.
    End(Vec<(String, String)>),
    /// The connection ended too early.
    Cut,
}

impl Head {
    /// The first field of that name, without case.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// How the body is framed as far as the fields tell.
    pub fn framing(&self) -> Option<Left> {
        if self.field("transfer-encoding").is_some_and(|value| value.to_ascii_lowercase().contains("chunked")) {
            return Some(Left::Chunked);
        }
        self.field("content-length").and_then(|value| value.parse().ok()).map(Left::Sized)
    }
}

impl Wire {
    /// Wraps a stream.
    pub fn new(stream: impl Stream + 'static) -> Wire {
        Wire { stream: Box::new(stream), buffer: BytesMut::new() }
    }

    /// Writes exactly these bytes.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Says that nothing more will be written.
    pub async fn close(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    /// Reads more; false if the other side has ended.
    pub async fn fill(&mut self) -> io::Result<bool> {
        self.buffer.reserve(64 * 1024);
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }

    /// Whether a byte is there, waiting for it; false at the end.
    pub async fn peeked(&mut self) -> io::Result<bool> {
        Ok(!self.buffer.is_empty() || self.fill().await?)
    }

    /// Exactly that many bytes; none if the connection ends before them.
    pub async fn exactly(&mut self, length: usize) -> io::Result<Option<Bytes>> {
        while self.buffer.len() < length {
            if !self.fill().await? {
                return Ok(None);
            }
        }
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// The next head; none if the connection ends before its first byte.
    pub async fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let text = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.advance(end + 4);
                let mut lines = text.split("\r\n");
                let start = lines.next().unwrap_or_default().to_owned();
                return Ok(Some(Head { start, fields: lines.filter_map(field).collect() }));
            }
            if !self.fill().await? {
                return if self.buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// The next piece of a body.
    pub async fn piece(&mut self, left: &mut Left) -> io::Result<Piece> {
        match *left {
            Left::Nothing | Left::Sized(0) => Ok(Piece::End(Vec::new())),
            Left::Sized(bytes) => {
                let Some(data) = self.take(bytes).await? else { return Ok(Piece::Cut) };
                *left = Left::Sized(bytes - data.len() as u64);
                Ok(Piece::Data(data))
            }
            Left::UntilEnd => Ok(self.take(u64::MAX).await?.map_or(Piece::End(Vec::new()), Piece::Data)),
            Left::Chunked => self.chunk(left).await,
        }
    }

    async fn chunk(&mut self, left: &mut Left) -> io::Result<Piece> {
        let Some(line) = self.line().await? else { return Ok(Piece::Cut) };
        let digits = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(digits, 16).map_err(|_| io::Error::other(format!("chunk size {line:?}")))?;
        if size > 0 {
            while self.buffer.len() < size + 2 {
                if !self.fill().await? {
                    return Ok(Piece::Cut);
                }
            }
            let data = self.buffer.split_to(size).freeze();
            self.buffer.advance(2);
            return Ok(Piece::Data(data));
        }
        let mut trailers = Vec::new();
        loop {
            match self.line().await? {
                None => return Ok(Piece::Cut),
                Some(line) if line.is_empty() => break,
                Some(line) => trailers.extend(field(&line)),
            }
        }
        *left = Left::Nothing;
        Ok(Piece::End(trailers))
    }

    /// Up to `limit` bytes, as many as there are; none at the end of the connection.
    async fn take(&mut self, limit: u64) -> io::Result<Option<Bytes>> {
        if self.buffer.is_empty() && !self.fill().await? {
            return Ok(None);
        }
        let length = usize::try_from(limit).unwrap_or(usize::MAX).min(self.buffer.len());
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    async fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.advance(end + 2);
                return Ok(Some(line));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }
}

fn field(line: &str) -> Option<(String, String)> {
    line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, what)
}
