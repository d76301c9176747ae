//! Names that stay: the kernel numbers its class devices (`hwmon3`) in the order in which drivers came up, which changes from
//! one start to the next. What stays is where a part is connected: its address on a bus (`1-0048`, `0000:01:00.0`).

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::sensor::text;

/// Where the hardware behind `start` is connected: the name of the nearest device above it that is on a bus, except on the
/// bus `not_on`, whose names are numbers too. `None` for what is no hardware, or is not under `root`.
pub(super) fn place(start: &Path, root: &Path, not_on: &str) -> Option<String> {
    let root = root.canonicalize().ok()?;
    let start = start.canonicalize().ok()?;
    start
        .ancestors()
        .take_while(|dir| dir.starts_with(&root) && **dir != *root)
        .find(|dir| {
            let Ok(subsystem) = dir.join("subsystem").read_link() else {
                return false;
            };
            let mut names = subsystem.iter().rev();
            let name = names.next();
            names.next().is_some_and(|kind| kind == "bus") && name.is_some_and(|name| name != not_on)
        })
        .and_then(|dir| Some(clean(&dir.file_name()?.to_string_lossy())))
}

/// A text as a part of a metric's name: lower case; letters, digits, `-`, `:` and `_` stay, anything else is `_`.
pub(super) fn clean(text: &str) -> String {
    let mut name = String::new();
    for c in text.trim().chars().flat_map(char::to_lowercase).take(64) {
        if c.is_alphanumeric() || c == '-' || c == ':' {
            name.push(c);
        } else if !name.ends_with('_') {
            name.push('_');
        }
    }
    let name = name.trim_matches('_');
    match name {
        "" => "unnamed".to_string(),
        name => name.to_string(),
    }
}

/// The name in a file, cleaned; `None` where there is no such file, or nothing in it.
pub(super) fn named(path: &Path) -> Option<String> {
    text(path).ok().map(|text| clean(&text))
}

/// The parts that there are, with dots between them.
pub(super) fn dotted<'a>(parts: impl IntoIterator<Item = Option<&'a str>>) -> String {
    parts.into_iter().flatten().collect::<Vec<_>>().join(".")
}

/// The entries of a directory, by name, so that each scan goes the same way; numbers in names count as numbers.
pub(super) fn entries(dir: &Path) -> Vec<(String, PathBuf)> {
    let Ok(read) = dir.read_dir() else {
        return Vec::new();
    };
    let mut entries: Vec<_> = read
        .flatten()
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
        .collect();
    entries.sort_by_cached_key(|(name, _)| {
        let digits = name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = name[digits..].parse().unwrap_or(0);
        (name[..digits].to_string(), number, name.clone())
    });
    entries
}

/// Names given in one scan. Two parts that cannot be told apart by their labels and places get numbers.
#[derive(Default)]
pub(super) struct Names(HashSet<String>);

impl Names {
    pub(super) fn give(&mut self, name: &str) -> String {
        let mut given = name.to_string();
        let mut number = 1;
        while !self.0.insert(given.clone()) {
            number += 1;
            given = format!("{name}_{number}");
        }
        given
    }
}
