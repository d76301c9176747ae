//! Devices that answer Modbus, over TCP (the MODBUS Messaging on TCP/IP guide V1.0b) or a serial line (RTU, MODBUS over serial
//! line V1.02). The library speaks the protocol; here is what is asked, when, and what is made of the answers.
//!
//! All devices behind one address share one connection or line and are polled in turn; each sends a sample of its own, so that
//! one that takes long holds back no values of another, only their next poll.

mod device;
mod link;
mod plan;
mod register;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::schedule::{Schedule, sleep_until};
use super::{Cadence, Output, Running, Sample, Source};
use crate::config::ModbusSource;
use crate::error::SourceError;

use device::{Device, Step};
use link::{Link, Target};

/// The source.
pub(crate) struct Modbus {
    target: Target,
    timeout: Duration,
    devices: Vec<Polled>,
}

struct Polled {
    device: Device,
    schedule: Schedule,
    interval_us: i64,
    due_us: i64,
}

impl Modbus {
    pub(crate) fn open(settings: &ModbusSource) -> Result<Self, SourceError> {
        let refused = |key: &'static str, why: String| Err(SourceError::Setting { key, why });
        let target = Target::parse(settings)?;
        if settings.timeout < Duration::from_millis(10) {
            return refused("timeout", format!("{:?} is less than 10ms", settings.timeout));
        }
        if settings.pause > Duration::from_secs(10) {
            return refused("pause", format!("{:?} is more than 10s", settings.pause));
        }
        if !(1..=125).contains(&settings.max_registers) {
            return refused(
                "max_registers",
                format!("{} is not in 1..=125", settings.max_registers),
            );
        }
        if settings.devices.is_empty() {
            let why = "there is none, so that nothing would be read; add a [[source.device]] table";
            return refused("device", why.into());
        }
        let mut devices = Vec::new();
        let (mut ids, mut names) = (HashSet::new(), HashSet::new());
        for device in &settings.devices {
            if target.is_line() && !(1..=247).contains(&device.id) {
                return refused("device.id", format!("{} is not in 1..=247", device.id));
            }
            if !ids.insert(device.id) {
                let why = format!("{} is there twice; put its registers into one table", device.id);
                return refused("device.id", why);
            }
            if device.registers.is_empty() {
                let why = format!(
                    "device {} has none, so that nothing of it would be read",
                    device.id
                );
                return refused("device.register", why);
            }
            let interval = device.interval.unwrap_or(settings.interval);
            if interval < Duration::from_millis(10) {
                return refused("interval", format!("{interval:?} is less than 10ms"));
            }
            let polled = Device::new(settings, device)?;
            for name in polled.names() {
                if !names.insert(name.to_string()) {
                    let why = format!("{name:?} is there twice; give devices a `prefix` each");
                    return refused("metric", why);
                }
            }
            devices.push(Polled {
                device: polled,
                schedule: Schedule::every(interval),
                interval_us: i64::try_from(interval.as_micros()).unwrap_or(i64::MAX),
                due_us: i64::MAX,
            });
        }
        Ok(Self {
            target,
            timeout: settings.timeout,
            devices,
        })
    }
}

impl Source for Modbus {
    fn cadence(&self) -> Cadence {
        let intervals = self.devices.iter().map(|polled| polled.schedule.interval());
        intervals.min().map_or(Cadence::Own, Cadence::Every)
    }

    fn run<'a>(&'a mut self, output: &'a Output) -> Running<'a> {
        Box::pin(async move {
            let mut link = Link::new(&self.target, self.timeout);
            for polled in &mut self.devices {
                polled.due_us = polled.schedule.after(output.clock().now_us());
            }
            loop {
                let now_us = output.clock().now_us();
                for polled in &mut self.devices {
                    polled.follow(now_us);
                }
                let next = self.devices.iter().map(|polled| polled.due_us).min();
                sleep_until(output.clock(), next.unwrap_or(i64::MAX)).await;
                for polled in &mut self.devices {
                    let now_us = output.clock().now_us();
                    let Some(tick) = polled.tick(now_us) else {
                        continue;
                    };
                    let mut readings = Vec::new();
                    let polling = poll(&mut link, &mut polled.device, &mut readings).await;
                    for (fault, news) in polled.device.faults() {
                        output.tell(&fault, news);
                    }
                    output
                        .send(Sample {
                            time_us: tick,
                            readings,
                        })
                        .await;
                    polling?;
                }
            }
        })
    }
}

impl Polled {
    /// A clock that was set back by more than an interval begins the schedule anew.
    fn follow(&mut self, now_us: i64) {
        if self.due_us.saturating_sub(now_us) > self.interval_us {
            self.due_us = self.schedule.after(now_us);
        }
    }

    /// The tick to poll for, if it has come; those that passed meanwhile are skipped.
    fn tick(&mut self, now_us: i64) -> Option<i64> {
        if now_us < self.due_us {
            return None;
        }
        let next = self.schedule.after(now_us);
        let tick = self.due_us.max(next.saturating_sub(self.interval_us));
        self.due_us = next;
        Some(tick)
    }
}

/// One round of requests to one device.
async fn poll(
    link: &mut Link,
    device: &mut Device,
    readings: &mut Vec<super::Reading>,
) -> Result<(), SourceError> {
    let mut at = 0;
    while let Some((place, block)) = device.next(at, Instant::now()) {
        let answer = link.ask(device.id, block).await?;
        at = match device.take(place, answer, Instant::now(), readings) {
            Step::Next => place + 1,
            Step::Again => place,
            Step::Stop => return Ok(()),
        };
    }
    Ok(())
}
