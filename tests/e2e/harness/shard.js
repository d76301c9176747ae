/** A device's shard: positive murmur2 of its name mod 256, by Kafka's definition. */
export function shard(device) {
  const bytes = Buffer.from(device);
  const m = 0x5bd1e995;
  let hash = 0x9747b28c ^ bytes.length;
  let at = 0;
  for (; at + 4 <= bytes.length; at += 4) {
    let word = Math.imul(bytes.readInt32LE(at), m);
    word ^= word >>> 24;
    hash = Math.imul(hash, m) ^ Math.imul(word, m);
  }
  if (at < bytes.length) {
    for (let index = bytes.length - 1; index >= at; index--) hash ^= bytes[index] << (8 * (index - at));
    hash = Math.imul(hash, m);
  }
  hash ^= hash >>> 13;
  hash = Math.imul(hash, m);
  return (hash ^ (hash >>> 15)) & 0xff;
}

/** hw1/{shard}/{device}/{kind} */
export function topic(device, kind) {
  return `hw1/${shard(device)}/${device}/${kind}`;
}
