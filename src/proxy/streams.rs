//! The streams of a client's HTTP/2 connection, each a task of its own on the worker's thread.

use super::admission::Cut;
use super::pulse::Pulse;
use super::vigil::StreamVigil;
use crate::tally::{ListenerCounts, PerWorker};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// Runs a client's HTTP/2 streams on the worker's own thread, each as long as its client takes its answer. hyper clones it for
/// each stream, so that it is one pointer which only this thread counts.
#[derive(Clone)]
pub struct Streams(pub Rc<Terms>);

/// What holds for the streams of a connection.
pub struct Terms {
    /// What the connection is doing.
    pub pulse: Rc<Pulse>,
    /// How long a client may take nothing of an answer.
    pub stall: Duration,
    /// The worker, and where it counts the streams that are cut.
    pub worker: usize,
    /// See `worker`.
    pub counts: Arc<PerWorker<ListenerCounts>>,
}

impl<F: Future + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let terms = Rc::clone(&self.0);
        let mut vigil = StreamVigil::new(Rc::clone(&terms.pulse), terms.stall);
        // A task is moved about as it begins and ends; the stream is not.
        let mut stream = Box::pin(stream);
        tokio::task::spawn_local(poll_fn(move |cx| {
            vigil.before();
            if stream.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            // A stream that is dropped is reset.
            vigil.after(cx).map(|()| terms.counts.cut(terms.worker, Cut::WriteStall))
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::shared::LocalExecutor;
    use crate::tally::Registry;
    use bytes::Bytes;
    use http::{Request, Response, StatusCode};
    use http_body_util::Empty;
    use hyper::body::Incoming;
    use hyper::server::conn::http2;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use std::convert::Infallible;
    use tokio::io::duplex;
    use tokio::sync::Notify;
    use tokio::task::LocalSet;

    async fn panics_where_it_is_told(request: Request<Incoming>, gate: Rc<Notify>) -> Response<Empty<Bytes>> {
        match request.uri().path() {
            "/panic" => panic!("as it was told"),
            "/held" => gate.notified().await,
            _ => {}
        }
        Response::new(Empty::new())
    }

    #[test]
    fn a_panic_ends_its_own_stream_and_no_other_of_its_connection() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let counts = Registry::new(1).listener(&Arc::from("test"));
            let terms = Terms { pulse: Rc::default(), stall: Duration::from_secs(60), worker: 0, counts };
            let streams = Streams(Rc::new(terms));
            let (ours, theirs) = duplex(1 << 16);
            let gate = Rc::new(Notify::new());
            let held = Rc::clone(&gate);
            let service = service_fn(move |request| {
                let gate = Rc::clone(&held);
                async move { Ok::<_, Infallible>(panics_where_it_is_told(request, gate).await) }
            });
            tokio::task::spawn_local(http2::Builder::new(streams).serve_connection(TokioIo::new(theirs), service));
            let (mut client, connection) =
                hyper::client::conn::http2::handshake(LocalExecutor, TokioIo::new(ours)).await.unwrap();
            tokio::task::spawn_local(connection);
            let mut ask = |path: &str| {
                client
                    .send_request(Request::get(format!("http://a.example{path}")).body(Empty::<Bytes>::new()).unwrap())
            };
            let neighbour = tokio::task::spawn_local(ask("/held"));
            assert!(ask("/panic").await.is_err());
            assert_eq!(ask("/other").await.unwrap().status(), StatusCode::OK);
            gate.notify_one();
            assert_eq!(neighbour.await.unwrap().unwrap().status(), StatusCode::OK);
        });
    }
}
