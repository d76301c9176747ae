-- ClickHouse: the table that rows.sql or batches.sql fills, one row a reading. For ClickHouse 24.3 or newer; what was run is said in README.md.
CREATE DATABASE IF NOT EXISTS headwater;

CREATE TABLE IF NOT EXISTS headwater.readings
(
    device LowCardinality(String),
    metric LowCardinality(String),
    unit LowCardinality(String),
    time DateTime64(6, 'UTC') CODEC(DoubleDelta, ZSTD),
    -- A number; NULL where the reading is none. Integers beyond 2^53 are rounded.
    value Nullable(Float64) CODEC(Gorilla, ZSTD),
    -- What is no number: strings, true and false, NaN, inf, -inf.
    text Nullable(String),
    suspect Bool,
    uncertain Bool,
    -- The batch it came in, and its place there: the name of a reading, the same however often it is read.
    stream UInt64,
    seq UInt64,
    `index` UInt32,
    -- Why readings were given up, of rows of the metric headwater.lost; else empty.
    loss LowCardinality(String)
)
-- The Kafka engine writes a block again when it is stopped between writing and committing: what bears a reading's name twice becomes one in a
-- merge. Until then SELECT … FROM headwater.readings FINAL shows each once.
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(time)
ORDER BY (device, metric, time, stream, seq, `index`);
