//! The demo's agents: one on this machine's real figures, one on a recorded trace, the others on simulated sensors.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use headwater_agent::config::{
    Backoff, Batch, Clock, ReplaySource, SimulatedSource, SourceKind, SystemSource, Trace, Trust, Uplink,
};
use headwater_agent::{Agent, AgentHandle, Config};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::link::Link;

const TRACE: &str = include_str!("../../../bench/data/sensors-1hz.csv");
/// The units of the trace's columns (UCUM).
const UNITS: [(&str, &str); 7] = [
    ("cabinet_temp_c", "Cel"),
    ("outside_temp_c", "Cel"),
    ("humidity_pct", "%"),
    ("pressure_hpa", "hPa"),
    ("battery_v", "V"),
    ("load_a", "A"),
    ("flow_l_min", "L/min"),
];

/// Where an agent's readings come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// This machine.
    System,
    /// A recorded trace.
    Replay,
    /// Made-up sensors.
    Simulated,
}

/// An agent of the demo.
#[derive(Clone, Debug)]
pub struct Member {
    /// Where its readings come from.
    pub kind: Kind,
    /// Its figures.
    pub handle: AgentHandle,
    /// Its link to the broker.
    pub link: Link,
}

/// Name and kind of the agent with this number, from 0.
pub fn name(number: usize) -> (String, Kind) {
    match number {
        0 => ("this-machine".into(), Kind::System),
        1 => ("cabinet".into(), Kind::Replay),
        number => (format!("gateway-{:02}", number - 1), Kind::Simulated),
    }
}

/// Starts `count` agents on `tasks`, each with a link of its own to `broker`.
///
/// # Errors
/// If one cannot be set up.
pub async fn start(
    count: usize,
    broker: &str,
    tasks: &mut JoinSet<Result<(), headwater_agent::Error>>,
    shutdown: &CancellationToken,
) -> Result<Vec<Member>, Error> {
    let mut members = Vec::with_capacity(count);
    for number in 0..count {
        let (device, kind) = name(number);
        let link = Link::new(broker.to_string()).await.map_err(Error::System)?;
        let config = Config {
            device: Some(device.clone()),
            // A newcomer should see something move at once.
            batch: Batch {
                age: Duration::from_millis(250),
                ..Batch::default()
            },
            uplink: Uplink {
                broker: format!("mqtt://{}", link.address()).into(),
                // Another demo may use the same broker.
                client_id: Some(format!("{device}-{}", std::process::id())),
                ack_timeout: Duration::from_secs(3),
                backoff: Backoff {
                    min: Duration::from_millis(200),
                    max: Duration::from_secs(2),
                },
                stop_timeout: Duration::from_secs(1),
                ..Uplink::default()
            },
            // All of this runs on one machine: its clock is as right as any.
            clock: Clock {
                trust: Trust::Always,
                ..Clock::default()
            },
            sources: vec![source(kind, number).into()],
            ..Config::default()
        };
        let (agent, handle) = Agent::new(config).map_err(|why| Error::Agent { device, why })?;
        let stop = shutdown.clone();
        tasks.spawn(async move { agent.run(async move { stop.cancelled().await }).await });
        members.push(Member { kind, handle, link });
    }
    Ok(members)
}

fn source(kind: Kind, number: usize) -> SourceKind {
    let second = Duration::from_secs(1);
    match kind {
        Kind::System => SourceKind::System(SystemSource {
            interval: second,
            ..SystemSource::default()
        }),
        Kind::Replay => {
            let units: BTreeMap<_, _> = UNITS
                .iter()
                .map(|(metric, unit)| ((*metric).to_string(), (*unit).to_string()))
                .collect();
            SourceKind::Replay(ReplaySource {
                trace: Trace::Text(Cow::Borrowed(TRACE)),
                units,
                ..Default::default()
            })
        }
        Kind::Simulated => SourceKind::Simulated(SimulatedSource {
            interval: second,
            seed: Some(number as u64),
            ..SimulatedSource::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_agent_has_a_name_of_its_own_that_is_allowed() {
        let names: std::collections::BTreeSet<_> = (0..1000).map(|number| name(number).0).collect();
        assert_eq!(names.len(), 1000);
        for name in names {
            headwater_proto::name::check_device(&name).unwrap();
        }
    }

    #[test]
    fn units_are_of_columns_that_the_trace_has() {
        let header = TRACE.lines().next().unwrap();
        for (metric, _) in UNITS {
            assert!(header.split(',').any(|column| column == metric), "{metric}");
        }
    }
}
