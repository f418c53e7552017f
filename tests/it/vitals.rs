//! Web vitals: browsers' reports count for the arm that served the page, whatever else is posted counts for nothing.

use crate::harness::metrics::Metrics;
use crate::harness::raw::call;
use crate::harness::wait::soon;
use crate::harness::{Client, Config, Origin, RawClient, Weir};

const PATH: &str = "/.well-known/weir/vitals";
const DROPPED: &str = "weir_vitals_dropped_total";

fn config(legacy: &Origin, new: &Origin) -> Config {
    Config::split(legacy, new).listener(&format!("vitals_path = \"{PATH}\""))
}

fn reports(metrics: &Metrics, vital: &str) -> [u64; 2] {
    let labels = |arm| [("rollout", "chat"), ("arm", arm), ("vital", vital)];
    ["stable", "canary"].map(|arm| metrics.count("weir_vitals_total", &labels(arm)))
}

/// The status that a beacon of that unit gets.
async fn post(weir: &Weir, fields: &[(&str, &str)], body: &str) -> u16 {
    call(weir.address, "POST", PATH, fields, body.as_bytes()).await.status
}

/// As the `web-vitals` library has it for `sendBeacon`.
fn beacon(name: &str, value: f64) -> String {
    format!(
        "{{\"name\":\"{name}\",\"value\":{value},\"rating\":\"good\",\"delta\":{value},\"entries\":[],\
         \"id\":\"v4-1718000000000-1234567890123\",\"navigationType\":\"navigate\"}}"
    )
}

#[tokio::test]
async fn a_report_counts_for_the_arm_that_the_senders_page_came_from() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let config = config(&legacy, &new).rollout("assign_cookie = \"weir_id\"");
    let weir = Weir::start(&config).await;
    let mut wanted = [0, 0];
    for number in 0..30 {
        let mut client = Client::to(weir.address, number % 2 == 0).await;
        // A first visit gets its id, which the browser sends with the beacon.
        let page = client.get("/", &[]).await;
        let arm = usize::from(page.origin() == "new");
        let cookie = page.field("set-cookie").and_then(|set| set.split(';').next()).expect("an id").to_owned();
        let kind = ["text/plain;charset=UTF-8", "application/json"][number % 2];
        let fields = [("cookie", cookie.as_str()), ("content-type", kind)];
        let request = client.request("POST", PATH, &fields, crate::harness::piped::sized(beacon("LCP", 2600.4)));
        let answer = client.send(request).await.expect("an answer");
        assert_eq!(answer.status(), 204);
        assert!(answer.headers().get("set-cookie").is_none(), "nobody gets an id for a beacon");
        wanted[arm] += 1;
    }
    assert!(wanted.iter().all(|count| *count > 0), "{wanted:?}");
    let list = format!("[{},{},{}]", beacon("CLS", 0.1), beacon("INP", 40.0), beacon("TTFB", 3.0));
    assert_eq!(post(&weir, &[("x-user-id", "user-1")], &list).await, 204, "no content type is fine");
    let arm = usize::from(weir.explain("user-1").await["arm"] == "canary");
    // Whoever has no id of their own may have seen either arm.
    assert_eq!(post(&weir, &[], &beacon("LCP", 1.0)).await, 204);
    let metrics = weir.metrics().await;
    assert_eq!(reports(&metrics, "lcp"), wanted);
    for vital in ["cls", "inp"] {
        assert_eq!(reports(&metrics, vital), [u64::from(arm == 0), u64::from(arm == 1)], "{vital}");
    }
    assert_eq!(legacy.count() + new.count(), 30, "no beacon is proxied");
    assert_eq!(metrics.count(DROPPED, &[]), 0);
    weir.stop().await;
}

#[tokio::test]
async fn what_is_no_report_is_refused_and_counts_for_nothing() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let weir = Weir::start(&config(&legacy, &new)).await;
    let unit = ("x-user-id", "u");
    for method in ["GET", "PUT", "OPTIONS", "HEAD"] {
        let mut client = RawClient::connect(weir.address).await;
        client.send(format!("{method} {PATH} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")).await;
        let (head, _) = client.head().await.expect("an answer");
        assert!(head.start.contains(" 405 ") && head.field("allow") == Some("POST"), "{method}: {}", head.start);
    }
    assert_eq!(post(&weir, &[unit, ("content-type", "text/xml")], &beacon("LCP", 1.0)).await, 415);
    let many = vec![beacon("LCP", 9.0); 17].join(",");
    for body in
        ["", "LCP", "null", "{\"name\":\"LCP\"}", "{\"name\":\"LCP\",\"value\":-1}", "[[]]", &format!("[{many}]")]
    {
        assert_eq!(post(&weir, &[unit], body).await, 400, "{body}");
    }
    let large = format!("[{}{}]", beacon("LCP", 1.0), " ".repeat(16 * 1024));
    assert_eq!(post(&weir, &[unit], &large).await, 413);
    let metrics = weir.metrics().await;
    assert_eq!(reports(&metrics, "lcp"), [0, 0]);
    assert_eq!(metrics.count(DROPPED, &[("reason", "invalid")]), 7);
    assert_eq!(metrics.count(DROPPED, &[("reason", "too_large")]), 1);
    assert_eq!(legacy.count() + new.count(), 0);
    weir.stop().await;
}

#[tokio::test]
async fn one_address_cannot_outvote_the_others_and_requests_do_not_feel_its_flood() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let weir = Weir::start(&config(&legacy, &new).top("trusted_proxies = [\"127.0.0.1\"]").workers(1)).await;
    let mut client = Client::http2(weir.address).await;
    let mut statuses = [0_u64; 2];
    for number in 0..400 {
        let unit = format!("made-up-{number}");
        let fields = [("x-user-id", unit.as_str()), ("x-forwarded-for", "192.0.2.1")];
        let request = client.request("POST", PATH, &fields, crate::harness::piped::sized(beacon("LCP", 60_000.0)));
        match client.send(request).await.expect("an answer").status().as_u16() {
            204 => statuses[0] += 1,
            429 => statuses[1] += 1,
            other => panic!("{other}"),
        }
        if number % 50 == 0 {
            assert_eq!(client.get("/", &[("x-user-id", "u")]).await.status, 200);
        }
    }
    let [taken, dropped] = statuses;
    // Sixty in ten seconds; the flood may lie across several of such spans.
    assert!(taken >= 60 && dropped > 0, "{taken} taken, {dropped} dropped");
    let fields = [("x-user-id", "u"), ("x-forwarded-for", "198.51.100.7")];
    let request = client.request("POST", PATH, &fields, crate::harness::piped::sized(beacon("LCP", 900.0)));
    assert_eq!(client.send(request).await.expect("an answer").status(), 204, "others are heard");
    let metrics = weir.metrics().await;
    assert_eq!(reports(&metrics, "lcp").iter().sum::<u64>(), taken + 1);
    assert_eq!(metrics.count(DROPPED, &[("reason", "sender")]), dropped);
    weir.stop().await;
}

#[tokio::test]
async fn without_a_path_reports_are_requests_like_any_other_and_no_report_makes_a_series() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let weir = Weir::start(&Config::split(&legacy, &new)).await;
    assert_eq!(post(&weir, &[("x-user-id", "u")], &beacon("LCP", 1.0)).await, 200);
    assert_eq!(legacy.count() + new.count(), 1);
    assert!(!weir.metrics().await.has("weir_vitals_total", &[]));
    weir.stop().await;

    let weir = Weir::start(&config(&legacy, &new)).await;
    let before = weir.metrics().await.series();
    for number in 0..40 {
        let unit = format!("user-{number}");
        let body = format!("[{},{}]", beacon("LCP", f64::from(number)), beacon(&format!("X{number}"), 1.0));
        assert_eq!(post(&weir, &[("x-user-id", &unit)], &body).await, 204);
    }
    let metrics = weir.metrics().await;
    assert_eq!((metrics.series(), reports(&metrics, "lcp").iter().sum::<u64>()), (before, 40));
    soon("an end", weir.stop()).await;
}
