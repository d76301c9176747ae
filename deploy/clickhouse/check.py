"""Runs the SQL of this folder on what Kafka holds, in ClickHouse as PyPI's chdb embeds it, and compares both ways.

chdb has no threads for the Kafka engine, so the queues are tables of the engine Null here, with the same columns, and the records' values are
inserted into them as they came from Kafka; everything else is as it stands in the files: formats, schema, views, table.

Usage: check.py BOOTSTRAP produce HEX…    puts these batches into headwater.telemetry
       check.py BOOTSTRAP json|protobuf   prints the table as JSON lines, if by rows of this format it is what it is by batches. See
                                          check.mjs.
"""

import json
import os
import pathlib
import re
import sys
import tempfile

from chdb import session
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

FOLDER = pathlib.Path(__file__).resolve().parent
COLUMNS = ("device, metric, unit, toUnixTimestamp64Micro(time) AS time_us, leftPad(lower(hex(reinterpretAsUInt64(value))), 16, '0') AS bits, "
           "text, suspect, uncertain, stream, seq, `index`, loss")
# The times of loss records are those of two clocks: the bridge's arrival and the record's timestamp are the same only to the millisecond.
ORDER = "ORDER BY device, stream, seq, `index`"


def statements(name):
    text = re.sub(r"^\s*--.*$", "", (FOLDER / name).read_text(), flags=re.M)
    return [statement for statement in text.split(";") if statement.strip()]


def records(bootstrap, topic):
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=None, isolation_level="read_committed")
    partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic))]
    consumer.assign(partitions)
    consumer.seek_to_beginning()
    ends = consumer.end_offsets(partitions)
    found = []
    while any(consumer.position(partition) < ends[partition] for partition in partitions):
        for batch in consumer.poll(timeout_ms=500).values():
            found.extend(batch)
    return found


def fill(bootstrap, name, topic, form, schema="", extra=""):
    """The table by one of the two files, with the rows that it holds."""
    clickhouse = session.Session()
    clickhouse.query("DROP DATABASE IF EXISTS headwater")
    for statement in statements("readings.sql"):
        clickhouse.query(statement)
    queue, *views = statements(name)
    head, _ = queue.split("ENGINE = Kafka")
    columns = re.search(r"\((.*)\)\s*$", head, re.S).group(1)
    clickhouse.query(head.rstrip().removesuffix(")") + extra + ") ENGINE = Null")
    for view in views:
        clickhouse.query(view)
    table = re.search(r"EXISTS (\S+)", head).group(1)
    with tempfile.TemporaryDirectory() as folder:
        for number, record in enumerate(records(bootstrap, topic)):
            pathlib.Path(folder, f"{number:06}-{record.timestamp}").write_bytes(record.value + (b"\n" if form == "JSONEachRow" else b""))
        stamp = ", fromUnixTimestamp64Milli(toInt64(splitByChar('-', _file)[2])) AS _timestamp_ms" if extra else ""
        clickhouse.query(
            f"INSERT INTO {table} SELECT *{stamp} FROM file('{folder}/*', '{form}', $${columns}$$) "
            f"SETTINGS format_schema = '{schema and 'headwater/v1/' + schema}'")
    out = str(clickhouse.query(f"SELECT {COLUMNS} FROM headwater.readings FINAL {ORDER}", "JSONEachRow"))
    clickhouse.close()
    return [json.loads(line) for line in out.splitlines()]


def main():
    bootstrap, what, *batches = sys.argv[1:]
    # Where schemas, and what they import, are looked for.
    os.chdir(FOLDER.parent.parent / "proto/proto")
    if what == "produce":
        producer = KafkaProducer(bootstrap_servers=bootstrap)
        for batch in batches:
            producer.send("headwater.telemetry", key=b"odd", value=bytes.fromhex(batch))
        producer.flush()
        return
    if what == "json":
        by_rows = fill(bootstrap, "rows.sql", "headwater.readings", "JSONEachRow")
    else:
        by_rows = fill(bootstrap, "rows-protobuf.sql", "headwater.readings", "ProtobufSingle", "reading:Reading")
    stamped = ", `_timestamp_ms` Nullable(DateTime64(3))"
    by_batches = fill(bootstrap, "batches.sql", "headwater.telemetry", "ProtobufSingle", "batch:Batch", stamped)
    for row in by_rows + by_batches:
        if row["metric"] == "headwater.lost":
            row["time_us"] = str(int(row["time_us"]) // 1000 * 1000)
    if by_rows != by_batches:
        pairs = zip(by_rows, by_batches)
        sys.exit(f"{len(by_rows)} rows, {len(by_batches)} by batches; the first that differ: {next((p for p in pairs if p[0] != p[1]), None)}")
    for row in by_batches:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
