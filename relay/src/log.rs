//! What is logged, and how: to standard error, as text or JSON, and never a line for each of what comes by the thousand.
//!
//! A line of the source may log some times in a while; what it would log beyond that is counted, and told in one line when the while
//! is over. That bounds what 10,000 devices can make of one cause. Debugging is not bounded: who asks for it wants it all.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter, Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt};

use crate::settings::{LogFormat, LogSettings};

/// Lines from one place in a [`WHILE`].
const MOST: u32 = 20;
/// See [`MOST`].
const WHILE: Duration = Duration::from_secs(10);

/// Sets up logging with this filter.
pub(crate) fn init(settings: &LogSettings, filter: EnvFilter) {
    let limit = Limit::default();
    let lines = fmt::layer()
        // It would be told on standard error, which is what failed.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    let lines = match settings.format {
        LogFormat::Text => lines
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines.with_filter(limit.clone()))
        .init();
    // It ends with the process. Where no thread can be had, what was left out is not told.
    let _ = std::thread::Builder::new().name("log".into()).spawn(move || {
        loop {
            std::thread::sleep(WHILE);
            for (place, count) in limit.roll(Instant::now()) {
                tracing::info!("{count} more lines from {place} were left out");
            }
        }
    });
}

/// Lets so many lines of each place through.
#[derive(Clone, Debug, Default)]
struct Limit(Arc<Mutex<BTreeMap<String, Place>>>);

/// What one place has logged in the present while.
#[derive(Debug)]
struct Place {
    begun: Instant,
    lines: u32,
    left_out: u64,
}

impl Limit {
    fn admits(&self, place: &str, now: Instant) -> bool {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(place) = places.get_mut(place) else {
            let first = Place {
                begun: now,
                lines: 1,
                left_out: 0,
            };
            // As many as there are lines of source that log.
            places.insert(place.to_string(), first);
            return true;
        };
        if place.lines < MOST {
            place.lines += 1;
            return true;
        }
        place.left_out += 1;
        false
    }

    /// Ends the whiles that are over. Returns what was left out in them.
    fn roll(&self, now: Instant) -> Vec<(String, u64)> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let over = places.extract_if(.., |_, place| now >= place.begun + WHILE);
        over.filter(|(_, place)| place.left_out > 0)
            .map(|(name, place)| (name, place.left_out))
            .collect()
    }
}

impl<S: Subscriber> Filter<S> for Limit {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let about = event.metadata();
        if *about.level() > Level::INFO {
            return true;
        }
        // Of a line of another crate's `log` the place is that of the bridge between the two, but its target is its own.
        self.admits(
            &format!("{}:{}", about.target(), about.line().unwrap_or_default()),
            Instant::now(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_says_so_much_in_a_while_and_then_how_much_it_left_out() {
        let limit = Limit::default();
        let begun = Instant::now();
        let admitted = (0..1000).filter(|_| limit.admits("fleet:190", begun)).count();
        assert_eq!(admitted, MOST as usize);
        assert!(limit.admits("group:153", begun), "another place has its own");
        assert!(limit.roll(begun).is_empty(), "the while is not over");
        let left_out = limit.roll(begun + WHILE);
        assert_eq!(left_out, [("fleet:190".to_string(), 1000 - u64::from(MOST))]);
        assert!(limit.admits("fleet:190", begun + WHILE), "the next while begins");
        assert!(
            limit.roll(begun + 3 * WHILE).is_empty(),
            "and nothing was left out in it"
        );
    }
}
