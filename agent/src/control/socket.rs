//! The status socket: whoever may open it is told the agent's state as one JSON document, and the connection is closed. Nothing is read, so
//! nothing can be asked of the agent this way; tasks of its own serve it, so the pipeline never waits for a reader.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as Probe;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::AgentHandle;
use crate::task;

/// Connections served at once; further ones wait in the listener's queue.
const AT_ONCE: usize = 4;
/// How long a reader may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Owner and group may connect.
const MODE: u32 = 0o660;

/// The socket, served until this is dropped.
pub(crate) struct Socket {
    path: PathBuf,
    server: JoinHandle<()>,
}

impl Socket {
    /// Opens the socket, and serves it.
    ///
    /// # Errors
    /// What the system says; `AddrInUse` if another agent serves it.
    pub(crate) fn open(path: &Path, handle: AgentHandle) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        if Probe::connect(path).is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another agent serves it",
            ));
        }
        // What a killed agent left behind; what is there and no socket is not ours to remove.
        if fs::symlink_metadata(path).is_ok_and(|found| is_socket(&found)) {
            fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, Permissions::from_mode(MODE))?;
        let server = task::spawn(serve(listener, handle));
        Ok(Self {
            path: path.to_path_buf(),
            server,
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.server.abort();
        // Nobody would answer there.
        let _ = fs::remove_file(&self.path);
    }
}

fn is_socket(found: &fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    found.file_type().is_socket()
}

async fn serve(listener: UnixListener, handle: AgentHandle) {
    let mut readers = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if readers.len() < AT_ONCE => match accepted {
                Ok((stream, _)) => {
                    let answer = tokio::time::timeout(PATIENCE, answer(stream, handle.clone()));
                    // Who does not read in time is cut off.
                    readers.spawn(task::boxed(async { drop(answer.await) }));
                }
                Err(error) => {
                    log::warn!("the status socket: {error}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            },
            Some(_) = readers.join_next() => {}
        }
    }
}

async fn answer(mut stream: UnixStream, handle: AgentHandle) -> io::Result<()> {
    let mut status = handle.status().await;
    status.shown = status.text();
    let mut json = status.json();
    json.push('\n');
    stream.write_all(json.as_bytes()).await?;
    stream.shutdown().await
}
