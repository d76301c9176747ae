//! What is answered.

use std::time::Duration;

use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};

/// An answer; without `why` all is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    why: String,
    retry_after: Option<Duration>,
}

impl Answer {
    /// Everything was taken.
    pub(super) fn taken() -> Self {
        Self {
            status: 204,
            why: String::new(),
            retry_after: None,
        }
    }

    /// Something was not.
    pub(super) fn refused(status: u16, why: String) -> Self {
        Self {
            status,
            why,
            retry_after: None,
        }
    }

    /// Not now.
    pub(super) fn later(status: u16, why: String, after: Duration) -> Self {
        Self {
            status,
            why,
            retry_after: Some(after),
        }
    }

    /// As HTTP. The body's keys are those that clients of both versions of Influx' interface look for.
    pub(super) fn response(self) -> Response<String> {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = Response::new(String::new());
        *response.status_mut() = status;
        if !self.why.is_empty() {
            let code = match self.status {
                400 => "invalid",
                401 => "unauthorized",
                403 => "forbidden",
                404 => "not found",
                405 => "method not allowed",
                413 => "request too large",
                429 => "too many requests",
                503 => "unavailable",
                _ => "unprocessable entity",
            };
            let body = serde_json::json!({ "error": self.why, "code": code, "message": self.why });
            *response.body_mut() = format!("{body}\n");
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, json);
        }
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            response.headers_mut().insert(RETRY_AFTER, seconds.max(1).into());
        }
        response
    }
}
