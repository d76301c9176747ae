"""Prints what Kafka holds: a JSON object a record, from the first record of a topic on, until it is ended.

Usage: telemetry.py BOOTSTRAP TOPIC read_committed|read_uncommitted

A line on standard input is answered with {"reached": how many lines came} when all is printed that Kafka held as the line was taken,
records of transactions that were open then included, if they are to be seen at all.
"""

import json
import sys
import threading
import time

import contract  # noqa: F401
from batch import readings
from contract import batch_pb2
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError


def connect(bootstrap, topic, isolation):
    while True:
        try:
            consumer = KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", fetch_max_wait_ms=100,
                                     enable_auto_commit=False, group_id=None, metadata_max_age_ms=2000,
                                     isolation_level=isolation)
            partitions = consumer.partitions_for_topic(topic)
            if partitions:
                return consumer, partitions
            consumer.close()
        except KafkaError as error:
            print(f"not yet: {error}", file=sys.stderr)
        time.sleep(0.2)


def main():
    bootstrap, topic, isolation = sys.argv[1:]
    consumer, partitions = connect(bootstrap, topic, isolation)
    assigned = [TopicPartition(topic, partition) for partition in sorted(partitions)]
    consumer.assign(assigned)
    consumer.seek_to_beginning()
    print(json.dumps({"ready": True, "partitions": len(partitions)}), flush=True)
    asked = []
    threading.Thread(target=listen, args=(asked,), daemon=True).start()
    reached, of, ends = 0, 0, None
    while True:
        for records in consumer.poll(timeout_ms=200).values():
            for record in records:
                print(json.dumps(describe(record)))
            sys.stdout.flush()
        if ends is None and len(asked) > reached:
            of, ends = len(asked), end_of(bootstrap, assigned)
        if ends and all((consumer.position(partition) or 0) >= end for partition, end in ends.items()):
            reached, ends = of, None
            print(json.dumps({"reached": reached}), flush=True)


def listen(asked):
    for line in sys.stdin:
        asked.append(line)


def end_of(bootstrap, partitions):
    """Where the log ends, open transactions included; None if Kafka does not say."""
    try:
        # One that sees only what is committed is told that the log ends before the first open transaction.
        consumer = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, group_id=None)
        try:
            return consumer.end_offsets(partitions) or None
        finally:
            consumer.close()
    except KafkaError as error:
        print(f"not yet: {error}", file=sys.stderr)
        return None


def describe(record):
    batch = batch_pb2.Batch.FromString(record.value)
    described = {
        "partition": record.partition,
        "offset": record.offset,
        "timestamp_ms": record.timestamp,
        "key": record.key.decode(),
        "headers": {name: value.decode() for name, value in record.headers},
        "device": batch.device,
        "stream": f"{batch.stream:016x}",
        "seq": batch.seq,
        "clock": batch_pb2.Clock.Name(batch.clock),
        "columns": readings(batch),
    }
    if batch.HasField("loss"):
        described["loss"] = {
            "through": batch.loss.through,
            "readings": batch.loss.readings,
            "reason": batch_pb2.LossReason.Name(batch.loss.reason),
        }
    return described


if __name__ == "__main__":
    main()
