-- ClickHouse: from rows (headwater.readings in Kafka, [rows] of relay.toml with format = "json") into the table of readings.sql.
-- The simplest way, at some twenty times the bytes of batches.sql in Kafka. Take one of the two, not both.
--
-- isolation.level is read_committed, librdkafka's default: rows of open and aborted transactions are not seen.
CREATE TABLE IF NOT EXISTS headwater.rows_queue
(
    device String,
    metric String,
    unit String,
    time_us Int64,
    value Nullable(Float64),
    text Nullable(String),
    suspect Bool,
    uncertain Bool,
    stream String,
    seq UInt64,
    `index` UInt32,
    loss String
)
ENGINE = Kafka
SETTINGS
    kafka_broker_list = 'localhost:9092',
    kafka_topic_list = 'headwater.readings',
    kafka_group_name = 'clickhouse.rows',
    kafka_format = 'JSONEachRow',
    kafka_flush_interval_ms = 1000;

CREATE MATERIALIZED VIEW IF NOT EXISTS headwater.rows_view TO headwater.readings AS
SELECT
    device,
    metric,
    unit,
    fromUnixTimestamp64Micro(time_us, 'UTC') AS time,
    value,
    text,
    suspect,
    uncertain,
    reinterpretAsUInt64(reverse(unhex(stream))) AS stream,
    seq,
    `index`,
    loss
FROM headwater.rows_queue;
