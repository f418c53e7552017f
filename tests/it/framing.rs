//! What can be understood in more than one way is refused or brought into one form, over raw sockets: never does an
//! upstream get a request that weir has not logged, and never is what follows a refused request taken for one.

use crate::framing_cases::more;
use crate::harness::raw::RawAnswer;
use crate::harness::recorder::Recorder;
use crate::harness::streams::{END_STREAM, RESET, Streams};
use crate::harness::tls::Certificate;
use crate::harness::weir::folder;
use crate::harness::{Config, RawClient, Weir};
use std::path::Path;

/// What becomes of a request.
#[derive(Clone, Copy, Debug)]
pub enum Fate {
    /// It is refused with that status, and its connection ends.
    Refused(u16),
    /// It reaches the upstream, whose bytes from its first line on have the first of these and not the second; what
    /// follows it is a request of its own.
    Passes(&'static str, &'static str),
    /// The same, but it is the last one of its connection.
    Ends(&'static str, &'static str),
    /// It reaches the upstream but never as a whole one, and its connection ends.
    BrokenOff,
}
use Fate::{BrokenOff, Ends, Passes, Refused};

/// A request and what becomes of it. `{n}` is the case's number, `{h}` the usual fields; `framing_cases` has more of them.
type Case = (&'static str, Fate);

const HOST: &str = "Host: a.example\r\nx-user-id: u\r\n";
/// Sent behind each case.
const FOLLOWING: &str = "GET /following-{n} HTTP/1.1\r\nHost: a.example\r\nx-user-id: u\r\n\r\n";

/// How a body ends.
const LENGTHS: &[Case] = &[
    ("POST /{n} HTTP/1.1\r\n{h}Content-Length: 5\r\n\r\nhello", Passes("content-length: 5\r\n", "chunked")),
    ("POST /{n} HTTP/1.1\r\n{h}Content-Length: 0\r\n\r\n", Passes("POST", "chunked")),
    ("POST /{n} HTTP/1.1\r\n{h}Content-Length:  5  \r\n\r\nhello", Passes("content-length: 5\r\n", "chunked")),
    ("POST /{n} HTTP/1.1\r\n{h}Content-Length: 005\r\n\r\nhello", Passes("content-length: 5\r\n", "005")),
    ("POST /{n} HTTP/1.1\r\n{h}Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Content-Length: 5, 5\r\n\r\nhello", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Content-Length: 5,6\r\n\r\nhello", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Content-Length: -5\r\n\r\nhello", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Content-Length: +5\r\n\r\nhello", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Content-Length: 0x5\r\n\r\nhello", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Content-Length: 5a\r\n\r\nhello", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Content-Length: 5.0\r\n\r\nhello", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Content-Length: 5 5\r\n\r\nhello", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Content-Length: \"5\"\r\n\r\nhello", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Content-Length:\r\n\r\nhello", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Content-Length: 18446744073709551621\r\n\r\nhello", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Content-Length : 5\r\n\r\nhello", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Content-Length\t: 5\r\n\r\nhello", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Content-Length: 5\x0b\r\n\r\nhello", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Content_Length: 5\r\n\r\n", Passes("POST", "ontent_")),
];

/// Codings.
const CODINGS: &[Case] = &[
    (
        "POST /{n} HTTP/1.1\r\n{h}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        Passes("hello", "content-length"),
    ),
    (
        "POST /{n} HTTP/1.1\r\n{h}Transfer-Encoding: ChUnKeD\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        Passes("encoding: chunked\r\n", "ChUnKeD"),
    ),
    (
        "POST /{n} HTTP/1.1\r\n{h}Transfer-Encoding: \tchunked \r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        Passes("encoding: chunked\r\n", "\t"),
    ),
    ("POST /{n} HTTP/1.1\r\n{h}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\n{h}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", Refused(400)),
    (
        "POST /{n} HTTP/1.1\r\n{h}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Refused(400),
    ),
    (
        "POST /{n} HTTP/1.1\r\n{h}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        Refused(400),
    ),
    ("POST /{n} HTTP/1.1\r\n{h}Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n", Refused(501)),
    ("POST /{n} HTTP/1.1\r\n{h}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", Refused(501)),
    ("POST /{n} HTTP/1.1\r\n{h}Transfer-Encoding: identity\r\n\r\n", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Transfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Transfer-Encoding: gzip\r\n\r\n", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Transfer-Encoding: chunkedx\r\n\r\n0\r\n\r\n", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Transfer-Encoding:\r\n\r\n0\r\n\r\n", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}Transfer_Encoding: chunked\r\n\r\n", Passes("POST", "chunked")),
    ("POST /{n} HTTP/1.0\r\n{h}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400)),
    ("POST /{n} HTTP/1.1\r\n{h}X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400)),
];

/// Chunks and trailers.
const CHUNKS: &[Case] = &[
    ("{c}5;ext=1;b=\"c\"\r\nhello\r\n0;last\r\n\r\n", Passes("hello", "ext")),
    ("{c}0000a\r\nhellohello\r\n000\r\n\r\n", Passes("hellohello", "0000a")),
    ("{c}5 \r\nhello\r\n0\r\n\r\n", Passes("hello", "5 \r")),
    ("{c}ffffffffffffffff\r\nhello\r\n0\r\n\r\n", BrokenOff),
    ("{c}10000000000000005\r\nhello\r\n0\r\n\r\n", BrokenOff),
    ("{c}-5\r\nhello\r\n0\r\n\r\n", BrokenOff),
    ("{c}+5\r\nhello\r\n0\r\n\r\n", BrokenOff),
    ("{c}0x5\r\nhello\r\n0\r\n\r\n", BrokenOff),
    ("{c} 5\r\nhello\r\n0\r\n\r\n", BrokenOff),
    ("{c}\r\nhello\r\n0\r\n\r\n", BrokenOff),
    ("{c}5\nhello\r\n0\r\n\r\n", BrokenOff),
    ("{c}5\r\nhello\n0\r\n\r\n", BrokenOff),
    ("{c}5\r\nhelloworld\r\n0\r\n\r\n", BrokenOff),
    ("{c}5\r\nhell\r\n0\r\n\r\n", BrokenOff),
    ("{c}5\rX\nhello\r\n0\r\n\r\n", BrokenOff),
    ("{c}5;a\nb\r\nhello\r\n0\r\n\r\n", BrokenOff),
    ("{c}5;\0\r\nhello\r\n0\r\n\r\n", BrokenOff),
    ("{c}5\r\nhello\r\n0\r\nX: y\n\r\n", BrokenOff),
    ("{c}5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n", Passes("x-sum: 7\r\n", "trailer-none")),
    ("{c}5\r\nhello\r\n0\r\nContent-Length: 7\r\nx-sum: 7\r\n\r\n", Passes("x-sum: 7\r\n", "ontent-")),
    ("{c}5\r\nhello\r\n0\r\nTransfer-Encoding: x\r\nHost: evil\r\nx-sum: 7\r\n\r\n", Passes("x-sum: 7\r\n", "evil")),
    ("{c}5\r\nhello\r\n0\r\nAuthorization: evil\r\nCookie: evil\r\nx-sum: 7\r\n\r\n", Passes("x-sum: 7\r\n", "evil")),
    (
        "{c}5\r\nhello\r\n0\r\nX-Weir-Rollout: evil\r\nX-Forwarded-For: evil\r\nx-sum: 7\r\n\r\n",
        Passes("x-sum: 7\r\n", "evil"),
    ),
];

/// First lines and fields.
const HEADS: &[Case] = &[
    ("GET /{n} HTTP/1.1\r\n{h}\r\n", Passes("GET", "evil")),
    ("\r\nGET /{n} HTTP/1.1\r\n{h}\r\n", Passes("GET", "evil")),
    ("GET  /{n} HTTP/1.1\r\n{h}\r\n", Refused(400)),
    ("GET /{n}  HTTP/1.1\r\n{h}\r\n", Refused(400)),
    ("GET\t/{n}\tHTTP/1.1\r\n{h}\r\n", Refused(400)),
    (" GET /{n} HTTP/1.1\r\n{h}\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1 \r\n{h}\r\n", Refused(400)),
    ("GET /{n}\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1 HTTP/1.1\r\n{h}\r\n", Refused(400)),
    ("GET /{n} /x HTTP/1.1\r\n{h}\r\n", Refused(400)),
    ("G(T /{n} HTTP/1.1\r\n{h}\r\n", Refused(400)),
    ("GET /{n} http/1.1\r\n{h}\r\n", Refused(400)),
    ("GET /{n} HTTP/1.2\r\n{h}\r\n", Refused(505)),
    ("GET /{n} HTTP/2.0\r\n{h}\r\n", Refused(505)),
    ("GET /{n} HTTP/0.9\r\n{h}\r\n", Refused(505)),
    ("GET /{n} HTTP/1.1\n{h}\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\n{h}\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\nHost: a.example\nx-user-id: u\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\rX: y\r\n{h}\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\n{h}X: a\rb\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\n{h}X: a\0b\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\n{h}X: a\x7fb\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\n{h}X\0: a\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\n{h}X: a\r\n b\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\n{h}X: a\r\n\tb\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\n X: a\r\n{h}\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\n{h}X : a\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\n{h}: a\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\n{h}X\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\n{h}X Y: a\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\n{h}X(Y: a\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\n{h}\u{e9}: a\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\n{h}X_Forwarded_For: evil\r\nX_User: evil\r\n\r\n", Passes("GET", "evil")),
    ("GET /{n} HTTP/1.1\r\n{h}X-Weir-Rollout: evil\r\nX-Weir-Arm: evil\r\n\r\n", Passes("GET", "evil")),
    ("GET /{n}\x01 HTTP/1.1\r\n{h}\r\n", Refused(400)),
    ("GET /{n}\0 HTTP/1.1\r\n{h}\r\n", Refused(400)),
    ("GET /{n}\x7f HTTP/1.1\r\n{h}\r\n", Refused(400)),
    ("GET /{n}#evil HTTP/1.1\r\n{h}\r\n", Refused(400)),
    ("GET /{n}?a#evil HTTP/1.1\r\n{h}\r\n", Refused(400)),
    ("GET x{n} HTTP/1.1\r\n{h}\r\n", Refused(400)),
    ("GET a.example:80 HTTP/1.1\r\n{h}\r\n", Refused(400)),
    ("GET * HTTP/1.1\r\n{h}\r\n", Refused(400)),
    ("CONNECT a.example:443 HTTP/1.1\r\n{h}\r\n", Refused(405)),
    ("CONNECT /{n} HTTP/1.1\r\n{h}\r\n", Refused(405)),
    ("TRACE /{n} HTTP/1.1\r\n{h}\r\n", Refused(405)),
];

/// Hosts.
const HOSTS: &[Case] = &[
    ("GET /{n} HTTP/1.1\r\nx-user-id: u\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\nHost:\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\n{h}Host: a.example\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\n{h}Host: evil\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\nHost: a.example, evil\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\nHost: a.example evil\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\nHost: user@a.example\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\nHost: a.example/path\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\nHost: a.example:evil\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\nHost: a.example:99999\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\nHost: a.example:80:80\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\nHost: :80\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\nHost: [::1\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\nHost: http://a.example\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\nHost: a.example?x\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\nHost: a.ex\u{e4}mple\r\n\r\n", Refused(400)),
    ("GET http://a.example/{n} HTTP/1.1\r\n{h}\r\n", Passes("GET /", "http://")),
    ("GET http://A.example/{n} HTTP/1.1\r\n{h}\r\n", Passes("GET /", "http://")),
    ("GET http://evil/{n} HTTP/1.1\r\n{h}\r\n", Refused(400)),
    ("GET http://user@a.example/{n} HTTP/1.1\r\n{h}\r\n", Refused(400)),
    ("GET http://a.example:81/{n} HTTP/1.1\r\n{h}\r\n", Refused(400)),
    ("GET http:///{n} HTTP/1.1\r\n{h}\r\n", Refused(400)),
    ("GET //evil/{n} HTTP/1.1\r\n{h}\r\n", Passes("GET //evil/", "host: evil")),
];

/// What `Connection` may take away, and what it may not; upgrades.
const HOPS: &[Case] = &[
    ("GET /{n} HTTP/1.1\r\n{h}Connection: X-Own\r\nX-Own: evil\r\n\r\n", Passes("GET", "evil")),
    (
        "GET /{n} HTTP/1.1\r\n{h}Connection: keep-alive\r\nKeep-Alive: evil\r\nProxy-Connection: evil\r\n\r\n",
        Passes("GET", "evil"),
    ),
    ("GET /{n} HTTP/1.1\r\n{h}Connection: Host\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\n{h}Connection: close, content-length\r\n\r\n", Refused(400)),
    (
        "POST /{n} HTTP/1.1\r\n{h}Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Refused(400),
    ),
    ("GET /{n} HTTP/1.1\r\n{h}Connection: Authorization\r\nAuthorization: x\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\n{h}Connection: cookie\r\nCookie: a=b\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\n{h}Connection: x-forwarded-for\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\n{h}Connection: X-Weir-Rollout\r\n\r\n", Refused(400)),
    ("GET /{n} HTTP/1.1\r\n{h}Connection: a\r\nConnection: b, X-WEIR-FORCE\r\n\r\n", Refused(400)),
    (
        "POST /{n} HTTP/1.1\r\n{h}Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nhello",
        Refused(400),
    ),
    (
        "GET /{n} HTTP/1.1\r\n{h}Connection: upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Refused(400),
    ),
    (
        "GET /{n} HTTP/1.1\r\n{h}Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: evil\r\n\r\n",
        Passes("GET", "evil"),
    ),
    (
        "POST /{n} HTTP/1.1\r\n{h}Connection: upgrade\r\nUpgrade: TLS/1.2\r\nContent-Length: 5\r\n\r\nhello",
        Passes("hello", "TLS"),
    ),
];

/// All of them, numbered.
fn cases() -> Vec<(usize, String, Fate)> {
    let groups = [LENGTHS, CODINGS, CHUNKS, HEADS, HOSTS, HOPS];
    let chunked = format!("POST /{{n}} HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n");
    let text = |(number, (text, fate)): (usize, (String, Fate))| {
        let text = text.replace("{c}", &chunked).replace("{g}", "GET /{n} HTTP/1.1\r\n{h}");
        let text = text.replace("{p}", "POST /{n} HTTP/1.1\r\n{h}").replace("{h}", HOST);
        (number, text.replace("{n}", &format!("case-{number}-")), fate)
    };
    let own = groups.into_iter().flatten().map(|(text, fate)| ((*text).to_owned(), *fate));
    own.chain(more()).enumerate().map(text).collect()
}

/// A weir in front of a recorder whose access log has every request.
pub async fn recorded(recorder: &Recorder, listener: &str) -> Weir {
    let folder = folder();
    Certificate::new().write(folder.path());
    recorded_in(folder, recorder, listener).await
}

async fn recorded_in(folder: std::sync::Arc<tempfile::TempDir>, recorder: &Recorder, listener: &str) -> Weir {
    let config = Config::between(recorder.address, recorder.address).listener(listener).tables(
        "[access_log]\nmode = \"full\"\npath = \"access.log\"\n\
             [[routes]]\nname = \"lane\"\nmatch = { headers = { x-lane = \"b\" } }\nrollouts = [\"chat\", \"team\"]\n\
             [[routes]]\nname = \"all\"\nrollouts = [\"chat\", \"team\"]\n\
             [rollouts.team]\nunit = [\"header:x-team\", \"jwt:sub\"]\nstable = { remove_headers = [\"x-old\"] }\n\
             canary = { set_headers = { x-flag = \"on\" } }\n[rollouts.team.cohorts.beta]\nheader = \"x-beta: 1\"",
    );
    Weir::start_in(folder, &config).await
}

/// Methods and paths of the requests in the log for which an upstream was asked, sorted.
pub fn logged(folder: &Path) -> Vec<String> {
    let log = std::fs::read_to_string(folder.join("access.log")).expect("a log");
    let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a line of JSON"));
    let asked = |line: &serde_json::Value| {
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        (!line["upstream"].is_null()).then(|| format!("{} {}", text("method"), text("path")))
    };
    let mut logged: Vec<String> = lines.filter_map(|line| asked(&line)).collect();
    logged.sort_unstable();
    logged
}

/// The same of those that anybody could see at the upstream.
pub fn seen(recorder: &Recorder) -> Vec<String> {
    let text = |line: &String| {
        let words: Vec<&str> = line.split([' ', '?']).collect();
        format!("{} {}", words[0], words[1])
    };
    let mut seen: Vec<String> = recorder.request_lines().iter().map(text).collect();
    seen.sort_unstable();
    seen
}

/// Every request that anybody could see at the upstream is in the log, and every one there that was answered by it came
/// to it.
fn compare_with_log(folder: &Path, recorder: &Recorder) {
    let (logged, seen) = (logged(folder), seen(recorder));
    for request in &seen {
        let in_log = logged.iter().filter(|known| *known == request).count();
        let at_upstream = seen.iter().filter(|known| *known == request).count();
        assert_eq!((in_log, at_upstream), (1, 1), "{request}");
    }
    let reached = |request: &&String| !seen.contains(request);
    // A body that is broken off may end its request before a byte of it is sent.
    let broken_off = cases().iter().filter(|(_, _, fate)| matches!(fate, BrokenOff)).count();
    assert!(logged.iter().filter(reached).count() <= broken_off, "{logged:?} {seen:?}");
}

/// Sends a case and what follows it, and looks at all that comes of it but the upstream's bytes.
async fn run(client: &mut RawClient, number: usize, text: &str, fate: Fate, step: usize) {
    let bytes = format!("{text}{}", FOLLOWING.replace("{n}", &format!("{number}-")));
    for piece in bytes.as_bytes().chunks(step) {
        // A connection that was refused takes no more.
        if client.wire.write(piece).await.is_err() {
            break;
        }
    }
    let answer = client.try_answer().await;
    let status = answer.as_ref().map(|answer| answer.status);
    match fate {
        Passes(..) => {
            assert_eq!(status, Some(200), "{text:?}: {answer:?}");
            let following = client.try_answer().await;
            assert_eq!(following.map(|answer| answer.status), Some(200), "what follows {text:?}");
        }
        Ends(..) => {
            assert_eq!(status, Some(200), "{text:?}: {answer:?}");
            assert!(client.try_answer().await.is_none(), "what follows {text:?} was answered");
        }
        Refused(expected) => {
            assert_eq!(status, Some(expected), "{text:?}: {answer:?}");
            let says_close = |answer: &RawAnswer| answer.field("connection") == Some("close") && answer.complete;
            assert!(answer.as_ref().is_some_and(says_close), "{text:?}: {answer:?}");
            assert!(client.try_answer().await.is_none(), "what follows {text:?} was answered");
        }
        BrokenOff => {
            assert_eq!(status, Some(400), "{text:?}: {answer:?}");
            assert!(client.try_answer().await.is_none(), "what follows {text:?} was answered");
        }
    }
}

/// A request whose chunks, if it has any, are one piece.
fn joined(request: &str) -> String {
    let Some((head, mut rest)) = request.split_once("\r\n\r\n") else { return request.to_owned() };
    let mut text = format!("{head}\r\n\r\n");
    if head.contains("chunked") {
        while let Some((size, after)) = rest.split_once("\r\n") {
            let size = usize::from_str_radix(size, 16).expect("a size of weir's");
            rest = after;
            if size == 0 {
                break;
            }
            text.push_str(&rest[..size]);
            rest = &rest[size + 2..];
        }
    }
    text + rest
}

/// What the upstream got of a case.
fn look_upstream(recorder: &Recorder, number: usize, text: &str, fate: Fate) {
    let heard = recorder.from(&format!("case-{number}-"));
    let following = recorder.from(&format!("/following-{number}-"));
    match fate {
        Refused(_) => assert_eq!((heard, following), (None, None), "{text:?}"),
        BrokenOff => {
            assert_eq!(following, None, "{text:?}");
            let ended = heard.is_some_and(|heard| heard.contains("\r\n0\r\n"));
            assert!(!ended, "{text:?} reached the upstream as a whole request");
        }
        Passes(has, has_not) | Ends(has, has_not) => {
            let has = &has.replace("{n}", &format!("case-{number}-"));
            let heard = heard.unwrap_or_else(|| panic!("{text:?} did not reach the upstream"));
            // Up to the next request on the same connection.
            let own = heard.match_indices(" HTTP/1.1\r\n").nth(1).map_or(&heard[..], |(next, _)| &heard[..next]);
            let own = joined(own);
            assert!(own.contains(has) && !own.contains(has_not), "{text:?} became {own:?}");
            assert_eq!(following.is_some(), matches!(fate, Passes(..)), "{text:?}");
        }
    }
}

#[tokio::test]
async fn what_has_two_readings_is_refused_and_what_follows_it_is_never_a_request() {
    let cases = cases();
    assert!(cases.len() >= 400, "{}", cases.len());
    for step in [usize::MAX, 7] {
        let recorder = Recorder::start().await;
        let weir = recorded(&recorder, "").await;
        for (number, text, fate) in &cases {
            let mut client = RawClient::connect(weir.address).await;
            run(&mut client, *number, text, *fate, step).await;
            drop(client);
            look_upstream(&recorder, *number, text, *fate);
        }
        let refused = cases.iter().filter(|(_, _, fate)| matches!(fate, Refused(_))).count() as u64;
        let counted = |metrics: &crate::harness::metrics::Metrics| {
            let reasons = ["bad_request", "bad_framing", "bad_host", "method", "coding", "version"];
            let count = |reason: &&str| metrics.count("weir_refused_total", &[("reason", *reason)]);
            reasons.iter().map(count).sum::<u64>()
        };
        let metrics = weir.metrics_until("the count of refusals", |metrics| counted(metrics) >= refused).await;
        assert_eq!(counted(&metrics), refused, "each refusal is counted once");
        let folder = std::sync::Arc::clone(&weir.folder);
        weir.stop().await;
        compare_with_log(folder.path(), &recorder);
    }
}

#[tokio::test]
async fn it_is_the_same_behind_tls() {
    let recorder = Recorder::start().await;
    let (certificate, folder) = (Certificate::new(), folder());
    certificate.write(folder.path());
    let weir = recorded_in(folder, &recorder, "tls = { cert = \"cert.pem\", key = \"key.pem\" }").await;
    for (number, text, fate) in cases().into_iter().step_by(5) {
        let mut client = RawClient::over(certificate.connect(weir.address, &["http/1.1"]).await);
        run(&mut client, number, &text, fate, usize::MAX).await;
        drop(client);
        look_upstream(&recorder, number, &text, fate);
    }
    let folder = std::sync::Arc::clone(&weir.folder);
    weir.stop().await;
    compare_with_log(folder.path(), &recorder);
}

#[tokio::test]
async fn a_refused_request_behind_good_ones_does_not_take_their_answers_away() {
    let recorder = Recorder::start().await;
    let weir = recorded(&recorder, "").await;
    let mut client = RawClient::connect(weir.address).await;
    let good = |number: u32| format!("GET /good-{number} HTTP/1.1\r\n{HOST}\r\n");
    let body = format!("POST /good-3 HTTP/1.1\r\n{HOST}content-length: 5\r\n\r\nhello");
    let bad = format!("POST /bad HTTP/1.1\r\n{HOST}content-length: 1\r\ncontent-length: 1\r\n\r\n");
    client.send([good(1), good(2), body, good(4), bad, good(5)].concat()).await;
    for number in 1..=4 {
        assert_eq!(client.answer().await.status, 200, "the answer to the request {number}");
    }
    let refused = client.answer().await;
    assert_eq!((refused.status, refused.text().lines().next()), (400, Some("bad_framing")));
    assert!(client.try_answer().await.is_none());
    assert_eq!(recorder.request_lines().len(), 4);
    weir.stop().await;
}

#[tokio::test]
async fn many_requests_sent_at_once_are_answered_in_order() {
    let recorder = Recorder::start().await;
    let weir = recorded(&recorder, "").await;
    let mut client = RawClient::connect(weir.address).await;
    for round in 0..20 {
        let one = |number: u32| match number % 3 {
            0 => format!("GET /{round}-{number} HTTP/1.1\r\n{HOST}\r\n"),
            1 => format!("POST /{round}-{number} HTTP/1.1\r\n{HOST}content-length: 11\r\n\r\nGET / HTTP/"),
            _ => format!(
                "POST /{round}-{number} HTTP/1.1\r\n{HOST}transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            ),
        };
        client.send((0..12).map(one).collect::<String>()).await;
        for number in 0..12 {
            assert_eq!(client.answer().await.status, 200, "{round}: {number}");
        }
    }
    weir.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_at_once_leaves_no_request_out_of_the_log() {
    let recorder = Recorder::start().await;
    let weir = recorded(&recorder, "").await;
    for number in 0..100 {
        let mut client = RawClient::connect(weir.address).await;
        let body = format!("POST /left-{number}-a HTTP/1.1\r\n{HOST}content-length: 5\r\n\r\nhello");
        client.send(format!("{body}GET /left-{number}-b HTTP/1.1\r\n{HOST}\r\n")).await;
        drop(client);
        let mut client = Streams::connect(weir.address).await;
        let path = format!("/left-{number}-c");
        let fields = [(":method", "GET"), (":scheme", "http"), (":authority", "a.example"), (":path", &path)];
        client.head(1, END_STREAM, &fields).await;
        if number % 2 == 0 {
            client.frame(RESET, 0, 1, &[0, 0, 0, 8]).await;
        }
    }
    let folder = std::sync::Arc::clone(&weir.folder);
    weir.stop().await;
    let (logged, seen) = (logged(folder.path()), seen(&recorder));
    assert!(!seen.is_empty());
    for request in &seen {
        assert!(logged.contains(request), "{request}");
    }
}

#[tokio::test]
async fn http2_is_not_begun_on_a_connection_of_http1() {
    let recorder = Recorder::start().await;
    let weir = recorded(&recorder, "").await;
    let mut client = RawClient::connect(weir.address).await;
    client
        .send(format!("GET /first HTTP/1.1\r\n{HOST}\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET /x HTTP/1.1\r\n\r\n"))
        .await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(client.answer().await.status, 505);
    assert!(client.try_answer().await.is_none());
    assert_eq!(seen(&recorder), ["GET /first"]);
    weir.stop().await;
}

#[tokio::test]
async fn a_head_request_that_is_refused_gets_no_body() {
    let recorder = Recorder::start().await;
    let weir = recorded(&recorder, "").await;
    let mut client = RawClient::connect(weir.address).await;
    client.send(format!("HEAD / HTTP/1.1\r\n{HOST}X : y\r\n\r\n")).await;
    let (head, _) = client.head().await.expect("an answer");
    assert_eq!(crate::harness::raw::status(&head), 400);
    assert!(client.ended().await, "a body came");
    weir.stop().await;
}
