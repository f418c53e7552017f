//! Somebody who is told: takes POSTs, keeps what it was told in order, and answers as its script says.

use super::wait::soon;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A receiver of notifications in this test's runtime. Dropping it ends it.
pub struct Hook {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    told: watch::Sender<Vec<Told>>,
    script: Mutex<Script>,
}

/// What is answered to the n-th thing told, from 1.
type Script = Box<dyn FnMut(usize, &Told) -> Say + Send>;

/// One answer.
#[derive(Clone, Debug)]
pub enum Say {
    /// A status, with `retry-after` if there is one.
    Status(u16, Option<&'static str>),
    /// Nothing.
    Nothing,
}

/// One POST.
#[derive(Clone, Debug)]
pub struct Told {
    /// Path and query.
    pub target: String,
    /// The fields, names in lower case.
    pub fields: Vec<(String, String)>,
    /// The body.
    pub body: Value,
}

impl Told {
    /// The first field of that name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// `event` of a webhook's body.
    pub fn event(&self) -> &str {
        self.body["event"].as_str().unwrap_or_default()
    }
}

impl Hook {
    /// Starts one that takes everything.
    pub async fn start() -> Hook {
        Hook::start_at("127.0.0.1:0".parse().expect("an address")).await
    }

    /// Starts one there.
    pub async fn start_at(address: SocketAddr) -> Hook {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let script: Script = Box::new(|_, _| Say::Status(200, None));
        let shared = Arc::new(Shared { told: watch::Sender::default(), script: Mutex::new(script) });
        let served = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&served);
                tokio::spawn(async move {
                    let service = service_fn(|request| take(Arc::clone(&shared), request));
                    // A client that leaves is the test's business.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Hook { address, shared, task }
    }

    /// Answers like this from now on; told things are counted over its whole life.
    pub fn script(&self, script: impl FnMut(usize, &Told) -> Say + Send + 'static) {
        *self.shared.script.lock().expect("no panic while it is held") = Box::new(script);
    }

    /// Everything it was told so far.
    pub fn told(&self) -> Vec<Told> {
        self.shared.told.borrow().clone()
    }

    /// The kinds of events it was told of so far, as a webhook.
    pub fn events(&self) -> Vec<String> {
        self.told().iter().map(|told| told.event().to_owned()).collect()
    }

    /// Everything it was told, once `wanted` holds of it.
    pub async fn told_until(&self, what: &str, wanted: impl FnMut(&Vec<Told>) -> bool) -> Vec<Told> {
        let mut told = self.shared.told.subscribe();
        let found = soon(what, told.wait_for(wanted)).await;
        found.expect("the hook lives").clone()
    }

    /// Everything it was told, once that is so many things.
    pub async fn count(&self, count: usize) -> Vec<Told> {
        self.told_until(&format!("{count} told"), |told| told.len() >= count).await
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn take(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let fields = head.headers.iter();
    let fields = fields.map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    let (target, fields) = (head.uri.to_string(), fields.collect());
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let told = Told { target, fields, body: serde_json::from_slice(&body).unwrap_or_default() };
    let mut count = 0;
    shared.told.send_modify(|all| {
        all.push(told.clone());
        count = all.len();
    });
    let say = (shared.script.lock().expect("no panic while it is held"))(count, &told);
    let answer = |status: u16| Response::builder().status(status);
    let answer = match say {
        Say::Nothing => std::future::pending().await,
        Say::Status(status, None) => answer(status),
        Say::Status(status, Some(after)) => answer(status).header("retry-after", after),
    };
    Ok(answer.body(Full::default()).expect("a plain head"))
}
