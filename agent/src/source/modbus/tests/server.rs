//! Against pymodbus, over TCP and over a serial line.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use headwater_proto::Value;
use serde_json::json;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinHandle;

use super::super::*;
use crate::clock::Clock;
use crate::config::{ModbusDevice, ModbusOrder, ModbusRegister, ModbusTable, ModbusType};
use crate::port::free_port;
use crate::source::line::pty::Cable;

/// A Python that has pymodbus.
fn python() -> PathBuf {
    let python = match std::env::var_os("HEADWATER_PYTHON") {
        Some(python) => PathBuf::from(python),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv/bin/python"),
    };
    let found = Command::new(&python)
        .args(["-c", "import pymodbus, serial"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    assert!(
        found,
        "{} with pymodbus is missing; `scripts/test --only fetch` makes .venv, or set HEADWATER_PYTHON",
        python.display()
    );
    python
}

struct Server(Child);

impl Server {
    fn tcp(port: u16, held: &serde_json::Value) -> Self {
        Self::start("tcp", port.to_string(), held)
    }

    fn rtu(path: &Path, held: &serde_json::Value) -> Self {
        Self::start("rtu", path.display().to_string(), held)
    }

    fn start(how: &str, at: String, held: &serde_json::Value) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/source/modbus/tests/server.py");
        let child = Command::new(python())
            .arg(script)
            .args([how.to_string(), at])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut server = Self(child);
        writeln!(server.0.stdin.as_mut().unwrap(), "{held}").unwrap();
        let mut line = String::new();
        BufReader::new(server.0.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n");
        server
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .args([signal, &self.0.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the source as the agent does, only with short pauses after a failure.
fn start(settings: &ModbusSource) -> (JoinHandle<()>, Receiver<Sample>) {
    let mut source = Modbus::open(settings).unwrap();
    let (output, samples) = Output::new(Clock::default());
    let task = tokio::spawn(async move {
        loop {
            let error = source.run(&output).await.unwrap_err().to_string();
            assert!(
                error.contains("modbus tcp://") || error.contains("serial line"),
                "{error}"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    (task, samples)
}

/// Takes samples until the newest values are as wanted.
async fn until(
    samples: &mut Receiver<Sample>,
    what: &str,
    wanted: impl Fn(&BTreeMap<String, Value>) -> bool,
) {
    let mut newest = BTreeMap::new();
    let look = async {
        while let Some(sample) = samples.recv().await {
            assert_eq!(sample.time_us % 50_000, 0);
            for reading in sample.readings {
                newest.insert(reading.metric.name.clone(), reading.value);
            }
            if wanted(&newest) {
                return;
            }
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(30), look).await.is_ok();
    assert!(in_time, "{what}: {newest:?}");
}

fn source(address: String, devices: Vec<ModbusDevice>) -> ModbusSource {
    ModbusSource {
        address,
        interval: Duration::from_millis(50),
        timeout: Duration::from_millis(500),
        devices,
        ..Default::default()
    }
}

fn device(id: u8, registers: Vec<ModbusRegister>) -> ModbusDevice {
    ModbusDevice {
        id,
        prefix: format!("{id}."),
        registers,
        ..Default::default()
    }
}

fn holding(address: u16) -> ModbusRegister {
    ModbusRegister {
        metric: format!("h{address}"),
        address,
        ..Default::default()
    }
}

type Held = (&'static str, serde_json::Value);

/// Every type in every order, in both tables of registers, and bits: what a device holds, what to read, what must come.
fn everything() -> (serde_json::Value, Vec<ModbusRegister>, BTreeMap<String, Value>) {
    let values: [(ModbusType, Held, Value); 13] = [
        (ModbusType::U16, ("UINT16", json!(0x8001)), Value::I64(0x8001)),
        (ModbusType::I16, ("INT16", json!(-1234)), Value::I64(-1234)),
        (
            ModbusType::U32,
            ("UINT32", json!(0xDEAD_BEEFu32)),
            Value::I64(0xDEAD_BEEF),
        ),
        (
            ModbusType::I32,
            ("INT32", json!(-123_456_789)),
            Value::I64(-123_456_789),
        ),
        (
            ModbusType::U64,
            ("UINT64", json!(u64::MAX - 1)),
            Value::F64(18_446_744_073_709_551_614.0),
        ),
        (
            ModbusType::U64,
            ("UINT64", json!(0x0102_0304_0506_0708u64)),
            Value::I64(0x0102_0304_0506_0708),
        ),
        (
            ModbusType::I64,
            ("INT64", json!(-0x0102_0304_0506_0708i64)),
            Value::I64(-0x0102_0304_0506_0708),
        ),
        (ModbusType::F32, ("FLOAT32", json!(41.27)), Value::F64(41.27)),
        (
            ModbusType::F32,
            ("FLOAT32", json!(-1.5e-38)),
            Value::F64(-1.5e-38),
        ),
        (
            ModbusType::F64,
            ("FLOAT64", json!(std::f64::consts::PI)),
            Value::F64(std::f64::consts::PI),
        ),
        (ModbusType::Bool, ("UINT16", json!(2)), Value::Bool(true)),
        (
            ModbusType::String,
            ("STRING", json!("Pümpe 7 ")),
            Value::String("Pümpe 7".into()),
        ),
        (ModbusType::U16, ("UINT16", json!(0)), Value::I64(0)),
    ];
    let orders = [
        (ModbusOrder::Abcd, "ABCD"),
        (ModbusOrder::Cdab, "CDAB"),
        (ModbusOrder::Badc, "BADC"),
        (ModbusOrder::Dcba, "DCBA"),
    ];
    let (mut held, mut registers, mut expected) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
    for (name, table) in [("holding", ModbusTable::Holding), ("input", ModbusTable::Input)] {
        let mut address = 100;
        let mut entries = Vec::new();
        for (order, order_name) in orders {
            for (kind, (held_kind, held), value) in &values {
                let metric = format!("{name}.{order_name}.{address}");
                let length = if *kind == ModbusType::String { 5 } else { 1 };
                entries.push(json!([address, held_kind, held, order_name]));
                expected.insert(format!("1.{metric}"), value.clone());
                registers.push(ModbusRegister {
                    metric,
                    table,
                    address,
                    value: *kind,
                    order: Some(order),
                    length,
                    ..Default::default()
                });
                // Some next to each other, some apart; what lies between does not exist.
                address += 5 + address % 4 * 6;
            }
        }
        held.insert(name, entries);
    }
    held.insert("coil", vec![json!([10, [true, false, true]])]);
    held.insert("discrete", vec![json!([0, [false, true]])]);
    for (name, table, address, value) in [
        ("coil", ModbusTable::Coil, 10, true),
        ("coil", ModbusTable::Coil, 11, false),
        ("coil", ModbusTable::Coil, 12, true),
        ("discrete", ModbusTable::Discrete, 0, false),
        ("discrete", ModbusTable::Discrete, 1, true),
    ] {
        let metric = format!("{name}.{address}");
        expected.insert(format!("1.{metric}"), Value::Bool(value));
        registers.push(ModbusRegister {
            metric,
            table,
            address,
            value: ModbusType::Bool,
            ..Default::default()
        });
    }
    for bit in [0u8, 15, 7] {
        let metric = format!("bit{bit}");
        expected.insert(format!("1.{metric}"), Value::Bool(bit != 7));
        registers.push(ModbusRegister {
            metric,
            address: 100,
            value: ModbusType::Bool,
            bit: Some(bit),
            ..Default::default()
        });
    }
    (json!({ "1": held }), registers, expected)
}

#[tokio::test]
async fn every_type_in_every_order_comes_as_the_server_holds_it_over_tcp() {
    let (held, registers, expected) = everything();
    let port = free_port();
    let _server = Server::tcp(port, &held);
    let settings = source(format!("tcp://127.0.0.1:{port}"), vec![device(1, registers)]);
    let (task, mut samples) = start(&settings);
    until(&mut samples, "all values", |newest| *newest == expected).await;
    task.abort();
}

#[tokio::test]
async fn every_type_in_every_order_comes_as_the_server_holds_it_over_a_serial_line() {
    let (held, registers, expected) = everything();
    let cable = Cable::plugged();
    let _server = Server::rtu(&cable.device_end(), &held);
    let address = format!("rtu://{}", cable.agent_end().display());
    // No gaps are read, so that nothing is refused.
    let settings = ModbusSource {
        max_gap: 0,
        baud: 115_200,
        ..source(address, vec![device(1, registers)])
    };
    let (task, mut samples) = start(&settings);
    until(&mut samples, "all values", |newest| *newest == expected).await;
    task.abort();
}

#[tokio::test]
async fn a_server_that_is_killed_and_comes_back_is_read_again() {
    let port = free_port();
    let held = |value: u16| json!({ "1": { "holding": [[0, "UINT16", value, "ABCD"]] } });
    let server = Server::tcp(port, &held(1));
    let settings = source(
        format!("tcp://127.0.0.1:{port}"),
        vec![device(1, vec![holding(0)])],
    );
    let (task, mut samples) = start(&settings);
    until(&mut samples, "before", |newest| {
        newest.get("1.h0") == Some(&Value::I64(1))
    })
    .await;
    drop(server);
    let _server = Server::tcp(port, &held(2));
    until(&mut samples, "after", |newest| {
        newest.get("1.h0") == Some(&Value::I64(2))
    })
    .await;
    task.abort();
}

#[tokio::test]
async fn a_server_that_hangs_is_left_and_taken_up_again() {
    let port = free_port();
    let server = Server::tcp(port, &json!({ "1": { "holding": [[0, "UINT16", 5, "ABCD"]] } }));
    let mut settings = source(
        format!("tcp://127.0.0.1:{port}"),
        vec![device(1, vec![holding(0)])],
    );
    settings.timeout = Duration::from_millis(100);
    let (task, mut samples) = start(&settings);
    let has = |newest: &BTreeMap<String, Value>| newest.contains_key("1.h0");
    until(&mut samples, "before", has).await;
    server.signal("-STOP");
    // Polls that bring nothing are samples without readings, which are not handed on: silence.
    let silent = async {
        while tokio::time::timeout(Duration::from_millis(400), samples.recv())
            .await
            .is_ok()
        {}
    };
    tokio::time::timeout(Duration::from_secs(20), silent)
        .await
        .unwrap();
    server.signal("-CONT");
    until(&mut samples, "after", has).await;
    task.abort();
}

#[tokio::test]
async fn what_a_server_refuses_costs_that_register_and_a_wrong_unit_id_that_device() {
    let port = free_port();
    let held = json!({
        "1": { "holding": [[0, "UINT16", 10, "ABCD"], [2, "UINT16", 12, "ABCD"], [9, "UINT16", 19, "ABCD"]] },
        "3": { "holding": [[0, "UINT16", 30, "ABCD"]] },
    });
    let _server = Server::tcp(port, &held);
    let registers = vec![holding(0), holding(1), holding(2), holding(9), holding(500)];
    let devices = vec![
        device(1, registers),
        device(2, vec![holding(0)]),
        device(3, vec![holding(0)]),
    ];
    let (task, mut samples) = start(&source(format!("tcp://127.0.0.1:{port}"), devices));
    let expected = [("1.h0", 10), ("1.h2", 12), ("1.h9", 19), ("3.h0", 30)];
    let expected = BTreeMap::from(expected.map(|(name, value)| (name.to_string(), Value::I64(value))));
    until(&mut samples, "what there is", |newest| *newest == expected).await;
    task.abort();
}

#[tokio::test]
async fn on_a_line_a_dead_device_does_not_silence_the_others_and_a_cable_may_be_pulled() {
    let mut cable = Cable::plugged();
    let held = |value: u16| {
        json!({
            "1": { "holding": [[0, "UINT16", value, "ABCD"]] },
            "3": { "input": [[7, "FLOAT32", 2.5, "CDAB"]] },
        })
    };
    let server = Server::rtu(&cable.device_end(), &held(1));
    let input = ModbusRegister {
        table: ModbusTable::Input,
        value: ModbusType::F32,
        order: Some(ModbusOrder::Cdab),
        ..holding(7)
    };
    let devices = vec![
        device(1, vec![holding(0)]),
        device(2, vec![holding(0)]),
        device(3, vec![input]),
    ];
    let address = format!("rtu://{}", cable.agent_end().display());
    let mut settings = source(address, devices);
    settings.timeout = Duration::from_millis(200);
    let (task, mut samples) = start(&settings);
    let expected = |value| {
        BTreeMap::from([
            ("1.h0".to_string(), Value::I64(value)),
            ("3.h7".to_string(), Value::F64(2.5)),
        ])
    };
    until(&mut samples, "both that are there", |newest| {
        *newest == expected(1)
    })
    .await;

    drop(server);
    cable.unplug();
    cable.plug();
    let _server = Server::rtu(&cable.device_end(), &held(2));
    until(&mut samples, "both again", |newest| *newest == expected(2)).await;
    task.abort();
}
