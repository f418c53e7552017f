//! The composition root: config, sockets, control plane, workers and admin server are made here and joined here.

use crate::admin;
use crate::clock::Clock;
use crate::config::units::print_size;
use crate::config::{self, AdminAddress, AdminConfig, Budget, Config, ListenerConfig, LogTarget, Problem, UserFiles};
use crate::control::{self, Handle};
use crate::proxy::access::Log;
use crate::proxy::worker::{self, Drain};
use crate::rollout::scale::TimeScale;
use crate::snapshot::AccessLog;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};

/// How long a thread that has nothing left to do may take to end. Beyond that it is left behind: it hangs on a pipe that
/// nobody reads, or the like, and the process must end all the same.
const JOIN_MAX: Duration = Duration::from_secs(2);

/// What `serve` is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The config file.
    pub config: PathBuf,
    /// The environment, whose `WEIR__...` variables override the file.
    pub environment: Vec<(String, String)>,
    /// Whether SIGHUP reloads.
    pub signals: bool,
    /// How many times as fast as written plans run.
    pub time_scale: TimeScale,
    /// Lines of the process's own log that were lost.
    pub log_lost: Arc<AtomicU64>,
}

/// A weir that serves.
pub struct Running {
    /// The data addresses with their real ports, in config order.
    pub listeners: Vec<SocketAddr>,
    /// The admin address with its real port; none without one, or on a unix socket.
    pub admin: Option<SocketAddr>,
    /// The admin address as `--admin` takes it.
    admin_label: Option<String>,
    /// The way to the control plane.
    pub handle: Handle,
    drain: watch::Sender<Drain>,
    drain_timeout: Duration,
    workers: Vec<JoinHandle<()>>,
    /// Everything else, in the order in which it ends.
    others: Vec<Part>,
    /// Held as long as this weir runs.
    _claim: Option<File>,
}

/// A thread that ends when it is told to, or when nobody needs it any more.
struct Part {
    end: Option<oneshot::Sender<()>>,
    thread: JoinHandle<()>,
}

/// Why `serve` did not start.
#[derive(Debug)]
pub enum StartError {
    /// The config has problems.
    Config(Vec<Problem>),
    /// The admin address cannot be opened.
    Admin(admin::ListenError),
    /// The control plane cannot start.
    Control(control::StartError),
    /// Something else the system refused: what, and why.
    System(String, io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Config(problems) => {
                let texts: Vec<String> = problems.iter().map(Problem::to_string).collect();
                f.write_str(&texts.join("\n"))
            }
            StartError::Admin(error) => error.fmt(f),
            StartError::Control(error) => error.fmt(f),
            StartError::System(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// Starts everything; returns when it serves.
pub fn start(options: Options) -> Result<Running, StartError> {
    let mut users = UserFiles::default();
    let loaded = config::load(&options.config, &options.environment, &mut users).map_err(StartError::Config)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    tell_budget(&loaded.config);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = loaded.config.workers.unwrap_or(cores);
    let (drain_timeout, state_dir) = (loaded.config.drain_timeout, loaded.config.state_dir.clone());
    let addresses: Vec<ListenerConfig> = loaded.config.listeners.clone();
    let log = open_log(&loaded.config)?;
    let admin = loaded.config.admin.clone().map(Admin::open).transpose()?;

    let clock = Clock::system();
    let (handle, control) = control::start(control::Start {
        config_path: options.config,
        environment: options.environment,
        loaded,
        users,
        clock: clock.clone(),
        workers,
        signals: options.signals,
        time_scale: options.time_scale,
        log_lost: options.log_lost,
    })
    .map_err(StartError::Control)?;

    // The kernel shares these with whoever listens on them already, so they are opened when nothing else can fail.
    let sockets = bind_all(&addresses, workers)?;
    let listeners = sockets.iter().filter_map(|of_address| of_address.first()?.local_addr().ok()).collect();
    let claim = claim(&state_dir);
    let (drain, drained) = watch::channel(Drain::No);
    let (log, log_thread) = log.unzip();
    let mut threads = Vec::with_capacity(workers);
    for (index, listeners) in by_worker(sockets, workers).into_iter().enumerate() {
        let start = worker::Start {
            index,
            listeners,
            published: handle.published.clone(),
            clock: clock.clone(),
            log: log.clone(),
            drain: drained.clone(),
        };
        threads.push(worker::spawn(start).map_err(refused("worker thread"))?);
    }
    let admin_address = admin.as_ref().and_then(|admin| admin.listener.address());
    let admin_label = admin.as_ref().map(|admin| admin.label.clone());
    let admin = admin.map(|admin| admin.serve(handle.clone())).transpose()?;
    let control = Part { end: None, thread: control };
    let log = log_thread.map(|thread| Part { end: None, thread });
    let others = admin.into_iter().chain([control]).chain(log).collect();
    let admin = admin_address;
    Ok(Running { listeners, admin, admin_label, handle, drain, drain_timeout, workers: threads, others, _claim: claim })
}

/// `weir serve`: starts, says so, and ends after a signal.
pub fn run(options: Options) -> Result<(), StartError> {
    let runtime = runtime()?;
    let mut signals = {
        let _inside = runtime.enter();
        Signals::new().map_err(refused("signal handlers"))?
    };
    raise_descriptor_limit();
    let time_scale = options.time_scale;
    let running = start(options)?;
    for address in &running.listeners {
        tracing::info!("listening on {address}");
    }
    if let Some(line) = control::time_scale_told(time_scale) {
        tracing::warn!("{line}");
    }
    if let Some(address) = &running.admin_label {
        tracing::info!("admin on {address}");
    }
    runtime.block_on(async {
        if signals.next().await == Some(Drain::Closing) {
            running.handle.draining();
            running.drain.send_replace(Drain::Closing);
            let closing = worker::closing(running.drain_timeout);
            tracing::info!("told to end: not ready from now on, accepting for {closing:?} more");
            // A second signal cuts this short, and the drain with it.
            if timeout(closing, signals.next()).await.is_ok() {
                running.drain.send_replace(Drain::Now);
            }
        }
    });
    running.handle.draining();
    tracing::info!("finishing open requests, for at most {:?}", running.drain_timeout);
    let drain = running.drain.clone();
    let stopping = Builder::new().name("weir-stop".into()).spawn(move || running.stop()).map_err(refused("thread"))?;
    runtime.block_on(async {
        while !stopping.is_finished() {
            if timeout(Duration::from_millis(20), signals.next()).await.is_ok() {
                drain.send_replace(Drain::Now);
                sleep(Duration::from_millis(20)).await;
            }
        }
    });
    tracing::info!("ended");
    Ok(())
}

/// Says how much memory the limits allow, and warns if that is more than the process may have.
fn tell_budget(config: &Config) {
    let budget = Budget::of(config);
    match control::own::memory_limit() {
        Some(limit) if limit < budget.total() => {
            let limit = print_size(limit);
            tracing::warn!(
                "the limits allow {budget}; this process may take {limit}: lower max_in_flight, max_connections or h1_buffer"
            );
        }
        _ => tracing::info!("the limits allow {budget}"),
    }
}

/// Raises the limit on descriptors as far as the system lets this user: each proxied request may hold two.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "the limit on open files stays at {:?}", limit.current);
    }
}

impl Running {
    /// Finishes open requests within the drain timeout and joins every thread.
    pub fn stop(self) {
        let Running { handle, drain, workers, others, .. } = self;
        handle.draining();
        drain.send_if_modified(|stage| std::mem::replace(stage, Drain::Finish.max(*stage)) != *stage);
        for thread in workers {
            // Bounded by the drain timeout. One that panicked has said so already; the others still have to end.
            let _ = thread.join();
        }
        // The control plane ends when its last handle is gone, so ours goes before it is waited for.
        drop(handle);
        for part in others {
            drop(part.end);
            join(part.thread);
        }
    }
}

fn join(thread: JoinHandle<()>) {
    let mut left = JOIN_MAX;
    while !thread.is_finished() && !left.is_zero() {
        std::thread::sleep(JOIN_LOOK);
        left = left.saturating_sub(JOIN_LOOK);
    }
    if thread.is_finished() {
        let _ = thread.join();
    }
}

/// How often a thread is looked at that should have ended.
const JOIN_LOOK: Duration = Duration::from_millis(5);

/// The signals that end the process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// SIGTERM comes from a supervisor whose load balancer must notice first; SIGINT from a person who waits.
    async fn next(&mut self) -> Option<Drain> {
        tokio::select! {
            signal = self.terminate.recv() => signal.map(|()| Drain::Closing),
            signal = self.interrupt.recv() => signal.map(|()| Drain::Finish),
        }
    }
}

/// Marks the state folder as in use, and warns if it is already: two that share it may share their ports as well, and a
/// weight or kill set at one is not seen by the other until it starts again. It is no error: one may be about to end.
fn claim(state_dir: &Path) -> Option<File> {
    let file = File::create(state_dir.join("weir.lock")).ok()?;
    if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
        tracing::warn!("another weir runs on {}: what is set at one is not seen by the other", state_dir.display());
    }
    Some(file)
}

fn bind_all(listeners: &[ListenerConfig], workers: usize) -> Result<Vec<Vec<TcpListener>>, StartError> {
    let bind = |listener: &ListenerConfig| {
        let what = format!("cannot listen on {}", listener.label);
        worker::bind(listener.address, workers).map_err(|error| StartError::System(what, error))
    };
    listeners.iter().map(bind).collect()
}

/// From sockets by address to sockets by worker.
fn by_worker(sockets: Vec<Vec<TcpListener>>, workers: usize) -> Vec<Vec<TcpListener>> {
    let mut rows: Vec<Vec<TcpListener>> = (0..workers).map(|_| Vec::with_capacity(sockets.len())).collect();
    for of_address in sockets {
        for (row, socket) in rows.iter_mut().zip(of_address) {
            row.push(socket);
        }
    }
    rows
}

/// `O_NONBLOCK`, so that opening a pipe without a reader is an error and not a wait; files take no notice of it.
const NONBLOCK: i32 = OFlags::NONBLOCK.bits() as i32;

/// Opens the access log. One that is switched off is opened as well, so that a reload can switch it on; then it may fail.
fn open_log(config: &Config) -> Result<Option<(Log, JoinHandle<()>)>, StartError> {
    match start_log(config) {
        Err(error) if config.access_log.keep == AccessLog::Off => {
            tracing::debug!(%error, "the access log cannot be switched on without a restart");
            Ok(None)
        }
        opened => opened.map(Some),
    }
}

fn start_log(config: &Config) -> Result<(Log, JoinHandle<()>), StartError> {
    let out: Box<dyn Write + Send> = match &config.access_log.target {
        LogTarget::Stdout => Box::new(io::stdout()),
        LogTarget::Stderr => Box::new(io::stderr()),
        LogTarget::File(path) => {
            let file = OpenOptions::new().append(true).create(true).custom_flags(NONBLOCK).open(path);
            let refused = |error| StartError::System(format!("access log {}", path.display()), error);
            let file = file.map_err(refused)?;
            // From here on a full pipe is waited for, by the log's own thread: half a line would be worse than a late one.
            let flags = fcntl_getfl(&file).map_err(io::Error::from).map_err(refused)?;
            fcntl_setfl(&file, flags - OFlags::NONBLOCK).map_err(io::Error::from).map_err(refused)?;
            Box::new(file)
        }
    };
    Log::start(out).map_err(refused("access log"))
}

/// The admin server, on a thread of its own, so that kill works whatever the control plane is busy with.
struct Admin {
    /// The address as `--admin` takes it.
    label: String,
    runtime: Runtime,
    listener: admin::Listener,
    auth: admin::Auth,
}

impl Admin {
    fn open(config: AdminConfig) -> Result<Admin, StartError> {
        let runtime = runtime()?;
        let (listener, auth) = {
            let _inside = runtime.enter();
            match &config.address {
                AdminAddress::Tcp(address) => admin::Listener::tcp(*address, config.token.clone()),
                AdminAddress::Unix(path) => admin::Listener::unix(path, config.token.clone()),
            }
            .map_err(StartError::Admin)?
        };
        let label = match (&config.address, listener.address()) {
            (AdminAddress::Unix(path), _) => format!("unix:{}", path.display()),
            (AdminAddress::Tcp(address), real) => format!("http://{}", real.unwrap_or(*address)),
        };
        Ok(Admin { label, runtime, listener, auth })
    }

    fn serve(self, handle: Handle) -> Result<Part, StartError> {
        let Admin { runtime, listener, auth, .. } = self;
        let (end, ended) = oneshot::channel::<()>();
        let serve = async move {
            let ended = async {
                let _ = ended.await;
            };
            admin::serve(listener, handle, auth, ended).await;
        };
        let thread = Builder::new().name("weir-admin".into()).spawn(move || runtime.block_on(serve));
        Ok(Part { end: Some(end), thread: thread.map_err(refused("admin thread"))? })
    }
}

fn runtime() -> Result<Runtime, StartError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused("runtime"))
}

fn refused(what: &'static str) -> impl Fn(io::Error) -> StartError {
    move |error| StartError::System(what.to_owned(), error)
}
