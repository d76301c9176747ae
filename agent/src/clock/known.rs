//! The last time known, kept in the state directory: a machine without a battery for its clock starts no earlier than that.

use std::time::Duration;

use crate::clock::Clock;
use crate::state::State;
use crate::task;

/// The file.
const NAME: &str = "clock";
/// How often it is written at most, seconds: each time is wear on flash.
const DAILY_S: i64 = 86_400;
/// How often is looked whether it is due.
const LOOK: Duration = Duration::from_secs(600);

/// The last time known.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    state: State,
    /// What the file holds, seconds since the Unix epoch.
    kept_s: Option<i64>,
}

impl Known {
    /// Reads what was kept; it may block. What cannot be read is as good as nothing.
    pub(crate) fn open(state: State) -> Self {
        let kept_s = match state.read(NAME) {
            Ok(content) => content.and_then(|bytes| String::from_utf8(bytes).ok()?.trim().parse().ok()),
            Err(error) => {
                log::warn!("cannot read {}: {error}", state.dir().join(NAME).display());
                None
            }
        };
        Self { state, kept_s }
    }

    /// The last time known, microseconds since the Unix epoch.
    pub(crate) fn time_us(&self) -> Option<i64> {
        self.kept_s.map(|seconds| seconds.saturating_mul(1_000_000))
    }

    /// Keeps it once the time is known, and then daily.
    pub(crate) async fn keep(mut self, clock: Clock) {
        loop {
            self.save(&clock, DAILY_S).await;
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Keeps the time, if it is known and what is kept is older than `seconds`.
    pub(crate) async fn save(&mut self, clock: &Clock, seconds: i64) {
        let now_s = clock.now_us() / 1_000_000;
        if !clock.is_synchronised() || self.kept_s.is_some_and(|kept| now_s < kept + seconds) {
            return;
        }
        let state = self.state.clone();
        let writing = task::blocking(move || state.write(NAME, format!("{now_s}\n").as_bytes()));
        match writing.await {
            Ok(Ok(())) => self.kept_s = Some(now_s),
            Ok(Err(error)) => log::warn!("the time cannot be kept: {error}"),
            Err(error) => log::warn!("the time cannot be kept: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_time_is_kept_when_it_is_synchronised_and_seldom() {
        let temp = tempfile::tempdir().unwrap();
        let state = State::new(temp.path().to_path_buf());
        let clock = Clock::default();
        let mut known = Known::open(state.clone());
        assert_eq!(known.time_us(), None);
        known.save(&clock, DAILY_S).await;
        let written = state.written();
        assert!(written > 0);
        known.save(&clock, DAILY_S).await;
        assert_eq!(state.written(), written);
        let kept = Known::open(state.clone()).time_us().unwrap();
        assert!((clock.now_us() - kept).abs() < 60_000_000, "{kept}");
        state.write(NAME, b"yesterday").unwrap();
        assert_eq!(Known::open(state).time_us(), None);
    }
}
