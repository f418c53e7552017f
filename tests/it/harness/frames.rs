//! An HTTP/2 upstream in exact frames, for what a proper server never does: refuse a stream, go away under a request,
//! answer before it has read, stop speaking HTTP/2.

use super::wait::soon;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// One upstream. Dropping it ends it with all its connections.
pub struct Frames {
    /// Where it listens.
    pub address: SocketAddr,
    state: watch::Sender<State>,
    serving: tokio::task::JoinHandle<()>,
}

/// What it does with each request once its head is there.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// Resets the stream with this code.
    Reset(u32),
    /// Ends the connection, having taken no stream.
    GoAway,
    /// Sends what is not HTTP/2.
    Garbage,
    /// Answers 500 and goes on without reading.
    FailEarly,
    /// Answers 200.
    Answer,
    /// Does nothing, and takes no more of a body than every upstream must.
    Hold,
}

/// What it does with a request, by how many heads have come so far, this one included.
type Script = dyn Fn(u64) -> Act + Send + Sync;

/// REFUSED_STREAM (RFC 9113 §7): the server has not acted on it.
pub const REFUSED: u32 = 7;
/// INTERNAL_ERROR.
pub const INTERNAL: u32 = 2;

/// What it has seen.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Heads of requests.
    pub heads: u64,
    /// Streams that the other side has reset.
    pub resets: u64,
}

impl Frames {
    /// Starts one that does the same with each request.
    pub async fn start(act: Act) -> Frames {
        Frames::scripted(move |_| act).await
    }

    /// Starts one that does with each request what the script says.
    pub async fn scripted(script: impl Fn(u64) -> Act + Send + Sync + 'static) -> Frames {
        let script: Arc<Script> = Arc::new(script);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let state = watch::Sender::default();
        let shared = Arc::new(state.clone());
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, script) = (Arc::clone(&shared), Arc::clone(&script));
                // How a connection ends is seen by the other side.
                tokio::spawn(async move { drop(serve(stream, &*script, &shared).await) });
            }
        });
        Frames { address, state, serving }
    }

    /// What it has seen so far.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Waits until what it has seen is as `wanted` says.
    pub async fn until(&self, what: &str, wanted: impl Fn(&State) -> bool) {
        let mut state = self.state.subscribe();
        let reached = soon(what, state.wait_for(wanted)).await;
        drop(reached.expect("this holds the sender"));
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(mut stream: TcpStream, script: &Script, state: &watch::Sender<State>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await?;
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        match (head[3], head[4] & ACK) {
            (SETTINGS, 0) => stream.write_all(&frame(SETTINGS, ACK, 0, &[])).await?,
            (RESET, _) => state.send_modify(|state| state.resets += 1),
            (HEADERS, _) => {
                let mut heads = 0;
                state.send_modify(|state| {
                    state.heads += 1;
                    heads = state.heads;
                });
                match script(heads) {
                    Act::Reset(code) => stream.write_all(&frame(RESET, 0, id, &code.to_be_bytes())).await?,
                    Act::GoAway => {
                        stream.write_all(&frame(GO_AWAY, 0, 0, &[0; 8])).await?;
                        return stream.shutdown().await;
                    }
                    Act::Garbage => stream.write_all(&[b'?'; 64]).await?,
                    Act::FailEarly => stream.write_all(&frame(HEADERS, END, id, &[STATUS_500])).await?,
                    Act::Answer => stream.write_all(&frame(HEADERS, END, id, &[STATUS_200])).await?,
                    Act::Hold => {}
                }
            }
            _ => {}
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
    let mut bytes = length.to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const GO_AWAY: u8 = 7;
/// Of settings; for headers and data the same bit is the end of the stream.
const ACK: u8 = 1;
/// End of the headers and of the stream.
const END: u8 = 5;
/// `:status: 500` in the static table (RFC 7541, appendix A).
const STATUS_500: u8 = 0x8e;
/// `:status: 200`.
const STATUS_200: u8 = 0x88;
