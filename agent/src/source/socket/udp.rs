//! Datagrams.

use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until};

use super::super::Output;
use super::super::foreign::Foreign;
use crate::error::SourceError;

/// How long datagrams are thrown away unread once the share is used up: what it grows by meanwhile is worth reading again.
const DEAF: Duration = Duration::from_millis(100);

/// Receives datagrams for ever. One at a time: the rest of a flood waits in the system's buffer, and beyond it is lost there. What is
/// thrown away unread counts as one reading dropped each.
pub(super) async fn receive(
    socket: &UdpSocket,
    foreign: &Foreign,
    output: &Output,
) -> Result<(), SourceError> {
    let max = foreign.max_payload();
    // One byte more than is allowed, so that what is longer shows.
    let mut datagram = vec![0; (max + 1).min(65_536)];
    let mut deaf_until = None::<Instant>;
    let mut thrown_away = 0u64;
    loop {
        let until = deaf_until.unwrap_or_else(Instant::now);
        let received = tokio::select! {
            biased;
            () = sleep_until(until), if deaf_until.is_some() => {
                deaf_until = None;
                output.dropped(std::mem::take(&mut thrown_away));
                continue;
            }
            received = socket.recv_from(&mut datagram) => received,
        };
        match received {
            Ok(_) if deaf_until.is_some() => thrown_away += 1,
            Ok((length, peer)) if length > max => output.report(&format_args!(
                "{peer}: a datagram of more than max_payload ({max} bytes)"
            )),
            Ok((length, _)) => {
                if foreign.take(output, "", &datagram[..length]).await > 0 {
                    deaf_until = Some(Instant::now() + DEAF);
                }
            }
            Err(error) => {
                output.report(&format_args!("nothing can be received: {error}"));
                tokio::time::sleep(DEAF).await;
            }
        }
    }
}
