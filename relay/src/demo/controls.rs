//! What the page can do to the demo: see its agents, and cut or mend their links.
//!
//! These routes exist in the demo only, which listens on loopback only. Since one of them changes things, it is refused
//! to pages of other origins, and to names other than loopback's, so that no name of a stranger's that points here passes.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use super::agents::{Kind, Member};

/// The routes.
pub fn routes(members: Vec<Member>) -> Router {
    Router::new()
        .route("/demo/agents", get(list))
        .route("/demo/agents/{device}/link", post(set))
        .with_state(Arc::new(members))
}

#[derive(Serialize)]
struct Entry<'a> {
    device: &'a str,
    kind: Kind,
    link: &'static str,
    waiting_batches: u64,
    waiting_readings: u64,
    waiting_bytes: u64,
    oldest_us: i64,
}

fn entry(member: &Member) -> Entry<'_> {
    let stats = member.handle.stats();
    Entry {
        device: member.handle.device(),
        kind: member.kind,
        link: if member.link.is_up() { "up" } else { "down" },
        waiting_batches: stats.waiting_batches,
        waiting_readings: stats.waiting_readings,
        waiting_bytes: stats.waiting_bytes,
        oldest_us: stats.oldest_us,
    }
}

async fn list(State(members): State<Arc<Vec<Member>>>) -> Response {
    Json(members.iter().map(entry).collect::<Vec<_>>()).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    up: bool,
}

async fn set(
    State(members): State<Arc<Vec<Member>>>,
    Path(device): Path<String>,
    headers: HeaderMap,
    Json(wanted): Json<Wanted>,
) -> Response {
    if !is_own_page(&headers) {
        return (StatusCode::FORBIDDEN, "only the demo's own page may do this\n").into_response();
    }
    let Some(member) = members.iter().find(|member| member.handle.device() == device) else {
        return (StatusCode::NOT_FOUND, "the demo has no such agent\n").into_response();
    };
    member.link.set(wanted.up);
    Json(entry(member)).into_response()
}

/// Whether the request comes from a page that this demo served, or from no page at all.
fn is_own_page(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(host) = text(header::HOST) else {
        return false;
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let loopback = ["127.0.0.1", "localhost", "[::1]"].contains(&name);
    let own = match headers.get(header::ORIGIN) {
        None => true,
        Some(_) => text(header::ORIGIN).and_then(|origin| origin.strip_prefix("http://")) == Some(host),
    };
    loopback && own
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(host: &str, origin: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_its_own_page_may_cut_a_link() {
        for (host, origin, may) in [
            ("127.0.0.1:8080", Some("http://127.0.0.1:8080"), true),
            ("localhost:8080", Some("http://localhost:8080"), true),
            ("[::1]:8080", Some("http://[::1]:8080"), true),
            ("127.0.0.1:8080", None, true),
            ("127.0.0.1:8080", Some("http://127.0.0.1:9999"), false),
            ("127.0.0.1:8080", Some("https://evil.example"), false),
            ("127.0.0.1:8080", Some("null"), false),
            ("evil.example:8080", Some("http://evil.example:8080"), false),
        ] {
            assert_eq!(is_own_page(&headers(host, origin)), may, "{host} {origin:?}");
        }
        assert!(!is_own_page(&HeaderMap::new()));
    }
}
