//! Globs over names, and the metric filters that data frames are made for.
//!
//! A filter's number is a hash of its globs, so that every gateway gives one filter the same number, and a frame made for
//! it serves every connection that has it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use headwater_proto::shard;

/// Most globs in a list.
pub const MOST: usize = 64;
/// Longest glob, bytes.
pub const LONGEST: usize = 256;

/// Why a list of globs is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too many or too long.
    #[error("{what}: {actual} is over the limit of {limit}")]
    Limit {
        /// "globs" or "a glob's length".
        what: &'static str,
        /// What was given.
        actual: usize,
        /// The limit.
        limit: usize,
    },
    /// Not a glob.
    #[error("glob {glob:?}: {why}; allowed are * ? [a-z] {{a,b}}")]
    Glob {
        /// What was given.
        glob: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Error {
    /// Whether a limit was passed.
    pub fn is_limit(&self) -> bool {
        matches!(self, Self::Limit { .. })
    }
}

/// A set of names.
#[derive(Clone, Debug)]
pub enum Globs {
    /// Every name.
    All,
    /// What any of these globs matches: sorted, each once.
    Some(Arc<GlobSet>),
}

impl Globs {
    /// Nothing.
    pub fn none() -> Self {
        Self::Some(Arc::new(GlobSet::empty()))
    }

    /// Of a subscription's list: an empty one means all.
    ///
    /// # Errors
    /// [`Error`].
    pub fn or_all(globs: &[String]) -> Result<Self, Error> {
        if globs.is_empty() {
            Ok(Self::All)
        } else {
            Self::compile(globs)
        }
    }

    /// Of a token's list: an empty one means nothing.
    ///
    /// # Errors
    /// [`Error`].
    pub fn compile(globs: &[String]) -> Result<Self, Error> {
        if globs.len() > MOST {
            return Err(Error::Limit {
                what: "globs",
                actual: globs.len(),
                limit: MOST,
            });
        }
        let mut set = GlobSetBuilder::new();
        for glob in globs {
            if glob.len() > LONGEST {
                return Err(Error::Limit {
                    what: "a glob's length",
                    actual: glob.len(),
                    limit: LONGEST,
                });
            }
            let refused = |error: globset::Error| Error::Glob {
                glob: glob.clone(),
                why: error.kind().to_string(),
            };
            set.add(
                GlobBuilder::new(glob)
                    .backslash_escape(true)
                    .build()
                    .map_err(refused)?,
            );
        }
        let refused = |error: globset::Error| Error::Glob {
            glob: globs.join(" "),
            why: error.kind().to_string(),
        };
        Ok(Self::Some(Arc::new(set.build().map_err(refused)?)))
    }

    /// Whether `name` is in it.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Some(set) => set.is_match(name),
        }
    }

    /// Whether no name is in it.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::Some(set) if set.is_empty())
    }

    /// Whether every name is in it.
    pub fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }
}

/// Whether a glob is a plain name.
pub fn is_plain(glob: &str) -> bool {
    !glob.contains(['*', '?', '[', '{', '\\'])
}

/// The partitions in which the records of devices can be that match these globs, ascending; `None`: any. A device's older
/// records stay where they are when the number of partitions is doubled: so every lower power of two has its say.
pub fn partitions(globs: &[String], partitions: u32) -> Option<Vec<u32>> {
    if globs.is_empty() || !globs.iter().all(|glob| is_plain(glob)) {
        return None;
    }
    let counts = (0..=partitions.ilog2()).map(|power| 1 << power);
    let mut found: Vec<u32> = counts
        .flat_map(|count| globs.iter().map(move |name| shard::partition(name, count)))
        .collect();
    found.sort_unstable();
    found.dedup();
    Some(found)
}

/// Which columns of a batch a data frame carries, under a number.
#[derive(Debug)]
pub struct Filter {
    /// The number in `Subscribed` and `Data`; 0: the batch as it stands in Kafka.
    pub number: u32,
    /// The metrics.
    pub metrics: Globs,
    /// No other filter of this process has or had it: a number may come to another filter once nobody has this one.
    pub serial: u64,
}

/// The filters in use.
#[derive(Debug, Default)]
pub struct Filters {
    known: Mutex<HashMap<u32, Known>>,
    /// The last serial.
    serials: AtomicU64,
}

#[derive(Debug)]
struct Known {
    key: (Vec<String>, u32),
    filter: Weak<Filter>,
}

impl Filters {
    /// The filter of these globs, shared with everybody who asks for the same. `copy` tells several filters of the same
    /// globs apart: 0 for the first subscription with them in a connection, 1 for the next (live.proto, `Subscribed`).
    ///
    /// # Errors
    /// [`Error`].
    pub fn get(&self, globs: &[String], copy: u32) -> Result<Arc<Filter>, Error> {
        let metrics = Globs::or_all(globs)?;
        if globs.is_empty() && copy == 0 {
            return Ok(Arc::new(Filter {
                number: 0,
                metrics,
                serial: 0,
            }));
        }
        let mut sorted = globs.to_vec();
        sorted.sort();
        sorted.dedup();
        let key = (sorted, copy);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, known| known.filter.strong_count() > 0);
        let mut number = hash(&key.0, key.1).max(1);
        loop {
            let live = known
                .get(&number)
                .and_then(|known| Some((known.filter.upgrade()?, known.key == key)));
            match live {
                Some((filter, true)) => return Ok(filter),
                // Another filter has this number just now.
                Some((_, false)) => number = number.wrapping_add(1).max(1),
                None => {
                    let filter = Arc::new(Filter {
                        number,
                        metrics,
                        serial: self.serials.fetch_add(1, Ordering::Relaxed) + 1,
                    });
                    known.insert(
                        number,
                        Known {
                            key,
                            filter: Arc::downgrade(&filter),
                        },
                    );
                    return Ok(filter);
                }
            }
        }
    }
}

/// FNV-1a, 32 bits, over each glob and a byte that stands in none.
fn hash(globs: &[String], copy: u32) -> u32 {
    let bytes = globs
        .iter()
        .flat_map(|glob| glob.bytes().chain([0xff]))
        .chain(copy.to_le_bytes());
    bytes.fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(globs: &[&str]) -> Vec<String> {
        globs.iter().map(|glob| (*glob).to_string()).collect()
    }

    #[test]
    fn globs_match_as_the_protocol_says() {
        let globs = Globs::compile(&list(&["site-?/*.temp", "[a-c]x", "{gw,pi}-0*", "plain"])).unwrap();
        for name in ["site-1/a/b.temp", "bx", "gw-01", "pi-0", "plain"] {
            assert!(globs.matches(name), "{name}");
        }
        for name in ["site-12/a.temp", "dx", "gw-1", "plain2", "", "Plain"] {
            assert!(!globs.matches(name), "{name}");
        }
    }

    /// As in the client (clients/typescript/test/pieces.test.ts): where both do not agree, a subscription is sent what it does not take.
    #[test]
    fn brackets_as_in_the_client() {
        for (glob, matching, others) in [
            ("[]a]", &["]", "a"][..], &["b", "]a", ""][..]),
            ("[!]a]", &["b", "!"], &["]", "a", "b]", ""]),
            ("[^]a]x", &["bx"], &["]x", "ax", "x"]),
            ("[!a-c]", &["d", "!"], &["a", "c"]),
            ("[a-]", &["a", "-"], &["b"]),
        ] {
            let globs = Globs::compile(&list(&[glob])).unwrap();
            for name in matching {
                assert!(globs.matches(name), "{glob} {name}");
            }
            for name in others {
                assert!(!globs.matches(name), "{glob} {name}");
            }
        }
        assert!(Globs::compile(&list(&["[]"])).is_err() && Globs::compile(&list(&["[!]"])).is_err());
    }

    #[test]
    fn empty_means_all_for_a_subscription_and_nothing_for_a_token() {
        assert!(Globs::or_all(&[]).unwrap().matches("x"));
        assert!(!Globs::compile(&[]).unwrap().matches("x"));
        assert!(!Globs::none().matches("x"));
    }

    #[test]
    fn limits_and_nonsense_are_refused() {
        assert!(Globs::compile(&vec!["*".to_string(); 65]).unwrap_err().is_limit());
        assert!(Globs::compile(&["x".repeat(257)]).unwrap_err().is_limit());
        let error = Globs::compile(&list(&["a[b"])).unwrap_err();
        assert!(
            !error.is_limit() && error.to_string().starts_with("glob \"a[b\":"),
            "{error}"
        );
    }

    #[test]
    fn one_filter_has_one_number_in_whatever_order_it_is_said() {
        let filters = Filters::default();
        let first = filters.get(&list(&["b", "a", "b"]), 0).unwrap();
        assert!(Arc::ptr_eq(&first, &filters.get(&list(&["a", "b"]), 0).unwrap()));
        assert_eq!(
            first.number,
            Filters::default().get(&list(&["a", "b"]), 0).unwrap().number,
            "on every gateway"
        );
        assert_ne!(first.number, filters.get(&list(&["ab"]), 0).unwrap().number);
        assert_ne!(first.number, filters.get(&list(&["a", "b"]), 1).unwrap().number);
    }

    #[test]
    fn no_filter_is_number_0_and_its_copies_are_not() {
        let filters = Filters::default();
        assert_eq!(filters.get(&[], 0).unwrap().number, 0);
        let copy = filters.get(&[], 1).unwrap();
        assert!(copy.number != 0 && copy.metrics.is_all());
    }

    #[test]
    fn two_filters_of_one_hash_get_two_numbers() {
        let filters = Filters::default();
        let a = filters.get(&list(&["a"]), 0).unwrap();
        // As if "b" hashed to what "a" does.
        let number = hash(&list(&["b"]), 0);
        let planted = Known {
            key: (list(&["a"]), 0),
            filter: Arc::downgrade(&a),
        };
        filters.known.lock().unwrap().insert(number, planted);
        assert_eq!(
            filters.get(&list(&["b"]), 0).unwrap().number,
            number.wrapping_add(1)
        );
    }
}
