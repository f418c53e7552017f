//! An HTTP/1.1 upstream that keeps every byte it gets, and answers each request that a lenient reader would find in them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A recording upstream. Dropping it ends it with all its connections.
pub struct Recorder {
    /// Where it listens.
    pub address: SocketAddr,
    bytes: Arc<Mutex<Vec<Vec<u8>>>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Recorder {
    /// Starts one.
    pub async fn start() -> Recorder {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let bytes = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let kept = Arc::clone(&bytes);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let kept = Arc::clone(&kept);
                tokio::spawn(serve(stream, kept));
            }
        });
        Recorder { address, bytes, serving }
    }

    /// Everything that has come, as text, connection by connection.
    pub fn heard(&self) -> Vec<String> {
        let bytes = self.bytes.lock().expect("nobody panics with it");
        bytes.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }

    /// The first lines of all requests that anybody could see in those bytes: whatever ends in a version of HTTP.
    pub fn request_lines(&self) -> Vec<String> {
        let lines = |text: &String| {
            let lines = text.split(['\r', '\n']).filter(|line| line.contains(" HTTP/"));
            // A body, which the tests write in small letters, may stand right before the next request.
            let lines = lines.map(|line| line.trim_start_matches(|mark: char| !mark.is_ascii_uppercase()));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        self.heard().iter().flat_map(lines).collect()
    }

    /// What has come since it had heard `before`.
    pub fn since(&self, before: &[String]) -> String {
        let heard = self.heard();
        let fresh = |(index, text): (usize, &String)| text[before.get(index).map_or(0, String::len)..].to_owned();
        heard.iter().enumerate().map(fresh).collect()
    }

    /// What has come from the first line that has `word` to the end of that connection's bytes.
    pub fn from(&self, word: &str) -> Option<String> {
        self.heard().into_iter().find_map(|text| {
            let place = text.find(word)?;
            let start = text[..place].rfind('\n').map_or(0, |end| end + 1);
            Some(text[start..].to_owned())
        })
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(mut stream: TcpStream, kept: Arc<Mutex<Vec<Vec<u8>>>>) {
    let index = {
        let mut kept = kept.lock().expect("nobody panics with it");
        kept.push(Vec::new());
        kept.len() - 1
    };
    let (mut pending, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        while let Some(end) = request_end(&pending) {
            pending.drain(..end);
            if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
                return;
            }
        }
        let Ok(count @ 1..) = stream.read(&mut piece).await else { return };
        pending.extend_from_slice(&piece[..count]);
        kept.lock().expect("nobody panics with it")[index].extend_from_slice(&piece[..count]);
    }
}

/// Where the first request ends; none if it is not all here.
fn request_end(bytes: &[u8]) -> Option<usize> {
    let head = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    if text.contains("transfer-encoding: chunked") {
        return memchr::memmem::find(&bytes[head - 2..], b"\r\n0\r\n").and_then(|last| {
            let trailers = head - 2 + last + 3;
            memchr::memmem::find(&bytes[trailers..], b"\r\n\r\n").map(|end| trailers + end + 4)
        });
    }
    let length = text.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next()?.parse().ok());
    let end = head + length.unwrap_or(0usize);
    (bytes.len() >= end).then_some(end)
}
