//! Over real connections: Python's own HTTP client, and bytes as no client sends them.

use std::process::Command;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::probe::Probe;
use super::*;

fn settings() -> HttpSource {
    let port = crate::port::free_port();
    HttpSource {
        listen: format!("127.0.0.1:{port}"),
        max_body: headwater_config::ByteSize::kib(4),
        ..HttpSource::default()
    }
}

async fn connect(settings: &HttpSource) -> TcpStream {
    for _ in 0..1000 {
        if let Ok(stream) = TcpStream::connect(&settings.listen).await {
            return stream;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody listens on {}", settings.listen);
}

/// Sends bytes and returns all that is answered until the connection is closed.
async fn exchange(settings: &HttpSource, request: &[u8]) -> String {
    let mut stream = connect(settings).await;
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
    let _ = read.expect("an answer, and then the end");
    String::from_utf8_lossy(&answer).into_owned()
}

/// A request that asks for the connection to be closed after it.
fn post(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("nothing")
}

#[tokio::test]
async fn what_python_posts_is_taken() {
    let settings = settings();
    let mut probe = Probe::start(Http::open(&settings).unwrap());
    connect(&settings).await;
    let script = r#"
import gzip, json, sys, urllib.error, urllib.request
base = "http://" + sys.argv[1]
def post(path, body, **headers):
    request = urllib.request.Request(base + path, data=body, headers=headers, method="POST")
    try:
        with urllib.request.urlopen(request) as answer:
            return [answer.status, answer.read().decode()]
    except urllib.error.HTTPError as error:
        return [error.code, json.loads(error.read())["message"]]
print(json.dumps([
    post("/v1/readings", json.dumps({"metrics": {"temp": 21.37, "door": {"open": True}}, "time": 1700000000.5}).encode()),
    post("/v1/readings", json.dumps([{"metrics": {"temp": 1}}, {"metrics": {"temp": 2}}]).encode()),
    post("/write?db=x&precision=s", b"cpu,host=gw,cpu=cpu0 usage=1.5,n=3i 1700000000\n"),
    post("/api/v2/write?org=o&bucket=b", gzip.compress(b"mem used=7 1700000000000000000"), **{"Content-Encoding": "gzip"}),
    post("/v1/readings", b'{"metrics": {"temp": 3, "bad\\u0001": 4}}'),
    post("/v1/readings", b'{"temp": 3}'),
    urllib.request.urlopen(base + "/ping").status,
]))
"#;
    let listen = settings.listen.clone();
    let run = move || Command::new("python3").args(["-c", script, &listen]).output();
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let output = output.expect("python3 is missing: this test needs a client that is not ours; apt-get install python3 (scripts/test does)");
    let answers: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    for index in 0..4 {
        assert_eq!(answers[index], serde_json::json!([204, ""]), "{answers}");
    }
    assert_eq!(answers[4][0], 400);
    let why = answers[4][1].as_str().unwrap();
    assert!(
        why.starts_with("1 readings were taken, 1 line(s) or value(s) were refused: ")
            && why.contains("control characters"),
        "{why}"
    );
    assert_eq!(answers[5][0], 400);
    assert!(
        answers[5][1]
            .as_str()
            .unwrap()
            .contains("nothing at \"/metrics\"")
    );
    assert_eq!(answers[6], 204);
    let readings = probe.timed(8).await;
    let names: Vec<_> = readings.iter().map(|(_, reading)| reading.as_str()).collect();
    assert_eq!(
        names,
        [
            "door.open=true",
            "temp=21.37",
            "temp=1",
            "temp=2",
            "cpu.cpu=cpu0.usage=1.5",
            "cpu.cpu=cpu0.n=3i",
            "mem.used=7",
            "temp=3"
        ]
    );
    assert_eq!(readings[0].0, 1_700_000_000_500_000);
    assert_eq!(readings[4].0, 1_700_000_000_000_000);
    assert_eq!(readings[6].0, 1_700_000_000_000_000);
}

#[tokio::test]
async fn what_is_too_long_is_refused_before_it_is_read_or_inflated() {
    let settings = settings();
    let mut probe = Probe::start(Http::open(&settings).unwrap());
    // Announced.
    let answer = exchange(
        &settings,
        b"POST /write HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\n\r\nabc",
    )
    .await;
    assert_eq!(status(&answer), "413", "{answer}");
    assert!(answer.contains("longer than max_body (4096 bytes)"), "{answer}");
    // Not announced.
    let mut chunked =
        b"POST /write HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
            .to_vec();
    for _ in 0..10 {
        chunked.extend(b"400\r\n");
        chunked.extend([b'x'; 0x400]);
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\n\r\n");
    assert_eq!(status(&exchange(&settings, &chunked).await), "413");
    // A bomb.
    let mut bomb = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    bomb.extend(miniz_oxide::deflate::compress_to_vec(&vec![b'\n'; 1 << 20], 9));
    bomb.extend([0; 8]);
    let request = post("/write", "Content-Encoding: gzip\r\n", &bomb);
    assert_eq!(status(&exchange(&settings, &request).await), "413");
    let request = post("/write", "Content-Encoding: gzip\r\n", b"not gzip");
    assert_eq!(status(&exchange(&settings, &request).await), "400");
    let request = post("/write", "Content-Encoding: br\r\n", b"");
    assert_eq!(status(&exchange(&settings, &request).await), "415");
    assert!(probe.is_silent());
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    let settings = settings();
    let mut probe = Probe::start(Http::open(&settings).unwrap());
    for (request, expected) in [
        (post("/nowhere", "", b""), "404"),
        (post("/write?precision=h", "", b"a v=1"), "400"),
        (post("/write", "Origin: http://page.example\r\n", b"a v=1"), "403"),
        (post("/v1/readings", "", b"\xff\xfe"), "400"),
        (post("/v1/readings", "", &[b'['; 4000]), "400"),
        (post("/write", "", b"this is no line protocol"), "400"),
        (
            b"GET /write HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec(),
            "405",
        ),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), ""),
        (
            [
                b"POST /write HTTP/1.1\r\nX: ".as_slice(),
                &[b'x'; 40_000],
                b"\r\n\r\n",
            ]
            .concat(),
            "431",
        ),
    ] {
        let shown = String::from_utf8_lossy(&request[..request.len().min(60)]).into_owned();
        let answer = exchange(&settings, &request).await;
        // What is no HTTP is answered 400 or not at all.
        assert!(
            expected.is_empty() && ["400", "nothing"].contains(&status(&answer))
                || status(&answer) == expected,
            "{shown}: {answer}"
        );
    }
    assert!(probe.is_silent());
    let answer = exchange(&settings, &post("/write", "", b"a v=1\nno\nb v=2")).await;
    assert_eq!(status(&answer), "400");
    assert!(
        answer.contains("2 readings were taken, 1 line(s)") && answer.contains("line 2"),
        "{answer}"
    );
    assert_eq!(probe.readings(2).await, ["a.v=1", "b.v=2"]);
}

#[tokio::test]
async fn slow_ones_make_way_and_connections_are_bounded() {
    let settings = HttpSource {
        timeout: Duration::from_secs(1),
        connections: 3,
        ..settings()
    };
    let mut probe = Probe::start(Http::open(&settings).unwrap());
    // Nothing at all, a head that does not end, a body that does not come.
    let mut silent = connect(&settings).await;
    let mut head = connect(&settings).await;
    head.write_all(b"POST /write HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        .await
        .unwrap();
    let mut body = connect(&settings).await;
    body.write_all(b"POST /write HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\na ")
        .await
        .unwrap();
    let mut beyond = connect(&settings).await;
    assert_eq!(beyond.read(&mut [0; 1]).await.unwrap_or(0), 0, "closed at once");
    probe
        .reports(1, "is one more than the 3 connections allowed")
        .await;
    for (stream, expected) in [(&mut silent, ""), (&mut head, ""), (&mut body, "408")] {
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
        let _ = read.expect("closed");
        let answer = String::from_utf8_lossy(&answer);
        assert!(expected.is_empty() || status(&answer) == expected, "{answer}");
    }
    let answer = exchange(&settings, &post("/write", "", b"a v=1")).await;
    assert_eq!(status(&answer), "204", "{answer}");
    assert_eq!(probe.readings(1).await, ["a.v=1"]);
}

#[tokio::test]
async fn a_flood_is_told_when_to_come_again_and_nothing_is_taken_by_halves() {
    let settings = settings();
    let mut probe = Probe::limited(Http::open(&settings).unwrap(), Some(10));
    let lines = |number: usize| "a v=1\n".repeat(number).into_bytes();
    let answer = exchange(&settings, &post("/write", "", &lines(90))).await;
    assert_eq!(status(&answer), "204", "{answer}");
    let answer = exchange(&settings, &post("/write", "", &lines(90))).await;
    assert_eq!(status(&answer), "429", "{answer}");
    assert!(answer.to_ascii_lowercase().contains("retry-after: "), "{answer}");
    let answer = exchange(&settings, &post("/write", "", &lines(101))).await;
    assert_eq!(
        status(&answer),
        "413",
        "more than there is ever room for: {answer}"
    );
    assert_eq!(probe.readings(90).await.len(), 90);
    assert!(probe.is_silent());
    assert_eq!(probe.output.meter().stats().dropped_readings, 0);
}

#[tokio::test]
async fn a_token_is_asked_for_where_there_is_one() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "secret\n").unwrap();
    let settings = HttpSource {
        token_file: Some(file.path().into()),
        ..settings()
    };
    let mut probe = Probe::start(Http::open(&settings).unwrap());
    let with = |headers: &str| post("/write", headers, b"a v=1");
    assert_eq!(status(&exchange(&settings, &with("")).await), "401");
    let wrong = with("Authorization: Bearer wrong\r\n");
    assert_eq!(status(&exchange(&settings, &wrong).await), "401");
    let right = with("Authorization: Token secret\r\n");
    assert_eq!(status(&exchange(&settings, &right).await), "204");
    assert_eq!(probe.readings(1).await, ["a.v=1"]);
}

#[test]
fn settings_that_make_no_sense_are_refused_by_key() {
    let empty = tempfile::NamedTempFile::new().unwrap();
    for (settings, part) in [
        (
            HttpSource {
                listen: "0.0.0.0:8086".into(),
                ..settings()
            },
            "`listen`: 0.0.0.0:8086 can be reached by other machines",
        ),
        (
            HttpSource {
                listen: "localhost:8086".into(),
                ..settings()
            },
            "`listen`: \"localhost:8086\" has no address and port",
        ),
        (
            HttpSource {
                token_file: Some("/nonexistent".into()),
                ..settings()
            },
            "`token_file`: cannot read",
        ),
        (
            HttpSource {
                token_file: Some(empty.path().into()),
                ..settings()
            },
            "is empty",
        ),
        (
            HttpSource {
                max_body: headwater_config::ByteSize::gib(1),
                ..settings()
            },
            "`max_body`",
        ),
        (
            HttpSource {
                connections: 0,
                ..settings()
            },
            "`connections`",
        ),
        (
            HttpSource {
                timeout: Duration::ZERO,
                ..settings()
            },
            "`timeout`",
        ),
        (
            HttpSource {
                map: Settings::default(),
                ..settings()
            },
            "`map`: `format`",
        ),
    ] {
        let error = Http::open(&settings).err().unwrap().to_string();
        assert!(error.contains(part), "{error}");
    }
    let settings: HttpSource = toml::from_str("map = { skip = ['a.*'] }").unwrap();
    assert_eq!(settings.map.format, Format::Influx);
}
