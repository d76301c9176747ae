//! Files outside the presets: a path with wildcards, a metric's name with places for what they stood for.

use std::path::{Path, PathBuf};

use wildmatch::WildMatch;

use super::place::{clean, entries};
use super::presets::Scan;
use super::sensor::Probe;
use crate::config::{SysfsFile, SysfsParse};
use crate::error::SourceError;
use crate::source::scale::Scale;

/// The most files that one path may stand for.
const MOST: usize = 1000;

/// One entry of the settings, checked.
#[derive(Clone, Debug)]
pub(super) struct Free {
    settings: SysfsFile,
    scale: Scale,
}

impl Free {
    pub(super) fn check(settings: &SysfsFile) -> Result<Self, SourceError> {
        let refused = |key: &'static str, why: String| Err(SourceError::Setting { key, why });
        let path = Path::new(&settings.path);
        let relative = path
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)));
        if settings.path.is_empty() || !relative {
            let why = format!(
                "{:?} is not a path below the root, such as \"class/power_supply/*/capacity\"",
                settings.path
            );
            return refused("file.path", why);
        }
        if let Err(error) = headwater_proto::name::check_metric(&settings.metric) {
            return refused("file.metric", error.to_string());
        }
        let wildcards = settings.path.split('/').filter(|part| is_pattern(part)).count();
        if let Some(number) =
            (wildcards + 1..=wildcards + 9).find(|number| settings.metric.contains(&format!("{{{number}}}")))
        {
            let why = format!(
                "{{{number}}} stands for nothing: {:?} has {wildcards} name(s) with a wildcard",
                settings.path
            );
            return refused("file.metric", why);
        }
        let scale = match Scale::from_settings(settings.scale, settings.offset) {
            Ok(scale) => scale,
            Err(value) => {
                return refused(
                    "file.scale",
                    format!("{value} is not a decimal of at most 18 digits"),
                );
            }
        };
        if settings.parse != SysfsParse::Number && !scale.is_identity() {
            let why = "only numbers can be scaled; leave out scale and offset, or set parse = \"number\"";
            return refused("file.parse", why.into());
        }
        Ok(Self {
            settings: settings.clone(),
            scale,
        })
    }

    pub(super) fn scan(&self, scan: &mut Scan<'_>) {
        let mut found = Vec::new();
        walk(scan.root, &self.settings.path, &mut Vec::new(), &mut found);
        for (path, stood_for) in found {
            let mut name = self.settings.metric.clone();
            for (part, number) in stood_for.iter().zip(1..) {
                name = name.replace(&format!("{{{number}}}"), &clean(part));
            }
            let after = self.settings.after.clone();
            let probe = match self.settings.parse {
                SysfsParse::Number => Probe::Number {
                    path,
                    after,
                    scale: self.scale.clone(),
                    fault: None,
                },
                parse => Probe::Other { path, after, parse },
            };
            scan.add(&name, &self.settings.unit, probe);
        }
    }
}

fn is_pattern(part: &str) -> bool {
    part.contains(['*', '?'])
}

fn walk(dir: &Path, pattern: &str, stood_for: &mut Vec<String>, found: &mut Vec<(PathBuf, Vec<String>)>) {
    let (part, rest) = pattern
        .split_once('/')
        .map_or((pattern, None), |(part, rest)| (part, Some(rest)));
    let mut step = |path: &Path, stood_for: &mut Vec<String>| match rest {
        Some(rest) => walk(path, rest, stood_for, found),
        None if path.is_file() && found.len() < MOST => found.push((path.to_path_buf(), stood_for.clone())),
        None => {}
    };
    if !is_pattern(part) {
        return step(&dir.join(part), stood_for);
    }
    let pattern = WildMatch::new(part);
    for (name, path) in entries(dir) {
        if pattern.matches(&name) {
            stood_for.push(name);
            step(&path, stood_for);
            stood_for.pop();
        }
    }
}
