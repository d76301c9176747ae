//! What stands in a device's registers, and how it is read out of them.

use std::sync::Arc;

use headwater_proto::Value;

use crate::config::{ModbusDevice, ModbusOrder, ModbusRegister, ModbusTable, ModbusType};
use crate::error::SourceError;
use crate::source::Metric;
use crate::source::scale::{Decimal, Scale, widened};

/// One value of a device.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Register {
    pub(super) metric: Arc<Metric>,
    pub(super) table: ModbusTable,
    pub(super) address: u16,
    /// How many registers, or coils.
    pub(super) count: u16,
    kind: ModbusType,
    order: ModbusOrder,
    bit: Option<u8>,
    scale: Scale,
    absent: Vec<i128>,
}

impl Register {
    pub(super) fn new(
        prefix: &str,
        device: &ModbusDevice,
        settings: &ModbusRegister,
    ) -> Result<Self, SourceError> {
        let ModbusRegister { table, address, .. } = *settings;
        let refused = |key: &'static str, why: String| {
            let why = format!("{why} (device {}, metric {:?})", device.id, settings.metric);
            Err(SourceError::Setting { key, why })
        };
        let name = format!("{prefix}{}{}", device.prefix, settings.metric);
        if let Err(error) = headwater_proto::name::check_metric(&name) {
            return refused("metric", error.to_string());
        }
        let bits = matches!(table, ModbusTable::Coil | ModbusTable::Discrete);
        let kind = if bits { ModbusType::Bool } else { settings.value };
        if bits && settings.value != ModbusType::Bool && settings.value != ModbusRegister::default().value {
            return refused("type", "coils and discrete inputs are of type \"bool\"".into());
        }
        match settings.bit {
            Some(_) if kind != ModbusType::Bool || bits => {
                return refused("bit", "it is for type \"bool\" in a register".into());
            }
            Some(bit) if bit > 15 => return refused("bit", format!("{bit} is not in 0..=15")),
            _ => {}
        }
        if kind != ModbusType::String && settings.length != 1 {
            return refused("length", "it is for type \"string\"".into());
        }
        let count = match kind {
            ModbusType::U16 | ModbusType::I16 | ModbusType::Bool => 1,
            ModbusType::U32 | ModbusType::I32 | ModbusType::F32 => 2,
            ModbusType::U64 | ModbusType::I64 | ModbusType::F64 => 4,
            ModbusType::String => settings.length,
        };
        if !(1..=125).contains(&count) {
            return refused("length", format!("{count} is not in 1..=125"));
        }
        if u32::from(address) + u32::from(count) > 65_536 {
            return refused(
                "address",
                format!("{address} and {count} registers go beyond 65535"),
            );
        }
        let scale = match Scale::from_settings(settings.scale, settings.offset) {
            Ok(scale) => scale,
            Err(value) => {
                return refused("scale", format!("{value} is not a decimal of at most 18 digits"));
            }
        };
        if matches!(kind, ModbusType::Bool | ModbusType::String) && !scale.is_identity() {
            return refused("scale", "only numbers can be scaled".into());
        }
        let absent = match &settings.absent {
            Some(absent) => absent.iter().map(|raw| i128::from(*raw)).collect(),
            None => match kind {
                ModbusType::U16 => vec![u16::MAX.into()],
                ModbusType::I16 => vec![i16::MIN.into()],
                ModbusType::U32 => vec![u32::MAX.into()],
                ModbusType::I32 => vec![i32::MIN.into()],
                ModbusType::U64 => vec![u64::MAX.into()],
                ModbusType::I64 => vec![i64::MIN.into()],
                ModbusType::F32 | ModbusType::F64 | ModbusType::Bool | ModbusType::String => vec![],
            },
        };
        Ok(Self {
            metric: Metric::new(name, settings.unit.clone()),
            table,
            address,
            count,
            kind,
            order: settings.order.unwrap_or(device.order),
            bit: settings.bit,
            scale,
            absent,
        })
    }

    /// The value in its registers; `None`: they say that there is none.
    pub(super) fn value(&self, words: &[u16]) -> Option<Value> {
        match self.kind {
            ModbusType::Bool => {
                let word = self.bytes::<2>(words).map(u16::from_be_bytes)?;
                Some(Value::Bool(match self.bit {
                    Some(bit) => word >> bit & 1 == 1,
                    None => word != 0,
                }))
            }
            ModbusType::U16 => self.integer(u16::from_be_bytes(self.bytes(words)?).into()),
            ModbusType::I16 => self.integer(i16::from_be_bytes(self.bytes(words)?).into()),
            ModbusType::U32 => self.integer(u32::from_be_bytes(self.bytes(words)?).into()),
            ModbusType::I32 => self.integer(i32::from_be_bytes(self.bytes(words)?).into()),
            ModbusType::U64 => self.integer(u64::from_be_bytes(self.bytes(words)?).into()),
            ModbusType::I64 => self.integer(i64::from_be_bytes(self.bytes(words)?).into()),
            ModbusType::F32 => self.double(widened(f32::from_be_bytes(self.bytes(words)?))),
            ModbusType::F64 => self.double(f64::from_be_bytes(self.bytes(words)?)),
            ModbusType::String => self.text(words),
        }
    }

    /// The bytes, the highest first; `None`: there are not as many words.
    fn bytes<const N: usize>(&self, words: &[u16]) -> Option<[u8; N]> {
        let words = words.get(..N / 2)?;
        let mut bytes = [0; N];
        for (index, pair) in bytes.chunks_exact_mut(2).enumerate() {
            let word = match self.order {
                ModbusOrder::Abcd | ModbusOrder::Badc => words[index],
                ModbusOrder::Cdab | ModbusOrder::Dcba => words[words.len() - 1 - index],
            };
            pair.copy_from_slice(&self.pair(word));
        }
        Some(bytes)
    }

    fn pair(&self, word: u16) -> [u8; 2] {
        match self.order {
            ModbusOrder::Abcd | ModbusOrder::Cdab => word.to_be_bytes(),
            ModbusOrder::Badc | ModbusOrder::Dcba => word.to_le_bytes(),
        }
    }

    fn integer(&self, raw: i128) -> Option<Value> {
        if self.absent.contains(&raw) {
            return None;
        }
        if !self.scale.is_identity() {
            return Some(Value::F64(self.scale.apply(Decimal::integer(raw))));
        }
        Some(match i64::try_from(raw) {
            Ok(integer) => Value::I64(integer),
            Err(_) => Value::F64(raw as f64),
        })
    }

    fn double(&self, raw: f64) -> Option<Value> {
        let absent = raw.is_nan() || self.absent.iter().any(|absent| *absent as f64 == raw);
        (!absent).then(|| Value::F64(self.scale.apply_double(raw)))
    }

    fn text(&self, words: &[u16]) -> Option<Value> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| self.pair(*word)).collect();
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        let text: String = String::from_utf8_lossy(text)
            .trim()
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        (!text.is_empty()).then_some(Value::String(text))
    }

    /// What it is called in messages: `holding register 4711 (meter.power)`.
    pub(super) fn title(&self) -> String {
        let table = match self.table {
            ModbusTable::Holding => "holding register",
            ModbusTable::Input => "input register",
            ModbusTable::Coil => "coil",
            ModbusTable::Discrete => "discrete input",
        };
        format!("{table} {} ({})", self.address, self.metric.name)
    }
}
