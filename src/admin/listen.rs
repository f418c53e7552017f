//! Opening the admin address: TCP, or a unix socket that only its owner may use.
//!
//! It refuses to open an address that others can reach without a token, and to take a unix socket from a process that
//! still answers on it.

use super::auth::Auth;
use crate::snapshot::Secret;
use socket2::{Domain, SockAddr, Socket, Type};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// An open admin address.
#[derive(Debug)]
pub enum Listener {
    /// A TCP address.
    Tcp(tokio::net::TcpListener),
    /// A unix socket; its file is removed when this is dropped.
    Unix(tokio::net::UnixListener, SocketFile),
}

/// The file of a unix socket, removed on drop if it is still ours.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

/// Why an admin address could not be opened.
#[derive(Debug)]
pub enum ListenError {
    /// Others can reach it and there is no token.
    NeedsToken(SocketAddr),
    /// The operating system refused.
    Io(String, io::Error),
}

impl Listener {
    /// Opens a TCP address and pairs it with the rule for it. Must run inside a runtime.
    pub fn tcp(address: SocketAddr, token: Option<Secret>) -> Result<(Listener, Auth), ListenError> {
        let refused = |error| ListenError::Io(address.to_string(), error);
        let auth = Auth::tcp(address, token).ok_or(ListenError::NeedsToken(address))?;
        let listener = std::net::TcpListener::bind(address).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        Ok((Listener::Tcp(tokio::net::TcpListener::from_std(listener).map_err(refused)?), auth))
    }

    /// Opens a unix socket of mode 0600 and pairs it with the rule for it. Must run inside a runtime.
    pub fn unix(path: &Path, token: Option<Secret>) -> Result<(Listener, Auth), ListenError> {
        let listener = open_unix(path).map_err(|error| ListenError::Io(format!("unix:{}", path.display()), error))?;
        Ok((listener, Auth::unix(token)))
    }

    /// The TCP address with its real port; none for a unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(..) => None,
        }
    }
}

/// The mode is set between bind and listen, so that at no moment anyone else can connect.
fn open_unix(path: &Path) -> io::Result<Listener> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let file = SocketFile { path: path.to_owned(), inode: std::fs::symlink_metadata(path)?.ino() };
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(std::os::unix::net::UnixListener::from(socket))?;
    Ok(Listener::Unix(listener, file))
}

/// A socket file that nobody answers on was left by a process that died; anything else is not ours to remove.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(found) if !found.file_type().is_socket() => Err(io::ErrorKind::AlreadyExists.into()),
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
            Err(error) => Err(error),
            Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        },
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenError::NeedsToken(address) => {
                write!(f, "admin address {address} can be reached by others: set `token_file`, or use loopback")
            }
            ListenError::Io(address, error) => write!(f, "admin address `{address}`: {error}"),
        }
    }
}

impl std::error::Error for ListenError {}

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_unix_socket_is_for_its_owner_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let (listener, _) = Listener::unix(&path, None).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        let taken = Listener::unix(&path, None).unwrap_err();
        assert!(matches!(&taken, ListenError::Io(_, error) if error.kind() == io::ErrorKind::AddrInUse), "{taken}");
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let dead = folder.path().join("dead.sock");
        drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
        assert!(Listener::unix(&dead, None).is_ok());

        let file = folder.path().join("notes.txt");
        std::fs::write(&file, "keep me").unwrap();
        assert!(Listener::unix(&file, None).is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "keep me");
    }

    #[tokio::test]
    async fn an_address_that_others_reach_is_not_opened_without_a_token() {
        assert!(matches!(Listener::tcp("0.0.0.0:0".parse().unwrap(), None), Err(ListenError::NeedsToken(_))));
        let (listener, _) = Listener::tcp("127.0.0.1:0".parse().unwrap(), None).unwrap();
        assert!(listener.address().is_some_and(|address| address.port() != 0));
    }
}
