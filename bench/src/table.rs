//! Bytes per reading, side by side, and the targets they are held to.

use anyhow::{Context, Result, ensure};
use headwater_proto::frame::{Compression, Encoding, Frame, Sealer};
use headwater_proto::{Body, Limits};
use prost::Message;

use crate::peers;
use crate::trace::{Trace, count, readings};

/// The forms, in the table's order.
pub const FORMS: [&str; 9] = [
    "JSON, an object a reading",
    "JSON, an object a row",
    "protobuf rows (prost)",
    "Sparkplug B with aliases",
    "pco (columns alone)",
    "Headwater protobuf",
    "Headwater protobuf, deflate",
    "Headwater postcard",
    "Headwater postcard, deflate",
];
const PCO: usize = 4;
/// What the agent sends by default.
const DEFAULT: usize = 7;

/// The totals of a file at so many rows a batch.
#[derive(Debug)]
pub struct Totals {
    /// The file's name.
    pub file: String,
    /// Rows a batch.
    pub rows: usize,
    /// Readings in the file.
    pub readings: usize,
    /// Bytes of each of [`FORMS`].
    pub bytes: [usize; FORMS.len()],
}

/// Encodes the whole trace in every form. Ours are whole frames, sealed one after the other as an agent does, decoded
/// again and compared.
///
/// # Errors
/// If a frame does not come back as it was.
pub fn measure(trace: &Trace, rows: usize) -> Result<Totals> {
    let series = trace.series();
    let limits = Limits::default();
    let mut totals = Totals {
        file: trace.name.clone(),
        rows,
        readings: 0,
        bytes: [0; FORMS.len()],
    };
    let mut sealers: [Sealer; FORMS.len()] = Default::default();
    for (batch, part) in trace.rows.chunks(rows).enumerate() {
        totals.readings += count(part);
        let metrics = &trace.metrics;
        // Objects one after another, each on its line: no brackets to divide among them.
        for reading in peers::json_readings(metrics, part) {
            totals.bytes[0] += serde_json::to_vec(&reading)?.len() + 1;
        }
        totals.bytes[1] += serde_json::to_vec(&peers::json_rows(metrics, part))?.len();
        totals.bytes[2] += peers::protobuf_rows(metrics, part).encoded_len();
        totals.bytes[3] += peers::sparkplug(part).encoded_len();
        totals.bytes[PCO] += peers::pco_bytes(part)?;
        let body = Body::Readings(readings(metrics, part));
        for (at, encoding, compression) in [
            (5, Encoding::Protobuf, Compression::None),
            (6, Encoding::Protobuf, Compression::Deflate),
            (7, Encoding::Postcard, Compression::None),
            (8, Encoding::Postcard, Compression::Deflate),
        ] {
            // A sequence number of a stream that has been running for a while: two or three bytes.
            let sealed = sealers[at].seal(&body, &series, encoding, compression, &limits)?;
            let frame = sealed.frame(1, 10_000 + batch as u64);
            totals.bytes[at] += frame.len();
            let back = Frame::parse(&frame, &limits)?.body(Some(&series), &limits)?;
            ensure!(
                back == body,
                "{}, batch {batch}: {} did not come back as it was",
                trace.name,
                FORMS[at]
            );
        }
    }
    Ok(totals)
}

impl Totals {
    /// Bytes per reading of a form.
    pub fn per_reading(&self, form: usize) -> f64 {
        self.bytes[form] as f64 / self.readings as f64
    }

    /// What the agent sends by default against pco.
    pub fn against_pco(&self) -> f64 {
        self.bytes[DEFAULT] as f64 / self.bytes[PCO] as f64
    }

    /// What falls short of what was promised for this file at these rows a batch.
    pub fn shortfalls(&self) -> Vec<String> {
        let mut out = Vec::new();
        let mut hold = |what: &str, found: f64, most: f64| {
            if found > most {
                out.push(format!(
                    "{} at {} rows: {what} {found:.3}, promised ≤ {most}",
                    self.file, self.rows
                ));
            }
        };
        if self.file == "sensors-1hz.csv" {
            let most = match self.rows {
                10 => 1.9,
                60 => 1.0,
                480 => 0.75,
                _ => f64::INFINITY,
            };
            hold("bytes per reading", self.per_reading(DEFAULT), most);
        }
        let most = match self.rows {
            60 => 1.0,
            480 => 1.15,
            _ => f64::INFINITY,
        };
        hold("bytes against pco", self.against_pco(), most);
        out
    }
}

/// A row per form, a column per file.
pub fn print(all: &[Totals]) {
    let rows = all.first().map_or(0, |totals| totals.rows);
    println!("Bytes per reading, {rows} rows a batch");
    print!("{:28}", "");
    let short = |file: &str| file.trim_end_matches(".csv").chars().take(18).collect::<String>();
    for totals in all {
        print!(" {:>18}", short(&totals.file));
    }
    println!();
    for (form, name) in FORMS.iter().enumerate() {
        print!("{name:28}");
        for totals in all {
            print!(" {:>18.3}", totals.per_reading(form));
        }
        println!();
    }
    print!("{:28}", "Headwater postcard / pco");
    for totals in all {
        print!(" {:>18.3}", totals.against_pco());
    }
    println!("\n");
}

/// Reads and measures.
///
/// # Errors
/// As [`crate::trace::read`] and [`measure`].
pub fn of(path: &std::path::Path, rows: usize) -> Result<Totals> {
    measure(&crate::trace::read(path)?, rows).with_context(|| path.display().to_string())
}
