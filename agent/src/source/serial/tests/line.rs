//! Over a pair of pseudo terminals.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tokio::task::JoinHandle;

use super::*;
use crate::source::Sample;
use crate::source::line::pty::Cable;

/// The programs that stand for microcontrollers: the sender in Rust, the one in C.
fn senders() -> &'static [PathBuf; 2] {
    static BUILT: OnceLock<[PathBuf; 2]> = OnceLock::new();
    BUILT.get_or_init(|| {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/examples/serial");
        // Shares its dependencies with `proto/tests/no_std`.
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or(target, PathBuf::from);
        let target = std::path::absolute(target.join("tmp/no_std")).unwrap();
        run(Command::new(env!("CARGO"))
            .args(["build", "--locked", "--quiet", "--manifest-path"])
            .arg(sources.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(&target)
            .env_remove("CARGO_BUILD_TARGET"));
        let [rust, c] = ["sender-rust", "sender-c"].map(|name| target.join(name));
        let cc = || {
            let mut cc = Command::new("cc");
            cc.args(["-std=gnu99", "-Wall", "-Wextra", "-Werror"])
                .arg(sources.join("board.c"));
            cc
        };
        run(cc()
            .arg(target.join("debug/libheadwater_serial_sender.a"))
            .arg("-o")
            .arg(&rust));
        run(cc().arg(sources.join("sender.c")).arg("-o").arg(&c));
        [rust, c]
    })
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
}

/// The frames of a sender whose timer begins at `uptime_ms` and goes on by a second a frame.
fn sent(sender: &Path, frames: u32, uptime_ms: u32) -> Vec<u8> {
    let arguments = [frames, uptime_ms, 1000, 0].map(|number| number.to_string());
    let output = Command::new(sender).args(arguments).output().unwrap();
    assert!(output.status.success());
    output.stdout
}

/// The device's end; closed, it is as good as unplugged.
fn device(cable: &Cable) -> File {
    fs::OpenOptions::new()
        .write(true)
        .custom_flags(rustix::fs::OFlags::NOCTTY.bits() as i32)
        .open(cable.device_end())
        .unwrap()
}

/// The device's end, once the agent listens at the other: what comes before it has opened the line is forgotten.
async fn ready(cable: &Cable, samples: &mut Receiver<Sample>) -> File {
    let mut device = device(cable);
    let mut probe = Frame::<64>::new(0, 0, 0);
    probe.bool("probe", "", true).unwrap();
    for _ in 0..1000 {
        device.write_all(probe.finish()).unwrap();
        if tokio::time::timeout(Duration::from_millis(30), samples.recv())
            .await
            .is_ok()
        {
            return device;
        }
    }
    panic!("the agent does not open the line");
}

fn settings(cable: &Cable) -> SerialSource {
    SerialSource {
        path: cable.agent_end().display().to_string(),
        prefix: "mcu.".into(),
        ..Default::default()
    }
}

/// Each frame, from zero to zero.
fn split(frames: &[u8]) -> Vec<Vec<u8>> {
    let bodies = frames.split(|byte| *byte == 0).filter(|body| !body.is_empty());
    bodies.map(|body| [&[0], body, &[0]].concat()).collect()
}

/// Runs the source as the agent does, only with short pauses after a failure.
fn start(settings: &SerialSource) -> (JoinHandle<()>, Receiver<Sample>) {
    let mut source = Serial::open(settings).unwrap();
    let (output, samples) = Output::new(Clock::default());
    let task = tokio::spawn(async move {
        loop {
            let error = source.run(&output).await.unwrap_err().to_string();
            assert!(error.contains("the serial line"), "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    (task, samples)
}

async fn next(samples: &mut Receiver<Sample>) -> Sample {
    loop {
        let sample = tokio::time::timeout(Duration::from_secs(30), samples.recv())
            .await
            .expect("a sample comes")
            .unwrap();
        if sample.readings[0].metric.name != "mcu.probe" {
            return sample;
        }
    }
}

/// The temperatures of samples, until that of the sender's last frame has come.
async fn temperatures(samples: &mut Receiver<Sample>, last: f64) -> Vec<f64> {
    let mut all = Vec::new();
    loop {
        let sample = next(samples).await;
        let temperature = sample
            .readings
            .iter()
            .find(|reading| reading.metric.name == "mcu.tank.temperature");
        let Some(Value::F64(temperature)) = temperature.map(|reading| reading.value.clone()) else {
            panic!("{sample:?}");
        };
        all.push(temperature);
        if temperature == last {
            return all;
        }
    }
}

/// Writes in the background: a pseudo terminal takes no more than its reader reads.
fn write(device: &File, bytes: Vec<u8>) -> JoinHandle<()> {
    let mut device = device.try_clone().unwrap();
    tokio::task::spawn_blocking(move || device.write_all(&bytes).unwrap())
}

#[tokio::test]
async fn both_senders_are_read_as_they_send() {
    let [rust, c] = senders();
    assert_eq!(sent(rust, 300, 1), sent(c, 300, 1), "the same bytes");
    for sender in [rust, c] {
        let cable = Cable::plugged();
        let (task, mut samples) = start(&settings(&cable));
        let device = ready(&cable, &mut samples).await;
        let mut child = Command::new(sender)
            .args(["10", "60000", "1000", "5"])
            .stdout(Stdio::from(device.try_clone().unwrap()))
            .spawn()
            .unwrap();
        let mut times = Vec::new();
        for number in 0..10i64 {
            let sample = next(&mut samples).await;
            times.push(sample.time_us);
            let readings = sample.readings.into_iter().map(|reading| {
                let metric = &reading.metric;
                (metric.name.clone(), metric.unit.clone(), reading.value)
            });
            let centidegrees = 2000 + number;
            let expected = [
                (
                    "mcu.tank.temperature",
                    "Cel",
                    Value::F64(centidegrees as f64 / 100.0),
                ),
                ("mcu.tank.level", "m", Value::F64(1.37)),
                ("mcu.tank.pump", "", Value::Bool(number % 2 == 0)),
                ("mcu.tank.pulses", "", Value::I64(centidegrees * 1_000_000_007)),
                ("mcu.tank.pi", "", Value::F64(std::f64::consts::PI)),
                ("mcu.tank.state", "", Value::String("läuft".into())),
            ];
            let expected = expected.map(|(name, unit, value)| (name.to_string(), unit.to_string(), value));
            assert_eq!(readings.collect::<Vec<_>>(), expected);
        }
        assert!(times.iter().all(|time| time % 1000 == 0), "{times:?}");
        assert!(child.wait().unwrap().success());
        task.abort();
    }
}

#[tokio::test]
async fn noise_torn_frames_and_floods_cost_no_whole_frame() {
    let [sender, _] = senders();
    let cable = Cable::plugged();
    let (task, mut samples) = start(&settings(&cable));
    let device = ready(&cable, &mut samples).await;
    let mut line = Vec::new();
    let mut expected = Vec::new();
    let frames = split(&sent(sender, 100, 1000));
    for number in 0..100u32 {
        let frame = frames[number as usize].clone();
        match number % 5 {
            1 => line.extend(&frame[..frame.len() / 2]),
            2 => line.extend((0..200).map(|at| (at * 37 + number) as u8)),
            3 => line.extend(vec![0xAA; 100_000]),
            _ => {}
        }
        expected.push(f64::from(2000 + number) / 100.0);
        line.extend(frame);
    }
    let writing = write(&device, line);
    assert_eq!(temperatures(&mut samples, 20.99).await, expected);
    writing.await.unwrap();
    task.abort();
}

#[tokio::test]
async fn a_line_that_is_unplugged_is_opened_again() {
    let [sender, _] = senders();
    let mut cable = Cable::plugged();
    let (task, mut samples) = start(&settings(&cable));
    let frames = sent(sender, 3, 1000);
    // The last frame only begins.
    let torn = frames[..frames.len() - 20].to_vec();
    let device = ready(&cable, &mut samples).await;
    write(&device, torn).await.unwrap();
    assert_eq!(temperatures(&mut samples, 20.01).await, [20.0, 20.01]);
    cable.unplug();
    cable.plug();
    let device = ready(&cable, &mut samples).await;
    write(&device, sent(sender, 4, 1000)).await.unwrap();
    assert_eq!(
        temperatures(&mut samples, 20.03).await,
        [20.0, 20.01, 20.02, 20.03]
    );
    task.abort();
}

#[tokio::test]
async fn lines_of_text_are_mapped_and_rubbish_is_left_out() {
    let map = |text: &str| toml::from_str::<Settings>(text).unwrap();
    for (map, line, expected) in [
        (
            map("format = 'fields'\nname = 'mcu.{key}'\nunits = { t = 'Cel' }"),
            &b"\xFF\xFEt=99\r\nt=21.5 h=40\r\n# boot\r\nbroken\nt=22"[..],
            &[("mcu.t", "Cel", 21.5), ("mcu.h", "", 40.0)][..],
        ),
        (
            map("format = 'columns'\nname = 'mcu.{key}'\ncolumns = ['t', '', 'h']\ndelimiter = ';'"),
            b"t;x;h\n21.5;ok;40\n1;2\n",
            &[("mcu.t", "", 21.5), ("mcu.h", "", 40.0)],
        ),
        (
            map("format = 'form'\nname = 'mcu.{key}'\nform = 'T={t}C H={h}%'"),
            b"T=21.5C H=40%\nT=21.5C H=4\n",
            &[("mcu.t", "", 21.5), ("mcu.h", "", 40.0)],
        ),
        (
            map("format = 'json'\nname = 'mcu.{key}'"),
            b"{\"t\": 21.5, \"in\n{\"t\": 21.5, \"in\": {\"h\": 40}}\n",
            &[("mcu.in.h", "", 40.0), ("mcu.t", "", 21.5)],
        ),
        (
            map("format = 'influx'\nname = 'mcu.{key}'"),
            b"tank,host=a t=21.5,h=40\n",
            &[("mcu.t", "", 21.5), ("mcu.h", "", 40.0)],
        ),
    ] {
        let cable = Cable::plugged();
        let settings = SerialSource {
            format: SerialFormat::Lines,
            prefix: String::new(),
            parity: Parity::Even,
            baud: 9600,
            map,
            ..settings(&cable)
        };
        let (task, mut samples) = start(&settings);
        let mut device = device(&cable);
        let sample = loop {
            // What comes before the agent has opened the line is forgotten.
            device.write_all(line).unwrap();
            if let Ok(sample) = tokio::time::timeout(Duration::from_millis(100), samples.recv()).await {
                break sample.unwrap();
            }
        };
        assert_eq!(sample.time_us % 1000, 0);
        let readings = sample.readings.iter().map(|reading| {
            let Value::F64(value) = reading.value else {
                panic!("{reading:?}")
            };
            (&*reading.metric.name, &*reading.metric.unit, value)
        });
        assert_eq!(readings.collect::<Vec<_>>(), expected);
        task.abort();
    }
}
