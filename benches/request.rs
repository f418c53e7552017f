//! What a whole request takes over a loopback connection: a client, weir with one worker, an upstream, each waiting for the
//! next. Most of it is the kernel's and the scheduler's; `load-tests/` compares under load, and `load-tests/instructions`
//! counts where time is noise.
//!
//!     cargo bench --bench request

// Every public item of a benchmark is made by a macro.
#![allow(missing_docs)]
#![allow(clippy::disallowed_methods, reason = "its upstream has threads of its own")]

use criterion::{Criterion, criterion_group, criterion_main};
use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use weir::cli::serve::{self, Options};
use weir::rollout::scale::TimeScale;

const REQUEST: &[u8] =
    b"GET /hello HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: weir-bench/1.0\r\nAccept: text/plain,*/*;q=0.8\r\n\
Accept-Encoding: gzip, deflate\r\nAccept-Language: en-GB,en;q=0.7\r\nX-User-Id: user-4711\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\nHello, stable";
const BODY: &[u8] = b"Hello, stable";

/// An upstream that answers every head with the same answer.
fn upstream() -> Result<SocketAddr, Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    Ok(address)
}

fn answer(mut stream: TcpStream) {
    let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
    let _ = stream.set_nodelay(true);
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        head.extend_from_slice(buffer.get(..count).unwrap_or_default());
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            if stream.write_all(ANSWER).is_err() {
                return;
            }
        }
    }
}

fn ask(stream: &mut TcpStream) -> std::io::Result<usize> {
    stream.write_all(REQUEST)?;
    let (mut filled, mut buffer) = (0, [0; 4096]);
    loop {
        let count = stream.read(buffer.get_mut(filled..).unwrap_or_default())?;
        filled += count;
        let so_far = buffer.get(..filled).unwrap_or_default();
        if so_far.ends_with(BODY) {
            return Ok(filled);
        }
        if count == 0 {
            return Err(std::io::Error::other(String::from_utf8_lossy(so_far).into_owned()));
        }
    }
}

fn client(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn config(folder: &Path, upstream: SocketAddr) -> std::io::Result<Options> {
    let path = folder.join("weir.toml");
    let text = format!(
        "state_dir = \"state\"\nworkers = 1\n[[listeners]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [upstreams.one]\nendpoints = [\"{upstream}\"]\n[upstreams.two]\nendpoints = [\"{upstream}\"]\n\
         [rollouts.bench]\nunit = [\"header:x-user-id\"]\nweight = \"10%\"\n\
         stable = {{ upstream = \"one\" }}\ncanary = {{ upstream = \"two\" }}\n"
    );
    std::fs::write(&path, text)?;
    Ok(Options {
        config: path,
        environment: Vec::new(),
        signals: false,
        time_scale: TimeScale::default(),
        log_lost: Arc::default(),
    })
}

fn measured(criterion: &mut Criterion) -> Result<(), Box<dyn Error>> {
    let upstream = upstream()?;
    let folder = tempfile::tempdir()?;
    let running = serve::start(config(folder.path(), upstream)?).map_err(|error| error.to_string())?;
    let proxy = *running.listeners.first().ok_or("no listener")?;
    let mut group = criterion.benchmark_group("request over loopback");
    for (what, address) in [("through weir", proxy), ("directly", upstream)] {
        let mut stream = client(address)?;
        ask(&mut stream)?;
        let mut failed = None;
        group.bench_function(what, |bencher| {
            bencher.iter(|| match ask(&mut stream) {
                Ok(bytes) => bytes,
                Err(error) => {
                    failed = Some(error);
                    0
                }
            });
        });
        if let Some(error) = failed {
            return Err(error.into());
        }
    }
    group.finish();
    running.stop();
    Ok(())
}

fn request(criterion: &mut Criterion) {
    if let Err(error) = measured(criterion) {
        eprintln!("request over loopback: {error}");
        std::process::exit(1);
    }
}

criterion_group!(benches, request);
criterion_main!(benches);
