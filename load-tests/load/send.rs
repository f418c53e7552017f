//! One service: its connections, each with as many requests at a time as it has streams, and what came of them. A request that
//! finds all of them busy waits its turn, and its latency goes on counting.

use crate::dial::{Dial, Open, Why};
use crate::list::Asked;
use crate::report::Outcomes;
use crate::{Failure, Options};
use bytes::Bytes;
use http::header::{InvalidHeaderName, InvalidHeaderValue};
use http::{HeaderName, HeaderValue, Method, Request, Version};
use http_body_util::{BodyExt, Full};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::error::Error;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use weir::clock::Time;
use weir::pairs::{Answer, Pair, Pairs};
use weir::rollout::diff::Rules;
use weir::rollout::diff::samples::Kind;

/// A request on its way to one service.
pub struct Job {
    /// What is asked for.
    pub asked: Rc<Asked>,
    /// When it was due.
    pub at: Instant,
    /// Where its answer meets another one, and which of both it is: none is the one that the others are compared with.
    pub meeting: Option<(Rc<Meeting>, Option<Kind>)>,
}

/// A service under load.
pub struct Target {
    shared: Rc<Shared>,
    connections: Vec<JoinHandle<()>>,
}

struct Shared {
    name: String,
    dial: Dial,
    headers: Vec<(HeaderName, HeaderValue)>,
    unit_header: HeaderName,
    arm_header: HeaderName,
    timeout: Duration,
    body: Bytes,
    queue: RefCell<VecDeque<Job>>,
    queued: Notify,
    closed: Cell<bool>,
    outcomes: RefCell<Outcomes>,
}

impl Target {
    /// Connections are made when they are needed.
    pub fn start(url: &str, body: &Bytes, options: &Options) -> Result<Target, Failure> {
        let header = |text: &String| -> Result<(HeaderName, HeaderValue), Failure> {
            let (name, value) = text.split_once(':').ok_or_else(|| format!("--header {text}: write NAME: VALUE"))?;
            let wrong = |error: &dyn Error| format!("--header {text}: {error}");
            let name = name.trim().parse().map_err(|error: InvalidHeaderName| wrong(&error))?;
            Ok((name, value.trim().parse().map_err(|error: InvalidHeaderValue| wrong(&error))?))
        };
        let shared = Rc::new(Shared {
            name: url.to_owned(),
            dial: Dial::to(url, options)?,
            headers: options.header.iter().map(header).collect::<Result<_, _>>()?,
            unit_header: options.unit_header.parse().map_err(|error| format!("--unit-header: {error}"))?,
            arm_header: options.arm_header.parse().map_err(|error| format!("--arm-header: {error}"))?,
            timeout: options.timeout,
            body: body.clone(),
            queue: RefCell::default(),
            queued: Notify::new(),
            closed: Cell::new(false),
            outcomes: RefCell::default(),
        });
        let mut connections = Vec::new();
        for _ in 0..options.connections {
            let connection = Rc::<Connection>::default();
            let stream = |_| tokio::task::spawn_local(Rc::clone(&shared).serve(Rc::clone(&connection)));
            connections.extend((0..options.streams).map(stream));
        }
        Ok(Target { shared, connections })
    }

    /// Queues a request.
    pub fn push(&self, job: Job) {
        self.shared.queue.borrow_mut().push_back(job);
        self.shared.queued.notify_one();
    }

    /// Waits for what is under way; what came of it all.
    pub async fn finish(self) -> (String, Outcomes) {
        self.shared.closed.set(true);
        self.shared.queued.notify_waiters();
        for connection in self.connections {
            // One that failed has told of no outcome, and that shows.
            let _ = connection.await;
        }
        (self.shared.name.clone(), self.shared.outcomes.take())
    }
}

impl Shared {
    async fn serve(self: Rc<Self>, connection: Rc<Connection>) {
        loop {
            let queued = self.queued.notified();
            let job = self.queue.borrow_mut().pop_front();
            let Some(job) = job else {
                if self.closed.get() {
                    return;
                }
                queued.await;
                continue;
            };
            let went = timeout(self.timeout, self.ask(&connection, &job.asked)).await;
            let us = u32::try_from(job.at.elapsed().as_micros()).unwrap_or(u32::MAX);
            match went.unwrap_or_else(|error| Err(Why::at("timeout", &error))) {
                Ok((head, body)) => {
                    let arm = head.headers.get(&self.arm_header).and_then(|arm| arm.to_str().ok()).unwrap_or_default();
                    let is_primary = job.meeting.as_ref().is_none_or(|(_, kind)| *kind != Some(Kind::Noise));
                    if is_primary {
                        self.outcomes.borrow_mut().answered(arm, head.status.as_u16(), us);
                    }
                    if let Some((meeting, kind)) = job.meeting {
                        let headers = head.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
                        let answer = Answer { status: head.status.as_u16(), headers, body: vec![body], longer: false };
                        meeting.arrive(kind, answer);
                    }
                }
                Err(why) => self.outcomes.borrow_mut().failed(&why, us),
            }
        }
    }

    /// Asks, and asks again where the service did nothing of it; another connection, if this one is going away.
    async fn ask(&self, connection: &Connection, asked: &Asked) -> Result<(http::response::Parts, Bytes), Why> {
        let mut asks = 1;
        loop {
            match self.ask_once(connection, asked).await {
                Err(why) if why.is_undone && asks < ASKS_MAX => asks += 1,
                went => return went,
            }
        }
    }

    async fn ask_once(&self, connection: &Connection, asked: &Asked) -> Result<(http::response::Parts, Bytes), Why> {
        let mut place = connection.lock().await;
        // One that is not put back is lost: it failed, or its answer did not come in time.
        let mut open = match place.take() {
            Some(mut open) => {
                if open.is_ready().await {
                    open
                } else {
                    self.dial.connect().await?
                }
            }
            None => self.dial.connect().await?,
        };
        let request = self.request(asked, open.version()).map_err(|error| Why::at("request", &error))?;
        if let Some(mut another) = open.another() {
            *place = Some(open);
            drop(place);
            return answered(&mut another, request).await;
        }
        let answer = answered(&mut open, request).await?;
        *place = Some(open);
        Ok(answer)
    }

    fn request(&self, asked: &Asked, version: Version) -> http::Result<Request<Full<Bytes>>> {
        let method: Method = asked.method.parse()?;
        let named = self.headers.iter().find(|(name, _)| name == http::header::HOST);
        let host = named.and_then(|(_, host)| host.to_str().ok()).unwrap_or(self.dial.authority());
        let body = if takes_body(&method) { self.body.clone() } else { Bytes::new() };
        let request = Request::builder().method(method).version(version);
        let mut request = match version {
            Version::HTTP_2 => request.uri(format!("{}://{host}{}", self.dial.scheme(), asked.target)),
            _ => request.uri(&asked.target).header(http::header::HOST, host),
        };
        for (name, value) in self.headers.iter().filter(|(name, _)| name != http::header::HOST) {
            request = request.header(name, value);
        }
        if let Some(unit) = &asked.unit {
            request = request.header(&self.unit_header, unit);
        }
        request.body(Full::new(body))
    }
}

/// Where a connection is kept between requests.
type Connection = Mutex<Option<Open>>;

/// How often a request is sent that the service refuses each time.
const ASKS_MAX: u8 = 5;

/// The methods with which `--body` goes.
fn takes_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

async fn answered(open: &mut Open, request: Request<Full<Bytes>>) -> Result<(http::response::Parts, Bytes), Why> {
    let (head, body) = open.send(request).await?.into_parts();
    Ok((head, body.collect().await.map_err(|error| Why::at("cut off", &error))?.to_bytes()))
}

/// Where the answers to one request meet.
pub struct Meeting {
    name: &'static str,
    rules: Arc<Rules>,
    pairs: Arc<Pairs>,
    at: Time,
    asked: Rc<Asked>,
    offered: Rc<Cell<u64>>,
    first: RefCell<Option<Answer>>,
    others: RefCell<Vec<(Kind, Answer)>>,
}

impl Meeting {
    /// Nothing has come yet.
    pub fn new(
        name: &'static str,
        rules: Arc<Rules>,
        pairs: Arc<Pairs>,
        at: Time,
        asked: Rc<Asked>,
        offered: Rc<Cell<u64>>,
    ) -> Meeting {
        Meeting { name, rules, pairs, at, asked, offered, first: RefCell::default(), others: RefCell::default() }
    }

    fn arrive(&self, kind: Option<Kind>, mut answer: Answer) {
        let (mut first, mut others) = (self.first.borrow_mut(), self.others.borrow_mut());
        if answer.body.iter().map(Bytes::len).sum::<usize>() > self.rules.max_body {
            (answer.longer, answer.body) = (true, Vec::new());
        }
        match kind {
            None => *first = Some(answer),
            Some(kind) => others.push((kind, answer)),
        }
        let Some(first) = first.as_ref() else { return };
        for (kind, second) in others.drain(..) {
            let pair = Pair {
                rollout: self.name.into(),
                rules: Arc::clone(&self.rules),
                kind,
                at: self.at,
                method: self.asked.method.parse().unwrap_or_default(),
                path: self.asked.target.as_str().into(),
                first: first.clone(),
                second,
            };
            if self.pairs.offer(pair) {
                self.offered.set(self.offered.get() + 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::net::SocketAddr;
    use tokio::net::TcpListener;

    /// An HTTP/2 service that refuses the first so many streams.
    async fn refuses(streams: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            let mut connection = h2::server::handshake(listener.accept().await.unwrap().0).await.unwrap();
            for number in 0.. {
                let Some(Ok((_, mut answer))) = connection.accept().await else { return };
                if number < streams {
                    answer.send_reset(h2::Reason::REFUSED_STREAM);
                } else {
                    answer.send_response(http::Response::new(()), true).unwrap();
                }
            }
        });
        address
    }

    async fn table_of_one_request_to(service: SocketAddr) -> String {
        let url = format!("http://{service}");
        let options = Options::parse_from(["load", "--target", &url, "--http", "2", "--connections", "1"]);
        let target = Target::start(&url, &Bytes::new(), &options).unwrap();
        let asked = Asked { due: Duration::ZERO, method: "POST".to_owned(), target: "/".to_owned(), unit: None };
        target.push(Job { asked: Rc::new(asked), at: Instant::now(), meeting: None });
        let report = crate::report::Report { targets: vec![target.finish().await], ..Default::default() };
        report.text()
    }

    #[tokio::test]
    async fn a_stream_that_the_service_refuses_is_asked_for_again_though_not_for_ever() {
        let asked = async {
            let answered = table_of_one_request_to(refuses(usize::from(ASKS_MAX) - 1).await).await;
            assert!(!answered.contains("no answer"), "{answered}");
            let refused = table_of_one_request_to(refuses(usize::MAX).await).await;
            assert!(refused.contains("no answer: connection 1, the first: http2 error"), "{refused}");
        };
        tokio::task::LocalSet::new().run_until(asked).await;
    }
}
