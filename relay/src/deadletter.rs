//! `headwater-relay deadletter`: what could not be taken in, as an operator looks at it and, where its cause is gone, tries it again.
//!
//! - [`letter`]: a record of `headwater.deadletter`, and what of it can be decoded now. Pure.
//! - [`scan`]: reads the topic, from a time or its beginning to its end.
//! - [`retry`]: writes the readings of letters to telemetry, each letter once.

pub mod letter;
pub mod retry;
pub mod scan;

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::SystemTime;

use clap::{Args, Subcommand};
use rdkafka::error::KafkaError;
use serde_json::json;

use crate::kafka::{self, KafkaSettings};
use crate::settings::Settings;
use letter::{Letter, Place};

/// Bytes that `show` prints unless told otherwise.
const SHOWN: usize = 256;

/// What to do.
#[derive(Subcommand, Clone, Debug)]
pub enum Options {
    /// Lists dead letters, the newest last.
    List {
        /// Which.
        #[command(flatten)]
        filter: Filter,
        /// So many at most, the newest.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        limit: u32,
        /// Print a JSON object a letter.
        #[arg(long)]
        json: bool,
    },
    /// Shows one: its headers, its bytes, and what this version of the relay makes of it.
    Show {
        /// The letter, as `list` names it: PARTITION:OFFSET.
        letter: Place,
        /// Write its bytes to this file instead; `-` is standard output.
        #[arg(long, value_name = "FILE")]
        raw: Option<PathBuf>,
        /// Show all its bytes, not the first 256.
        #[arg(long)]
        all: bool,
        /// Print a JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Takes letters in whose cause is gone: a limit of bridge.limits that was raised, a version that can read more.
    ///
    /// A letter that holds a batch of readings and can be decoded now is written to telemetry as a stream of its own (its id is made of
    /// the letter's place, its seq is 1), for in the stream it came in a loss record stands in its place, and stays. In the same transaction it is
    /// noted among the dead letters that it was retried: so however often it is asked for, by whomever, each letter is taken in once. Its time of
    /// arrival is now; the readings keep their own times. What cannot be taken in stays as it is, with the reason printed.
    Retry {
        /// Letters, as `list` names them: PARTITION:OFFSET.
        #[arg(required_unless_present = "every")]
        letters: Vec<Place>,
        /// All that the filters let through, and that were not retried.
        #[arg(long, conflicts_with = "letters")]
        every: bool,
        /// Which.
        #[command(flatten)]
        filter: Filter,
        /// Say what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

/// Which letters.
#[derive(Args, Clone, Debug, Default)]
pub struct Filter {
    /// Those of this device.
    #[arg(long)]
    pub device: Option<String>,
    /// Those whose reason contains this text.
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Those not older than this (`2h`, `7days`), or from this time on (`2026-11-22T10:00:00Z`).
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub since: Option<SystemTime>,
}

impl Filter {
    fn lets(&self, letter: &Letter) -> bool {
        self.device.as_ref().is_none_or(|device| *device == letter.device)
            && self
                .reason
                .as_ref()
                .is_none_or(|text| letter.reason.contains(text))
            && self.since.is_none_or(|since| letter.time >= since)
    }
}

pub(crate) fn since(text: &str) -> Result<SystemTime, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        let time = SystemTime::now().checked_sub(ago);
        return time.ok_or_else(|| format!("{text} ago is before all time"));
    }
    humantime::parse_rfc3339_weak(text)
        .map_err(|_| format!("{text:?} is neither a duration (2h, 7days) nor a time (2026-11-22T10:00:00Z)"))
}

/// What can go wrong. Each message is whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Kafka, or what is set of it.
    #[error(transparent)]
    Kafka(#[from] kafka::Error),
    /// There is no such letter.
    #[error(
        "there is no dead letter {0}: look at `headwater-relay deadletter list`; Kafka may have deleted it by its age"
    )]
    NoLetter(Place),
    /// Kafka does not let us read or write.
    #[error("{what} {topic}: {why}")]
    Refused {
        /// What was tried.
        what: &'static str,
        /// The topic.
        topic: String,
        /// What Kafka says.
        why: KafkaError,
    },
    /// A file cannot be written.
    #[error("{}: {why}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// Standard output is closed.
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

/// Does it. Returns whether all that was asked for was done. Blocks.
///
/// # Errors
/// [`Error`].
pub fn run(options: &Options, settings: &Settings) -> Result<bool, Error> {
    settings.kafka.check()?;
    match options {
        Options::List { filter, limit, json } => list(&settings.kafka, filter, *limit as usize, *json),
        Options::Show {
            letter,
            raw,
            all,
            json,
        } => show(settings, *letter, raw.as_ref(), *all, *json),
        Options::Retry {
            letters,
            filter,
            dry_run,
            ..
        } => retry::run(settings, letters, filter, *dry_run),
    }
}

/// What `list` keeps of a letter.
struct Line {
    letter: Letter,
    size: usize,
    retried: bool,
}

fn list(kafka: &KafkaSettings, filter: &Filter, limit: usize, json: bool) -> Result<bool, Error> {
    let mut lines: VecDeque<Line> = VecDeque::new();
    let (mut seen, mut counted) = (0u64, 0u64);
    scan::scan(kafka, filter.since, |record| match record {
        scan::Record::Letter(mut letter) => {
            seen += 1;
            if filter.lets(&letter) {
                counted += 1;
                let size = letter.length();
                // Only what is printed is kept.
                letter.forget_bytes();
                if lines.len() >= limit {
                    lines.pop_front();
                }
                lines.push_back(Line {
                    letter: *letter,
                    size,
                    retried: false,
                });
            }
        }
        scan::Record::Retried(place) => {
            if let Some(line) = lines.iter_mut().find(|line| line.letter.place == place) {
                line.retried = true;
            }
        }
    })?;
    lines
        .make_contiguous()
        .sort_by_key(|line| (line.letter.time, line.letter.place));
    let mut out = io::stdout().lock();
    if json {
        for Line {
            letter,
            size,
            retried,
        } in &lines
        {
            let line = json!({
                "letter": letter.place.to_string(), "time": letter.time(), "device": letter.device, "topic": letter.topic,
                "bytes": size, "reason": letter.reason, "retried": retried,
            });
            writeln!(out, "{line}")?;
        }
        return Ok(true);
    }
    if lines.is_empty() {
        writeln!(
            out,
            "no dead letter{}",
            if seen > 0 {
                " that the filters let through"
            } else {
                ""
            }
        )?;
        return Ok(true);
    }
    let width =
        |text: &dyn Fn(&Line) -> usize, least: usize| lines.iter().map(text).max().unwrap_or(0).max(least);
    let place = width(&|line| line.letter.place.to_string().len(), 6);
    let device = width(&|line| line.letter.device.len(), 6);
    writeln!(
        out,
        "{:place$}  {:20}  {:device$}  {:>9}  {:7}  REASON",
        "LETTER", "TIME", "DEVICE", "BYTES", "RETRIED"
    )?;
    for Line {
        letter,
        size,
        retried,
    } in &lines
    {
        writeln!(
            out,
            "{:place$}  {:20}  {:device$}  {size:>9}  {:7}  {}",
            letter.place.to_string(),
            letter.time(),
            letter.device,
            if *retried { "yes" } else { "no" },
            letter.reason
        )?;
    }
    if counted > lines.len() as u64 {
        writeln!(out, "the newest {} of {counted}: --limit shows more", lines.len())?;
    }
    Ok(true)
}

fn show(
    settings: &Settings,
    place: Place,
    raw: Option<&PathBuf>,
    all: bool,
    json: bool,
) -> Result<bool, Error> {
    let letter = scan::one(&settings.kafka, place)?.ok_or(Error::NoLetter(place))?;
    let mut out = io::stdout().lock();
    if let Some(path) = raw {
        if path.as_os_str() == "-" {
            out.write_all(&letter.payload)?;
            return Ok(true);
        }
        std::fs::write(path, &letter.payload).map_err(|why| Error::File {
            path: path.clone(),
            why,
        })?;
        return Ok(true);
    }
    let limits = settings.bridge.limits.codec();
    let shown = if all {
        letter.payload.len()
    } else {
        SHOWN.min(letter.payload.len())
    };
    if json {
        let hex: String = letter.payload[..shown]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let letter = json!({
            "letter": place.to_string(), "time": letter.time(), "device": letter.device, "topic": letter.topic, "reason": letter.reason,
            "bytes": letter.length(), "kept": letter.payload.len(), "stream": letter.stream, "seq": letter.seq,
            "source": letter.source, "hex": hex, "now": letter.told(&limits),
        });
        writeln!(out, "{letter}")?;
        return Ok(true);
    }
    writeln!(out, "letter  {place}")?;
    writeln!(out, "time    {}", letter.time())?;
    writeln!(out, "device  {}", letter.device)?;
    writeln!(out, "topic   {}", letter.topic)?;
    if let Some(source) = &letter.source {
        writeln!(out, "record  {source}")?;
    }
    if let (Some(stream), Some(seq)) = (&letter.stream, &letter.seq) {
        writeln!(out, "batch   stream {stream}, seq {seq}")?;
    }
    writeln!(out, "reason  {}", letter.reason)?;
    let (length, kept) = (letter.length(), letter.payload.len());
    let cut = if length > kept {
        format!(", of which {kept} were kept")
    } else {
        String::new()
    };
    writeln!(out, "bytes   {length}{cut}")?;
    writeln!(out, "now     {}", letter.told(&limits))?;
    writeln!(out)?;
    for (at, row) in letter.payload[..shown].chunks(16).enumerate() {
        let hex: String = row.iter().map(|byte| format!("{byte:02x} ")).collect();
        let text: String = row
            .iter()
            .map(|byte| {
                if (0x20..0x7f).contains(byte) {
                    char::from(*byte)
                } else {
                    '.'
                }
            })
            .collect();
        writeln!(out, "{:06x}  {hex:48} {text}", at * 16)?;
    }
    if shown < kept {
        writeln!(out, "… {} bytes more: --all, or --raw FILE", kept - shown)?;
    }
    Ok(true)
}
