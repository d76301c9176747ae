//! For whoever comes to a port of the agent's. What answers is in a box: hyper makes some twenty functions of its own for every
//! type that it is given, and so there is one.

use std::convert::Infallible;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use crate::task::Boxed;

/// What answers a request.
pub(crate) type Answering = Box<dyn Fn(Request<Incoming>) -> Boxed<Response<String>> + Send>;

/// A connection's read buffer, which a request's head has to fit into; bytes.
const BUFFER: usize = 16 * 1024;
const HEADERS: usize = 64;

/// Serves a connection until it ends. A request's head has to be there within `head_timeout`.
///
/// # Errors
/// What went wrong on it: the client's business.
pub(crate) async fn serve(
    stream: TcpStream,
    head_timeout: Duration,
    answering: Answering,
) -> Result<(), hyper::Error> {
    let service = service_fn(move |request| {
        let answer = answering(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_headers(HEADERS)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service)
        .await
}
