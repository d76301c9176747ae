//! Readings per second on one core: Headwater's forms beside prost rows, serde_json and pco, in one run.
//!
//! `cargo bench -p headwater-bench --bench codec [-- --check FILE.csv…]`. The contenders take turns, so that whatever
//! else the machine does falls on all alike; a figure is the upper decile of the turns, which is what the machine gives
//! while nobody else is on it (on a busy one the median flatters whoever has the shorter turns). What is encoded stands
//! ready in each contender's own structs; what is decoded ends in them again. Who can write into a buffer that is there
//! does: prost and serde_json into one that has grown to what they need, Headwater with a `Sealer` that seals the file's
//! batches one after the other, as in the agent; its frames are new vectors nonetheless, since an agent keeps them.
//! With `--check`, a missed promise fails the run: see `promised`.

use std::cell::RefCell;
use std::hint::black_box;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use headwater_bench::peers::{self, JsonReading, Rows};
use headwater_bench::trace::{self, Trace};
use headwater_proto::frame::{Compression, Encoding, Frame, Sealed, Sealer};
use headwater_proto::{Batch, Body, Limits, SeriesSet, protobuf};
use pco::ChunkConfig;
use pco::standalone::{simple_compress, simple_decompress};
use prost::Message;

const ROWS: [usize; 3] = [10, 60, 480];
/// Short turns, and many: most then fit between two switches of a busy machine.
const TURNS: usize = 101;
const TURN: Duration = Duration::from_millis(1);
const NAMES: [&str; 5] = [
    "Headwater postcard",
    "Headwater protobuf",
    "prost rows",
    "serde_json",
    "pco",
];

/// A batch in every contender's structs and bytes.
struct Case {
    batch: Batch,
    rows: Rows,
    json: Vec<JsonReading>,
    columns: Vec<Vec<f64>>,
    times: Vec<i64>,
    frame: Vec<u8>,
    protobuf: Vec<u8>,
    rows_bytes: Vec<u8>,
    json_bytes: Vec<u8>,
    pco_bytes: Vec<Vec<u8>>,
    pco_times: Vec<u8>,
}

struct Setting {
    series: SeriesSet,
    limits: Limits,
    config: ChunkConfig,
    sealer: RefCell<Sealer>,
    buffer: RefCell<Vec<u8>>,
}

impl Setting {
    fn seal(&self, body: &Body) -> Result<Sealed> {
        Ok(self.sealer.borrow_mut().seal(
            body,
            &self.series,
            Encoding::default(),
            Compression::None,
            &self.limits,
        )?)
    }

    fn case(&self, trace: &Trace, rows: &[trace::Row]) -> Result<Case> {
        let readings = trace::readings(&trace.metrics, rows);
        let columns: Vec<Vec<f64>> = (0..trace.metrics.len())
            .map(|metric| {
                rows.iter()
                    .filter_map(|row| row.fields[metric].as_ref().map(|field| field.value))
                    .collect()
            })
            .collect();
        let times: Vec<i64> = rows.iter().map(|row| row.time_ms).collect();
        let body = Body::Readings(readings);
        let batch = Batch {
            device: peers::DEVICE.to_owned(),
            stream: 7,
            seq: 10_000,
            body,
        };
        let json = peers::json_readings(&trace.metrics, rows);
        let message = peers::protobuf_rows(&trace.metrics, rows);
        Ok(Case {
            frame: self.seal(&batch.body)?.frame(1, 10_000),
            protobuf: protobuf::encode(&batch),
            rows_bytes: message.encode_to_vec(),
            json_bytes: serde_json::to_vec(&json)?,
            pco_bytes: columns
                .iter()
                .map(|column| simple_compress(column, &self.config))
                .collect::<Result<_, _>>()?,
            pco_times: simple_compress(&times, &self.config)?,
            rows: message,
            batch,
            json,
            columns,
            times,
        })
    }

    fn encode(&self, contender: usize, case: &Case) -> Result<()> {
        let buffer = &mut *self.buffer.borrow_mut();
        buffer.clear();
        match contender {
            0 => drop(black_box(self.seal(&case.batch.body)?.frame(1, 10_000))),
            1 => drop(black_box(protobuf::encode(&case.batch))),
            2 => {
                case.rows.encode(buffer)?;
                black_box(buffer.as_slice());
            }
            3 => {
                serde_json::to_writer(&mut *buffer, &case.json)?;
                black_box(buffer.as_slice());
            }
            _ => {
                black_box(simple_compress(&case.times, &self.config)?);
                for column in &case.columns {
                    black_box(simple_compress(column, &self.config)?);
                }
            }
        }
        Ok(())
    }

    fn decode(&self, contender: usize, case: &Case) -> Result<()> {
        match contender {
            0 => drop(black_box(
                Frame::parse(&case.frame, &self.limits)?.body(Some(&self.series), &self.limits)?,
            )),
            1 => drop(black_box(protobuf::decode(&case.protobuf, &self.limits)?)),
            2 => drop(black_box(Rows::decode(case.rows_bytes.as_slice())?)),
            3 => drop(black_box(serde_json::from_slice::<Vec<JsonReading>>(
                &case.json_bytes,
            )?)),
            _ => {
                black_box(simple_decompress::<i64>(&case.pco_times)?);
                for column in &case.pco_bytes {
                    black_box(simple_decompress::<f64>(column)?);
                }
            }
        }
        Ok(())
    }
}

/// Readings per second of each contender.
fn race(cases: &[Case], run: &dyn Fn(usize, &Case) -> Result<()>) -> Result<[f64; NAMES.len()]> {
    let readings: usize = cases.iter().map(|case| case.json.len()).sum();
    let mut found: [Vec<f64>; NAMES.len()] = Default::default();
    for _ in 0..TURNS {
        for (contender, found) in found.iter_mut().enumerate() {
            let start = Instant::now();
            let mut rounds = 0;
            // Whole rounds, so that every batch weighs the same.
            while rounds == 0 || start.elapsed() < TURN {
                for case in cases {
                    run(contender, case)?;
                }
                rounds += 1;
            }
            found.push((readings * rounds) as f64 / start.elapsed().as_secs_f64());
        }
    }
    Ok(found.map(|mut found| {
        found.sort_by(f64::total_cmp);
        found[TURNS * 9 / 10]
    }))
}

/// What Headwater postcard is held to, as multiples of prost rows and of serde_json, encoding and decoding. The traces
/// from elsewhere are shown without a promise: a column or two a batch, ten minutes apart, some of them noise. Of ten rows
/// the columns' own cost is the most (see CONTRIBUTING), so there it is no more than being the faster.
fn promised(file: &str, rows: usize) -> Option<[f64; 2]> {
    match (file, rows) {
        ("sensors-1hz.csv", 60..) => Some([3.0, 20.0]),
        ("sensors-1hz.csv", _) => Some([1.0, 1.0]),
        _ => None,
    }
}

fn main() -> Result<ExitCode> {
    let check = std::env::args().any(|argument| argument == "--check");
    // Cargo itself passes --bench.
    let mut files: Vec<PathBuf> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
        .map(PathBuf::from)
        .collect();
    if files.is_empty() {
        files = trace::own()?;
    }
    let mut missed = Vec::new();
    println!(
        "Million readings per second, one core, buffers reused where one can; in brackets Headwater postcard against it"
    );
    println!(
        "{:24} {:>6} {:7}{}",
        "file",
        "rows",
        "",
        NAMES.map(|name| format!(" {name:>20}")).concat()
    );
    for file in files {
        let trace = trace::read(&file)?;
        let setting = Setting {
            series: trace.series(),
            limits: Limits::default(),
            config: ChunkConfig::default(),
            sealer: RefCell::default(),
            buffer: RefCell::default(),
        };
        for rows in ROWS {
            let cases = trace
                .rows
                .chunks(rows)
                .map(|part| setting.case(&trace, part))
                .collect::<Result<Vec<_>>>()?;
            for (what, run) in [
                (
                    "encode",
                    &(|contender, case: &Case| setting.encode(contender, case)) as &dyn Fn(usize, &Case) -> _,
                ),
                (
                    "decode",
                    &(|contender, case: &Case| setting.decode(contender, case)),
                ),
            ] {
                let speeds = race(&cases, run)?;
                let cell = |speed: &f64| format!(" {:>11.2} ({:5.1} ×)", speed / 1e6, speeds[0] / speed);
                println!(
                    "{:24} {rows:>6} {what:7}{}",
                    trace.name,
                    speeds.iter().map(cell).collect::<String>()
                );
                for (at, times) in [2, 3]
                    .into_iter()
                    .zip(promised(&trace.name, rows).into_iter().flatten())
                {
                    if speeds[0] < times * speeds[at] {
                        let (name, found) = (NAMES[at], speeds[0] / speeds[at]);
                        missed.push(format!(
                            "{} at {rows} rows, {what}: {found:.1} × {name}, promised {times} ×",
                            trace.name
                        ));
                    }
                }
            }
        }
    }
    for missed in &missed {
        println!("missed: {missed}");
    }
    Ok(if check && !missed.is_empty() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
