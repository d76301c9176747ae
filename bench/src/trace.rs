//! A trace: a CSV file of `time_ms` and a column per metric, cut into batches.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use headwater_proto::{Column, Readings, Series, SeriesSet, ValueType, Values};

/// A file's rows.
#[derive(Debug)]
pub struct Trace {
    /// The file's name without folder.
    pub name: String,
    /// The metrics' names, in the file's order.
    pub metrics: Vec<String>,
    /// The rows.
    pub rows: Vec<Row>,
}

/// One row.
#[derive(Debug)]
pub struct Row {
    /// Milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// A field per metric.
    pub fields: Vec<Option<Field>>,
}

/// A reading as it stands in the file.
#[derive(Clone, Debug)]
pub struct Field {
    /// The value.
    pub value: f64,
    /// How it is written, for what a decimal codec can make of it.
    pub text: String,
}

/// The traces that come with the repository.
pub fn own() -> Result<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "csv") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Reads a trace.
///
/// # Errors
/// What is wrong with the file, with its line.
pub fn read(path: &Path) -> Result<Trace> {
    let mut reader = csv::Reader::from_path(path).with_context(|| path.display().to_string())?;
    let header = reader.headers()?.clone();
    if header.get(0) != Some("time_ms") {
        bail!("{}: the first column must be called time_ms", path.display());
    }
    let metrics = header.iter().skip(1).map(str::to_owned).collect();
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.with_context(|| path.display().to_string())?;
        let line = record.position().map_or(0, csv::Position::line);
        let at = |what: &str| format!("{}, line {line}: {what:?} is not a number", path.display());
        let time_ms = record[0].parse().with_context(|| at(&record[0]))?;
        let field = |text: &str| match text {
            "" => Ok(None),
            text => {
                let value = text.parse().with_context(|| at(text))?;
                Ok(Some(Field {
                    value,
                    text: text.to_owned(),
                }))
            }
        };
        let fields = record.iter().skip(1).map(field).collect::<Result<_>>()?;
        rows.push(Row { time_ms, fields });
    }
    let name = path
        .file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    Ok(Trace { name, metrics, rows })
}

impl Trace {
    /// The first metric alone.
    pub fn first_metric(&self) -> Self {
        let field = |row: &Row| row.fields.first().cloned().flatten();
        let rows = self.rows.iter().map(|row| Row {
            time_ms: row.time_ms,
            fields: vec![field(row)],
        });
        Self {
            name: self.name.clone(),
            metrics: self.metrics.iter().take(1).cloned().collect(),
            rows: rows.collect(),
        }
    }

    /// The series set under which its batches are sealed.
    pub fn series(&self) -> SeriesSet {
        let series = self.metrics.iter().map(|metric| Series {
            metric: metric.clone(),
            unit: String::new(),
            value_type: ValueType::F64,
        });
        SeriesSet::new(series.collect(), 0)
    }
}

/// The number of readings in some rows.
pub fn count(rows: &[Row]) -> usize {
    rows.iter().map(|row| row.fields.iter().flatten().count()).sum()
}

/// Some rows in Headwater's model. Metrics present at the same times share a time column.
pub fn readings(metrics: &[String], rows: &[Row]) -> Readings {
    let mut readings = Readings::default();
    for (index, metric) in metrics.iter().enumerate() {
        let mut times = Vec::with_capacity(rows.len());
        let mut values = Vec::with_capacity(rows.len());
        for row in rows {
            if let Some(field) = &row.fields[index] {
                times.push(row.time_ms * 1000);
                values.push(field.value);
            }
        }
        if values.is_empty() {
            continue;
        }
        let place = readings
            .times
            .iter()
            .position(|column| *column == times)
            .unwrap_or_else(|| {
                readings.times.push(times);
                readings.times.len() - 1
            });
        readings.columns.push(Column {
            metric: metric.clone(),
            unit: String::new(),
            times: place as u32,
            values: Values::F64(values),
            suspect: Vec::new(),
        });
    }
    readings
}
