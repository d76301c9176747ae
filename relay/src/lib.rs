//! The Headwater relay: `bridge` (MQTT → Kafka), `gateway` (Kafka → WebSocket), `run` (both), `demo` (everything embedded).
