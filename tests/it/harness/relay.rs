//! A relay between weir and an origin that breaks connections at a chosen byte of either direction.
//!
//! It runs on a thread of its own, knows the steps of both protocols from `parts`, and counts what it does, so that tests
//! wait for events. A broken connection is broken for good; the relay itself goes on.

use super::parts::{Mark, Part, Scanner};
use super::wait::soon;
use bytes::{Buf, BytesMut};
use socket2::{Domain, SockRef, Socket, Type};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The direction that bytes take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From weir to the origin.
    Up,
    /// From the origin to weir.
    Down,
}

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Both sides see a reset.
    Reset,
    /// weir sees a proper end of the stream.
    Cut,
    /// Nothing passes in that direction any more.
    Stall,
    /// Few bytes at a time, with pauses, to the end of the message.
    Slow {
        /// How many.
        bytes: usize,
        /// How long after each few.
        pause: Duration,
    },
    /// The byte there is changed; what follows passes as it is.
    Garble,
}

/// Where a fault happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// As soon as the connection is there.
    Accept,
    /// Before that byte of a part of a message, counted from 0.
    Byte(Way, Part, u64),
    /// After the last byte of a message.
    End(Way),
}

/// A fault that is to happen once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shot {
    /// Where.
    pub at: At,
    /// What.
    pub fault: Fault,
    /// In which message of that direction of a connection, counted from 0; none is the first that comes.
    pub message: Option<u64>,
}

/// What a schedule has in store for one connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fate {
    /// What happens to it.
    pub shot: Option<Shot>,
    /// From then on, connections are refused for that long.
    pub refuse_for: Option<Duration>,
}

/// What a relay has done so far.
#[derive(Debug, Default)]
pub struct Done {
    /// Whether it takes connections.
    pub listens: bool,
    /// Connections accepted.
    pub accepted: u64,
    /// Of those, the ones that weir has not closed yet, and that were not reset.
    pub open: u64,
    /// Of those, the ones that are not broken.
    pub whole: u64,
    /// Shots that went off, each with its connection, counted from 1.
    pub fired: Vec<(u64, Shot)>,
    /// HTTP/1.1 requests of which weir sent something, by request line, whether or not it was passed on.
    pub begun: BTreeMap<String, u64>,
    /// HTTP/2 requests of which weir sent something.
    pub streams: u64,
    /// Bytes of each part of the last message in each direction.
    pub lengths: [[u64; Part::COUNT]; 2],
}

type Schedule = dyn FnMut(u64) -> Fate + Send;

/// A running relay. Dropping it ends it with all its connections.
pub struct Relay {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    /// Ends the thread when dropped.
    _end: watch::Sender<()>,
}

struct Shared {
    target: SocketAddr,
    done: watch::Sender<Done>,
    /// Whether connections are to be accepted.
    listen: watch::Sender<bool>,
    /// Goes up when the open connections are to end, and how.
    ending: watch::Sender<(u64, Fault)>,
    /// The shot that waits for any connection, and whether it stays after going off.
    armed: Mutex<Option<(Shot, bool)>>,
    schedule: Mutex<Option<Box<Schedule>>>,
}

impl Relay {
    /// Starts one that passes everything on to `target` unharmed.
    pub async fn to(target: SocketAddr) -> Relay {
        // It holds the port while nobody listens there, so that refusing is the kernel's doing.
        let holder = bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let address = holder.local_addr().expect("it is bound").as_socket().expect("an IP address");
        let shared = Arc::new(Shared {
            target,
            done: watch::Sender::default(),
            listen: watch::Sender::new(true),
            ending: watch::Sender::new((0, Fault::Cut)),
            armed: Mutex::default(),
            schedule: Mutex::default(),
        });
        let (end, ended) = watch::channel(());
        let served = Arc::clone(&shared);
        let body = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            tokio::task::LocalSet::new().block_on(&runtime, run(holder, address, served, ended));
        };
        std::thread::Builder::new().name("relay".to_owned()).spawn(body).expect("a thread");
        let relay = Relay { address, shared, _end: end };
        relay.until("a listener", |done| done.listens).await;
        relay
    }

    /// The next message that comes to this place meets this fault, on whatever connection.
    pub fn arm(&self, shot: Shot) {
        *self.shared.armed.lock().expect("nobody panics with it") = Some((shot, false));
    }

    /// From now on every message that comes to this place meets this fault, on whatever connection.
    pub fn arm_for_good(&self, shot: Shot) {
        *self.shared.armed.lock().expect("nobody panics with it") = Some((shot, true));
    }

    /// Takes back a shot that has not gone off; whether there was one.
    pub fn disarm(&self) -> bool {
        self.shared.armed.lock().expect("nobody panics with it").take().is_some()
    }

    /// From the next connection on, this decides what happens to each, counted from 1.
    pub fn schedule(&self, schedule: impl FnMut(u64) -> Fate + Send + 'static) {
        *self.shared.schedule.lock().expect("nobody panics with it") = Some(Box::new(schedule));
    }

    /// From the next connection on, nothing happens to any.
    pub fn calm(&self) {
        *self.shared.schedule.lock().expect("nobody panics with it") = None;
    }

    /// Refuses connections, or accepts them again; in force when it returns.
    pub async fn listen(&self, listens: bool) {
        self.shared.listen.send_if_modified(|present| std::mem::replace(present, listens) != listens);
        self.until("the listener's change", |done| done.listens == listens).await;
    }

    /// Ends the connections that are open, by `Cut` or `Reset`.
    pub fn end_connections(&self, fault: Fault) {
        self.shared.ending.send_modify(|present| *present = (present.0 + 1, fault));
    }

    /// Looks at what has happened.
    pub fn look<T>(&self, look: impl FnOnce(&Done) -> T) -> T {
        look(&self.shared.done.borrow())
    }

    /// Waits until what has happened is as `wanted` says.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Done) -> bool) {
        let mut done = self.shared.done.subscribe();
        let reached = soon(&format!("relay: {what}"), done.wait_for(|done| wanted(done))).await;
        reached.expect("the relay holds the sender");
    }
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

async fn run(_holder: Socket, address: SocketAddr, shared: Arc<Shared>, mut ended: watch::Receiver<()>) {
    let mut listen = shared.listen.subscribe();
    loop {
        let wanted = *listen.borrow_and_update();
        let listener = wanted.then(|| listener(address).expect("the port is ours"));
        shared.done.send_modify(|done| done.listens = wanted);
        tokio::select! {
            () = accept(listener, &shared) => {}
            _ = listen.changed() => {}
            _ = ended.changed() => return,
        }
    }
}

fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = bind(address)?;
    socket.listen(1024)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

async fn accept(listener: Option<TcpListener>, shared: &Arc<Shared>) {
    let Some(listener) = listener else { return std::future::pending().await };
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let mut number = 0;
        shared.done.send_modify(|done| {
            done.accepted += 1;
            done.open += 1;
            done.whole += 1;
            number = done.accepted;
        });
        let fate = shared.schedule.lock().expect("nobody panics with it").as_mut().map(|schedule| schedule(number));
        let fate = fate.unwrap_or_default();
        let served = Arc::clone(shared);
        tokio::task::spawn_local(async move {
            // How a connection fails is seen by the other side; here it only ends.
            let _ = connection(stream, &served, number, fate.shot).await;
            served.done.send_modify(|done| done.open -= 1);
        });
        if let Some(pause) = fate.refuse_for {
            shared.listen.send_replace(false);
            let shared = Arc::clone(shared);
            tokio::task::spawn_local(async move {
                tokio::time::sleep(pause).await;
                shared.listen.send_replace(true);
            });
            return;
        }
    }
}

/// Why a connection is over before both sides have ended.
enum Halt {
    /// As a shot or the test wants it.
    Broken(Fault),
    /// One side is gone.
    Gone,
}

impl From<io::Error> for Halt {
    fn from(_: io::Error) -> Halt {
        Halt::Gone
    }
}

async fn connection(mut weir: TcpStream, shared: &Arc<Shared>, number: u64, shot: Option<Shot>) -> io::Result<()> {
    let whole = Whole(shared);
    let mut ending = shared.ending.subscribe();
    weir.set_nodelay(true)?;
    let line = Rc::new(Line { shared: Arc::clone(shared), number, scan: RefCell::new(Scan::new(shot)) });
    let mut origin = TcpStream::connect(shared.target).await?;
    origin.set_nodelay(true)?;
    let halt = {
        let ((mut from_weir, mut to_weir), (mut from_origin, mut to_origin)) = (weir.split(), origin.split());
        let both = async {
            if let Some(fault) = line.at_accept() {
                line.strike(Way::Up, fault)?;
                line.strike(Way::Down, fault)?;
            }
            let up = pump(&line, Way::Up, &mut from_weir, &mut to_origin);
            let down = pump(&line, Way::Down, &mut from_origin, &mut to_weir);
            tokio::try_join!(up, down).map(|_| ())
        };
        tokio::select! {
            ended = both => ended.err().unwrap_or(Halt::Gone),
            Ok(()) = ending.changed() => Halt::Broken(ending.borrow().1),
        }
    };
    match halt {
        Halt::Gone => {}
        Halt::Broken(Fault::Reset) => {
            SockRef::from(&origin).set_linger(Some(Duration::ZERO))?;
            SockRef::from(&weir).set_linger(Some(Duration::ZERO))?;
            drop((origin, weir, whole));
        }
        Halt::Broken(_) => {
            drop(origin);
            weir.shutdown().await?;
            drop(whole);
            // Unread bytes would turn the end into a reset; what still comes counts as sent.
            let mut rest = BytesMut::from(line.undecided(Way::Up).as_slice());
            while weir.read_buf(&mut rest).await? > 0 {
                let seen = line.witness(Way::Up, &rest);
                rest.advance(seen);
            }
        }
    }
    Ok(())
}

/// Carries one direction to its end.
async fn pump(
    line: &Line,
    way: Way,
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> Result<(), Halt> {
    let mut buffer = BytesMut::with_capacity(16 * 1024);
    while from.read_buf(&mut buffer).await? > 0 {
        loop {
            let (mut pass, strike) = line.scan(way, &buffer);
            if strike == Some(Fault::Garble) {
                buffer[pass] ^= GARBLE;
                pass += 1;
            }
            let bytes = buffer.split_to(pass);
            line.forward(way, &bytes, to).await?;
            match strike {
                Some(Fault::Garble) => {}
                Some(fault) => line.strike(way, fault).inspect_err(|_| {
                    line.witness(way, &buffer);
                })?,
                None => break,
            }
        }
    }
    match (line.is_stalled(way), way) {
        (false, _) => {
            to.write_all(&buffer).await?;
            to.shutdown().await?;
            Ok(())
        }
        // An origin that hears nothing would not end by itself.
        (true, Way::Up) => Err(Halt::Gone),
        (true, Way::Down) => Ok(()),
    }
}

/// Whether a shot is meant for this place of this message.
fn due(place: At, message: u64) -> impl Fn(&Shot) -> bool {
    move |shot| shot.at == place && shot.message.is_none_or(|wanted| wanted == message)
}

/// What a garbled byte differs by: no ASCII byte stays one.
const GARBLE: u8 = 0x80;

/// One connection.
struct Line {
    shared: Arc<Shared>,
    number: u64,
    scan: RefCell<Scan>,
}

/// A connection that is not broken.
struct Whole<'a>(&'a Shared);

impl Drop for Whole<'_> {
    fn drop(&mut self) {
        self.0.done.send_modify(|done| done.whole -= 1);
    }
}

struct Scan {
    shot: Option<Shot>,
    directions: [Direction; 2],
}

#[derive(Default)]
struct Direction {
    scanner: Option<Scanner>,
    /// Messages begun.
    messages: u64,
    /// Bytes of each part of the present message; of `Opening`, those since the beginning.
    lengths: [u64; Part::COUNT],
    /// The byte that a shot has stopped at is known already.
    known: Option<Mark>,
    /// Bytes whose part does not show yet.
    undecided: Vec<u8>,
    stalled: bool,
    slow: Option<(usize, Duration)>,
    /// The last byte that was passed ends a message.
    ended: bool,
}

impl Scan {
    fn new(shot: Option<Shot>) -> Scan {
        Scan { shot, directions: Default::default() }
    }
}

impl Line {
    fn at_accept(&self) -> Option<Fault> {
        self.fire(|shot| shot.at == At::Accept)
    }

    /// Lets a shot go off whose time has come: the connection's own, or the one that waits for any connection.
    fn fire(&self, due: impl Fn(&Shot) -> bool) -> Option<Fault> {
        let own = self.scan.borrow_mut().shot.take_if(|shot| due(shot));
        let armed = || {
            let mut armed = self.shared.armed.lock().expect("nobody panics with it");
            let (shot, stays) = (*armed).filter(|(shot, _)| due(shot))?;
            armed.take_if(|_| !stays);
            Some(shot)
        };
        let shot = own.or_else(armed)?;
        self.shared.done.send_modify(|done| done.fired.push((self.number, shot)));
        Some(shot.fault)
    }

    /// How many of these bytes pass, and what happens after them. Bytes whose part is not known yet stay.
    fn scan(&self, way: Way, bytes: &[u8]) -> (usize, Option<Fault>) {
        for at in 0..bytes.len() {
            let Some((mark, message, offset)) = self.step(way, &bytes[at..]) else {
                return (self.keep(way, &bytes[at..], at), None);
            };
            match self.fire(due(At::Byte(way, mark.part, offset), message)) {
                Some(Fault::Garble) => {
                    self.pass(way, mark);
                    return (at, Some(Fault::Garble));
                }
                Some(fault) => {
                    // This byte is looked at again if it passes after all.
                    self.scan.borrow_mut().directions[way as usize].known = Some(mark);
                    return (at, Some(fault));
                }
                None => self.pass(way, mark),
            }
            if let Some(fault) = mark.ends.then(|| self.fire(due(At::End(way), message))).flatten() {
                return (at + 1, Some(fault));
            }
        }
        (self.keep(way, &[], bytes.len()), None)
    }

    /// Takes note of bytes that do not pass, as far as it shows what they are; how many that was.
    fn witness(&self, way: Way, bytes: &[u8]) -> usize {
        for at in 0..bytes.len() {
            match self.step(way, &bytes[at..]) {
                Some((mark, ..)) => self.pass(way, mark),
                None => return self.keep(way, &bytes[at..], at),
            }
        }
        self.keep(way, &[], bytes.len())
    }

    /// Keeps what was read but is not known yet: the connection may break before the rest of it comes.
    fn keep(&self, way: Way, bytes: &[u8], at: usize) -> usize {
        self.scan.borrow_mut().directions[way as usize].undecided = bytes.to_vec();
        at
    }

    fn undecided(&self, way: Way) -> Vec<u8> {
        self.scan.borrow().directions[way as usize].undecided.clone()
    }

    /// The next byte: what it is, of which message, and which byte of its part.
    fn step(&self, way: Way, rest: &[u8]) -> Option<(Mark, u64, u64)> {
        let mut scan = self.scan.borrow_mut();
        self.begin(&mut scan, way, rest)?;
        let direction = &mut scan.directions[way as usize];
        let mark = match direction.known.take() {
            Some(mark) => Mark { begins: false, ..mark },
            None => direction.scanner.as_mut()?.step(rest)?,
        };
        if mark.begins {
            direction.messages += 1;
            direction.lengths[Part::Head as usize..].fill(0);
            if way == Way::Up && matches!(direction.scanner, Some(Scanner::Http2(_))) {
                self.shared.done.send_modify(|done| done.streams += 1);
            }
        }
        Some((mark, direction.messages.saturating_sub(1), direction.lengths[mark.part as usize]))
    }

    /// Chooses the scanners by the first bytes from weir.
    fn begin(&self, scan: &mut Scan, way: Way, rest: &[u8]) -> Option<()> {
        if scan.directions[way as usize].scanner.is_none() {
            // An origin that speaks first speaks HTTP/2.
            let http2 = way == Way::Down || rest.first_chunk::<3>()? == b"PRI";
            for way in [Way::Up, Way::Down] {
                let scanner = if http2 { Scanner::http2(way == Way::Up) } else { Scanner::http1() };
                scan.directions[way as usize].scanner = Some(scanner);
            }
        }
        Some(())
    }

    /// A byte passes.
    fn pass(&self, way: Way, mark: Mark) {
        let mut scan = self.scan.borrow_mut();
        let direction = &mut scan.directions[way as usize];
        direction.lengths[mark.part as usize] += 1;
        direction.ended |= mark.ends;
        let line = direction.scanner.as_mut().and_then(Scanner::take_start_line).filter(|_| way == Way::Up);
        if line.is_some() || mark.ends {
            self.shared.done.send_modify(|done| {
                if let Some(line) = line {
                    *done.begun.entry(line).or_default() += 1;
                }
                if mark.ends {
                    done.lengths[way as usize] = direction.lengths;
                }
            });
        }
    }

    async fn forward(&self, way: Way, mut bytes: &[u8], to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let (stalled, slow) = {
            let mut scan = self.scan.borrow_mut();
            let direction = &mut scan.directions[way as usize];
            let slow = direction.slow.take_if(|_| direction.ended).or(direction.slow);
            direction.ended = false;
            (direction.stalled, slow)
        };
        if stalled {
            return Ok(());
        }
        if let Some((few, pause)) = slow {
            while !bytes.is_empty() {
                let (now, later) = bytes.split_at(few.min(bytes.len()));
                to.write_all(now).await?;
                tokio::time::sleep(pause).await;
                bytes = later;
            }
        }
        to.write_all(bytes).await
    }

    fn strike(&self, way: Way, fault: Fault) -> Result<(), Halt> {
        let mut scan = self.scan.borrow_mut();
        let direction = &mut scan.directions[way as usize];
        match fault {
            Fault::Reset | Fault::Cut => return Err(Halt::Broken(fault)),
            Fault::Stall => direction.stalled = true,
            Fault::Slow { bytes, pause } => direction.slow = Some((bytes, pause)),
            Fault::Garble => {}
        }
        Ok(())
    }

    fn is_stalled(&self, way: Way) -> bool {
        self.scan.borrow().directions[way as usize].stalled
    }
}
