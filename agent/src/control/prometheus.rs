//! Figures for Prometheus over HTTP: `GET /metrics`, in the text format 0.0.4 that every Prometheus and every agent of others reads. Made anew
//! for each request from the agent's figures, so a scrape costs the pipeline nothing. The format is a dozen lines to write; a
//! library would keep a second copy of each figure in a registry.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, Response, StatusCode};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::AgentHandle;
use crate::stats::{JournalMode, SourceState};
use crate::status::Status;
use crate::{http, task};

/// Connections at once; further ones wait in the listener's queue.
const AT_ONCE: usize = 4;
/// How long a connection may stand.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(5);

/// The port, served until this is dropped.
pub(crate) struct Port {
    address: SocketAddr,
    server: JoinHandle<()>,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Port {
    /// Opens the port, and serves it.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn open(address: SocketAddr, handle: AgentHandle) -> std::io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let server = task::spawn(serve(TcpListener::from_std(listener)?, handle));
        Ok(Self { address, server })
    }

    /// Where it is, as the settings have it.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn serve(listener: TcpListener, handle: AgentHandle) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < AT_ONCE => match accepted {
                Ok((stream, _)) => {
                    let handle = handle.clone();
                    let answering: http::Answering =
                        Box::new(move |request| task::boxed(answer(request, handle.clone())));
                    let connection = http::serve(stream, HEAD, answering);
                    // What goes wrong on it is the client's business.
                    connections.spawn(task::boxed(async { drop(tokio::time::timeout(PATIENCE, connection).await) }));
                }
                Err(error) => {
                    log::warn!("the port for Prometheus: {error}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(request: Request<Incoming>, handle: AgentHandle) -> Response<String> {
    let mut response = Response::new(String::new());
    if request.method() != Method::GET {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    } else if request.uri().path() != "/metrics" {
        *response.status_mut() = StatusCode::NOT_FOUND;
        *response.body_mut() = "the figures are at /metrics\n".into();
    } else {
        let text = "text/plain; version=0.0.4; charset=utf-8";
        response
            .headers_mut()
            .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(text));
        *response.body_mut() = exposition(&handle.status().await);
    }
    response
}

/// The figures, with names and units as Prometheus wants them.
fn exposition(status: &Status) -> String {
    let stats = &status.stats;
    let mut text = String::with_capacity(8 * 1024);
    let seconds = |us: i64| us as f64 / 1e6;
    let flag = |on: bool| f64::from(u8::from(on));
    let info = format!(
        "{{device=\"{}\",version=\"{}\",config_hash=\"{}\"}}",
        escape(&status.device),
        escape(&status.version),
        escape(&status.settings.hash)
    );
    metric(
        &mut text,
        "headwater_agent_info",
        "gauge",
        "What runs.",
        &[(info, 1.0)],
    );
    let age = match stats.oldest_us {
        0 => 0.0,
        oldest_us => seconds(status.now_us.saturating_sub(oldest_us)).max(0.0),
    };
    let count = |value: u64| value as f64;
    let plain: &[(&str, &str, f64)] = &[
        (
            "connected",
            "Whether the relay has answered this connection.",
            flag(stats.connected),
        ),
        (
            "pipeline_answers",
            "Whether the task that moves readings answers.",
            flag(status.answering),
        ),
        (
            "readings_sampled_total",
            "Readings taken from sources.",
            count(stats.sampled_readings),
        ),
        (
            "readings_acknowledged_total",
            "Readings that are in Kafka.",
            count(stats.acked_readings),
        ),
        (
            "readings_lost_total",
            "Readings given up.",
            count(stats.lost_readings),
        ),
        (
            "readings_waiting",
            "Readings that are not acknowledged.",
            count(stats.waiting_readings),
        ),
        (
            "batches_waiting",
            "Closed batches that are not acknowledged.",
            count(stats.waiting_batches),
        ),
        (
            "waiting_bytes",
            "Encoded bytes of the batches that wait.",
            count(stats.waiting_bytes),
        ),
        (
            "waiting_oldest_seconds",
            "Age of the oldest reading that waits.",
            age,
        ),
        (
            "batches_sent_total",
            "Batches and loss records sent, each time.",
            count(stats.sent_batches),
        ),
        (
            "batches_resent_total",
            "Batches sent again.",
            count(stats.resent_batches),
        ),
        (
            "acknowledgements_ignored_total",
            "Acknowledgements that made no sense.",
            count(stats.ignored_acks),
        ),
        ("reconnects_total", "Connections lost.", count(stats.reconnects)),
        (
            "link_sent_bytes_total",
            "Bytes sent through the socket.",
            count(stats.link_sent_bytes),
        ),
        (
            "link_received_bytes_total",
            "Bytes received through the socket.",
            count(stats.link_received_bytes),
        ),
        (
            "other_boxes",
            "Other boxes under this device's name.",
            count(stats.other_boxes),
        ),
        (
            "thinning_factor",
            "Of so many readings one is taken.",
            f64::from(stats.thinning),
        ),
        (
            "journal_flash_bytes",
            "Bytes that the journal takes on flash.",
            count(stats.journal.flash_bytes),
        ),
        (
            "flash_written_bytes_total",
            "Bytes written to flash.",
            count(stats.journal.flash_written_bytes),
        ),
        (
            "journal_fallback",
            "Whether the journal is in memory because flash cannot be written.",
            flag(stats.journal.mode == JournalMode::Fallback),
        ),
        (
            "journal_quarantined_total",
            "Unreadable pieces set aside.",
            count(stats.journal.quarantined),
        ),
        (
            "journal_unfinished_total",
            "Writes that a power cut left unfinished; nothing of them had been promised.",
            count(stats.journal.unfinished),
        ),
        (
            "clock_synchronised",
            "Whether the clock is known to be right.",
            flag(stats.clock.synchronised),
        ),
        (
            "clock_offset_seconds",
            "By how much readings were last corrected.",
            seconds(stats.clock.offset_us),
        ),
        (
            "clock_relay_ahead_seconds",
            "By how much the relay's clock is ahead of this one; 0 until it was told.",
            seconds(stats.clock.relay_ahead_us.unwrap_or(0)),
        ),
        (
            "budget_used_bytes",
            "Bytes used of this month's budget.",
            count(stats.budget.used_bytes),
        ),
        (
            "budget_limit_bytes",
            "This month's budget; 0: none.",
            count(stats.budget.limit_bytes),
        ),
    ];
    for (name, help, value) in plain {
        let kind = if name.ends_with("_total") {
            "counter"
        } else {
            "gauge"
        };
        metric(
            &mut text,
            &format!("headwater_agent_{name}"),
            kind,
            help,
            &[(String::new(), *value)],
        );
    }
    let per_source = |value: &dyn Fn(usize) -> f64| -> Vec<(String, f64)> {
        let sources = status.sources.iter().enumerate();
        sources
            .map(|(at, source)| (format!("{{source=\"{}\"}}", escape(&source.name)), value(at)))
            .collect()
    };
    let sources = &status.sources;
    let readings = per_source(&|at| sources[at].readings as f64);
    metric(
        &mut text,
        "headwater_agent_source_readings_total",
        "counter",
        "Readings of a source.",
        &readings,
    );
    let failing = per_source(&|at| {
        flag(matches!(
            sources[at].state,
            SourceState::Failing | SourceState::Stalled
        ))
    });
    metric(
        &mut text,
        "headwater_agent_source_failing",
        "gauge",
        "Whether a source fails.",
        &failing,
    );
    let failures = per_source(&|at| sources[at].failures as f64);
    metric(
        &mut text,
        "headwater_agent_source_failures_total",
        "counter",
        "Failures of a source.",
        &failures,
    );
    let plain = [(String::new(), status.rss_bytes as f64)];
    metric(
        &mut text,
        "process_resident_memory_bytes",
        "gauge",
        "Resident memory.",
        &plain,
    );
    let plain = [(String::new(), status.cpu_us as f64 / 1e6)];
    metric(
        &mut text,
        "process_cpu_seconds_total",
        "counter",
        "Processor time.",
        &plain,
    );
    let plain = [(String::new(), seconds(status.started_us))];
    metric(
        &mut text,
        "process_start_time_seconds",
        "gauge",
        "When it was started.",
        &plain,
    );
    text
}

fn metric(text: &mut String, name: &str, kind: &str, help: &str, samples: &[(String, f64)]) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in samples {
        let _ = writeln!(text, "{name}{labels} {value}");
    }
}

/// A label's value.
fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{AgentStats, SourceStats};

    #[test]
    fn each_figure_has_its_help_its_type_and_a_number() {
        let status = Status {
            device: "gw \"1\"\n".into(),
            now_us: 90_000_000,
            stats: AgentStats {
                acked_readings: 12_345_678_901,
                oldest_us: 60_500_000,
                ..AgentStats::default()
            },
            sources: vec![SourceStats {
                name: "boiler".into(),
                readings: 7,
                ..SourceStats::default()
            }],
            ..Status::default()
        };
        let text = exposition(&status);
        for line in [
            "headwater_agent_readings_acknowledged_total 12345678901",
            "headwater_agent_waiting_oldest_seconds 29.5",
            "headwater_agent_source_readings_total{source=\"boiler\"} 7",
            "# TYPE headwater_agent_readings_waiting gauge",
            "# TYPE headwater_agent_reconnects_total counter",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.contains("device=\"gw \\\"1\\\"\\n\""));
        let mut names = std::collections::HashSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                assert!(
                    names.insert(rest.split(' ').next().unwrap().to_string()),
                    "{line} comes twice"
                );
            } else if !line.starts_with('#') {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert!(value.parse::<f64>().is_ok(), "{line}");
                assert!(
                    names.contains(name.split('{').next().unwrap()),
                    "{line} comes before its type"
                );
            }
        }
    }
}
