//! An HTTP server for local programs: JSON at `/v1/readings`; Influx line protocol at `/write` and `/api/v2/write`, so that
//! whatever writes to InfluxDB can write here.
//!
//! `204` means that every reading has been taken into the agent's batch: from there on it is the agent's. Anything else says in
//! its body what was refused and why; what could be read of a request is taken all the same, as InfluxDB does. A request
//! with more readings than the source's share allows now is refused whole (`429`), and one that the agent does not get to is
//! (`503`), with the time after which to come again: so nothing waits here, and nothing is taken twice.

mod answer;
mod gzip;
mod request;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use headwater_foreign::{Format, Mapping, Settings, TimeFormat};
use hyper::body::{Body, Incoming};
use hyper::{Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::foreign::{Foreign, Metrics};
use super::{Cadence, Output, Running, Source, listen};
use crate::config::HttpSource;
use crate::error::SourceError;
use crate::{http, task};

use answer::Answer;
use request::{Asked, Packing};

/// How long the agent may take to take a request's readings.
const BEHIND: Duration = Duration::from_secs(5);
/// After an accept that failed: out of descriptors, most likely.
const PAUSE: Duration = Duration::from_millis(500);

/// The source.
pub(crate) struct Http {
    address: SocketAddr,
    settings: HttpSource,
    service: Arc<Service>,
}

/// What connections share.
struct Service {
    token: Option<String>,
    max_body: usize,
    timeout: Duration,
    json: Foreign,
    /// By the unit of times: ns, us, ms, s.
    lines: [Foreign; 4],
}

const UNITS: [TimeFormat; 4] = [TimeFormat::Ns, TimeFormat::Us, TimeFormat::Ms, TimeFormat::S];

impl Http {
    pub(crate) fn open(settings: &HttpSource) -> Result<Self, SourceError> {
        let wrong = |key, why: String| Err(SourceError::Setting { key, why });
        let address = listen::address(&settings.listen, &settings.listen)?;
        if listen::is_remote(&address) && settings.token_file.is_none() {
            let why = format!(
                "{address} can be reached by other machines, any of which could hand in readings; listen on 127.0.0.1, or set token_file"
            );
            return wrong("listen", why);
        }
        if !(1..=16 << 20).contains(&settings.max_body.as_u64()) {
            return wrong(
                "max_body",
                format!("{} is not in 1 B..=16 MiB", settings.max_body),
            );
        }
        if !(1..=1_000).contains(&settings.connections) {
            return wrong(
                "connections",
                format!("{} is not in 1..=1000", settings.connections),
            );
        }
        if settings.timeout.is_zero() {
            return wrong("timeout", "0 would answer nobody".into());
        }
        if settings.max_readings == 0 {
            return wrong("max_readings", "0 would take nothing; give at least 1".into());
        }
        if settings.map.format != Format::Influx {
            return wrong(
                "map",
                "`format`: what /write takes is line protocol; leave it out".into(),
            );
        }
        let token = settings.token_file.as_ref().map(|path| {
            let token = headwater_config::secret(path).map_err(|error| error.to_string())?;
            if token.is_empty() {
                return Err(format!("{} is empty", path.display()));
            }
            Ok(token)
        });
        let token = token.transpose().map_err(|why| SourceError::Setting {
            key: "token_file",
            why,
        })?;
        let lines = Settings {
            max_payload: settings.max_body,
            max_readings: settings.max_readings,
            ..settings.map.clone()
        };
        let json = Settings {
            format: Format::Json,
            name: None,
            value: "/metrics".into(),
            time: Some("/time".into()),
            ..lines.clone()
        };
        let metrics = Metrics::default();
        let mapping = Mapping::new(&lines, false).map_err(|error| SourceError::Setting {
            key: "map",
            why: error.to_string(),
        })?;
        let in_units = |unit| Foreign::of(mapping.clone().with_time_format(unit), &lines, &metrics);
        let service = Service {
            token,
            max_body: settings.max_body.as_u64() as usize,
            timeout: settings.timeout,
            json: Foreign::new(&json, false, &metrics)?,
            lines: UNITS.map(in_units),
        };
        Ok(Self {
            address,
            settings: settings.clone(),
            service: Arc::new(service),
        })
    }

    async fn serve(&self, listener: TcpListener, output: &Output) -> Result<(), SourceError> {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) if connections.len() < self.settings.connections => {
                        connections.spawn(task::boxed(serve_one(stream, self.service.clone(), output.clone())));
                    }
                    // Closed at once, so that its program sees it.
                    Ok((_, peer)) => output.report(&format_args!(
                        "{peer} is one more than the {} connections allowed", self.settings.connections
                    )),
                    Err(error) => {
                        output.report(&format_args!("no connection can be accepted: {error}"));
                        tokio::time::sleep(PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

impl Source for Http {
    fn cadence(&self) -> Cadence {
        Cadence::Pushed
    }

    fn run<'a>(&'a mut self, output: &'a Output) -> Running<'a> {
        Box::pin(async move {
            let listener = TcpListener::bind(self.address)
                .await
                .map_err(|error| listen::failed(&self.settings.listen, &error))?;
            log::info!("listening on http://{}", self.address);
            output.alive();
            self.serve(listener, output).await
        })
    }
}

async fn serve_one(stream: TcpStream, service: Arc<Service>, output: Output) {
    let head_timeout = service.timeout;
    let answering: http::Answering = Box::new(move |request| {
        let (service, output) = (service.clone(), output.clone());
        task::boxed(async move {
            match service.answer(request, &output).await {
                Ok(response) => response,
                Err(answer) => answer.response(),
            }
        })
    });
    if let Err(error) = http::serve(stream, head_timeout, answering).await {
        log::debug!("a connection has ended: {error}");
    }
}

impl Service {
    async fn answer(&self, request: Request<Incoming>, output: &Output) -> Result<Response<String>, Answer> {
        let (head, mut body) = request.into_parts();
        let asked = request::asked(&head.method, &head.uri)?;
        let foreign = match asked {
            Asked::Ping => return Ok(ping()),
            Asked::Readings => &self.json,
            Asked::Lines(unit) => {
                let index = UNITS.iter().position(|known| *known == unit).unwrap_or(0);
                &self.lines[index]
            }
        };
        request::may(&head.headers, self.token.as_deref())?;
        let packing = request::packing(&head.headers)?;
        if body.size_hint().lower() > self.max_body as u64 {
            return Err(self.long());
        }
        let body = tokio::time::timeout(self.timeout, self.read(&mut body))
            .await
            .map_err(|_| {
                Answer::refused(408, format!("the body did not come within {:?}", self.timeout))
            })??;
        let body = match packing {
            Packing::Plain => body,
            Packing::Gzip => gzip::inflate(&body, self.max_body).map_err(|bad| match bad {
                gzip::Bad::Long => self.long(),
                gzip::Bad::Gzip => Answer::refused(400, "the body is not whole gzip of one member".into()),
            })?,
        };
        take(foreign, &body, output).await.map(Answer::response)
    }

    async fn read(&self, body: &mut Incoming) -> Result<Vec<u8>, Answer> {
        let mut read = Vec::new();
        while let Some(frame) = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await {
            let frame =
                frame.map_err(|error| Answer::refused(400, format!("the body cannot be read: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
            if read.len() + data.len() > self.max_body {
                return Err(self.long());
            }
            read.extend_from_slice(&data);
        }
        Ok(read)
    }

    fn long(&self) -> Answer {
        Answer::refused(
            413,
            format!("the body is longer than max_body ({} bytes)", self.max_body),
        )
    }
}

/// Hands over what a body holds.
async fn take(foreign: &Foreign, body: &[u8], output: &Output) -> Result<Answer, Answer> {
    let taken = foreign.map(output.clock().now_us(), "", body);
    match output.room(taken.readings) {
        Some(Duration::ZERO) => {}
        Some(wait) => {
            let why =
                "more than this source's rate of readings; nothing of this request was taken".to_string();
            return Err(Answer::later(429, why, wait));
        }
        None => {
            let why = format!(
                "{} readings at once are more than this source's rate ever allows; send fewer in a request",
                taken.readings
            );
            return Err(Answer::refused(413, why));
        }
    }
    taken.report("", output);
    let refusal = taken.refusal;
    let mut handed_over = 0;
    let mut dropped = 0;
    let send = async {
        for sample in taken.samples {
            let readings = sample.readings.len();
            dropped += output.send(sample).await;
            handed_over += readings;
        }
    };
    if tokio::time::timeout(BEHIND, send).await.is_err() {
        let why = format!(
            "the agent is behind; {handed_over} of {} readings were taken",
            taken.readings
        );
        return Err(Answer::later(503, why, BEHIND));
    }
    if let Some(refusal) = refusal {
        let why = format!(
            "{} readings were taken, {} line(s) or value(s) were refused: {refusal}",
            taken.readings - dropped,
            taken.refused
        );
        return Err(Answer::refused(400, why));
    }
    if dropped > 0 {
        // Other requests took the room meanwhile.
        let why = format!(
            "more than this source's rate of readings; {dropped} of {} were dropped",
            taken.readings
        );
        return Err(Answer::later(429, why, Duration::from_secs(1)));
    }
    Ok(Answer::taken())
}

/// What clients of InfluxDB look for before they write.
fn ping() -> Response<String> {
    let mut response = Answer::taken().response();
    let version = hyper::header::HeaderValue::from_static(concat!("headwater-", env!("CARGO_PKG_VERSION")));
    response.headers_mut().insert("x-influxdb-version", version);
    response
}

#[cfg(test)]
mod tests;
