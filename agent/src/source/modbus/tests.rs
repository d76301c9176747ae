//! What is asked and what is made of it, without a device; `server` has the same against pymodbus.

mod server;

use std::time::{Duration, Instant};

use headwater_proto::Value;

use super::device::{Answer, Device, Step};
use super::plan::plan;
use super::register::Register;
use super::*;
use crate::config::{ModbusDevice, ModbusOrder, ModbusRegister, ModbusTable, ModbusType};

fn settings(address: u16, value: ModbusType) -> ModbusRegister {
    ModbusRegister {
        metric: format!("m{address}"),
        address,
        value,
        ..Default::default()
    }
}

fn register(settings: &ModbusRegister) -> Register {
    Register::new("", &ModbusDevice::default(), settings).unwrap()
}

fn blocks(settings: &[ModbusRegister], most: u16, gap: u16) -> Vec<(ModbusTable, u16, u16, usize)> {
    plan(settings.iter().map(register).collect(), most, gap)
        .into_iter()
        .map(|block| (block.table, block.address, block.count, block.registers.len()))
        .collect()
}

#[test]
fn neighbours_are_read_in_one_request_within_the_bounds() {
    use ModbusTable::{Coil, Holding, Input};
    let u16 = |address| settings(address, ModbusType::U16);
    let mut input = u16(2);
    input.table = Input;
    let mut coils = [u16(0), u16(100), u16(400)];
    for coil in &mut coils {
        coil.table = Coil;
    }
    let wide = settings(20, ModbusType::F64);
    let mut all = vec![u16(9), wide, input, u16(0), u16(1), u16(1)];
    all.extend(coils);
    assert_eq!(
        blocks(&all, 100, 8),
        [
            (Holding, 0, 10, 4),
            (Holding, 20, 4, 1),
            (Input, 2, 1, 1),
            (Coil, 0, 101, 2),
            (Coil, 400, 1, 1)
        ]
    );
    assert_eq!(
        blocks(&[u16(0), u16(2)], 100, 0),
        [(Holding, 0, 1, 1), (Holding, 2, 1, 1)]
    );
    assert_eq!(
        blocks(&[u16(0), u16(1), u16(2)], 2, 8),
        [(Holding, 0, 2, 2), (Holding, 2, 1, 1)]
    );
    assert_eq!(
        blocks(&[u16(65_535), u16(65_534)], 100, 8),
        [(Holding, 65_534, 2, 2)]
    );
}

#[test]
fn what_means_that_there_is_no_value_gives_none() {
    for (kind, words) in [
        (ModbusType::U16, &[0xFFFF][..]),
        (ModbusType::I16, &[0x8000]),
        (ModbusType::U32, &[0xFFFF, 0xFFFF]),
        (ModbusType::I32, &[0x8000, 0]),
        (ModbusType::U64, &[0xFFFF; 4]),
        (ModbusType::I64, &[0x8000, 0, 0, 0]),
        (ModbusType::F32, &[0x7FC0, 0]),
        (ModbusType::F64, &[0x7FF8, 0, 0, 1]),
    ] {
        assert_eq!(register(&settings(0, kind)).value(words), None, "{kind:?}");
    }
    let mut settings = settings(0, ModbusType::U16);
    settings.absent = Some(vec![0x7FFF, -1]);
    let register = register(&settings);
    assert_eq!(register.value(&[0x7FFF]), None);
    assert_eq!(register.value(&[0xFFFF]), Some(Value::I64(65_535)));
}

#[test]
fn scaled_values_are_decimals() {
    let scaled = |value, words: &[u16], scale, offset| {
        let settings = ModbusRegister {
            scale,
            offset,
            ..settings(0, value)
        };
        register(&settings).value(words)
    };
    assert_eq!(
        scaled(ModbusType::U16, &[2301], 0.1, 0.0),
        Some(Value::F64(230.1))
    );
    assert_eq!(
        scaled(ModbusType::I16, &[0xFFFF], 0.01, -40.0),
        Some(Value::F64(-40.01))
    );
    assert_eq!(
        scaled(ModbusType::F32, &[0x4225, 0x147B], 10.0, 0.0),
        Some(Value::F64(412.7))
    );
    assert_eq!(
        scaled(ModbusType::U64, &[0x8000, 0, 0, 0], 1.0, 0.0),
        Some(Value::F64(2f64.powi(63)))
    );
}

fn device(addresses: &[u16]) -> Device {
    let registers = addresses
        .iter()
        .map(|address| settings(*address, ModbusType::U16));
    let device = ModbusDevice {
        id: 3,
        registers: registers.collect(),
        ..Default::default()
    };
    let source = ModbusSource {
        interval: Duration::from_secs(1),
        ..Default::default()
    };
    Device::new(&source, &device).unwrap()
}

/// What of its faults is new.
fn news(device: &mut Device) -> Vec<String> {
    let faults = device.faults().into_iter();
    faults.filter(|(_, news)| *news).map(|(text, _)| text).collect()
}

/// A round against a device that has the registers that `has` says, each holding its address.
fn round(device: &mut Device, now: Instant, has: impl Fn(u16) -> bool) -> (Vec<i64>, usize) {
    let (mut readings, mut at, mut requests) = (Vec::new(), 0, 0);
    while let Some((place, block)) = device.next(at, now) {
        let all = block.address..block.address + block.count;
        let answer = match all.clone().all(&has) {
            true => Answer::Words(all.collect()),
            false => Answer::Exception(2),
        };
        requests += 1;
        at = match device.take(place, answer, now, &mut readings) {
            Step::Next => place + 1,
            Step::Again => place,
            Step::Stop => break,
        };
    }
    let values = readings.into_iter().map(|reading| match reading.value {
        Value::I64(value) => value,
        other => panic!("{other:?}"),
    });
    (values.collect(), requests)
}

#[test]
fn a_register_that_is_refused_costs_itself_alone_and_is_told_once() {
    let mut device = device(&[0, 1, 2, 3, 4, 5, 6, 7]);
    let now = Instant::now();
    let (values, _) = round(&mut device, now, |address| address != 5);
    assert_eq!(values, [0, 1, 2, 3, 4, 6, 7]);
    let news = news(&mut device);
    assert_eq!(news.len(), 1, "{news:?}");
    assert!(
        news[0].contains("device 3 refuses holding register 5 (m5)") && news[0].contains("count from 0"),
        "{news:?}"
    );
    // Not asked again for an hour, and what was told is not told again.
    let (values, requests) = round(&mut device, now + Duration::from_secs(60), |address| address != 5);
    assert_eq!((values.len(), requests), (7, 3));
    let (values, requests) = round(&mut device, now + Duration::from_secs(3600), |address| {
        address != 5
    });
    assert_eq!((values.len(), requests), (7, 4));
    let (values, _) = round(&mut device, now + Duration::from_secs(7200), |_| true);
    assert_eq!(values.len(), 8);
    let faults = device.faults();
    assert!(faults.len() == 1 && !faults[0].1, "counted, no news: {faults:?}");
}

#[test]
fn a_gap_that_is_refused_costs_nothing_but_the_request() {
    let mut device = device(&[0, 1, 6, 7]);
    let now = Instant::now();
    let has = |address| !(2..6).contains(&address);
    assert_eq!(round(&mut device, now, has), (vec![0, 1, 6, 7], 3));
    assert_eq!(round(&mut device, now, has), (vec![0, 1, 6, 7], 2));
    assert!(device.faults().is_empty());
}

#[test]
fn a_device_that_does_not_answer_is_asked_more_and_more_seldom() {
    let mut device = device(&[0, 100]);
    let began = Instant::now();
    let mut asked = Vec::new();
    for second in 0..200u64 {
        let now = began + Duration::from_secs(second);
        if device.next(0, now).is_some() {
            asked.push(second);
            assert_eq!(device.take(0, Answer::Silence, now, &mut Vec::new()), Step::Stop);
        }
    }
    assert_eq!(asked, [0, 1, 3, 7, 15, 31, 63, 123, 183]);
    assert_eq!(news(&mut device).len(), 1);
    let now = began + Duration::from_secs(300);
    assert_eq!(round(&mut device, now, |_| true).0, [0, 100]);
    assert!(device.next(0, now).is_some(), "at every poll again");
}

#[test]
fn exceptions_that_pass_are_told_once_and_asked_for_again() {
    let mut device = device(&[0]);
    let now = Instant::now();
    for _ in 0..5 {
        assert_eq!(
            device.take(0, Answer::Exception(6), now, &mut Vec::new()),
            Step::Next
        );
        assert!(device.next(0, now).is_some());
    }
    let news = news(&mut device);
    assert!(
        news.len() == 1 && news[0].contains("is busy (exception 6)"),
        "{news:?}"
    );
}

#[test]
fn ticks_that_were_missed_are_skipped_and_a_clock_set_back_is_followed() {
    let schedule = Schedule::every(Duration::from_secs(10));
    let mut polled = Polled {
        device: device(&[0]),
        schedule,
        interval_us: 10_000_000,
        due_us: 100_000_000,
    };
    assert_eq!(polled.tick(99_999_999), None);
    assert_eq!(polled.tick(100_000_001), Some(100_000_000));
    assert_eq!(polled.tick(100_000_002), None);
    assert_eq!(polled.tick(147_000_000), Some(140_000_000));
    assert_eq!(polled.due_us, 150_000_000);
    polled.follow(145_000_000);
    assert_eq!(polled.due_us, 150_000_000);
    polled.follow(5_000_000);
    assert_eq!(polled.due_us, 10_000_000);
}

#[test]
fn settings_that_make_no_sense_are_refused_by_key() {
    let one = |device: ModbusDevice| ModbusSource {
        address: "tcp://127.0.0.1".into(),
        devices: vec![device],
        ..Default::default()
    };
    let with = |register: ModbusRegister| {
        one(ModbusDevice {
            registers: vec![register],
            ..Default::default()
        })
    };
    let good = || with(settings(0, ModbusType::U16));
    assert!(Modbus::open(&good()).is_ok());
    let on = |address: &str| ModbusSource {
        address: address.into(),
        ..good()
    };
    for address in [
        "tcp://[::1]",
        "tcp://[::1]:1502",
        "tcp://plc.local:502",
        "rtu:///dev/ttyUSB0",
    ] {
        assert!(Modbus::open(&on(address)).is_ok(), "{address}");
    }
    let base = || settings(0, ModbusType::U16);
    let kind = |value| settings(0, value);
    let twice = ModbusDevice {
        registers: vec![base(), base()],
        ..Default::default()
    };
    let ids = ModbusSource {
        devices: vec![good().devices[0].clone(), good().devices[0].clone()],
        ..good()
    };
    let broadcast = ModbusSource {
        devices: vec![ModbusDevice {
            id: 0,
            ..good().devices[0].clone()
        }],
        ..on("rtu:///dev/ttyUSB0")
    };
    for (settings, part) in [
        (on("localhost"), "`address`: \"localhost\" is neither"),
        (on("tcp://"), "`address`"),
        (on("tcp://host:port"), "`address`"),
        (on("rtu://ttyUSB0"), "`address`"),
        (
            ModbusSource {
                timeout: Duration::ZERO,
                ..good()
            },
            "`timeout`",
        ),
        (
            ModbusSource {
                interval: Duration::ZERO,
                ..good()
            },
            "`interval`",
        ),
        (
            ModbusSource {
                max_registers: 126,
                ..good()
            },
            "`max_registers`: 126",
        ),
        (
            ModbusSource {
                baud: 1,
                ..on("rtu:///dev/x")
            },
            "`baud`: 1 is not in",
        ),
        (
            ModbusSource {
                stop_bits: 3,
                ..on("rtu:///dev/x")
            },
            "`stop_bits`",
        ),
        (
            ModbusSource {
                devices: vec![],
                ..good()
            },
            "`device`",
        ),
        (one(ModbusDevice::default()), "`device.register`"),
        (one(twice), "`metric`: \"m0\" is there twice"),
        (ids, "`device.id`: 1 is there twice"),
        (broadcast, "`device.id`: 0 is not in 1..=247"),
        (
            with(ModbusRegister {
                metric: String::new(),
                ..base()
            }),
            "`metric`",
        ),
        (
            with(ModbusRegister {
                bit: Some(3),
                ..base()
            }),
            "`bit`",
        ),
        (
            with(ModbusRegister {
                bit: Some(16),
                ..kind(ModbusType::Bool)
            }),
            "`bit`: 16",
        ),
        (with(ModbusRegister { length: 2, ..base() }), "`length`"),
        (
            with(ModbusRegister {
                length: 126,
                ..kind(ModbusType::String)
            }),
            "`length`: 126",
        ),
        (
            with(ModbusRegister {
                address: 65_533,
                ..kind(ModbusType::F64)
            }),
            "`address`",
        ),
        (
            with(ModbusRegister {
                scale: f64::INFINITY,
                ..base()
            }),
            "`scale`",
        ),
        (
            with(ModbusRegister {
                scale: 2.0,
                ..kind(ModbusType::Bool)
            }),
            "`scale`",
        ),
        (
            with(ModbusRegister {
                table: ModbusTable::Coil,
                ..kind(ModbusType::F32)
            }),
            "`type`",
        ),
    ] {
        let error = Modbus::open(&settings).err().unwrap().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn settings_are_read_as_they_are_written() {
    let text = "address = 'rtu:///dev/ttyUSB0'\nparity = 'none'\n[[device]]\nid = 7\ninterval = '1m'\norder = 'CDAB'
        register = [{ metric = 'a', address = 3, type = 'f32' }, { metric = 'b', table = 'input', type = 'bool', bit = 4 }]";
    let settings: ModbusSource = toml::from_str(text).unwrap();
    let device = &settings.devices[0];
    assert_eq!((device.id, device.interval), (7, Some(Duration::from_secs(60))));
    assert_eq!(
        (device.order, device.registers[0].value),
        (ModbusOrder::Cdab, ModbusType::F32)
    );
    assert_eq!(device.registers[1].bit, Some(4));
}
