//! A small HTTP/1.1 client for the admin address, over TCP or a unix socket, with deadlines and a cap on answers.
//!
//! One connection per question: commands ask once, and `--watch` once a second. It knows the API's errors, not its
//! forms.

use super::stop::Stop;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Runtime;

/// The way to a running weir.
#[derive(Debug)]
pub struct Client {
    address: String,
    target: Target,
    token: Option<String>,
    runtime: Runtime,
}

#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// `host:port`.
    Tcp(String),
    Unix(PathBuf),
}

/// The body of a good answer.
#[derive(Debug)]
pub struct Answer {
    /// As it came, for `-o json`.
    pub text: String,
    address: String,
}

impl Client {
    /// A client for `http://HOST:PORT`, `HOST:PORT` or `unix:PATH`; nothing is connected yet.
    pub fn new(address: &str, token: Option<String>) -> Result<Client, Stop> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Client { address: address.to_owned(), target: target(address)?, token, runtime })
    }

    /// Asks with GET; `path` includes the query.
    pub fn ask(&self, path: &str) -> Result<Answer, Stop> {
        self.send(Method::GET, path, None)
    }

    /// Asks for a change with POST.
    pub fn change(&self, path: &str, body: &Value) -> Result<Answer, Stop> {
        self.send(Method::POST, path, Some(body.to_string()))
    }

    /// Asks with GET while other things go on; no longer than `patience`.
    pub async fn asking(&self, path: &str, patience: Duration) -> Result<Answer, Stop> {
        self.answered(Method::GET, path, None, patience).await
    }

    /// Runs what asks with `asking`.
    pub fn block_on<T>(&self, asking: impl Future<Output = T>) -> T {
        self.runtime.block_on(asking)
    }

    /// Waits for that long.
    pub fn pause(&self, span: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(span).await });
    }

    fn send(&self, method: Method, path: &str, body: Option<String>) -> Result<Answer, Stop> {
        self.runtime.block_on(self.answered(method, path, body, ANSWER_TIMEOUT))
    }

    async fn answered(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
        patience: Duration,
    ) -> Result<Answer, Stop> {
        let unreachable = |cause: String| Stop::Unreachable { address: self.address.clone(), cause };
        let exchanged = match tokio::time::timeout(patience, self.exchange(method, path, body)).await {
            Ok(exchanged) => exchanged,
            Err(_) => Err(format!("no answer in {} s", patience.as_secs())),
        };
        let (status, text) = exchanged.map_err(unreachable)?;
        if (200..300).contains(&status) {
            return Ok(Answer { text, address: self.address.clone() });
        }
        let form: Option<Value> = serde_json::from_str(&text).ok();
        match form.as_ref().and_then(|form| form.get("error")?.as_str()) {
            Some(message) => Err(Stop::Refused { status, message: message.to_owned(), body: text }),
            None => Err(unreachable(format!("what answers there is not weir (status {status})"))),
        }
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<String>) -> Result<(u16, String), String> {
        let mut request = Request::builder().method(method).uri(path).header(header::ACCEPT, "application/json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let host = match &self.target {
            Target::Tcp(authority) => authority,
            Target::Unix(_) => "localhost",
        };
        let body = Full::new(Bytes::from(body.unwrap_or_default()));
        let request = request.header(header::HOST, host).body(body).map_err(|error| error.to_string())?;
        match &self.target {
            Target::Tcp(authority) => {
                exchange_over(connect(TcpStream::connect(authority.as_str())).await?, request).await
            }
            Target::Unix(path) => exchange_over(connect(UnixStream::connect(path)).await?, request).await,
        }
    }
}

impl Answer {
    /// The body as a form of the API.
    pub fn form<T: DeserializeOwned>(&self) -> Result<T, Stop> {
        serde_json::from_str(&self.text).map_err(|error| Stop::Unreachable {
            address: self.address.clone(),
            cause: format!("its answer is not what this version of weir expects: {error}"),
        })
    }
}

/// A segment of a path or a value of a query, percent-encoded so that no name can change the path.
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

fn target(address: &str) -> Result<Target, Stop> {
    if let Some(path) = address.strip_prefix("unix:") {
        return Ok(Target::Unix(PathBuf::from(path.strip_prefix("//").unwrap_or(path))));
    }
    if address.starts_with("https://") {
        let hint = "weir's admin address speaks plain HTTP; put --admin http://HOST:PORT";
        return Err(Stop::Usage(format!("`{address}`: {hint}")));
    }
    let authority = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
    let port =
        authority.rsplit_once(':').and_then(|(host, port)| port.parse::<u16>().ok().filter(|_| !host.is_empty()));
    match port {
        Some(_) if !authority.contains(['/', '?', '#', '@']) => Ok(Target::Tcp(authority.to_owned())),
        _ => Err(Stop::Usage(format!(
            "`{address}` is no admin address; it looks like http://127.0.0.1:9900 or unix:PATH"
        ))),
    }
}

async fn connect<S>(connecting: impl Future<Output = std::io::Result<S>>) -> Result<S, String> {
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(connected) => connected.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no connection in {} s", CONNECT_TIMEOUT.as_secs())),
    }
}

async fn exchange_over<S>(stream: S, request: Request<Full<Bytes>>) -> Result<(u16, String), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let broken = |error: hyper::Error| format!("the connection broke: {error}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| format!("the answer broke off: {error}"))?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // The connection may end with the answer already in hand.
        _ = connection => answer.await,
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A little longer than the server's own deadline, so that its word arrives.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(130);
/// A config or a thousand events are far smaller.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_in_three_forms() {
        let tcp = |text: &str| Target::Tcp(text.to_owned());
        let unix = |text: &str| Target::Unix(PathBuf::from(text));
        for (address, expected) in [
            ("http://127.0.0.1:9900", tcp("127.0.0.1:9900")),
            ("http://localhost:9900/", tcp("localhost:9900")),
            ("[::1]:9900", tcp("[::1]:9900")),
            ("unix:weir.sock", unix("weir.sock")),
            ("unix:///run/weir.sock", unix("/run/weir.sock")),
        ] {
            assert_eq!(target(address).unwrap(), expected, "{address}");
        }
        for wrong in ["", "9900", ":9900", "http://host", "https://h:1", "http://h:1/api", "http://u@h:1", "h:99999"] {
            assert_eq!(target(wrong).unwrap_err().code(), 2, "{wrong}");
        }
    }

    #[test]
    fn names_cannot_leave_their_place_in_a_path() {
        assert_eq!(encode("chat-v2_x.y~"), "chat-v2_x.y~");
        assert_eq!(encode("a/../b?c#d é"), "a%2F..%2Fb%3Fc%23d%20%C3%A9");
    }

    #[test]
    fn nobody_there_is_exit_code_3_and_says_how_to_set_the_address() {
        let folder = tempfile::tempdir().unwrap();
        let address = format!("unix:{}", folder.path().join("none.sock").display());
        let stop = Client::new(&address, None).unwrap().ask("/healthz").unwrap_err();
        assert_eq!(stop.code(), 3);
        let message = stop.message().unwrap();
        assert!(message.contains(&address) && message.contains("WEIR_ADMIN"), "{message}");
    }
}
