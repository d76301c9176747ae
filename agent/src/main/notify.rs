//! What the service manager is told (sd_notify(3)): that the agent is ready, what it does, and that it lives. It lives as long as the task that
//! moves readings answers. A source that fails or hangs does not count, nor does flash that cannot be written: both are
//! isolated, told as figures, and a restart would cost what is held in memory.

use std::time::Duration;

use headwater_agent::{AgentHandle, Status};
use sd_notify::NotifyState;

/// How often the status line is told where there is no watchdog.
const EVERY: Duration = Duration::from_secs(30);

/// Feeds the watchdog; never returns. Without a service manager it does nothing.
pub(crate) async fn watch(handle: &AgentHandle) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return std::future::pending().await;
    }
    let every = sd_notify::watchdog_enabled().map_or(EVERY, |limit| limit / 3);
    let mut ready = false;
    loop {
        let status = handle.status().await;
        if status.answering {
            let line = line(&status);
            if !ready {
                ready = true;
                tell(&[NotifyState::Ready, NotifyState::Status(&line)]);
            }
            tell(&[NotifyState::Watchdog, NotifyState::Status(&line)]);
        } else {
            log::error!("the task that moves readings does not answer; the watchdog is not fed");
        }
        tokio::time::sleep(if ready { every } else { Duration::from_millis(50) }).await;
    }
}

/// The settings are being read again, or have been.
pub(crate) fn reloading(done: bool) {
    if done {
        tell(&[NotifyState::Ready]);
    } else if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// The agent is about to end.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

fn line(status: &Status) -> String {
    let link = match (status.link.since_us, status.stats.connected) {
        (0, _) => "not connected to",
        (_, false) => "connected, without a relay, to",
        (_, true) => "connected to",
    };
    format!(
        "{link} {}; {} readings wait",
        status.link.broker, status.stats.waiting_readings
    )
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        log::debug!("the service manager cannot be told: {error}");
    }
}
