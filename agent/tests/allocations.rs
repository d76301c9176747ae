//! What a reading costs in allocations, from the source to the journal, once its metric is known.

use std::alloc::System;
use std::time::Duration;

use headwater_agent::config::{Config, SimulatedSource, SourceKind, Trust};
use headwater_agent::{Agent, AgentHandle};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Readings that are taken before and while allocations are counted.
const WARM: u64 = 20_000;
const COUNTED: u64 = 200_000;

async fn sampled(handle: &AgentHandle, readings: u64) -> u64 {
    loop {
        let sampled = handle.stats().sampled_readings;
        if sampled >= readings {
            return sampled;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// 80 sensors at 1 kHz, scaled and watched by a rule, into batches in memory; no broker.
#[tokio::test(flavor = "current_thread")]
async fn a_known_metric_costs_no_allocation_a_reading() {
    let mut config: Config = headwater_config::parse(
        "[[metric]]\nmatch = '*'\nscale = 0.5\nmin = -1e9\nmax = 1e9\n",
        "agent.toml",
        "NONE_",
        [],
    )
    .unwrap();
    config.device = Some("gw".into());
    config.uplink.broker = "mqtt://127.0.0.1:1".into();
    config.clock.trust = Trust::Always;
    config.sources.push(
        SourceKind::Simulated(SimulatedSource {
            interval: Duration::from_millis(1),
            sensors: 80,
            ..Default::default()
        })
        .into(),
    );
    let (agent, handle) = Agent::new(config).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = agent.run(async {
        let _ = stopped.await;
    });
    let counting = async {
        let begin = sampled(&handle, WARM).await;
        let region = Region::new(ALLOCATOR);
        let end = sampled(&handle, begin + COUNTED).await;
        let change = region.change();
        let _ = stop.send(());
        (end - begin, change)
    };
    let (result, (readings, change)) = tokio::join!(running, counting);
    result.unwrap();
    let each = change.allocations as f64 / readings as f64;
    println!(
        "{readings} readings: {} allocations, {each:.3} a reading",
        change.allocations
    );
    // A sample's list, and the columns of a batch; nothing for the readings themselves.
    assert!(each < 0.25, "{each:.3} allocations a reading");
}
