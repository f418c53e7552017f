//! What requests carry upstream and what answers carry back: hop-by-hop fields, forwarding, trace context, ids, arms.

use crate::harness::origin::Seen;
use crate::harness::piped::sized;
use crate::harness::raw::request;
use crate::harness::reply::Content;
use crate::harness::{Answer, Client, Config, Origin, RawClient, Reply, Weir};
use std::sync::Arc;
use weir::rollout::bucket::{Bucketer, Scheme, Weight};

const TRUSTED: &str = "trusted_proxies = [\"127.0.0.1/32\"]";

/// What the origin sees of a GET with these fields.
async fn seen(weir: &Weir, origin: &Origin, fields: &[(&str, &str)]) -> Seen {
    let answer = RawClient::connect(weir.address).await.get("/", fields).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    origin.last()
}

#[tokio::test]
async fn hop_by_hop_fields_stop_at_weir_in_both_directions() {
    let origin = Origin::start("new").await;
    let weir = Weir::start(&Config::split(&origin, &origin)).await;
    origin.script(|_| {
        Reply::Answer(Answer {
            fields: vec![
                ("connection", "keep-alive, x-origin-hop".to_owned()),
                ("keep-alive", "timeout=9".to_owned()),
                ("x-origin-hop", "1".to_owned()),
                ("proxy-authenticate", "Basic".to_owned()),
                ("x-kept", "yes".to_owned()),
            ],
            body: Content::Sized("x".into()),
            ..Answer::default()
        })
    });
    let fields = [
        ("connection", "keep-alive, X-Hop"),
        ("keep-alive", "timeout=5"),
        ("x-hop", "1"),
        ("te", "gzip"),
        ("proxy-connection", "keep-alive"),
        ("upgrade", "h2c"),
        ("x-kept", "yes"),
    ];
    let answer = RawClient::connect(weir.address).await.get("/", &fields).await;
    let arrived = origin.last();
    for name in ["keep-alive", "x-hop", "te", "proxy-connection", "upgrade", "transfer-encoding"] {
        assert_eq!(arrived.field(name), None, "{name} went upstream");
    }
    assert!(arrived.field("connection").is_none_or(|value| !value.to_lowercase().contains("x-hop")));
    assert_eq!(arrived.field("x-kept"), Some("yes"));
    for name in ["keep-alive", "x-origin-hop"] {
        assert_eq!(answer.field(name), None, "{name} went to the client");
    }
    assert_eq!(answer.field("x-kept"), Some("yes"));
    weir.stop().await;
}

#[tokio::test]
async fn of_te_only_trailers_goes_on_whatever_stands_beside_it() {
    let origin = Origin::start("new").await;
    let weir = Weir::start(&Config::split(&origin, &origin)).await;
    for te in ["deflate, trailers", "trailers", "Trailers , gzip"] {
        assert_eq!(seen(&weir, &origin, &[("te", te)]).await.all("te"), ["trailers"], "te: {te}");
    }
    assert!(seen(&weir, &origin, &[("te", "deflate;q=0.5")]).await.all("te").is_empty());
    weir.stop().await;
}

#[tokio::test]
async fn an_upstream_cannot_tell_clients_their_arm_in_weirs_name() {
    let origin = Origin::start("new").await;
    origin.script(|_| {
        Reply::Answer(Answer { fields: vec![("x-weir-arm", "chat=forged".to_owned())], ..Answer::default() })
    });
    for (lines, wanted) in [("", None), ("expose_arm = true", Some("chat=canary"))] {
        let weir = Weir::start(&Config::split(&origin, &origin).weight("100%").rollout(lines)).await;
        let answer = RawClient::connect(weir.address).await.get("/", &[("x-user-id", "u")]).await;
        assert_eq!((answer.status, answer.field("x-weir-arm")), (200, wanted));
        weir.stop().await;
    }
}

#[tokio::test]
async fn a_strangers_word_on_where_it_comes_from_is_overwritten() {
    let origin = Origin::start("new").await;
    let weir = Weir::start(&Config::split(&origin, &origin)).await;
    let fields = [
        ("host", "shop.example:8080"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-for", "7.7.7.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.example"),
        ("forwarded", "for=6.6.6.6;proto=https"),
    ];
    let arrived = seen(&weir, &origin, &fields).await;
    assert_eq!(arrived.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(arrived.all("x-forwarded-proto"), ["http"]);
    assert_eq!(arrived.all("x-forwarded-host"), ["shop.example:8080"]);
    assert_eq!(arrived.field("host"), Some("shop.example:8080"));
    let forwarded = arrived.all("forwarded").join(", ");
    assert!(!forwarded.contains("6.6.6.6") && !forwarded.contains("https"), "{forwarded}");
    assert!(forwarded.contains("for=127.0.0.1") && forwarded.contains("proto=http"), "{forwarded}");
    weir.stop().await;
}

#[tokio::test]
async fn a_trusted_peers_word_is_kept_and_its_address_added() {
    let origin = Origin::start("new").await;
    let weir = Weir::start(&Config::split(&origin, &origin).top(TRUSTED)).await;
    let fields =
        [("x-forwarded-for", "203.0.113.7"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "shop.example")];
    let arrived = seen(&weir, &origin, &fields).await;
    let chain: Vec<String> =
        arrived.all("x-forwarded-for").join(",").split(',').map(|part| part.trim().to_owned()).collect();
    assert_eq!(chain, ["203.0.113.7", "127.0.0.1"]);
    assert_eq!(arrived.all("x-forwarded-proto"), ["https"]);
    assert_eq!(arrived.all("x-forwarded-host"), ["shop.example"]);
    weir.stop().await;
}

#[tokio::test]
async fn what_a_stranger_cannot_say_decides_nothing() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let tables = "[rollouts.chat.cohorts.beta]\nheader = \"x-real-ip: 6.6.6.6\"\n\
                  [rollouts.by]\nunit = [\"header:x-forwarded-user\"]\nweight = \"100%\"\nstable = {}\ncanary = {}\n\
                  [[routes]]\nname = \"port\"\nmatch = { headers = { x-forwarded-port = \"1\" } }\nrollouts = [\"chat\"]\n\
                  [[routes]]\nname = \"all\"\nrollouts = [\"chat\", \"by\"]";
    let fields = [("x-user-id", "u"), ("x-real-ip", "6.6.6.6"), ("x-forwarded-user", "u"), ("x-forwarded-port", "1")];
    for (top, rollouts, origin) in [
        ("", "chat=stable;reason=bucket, by=stable;reason=no_unit", &legacy),
        (TRUSTED, "chat=canary;reason=cohort:beta", &new),
    ] {
        let weir = Weir::start(&Config::split(&legacy, &new).weight("0%").top(top).tables(tables)).await;
        let arrived = seen(&weir, origin, &fields).await;
        assert_eq!(arrived.all("x-weir-rollout"), [rollouts]);
        let passed = fields[1..].iter().filter(|(name, _)| arrived.field(name).is_some()).count();
        assert_eq!(passed, if top.is_empty() { 0 } else { 3 });
        weir.stop().await;
    }
}

#[tokio::test]
async fn a_trace_is_passed_on_or_started() {
    let origin = Origin::start("new").await;
    let weir = Weir::start(&Config::split(&origin, &origin)).await;
    let given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let arrived = seen(&weir, &origin, &[("traceparent", given), ("tracestate", "a=1")]).await;
    let passed = arrived.field("traceparent").expect("a trace");
    assert_eq!(passed.split('-').nth(1), given.split('-').nth(1));
    assert_eq!(arrived.field("tracestate"), Some("a=1"));
    let mut started = Vec::new();
    for wrong in [None, Some("nonsense"), Some("00-00000000000000000000000000000000-b7ad6b7169203331-01")] {
        let fields: Vec<(&str, &str)> = wrong.map(|value| ("traceparent", value)).into_iter().collect();
        let trace = seen(&weir, &origin, &fields).await.field("traceparent").expect("a trace").to_owned();
        let parts: Vec<&str> = trace.split('-').collect();
        let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
        assert_eq!(lengths, [2, 32, 16, 2], "{trace}");
        assert!(parts[1].bytes().all(|byte| byte.is_ascii_hexdigit()) && parts[1].bytes().any(|byte| byte != b'0'));
        started.push(parts[1].to_owned());
    }
    started.sort();
    started.dedup();
    assert_eq!(started.len(), 3, "each trace is a new one");
    weir.stop().await;
}

#[tokio::test]
async fn every_request_has_an_id() {
    let origin = Origin::start("new").await;
    let weir = Weir::start(&Config::split(&origin, &origin)).await;
    let first = seen(&weir, &origin, &[]).await.field("x-request-id").expect("an id").to_owned();
    let second = seen(&weir, &origin, &[]).await.field("x-request-id").expect("an id").to_owned();
    assert!(!first.is_empty() && first != second);
    weir.stop().await;
}

#[tokio::test]
async fn a_client_cannot_speak_in_weirs_name() {
    let origin = Origin::start("new").await;
    let weir = Weir::start(&Config::split(&origin, &origin).weight("0%")).await;
    let fields = [
        ("x-user-id", "u"),
        ("x-weir-rollout", "chat=canary;reason=forced"),
        ("x-weir-arm", "chat=canary"),
        ("x-weir-shadow", "1"),
        ("x-weir-anything", "1"),
        ("x-weir-force", "v1.chat.canary.99999999999.AAAA"),
    ];
    let arrived = seen(&weir, &origin, &fields).await;
    assert_eq!(arrived.all("x-weir-rollout"), ["chat=stable;reason=bucket"]);
    let others = arrived.fields.iter().filter(|(name, _)| name.starts_with("x-weir-") && name != "x-weir-rollout");
    assert_eq!(others.count(), 0, "{:?}", arrived.fields);
    weir.stop().await;
}

#[tokio::test]
async fn every_rollout_of_a_route_has_its_element_and_the_client_learns_arms_only_if_exposed() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let config = Config::split(&legacy, &new).weight("100%").rollout("expose_arm = true").tables(
        "[rollouts.banner]\nunit = [\"header:x-user-id\"]\nweight = \"100%\"\n\
         stable = {}\ncanary = { set_headers = { x-flag-banner = \"on\" }, remove_headers = [\"x-old\"] }\n\
         [[routes]]\nname = \"all\"\nrollouts = [\"chat\", \"banner\"]",
    );
    let weir = Weir::start(&config).await;
    let answer = RawClient::connect(weir.address).await.get("/", &[("x-user-id", "u"), ("x-old", "1")]).await;
    let arrived = new.last();
    let rollouts = arrived.all("x-weir-rollout").join(", ");
    assert_eq!(rollouts, "chat=canary;reason=bucket, banner=canary;reason=bucket");
    assert_eq!((arrived.field("x-flag-banner"), arrived.field("x-old")), (Some("on"), None));
    assert_eq!(answer.field("x-weir-arm"), Some("chat=canary"), "banner does not expose its arm");
    weir.stop().await;
}

#[tokio::test]
async fn cookie_crumbs_are_joined_before_anything_reads_them() {
    let origin = Origin::start("new").await;
    let config =
        Config::split(&origin, &origin).weight("0%").tables("[rollouts.chat.cohorts.beta]\ncookie = \"beta=1\"");
    let weir = Weir::start(&config).await;
    let mut client = Client::http2(weir.address).await;
    let fields = [("x-user-id", "u"), ("cookie", "a=1"), ("cookie", "beta=1"), ("cookie", "c=3")];
    assert_eq!(client.get("/", &fields).await.status, 200);
    let arrived = origin.last();
    assert_eq!(arrived.all("cookie"), ["a=1; beta=1; c=3"]);
    assert_eq!(arrived.all("x-weir-rollout"), ["chat=canary;reason=cohort:beta"]);
    weir.stop().await;
}

#[tokio::test]
async fn a_first_visit_gets_an_id_and_already_its_final_arm() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let config = Config::split(&legacy, &new).rollout("assign_cookie = \"weir_id\"\nsalt = \"s\"");
    let weir = Weir::start(&config).await;
    let bucketer = Bucketer { scheme: Scheme::Murmur3, salt: Arc::from("s"), key: Arc::from("chat"), seed: None };
    let half = Weight::from_ppm(500_000).expect("a share");
    let mut ids = Vec::new();
    let mut client = Client::http1(weir.address).await;
    for _ in 0..20 {
        let got = client.get("/", &[]).await;
        let cookie = got.field("set-cookie").expect("a cookie").to_owned();
        let mut parts = cookie.split(';').map(str::trim);
        let id = parts.next().and_then(|pair| pair.strip_prefix("weir_id=")).expect("an id").to_owned();
        let attributes: Vec<String> = parts.map(str::to_lowercase).collect();
        assert!(
            attributes.contains(&"httponly".to_owned()) && attributes.contains(&"samesite=lax".to_owned()),
            "{cookie}"
        );
        assert!(!attributes.contains(&"secure".to_owned()), "not over TLS: {cookie}");
        assert_eq!(got.origin(), if bucketer.admits(&id, half) { "new" } else { "legacy" });
        let again = client.get("/", &[("cookie", &format!("weir_id={id}"))]).await;
        assert_eq!((again.origin(), again.field("set-cookie")), (got.origin(), None));
        ids.push(id);
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 20, "each visitor is somebody else");
    let known = client.get("/", &[("x-user-id", "u")]).await;
    assert_eq!(known.field("set-cookie"), None, "who has a unit needs no id");
    weir.stop().await;
}

#[tokio::test]
async fn an_arm_may_answer_by_itself() {
    let origin = Origin::start("legacy").await;
    let answer = "{ respond = { status = 403, headers = { x-why = \"closed\" }, body = \"not yet\" } }";
    let config = Config::split(&origin, &origin).weight("100%").arms("{ upstream = \"legacy\" }", answer);
    let weir = Weir::start(&config).await;
    for http2 in [false, true] {
        let mut client = Client::to(weir.address, http2).await;
        for _ in 0..2 {
            let got = client.call("POST", "/", &[("x-user-id", "u")], sized("some body")).await;
            assert_eq!((got.status, got.field("x-why"), &got.body[..]), (403, Some("closed"), &b"not yet"[..]));
        }
    }
    assert_eq!(origin.count(), 0);
    let labels = [("rollout", "chat"), ("arm", "canary"), ("code", "4xx")];
    weir.metrics_until("four answers", |metrics| metrics.count("weir_requests_total", &labels) == 4).await;
    weir.stop().await;
}

#[tokio::test]
async fn the_request_line_and_unknown_fields_go_through_as_they_came() {
    let origin = Origin::start("new").await;
    let weir = Weir::start(&Config::split(&origin, &origin)).await;
    let target = "/a%20b/%2e%2e/c//d?x=%C3%A9&y=&y=2&z";
    let mut client = RawClient::connect(weir.address).await;
    client.send(request("PATCH", target, &[("x-Custom", "a b"), ("x-custom", "c")], b"{}")).await;
    assert_eq!(client.answer().await.status, 200);
    let arrived = origin.last();
    assert_eq!((arrived.method.as_str(), arrived.target.as_str()), ("PATCH", target));
    assert_eq!(arrived.all("x-custom"), ["a b", "c"]);
    weir.stop().await;
}
