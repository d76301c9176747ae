-- ClickHouse: from batches (headwater.telemetry in Kafka, always there) into the table of readings.sql. proto/proto/headwater has to lie at
-- /var/lib/clickhouse/format_schemas/headwater. Take this or rows.sql, not both.
--
-- isolation.level is read_committed, librdkafka's default: batches of open and aborted transactions are not seen.
CREATE TABLE IF NOT EXISTS headwater.batches_queue
(
    device String,
    stream UInt64,
    seq UInt64,
    times Nested(first Int64, unit_us UInt64, count UInt32, deltas Array(Int64), runs Array(UInt32)),
    columns Nested(
        metric String,
        unit String,
        times UInt32,
        scaled Tuple(
            scale UInt32,
            factor UInt64,
            deltas Array(Int64),
            exception_at Array(UInt32),
            exceptions Array(Float64)),
        doubles Tuple(values Array(Float64)),
        ints Tuple(factor UInt64, deltas Array(Int64)),
        bools Tuple(values Array(Bool)),
        strings Tuple(dictionary Array(String), indices Array(UInt32)),
        suspect Array(UInt32)),
    loss Tuple(
        through UInt64,
        readings UInt64,
        reason Enum8(
            'LOSS_REASON_UNSPECIFIED' = 0,
            'LOSS_REASON_JOURNAL_FULL' = 1,
            'LOSS_REASON_CORRUPT' = 2,
            'LOSS_REASON_RETENTION' = 3,
            'LOSS_REASON_REFUSED' = 4)),
    clock Enum8('CLOCK_SYNCHRONISED' = 0, 'CLOCK_UNCERTAIN' = 1)
)
ENGINE = Kafka
SETTINGS
    kafka_broker_list = 'localhost:9092',
    kafka_topic_list = 'headwater.telemetry',
    kafka_group_name = 'clickhouse.batches',
    kafka_format = 'ProtobufSingle',
    kafka_schema = 'headwater/v1/batch:Batch',
    kafka_flush_interval_ms = 1000;

-- As the head of batch.proto says it: sums of differences, times a factor, divided by a literal power of ten.
CREATE MATERIALIZED VIEW IF NOT EXISTS headwater.batches_view TO headwater.readings AS
WITH
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22] AS powers
SELECT
    device,
    metric,
    unit,
    fromUnixTimestamp64Micro(reading.1, 'UTC') AS time,
    if(isFinite(reading.2), reading.2, NULL) AS value,
    multiIf(
        isNaN(reading.2) AND reading.3 IS NULL, 'NaN',
        isInfinite(reading.2), if(reading.2 > 0, 'inf', '-inf'),
        reading.3) AS text,
    has(suspects, toUInt32(reading.4)) AS suspect,
    clock = 'CLOCK_UNCERTAIN' AS uncertain,
    stream,
    seq,
    toUInt32(before + reading.4) AS `index`,
    '' AS loss
FROM
(
    SELECT
        device,
        stream,
        seq,
        clock,
        metric,
        unit,
        suspects,
        before,
        all_times[column_times + 1] AS at,
        multiIf(
            notEmpty(scaled.deltas),
            arrayMap(
                (value, i) -> if(has(scaled.exception_at, i), scaled.exceptions[indexOf(scaled.exception_at, i)], value),
                arrayMap(
                    mantissa -> toFloat64(mantissa * toInt64(greatest(scaled.factor, 1))) / powers[scaled.scale + 1],
                    arrayCumSum(scaled.deltas)),
                range(toUInt32(length(scaled.deltas)))),
            notEmpty(ints.deltas),
            arrayMap(sum -> toFloat64(sum * toInt64(greatest(ints.factor, 1))), arrayCumSum(ints.deltas)),
            notEmpty(bools.values),
            arrayMap(value -> toFloat64(value), bools.values),
            notEmpty(strings.indices),
            arrayMap(i -> nan, strings.indices),
            doubles.values) AS numbers,
        multiIf(
            notEmpty(bools.values),
            arrayMap(value -> CAST(if(value, 'true', 'false'), 'Nullable(String)'), bools.values),
            notEmpty(strings.indices),
            arrayMap(i -> CAST(strings.dictionary[i + 1], 'Nullable(String)'), strings.indices),
            arrayMap(value -> CAST(NULL, 'Nullable(String)'), numbers)) AS texts,
        arrayZip(at, numbers, texts, range(length(numbers))) AS readings
    FROM
    (
        SELECT
            *,
            arrayMap(
                (first, unit, deltas, runs) -> arrayMap(
                    sum -> (first + sum) * toInt64(greatest(unit, 1)),
                    arrayCumSum(arrayConcat(
                        [toInt64(0)],
                        if(empty(runs), deltas, arrayFlatten(arrayMap((delta, run) -> arrayWithConstant(run, delta), deltas, runs)))))),
                times.first, times.unit_us, times.deltas, times.runs) AS all_times,
            arrayMap(i -> times.count[i + 1], columns.times) AS counts,
            arrayMap((sum, count) -> sum - count, arrayCumSum(counts), counts) AS befores
        FROM headwater.batches_queue
        WHERE notEmpty(columns.metric)
    )
    ARRAY JOIN
        columns.metric AS metric,
        columns.unit AS unit,
        columns.times AS column_times,
        columns.scaled AS scaled,
        columns.doubles AS doubles,
        columns.ints AS ints,
        columns.bools AS bools,
        columns.strings AS strings,
        columns.suspect AS suspects,
        befores AS before
)
ARRAY JOIN readings AS reading;

-- What was given up is a row, too, at the time of its arrival in Kafka.
CREATE MATERIALIZED VIEW IF NOT EXISTS headwater.losses_view TO headwater.readings AS
SELECT
    device,
    'headwater.lost' AS metric,
    '' AS unit,
    fromUnixTimestamp64Micro(toInt64(toUnixTimestamp64Milli(assumeNotNull(_timestamp_ms)) * 1000), 'UTC') AS time,
    toFloat64(loss.readings) AS value,
    CAST(NULL, 'Nullable(String)') AS text,
    false AS suspect,
    false AS uncertain,
    stream,
    seq,
    toUInt32(0) AS `index`,
    lower(replaceOne(toString(loss.reason), 'LOSS_REASON_', '')) AS loss
FROM headwater.batches_queue
WHERE empty(columns.metric);
