//! A journal as another process sees it, beside the agent or without one: nothing is locked, and nothing is changed.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;

use headwater_proto::frame::Frame;
use headwater_proto::{Body, Limits, Readings, Values};
use serde::Serialize;

use super::disk::looking::Looking;
use super::format;
use super::store::{Bounds, Held, Store};
use super::{Content, Record};

/// Read back at once.
const PIECE: usize = 64 * 1024;

/// How readings are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A header, then `stream,seq,time_us,metric,unit,value,suspect`.
    Csv,
    /// A JSON object of the same names for each reading, and one with `lost` for each loss record.
    Json,
}

/// A journal that is looked at.
pub struct View {
    store: Store<Looking>,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").finish_non_exhaustive()
    }
}

/// What became of readings, as [`View::export`] tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Readings written down.
    pub readings: u64,
    /// Readings that loss records speak of, or that cannot be decoded.
    pub lost: u64,
}

impl View {
    /// The journal in a state directory, or in its folder `journal` itself.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let within = dir.join("journal");
        let path = if within.is_dir() {
            within
        } else {
            dir.to_path_buf()
        };
        // An empty list would say that all is well.
        std::fs::read_dir(&path)?;
        let bounds = Bounds {
            segment: 256 * 1024,
            bytes: u64::MAX,
            age_us: None,
        };
        Ok(Self {
            store: Store::open(Looking::new(path), bounds)?,
        })
    }

    /// Writes tables of streams and segments.
    ///
    /// # Errors
    /// What reading or writing meets.
    pub fn inspect(&mut self, out: &mut impl Write) -> io::Result<()> {
        let held: Vec<Held> = self.store.held().collect();
        writeln!(
            out,
            "stream            acknowledged  last      records   readings  lost      bytes       oldest"
        )?;
        for stream in &held {
            let waiting = stream.waiting;
            let state = if stream.ended { "" } else { "  (open, or torn)" };
            writeln!(
                out,
                "{:016x}  {:<12}  {:<8}  {:<8}  {:<8}  {:<8}  {:<10}  {}{state}",
                stream.stream,
                stream.acked,
                stream.last,
                waiting.batches,
                waiting.readings,
                waiting.lost,
                waiting.bytes,
                time(waiting.oldest_us),
            )?;
        }
        writeln!(out)?;
        writeln!(
            out,
            "segment           used      records   readings  bad  streams"
        )?;
        for id in self.store.segments() {
            let segment = self.store.look(id)?;
            let mut streams: Vec<(u64, u64, u64)> = Vec::new();
            for entry in &segment.entries {
                match streams.iter_mut().find(|stream| stream.0 == entry.stream) {
                    Some(stream) => stream.2 = entry.through,
                    None => streams.push((entry.stream, entry.seq, entry.through)),
                }
            }
            let streams: Vec<String> = streams
                .iter()
                .map(|(stream, first, last)| format!("{stream:016x}: {first}..={last}"))
                .collect();
            let readings: u64 = segment.entries.iter().map(|entry| entry.readings).sum();
            writeln!(
                out,
                "{id:016x}  {:<8}  {:<8}  {readings:<8}  {:<3}  {}",
                segment.used,
                segment.entries.len(),
                segment.bad,
                streams.join(", ")
            )?;
        }
        Ok(())
    }

    /// Checks every record, writes down each place that is damaged, and returns how many there are. What is left of a write that was not
    /// finished is named, and is no damage.
    ///
    /// # Errors
    /// What reading or writing meets.
    pub fn verify(&mut self, out: &mut impl Write) -> io::Result<u64> {
        let (mut damaged, mut unfinished) = (0, 0);
        let mut records = 0;
        let segments = self.store.segments();
        for id in &segments {
            let segment = self.store.look(*id)?;
            records += segment.entries.len();
            let name = format::name(*id);
            let late = segment.places.iter().filter(|place| place.unfinished).count() as u64;
            let nameless = segment.bad - segment.places.len() as u64 - (segment.unfinished - late);
            for place in &segment.places {
                if place.unfinished {
                    unfinished += 1;
                    writeln!(out, "{name}: a write that was not finished, at byte {}", place.at)?;
                    continue;
                }
                damaged += 1;
                writeln!(out, "{name}: damaged at byte {}", place.at)?;
            }
            if nameless > 0 {
                damaged += nameless;
                writeln!(
                    out,
                    "{name}: {nameless} batch(es) whose series set cannot be read"
                )?;
            }
        }
        for id in self.store.useless() {
            damaged += 1;
            writeln!(out, "{}: nothing of it can be read", format::name(*id))?;
        }
        for held in self.store.held().collect::<Vec<_>>() {
            let mut lost = Vec::new();
            self.each(held, |record| {
                if let Content::Loss(loss) = &record.content
                    && loss.reason == headwater_proto::LossReason::Corrupt
                {
                    lost.push((record.seq, record.through, loss.readings));
                }
                Ok(())
            })?;
            for (seq, through, readings) in lost {
                let what = match self.store.was_unfinished(held.stream, seq, through) {
                    true => "were in a write that was not finished",
                    false => {
                        damaged += 1;
                        "cannot be read"
                    }
                };
                writeln!(
                    out,
                    "stream {:016x}: {seq}..={through} with {readings} readings {what}",
                    held.stream
                )?;
            }
        }
        writeln!(
            out,
            "{} segments, {records} records, {damaged} places damaged, {unfinished} of writes that were not finished",
            segments.len()
        )?;
        Ok(damaged)
    }

    /// Writes down all readings that wait, stream by stream in order.
    ///
    /// # Errors
    /// What reading or writing meets.
    pub fn export(&mut self, form: Form, out: &mut impl Write) -> io::Result<Exported> {
        let mut exported = Exported::default();
        if form == Form::Csv {
            writeln!(out, "stream,seq,time_us,metric,unit,value,suspect")?;
        }
        for held in self.store.held().collect::<Vec<_>>() {
            self.each(held, |record| {
                let lost = match record.content {
                    Content::Batch {
                        ref sealed,
                        ref series,
                        ..
                    } => {
                        let bytes = sealed.frame(1, record.seq);
                        let limits = Limits::default();
                        let body =
                            Frame::parse(&bytes, &limits).and_then(|frame| frame.body(Some(series), &limits));
                        match body {
                            Ok(Body::Readings(readings)) => {
                                exported.readings += readings.len() as u64;
                                return rows(form, held.stream, record.seq, &readings, out);
                            }
                            Ok(Body::Loss(loss)) => loss.readings,
                            Err(error) => {
                                log::error!("batch {} of stream {:016x}: {error}", record.seq, held.stream);
                                0
                            }
                        }
                    }
                    Content::Loss(loss) => loss.readings,
                };
                exported.lost += lost;
                match form {
                    Form::Csv => Ok(()),
                    Form::Json => {
                        let loss = serde_json::json!({
                            "stream": format!("{:016x}", held.stream),
                            "seq": record.seq,
                            "through": record.through,
                            "lost": lost,
                        });
                        writeln!(out, "{loss}")
                    }
                }
            })?;
        }
        Ok(exported)
    }

    /// Every record of a stream that waits.
    fn each(&mut self, held: Held, mut look: impl FnMut(Record) -> io::Result<()>) -> io::Result<()> {
        let mut seq = held.acked + 1;
        while seq <= held.last {
            let (records, _) = self.store.load(held.stream, seq, PIECE)?;
            let Some(last) = records.last() else { break };
            seq = last.through + 1;
            records.into_iter().try_for_each(&mut look)?;
        }
        Ok(())
    }
}

#[derive(Serialize)]
struct Row<'a, V> {
    stream: &'a str,
    seq: u64,
    time_us: i64,
    metric: &'a str,
    unit: &'a str,
    value: V,
    suspect: bool,
}

fn rows(form: Form, stream: u64, seq: u64, readings: &Readings, out: &mut impl Write) -> io::Result<()> {
    let stream = format!("{stream:016x}");
    for column in &readings.columns {
        let times = &readings.times[column.times as usize];
        for (at, time_us) in times.iter().enumerate() {
            let row = Row {
                stream: &stream,
                seq,
                time_us: *time_us,
                metric: &column.metric,
                unit: &column.unit,
                value: (),
                suspect: column.suspect.contains(&(at as u32)),
            };
            match &column.values {
                Values::F64(values) => row.with(values[at]).write(form, out)?,
                Values::I64(values) => row.with(values[at]).write(form, out)?,
                Values::Bool(values) => row.with(values[at]).write(form, out)?,
                Values::String(values) => row.with(values[at].as_str()).write(form, out)?,
            }
        }
    }
    Ok(())
}

impl<'a, V> Row<'a, V> {
    fn with<W>(&self, value: W) -> Row<'a, W> {
        Row {
            stream: self.stream,
            seq: self.seq,
            time_us: self.time_us,
            metric: self.metric,
            unit: self.unit,
            value,
            suspect: self.suspect,
        }
    }
}

impl<V: Serialize + Display> Row<'_, V> {
    fn write(&self, form: Form, out: &mut impl Write) -> io::Result<()> {
        match form {
            Form::Csv => writeln!(
                out,
                "{},{},{},{},{},{},{}",
                self.stream,
                self.seq,
                self.time_us,
                quoted(self.metric),
                quoted(self.unit),
                quoted(&self.value.to_string()),
                self.suspect
            ),
            Form::Json => {
                serde_json::to_writer(&mut *out, self)?;
                writeln!(out)
            }
        }
    }
}

/// A field as RFC 4180 writes it.
fn quoted(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

/// A time, as a table shows it.
fn time(us: i64) -> String {
    match us {
        0 => "-".into(),
        us => crate::calendar::iso(us),
    }
}
