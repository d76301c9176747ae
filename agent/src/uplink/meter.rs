//! The data budget at work: feeds it with the counters, keeps its file, and sets the thinning.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::budget::{Allowance, Budget};
use crate::config;
use crate::state::State;
use crate::stats::BudgetStats;
use crate::task;
use crate::thinning::Thinning;

/// Its name in the state directory.
const FILE: &str = "budget";
/// The least and the longest time between two looks at the counters.
const LOOK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How long the last writing may take.
const LAST: Duration = Duration::from_secs(5);

/// A month's data budget, if there is one.
pub(crate) struct Meter {
    budget: Option<Budget>,
    state: Option<State>,
    thinning: Thinning,
    looked: Instant,
    writing: Option<JoinHandle<()>>,
}

impl Meter {
    /// Reads the file: it may block. Without a state directory a budget is counted from this start only.
    pub(crate) fn new(
        settings: Option<&config::DataBudget>,
        state: Option<State>,
        thinning: Thinning,
        now: Instant,
    ) -> Self {
        let mut meter = Self {
            budget: None,
            state,
            thinning,
            looked: now,
            writing: None,
        };
        meter.reload(settings, now);
        meter
    }

    /// Goes on with other settings.
    pub(crate) fn reload(&mut self, settings: Option<&config::DataBudget>, now: Instant) {
        self.budget = match (settings, self.budget.take()) {
            (None, _) => None,
            (Some(settings), Some(mut budget)) => {
                budget.reload(settings.clone());
                Some(budget)
            }
            (Some(settings), None) => {
                let stored = self.read();
                Some(Budget::new(settings.clone(), stored.as_deref(), now))
            }
        };
        self.thinning
            .set(self.budget.as_ref().map_or(1, Budget::thinning));
    }

    fn read(&self) -> Option<Vec<u8>> {
        let Some(state) = &self.state else {
            log::warn!("without state_dir the data budget is counted from this start only");
            return None;
        };
        state.read(FILE).unwrap_or_else(|error| {
            log::error!("the count of the month's bytes cannot be read ({error}); it begins anew at 0");
            None
        })
    }

    /// Takes in the counters since the start of the process, and says what may be sent. See [`Budget::look`].
    pub(crate) fn look(&mut self, now: Instant, wall: Option<i64>, link: u64, backlog: u64) -> Allowance {
        let Some(budget) = &mut self.budget else {
            return Allowance::All;
        };
        if now >= self.looked + LOOK.0 {
            self.looked = now;
            budget.look(now, wall, link, backlog);
            self.thinning.set(budget.thinning());
            let busy = self
                .writing
                .as_ref()
                .is_some_and(|writing| !writing.is_finished());
            if let Some(state) = &self.state
                && !busy
                && let Some(content) = budget.write_ahead()
            {
                self.writing = Some(write(state.clone(), content));
            }
        }
        budget.allowance()
    }

    /// When [`Meter::look`] is to be called at the latest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.budget.as_ref().map(|_| self.looked + LOOK.1)
    }

    /// A clean stop: writes the exact count.
    pub(crate) async fn close(mut self, now: Instant, wall: Option<i64>, link: u64, backlog: u64) {
        let (Some(budget), Some(state)) = (&mut self.budget, self.state) else {
            return;
        };
        budget.look(now, wall, link, backlog);
        let (before, content) = (self.writing, budget.close());
        let last = async {
            if let Some(before) = before {
                let _ = before.await;
            }
            let _ = write(state, content).await;
        };
        if tokio::time::timeout(LAST, last).await.is_err() {
            log::error!(
                "the count of the month's bytes was not written within {LAST:?}; the next start counts a little more"
            );
        }
    }

    pub(crate) fn stats(&self) -> BudgetStats {
        self.budget
            .as_ref()
            .map_or(BudgetStats::default(), |budget| BudgetStats {
                used_bytes: budget.used(),
                limit_bytes: budget.bytes(),
            })
    }
}

/// Writes on a thread that may wait for the medium.
fn write(state: State, content: Vec<u8>) -> JoinHandle<()> {
    task::begin(move || {
        if let Err(error) = state.write(FILE, &content) {
            log::error!(
                "the count of the month's bytes cannot be written to {}: {error}; a restart will have forgotten some",
                state.dir().display()
            );
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_used_outlives_the_process_with_and_without_a_clean_stop() {
        let temp = tempfile::tempdir().unwrap();
        let state = || Some(State::new(temp.path().to_path_buf()));
        let settings = config::DataBudget::default();
        let thinning = Thinning::default();
        let start = Instant::now();
        let open = |at| Meter::new(Some(&settings), state(), thinning.clone(), at);

        let mut meter = open(start);
        let later = start + Duration::from_secs(2);
        assert_eq!(meter.look(later, None, 1000, 0), Allowance::All);
        assert_eq!(meter.stats().used_bytes, 1000);
        // What is ahead is on the medium; then the power goes.
        meter.writing.take().unwrap().await.unwrap();
        drop(meter);
        let mut meter = open(start);
        let counted = meter.stats().used_bytes;
        assert!((1000..40_000).contains(&counted), "{counted}");
        meter.look(later, None, 500, 0);
        meter.close(later, None, 700, 0).await;
        assert_eq!(open(start).stats().used_bytes, counted + 700);
    }

    #[test]
    fn without_a_budget_everything_is_allowed_and_nothing_is_thinned() {
        let (thinning, now) = (Thinning::default(), Instant::now());
        thinning.set(5);
        let mut meter = Meter::new(None, None, thinning.clone(), now);
        assert_eq!(meter.look(now + LOOK.1, Some(0), 1 << 40, 0), Allowance::All);
        assert_eq!((thinning.factor(), meter.deadline()), (1, None));
    }
}
