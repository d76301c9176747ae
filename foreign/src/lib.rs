//! Readings out of payloads that other programs' formats shape: JSON of any shape, Influx line protocol, `name value`
//! and `name=value` lines, columns, lines of a fixed form, one bare value. Pure: bytes and a topic in, readings out.
//!
//! A [`Mapping`] is made once from its [`Settings`], and then maps payload after payload:
//!
//! - **JSON** is walked down to its scalars; the keys on the way, joined by a separator, are a reading's key. Where the
//!   payload holds records (an array, `{"data": [...]}`), pointers as of RFC 6901 say where records, values, times and units are.
//! - A **name** is made from a template: the key, segments of the topic, texts of the record, tags.
//! - **A metric keeps one type**: every JSON number is a double, the one nearest to its text, whether it is written `21`
//!   or `21.0`; an integer only where the settings say so. Texts are texts, unless the settings say which of them
//!   mean true and false. Line protocol types its fields itself.
//! - **Times** are what the payload says, or none: then the moment of arrival counts. A reading is not given up for a time
//!   that makes no sense (a device that has not yet been told the time): it goes without one, and [`Mapped::untimed`] counts it.
//! - **Nothing is unbounded**, and nothing is dropped silently: what is refused is counted, with the first reason.

mod columns;
mod fields;
mod form;
mod influx;
mod json;
mod mapping;
mod pairs;
mod patterns;
mod refusal;
mod scalar;
mod settings;
#[cfg(feature = "sparkplug")]
pub mod sparkplug;
mod template;
mod time;
pub mod topic;

pub use mapping::{Mapped, Mapping, Reading};
pub use refusal::{Refusal, SettingsError};
pub use settings::{Format, Settings, TimeFormat, Type};
pub use time::UtcOffset;
