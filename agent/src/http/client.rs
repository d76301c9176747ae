//! Asks a server, over the ways that lead to brokers too: their resolver, their time-outs, their TLS with its clock that may be wrong.
//!
//! One request a connection, which is what enrolling once a year and a download now and then need. Heads are read by httparse, which
//! hyper's server brings along; hyper's client would be a second copy of its state machine in the program.

mod body;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use crate::broker::Broker;
use crate::mqtt::socket::{Stream, Ways};
use body::Body;

/// The longest head of an answer, bytes.
const HEAD_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 48;
/// What is read at once, bytes.
const PIECE: usize = 8 * 1024;

/// An address `http://host[:port]/path` or `https://…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) server: Broker,
    /// With its slash, and with the query if there is one.
    pub(crate) path: String,
}

impl Url {
    /// Reads an address.
    ///
    /// # Errors
    /// What is wrong with it, to stand behind it.
    pub(crate) fn parse(address: &str) -> Result<Self, &'static str> {
        let (tls, default, rest) = if let Some(rest) = address.strip_prefix("https://") {
            (true, 443, rest)
        } else if let Some(rest) = address.strip_prefix("http://") {
            (false, 80, rest)
        } else {
            return Err("has no scheme; write it as https://host:8443");
        };
        let (rest, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let path = match path {
            "" => "/",
            path => path,
        };
        // What is no printable ASCII would be another request.
        if !path.starts_with('/') || path.contains('#') || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("has a path that cannot be asked for; percent-encode what is not plain ASCII");
        }
        if rest.contains('@') {
            return Err("holds credentials, which do not belong into an address");
        }
        let (host, port) = match rest.rfind(':').filter(|at| !rest[*at..].contains(']')) {
            Some(at) => (&rest[..at], rest[at + 1..].parse().ok().filter(|port| *port != 0)),
            None => (rest, Some(default)),
        };
        let port = port.ok_or("has a port that is not a number in 1..=65535")?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_host = match bracketed {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.bytes().all(plain),
        };
        if !is_host {
            return Err("names no host; write it as https://host:8443");
        }
        Ok(Self {
            server: Broker {
                host: host.to_string(),
                port,
                tls,
                websocket: false,
                path: String::new(),
            },
            path: path.to_string(),
        })
    }

    /// Whether what is sent there leaves this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        let host = self.server.host.trim_matches(['[', ']']);
        host == "localhost"
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    /// `GET`, `POST`.
    pub(crate) method: &'a str,
    pub(crate) url: &'a Url,
    /// But `Host`, `Content-Length` and `Connection`. Neither names nor values may hold control characters.
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) body: &'a [u8],
}

/// An answer's head; its body is yet to be read.
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    stream: Box<dyn Stream>,
    /// Read, and not yet of the body.
    read: Vec<u8>,
    body: Body,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// Asks, and reads the answer's head by `by`.
///
/// # Errors
/// For a person: what failed, and what to do. What a server answers is no error, whatever its status.
pub(crate) async fn ask(ways: &Ways, request: Request<'_>, by: Instant) -> Result<Answer, String> {
    let server = &request.url.server;
    let mut stream = ways.connect(server, by).await.map_err(|why| of_server(&why))?;
    let mut head = format!(
        "{} {} HTTP/1.1\r\nHost: {}:{}\r\nConnection: close\r\nUser-Agent: headwater-agent/{}\r\n",
        request.method,
        request.url.path,
        server.host,
        server.port,
        crate::version::current()
    );
    for (name, value) in request.headers {
        if [name, value]
            .iter()
            .any(|text| text.bytes().any(|byte| byte.is_ascii_control()))
        {
            return Err(format!(
                "the header {name:?} of a request holds a control character"
            ));
        }
        head.extend([name, ": ", value, "\r\n"]);
    }
    if request.method != "GET" {
        head += &format!("Content-Length: {}\r\n", request.body.len());
    }
    head += "\r\n";
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(request.body);
    let conversation = async {
        let wrong = |error| of_server(&ways.explain(&error));
        // A server that refuses may answer before it has read everything: what it says counts more than that it closed.
        let sent = match stream.write_all(&bytes).await {
            Ok(()) => stream.flush().await,
            failed => failed,
        };
        let mut read = Vec::new();
        loop {
            if let Some(head) = Head::parse(&read)? {
                return Ok((head, read));
            }
            if read.len() > HEAD_MAX {
                return Err("the server's answer has a head that is too long".to_string());
            }
            match more(&mut *stream, &mut read).await {
                Ok(0) => {
                    sent.map_err(wrong)?;
                    return Err(format!(
                        "the server closed the connection in place of answering{}",
                        of_server(ways.hint())
                    ));
                }
                Ok(_) => {}
                Err(error) => return Err(wrong(error)),
            }
        }
    };
    let (head, mut read) = timeout_at(by, conversation)
        .await
        .map_err(|_| LATE.to_string())??;
    read.drain(..head.length);
    let body = Body::of(head.status, &head.headers)?;
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        stream,
        read,
        body,
    })
}

const LATE: &str = "the server has not answered in time";

impl Answer {
    /// The value of a header, by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known == name);
        found.next().map(|(_, value)| value.as_str())
    }

    /// The next piece of the body; empty: that was all of it.
    ///
    /// # Errors
    /// It broke off, or did not come by `by`.
    pub(crate) async fn next(&mut self, by: Instant) -> Result<Vec<u8>, String> {
        loop {
            let piece = self.body.take(&mut self.read)?;
            if !piece.is_empty() || self.body.is_over() {
                return Ok(piece);
            }
            let reading = more(&mut *self.stream, &mut self.read);
            match timeout_at(by, reading).await {
                Ok(Ok(0)) => {
                    return Err("the server closed the connection before its answer was whole".into());
                }
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(format!("the answer broke off: {error}")),
                Err(_) => return Err(LATE.into()),
            }
        }
    }

    /// The whole body, of at most `most` bytes.
    ///
    /// # Errors
    /// As [`Answer::next`]; that it is longer.
    pub(crate) async fn whole(&mut self, most: usize, by: Instant) -> Result<Vec<u8>, String> {
        let mut whole = Vec::new();
        loop {
            let piece = self.next(by).await?;
            if piece.is_empty() {
                return Ok(whole);
            }
            if whole.len() + piece.len() > most {
                return Err(format!("the server's answer is longer than {most} bytes"));
            }
            whole.extend_from_slice(&piece);
        }
    }
}

async fn more(stream: &mut dyn Stream, read: &mut Vec<u8>) -> std::io::Result<usize> {
    let before = read.len();
    read.resize(before + PIECE, 0);
    let result = stream.read(&mut read[before..]).await;
    read.truncate(before + *result.as_ref().unwrap_or(&0));
    result
}

/// The ways know of brokers only.
fn of_server(why: &str) -> String {
    why.replace("broker", "server")
}

/// An answer's first lines.
struct Head {
    status: u16,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    /// In bytes.
    length: usize,
}

impl Head {
    /// `None`: it is not whole yet.
    fn parse(read: &[u8]) -> Result<Option<Self>, String> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut answer = httparse::Response::new(&mut headers);
        let length = match answer.parse(read) {
            Ok(httparse::Status::Partial) => return Ok(None),
            Ok(httparse::Status::Complete(length)) => length,
            Err(error) => {
                return Err(format!(
                    "what answers does not speak HTTP ({error}); is the port right?"
                ));
            }
        };
        let headers = answer.headers.iter().map(|header| {
            let value = String::from_utf8_lossy(header.value).into_owned();
            (header.name.to_ascii_lowercase(), value)
        });
        Ok(Some(Self {
            status: answer.code.unwrap_or(0),
            headers: headers.collect(),
            length,
        }))
    }
}

#[cfg(test)]
mod tests;
