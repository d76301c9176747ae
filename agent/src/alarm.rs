//! A wait until an instant that costs one waking, at that instant. Tokio's timers stand in a wheel whose slots grow with the distance: one
//! that is ten seconds away wakes the thread twice or three times before it is due, to be put into finer slots, and does so even
//! when it never becomes due because it is put off all the while. A timer of the kernel's does not.

use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// One timer, set anew whenever the instant is another.
#[derive(Debug)]
pub(crate) struct Alarm {
    /// `None` where the kernel gives none (a sandbox may forbid it): tokio's are used.
    timer: Option<AsyncFd<OwnedFd>>,
    set: Option<Instant>,
}

impl Alarm {
    /// To be called in a tokio runtime.
    pub(crate) fn new() -> Self {
        let timer = timer()
            .map_err(|error| log::debug!("no timer of the kernel's ({error}); going on with tokio's"))
            .ok();
        Self { timer, set: None }
    }

    /// Waits until `at`; for ever, without one. May be dropped at any time.
    pub(crate) async fn until(&mut self, at: Option<Instant>) {
        let Some(at) = at else {
            return pending().await;
        };
        let now = Instant::now();
        if now >= at {
            return;
        }
        let Some(timer) = &self.timer else {
            return tokio::time::sleep_until(at.into()).await;
        };
        if self.set != Some(at) {
            if let Err(error) = set(timer.get_ref(), at - now) {
                log::debug!("the kernel's timer cannot be set: {error}");
                return tokio::time::sleep_until(at.into()).await;
            }
            self.set = Some(at);
        }
        loop {
            let Ok(mut ready) = timer.readable().await else {
                return tokio::time::sleep_until(at.into()).await;
            };
            // It need not be read: it is told again when it is due again, and setting it begins anew.
            ready.clear_ready();
            // Otherwise it was of an instant before, and nobody was there.
            if Instant::now() >= at {
                self.set = None;
                return;
            }
        }
    }
}

#[allow(
    deprecated,
    reason = "what replaces it is unsafe, for types whose descriptor may change under it; that of this one does not"
)]
fn timer() -> io::Result<AsyncFd<OwnedFd>> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    AsyncFd::new(timerfd_create(TimerfdClockId::Monotonic, flags)?)
}

fn set(timer: &OwnedFd, wait: Duration) -> io::Result<()> {
    let none = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let spec = Itimerspec {
        it_interval: none,
        it_value: Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos() as _,
        },
    };
    timerfd_settime(timer, TimerfdTimerFlags::empty(), &spec)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_due_at_its_instant_whatever_it_was_set_for_before() {
        let mut alarm = Alarm::new();
        assert!(alarm.timer.is_some());
        let begun = Instant::now();
        let later = begun + Duration::from_secs(3600);
        let (soon, sooner) = (
            begun + Duration::from_millis(60),
            begun + Duration::from_millis(30),
        );
        for at in [later, sooner, soon] {
            // Dropped as soon as it waits.
            tokio::select! {
                biased;
                () = alarm.until(Some(at)) => panic!("too early"),
                () = std::future::ready(()) => {}
            }
        }
        // The one it was set for last passes unseen.
        std::thread::sleep(Duration::from_millis(100));
        let at = Instant::now() + Duration::from_millis(50);
        alarm.until(Some(at)).await;
        assert!(Instant::now() >= at);
        let at = Instant::now() + Duration::from_millis(5);
        alarm.until(Some(at)).await;
        assert!(Instant::now() >= at);
        alarm.until(Some(begun)).await;
    }

    #[tokio::test]
    async fn without_one_of_the_kernel_s_tokio_s_does() {
        let mut alarm = Alarm {
            timer: None,
            set: None,
        };
        let at = Instant::now() + Duration::from_millis(5);
        alarm.until(Some(at)).await;
        assert!(Instant::now() >= at);
    }
}
