//! HTTP/2 frames by hand: what is malformed resets its stream or ends its connection and reaches no upstream; what is
//! well-formed reaches it in one form.

use crate::framing::{logged, recorded, seen};
use crate::harness::Weir;
use crate::harness::recorder::Recorder;
use crate::harness::streams::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, End, HEADERS, RESET, SETTINGS, Streams, block,
};

const METHOD: (&str, &str) = (":method", "GET");
const OPTIONS: (&str, &str) = (":method", "OPTIONS");
const POST: (&str, &str) = (":method", "POST");
const SCHEME: (&str, &str) = (":scheme", "http");
const AUTHORITY: (&str, &str) = (":authority", "a.example");
const PATH: (&str, &str) = (":path", "/");
const UNIT: (&str, &str) = ("x-user-id", "u");

/// Kinds of frames that only this file sends, and a flag.
const PROMISE: u8 = 5;
const PING: u8 = 6;
const WINDOW: u8 = 8;
const PADDED: u8 = 8;

/// PROTOCOL_ERROR.
const PROTOCOL: u32 = 1;

/// What becomes of a head.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// Its stream is reset, or its connection ends: it is malformed.
    Malformed,
    /// It is refused with that status.
    Refused(u16),
    /// It reaches the upstream with the first of these and not the second.
    Passes(&'static str, &'static str),
}
use Fate::{Malformed, Passes, Refused};

/// Kind, flags, stream and payload.
type Frame = (u8, u8, u32, Vec<u8>);
type Case = (&'static [(&'static str, &'static str)], Fate);

const CASES: &[Case] = &[
    (&[METHOD, SCHEME, AUTHORITY, PATH, UNIT], Passes("host: a.example\r\n", "evil")),
    // Names and values.
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("X-Upper", "1")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("", "1")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("a b", "1")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("a:b", "1")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("a\r\nevil", "1")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("a\0", "1")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("a", "1\r\nevil: 1")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("a", "1\nevil: 1")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("a", "1\revil")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("a", "1\0")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("a", "1\x01")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("a", "1\x7f")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("a(b", "1")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("\u{e9}", "1")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, (" a", "1")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("a ", "1")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("content-length ", "1")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, UNIT, ("x_forwarded_for", "evil")], Passes("GET", "evil")),
    (&[METHOD, SCHEME, AUTHORITY, PATH, UNIT, ("x-weir-rollout", "evil")], Passes("GET", "evil")),
    (&[METHOD, SCHEME, AUTHORITY, PATH, UNIT, ("x_real_ip", "evil")], Passes("GET", "evil")),
    (&[METHOD, SCHEME, AUTHORITY, PATH, UNIT, ("x-real-ip", "evil")], Passes("GET", "evil")),
    (&[METHOD, SCHEME, AUTHORITY, PATH, UNIT, ("forwarded", "evil")], Passes("GET", "evil")),
    (&[METHOD, SCHEME, AUTHORITY, PATH, UNIT, ("x-forwarded-for", "evil")], Passes("GET", "evil")),
    (&[METHOD, SCHEME, AUTHORITY, PATH, UNIT, ("x-forwarded-host", "evil")], Passes("GET", "evil")),
    (&[METHOD, SCHEME, AUTHORITY, PATH, UNIT, ("x-forwarded-port", "evil")], Passes("GET", "evil")),
    (&[METHOD, SCHEME, AUTHORITY, PATH, UNIT, ("x-forwarded-user", "evil")], Passes("GET", "evil")),
    (&[METHOD, SCHEME, AUTHORITY, PATH, UNIT, ("x-weir-force", "evil")], Passes("GET", "evil")),
    (&[METHOD, SCHEME, AUTHORITY, PATH, UNIT, ("x-weir-shadow", "evil")], Passes("GET", "evil")),
    (&[METHOD, SCHEME, AUTHORITY, PATH, UNIT, ("proxy-authorization", "evil")], Passes("GET", "evil")),
    (&[METHOD, SCHEME, AUTHORITY, PATH, UNIT, ("http2-settings", "evil")], Passes("GET", "evil")),
    (&[METHOD, SCHEME, AUTHORITY, PATH, UNIT, ("expect", "evil")], Passes("GET", "evil")),
    (&[METHOD, SCHEME, AUTHORITY, PATH, UNIT, UNIT], Refused(400)),
    (&[METHOD, SCHEME, AUTHORITY, PATH, UNIT, ("x-user-id", "v")], Refused(400)),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("x-team", "u"), UNIT, ("x-team", "u")], Refused(400)),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("x-lane", "b"), ("x-lane", "c")], Refused(400)),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("authorization", "a"), ("authorization", "b")], Refused(400)),
    (&[METHOD, SCHEME, AUTHORITY, PATH, UNIT, ("x-a", "1"), ("x-a", "2")], Passes("x-a: 1\r\nx-a: 2\r\n", "evil")),
    // Fields of a connection.
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("connection", "close")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("connection", "x-user-id")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("keep-alive", "1")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("proxy-connection", "close")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("transfer-encoding", "chunked")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("upgrade", "websocket")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("transfer-encoding", "identity")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("upgrade", "h2c")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("te", "gzip")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("te", "trailers, gzip")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("te", "")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, UNIT, ("te", "trailers")], Passes("te: trailers\r\n", "evil")),
    // Pseudo-fields.
    (&[METHOD, METHOD, SCHEME, AUTHORITY, PATH], Malformed),
    (&[METHOD, POST, SCHEME, AUTHORITY, PATH], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, (":path", "/evil")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, (":authority", "evil"), PATH], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, UNIT, (":path", "/evil")], Malformed),
    (&[UNIT, METHOD, SCHEME, AUTHORITY, PATH], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, (":evil", "1")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, (":status", "200")], Malformed),
    (&[METHOD, SCHEME, SCHEME, AUTHORITY, PATH], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, AUTHORITY, PATH], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, PATH], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, (":", "1")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, (":Path", "/")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, (":method ", "GET")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, (":protocol", "websocket")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, UNIT, (":authority", "a.example")], Malformed),
    (&[PATH, AUTHORITY, SCHEME, METHOD, UNIT], Passes("GET / HTTP/1.1\r\n", "evil")),
    (&[METHOD, (":scheme", ""), AUTHORITY, PATH], Refused(400)),
    (&[METHOD, (":scheme", "h p"), AUTHORITY, PATH], Malformed),
    (&[METHOD, (":scheme", "http://"), AUTHORITY, PATH], Malformed),
    (&[METHOD, (":scheme", "ftp"), AUTHORITY, PATH], Refused(400)),
    (&[METHOD, (":scheme", "ws"), AUTHORITY, PATH], Refused(400)),
    (&[METHOD, (":scheme", "https"), AUTHORITY, PATH, UNIT], Passes("x-forwarded-proto: http\r\n", "https")),
    (&[SCHEME, AUTHORITY, PATH], Malformed),
    (&[METHOD, AUTHORITY, PATH], Malformed),
    (&[METHOD, SCHEME, AUTHORITY], Malformed),
    (&[METHOD, SCHEME, PATH], Refused(400)),
    (&[METHOD, SCHEME, PATH, UNIT, ("host", "a.example")], Passes("host: a.example\r\n", "evil")),
    // Targets and hosts.
    (&[METHOD, SCHEME, AUTHORITY, (":path", "")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, (":path", "evil")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, (":path", "/evil HTTP/1.1\r\nx: y")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, (":path", "/evil /x")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, (":path", "/evil\x01")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, (":path", "/a#evil"), UNIT], Passes("GET /a HTTP/1.1\r\n", "evil")),
    (&[METHOD, SCHEME, AUTHORITY, (":path", "http://evil/")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, (":path", "?evil")], Refused(400)),
    (&[METHOD, SCHEME, AUTHORITY, (":path", "?")], Refused(400)),
    (&[METHOD, SCHEME, AUTHORITY, (":path", "*")], Refused(400)),
    (&[POST, SCHEME, AUTHORITY, (":path", "*")], Refused(400)),
    (&[OPTIONS, SCHEME, AUTHORITY, (":path", "?evil")], Refused(400)),
    (&[OPTIONS, SCHEME, AUTHORITY, (":path", "*"), UNIT], Passes("OPTIONS * HTTP/1.1\r\n", "evil")),
    (&[OPTIONS, SCHEME, AUTHORITY, (":path", "*evil")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, (":path", "#evil"), UNIT], Passes("GET / HTTP/1.1\r\n", "evil")),
    (&[METHOD, SCHEME, AUTHORITY, (":path", " /evil")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, (":path", "/evil\0")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, (":path", "/evil\x7f")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, (":path", "/evil\n")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, (":path", "a.example:80")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, (":path", "\\evil")], Malformed),
    (
        &[METHOD, SCHEME, AUTHORITY, (":path", "//x/../%2e%2e/"), UNIT],
        Passes("GET //x/../%2e%2e/ HTTP/1.1\r\n", "evil"),
    ),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("host", "evil")], Refused(400)),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("host", "a.example"), ("host", "a.example")], Refused(400)),
    (&[METHOD, SCHEME, AUTHORITY, PATH, UNIT, ("host", "a.example")], Passes("host: a.example\r\n", "evil")),
    (&[METHOD, SCHEME, (":authority", "user@a.example"), PATH], Refused(400)),
    (&[METHOD, SCHEME, (":authority", "a.example/evil"), PATH], Malformed),
    (&[METHOD, SCHEME, (":authority", "a.example:evil"), PATH], Refused(400)),
    (&[METHOD, SCHEME, (":authority", "a.example:99999"), PATH], Refused(400)),
    (&[METHOD, SCHEME, (":authority", "a.example evil"), PATH], Malformed),
    (&[METHOD, SCHEME, (":authority", "a.example."), PATH, UNIT], Passes("host: a.example.\r\n", "evil")),
    (&[METHOD, SCHEME, (":authority", "A.Example"), PATH, UNIT], Passes("host: A.Example\r\n", "evil")),
    (&[METHOD, SCHEME, (":authority", "[::1]:80"), PATH, UNIT], Passes("host: [::1]:80\r\n", "evil")),
    (&[METHOD, SCHEME, (":authority", "a..evil"), PATH], Refused(400)),
    (&[METHOD, SCHEME, (":authority", ".evil"), PATH], Refused(400)),
    (&[METHOD, SCHEME, (":authority", "."), PATH], Refused(400)),
    (&[METHOD, SCHEME, (":authority", "a,evil"), PATH], Refused(400)),
    (&[METHOD, SCHEME, (":authority", "a;evil"), PATH], Refused(400)),
    (&[METHOD, SCHEME, (":authority", "a*"), PATH], Refused(400)),
    (&[METHOD, SCHEME, (":authority", "a.example:65536"), PATH], Refused(400)),
    (&[METHOD, SCHEME, (":authority", "a.example:-1"), PATH], Refused(400)),
    (&[METHOD, SCHEME, (":authority", ":80"), PATH], Refused(400)),
    (&[METHOD, SCHEME, (":authority", "@evil"), PATH], Refused(400)),
    (&[METHOD, SCHEME, (":authority", "evil@"), PATH], Malformed),
    (&[METHOD, SCHEME, (":authority", "%61evil"), PATH], Malformed),
    (&[METHOD, SCHEME, (":authority", "[::1"), PATH], Malformed),
    (&[METHOD, SCHEME, (":authority", "[evil]"), PATH], Refused(400)),
    (&[METHOD, SCHEME, (":authority", ""), PATH], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("host", "")], Refused(400)),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("host", "a.example:80")], Refused(400)),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("host", "a.example.")], Refused(400)),
    (&[METHOD, SCHEME, AUTHORITY, PATH, UNIT, ("host", "A.EXAMPLE")], Passes("host: a.example\r\n", "EXAMPLE")),
    (&[METHOD, SCHEME, PATH, ("host", "")], Refused(400)),
    (&[METHOD, SCHEME, PATH, ("host", "evil@a.example")], Refused(400)),
    (&[METHOD, SCHEME, PATH, ("host", "a.example"), ("host", "a.example")], Refused(400)),
    // Methods.
    (&[(":method", "G T"), SCHEME, AUTHORITY, PATH], Malformed),
    (&[(":method", "GET /evil HTTP/1.1\r\nx: y"), SCHEME, AUTHORITY, PATH], Malformed),
    (&[(":method", ""), SCHEME, AUTHORITY, PATH], Malformed),
    (&[(":method", "TRACE"), SCHEME, AUTHORITY, PATH], Refused(405)),
    (&[(":method", "CONNECT"), AUTHORITY], Refused(405)),
    (&[(":method", "CONNECT"), SCHEME, AUTHORITY, PATH], Malformed),
    (&[(":method", "CONNECT"), SCHEME, AUTHORITY, PATH, (":protocol", "evil")], Refused(405)),
    (&[(":method", "CONNECT"), SCHEME, AUTHORITY, (":protocol", "websocket")], Malformed),
    (&[(":method", "connect"), SCHEME, AUTHORITY, PATH], Refused(405)),
    (&[(":method", "trace"), SCHEME, AUTHORITY, PATH], Refused(405)),
    (&[(":method", "Trace"), SCHEME, AUTHORITY, PATH], Refused(405)),
    (&[(":method", "TRACK"), SCHEME, AUTHORITY, PATH], Refused(405)),
    (&[(":method", "get"), SCHEME, AUTHORITY, PATH], Refused(405)),
    (&[(":method", "GET\0"), SCHEME, AUTHORITY, PATH], Malformed),
    (&[(":method", "GET,POST"), SCHEME, AUTHORITY, PATH], Malformed),
    (&[(":method", "PROPFIND"), SCHEME, AUTHORITY, PATH, UNIT], Passes("PROPFIND / HTTP/1.1\r\n", "evil")),
    // Lengths.
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("content-length", "5")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("content-length", "-1")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("content-length", "0, 0")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("content-length", "+0")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("content-length", "0x0")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("content-length", " 0")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("content-length", "18446744073709551616")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("content-length", "0"), ("content-length", "0")], Refused(400)),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("content-length", "0"), ("content-length", "5")], Malformed),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("content-length", "")], Refused(400)),
    (&[METHOD, SCHEME, AUTHORITY, PATH, UNIT, ("content-length", "0")], Passes("GET", "evil")),
    (&[POST, SCHEME, AUTHORITY, PATH, UNIT, ("content-length", "000")], Passes("content-length: 0\r\n", "000")),
    // Cookies.
    (
        &[METHOD, SCHEME, AUTHORITY, PATH, UNIT, ("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")],
        Passes("cookie: a=1; b=2; c=3\r\n", "evil"),
    ),
    (
        &[METHOD, SCHEME, AUTHORITY, PATH, ("cookie", "a=1; b=2"), UNIT, ("cookie", ""), ("cookie", ";c")],
        Passes("cookie: a=1; b=2; ; ;c\r\n", "evil"),
    ),
    (&[METHOD, SCHEME, AUTHORITY, PATH, ("cookie", "a=1\r\nevil: 1")], Malformed),
];

async fn weir(recorder: &Recorder) -> Weir {
    recorded(recorder, "").await
}

#[tokio::test]
async fn malformed_heads_reach_nobody_and_others_in_one_form() {
    let recorder = Recorder::start().await;
    let weir = weir(&recorder).await;
    let (mut reached, mut wrong) = (0, Vec::new());
    for (fields, fate) in CASES {
        let before = recorder.heard();
        let mut client = Streams::connect(weir.address).await;
        client.head(1, END_STREAM, fields).await;
        let end = client.end(1).await;
        let own = recorder.since(&before);
        let as_told = match fate {
            Malformed => !matches!(end, End::Answer(_)),
            Refused(status) => end == End::Answer(*status),
            Passes(has, has_not) => end == End::Answer(200) && own.contains(has) && !own.contains(has_not),
        };
        reached += usize::from(matches!(fate, Passes(..)));
        if !as_told || recorder.request_lines().len() != reached {
            wrong.push(format!("{fields:?}: {end:?} {own:?}"));
            reached = recorder.request_lines().len();
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(!recorder.heard().concat().contains("evil"));
    let folder = std::sync::Arc::clone(&weir.folder);
    weir.stop().await;
    assert_eq!(logged(folder.path()), seen(&recorder));
}

#[tokio::test]
async fn a_body_that_is_not_as_long_as_it_says_is_never_a_whole_request() {
    let recorder = Recorder::start().await;
    let weir = weir(&recorder).await;
    for (length, pieces, whole) in [
        ("5", &["hello"][..], true),
        ("5", &["he", "", "llo"], true),
        ("5", &["hell"], false),
        ("5", &["hello!"], false),
        ("5", &[""], false),
        ("0", &["x"], false),
        ("05", &["hello"], true),
        ("+5", &["hello"], false),
        ("5, 5", &["hello"], false),
        ("9223372036854775808", &["hello"], false),
        ("9999999999999999999", &["hello"], false),
        ("99999999999999999999", &["hello"], false),
    ] {
        let before = recorder.heard().concat().matches("hello").count();
        let mut client = Streams::connect(weir.address).await;
        client.head(1, 0, &[POST, SCHEME, AUTHORITY, PATH, UNIT, ("content-length", length)]).await;
        for (index, piece) in pieces.iter().enumerate() {
            let flags = if index + 1 == pieces.len() { END_STREAM } else { 0 };
            client.frame(DATA, flags, 1, piece.as_bytes()).await;
        }
        let end = client.end(1).await;
        assert_eq!(end == End::Answer(200), whole, "{length} {pieces:?}: {end:?}");
        let after = recorder.heard().concat().matches("hello").count();
        assert_eq!(after > before, whole, "{length} {pieces:?}");
    }
    weir.stop().await;
}

#[tokio::test]
async fn trailers_that_are_malformed_or_must_not_stand_there_do_not_reach_the_upstream() {
    let recorder = Recorder::start().await;
    let weir = weir(&recorder).await;
    for (trailers, passes) in [
        (&[("x-sum", "7"), ("authorization", "evil"), ("content-length", "99"), ("x-weir-rollout", "evil")][..], true),
        // Not malformed for the library, but gone.
        (&[(":path", "/evil")], true),
        (&[(":authority", "evil"), (":method", "evil"), ("host", "evil")], true),
        (&[("x-user-id", "evil"), ("x-team", "evil"), ("x-lane", "evil"), ("x-beta", "evil")], true),
        (&[("x-flag", "evil"), ("x-old", "evil"), ("x-real-ip", "evil"), ("forwarded", "evil")], true),
        (
            &[("x-forwarded-for", "evil"), ("x-weir-force", "evil"), ("content_length", "evil"), ("cookie", "evil")],
            true,
        ),
        (&[("traceparent", "evil"), ("expect", "evil"), ("if-match", "evil"), ("idempotency-key", "evil")], true),
        (&[("te", "trailers, evil")], false),
        (&[("transfer-encoding", "evil")], false),
        (&[("connection", "evil")], false),
        (&[("X-Upper", "evil")], false),
        (&[("x", "1\r\nevil: 1")], false),
    ] {
        let mut client = Streams::connect(weir.address).await;
        client.head(1, 0, &[POST, SCHEME, AUTHORITY, PATH, UNIT]).await;
        client.frame(DATA, 0, 1, b"hello").await;
        client.head(1, END_STREAM, trailers).await;
        let end = client.end(1).await;
        assert_eq!(end == End::Answer(200), passes, "{trailers:?}: {end:?}");
    }
    let heard = recorder.heard().concat();
    assert!(heard.contains("x-sum: 7\r\n") && !heard.contains("evil") && !heard.contains("content-length"), "{heard}");
    weir.stop().await;
}

#[tokio::test]
async fn frames_out_of_place_end_the_connection() {
    let recorder = Recorder::start().await;
    let weir = weir(&recorder).await;
    let head = block(&[METHOD, SCHEME, AUTHORITY, PATH, UNIT]);
    let bad = block(&[METHOD, SCHEME, AUTHORITY, ("connection", "x"), PATH]);
    let cases: Vec<(&str, Vec<Frame>)> = vec![
        ("a head on stream 0", vec![(HEADERS, END_HEADERS | END_STREAM, 0, head.clone())]),
        ("a head on an even stream", vec![(HEADERS, END_HEADERS | END_STREAM, 2, head.clone())]),
        ("data on a stream that is not there", vec![(DATA, END_STREAM, 1, b"evil".to_vec())]),
        (
            "a frame between the parts of a head",
            vec![(HEADERS, END_STREAM, 1, head.clone()), (DATA, END_STREAM, 1, b"evil".to_vec())],
        ),
        ("a part of a head that has none before", vec![(CONTINUATION, END_HEADERS, 1, head.clone())]),
        ("fields that are none", vec![(HEADERS, END_HEADERS | END_STREAM, 1, vec![0xff; 40])]),
        ("a frame beyond the limit", vec![(DATA, END_STREAM, 1, vec![0; 20_000])]),
        (
            "a stream that has passed",
            vec![
                (HEADERS, END_HEADERS | END_STREAM, 5, bad.clone()),
                (HEADERS, END_HEADERS | END_STREAM, 3, head.clone()),
            ],
        ),
        (
            "more padding than there is",
            vec![(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, [&[200], &head[..]].concat())],
        ),
        ("a promise of a client", vec![(PROMISE, END_HEADERS, 1, [&[0, 0, 0, 2], &head[..]].concat())]),
        ("a reset of nothing", vec![(RESET, 0, 1, vec![0, 0, 0, 8])]),
        ("settings on a stream", vec![(SETTINGS, 0, 1, vec![])]),
        ("half a setting", vec![(SETTINGS, 0, 0, vec![0, 1, 0])]),
        ("a setting that is none", vec![(SETTINGS, 0, 0, vec![0, 5, 0, 0, 0, 1])]),
        ("half a ping", vec![(PING, 0, 0, vec![0; 7])]),
        ("a window of nothing", vec![(WINDOW, 0, 0, vec![0; 4])]),
        ("an index of nothing", vec![(HEADERS, END_HEADERS | END_STREAM, 1, vec![0x80])]),
        ("an index beyond the table", vec![(HEADERS, END_HEADERS | END_STREAM, 1, vec![0xff, 0xff, 0xff, 0x7f])]),
        ("a number without an end", vec![(HEADERS, END_HEADERS | END_STREAM, 1, [&[0xff][..], &[0xff; 20]].concat())]),
        (
            "a table beyond the limit",
            vec![(HEADERS, END_HEADERS | END_STREAM, 1, [&[0x3f, 0xff, 0xff, 0x7f], &head[..]].concat())],
        ),
        (
            "text beyond the block",
            vec![(HEADERS, END_HEADERS | END_STREAM, 1, [&head[..], &[0, 1, b'a', 90, b'b']].concat())],
        ),
    ];
    for (what, frames) in cases {
        let mut client = Streams::connect(weir.address).await;
        for (kind, flags, stream, payload) in &frames {
            client.frame(*kind, *flags, *stream, payload).await;
        }
        let end = client.end(frames[0].2).await;
        assert!(matches!(end, End::GoAway(_) | End::Closed | End::Reset(PROTOCOL)), "{what}: {end:?}");
        assert_eq!(recorder.request_lines().len(), 0, "{what}");
    }
    let mut client = Streams::connect(weir.address).await;
    let (first, rest) = head.split_at(9);
    client.frame(HEADERS, END_STREAM, 1, first).await;
    client.frame(CONTINUATION, END_HEADERS, 1, rest).await;
    assert_eq!(client.end(1).await, End::Answer(200));
    weir.stop().await;
}
