-- ClickHouse: as rows.sql, for rows with format = "protobuf" and no schema_id. proto/proto/headwater has to lie at
-- /var/lib/clickhouse/format_schemas/headwater. (With a schema_id each value has the frame of a Schema Registry, which ClickHouse reads with Avro alone.)
CREATE TABLE IF NOT EXISTS headwater.rows_queue
(
    device String,
    metric String,
    unit String,
    time_us Int64,
    double Nullable(Float64),
    int Nullable(Int64),
    bool Nullable(Bool),
    string Nullable(String),
    suspect Bool,
    clock Enum8('CLOCK_SYNCHRONISED' = 0, 'CLOCK_UNCERTAIN' = 1),
    stream UInt64,
    seq UInt64,
    `index` UInt32,
    loss Enum8(
        'LOSS_REASON_UNSPECIFIED' = 0,
        'LOSS_REASON_JOURNAL_FULL' = 1,
        'LOSS_REASON_CORRUPT' = 2,
        'LOSS_REASON_RETENTION' = 3,
        'LOSS_REASON_REFUSED' = 4)
)
ENGINE = Kafka
SETTINGS
    kafka_broker_list = 'localhost:9092',
    kafka_topic_list = 'headwater.readings',
    kafka_group_name = 'clickhouse.rows',
    kafka_format = 'ProtobufSingle',
    kafka_schema = 'headwater/v1/reading:Reading',
    kafka_flush_interval_ms = 1000;

CREATE MATERIALIZED VIEW IF NOT EXISTS headwater.rows_view TO headwater.readings AS
WITH coalesce(double, toFloat64(int), toFloat64(bool)) AS number
SELECT
    device,
    metric,
    unit,
    fromUnixTimestamp64Micro(time_us, 'UTC') AS time,
    if(isFinite(number), number, NULL) AS value,
    multiIf(
        isNaN(number), 'NaN',
        isInfinite(number), if(number > 0, 'inf', '-inf'),
        bool IS NOT NULL, if(bool, 'true', 'false'),
        string) AS text,
    suspect,
    clock = 'CLOCK_UNCERTAIN' AS uncertain,
    stream,
    seq,
    `index`,
    if(loss = 'LOSS_REASON_UNSPECIFIED', '', lower(replaceOne(toString(loss), 'LOSS_REASON_', ''))) AS loss
FROM headwater.rows_queue;
