//! A device's shard: positive murmur2 of its name, mod 256, as Kafka's default partitioner hashes keys.

/// The number of shards.
pub const SHARDS: u32 = 256;

/// The shard of a device, 0..=255. For a power-of-two number of partitions ≤ 256, `shard % partitions` is the
/// partition that Kafka's default partitioner picks for key = device.
pub fn shard(device: &str) -> u8 {
    (murmur2(device.as_bytes()) & 0x7fff_ffff & (SHARDS - 1)) as u8
}

/// The partition of a device among `partitions`, which must be a power of two ≤ 256.
pub fn partition(device: &str, partitions: u32) -> u32 {
    debug_assert!(partitions.is_power_of_two() && partitions <= SHARDS);
    u32::from(shard(device)) % partitions
}

/// As `org.apache.kafka.common.utils.Utils.murmur2`.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut h = 0x9747_b28c ^ data.len() as u32;
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let tail = chunks.remainder();
    if !tail.is_empty() {
        for (i, &byte) in tail.iter().enumerate() {
            h ^= u32::from(byte) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's own UtilsTest.
    #[test]
    fn murmur2_is_kafkas() {
        for (text, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(text.as_bytes()) as i32, hash, "{text}");
        }
    }
}
