//! Prometheus as a source: what it says is known, what it does not say harms nobody.

use crate::harness::reply::Content;
use crate::harness::tls::Certificate;
use crate::harness::{Answer, Client, Config, Gate, Origin, Reply, Weir};
use bytes::Bytes;

const VALUE: &str = "weir_query_value";

fn vector(value: &str) -> Reply {
    let sample = format!("{{\"metric\":{{}},\"value\":[9999999999.5,\"{value}\"]}}");
    let text = format!("{{\"status\":\"success\",\"data\":{{\"resultType\":\"vector\",\"result\":[{sample}]}}}}");
    Reply::body(Content::Sized(Bytes::from(text)))
}

fn config(legacy: &Origin, new: &Origin, prometheus: &Origin) -> Config {
    Config::split(legacy, new).tables(&format!(
        "[queries.memory]\nurl = \"http://me:hush@{}/base?token=hush\"\nexpr = \"rss{{job='new'}}\"\ninterval = \"100ms\"\n\
         timeout = \"200ms\"",
        prometheus.address
    ))
}

#[tokio::test]
async fn a_servers_number_is_known_until_it_says_none() {
    let (legacy, new, prometheus) =
        (Origin::start("legacy").await, Origin::start("new").await, Origin::start("prometheus").await);
    prometheus.script(|_| vector("48200000"));
    let weir = Weir::start(&config(&legacy, &new, &prometheus)).await;
    let labels = [("query", "memory")];
    let metrics = weir.metrics_until("a value", |metrics| metrics.has(VALUE, &labels)).await;
    assert_eq!(metrics.sum(VALUE, &labels), 48_200_000.0);
    let seen = prometheus.last();
    assert_eq!(seen.target, "/base/api/v1/query?token=hush&query=rss%7Bjob%3D%27new%27%7D");
    assert_eq!(seen.field("authorization"), Some("Basic bWU6aHVzaA=="));
    assert!(!weir.ask("GET", "/api/v1/config", "").await.text().contains("hush"));
    let gate = Gate::closed();
    let held = gate.clone();
    type Script = Box<dyn Fn() -> Reply + Send + Sync>;
    let faults: [Script; 3] = [
        Box::new(|| Reply::status(500)),
        Box::new(|| vector("NaN")),
        Box::new(move || Reply::Answer(Answer { send_after: Some(held.clone()), ..Answer::default() })),
    ];
    for fault in faults {
        prometheus.script(move |_| fault());
        weir.metrics_until("no value", |metrics| !metrics.has(VALUE, &labels)).await;
        let mut client = Client::http1(weir.address).await;
        assert_eq!(client.get("/", &[("x-user-id", "u")]).await.status, 200, "requests do not wait for it");
        prometheus.script(|_| vector("1"));
        weir.metrics_until("a value again", |metrics| metrics.sum(VALUE, &labels) == 1.0).await;
    }
    gate.open();
    weir.stop().await;
}

#[tokio::test]
async fn servers_with_certificates_of_a_private_authority_are_asked_and_told() {
    let certificate = Certificate::new();
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let server = || Origin::start_tls("private", certificate.server(&["http/1.1"]));
    let (prometheus, hook) = (server().await, server().await);
    prometheus.script(|_| vector("7"));
    let folder = crate::harness::weir::folder();
    certificate.write(folder.path());
    let tables = |ca: &str| {
        format!(
            "[queries.memory]\nurl = \"https://{}\"\n{ca}expr = \"up\"\ninterval = \"100ms\"\n\
             [[notify]]\nkind = \"webhook\"\nurl = \"https://{}/hook\"\n{ca}",
            prometheus.address, hook.address
        )
    };
    let config = |ca: &str| Config::split(&legacy, &new).tables(&tables(ca));
    let weir = Weir::start_in(folder, &config("ca = \"cert.pem\"\n")).await;
    let labels = [("query", "memory")];
    let metrics = weir.metrics_until("a value", |metrics| metrics.has(VALUE, &labels)).await;
    assert_eq!(metrics.sum(VALUE, &labels), 7.0);
    weir.command("/api/v1/rollouts/chat/kill", serde_json::json!({ "reason": "odd logs" })).await;
    let sent = [("kind", "webhook"), ("result", "sent")];
    weir.metrics_until("a webhook", |metrics| metrics.count("weir_notifications_total", &sent) == 1).await;
    assert_eq!(hook.last().target, "/hook");
    // The system's authorities have signed nothing of the kind.
    weir.write_config(&config(""));
    assert!(weir.reload_at_once().await);
    weir.metrics_until("no value", |metrics| !metrics.has(VALUE, &labels)).await;
    weir.write_config(&config("ca = \"key.pem\"\n"));
    let refused = weir.reload().await;
    assert!(refused.status != 200 && refused.text().contains("holds no PEM certificate"), "{}", refused.text());
    weir.stop().await;
}

#[tokio::test]
async fn a_reload_changes_what_is_asked() {
    let (legacy, prometheus) = (Origin::start("legacy").await, Origin::start("prometheus").await);
    prometheus.script(|seen| vector(if seen.target.ends_with("query=up") { "7" } else { "1" }));
    let first = config(&legacy, &legacy, &prometheus);
    let weir = Weir::start(&first).await;
    weir.metrics_until("the first", |metrics| metrics.sum(VALUE, &[("query", "memory")]) == 1.0).await;
    weir.write_config(
        &first.to_string().replace("rss{job='new'}", "up").replace("[queries.memory]", "[queries.other]"),
    );
    assert!(weir.reload_at_once().await);
    let metrics = weir.metrics_until("the second", |metrics| metrics.sum(VALUE, &[("query", "other")]) == 7.0).await;
    assert!(!metrics.has(VALUE, &[("query", "memory")]));
    weir.stop().await;
}

#[tokio::test]
async fn weirs_own_memory_and_cpu_are_told() {
    let origin = Origin::start("new").await;
    let weir = Weir::start(&Config::split(&origin, &origin)).await;
    let memory = "process_resident_memory_bytes";
    let metrics = weir.metrics_until("a reading", |metrics| metrics.has(memory, &[])).await;
    assert!(metrics.sum(memory, &[]) > 1e6 && metrics.has("process_cpu_seconds_total", &[]));
    weir.stop().await;
}
