//! Tables whose keys are patterns.

use wildmatch::WildMatch;

/// Patterns, each with what it stands for; the longest that fits counts.
#[derive(Clone, Debug)]
pub(crate) struct Patterns<T>(Vec<(WildMatch, T)>);

impl<T> Patterns<T> {
    pub(crate) fn new<'a>(entries: impl IntoIterator<Item = (&'a String, T)>) -> Self {
        let mut entries: Vec<_> = entries
            .into_iter()
            .map(|(pattern, value)| (WildMatch::new(pattern), value))
            .collect();
        entries.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.pattern_chars().len()));
        Self(entries)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the longest pattern that fits the key or the name stands for.
    pub(crate) fn find(&self, key: &str, name: &str) -> Option<&T> {
        self.0
            .iter()
            .find(|(pattern, _)| pattern.matches(key) || pattern.matches(name))
            .map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_pattern_that_fits_counts() {
        let [all, power, exact] = ["*", "*.Power", "ENERGY.Power"].map(String::from);
        let patterns = Patterns::new([(&all, 1), (&exact, 3), (&power, 2)]);
        assert_eq!(patterns.find("ENERGY.Power", ""), Some(&3));
        assert_eq!(patterns.find("A.Power", ""), Some(&2));
        assert_eq!(patterns.find("x", "plug.ENERGY.Power"), Some(&2));
        assert_eq!(patterns.find("x", "y"), Some(&1));
    }
}
