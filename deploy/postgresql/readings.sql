-- PostgreSQL or TimescaleDB: the table that Kafka Connect fills from headwater.readings (readings-sink.json), one row a reading.
-- Run with PostgreSQL 15; the lines for TimescaleDB at the end were not run.
CREATE TABLE readings (
    device text NOT NULL,
    metric text NOT NULL,
    unit text NOT NULL,
    -- Microseconds since the Unix epoch; `time` is the same for people.
    time_us bigint NOT NULL,
    time timestamptz NOT NULL GENERATED ALWAYS AS (to_timestamp(time_us::double precision / 1000000)) STORED,
    -- A number; NULL where the reading is none. Integers beyond 2^53 are rounded.
    value double precision,
    -- What is no number: strings, true and false, NaN, inf, -inf.
    text text,
    suspect boolean NOT NULL,
    uncertain boolean NOT NULL,
    -- The batch it came in, and its place there: the name of a reading, the same however often it is read, so that what Connect
    -- writes again after a crash is written over itself.
    stream text NOT NULL,
    seq bigint NOT NULL,
    "index" bigint NOT NULL,
    -- Why readings were given up, of rows of the metric headwater.lost; else NULL.
    loss text,
    PRIMARY KEY (device, stream, seq, "index", time_us)
);

CREATE INDEX readings_of_metric ON readings (device, metric, time_us DESC);

-- TimescaleDB, before anything is in it (a hypertable's keys have to have its time, hence time_us in the primary key):
-- SELECT create_hypertable('readings', by_range('time_us', 86400000000));
