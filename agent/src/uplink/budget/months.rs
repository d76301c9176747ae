//! The budget over simulated months.

use headwater_config::ByteSize;

use super::*;

const DAY: u64 = 86_400;
const MIB: u64 = 1024 * 1024;
/// 2026-11-01.
const NOVEMBER: i64 = 20_758 * DAY as i64;

/// A box: so much live data, and a backlog, over a link that takes 20 kB/s of it.
struct Box {
    settings: config::DataBudget,
    budget: Budget,
    start: Instant,
    /// Seconds since then.
    at: u64,
    synchronised: bool,
    /// Bytes a second: of readings that are all taken; beside the readings.
    readings: f64,
    overhead: f64,
    backlog: u64,
    link: f64,
    backlog_sent: u64,
    /// The state file; how often it was written.
    file: Option<Vec<u8>>,
    writes: u64,
    /// The largest factor, and whether the budget was ever spent.
    thinnest: u32,
    spent: bool,
}

impl Box {
    fn new(mib: u64, readings: f64) -> Self {
        let settings = config::DataBudget {
            bytes: ByteSize::mib(mib),
            ..Default::default()
        };
        let start = Instant::now();
        Self {
            budget: Budget::new(settings.clone(), None, start),
            settings,
            start,
            at: 0,
            synchronised: true,
            readings,
            overhead: 0.5,
            backlog: 0,
            link: 0.0,
            backlog_sent: 0,
            file: None,
            writes: 0,
            thinnest: 1,
            spent: false,
        }
    }

    fn run(&mut self, seconds: u64) {
        const STEP: u64 = 60;
        let until = self.at + seconds;
        while self.at < until {
            self.at += STEP;
            let sent = match self.budget.allowance() {
                Allowance::Spent => 500.0 * STEP as f64 / 3600.0,
                _ => self.readings / f64::from(self.budget.thinning()) * STEP as f64,
            };
            self.link += sent + self.overhead * STEP as f64;
            if self.budget.allowance() == Allowance::All {
                let late = self.backlog.min(20_000 * STEP);
                self.backlog -= late;
                self.backlog_sent += late;
                self.link += late as f64;
            }
            let wall = self.synchronised.then_some(NOVEMBER + self.at as i64);
            let now = self.start + Duration::from_secs(self.at);
            self.budget.look(now, wall, self.link as u64, self.backlog_sent);
            if let Some(content) = self.budget.write_ahead() {
                self.file = Some(content);
                self.writes += 1;
            }
            self.thinnest = self.thinnest.max(self.budget.thinning());
            self.spent |= self.budget.allowance() == Allowance::Spent;
        }
    }

    /// The process ends, cleanly or not, and another begins. Returns what was really used, and what is counted.
    fn restart(&mut self, clean: bool) -> (u64, u64) {
        let used = self.budget.used();
        if clean {
            self.file = Some(self.budget.close());
        }
        let now = self.start + Duration::from_secs(self.at);
        self.budget = Budget::new(self.settings.clone(), self.file.as_deref(), now);
        (self.link, self.backlog_sent) = (0.0, 0);
        (used, self.budget.used())
    }
}

#[test]
fn a_month_that_fits_is_never_thinned_and_the_next_begins_at_zero() {
    // 50 B/s are 124 MiB in 30 days.
    let mut a = Box::new(200, 50.0);
    a.run(30 * DAY - 60);
    assert_eq!((a.thinnest, a.budget.allowance()), (1, Allowance::All));
    assert!(a.budget.used() > 120 * MIB, "{}", a.budget.used());
    a.run(3600);
    assert!(a.budget.used() < MIB, "{}", a.budget.used());
    assert!(a.writes < 1500, "{} writes", a.writes);
}

#[test]
fn a_month_that_does_not_fit_is_thinned_and_never_spent() {
    // At 1,000 B/s 2.4 GiB.
    let mut a = Box::new(500, 1000.0);
    for day in 1..=30 {
        a.run(DAY);
        assert!(!a.spent, "spent on day {day}");
    }
    // 1 of 5 is the least that lasts.
    assert_eq!(a.thinnest, 5);
    let mut b = Box::new(500, 1000.0);
    b.run(30 * DAY - 60);
    let used = b.budget.used();
    assert!((450 * MIB..500 * MIB).contains(&used), "{used}");
}

#[test]
fn a_flood_is_thinned_while_it_lasts_and_not_longer_than_it_must() {
    let mut a = Box::new(500, 50.0);
    a.run(5 * DAY);
    a.readings = 20_000.0;
    a.run(6 * 3600);
    assert!(a.budget.thinning() > 1);
    a.readings = 50.0;
    a.run(2 * DAY);
    assert_eq!(a.budget.thinning(), 1, "two days after");
    assert!(!a.spent);
}

#[test]
fn what_no_thinning_saves_is_spent_and_then_costs_next_to_nothing_until_the_month_ends() {
    let mut a = Box::new(100, 5000.0);
    a.run(29 * DAY);
    assert!(a.spent);
    assert_eq!(
        (a.budget.allowance(), a.budget.thinning()),
        (Allowance::Spent, 10)
    );
    let over = a.budget.used() - 100 * MIB;
    assert!(over < 3 * MIB, "{over} bytes beyond the budget");
    a.run(DAY + 3600);
    assert_ne!(a.budget.allowance(), Allowance::Spent);
    assert!(a.budget.used() < 10 * MIB);
}

#[test]
fn a_backlog_has_what_live_data_does_not_need_and_is_sent_in_the_end() {
    let mut a = Box::new(200, 50.0);
    a.run(DAY);
    a.backlog = 150 * MIB;
    a.run(28 * DAY);
    assert_eq!(a.thinnest, 1, "live data was thinned for the backlog's sake");
    assert!(!a.spent);
    let sent = a.backlog_sent;
    assert!((40 * MIB..80 * MIB).contains(&sent), "{sent} of the backlog sent");
    a.run(30 * DAY);
    a.run(30 * DAY);
    assert_eq!((a.backlog, a.thinnest, a.spent), (0, 1, false));
}

#[test]
fn until_the_rate_is_known_a_backlog_has_a_fiftieth() {
    let mut a = Box::new(200, 50.0);
    a.backlog = 500 * MIB;
    a.run(280);
    let first = a.backlog_sent;
    assert!((4 * MIB..6 * MIB).contains(&first), "{first}");
    a.run(3600);
    assert!(a.backlog_sent > 2 * first, "{}", a.backlog_sent);
}

#[test]
fn a_crash_forgets_nothing_and_counts_little_too_much() {
    let mut a = Box::new(500, 200.0);
    for hours in [0, 1, 5, 48] {
        a.run(hours * 3600 + 60);
        let (link, (used, counted)) = (a.link as u64, a.restart(false));
        let bound = link.clamp(AHEAD_MIN, MIB);
        assert!(
            (used..=used + bound).contains(&counted),
            "{used} {counted} after {hours} h"
        );
    }
    a.run(7200);
    let (used, counted) = a.restart(true);
    assert_eq!(used, counted);
}

#[test]
fn restarts_keep_the_thinning() {
    let mut a = Box::new(500, 1000.0);
    a.run(3 * DAY);
    let before = a.budget.thinning();
    assert!(before > 1);
    a.restart(true);
    assert_eq!(a.budget.thinning(), before);
}

#[test]
fn a_clock_that_is_not_known_begins_no_month_until_31_days_have_passed() {
    let mut a = Box::new(200, 50.0);
    a.run(20 * DAY);
    a.synchronised = false;
    a.run(30 * DAY);
    assert!(a.budget.used() > 150 * MIB, "{}", a.budget.used());
    a.run(DAY + 3600);
    assert!(a.budget.used() < MIB, "{}", a.budget.used());
    // A clock that comes back within what it calls the same month takes nothing back.
    a.synchronised = true;
    a.run(60);
    assert!(a.budget.used() < 2 * MIB);
}

#[test]
fn a_clock_that_went_back_begins_no_month() {
    let mut a = Box::new(200, 50.0);
    a.run(10 * DAY);
    let now = a.start + Duration::from_secs(a.at);
    a.budget.look(now, Some(NOVEMBER - 86_400), a.link as u64, 0);
    assert!(a.budget.used() > 40 * MIB);
}

#[test]
fn what_the_state_file_holds_is_read_even_if_it_is_nonsense() {
    let now = Instant::now();
    for content in [
        &b""[..],
        b"{",
        b"{\"month\":1}",
        b"\xff\xff",
        b"{\"month\":0,\"used\":-1,\"thinning\":0}",
    ] {
        assert_eq!(
            Budget::new(config::DataBudget::default(), Some(content), now).used(),
            0
        );
    }
    let content = b"{\"month\":1761955200,\"used\":77,\"thinning\":4000000000}";
    let budget = Budget::new(config::DataBudget::default(), Some(content), now);
    assert_eq!((budget.used(), budget.thinning()), (77, 10));
}
