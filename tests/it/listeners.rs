//! How clients come in: which certificate they are shown, which they must show, and who they are by a load balancer's word.

use crate::harness::client::{Client, tcp};
use crate::harness::config::Config;
use crate::harness::origin::Origin;
use crate::harness::raw::{RawClient, request};
use crate::harness::tls::Certificate;
use crate::harness::weir::{Weir, folder};
use std::net::SocketAddr;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const H1: &[&str] = &["http/1.1"];

/// A request over TLS for that name as that client; none if the handshake, or what comes of it, fails.
async fn over_tls(address: SocketAddr, of: &Certificate, name: &str, own: Option<&Certificate>) -> Option<u16> {
    let stream = of.shake_hands(tcp(address).await, name, H1, own).await.ok()?;
    let mut client = RawClient::over(stream);
    // In TLS 1.3 a client learns after its handshake that it was refused, perhaps before it has sent anything.
    client.try_send(request("GET", "/", &[], b"")).await.ok()?;
    client.try_answer().await.map(|answer| answer.status)
}

#[tokio::test]
async fn the_name_that_a_client_asks_for_chooses_the_certificate() {
    let origin = Origin::start("new").await;
    let (first, shop, wild) = (Certificate::new(), Certificate::of(&["shop.test"]), Certificate::of(&["*.chat.test"]));
    let folder = folder();
    first.write(folder.path());
    shop.write_as(folder.path(), "shop", "shop.key");
    wild.write_as(folder.path(), "wild", "wild.key");
    let certs = "{ cert = \"shop.pem\", key = \"shop.key.pem\" }, { cert = \"wild.pem\", key = \"wild.key.pem\" }";
    let config = Config::split(&origin, &origin)
        .listener(&format!("tls = {{ cert = \"cert.pem\", key = \"key.pem\", certs = [{certs}] }}"));
    let weir = Weir::start_in(folder, &config).await;
    for (name, certificate) in
        [("localhost", &first), ("shop.test", &shop), ("a.chat.test", &wild), ("127.0.0.1", &first)]
    {
        assert_eq!(over_tls(weir.address, certificate, name, None).await, Some(200), "{name}");
    }
    // Who asks for another host is shown the first one, and refuses it himself.
    for name in ["chat.test", "a.b.chat.test", "other.test"] {
        for certificate in [&first, &shop, &wild] {
            assert_eq!(over_tls(weir.address, certificate, name, None).await, None, "{name}");
        }
    }
    // One of several is renewed like the only one.
    let renewed = Certificate::of(&["shop.test"]);
    renewed.write_as(weir.folder.path(), "shop", "shop.key");
    assert_eq!(weir.reload().await.status, 200);
    let served = async || over_tls(weir.address, &renewed, "shop.test", None).await;
    assert_eq!(crate::harness::wait::eventually("the new one", served).await, 200);
    assert_eq!(over_tls(weir.address, &wild, "b.chat.test", None).await, Some(200));
    weir.stop().await;
}

#[tokio::test]
async fn clients_show_a_certificate_where_they_are_asked_for_one() {
    let origin = Origin::start("new").await;
    let (server, own, strangers) = (Certificate::new(), Certificate::of(&["client"]), Certificate::of(&["client"]));
    for (auth, without) in [("", None), (", client_auth = \"optional\"", Some(200))] {
        let folder = folder();
        server.write(folder.path());
        own.write_as(folder.path(), "ca", "ca.key");
        let tls = format!("tls = {{ cert = \"cert.pem\", key = \"key.pem\", client_ca = \"ca.pem\"{auth} }}");
        let weir = Weir::start_in(folder, &Config::split(&origin, &origin).listener(&tls)).await;
        let before = origin.count();
        for (client, expected) in [(Some(&own), Some(200)), (Some(&strangers), None), (None, without)] {
            assert_eq!(over_tls(weir.address, &server, "localhost", client).await, expected, "{auth}");
        }
        assert_eq!(origin.count() - before, if without.is_some() { 2 } else { 1 });
        // Authorities change with the file; a session from before does not help.
        strangers.write_as(weir.folder.path(), "ca", "ca.key");
        assert_eq!(weir.reload().await.status, 200);
        let accepted = async || over_tls(weir.address, &server, "localhost", Some(&strangers)).await;
        assert_eq!(crate::harness::wait::eventually("the new authority", accepted).await, 200);
        assert_eq!(over_tls(weir.address, &server, "localhost", Some(&own)).await, None);
        weir.stop().await;
    }
}

/// A connection that begins with these bytes.
async fn introduced(address: SocketAddr, header: &[u8]) -> TcpStream {
    let mut stream = tcp(address).await;
    stream.write_all(header).await.expect("a listener");
    stream
}

#[tokio::test]
async fn a_client_is_who_the_load_balancer_says() {
    let origin = Origin::start("new").await;
    let certificate = Certificate::new();
    let folder = folder();
    certificate.write(folder.path());
    let config = Config::split(&origin, &origin)
        .top("limits = { max_connections_per_ip = 1 }")
        .listener("proxy_protocol = true\ntls = { cert = \"cert.pem\", key = \"key.pem\" }");
    let weir = Weir::start_in(folder, &config).await;
    let mut open = Vec::new();
    for (client, http2) in [("192.0.2.7", false), ("192.0.2.8", true)] {
        let header = format!("PROXY TCP4 {client} 10.0.0.1 12345 443\r\n");
        let stream = introduced(weir.address, header.as_bytes()).await;
        let protocols = if http2 { &["h2"] } else { H1 };
        let stream = certificate.try_connect_over(stream, protocols).await.expect("a handshake behind the header");
        let mut connection = Client::over(stream, http2).await;
        assert_eq!(connection.get("/", &[("x-forwarded-for", "203.0.113.1")]).await.status, 200);
        assert_eq!(origin.last().all("x-forwarded-for"), [client]);
        open.push(connection);
    }
    // The limit is each client's own, and not the load balancer's.
    let again = introduced(weir.address, b"PROXY TCP4 192.0.2.7 10.0.0.1 9 443\r\n").await;
    assert!(certificate.try_connect_over(again, H1).await.is_err());
    let refused = [("reason", "max_connections_per_ip")];
    weir.metrics_until("the second one", |metrics| metrics.count("weir_connections_refused_total", &refused) == 1)
        .await;
    // Without a header nobody is let in.
    let silent = tcp(weir.address).await;
    assert!(certificate.try_connect_over(silent, H1).await.is_err());
    assert_eq!(origin.count(), 2);
    weir.stop().await;
}
