//! A mapping, ready to use.

use std::collections::BTreeMap;

use headwater_proto::{Value, name};

use crate::form::Form;
use crate::patterns::Patterns;
use crate::refusal::{Refusal, SettingsError, shortened};
use crate::scalar::Scalar;
use crate::settings::{Format, Settings, TimeFormat, Type};
use crate::template::{Naming, Template};
use crate::time::UtcOffset;
use crate::{columns, fields, form, influx, json, pairs};

/// A reading of a payload.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The metric's name, as [`headwater_proto::name::check_metric`] allows it.
    pub metric: String,
    /// Whose it is, as the payload or its topic says it: any text. Empty where the mapping names no devices
    /// ([`Mapping::naming_devices`]).
    pub device: String,
    /// Its unit (UCUM), or empty.
    pub unit: String,
    /// Microseconds since the Unix epoch; `None`: the payload does not say, so the moment it came.
    pub time_us: Option<i64>,
    /// Its value.
    pub value: Value,
}

/// What a payload gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mapped {
    /// In the payload's order; JSON objects by key.
    pub readings: Vec<Reading>,
    /// How often something was refused: the whole payload, a line, a reading.
    pub refused: u64,
    /// Why, the first time.
    pub refusal: Option<Refusal>,
    /// Readings whose time makes no sense: they are without one.
    pub untimed: u64,
}

impl Mapped {
    /// Counts a refusal; the first is kept.
    pub(crate) fn refuse(&mut self, why: impl FnOnce() -> Refusal) {
        self.refused += 1;
        self.refusal.get_or_insert_with(why);
    }
}

/// How payloads become readings.
#[derive(Clone, Debug)]
pub struct Mapping {
    pub(crate) format: Format,
    pub(crate) template: Template,
    device: Option<Template>,
    pub(crate) separator: String,
    pub(crate) each: String,
    pub(crate) value: String,
    pub(crate) time: Option<String>,
    pub(crate) unit: Option<String>,
    pub(crate) time_format: TimeFormat,
    pub(crate) utc_offset: Option<UtcOffset>,
    pub(crate) skip_tags: Vec<String>,
    pub(crate) columns: Vec<String>,
    pub(crate) delimiter: char,
    pub(crate) form: Form,
    only: Patterns<()>,
    skip: Patterns<()>,
    units: Patterns<String>,
    value_type: Type,
    types: Patterns<Type>,
    booleans: BTreeMap<String, bool>,
    max_payload: u64,
    max_readings: usize,
}

impl Mapping {
    /// Makes a mapping; `has_topic`: whether payloads come under a topic or path.
    ///
    /// # Errors
    /// [`SettingsError`], which names the key, its value and what is allowed.
    pub fn new(settings: &Settings, has_topic: bool) -> Result<Self, SettingsError> {
        let wrong = |key: &'static str, why: String| Err(SettingsError { key, why });
        let Settings { format, .. } = *settings;
        let is_json = matches!(format, Format::Json | Format::JsonLines);
        for (key, pointer) in [
            ("each", Some(&settings.each)),
            ("value", Some(&settings.value)),
            ("time", settings.time.as_ref()),
            ("unit", settings.unit.as_ref()),
        ] {
            let Some(pointer) = pointer else { continue };
            if !(is_json || pointer.is_empty() && matches!(key, "each" | "value")) {
                return wrong(
                    key,
                    format!("{pointer:?} points into JSON, which this format is not"),
                );
            }
            if !pointer.is_empty() && !pointer.starts_with('/') {
                return wrong(
                    key,
                    format!("{pointer:?} is not a pointer into JSON; write it as \"/{pointer}\""),
                );
            }
        }
        if settings.max_readings == 0 {
            return wrong("max_readings", "0 would take nothing; give at least 1".into());
        }
        if !(1..=16 << 20).contains(&settings.max_payload.as_u64()) {
            return wrong(
                "max_payload",
                format!("{} is not in 1 B..=16 MiB", settings.max_payload),
            );
        }
        if format == Format::Columns && settings.columns.iter().all(String::is_empty) {
            return wrong("columns", "is missing: give the key of each column".into());
        }
        let form = match format {
            Format::Form => match Form::parse(&settings.form) {
                Ok(form) => form,
                Err(why) => return wrong("form", why),
            },
            _ => Form::default(),
        };
        let default = match format {
            Format::Influx => "{measurement}.{tags}.{key}",
            Format::Value if has_topic => "{topic}",
            Format::Value => "",
            _ if has_topic => "{topic}.{key}",
            _ => "{key}",
        };
        let name = settings.name.as_deref().unwrap_or(default);
        if name.is_empty() && settings.name.is_none() {
            return wrong(
                "name",
                "is missing: a payload that is one value does not say whose".into(),
            );
        }
        let in_text = match format {
            Format::Pairs | Format::Fields | Format::Columns | Format::Form | Format::Value => Type::Number,
            _ => Type::Auto,
        };
        let all = |patterns: &[String]| Patterns::new(patterns.iter().map(|pattern| (pattern, ())));
        Ok(Self {
            format,
            template: Template::parse(name, &settings.separator, format, has_topic)?,
            device: None,
            separator: settings.separator.clone(),
            each: settings.each.clone(),
            value: settings.value.clone(),
            time: settings.time.clone(),
            unit: settings.unit.clone(),
            time_format: settings.time_format,
            utc_offset: settings.utc_offset,
            skip_tags: settings.skip_tags.clone(),
            columns: settings.columns.clone(),
            delimiter: settings.delimiter,
            form,
            only: all(&settings.only),
            skip: all(&settings.skip),
            units: Patterns::new(settings.units.iter().map(|(key, unit)| (key, unit.clone()))),
            value_type: settings.value_type.unwrap_or(in_text),
            types: Patterns::new(settings.types.iter().map(|(key, of)| (key, *of))),
            booleans: settings.booleans.clone(),
            max_payload: settings.max_payload.as_u64(),
            max_readings: settings.max_readings,
        })
    }

    /// The same mapping for times in another unit, as a request may ask.
    #[must_use]
    pub fn with_time_format(mut self, format: TimeFormat) -> Self {
        self.time_format = format;
        self
    }

    /// The same mapping for payloads that say whose readings they are: `device` is a template as that of names is, without
    /// `{key}`; what is nothing but text stands for itself. What of a record names the device is no reading.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn naming_devices(mut self, device: &str) -> Result<Self, SettingsError> {
        let wrong = |why: String| SettingsError { key: "device", why };
        let template =
            Template::parse(device, &self.separator, self.format, true).map_err(|error| wrong(error.why))?;
        if template.has_key() {
            return Err(wrong(format!(
                "{device:?}: {{key}} is a metric's, and names no device"
            )));
        }
        self.device = Some(template);
        Ok(self)
    }

    /// The pointers to texts of a record that name its metrics and its device.
    pub(crate) fn naming_pointers(&self) -> impl Iterator<Item = &str> {
        let device = self.device.iter().flat_map(Template::pointers);
        self.template.pointers().chain(device)
    }

    /// The readings of a payload that came under `topic` (empty where there is none).
    pub fn map(&self, topic: &str, payload: &[u8]) -> Mapped {
        let mut mapped = Mapped::default();
        if payload.len() as u64 > self.max_payload {
            mapped.refuse(|| Refusal::Long {
                bytes: payload.len(),
                max: self.max_payload,
            });
            return mapped;
        }
        let naming = Naming {
            topic,
            ..Naming::default()
        };
        match (self.format, std::str::from_utf8(payload)) {
            (_, Err(_)) => mapped.refuse(|| Refusal::NotText),
            (Format::Json, Ok(text)) => json::map(self, naming, text, &mut mapped),
            (Format::JsonLines, Ok(text)) => json::map_lines(self, naming, text, &mut mapped),
            (Format::Influx, Ok(text)) => influx::map(self, naming, text, &mut mapped),
            (Format::Pairs, Ok(text)) => pairs::map(self, naming, text, &mut mapped),
            (Format::Fields, Ok(text)) => fields::map(self, naming, text, &mut mapped),
            (Format::Columns, Ok(text)) => columns::map(self, naming, text, &mut mapped),
            (Format::Form, Ok(text)) => form::map(self, naming, text, &mut mapped),
            (Format::Value, Ok(text)) => {
                self.reading(&naming, "", Scalar::Bare(text), None, None, &mut mapped);
            }
        }
        mapped
    }

    /// Whether there is room for another reading; says so the first time there is none.
    pub(crate) fn has_room(&self, mapped: &mut Mapped) -> bool {
        if mapped.readings.len() < self.max_readings {
            return true;
        }
        let many = Refusal::Many {
            max: self.max_readings,
        };
        if mapped.refusal.as_ref() != Some(&many) {
            mapped.refused += 1;
            mapped.refusal = Some(many);
        }
        false
    }

    /// Makes a reading of a scalar, unless the settings leave it out.
    pub(crate) fn reading(
        &self,
        naming: &Naming<'_>,
        key: &str,
        scalar: Scalar<'_>,
        time_us: Option<i64>,
        unit: Option<&str>,
        mapped: &mut Mapped,
    ) {
        let mut metric = String::new();
        self.template.name(naming, key, &mut metric);
        let with_measurement;
        let key = if naming.measurement.is_empty() {
            key
        } else {
            with_measurement = format!("{}.{key}", naming.measurement);
            &with_measurement
        };
        if self.skip.find(key, &metric).is_some()
            || !(self.only.is_empty() || self.only.find(key, &metric).is_some())
        {
            return;
        }
        if let Err(error) = name::check_metric(&metric) {
            return mapped.refuse(|| Refusal::Name {
                why: error.to_string(),
            });
        }
        let wanted = self.types.find(key, &metric).copied().unwrap_or(self.value_type);
        let value = match scalar.read(wanted, &self.booleans) {
            Ok(value) => value,
            Err(wanted) => {
                return mapped.refuse(|| Refusal::Value {
                    metric: shortened(&metric),
                    value: scalar.shown(),
                    wanted,
                });
            }
        };
        let unit = unit
            .or_else(|| self.units.find(key, &metric).map(String::as_str))
            .unwrap_or("");
        let mut device = String::new();
        if let Some(template) = &self.device {
            let naming = Naming {
                tags: naming.all_tags,
                ..*naming
            };
            template.name(&naming, "", &mut device);
        }
        mapped.readings.push(Reading {
            device,
            unit: unit.to_string(),
            metric,
            time_us,
            value,
        });
    }
}
