//! One service: its connections, each with one request at a time, and what came of them. A request that finds all of them busy
//! waits its turn, and its latency goes on counting.

use crate::list::Asked;
use crate::report::Outcomes;
use crate::{Failure, Options};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::Notify;
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
    authority: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    unit_header: HeaderName,
    arm_header: HeaderName,
    timeout: Duration,
    queue: RefCell<VecDeque<Job>>,
    queued: Notify,
    closed: Cell<bool>,
    outcomes: RefCell<Outcomes>,
}

impl Target {
    /// Connections are made when they are needed.
    pub fn start(url: &str, options: &Options) -> Result<Target, Failure> {
        let uri: Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
        let authority = uri
            .authority()
            .filter(|_| uri.scheme_str() == Some("http"))
            .ok_or_else(|| format!("{url}: write http://HOST:PORT"))?;
        let port = authority.port_u16().unwrap_or(80);
        let header = |text: &String| -> Result<(HeaderName, HeaderValue), Failure> {
            let (name, value) = text.split_once(':').ok_or_else(|| format!("--header {text}: write NAME: VALUE"))?;
            Ok((name.trim().parse()?, value.trim().parse()?))
        };
        let shared = Rc::new(Shared {
            name: url.to_owned(),
            authority: format!("{}:{port}", authority.host()),
            headers: options.header.iter().map(header).collect::<Result<_, _>>()?,
            unit_header: options.unit_header.parse()?,
            arm_header: options.arm_header.parse()?,
            timeout: options.timeout,
            queue: RefCell::default(),
            queued: Notify::new(),
            closed: Cell::new(false),
            outcomes: RefCell::default(),
        });
        let connection = |_| tokio::task::spawn_local(Rc::clone(&shared).serve());
        let connections = (0..options.connections.max(1)).map(connection).collect();
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
    async fn serve(self: Rc<Self>) {
        let mut connection = None;
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
            let went = timeout(self.timeout, self.ask(&mut connection, &job.asked)).await;
            let us = u32::try_from(job.at.elapsed().as_micros()).unwrap_or(u32::MAX);
            match went.unwrap_or(Err("timeout")) {
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
                Err(why) => {
                    connection = None;
                    self.outcomes.borrow_mut().failed(why, us);
                }
            }
        }
    }

    async fn ask(
        &self,
        connection: &mut Option<SendRequest<Full<Bytes>>>,
        asked: &Asked,
    ) -> Result<(http::response::Parts, Bytes), &'static str> {
        // The service may have closed it meanwhile.
        let is_open = match connection {
            Some(open) => open.ready().await.is_ok(),
            None => false,
        };
        let open = match connection {
            Some(open) if is_open => open,
            _ => connection.insert(self.connect().await?),
        };
        let answer: Response<Incoming> = open.send_request(self.request(asked)?).await.map_err(|_| "connection")?;
        let (head, body) = answer.into_parts();
        Ok((head, body.collect().await.map_err(|_| "cut off")?.to_bytes()))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, &'static str> {
        let stream = TcpStream::connect(&self.authority).await.map_err(|_| "connect")?;
        stream.set_nodelay(true).map_err(|_| "connect")?;
        let (mut open, driver) = handshake(TokioIo::new(stream)).await.map_err(|_| "connect")?;
        tokio::task::spawn_local(driver);
        open.ready().await.map_err(|_| "connect")?;
        Ok(open)
    }

    fn request(&self, asked: &Asked) -> Result<Request<Full<Bytes>>, &'static str> {
        let method: Method = asked.method.parse().map_err(|_| "request")?;
        let mut request = Request::builder().method(method).uri(&asked.target);
        if !self.headers.iter().any(|(name, _)| name == http::header::HOST) {
            request = request.header(http::header::HOST, &self.authority);
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if let Some(unit) = &asked.unit {
            request = request.header(&self.unit_header, unit);
        }
        request.body(Full::default()).map_err(|_| "request")
    }
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
