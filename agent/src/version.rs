//! Which version this program is, and which of two is newer.

use std::cmp::Ordering;
use std::sync::OnceLock;

static VERSION: OnceLock<&'static str> = OnceLock::new();

/// The program says which version it is, where that is not this crate's: so one of another version, which the tests of updates need, costs a
/// build the compiling of `main.rs`, and no more. Once, before anything else.
pub fn of_program(version: &'static str) {
    // A second call changes nothing.
    let _ = VERSION.set(version);
}

/// The version of the program that runs.
pub fn current() -> &'static str {
    VERSION.get().copied().unwrap_or(env!("CARGO_PKG_VERSION"))
}

/// A version as Semantic Versioning 2.0.0 has it; what stands behind `+` says nothing of order, and is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version<'a> {
    numbers: [u64; 3],
    /// Empty: a release.
    early: &'a str,
}

impl<'a> Version<'a> {
    /// `None`: it is none.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-+".contains(&byte);
        if text.len() > 64 || !text.bytes().all(plain) {
            return None;
        }
        let text = text.split('+').next()?;
        let (numbers, early) = text.split_once('-').unwrap_or((text, ""));
        let mut parts = numbers.split('.').map(number);
        let numbers = [parts.next()??, parts.next()??, parts.next()??];
        parts.next().is_none().then_some(Self { numbers, early })
    }
}

fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

impl Ord for Version<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let early = || match (self.early, other.early) {
            (mine, its) if mine == its => Ordering::Equal,
            ("", _) => Ordering::Greater,
            (_, "") => Ordering::Less,
            (mine, its) => {
                // Numbers come before words; of two that begin alike the longer is the later.
                let key = |part| match number(part) {
                    Some(number) => (0, number, ""),
                    None => (1, 0, part),
                };
                mine.split('.').map(key).cmp(its.split('.').map(key))
            }
        };
        self.numbers.cmp(&other.numbers).then_with(early)
    }
}

impl PartialOrd for Version<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Whether `one` is newer than `other`; what is no version is newer than none.
pub(crate) fn is_newer(one: &str, other: &str) -> bool {
    match (Version::parse(one), Version::parse(other)) {
        (Some(one), Some(other)) => one > other,
        (one, _) => one.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_the_specification_has_them() {
        // Semantic Versioning 2.0.0, section 11, and what lies between.
        let ascending = [
            "0.1.0",
            "0.9.12",
            "0.10.0-rc.1",
            "0.10.0",
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0-rc.1",
            "1.0.0",
            "2.0.0",
            "2.1.0",
            "2.1.1",
        ];
        for (at, one) in ascending.iter().enumerate() {
            for (other_at, other) in ascending.iter().enumerate() {
                assert_eq!(is_newer(one, other), at > other_at, "{one} {other}");
            }
        }
        assert!(!is_newer("1.0.0+b", "1.0.0+a") && !is_newer("1.0.0", "1.0.0"));
    }

    #[test]
    fn what_is_no_version_is_newer_than_none() {
        for bad in [
            "", "1", "1.0", "1.0.0.0", "v1.0.0", "1.0.x", "1.-1.0", "+1.0.0", "1.0.0 ", "1..0",
        ] {
            assert!(Version::parse(bad).is_none(), "{bad}");
            assert!(!is_newer(bad, "0.1.0"), "{bad}");
            assert!(is_newer("0.1.0", bad), "{bad}");
        }
    }
}
