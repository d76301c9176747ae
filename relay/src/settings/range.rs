//! What values are allowed, beyond what their types say. What needs files or Kafka's client is checked by the parts.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use headwater_config::ByteSize;

use super::{Error, LogSettings, Settings};
use crate::bridge::foreign::settings as foreign;
use crate::kafka::properties;
use crate::rows::settings::Format;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

impl Settings {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// [`Error::Value`], which names the key, its value and what is allowed.
    pub fn check(&self) -> Result<(), Error> {
        LogSettings::filter(&self.log.level)
            .map_err(|why| refused("log.level", format!("{:?}", self.log.level), why))?;
        self.durations()?;
        self.sizes()?;
        self.counts()?;
        self.properties()?;
        foreign::check(&self.foreign).map_err(|(id, why)| refused("foreign", format!("{id:?}"), why))?;
        if self.rows.schema_id.is_some() && self.rows.format != Format::Protobuf {
            let why = "only protobuf rows are framed; write rows.format = \"protobuf\"".to_string();
            return Err(refused(
                "rows.schema_id",
                format!("{:?}", self.rows.schema_id),
                why,
            ));
        }
        self.mqtt.check("mqtt")
    }

    /// Properties that are not an operator's to set.
    fn properties(&self) -> Result<(), Error> {
        let kafka = &self.kafka;
        let given = kafka
            .properties
            .iter()
            .map(|(key, value)| (key, format!("{value:?}")));
        // A secret's value stays one.
        let secret = kafka.secrets.iter().map(|(key, file)| (key, format!("{file:?}")));
        for (key, value) in given.chain(secret) {
            if let Some(why) = properties::refusal(key) {
                let why = format!("it is set by the relay and cannot be changed: {why}");
                return Err(refused("kafka.properties", format!("{key} = {value}"), why));
            }
        }
        Ok(())
    }

    fn durations(&self) -> Result<(), Error> {
        let (bridge, gateway) = (&self.bridge, &self.gateway);
        for (key, value, allowed) in [
            (
                "kafka.timeout",
                self.kafka.timeout,
                100 * MILLISECOND..=5 * MINUTE,
            ),
            (
                "bridge.session_timeout",
                bridge.session_timeout,
                SECOND..=30 * MINUTE,
            ),
            ("bridge.ack_interval", bridge.ack_interval, MILLISECOND..=MINUTE),
            ("bridge.state_interval", bridge.state_interval, MILLISECOND..=HOUR),
            (
                "bridge.checkpoint_interval",
                bridge.checkpoint_interval,
                MILLISECOND..=DAY,
            ),
            (
                "bridge.commands.expiry",
                bridge.commands.expiry,
                SECOND..=30 * DAY,
            ),
            (
                "bridge.commands.longest_wait",
                bridge.commands.longest_wait,
                SECOND..=30 * DAY,
            ),
            (
                "rows.commit_interval",
                self.rows.commit_interval,
                MILLISECOND..=10 * SECOND,
            ),
            (
                "rows.session_timeout",
                self.rows.session_timeout,
                SECOND..=30 * MINUTE,
            ),
            // A shorter one lets clients go that are only far away.
            ("gateway.keep_alive", gateway.keep_alive, SECOND..=DAY),
            (
                "gateway.hello_timeout",
                gateway.hello_timeout,
                100 * MILLISECOND..=HOUR,
            ),
            ("gateway.ack_timeout", gateway.ack_timeout, SECOND..=7 * DAY),
            ("gateway.commands.expiry", gateway.commands.expiry, SECOND..=DAY),
            (
                "gateway.commands.longest_wait",
                gateway.commands.longest_wait,
                SECOND..=30 * DAY,
            ),
            ("enroll.lifetime", self.enroll.lifetime, 10 * SECOND..=3_650 * DAY),
            ("gateway.drain", gateway.drain, Duration::ZERO..=HOUR),
            (
                "gateway.tokens.leeway",
                gateway.tokens.leeway,
                Duration::ZERO..=HOUR,
            ),
        ] {
            within(key, value, &allowed, duration)?;
        }
        Ok(())
    }

    fn sizes(&self) -> Result<(), Error> {
        let (bridge, gateway) = (&self.bridge, &self.gateway);
        let limits = &bridge.limits;
        for (key, value, allowed) in [
            ("bridge.in_flight", bridge.in_flight, KIB..=64 * GIB),
            (
                "bridge.commands.memory",
                bridge.commands.memory,
                256 * KIB..=64 * GIB,
            ),
            ("bridge.limits.frame", limits.frame, KIB..=256 * MIB),
            ("bridge.limits.body", limits.body, KIB..=256 * MIB),
            ("bridge.limits.strings", limits.strings, KIB..=GIB),
            ("gateway.log", gateway.log, KIB..=1024 * GIB),
            ("gateway.cache", gateway.cache, KIB..=1024 * GIB),
            ("gateway.window_bytes", gateway.window_bytes, KIB..=GIB),
            ("gateway.limits.message", gateway.limits.message, KIB..=16 * MIB),
        ] {
            within(key, value.as_u64(), &allowed, |bytes| {
                ByteSize::b(bytes).to_string()
            })?;
        }
        Ok(())
    }

    fn counts(&self) -> Result<(), Error> {
        let (bridge, gateway) = (&self.bridge, &self.gateway);
        let limits = &bridge.limits;
        for (key, value, allowed) in [
            ("bridge.state_rate", bridge.state_rate as usize, 1..=1_000_000),
            ("bridge.commands.per_device", bridge.commands.per_device, 1..=1000),
            (
                "bridge.commands.per_partition",
                bridge.commands.per_partition,
                4..=1000,
            ),
            ("bridge.limits.readings", limits.readings, 1..=10_000_000),
            ("bridge.limits.columns", limits.columns, 1..=1_000_000),
            ("bridge.limits.devices", limits.devices, 1..=10_000_000),
            ("bridge.limits.streams", limits.streams, 1..=65_536),
            ("bridge.limits.series_sets", limits.series_sets, 1..=65_536),
            // Each is a thread with a Kafka client.
            ("gateway.catch_up_readers", gateway.catch_up_readers, 1..=256),
            (
                "gateway.window_frames",
                gateway.window_frames as usize,
                1..=1_000_000,
            ),
            (
                "gateway.commands.per_subject",
                gateway.commands.per_subject,
                1..=10_000,
            ),
            (
                "gateway.commands.in_flight",
                gateway.commands.in_flight,
                1..=100_000,
            ),
            (
                "gateway.commands.rate",
                gateway.commands.rate as usize,
                1..=10_000,
            ),
            (
                "gateway.limits.connections",
                gateway.limits.connections,
                1..=1_000_000,
            ),
            (
                "gateway.limits.subscriptions",
                gateway.limits.subscriptions,
                1..=65_536,
            ),
            (
                "gateway.limits.per_address",
                gateway.limits.per_address,
                0..=1_000_000,
            ),
            (
                "gateway.limits.per_subject",
                gateway.limits.per_subject,
                0..=1_000_000,
            ),
            (
                "enroll.per_address",
                self.enroll.per_address as usize,
                1..=100_000,
            ),
            ("gateway.limits.globs", gateway.limits.globs, 1..=1_000_000),
            // Fewer would not let a client subscribe.
            (
                "gateway.limits.messages",
                gateway.limits.messages as usize,
                10..=1_000_000,
            ),
        ] {
            within(key, value, &allowed, |count| count.to_string())?;
        }
        Ok(())
    }
}

fn within<T: PartialOrd + Copy>(
    key: &'static str,
    value: T,
    allowed: &RangeInclusive<T>,
    text: impl Fn(T) -> String,
) -> Result<(), Error> {
    if allowed.contains(&value) {
        return Ok(());
    }
    let why = format!(
        "allowed is {} to {}",
        text(*allowed.start()),
        text(*allowed.end())
    );
    Err(refused(key, text(value), why))
}

fn duration(value: Duration) -> String {
    humantime::format_duration(value).to_string()
}

fn refused(key: &str, value: impl Display, why: String) -> Error {
    Error::Value {
        key: key.to_string(),
        value: value.to_string(),
        why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::PREFIX;

    fn check(text: &str) -> Result<(), String> {
        headwater_config::parse::<Settings>(text, "relay.toml", PREFIX, [])
            .unwrap()
            .check()
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_value_out_of_range_is_refused_with_key_value_and_what_is_allowed() {
        for (section, key, value, allowed) in [
            ("log", "level", "'loud'", "warn, info"),
            ("kafka", "timeout", "'0s'", "100ms to 5m"),
            ("mqtt", "keep_alive", "'0s'", "1s to 18h 12m 15s"),
            ("mqtt", "keep_alive", "'1500ms'", "whole seconds"),
            ("mqtt", "keep_alive", "'1day'", "1s to 18h 12m 15s"),
            ("mqtt", "password_file", "'/run/x'", "no mqtt.user"),
            ("bridge", "ack_interval", "'0s'", "1ms to 1m"),
            ("bridge", "state_interval", "'0s'", "1ms to 1h"),
            ("bridge", "checkpoint_interval", "'0s'", "1ms to 1day"),
            ("bridge", "state_rate", "0", "1 to 1000000"),
            ("bridge", "in_flight", "'0 B'", "1.0 KiB to 64.0 GiB"),
            ("bridge.commands", "expiry", "'0s'", "1s to 30days"),
            ("bridge.commands", "longest_wait", "'0s'", "1s to 30days"),
            ("bridge.commands", "per_device", "0", "1 to 1000"),
            ("bridge.commands", "per_partition", "2000", "4 to 1000"),
            ("bridge.commands", "memory", "'1 KiB'", "256.0 KiB to"),
            ("bridge.limits", "frame", "'1 GiB'", "1.0 KiB to 256.0 MiB"),
            ("bridge.limits", "body", "'0 B'", "1.0 KiB to"),
            ("bridge.limits", "strings", "'0 B'", "1.0 KiB to"),
            ("bridge.limits", "readings", "0", "1 to 10000000"),
            ("bridge.limits", "columns", "0", "1 to"),
            ("bridge.limits", "devices", "0", "1 to"),
            ("bridge.limits", "streams", "0", "1 to"),
            ("bridge.limits", "series_sets", "0", "1 to"),
            ("gateway", "keep_alive", "'0s'", "1s to 1day"),
            ("gateway", "hello_timeout", "'0s'", "100ms to 1h"),
            ("gateway", "ack_timeout", "'0s'", "1s to 7days"),
            ("gateway", "log", "'0 B'", "1.0 KiB to"),
            ("gateway", "cache", "'0 B'", "1.0 KiB to"),
            ("gateway", "catch_up_readers", "0", "1 to 256"),
            ("gateway", "window_frames", "0", "1 to 1000000"),
            ("gateway", "window_bytes", "'2 GiB'", "1.0 KiB to 1.0 GiB"),
            ("gateway.commands", "expiry", "'0s'", "1s to 1day"),
            ("gateway.commands", "longest_wait", "'0s'", "1s to 30days"),
            ("gateway.commands", "per_subject", "0", "1 to 10000"),
            ("gateway.commands", "in_flight", "0", "1 to 100000"),
            ("gateway.commands", "rate", "0", "1 to 10000"),
            ("gateway.tokens", "leeway", "'2h'", "0s to 1h"),
            ("gateway.limits", "connections", "0", "1 to"),
            ("gateway.limits", "subscriptions", "0", "1 to"),
            ("gateway.limits", "per_address", "1000001", "0 to 1000000"),
            ("gateway.limits", "per_subject", "1000001", "0 to 1000000"),
            ("enroll", "lifetime", "'1s'", "10s to"),
            ("enroll", "per_address", "0", "1 to 100000"),
            ("gateway.limits", "globs", "0", "1 to"),
            ("gateway.limits", "messages", "9", "10 to"),
            ("gateway", "drain", "'2h'", "0s to 1h"),
            ("gateway.limits", "message", "'0 B'", "1.0 KiB to 16.0 MiB"),
        ] {
            let error = check(&format!("[{section}]\n{key} = {value}")).unwrap_err();
            assert!(
                error.starts_with(&format!("{section}.{key} = ")) && error.contains(allowed),
                "{section}.{key}: {error}"
            );
        }
    }

    #[test]
    fn properties_that_would_break_a_promise_are_refused() {
        for (key, value) in [
            ("acks", "0"),
            ("enable.idempotence", "false"),
            ("message.timeout.ms", "100"),
        ] {
            let error = check(&format!("[kafka.properties]\n'{key}' = '{value}'")).unwrap_err();
            assert!(
                error.contains(key) && error.contains("cannot be changed"),
                "{error}"
            );
        }
        let error = check("[kafka.secrets]\n'group.id' = '/run/x'").unwrap_err();
        assert!(
            error.contains("group.id") && error.contains("kafka.prefix"),
            "{error}"
        );
        check("[kafka.properties]\n'linger.ms' = '20'").unwrap();
    }

    #[test]
    fn defaults_and_the_ends_of_a_range_are_allowed() {
        check("").unwrap();
        check("[gateway]\nkeep_alive = '1s'\nwindow_frames = 1\ncatch_up_readers = 256").unwrap();
        check("[mqtt]\nuser = 'relay'\npassword_file = '/run/x'").unwrap();
    }
}
