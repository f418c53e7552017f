//! Every way in which a request is not proxied: status, body, gRPC code and log word in one table.

use super::body::Body;
use super::fault::Fault;
use super::headers::Ids;
use crate::rollout::outcome::ErrorKind;
use crate::tally::REFUSALS;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::request::Parts;
use http::{Response, StatusCode};

/// Why a request gets weir's own answer instead of an upstream's; in the order of `tally::REFUSALS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No host, several hosts, or hosts that contradict each other.
    BadHost,
    /// A body whose end can be understood in two ways, or a transfer coding other than chunked.
    BadFraming,
    /// CONNECT or TRACE.
    Method,
    /// The request target is longer than `max_uri_bytes`.
    UriTooLong,
    /// No route matches.
    NoRoute,
    /// Nothing says where the route's requests go, or its upstream has no known address.
    NoEndpoint,
    /// Every allowed connection to the upstream is taken.
    Busy,
    /// The upstream cannot be reached.
    Connect,
    /// The TLS handshake with it failed.
    Tls,
    /// It did not answer in time.
    Timeout,
    /// It closed before its answer.
    Reset,
    /// What it answered is not HTTP.
    Protocol,
    /// The client's own body ended before it should.
    ClientLeft,
    /// The client stopped sending its body, or sent it too slowly.
    ClientSlow,
    /// The route takes no WebSockets.
    WebSocket,
    /// As many requests are under way as may be, in the process or on the arm.
    Overloaded,
    /// The request's body is longer than `max_body`.
    BodyTooLong,
    /// What is no request line, or no header field.
    BadRequest,
    /// A head with more bytes or fields than it may have.
    HeadTooLong,
    /// A transfer coding besides chunked.
    Coding,
    /// A version of HTTP that is not spoken.
    Version,
    /// A WebSocket to an upstream of HTTP/2.
    WebSocketHttp2,
}

impl Refusal {
    /// The word in log and metric.
    pub fn word(self) -> &'static str {
        REFUSALS.get(self as usize).copied().unwrap_or("refused")
    }

    /// The status of the answer.
    pub const fn status(self) -> StatusCode {
        match self {
            Refusal::BadHost | Refusal::BadFraming | Refusal::BadRequest | Refusal::ClientLeft => {
                StatusCode::BAD_REQUEST
            }
            Refusal::HeadTooLong => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Refusal::Coding | Refusal::WebSocketHttp2 => StatusCode::NOT_IMPLEMENTED,
            Refusal::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Refusal::Method => StatusCode::METHOD_NOT_ALLOWED,
            Refusal::UriTooLong => StatusCode::URI_TOO_LONG,
            Refusal::NoRoute => StatusCode::NOT_FOUND,
            Refusal::NoEndpoint | Refusal::Busy | Refusal::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::Connect | Refusal::Tls | Refusal::Reset | Refusal::Protocol => StatusCode::BAD_GATEWAY,
            Refusal::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Refusal::ClientSlow => StatusCode::REQUEST_TIMEOUT,
            Refusal::WebSocket => StatusCode::FORBIDDEN,
            Refusal::BodyTooLong => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }

    /// The code of the answer to a gRPC call (gRPC "HTTP to gRPC Status Code Mapping", and `cancelled` for a client that left).
    const fn grpc_code(self) -> &'static str {
        match self {
            Refusal::ClientLeft | Refusal::ClientSlow => "1",
            Refusal::Timeout => "4",
            Refusal::Method | Refusal::NoRoute | Refusal::WebSocket => "12",
            Refusal::BadHost | Refusal::BadFraming | Refusal::BadRequest | Refusal::UriTooLong => "13",
            Refusal::Coding | Refusal::Version | Refusal::WebSocketHttp2 => "12",
            Refusal::BodyTooLong | Refusal::HeadTooLong => "8",
            Refusal::NoEndpoint | Refusal::Busy | Refusal::Overloaded => "14",
            Refusal::Connect | Refusal::Tls | Refusal::Reset | Refusal::Protocol => "14",
        }
    }

    /// Whether it leaves in doubt what else its HTTP/1 connection carries, so that nothing more of that may be read.
    pub const fn leaves_doubt(self) -> bool {
        use Refusal::*;
        matches!(self, BadHost | BadFraming | BadRequest | Method | UriTooLong | HeadTooLong | Coding | Version)
    }

    /// What an answer says: the word and the request's id.
    pub fn text(self, ids: &Ids) -> String {
        format!("{}\nrequest id: {}\n", self.word(), String::from_utf8_lossy(ids.request()))
    }

    /// The answer: its text, or the same as gRPC trailers-only answer.
    pub fn answer(self, request: &Parts, ids: &Ids) -> Response<Body> {
        let word = self.word();
        let is_grpc =
            request.headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        if is_grpc {
            let mut answer = Response::new(Body::empty());
            let headers = answer.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from_static(self.grpc_code()));
            headers.insert("grpc-message", HeaderValue::from_static(word));
            return answer;
        }
        let mut answer = Response::new(Body::fixed(Bytes::from(self.text(ids))));
        *answer.status_mut() = self.status();
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if self == Refusal::Overloaded {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        if self == Refusal::Method {
            let allowed = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
            answer.headers_mut().insert(http::header::ALLOW, allowed);
        }
        answer
    }
}

/// When a request that was too many may come again: an overload is often over in less, and the header counts seconds.
const RETRY_AFTER_SECONDS: &str = "1";

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::ClientLeft => Refusal::ClientLeft,
            Fault::ClientSlow => Refusal::ClientSlow,
            Fault::BodyTooLong => Refusal::BodyTooLong,
            Fault::Exhausted => Refusal::Overloaded,
            Fault::NoEndpoint => Refusal::NoEndpoint,
            Fault::Busy => Refusal::Busy,
            Fault::Failed(kind) => match kind {
                ErrorKind::Connect => Refusal::Connect,
                ErrorKind::Tls => Refusal::Tls,
                ErrorKind::Timeout => Refusal::Timeout,
                ErrorKind::Protocol => Refusal::Protocol,
                ErrorKind::Status | ErrorKind::Reset | ErrorKind::Truncated | ErrorKind::Grpc => Refusal::Reset,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_in_the_order_of_the_refusals() {
        assert_eq!(Refusal::BadHost.word(), "bad_host");
        assert_eq!(Refusal::Busy.word(), "upstream_busy");
        assert_eq!(Refusal::Timeout.word(), "timeout");
        assert_eq!(Refusal::WebSocketHttp2 as usize + 1, REFUSALS.len());
        assert_eq!(Refusal::WebSocketHttp2.word(), "websocket_http2");
        assert_eq!(Refusal::BadRequest.word(), "bad_request");
        assert_eq!(Refusal::HeadTooLong.word(), "head_too_long");
        assert_eq!(Refusal::Coding.word(), "coding");
        assert_eq!(Refusal::Version.word(), "version");
        assert_eq!(Refusal::Overloaded.word(), "overloaded");
        assert_eq!(Refusal::BodyTooLong.word(), "body_too_long");
        assert_eq!(Refusal::ClientSlow.word(), "client_slow");
        assert_eq!(Refusal::WebSocket.word(), "websocket");
    }
}
