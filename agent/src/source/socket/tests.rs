//! Over real sockets.

use headwater_foreign::{Format, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::super::probe::Probe;
use super::*;

fn settings(scheme: &str, format: Format) -> SocketSource {
    let port = crate::port::free_port();
    SocketSource {
        listen: format!("{scheme}://127.0.0.1:{port}"),
        map: Settings {
            format,
            max_payload: headwater_config::ByteSize::b(200),
            ..Settings::default()
        },
        ..SocketSource::default()
    }
}

async fn connect(settings: &SocketSource) -> TcpStream {
    let address = settings.listen.strip_prefix("tcp://").unwrap();
    for _ in 0..1000 {
        if let Ok(stream) = TcpStream::connect(address).await {
            return stream;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody listens on {address}");
}

/// A socket that sends to the source, once that receives.
async fn sender(settings: &SocketSource, probe: &mut Probe, datagram: &str) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = settings.listen.strip_prefix("udp://").unwrap();
    socket.connect(address).await.unwrap();
    while probe.is_silent() {
        let _ = socket.send(datagram.as_bytes()).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    socket
}

#[tokio::test]
async fn lines_over_tcp_in_any_pieces_from_several_at_once() {
    let settings = settings("tcp", Format::Influx);
    let mut probe = Probe::start(Socket::open(&settings).unwrap());
    let (mut one, mut two) = (connect(&settings).await, connect(&settings).await);
    one.write_all(b"room,sensor=a temp=21.").await.unwrap();
    two.write_all(b"room,sensor=b temp=22 1700000000000000000\r\n")
        .await
        .unwrap();
    assert_eq!(
        probe.timed(1).await,
        [(1_700_000_000_000_000, "room.sensor=b.temp=22".to_string())]
    );
    one.write_all(b"37\nnonsense\n\nlast v=1").await.unwrap();
    assert_eq!(probe.readings(1).await, ["room.sensor=a.temp=21.37"]);
    one.shutdown().await.unwrap();
    assert_eq!(probe.readings(1).await, ["last.v=1"]);
    probe.reports(1, "line 1: ").await;
}

#[tokio::test]
async fn every_format_of_lines() {
    for (format, text, expected) in [
        (
            Format::Json,
            "{\"a\":{\"b\":1}}\n[{\"c\":true}]\n",
            ["a.b=1", "c=true"],
        ),
        (
            Format::Pairs,
            "temp 21.37\nhum 40 1700000000\n",
            ["temp=21.37", "hum=40"],
        ),
    ] {
        let settings = settings("tcp", format);
        let mut probe = Probe::start(Socket::open(&settings).unwrap());
        connect(&settings).await.write_all(text.as_bytes()).await.unwrap();
        assert_eq!(probe.readings(2).await, expected);
    }
}

#[tokio::test]
async fn a_line_without_end_is_left_out_and_the_next_is_read() {
    let settings = settings("tcp", Format::Pairs);
    let mut probe = Probe::start(Socket::open(&settings).unwrap());
    let mut stream = connect(&settings).await;
    for _ in 0..100 {
        stream.write_all(&[b'x'; 10_000]).await.unwrap();
    }
    stream.write_all(b"\ntemp 1\n").await.unwrap();
    assert_eq!(probe.readings(1).await, ["temp=1"]);
    probe
        .reports(1, "line(s) of more than max_payload (200 bytes)")
        .await;
}

#[tokio::test]
async fn connections_are_bounded_and_silent_ones_make_way() {
    let settings = SocketSource {
        connections: 2,
        idle_timeout: Duration::from_secs(1),
        ..settings("tcp", Format::Pairs)
    };
    let mut probe = Probe::start(Socket::open(&settings).unwrap());
    let (mut one, _two) = (connect(&settings).await, connect(&settings).await);
    one.write_all(b"a 1\n").await.unwrap();
    assert_eq!(probe.readings(1).await, ["a=1"]);
    let mut three = connect(&settings).await;
    assert_eq!(three.read(&mut [0; 1]).await.unwrap_or(0), 0, "closed at once");
    probe
        .reports(1, "is one more than the 2 connections allowed")
        .await;
    assert_eq!(one.read(&mut [0; 1]).await.unwrap(), 0, "closed for its silence");
    let mut four = connect(&settings).await;
    four.write_all(b"b 2\n").await.unwrap();
    assert_eq!(probe.readings(1).await, ["b=2"]);
}

#[tokio::test]
async fn a_flood_over_tcp_is_slowed_down_and_loses_nothing() {
    let settings = settings("tcp", Format::Pairs);
    let mut probe = Probe::limited(Socket::open(&settings).unwrap(), Some(100));
    let mut stream = connect(&settings).await;
    let flood = tokio::spawn(async move {
        let mut number = 0;
        while stream.write_all(format!("n {number}\n").as_bytes()).await.is_ok() {
            number += 1;
        }
    });
    let readings = probe.readings(1_100).await;
    let expected: Vec<_> = (0..1_100).map(|number| format!("n={number}")).collect();
    assert_eq!(readings, expected);
    assert_eq!(probe.output.meter().stats().dropped_readings, 0);
    flood.abort();
}

#[tokio::test]
async fn datagrams_hold_lines_and_have_a_length() {
    let settings = settings("udp", Format::Influx);
    let mut probe = Probe::start(Socket::open(&settings).unwrap());
    let socket = sender(&settings, &mut probe, "hello v=1").await;
    while !probe.is_silent() {}
    socket.send(b"a x=1\nb x=2i").await.unwrap();
    let mut readings = probe.readings(2).await;
    while readings[0] == "hello.v=1" {
        readings.remove(0);
        readings.extend(probe.readings(1).await);
    }
    assert_eq!(readings, ["a.x=1", "b.x=2i"]);
    socket.send(&[b'x'; 201]).await.unwrap();
    probe
        .reports(1, "a datagram of more than max_payload (200 bytes)")
        .await;
    socket.send(b"\xff\xfe").await.unwrap();
    probe.reports(2, "the payload is not UTF-8").await;
    socket.send(b"").await.unwrap();
    socket.send(b"c x=3").await.unwrap();
    assert_eq!(probe.readings(1).await, ["c.x=3"]);
}

#[tokio::test]
async fn a_flood_of_datagrams_is_dropped_and_counted() {
    let settings = settings("udp", Format::Pairs);
    let mut probe = Probe::limited(Socket::open(&settings).unwrap(), Some(10));
    let socket = sender(&settings, &mut probe, "n 0").await;
    for number in 0..2_000 {
        let _ = socket.send(format!("n {number}").as_bytes()).await;
        if number % 20 == 0 {
            probe.drain();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let until = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let stats = probe.output.meter().stats();
        // Most of them; a few may still wait in the system's buffer, or be lost there.
        if stats.dropped_readings > 1_000 {
            assert!(stats.readings >= 100 && stats.readings < 1_000, "{stats:?}");
            return;
        }
        assert!(tokio::time::Instant::now() < until, "{stats:?}");
        probe.drain();
        let _ = socket.send(b"n 0").await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_said_and_tried_again_by_the_agent() {
    let settings = settings("tcp", Format::Pairs);
    let address = settings.listen.strip_prefix("tcp://").unwrap();
    let _taken = std::net::TcpListener::bind(address).unwrap();
    let failure = Probe::start(Socket::open(&settings).unwrap()).failure().await;
    assert!(
        failure.contains("it cannot be listened on: ") && failure.contains("another program"),
        "{failure}"
    );
}

#[test]
fn settings_that_make_no_sense_are_refused_by_key() {
    let open = |listen: &str, remote| {
        Socket::open(&SocketSource {
            listen: listen.into(),
            remote,
            ..SocketSource::default()
        })
    };
    for (listen, part) in [
        ("127.0.0.1:8094", "does not begin with tcp:// or udp://"),
        ("tcp://localhost", "no address and port"),
        ("tcp://0.0.0.0:8094", "can be reached by other machines"),
        ("udp://[::]:8094", "can be reached by other machines"),
        ("udp://192.0.2.1:8094", "set remote = true"),
    ] {
        let error = open(listen, false).err().unwrap().to_string();
        assert!(
            error.starts_with("setting `listen`") && error.contains(part),
            "{error}"
        );
    }
    for listen in ["tcp://127.0.0.9:1", "udp://[::1]:1", "tcp://[::ffff:127.0.0.1]:1"] {
        open(listen, false).unwrap();
    }
    open("tcp://0.0.0.0:8094", true).unwrap();
}
