//! `/v1/live`: the WebSocket handshake (RFC 6455 §4.2).

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use hyper_util::rt::TokioIo;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::sync::CancellationToken;

use super::caller::{self, Caller};
use super::close::Close;
use super::deflate::negotiation::negotiate;
use super::hub::Hub;
use super::metrics::{Code, Metrics};
use super::rate::Rates;
use super::seats::{Seat, Seats};
use super::settings::GatewaySettings;
use super::socket::Socket;

/// The subprotocol.
const PROTOCOL: &str = "headwater.v1";
/// A subprotocol that begins so carries the token.
const TOKEN: &str = "headwater.token.";

/// Nobody's address.
const UNKNOWN: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));

/// What the handshake needs to know.
#[derive(Debug)]
pub struct Live {
    /// The section `gateway`.
    pub settings: GatewaySettings,
    /// Filled when the log has been read up to its end.
    pub hub: OnceLock<Arc<Hub>>,
    /// One permit a connection.
    pub permits: Arc<Semaphore>,
    /// Connections of each address.
    pub addresses: Seats<IpAddr>,
    /// How many of them may begin in a second.
    pub address_connects: Rates<IpAddr>,
    /// Ends all connections.
    pub shutdown: CancellationToken,
    /// No keys are configured, and the gateway listens on loopback: then only a page of this machine may ask.
    pub local: bool,
}

/// A handshake that is refused before there is a WebSocket.
struct Refusal {
    status: StatusCode,
    reason: &'static str,
    text: String,
}

/// Serves a request for the live channel.
pub async fn live(State(live): State<Arc<Live>>, mut request: Request) -> Response {
    let upgrade = hyper::upgrade::on(&mut request);
    let handshake = match handshake(&request, &live) {
        Ok(handshake) => handshake,
        Err(refusal) => {
            if let Some(hub) = live.hub.get() {
                hub.metrics.refused(refusal.reason);
            }
            tracing::debug!(reason = refusal.reason, "handshake refused: {}", refusal.text);
            let version = [(header::SEC_WEBSOCKET_VERSION, "13")];
            return (refusal.status, version, refusal.text + "\n").into_response();
        }
    };
    let response = handshake.response();
    tokio::spawn(async move {
        let transport = match upgrade.await {
            Ok(upgraded) => TokioIo::new(upgraded),
            Err(error) => return tracing::debug!("the client left during the handshake: {error}"),
        };
        let inbound = usize::try_from(live.settings.limits.message.as_u64()).unwrap_or(usize::MAX);
        let mut socket = Socket::new(transport, handshake.extensions.is_some(), inbound).await;
        let Some(hub) = live.hub.get() else {
            let close = socket
                .goodbye("the gateway has not read Kafka up to its end yet", Vec::new())
                .await;
            return socket.close(close).await;
        };
        let permit = match admit(&live, caller::site(handshake.caller.peer.ip())) {
            Ok(permit) => permit,
            Err((reason, text)) => {
                let code = Close::LIMIT.into();
                hub.metrics.refused(reason);
                hub.metrics.closes.get_or_create(&Code { code }).inc();
                return socket.close(Close::new(Close::LIMIT, text)).await;
            }
        };
        let open = Open::new(&hub.metrics);
        socket
            .serve(hub, handshake.caller, handshake.token, &live.shutdown)
            .await;
        drop((open, permit));
    });
    response
}

/// Room for another connection of this address; otherwise the limit that was reached, and in words.
fn admit(
    live: &Live,
    address: IpAddr,
) -> Result<(OwnedSemaphorePermit, Seat<IpAddr>), (&'static str, String)> {
    let limits = &live.settings.limits;
    if !live.address_connects.take(&address, 1, Instant::now()) {
        let most = limits.connects_per_address;
        let text = format!("over {most} connections a second of your address");
        return Err(("address_rate", text));
    }
    let permit = Arc::clone(&live.permits).try_acquire_owned();
    let permit = permit.map_err(|_| {
        (
            "connections",
            format!("{} connections are open", limits.connections),
        )
    })?;
    let seat = live.addresses.take(&address).ok_or_else(|| {
        let text = format!("{} connections of your address are open", limits.per_address);
        ("address", text)
    })?;
    Ok((permit, seat))
}

/// Counts a connection while it lives.
struct Open<'a>(&'a Metrics);

impl<'a> Open<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.connections.inc();
        Self(metrics)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}

struct Handshake {
    caller: Caller,
    accept: String,
    extensions: Option<String>,
    token: Option<String>,
}

impl Handshake {
    fn response(&self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
        // Both are of characters that a header may hold.
        if let Ok(accept) = HeaderValue::from_str(&self.accept) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        if let Some(extensions) = self
            .extensions
            .as_deref()
            .and_then(|text| HeaderValue::from_str(text).ok())
        {
            headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, extensions);
        }
        response
    }
}

fn handshake(request: &Request, live: &Live) -> Result<Handshake, Refusal> {
    let headers = request.headers();
    let refuse = |status, reason, text: &str| {
        Err(Refusal {
            status,
            reason,
            text: text.to_string(),
        })
    };
    let upgrade = listed(headers, header::UPGRADE).any(|item| item.eq_ignore_ascii_case("websocket"))
        && listed(headers, header::CONNECTION).any(|item| item.eq_ignore_ascii_case("upgrade"));
    if request.method() != Method::GET || request.version() != Version::HTTP_11 || !upgrade {
        let text = "this address speaks WebSocket, subprotocol headwater.v1";
        return refuse(StatusCode::UPGRADE_REQUIRED, "not_websocket", text);
    }
    if headers
        .get(header::SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        return refuse(
            StatusCode::UPGRADE_REQUIRED,
            "version",
            "WebSocket version 13 is required",
        );
    }
    let Some(key) = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .filter(|key| key.len() == 24)
    else {
        return refuse(
            StatusCode::BAD_REQUEST,
            "key",
            "Sec-WebSocket-Key is missing or of a wrong length",
        );
    };
    if let Err(text) = origin(headers, &live.settings, live.local) {
        return Err(Refusal {
            status: StatusCode::FORBIDDEN,
            reason: "origin",
            text,
        });
    }
    let protocols = || listed(headers, header::SEC_WEBSOCKET_PROTOCOL);
    if !protocols().any(|protocol| protocol == PROTOCOL) {
        let text = "the subprotocol headwater.v1 must be offered";
        return refuse(StatusCode::BAD_REQUEST, "subprotocol", text);
    }
    let offers = headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS);
    let peer = request.extensions().get::<SocketAddr>().copied();
    Ok(Handshake {
        // Whoever accepts connections says whose they are.
        caller: Caller::new(peer.unwrap_or(UNKNOWN), headers),
        accept: derive_accept_key(key.as_bytes()),
        extensions: negotiate(offers.iter().filter_map(|value| value.to_str().ok())),
        token: protocols()
            .find_map(|protocol| protocol.strip_prefix(TOKEN))
            .map(str::to_string),
    })
}

/// The items of a header that is a list, over all its lines.
fn listed(headers: &HeaderMap, name: header::HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// Whether the page that asks may. A browser lets any page connect anywhere, and says which page it is.
fn origin(headers: &HeaderMap, settings: &GatewaySettings, local: bool) -> Result<(), String> {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    // A name that was made to point at this machine is not this machine's: there is no token that could tell.
    if local && !is_loopback(host) {
        return Err(format!(
            "host {host:?}: without gateway.keys only this machine is served"
        ));
    }
    // Programs that are no browsers say nothing.
    let Some(origin) = headers.get(header::ORIGIN) else {
        return Ok(());
    };
    let origin = origin.to_str().unwrap_or_default();
    let own = origin
        .split_once("://")
        .is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host));
    let allowed = |allowed: &String| allowed == "*" || allowed.eq_ignore_ascii_case(origin);
    if own || settings.allowed_origins.iter().any(allowed) {
        return Ok(());
    }
    Err(format!(
        "origin {origin:?} may not connect (gateway.allowed_origins)"
    ))
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let address = name.parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(host: &str, origin_header: Option<&str>, allowed: &[&str], local: bool) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        if let Some(origin) = origin_header {
            headers.insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        let allowed_origins = allowed.iter().map(|text| (*text).to_string()).collect();
        let settings = GatewaySettings {
            allowed_origins,
            ..GatewaySettings::default()
        };
        origin(&headers, &settings, local).is_ok()
    }

    #[test]
    fn a_page_of_another_origin_is_refused_unless_allowed() {
        assert!(check("gw.example:8080", None, &[], false));
        assert!(check(
            "gw.example:8080",
            Some("http://gw.example:8080"),
            &[],
            false
        ));
        assert!(!check("gw.example:8080", Some("http://gw.example"), &[], false));
        assert!(!check("gw.example", Some("https://evil.example"), &[], false));
        assert!(!check("gw.example", Some("null"), &[], false));
        assert!(check(
            "gw.example",
            Some("https://dash.example"),
            &["https://dash.example"],
            false
        ));
        assert!(check("gw.example", Some("https://any.example"), &["*"], false));
    }

    #[test]
    fn without_keys_a_name_that_points_here_is_not_here() {
        for host in ["localhost:8080", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST"] {
            assert!(check(host, Some(&format!("http://{host}")), &[], true), "{host}");
        }
        for host in ["evil.example:8080", "10.0.0.1", "[2001:db8::1]:80"] {
            assert!(!check(host, Some(&format!("http://{host}")), &[], true), "{host}");
        }
    }
}
