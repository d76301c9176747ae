//! Lines over TCP.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::super::Output;
use super::super::foreign::Foreign;
use super::super::lines::Lines;
use crate::config::SocketSource;
use crate::error::SourceError;
use crate::task;

/// After an accept that failed: out of descriptors, most likely.
const PAUSE: Duration = Duration::from_millis(500);

/// Serves connections for ever; dropping the future ends them.
pub(super) async fn serve(
    listener: TcpListener,
    settings: &SocketSource,
    foreign: &Foreign,
    output: &Output,
) -> Result<(), SourceError> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) if connections.len() < settings.connections => {
                    let (foreign, output) = (foreign.clone(), output.clone());
                    let served = serve_one(stream, peer, settings.idle_timeout, foreign, output);
                    connections.spawn(task::boxed(served));
                }
                // Closed at once, so that its program sees it.
                Ok((_, peer)) => output.report(&format_args!(
                    "{peer} is one more than the {} connections allowed",
                    settings.connections
                )),
                Err(error) => {
                    output.report(&format_args!("no connection can be accepted: {error}"));
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve_one(
    mut stream: TcpStream,
    peer: SocketAddr,
    idle_timeout: Duration,
    foreign: Foreign,
    output: Output,
) {
    let max = foreign.max_payload();
    let mut lines = Lines::new(max);
    let mut piece = vec![0; 4096];
    loop {
        let read = match tokio::time::timeout(idle_timeout, stream.read(&mut piece)).await {
            Ok(Ok(0)) => break,
            Ok(Ok(read)) => read,
            Ok(Err(error)) => {
                log::debug!("{peer}: {error}");
                break;
            }
            Err(_) => {
                log::debug!("{peer} has been silent for {idle_timeout:?}");
                break;
            }
        };
        lines.feed(&piece[..read]);
        while let Some(line) = lines.next() {
            if !line.is_empty() {
                foreign.take(&output, "", line).await;
            }
        }
        let long = lines.take_long();
        if long > 0 {
            output.report(&format_args!(
                "{peer}: {long} line(s) of more than max_payload ({max} bytes)"
            ));
        }
    }
    // Programs that send one line often leave its end out.
    if let Some(line) = lines.finish() {
        foreign.take(&output, "", &line).await;
    }
}
