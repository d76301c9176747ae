"""Writes commands as any Kafka program would, and prints replies and dead letters, as who reads committed records only sees them.

Usage: commands.py BOOTSTRAP
On standard input a JSON object a line: {"device", "id", "name", "arguments", "expires_in_ms"}, or {"device", "raw": hex}; "partition"
overrides what the partitioner (murmur2, as Java's) says.
"""

import json
import sys
import threading
import time

import contract
from kafka import KafkaProducer, TopicPartition
from telemetry import connect

TOPICS = {"headwater.replies": "reply", "headwater.deadletter": "letter"}


def main():
    (bootstrap,) = sys.argv[1:]
    consumer, _ = connect(bootstrap, "headwater.replies", "read_committed")
    partitions = [TopicPartition(topic, partition)
                  for topic in TOPICS for partition in sorted(consumer.partitions_for_topic(topic))]
    consumer.assign(partitions)
    consumer.seek_to_beginning()
    threading.Thread(target=write, args=[KafkaProducer(bootstrap_servers=bootstrap, acks="all")], daemon=True).start()
    print(json.dumps({"kind": "ready"}), flush=True)
    while True:
        for records in consumer.poll(timeout_ms=100).values():
            for record in records:
                print(json.dumps({"kind": TOPICS[record.topic], "key": (record.key or b"").decode(),
                                  "offset": record.offset, "partition": record.partition, **describe(record)}))
            sys.stdout.flush()


def describe(record):
    if record.topic != "headwater.replies":
        return {"headers": {name: value.decode() for name, value in record.headers}, "value": record.value.hex()}
    reply = contract.command_pb2.Reply.FromString(record.value)
    return {"id": reply.id, "device": reply.device, "output": reply.output, "replied_us": reply.replied_us,
            "status": contract.command_pb2.ReplyStatus.Name(reply.status).removeprefix("REPLY_STATUS_")}


def write(producer):
    for line in sys.stdin:
        given = json.loads(line)
        if "raw" in given:
            value = bytes.fromhex(given["raw"])
        else:
            expires = int((time.time() * 1000 + given["expires_in_ms"]) * 1000) if "expires_in_ms" in given else 0
            value = contract.command_pb2.Command(id=given["id"], device=given["device"], name=given["name"],
                                                 arguments=given.get("arguments", []), expires_us=expires,
                                                 issuer="e2e").SerializeToString()
        producer.send("headwater.commands", key=given["device"].encode(), value=value, partition=given.get("partition"))
        producer.flush()


if __name__ == "__main__":
    main()
