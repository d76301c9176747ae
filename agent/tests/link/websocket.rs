//! MQTT over WebSocket: a server of WebSocket before Mosquitto, whose Debian build has none.

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

use crate::bridge::Bridge;
use crate::library::{Running, config};
use crate::mosquitto::Mosquitto;

/// Carries what comes in binary messages under `/mqtt` to `port`, cut differently on the way back.
async fn gate(port: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(carry(stream, port));
        }
    });
    own
}

#[allow(clippy::result_large_err, reason = "the library's type")]
fn admit(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    if request.uri().path() != "/mqtt" {
        let mut refused = ErrorResponse::new(None);
        *refused.status_mut() = tokio_tungstenite::tungstenite::http::StatusCode::NOT_FOUND;
        return Err(refused);
    }
    assert_eq!(request.headers()["Sec-WebSocket-Protocol"], "mqtt");
    response
        .headers_mut()
        .insert("Sec-WebSocket-Protocol", "mqtt".parse().unwrap());
    Ok(response)
}

async fn carry(stream: TcpStream, port: u16) {
    let Ok(socket) = tokio_tungstenite::accept_hdr_async(stream, admit).await else {
        return;
    };
    let (mut to_agent, mut from_agent) = socket.split();
    let (mut from_broker, mut to_broker) = TcpStream::connect(("127.0.0.1", port))
        .await
        .unwrap()
        .into_split();
    let up = async move {
        while let Some(Ok(message)) = from_agent.next().await {
            if let Message::Binary(bytes) = message {
                to_broker.write_all(&bytes).await.unwrap();
            }
        }
    };
    let down = async move {
        // Smaller than any packet.
        let mut buffer = [0; 3];
        while let Ok(count @ 1..) = from_broker.read(&mut buffer).await {
            let message = Message::binary(buffer[..count].to_vec());
            if to_agent.send(message).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

#[tokio::test]
async fn all_is_delivered_through_websocket() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let _relay = bridge.run(broker.port());
    let agent = Running::start(config(
        &format!("ws://127.0.0.1:{}", gate(broker.port()).await),
        2_000,
    ));
    agent.all_acked(4_000).await;
    let stats = agent.stop().await;
    assert_eq!((stats.reconnects, stats.lost_readings), (0, 0));
    assert!(stats.link_sent_bytes > stats.sent_bytes, "{stats:?}");
    assert_eq!(bridge.check_chains(), (4_000, 0));
}

#[tokio::test]
async fn a_wrong_path_and_a_port_of_another_kind_are_said() {
    let broker = Mosquitto::started();
    for (address, part) in [
        (
            format!("ws://127.0.0.1:{}/else", gate(broker.port()).await),
            "answered with 404",
        ),
        (format!("ws://127.0.0.1:{}", broker.port()), "WebSocket"),
    ] {
        let agent = Running::start(config(&address, 10));
        let why = agent.last_error().await;
        assert!(why.contains(part), "{why}");
        agent.stop().await;
    }
}
