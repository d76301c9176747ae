"""Prints the rows of headwater.readings, a JSON object a row, as who reads committed records only sees them, until it is ended.

Usage: rows.py BOOTSTRAP TOPIC json|protobuf
"""

import json
import struct
import sys

import contract
from kafka import TopicPartition
from telemetry import connect


def main():
    bootstrap, topic, form = sys.argv[1:]
    consumer, partitions = connect(bootstrap, topic, "read_committed")
    consumer.assign([TopicPartition(topic, partition) for partition in sorted(partitions)])
    consumer.seek_to_beginning()
    print(json.dumps({"ready": True}), flush=True)
    while True:
        for records in consumer.poll(timeout_ms=200).values():
            for record in records:
                row = of_json(record.value) if form == "json" else of_protobuf(record.value)
                print(json.dumps({**row, "key": record.key.decode(), "partition": record.partition}))
            sys.stdout.flush()


def bits(value):
    return struct.pack(">d", value).hex()


def of_json(value):
    row = json.loads(value)
    return {**row, "bits": None if row["value"] is None else bits(float(row["value"])), "frame": ""}


def of_protobuf(value):
    """Behind the frame of Confluent's serializers: a zero, the schema's id, and the path to the message."""
    row = contract.reading_pb2.Reading.FromString(value[6:])
    return {
        "frame": value[:6].hex(),
        "device": row.device,
        "metric": row.metric,
        "time_us": row.time_us,
        "bits": bits(row.double),
        "stream": f"{row.stream:016x}",
        "seq": row.seq,
        "index": row.index,
    }


if __name__ == "__main__":
    main()
