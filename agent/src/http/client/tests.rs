use std::time::Duration;

use tokio::net::TcpListener;

use super::*;
use crate::clock::Clock;
use crate::config;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Asks a server that answers so, closes, and tells what it was asked.
async fn converse(
    answer: &'static str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (Result<Answer, String>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}/a?b", listener.local_addr().unwrap())).unwrap();
    let expected = body.to_vec();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        while !(heard.windows(4).any(|four| four == b"\r\n\r\n") && heard.ends_with(&expected)) {
            assert_ne!(stream.read_buf(&mut heard).await.unwrap(), 0);
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(heard).unwrap()
    });
    let ways = Ways::new(&config::Tls::default(), Clock::default());
    let method = if body.is_empty() { "GET" } else { "POST" };
    let request = Request {
        method,
        url: &url,
        headers,
        body,
    };
    let answer = ask(&ways, request, soon()).await;
    (answer, server.await.unwrap())
}

#[tokio::test]
async fn a_request_is_made_and_its_answer_read() {
    let (answer, heard) = converse(
        "HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\nETag: \"7\"\r\n\r\nhello",
        &[("Range", "bytes=3-")],
        b"",
    )
    .await;
    let mut answer = answer.unwrap();
    assert_eq!(
        (answer.status, answer.header("etag"), answer.header("x")),
        (206, Some("\"7\""), None)
    );
    assert_eq!(answer.whole(5, soon()).await.unwrap(), b"hello");
    assert!(
        heard.starts_with("GET /a?b HTTP/1.1\r\nHost: 127.0.0.1:"),
        "{heard}"
    );
    assert!(
        heard.contains("\r\nRange: bytes=3-\r\n") && !heard.contains("Content-Length"),
        "{heard}"
    );

    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";
    let (answer, heard) = converse(chunked, &[], b"asked").await;
    assert_eq!(answer.unwrap().whole(5, soon()).await.unwrap(), b"hello");
    assert!(
        heard.starts_with("POST /a?b ") && heard.ends_with("Content-Length: 5\r\n\r\nasked"),
        "{heard}"
    );
}

#[tokio::test]
async fn what_is_not_whole_or_too_much_is_an_error() {
    let (answer, _) = converse("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello", &[], b"").await;
    let mut answer = answer.unwrap();
    assert_eq!(answer.next(soon()).await.unwrap(), b"hello");
    assert!(
        answer
            .next(soon())
            .await
            .unwrap_err()
            .contains("before its answer was whole")
    );
    let (answer, _) = converse("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello!", &[], b"").await;
    assert!(
        answer
            .unwrap()
            .whole(5, soon())
            .await
            .unwrap_err()
            .contains("longer than 5 bytes")
    );
    for (wire, part) in [
        ("", "closed the connection in place of answering"),
        ("HTTP/1.1 200", "closed the connection"),
        ("SSH-2.0-OpenSSH\r\n\r\n", "does not speak HTTP"),
        ("HTTP/1.1 200 OK\r\n\r\nhello", "does not tell its length"),
    ] {
        let (answer, _) = converse(wire, &[], b"").await;
        let why = answer.unwrap_err();
        assert!(why.contains(part), "{wire}: {why}");
    }
    let ways = Ways::new(&config::Tls::default(), Clock::default());
    let url = Url::parse("http://127.0.0.1:1/").unwrap();
    let request = Request {
        method: "GET",
        url: &url,
        headers: &[],
        body: b"",
    };
    assert!(
        ask(&ways, request, soon())
            .await
            .unwrap_err()
            .contains("no connection to 127.0.0.1:1")
    );
}

#[test]
fn addresses_are_read_or_refused_with_what_is_wrong() {
    for (address, shown) in [
        ("https://relay.example", ("relay.example", 443, true, "/")),
        (
            "http://127.0.0.1:8080/v1/x?y=z",
            ("127.0.0.1", 8080, false, "/v1/x?y=z"),
        ),
        ("https://[::1]:8443/", ("[::1]", 8443, true, "/")),
        ("https://[::1]", ("[::1]", 443, true, "/")),
    ] {
        let url = Url::parse(address).unwrap();
        let server = &url.server;
        assert_eq!(
            (&*server.host, server.port, server.tls, &*url.path),
            shown,
            "{address}"
        );
    }
    for (address, part) in [
        ("relay.example", "no scheme"),
        ("mqtt://relay", "no scheme"),
        ("https://", "no host"),
        ("https://:8443", "no host"),
        ("https://a b", "no host"),
        ("https://[::1", "no host"),
        ("https://relay:0", "port"),
        ("https://relay:https", "port"),
        ("https://me:secret@relay", "credentials"),
        ("https://relay/a b", "path"),
        ("https://relay/a\r\nX: y", "path"),
        ("https://relay?a", "path"),
    ] {
        let why = Url::parse(address).unwrap_err();
        assert!(why.contains(part), "{address}: {why}");
    }
    for (address, loopback) in [
        ("http://127.0.0.2", true),
        ("http://[::1]", true),
        ("http://localhost", true),
        ("http://10.0.0.1", false),
    ] {
        assert_eq!(Url::parse(address).unwrap().is_loopback(), loopback, "{address}");
    }
}
