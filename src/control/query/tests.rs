//! Queries against a scripted Prometheus server in this process. Tests wait for what the query's task says.

use super::*;
use crate::config::HttpServer;
use crate::snapshot::Secret;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::sync::Mutex;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A server that answers every question with what its script says at that moment, and keeps the heads of all questions.
#[derive(Clone)]
struct Prometheus {
    port: u16,
    script: Arc<Mutex<Script>>,
    heads: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone)]
enum Script {
    /// These bytes, then the end of the connection.
    Say(String),
    /// Nothing, for ever.
    Hang,
    /// The end of the connection.
    Close,
}

impl Prometheus {
    async fn start(script: Script) -> Prometheus {
        Prometheus::start_with(script, None).await
    }

    async fn start_with(script: Script, tls: Option<TlsAcceptor>) -> Prometheus {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Prometheus { port, script: Arc::new(Mutex::new(script)), heads: Arc::default() };
        let served = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (one, tls) = (served.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => one.serve(stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                one.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        server
    }

    async fn serve(self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte).await {
                Ok(1) => head.push(byte[0]),
                _ => return,
            }
        }
        self.heads.lock().unwrap().push(String::from_utf8(head).unwrap());
        let script = self.script.lock().unwrap().clone();
        match script {
            Script::Say(text) => drop(stream.write_all(text.as_bytes()).await),
            Script::Hang => std::future::pending().await,
            Script::Close => {}
        }
        let _ = stream.shutdown().await;
    }

    fn says(&self, script: Script) {
        *self.script.lock().unwrap() = script;
    }

    fn server(&self) -> HttpServer {
        HttpServer {
            ca: None,
            authority: format!("127.0.0.1:{}", self.port).into(),
            host: "127.0.0.1".into(),
            port: self.port,
            tls: None,
            path: secret(""),
            parameters: secret(""),
            authorization: None,
        }
    }

    fn query(&self) -> QueryConfig {
        QueryConfig {
            name: "memory".into(),
            server: self.server(),
            expr: "sum(rss{job=\"new\"}) + 1".into(),
            interval: Duration::from_millis(5),
            timeout: Duration::from_secs(30),
            max_age: Duration::from_secs(60),
        }
    }
}

fn secret(text: &str) -> Secret {
    Secret(Arc::from(text.as_bytes()))
}

fn http(status: &str, body: &str) -> Script {
    Script::Say(format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
}

fn scalar(value: &str) -> Script {
    // A time far ahead is no old value whatever the calendar of this machine says.
    let data = format!("{{\"resultType\":\"scalar\",\"result\":[9999999999,\"{value}\"]}}");
    http("200 OK", &format!("{{\"status\":\"success\",\"data\":{data}}}"))
}

/// Queries of which the only one asks that server.
fn asking(config: &QueryConfig) -> Queries {
    let mut queries = Queries::new(Clock::system());
    queries.adopt(std::slice::from_ref(config));
    queries
}

/// What the only query says once `wanted` holds of it.
async fn until(queries: &mut Queries, wanted: impl Fn(&Latest) -> bool) -> Latest {
    let latest = &mut queries.asked.get_mut("memory").unwrap().latest;
    let found = tokio::time::timeout(Duration::from_secs(20), latest.wait_for(wanted)).await;
    found.expect("in time").expect("the task lives").clone()
}

async fn failure(queries: &mut Queries) -> String {
    match until(queries, |latest| matches!(latest, Latest::Failed(_))).await {
        Latest::Failed(why) => why,
        other => panic!("{other:?}"),
    }
}

fn is_value(latest: &Latest) -> bool {
    matches!(latest, Latest::Value(..))
}

#[tokio::test]
async fn a_value_is_asked_for_as_prometheus_wants_it_and_grows_old() {
    let server = Prometheus::start(scalar("48200000")).await;
    let mut queries = asking(&server.query());
    assert_eq!(queries.reading("memory", Time::default()), Reading::NoData("not answered yet".into()));
    let Latest::Value(value, at) = until(&mut queries, is_value).await else { panic!() };
    assert_eq!(value, 48_200_000.0);
    let head = server.heads.lock().unwrap()[0].to_lowercase();
    let line = "get /api/v1/query?query=sum%28rss%7bjob%3d%22new%22%7d%29+%2b+1 http/1.1\r\n";
    assert!(head.starts_with(line), "{head}");
    assert!(head.contains(&format!("host: 127.0.0.1:{}\r\n", server.port)), "{head}");

    // No further answer comes.
    server.says(Script::Hang);
    let reading = queries.reading("memory", at);
    assert_eq!(reading, Reading::Value { value: 48_200_000.0, samples: 1 });
    let late = queries.clock.now() + Duration::from_secs(75);
    let Reading::NoData(why) = queries.reading("memory", late) else { panic!("an old value counts") };
    assert!(why.starts_with("no value for "), "{why}");
    assert_eq!(queries.reading("other", at), Reading::NoData("there is no such query".into()));
}

#[tokio::test]
async fn a_server_that_fails_is_no_data_and_one_that_comes_back_has_a_value() {
    let server = Prometheus::start(http("503 Service Unavailable", "<html>")).await;
    let mut queries = asking(&server.query());
    let authority = server.server().authority;
    assert_eq!(failure(&mut queries).await, format!("{authority} answers 503"));
    server.says(scalar("1"));
    until(&mut queries, is_value).await;
    server.says(http("422 Unprocessable Entity", r#"{"status":"error","error":"query timed out"}"#));
    assert_eq!(failure(&mut queries).await, "the server says: query timed out");
    server.says(scalar("NaN"));
    until(&mut queries, |latest| *latest == Latest::Failed("the value is NaN".into())).await;
    let why = Reading::NoData("the value is NaN".into());
    assert_eq!(queries.reading("memory", queries.clock.now()), why);
    server.says(Script::Close);
    until(&mut queries, |latest| matches!(latest, Latest::Failed(why) if why.contains("breaks off"))).await;
    server.says(http("301 Moved Permanently", ""));
    until(&mut queries, |latest| matches!(latest, Latest::Failed(why) if why.ends_with("answers 301"))).await;
}

#[tokio::test]
async fn a_server_that_hangs_or_floods_is_cut_off() {
    let server = Prometheus::start(Script::Hang).await;
    let config = QueryConfig { timeout: Duration::from_millis(50), ..server.query() };
    assert_eq!(failure(&mut asking(&config)).await, format!("no answer from {} within 50ms", config.server.authority));
    server.says(http("200 OK", &"x".repeat(2 << 20)));
    assert!(failure(&mut asking(&server.query())).await.ends_with("answers more than 1048576 bytes"));
}

#[tokio::test]
async fn nobody_there_and_no_such_name_are_no_data() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let mut config = Prometheus { port, script: Arc::new(Mutex::new(Script::Close)), heads: Arc::default() }.query();
    let why = failure(&mut asking(&config)).await;
    assert!(why.starts_with(&format!("cannot reach 127.0.0.1:{port}: ")), "{why}");
    (config.server.host, config.server.authority) = ("nowhere.invalid".into(), "nowhere.invalid:9090".into());
    let why = failure(&mut asking(&config)).await;
    assert!(why.starts_with("cannot reach nowhere.invalid:9090: "), "{why}");
}

#[tokio::test]
async fn secrets_of_the_url_are_sent_and_never_said() {
    let server = Prometheus::start(scalar("1")).await;
    let secrets = HttpServer {
        path: secret("/hidden"),
        parameters: secret("token=hush"),
        authorization: Some(secret("Basic c2VjcmV0")),
        ..server.server()
    };
    let mut config = QueryConfig { server: secrets, ..server.query() };
    let mut queries = asking(&config);
    until(&mut queries, is_value).await;
    let head = server.heads.lock().unwrap()[0].clone();
    assert!(head.starts_with("GET /hidden/api/v1/query?token=hush&query=sum"), "{head}");
    assert!(head.contains("authorization: Basic c2VjcmV0\r\n"), "{head}");
    server.says(http("500 Oops", ""));
    let why = failure(&mut queries).await;
    config.server.port = 1;
    for said in [why, failure(&mut asking(&config)).await, format!("{queries:?}")] {
        assert!(!["hush", "hidden", "c2Vjc"].iter().any(|secret| said.contains(secret)), "{said}");
    }
}

#[tokio::test]
async fn a_reload_keeps_what_has_not_changed_and_ends_what_is_gone() {
    let server = Prometheus::start(scalar("1")).await;
    let config = server.query();
    let mut queries = asking(&config);
    until(&mut queries, is_value).await;
    queries.adopt(std::slice::from_ref(&config));
    assert!(is_value(&queries.asked["memory"].latest.borrow()), "the value is kept");
    let other = QueryConfig { expr: "up".into(), ..config };
    queries.adopt(&[other]);
    assert_eq!(*queries.asked["memory"].latest.borrow(), Latest::Unasked, "another question has no answer yet");
    let task = queries.asked["memory"].task.abort_handle();
    queries.adopt(&[]);
    assert_eq!(queries.names().count(), 0);
    let ended = async {
        while !task.is_finished() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ended).await.expect("nobody asks any more");
}

#[tokio::test]
async fn a_server_over_tls_is_asked_only_if_its_certificate_is_trusted() {
    let pair = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let cert = CertificateDer::from_pem_slice(pair.cert.pem().as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(pair.signing_key.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(default_provider());
    let tls = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
    let tls = tls.with_no_client_auth().with_single_cert(vec![cert.clone()], key).unwrap();
    let server = Prometheus::start_with(scalar("7"), Some(TlsAcceptor::from(Arc::new(tls)))).await;
    let trusting = |roots: RootCertStore| {
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        let tls = Some((Arc::new(config.with_no_client_auth()), ServerName::try_from("localhost").unwrap()));
        QueryConfig { server: HttpServer { tls, ..server.server() }, ..server.query() }
    };
    let mut roots = RootCertStore::empty();
    roots.add(cert).unwrap();
    let latest = until(&mut asking(&trusting(roots)), is_value).await;
    assert!(matches!(latest, Latest::Value(7.0, _)), "{latest:?}");
    let why = failure(&mut asking(&trusting(RootCertStore::empty()))).await;
    assert!(why.starts_with("cannot reach 127.0.0.1:") && why.contains("certificate"), "{why}");
}
