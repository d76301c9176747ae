//! The Headwater edge agent: sources → batcher → journal → uplink.
