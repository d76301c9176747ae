//! A trace's rows, one at a time, from a file or from memory.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::sync::Arc;

use headwater_proto::{Value, name};

use super::Reading;
use crate::config::{self, ReplaySource};
use crate::error::SourceError;
use crate::source::Metric;

/// Wrong fields named in the log, for each pass; the rest is only counted.
const NAMED: u64 = 3;

/// The longest line, bytes.
const LINE_MAX: usize = 1 << 20;

/// What it reads, as long as it is lines: a file without line ends must not be taken into memory.
struct Lines<R> {
    inner: R,
    /// Since the last line end.
    length: usize,
}

impl<R> Lines<R> {
    fn new(inner: R) -> Self {
        Self { inner, length: 0 }
    }
}

impl<R: Read> Read for Lines<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        for piece in buffer[..read].split_inclusive(|byte| *byte == b'\n') {
            self.length += piece.len();
            if self.length > LINE_MAX {
                let why = format!("a line is longer than {LINE_MAX} bytes; is this a trace?");
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            if piece.ends_with(b"\n") {
                self.length = 0;
            }
        }
        Ok(read)
    }
}

/// One row.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) time_us: i64,
    pub(super) readings: Vec<Reading>,
}

/// An open trace.
pub(super) struct Trace {
    origin: String,
    rows: csv::Reader<Box<dyn Read + Send>>,
    record: csv::StringRecord,
    time: usize,
    /// A metric for each column; `None` for the time.
    metrics: Vec<Option<Arc<Metric>>>,
    wrong: u64,
}

impl Trace {
    /// Opens a trace and reads its header.
    pub(super) fn open(settings: &ReplaySource) -> Result<Self, SourceError> {
        let (origin, bytes): (_, Box<dyn Read + Send>) = match &settings.trace {
            config::Trace::File(path) => {
                let file = File::open(path).map_err(|source| SourceError::Read {
                    path: path.clone(),
                    source,
                })?;
                // It is read to its end before the start, and again and again.
                if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
                    let why = "it is no regular file".to_string();
                    let origin = path.display().to_string();
                    return Err(SourceError::Content { origin, why });
                }
                (path.display().to_string(), Box::new(Lines::new(file)))
            }
            config::Trace::Text(Cow::Borrowed(text)) => ("trace".to_string(), Box::new(text.as_bytes())),
            config::Trace::Text(Cow::Owned(text)) => (
                "trace".to_string(),
                Box::new(Cursor::new(text.clone().into_bytes())),
            ),
        };
        let mut rows = csv::ReaderBuilder::new()
            .flexible(true)
            .trim(csv::Trim::All)
            .from_reader(bytes);
        let content = |why: String| SourceError::Content {
            origin: origin.clone(),
            why,
        };
        let header = rows
            .headers()
            .map_err(|error| content(error.to_string()))?
            .clone();
        let time = header
            .iter()
            .position(|column| column == "time_ms")
            .ok_or_else(|| content("there is no column `time_ms` in its first line".into()))?;
        if header.len() < 2 {
            return Err(content("there is no column but `time_ms`".into()));
        }
        let mut metrics = Vec::with_capacity(header.len());
        for (index, column) in header.iter().enumerate() {
            if index == time {
                metrics.push(None);
                continue;
            }
            name::check_metric(column).map_err(|error| content(format!("column {}: {error}", index + 1)))?;
            let unit = settings.units.get(column).cloned().unwrap_or_default();
            metrics.push(Some(Metric::new(format!("{}{column}", settings.prefix), unit)));
        }
        Ok(Self {
            origin,
            rows,
            record: csv::StringRecord::new(),
            time,
            metrics,
            wrong: 0,
        })
    }

    /// The file, or "trace".
    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    /// The next row that has a time and at least one reading. What cannot be read in a row is named in the log and left
    /// out.
    pub(super) fn next(&mut self) -> Result<Option<Row>, SourceError> {
        loop {
            let more = self.rows.read_record(&mut self.record).map_err(|error| {
                let line = self.rows.position().line();
                let origin = format!("{}, line {line}", self.origin);
                SourceError::Content {
                    origin,
                    why: error.to_string(),
                }
            })?;
            if !more {
                if self.wrong > NAMED {
                    log::warn!("{}: {} fields in all could not be read", self.origin, self.wrong);
                }
                return Ok(None);
            }
            let time = self.record.get(self.time).unwrap_or_default();
            // Whole milliseconds or a decimal of them.
            let time_us = match time.parse::<i64>() {
                Ok(milliseconds) => milliseconds.checked_mul(1_000),
                Err(_) => time
                    .parse::<f64>()
                    .ok()
                    .map(|milliseconds| (milliseconds * 1e3).round())
                    .filter(|us| us.abs() < 9e18)
                    .map(|us| us as i64),
            };
            let Some(time_us) = time_us else {
                wrong(&mut self.wrong, &self.origin, &self.record, "time_ms", time);
                continue;
            };
            let mut readings = Vec::with_capacity(self.metrics.len());
            for (field, metric) in self.record.iter().zip(&self.metrics) {
                let Some(metric) = metric else { continue };
                if field.is_empty() {
                    continue;
                }
                match field.parse::<f64>() {
                    Ok(value) => readings.push(Reading::new(metric.clone(), Value::F64(value))),
                    Err(_) => wrong(&mut self.wrong, &self.origin, &self.record, &metric.name, field),
                }
            }
            if !readings.is_empty() {
                return Ok(Some(Row { time_us, readings }));
            }
        }
    }
}

fn wrong(count: &mut u64, origin: &str, record: &csv::StringRecord, column: &str, field: &str) {
    *count += 1;
    if *count <= NAMED {
        let line = record.position().map_or(0, csv::Position::line);
        log::warn!("{origin}, line {line}: `{column}` is {field:?}, which is no number; left out");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(text: &'static str) -> Trace {
        let settings = ReplaySource {
            trace: config::Trace::Text(text.into()),
            prefix: "p.".into(),
            units: [("a".to_string(), "Cel".to_string())].into(),
            ..Default::default()
        };
        Trace::open(&settings).unwrap()
    }

    #[test]
    fn what_cannot_be_read_is_left_out_and_the_rest_stays() {
        let mut trace = open("a,time_ms,b\n1,1000,2\nx,2000,3\n4,later,5\n6\n7,3000.5,8,9\n");
        let mut rows = Vec::new();
        while let Some(row) = trace.next().unwrap() {
            let readings = row
                .readings
                .iter()
                .map(|reading| (reading.metric.name.clone(), reading.value.clone()));
            rows.push((row.time_us, readings.collect::<Vec<_>>()));
        }
        let reading = |name: &str, value| (format!("p.{name}"), Value::F64(value));
        assert_eq!(
            rows,
            [
                (1_000_000, vec![reading("a", 1.0), reading("b", 2.0)]),
                (2_000_000, vec![reading("b", 3.0)]),
                (3_000_500, vec![reading("a", 7.0), reading("b", 8.0)]),
            ]
        );
        assert_eq!(trace.wrong, 3);
        assert_eq!(trace.metrics[0].as_ref().unwrap().unit, "Cel");
    }

    #[test]
    fn what_has_no_lines_is_refused_and_not_taken_into_memory() {
        let open = |path: &std::path::Path| {
            let settings = ReplaySource {
                trace: config::Trace::File(path.to_path_buf()),
                ..Default::default()
            };
            Trace::open(&settings).err().unwrap().to_string()
        };
        let error = open(std::path::Path::new("/dev/zero"));
        assert!(error.contains("/dev/zero: it is no regular file"), "{error}");
        let zeros = tempfile::NamedTempFile::new().unwrap();
        zeros.as_file().set_len(1 << 40).unwrap();
        let error = open(zeros.path());
        assert!(error.contains("a line is longer than 1048576 bytes"), "{error}");
        let mut lines = Lines::new(&b"a\nb\n"[..]);
        lines.length = LINE_MAX - 2;
        assert_eq!(io::read_to_string(lines).unwrap(), "a\nb\n");
    }

    #[test]
    fn every_trace_of_the_bench_is_read_to_its_end() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../bench/data");
        let mut traces = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "csv") {
                let lines = std::fs::read_to_string(&path).unwrap().lines().count();
                let settings = ReplaySource {
                    trace: config::Trace::File(path),
                    ..Default::default()
                };
                let mut trace = Trace::open(&settings).unwrap();
                let mut rows = 0;
                while trace.next().unwrap().is_some() {
                    rows += 1;
                }
                assert_eq!((rows, trace.wrong), (lines - 1, 0), "{}", trace.origin());
                traces += 1;
            }
        }
        assert_eq!(traces, 7);
    }
}
