"""Prints the newest state of each device in a topic of states: a JSON object a line, then it ends.

Usage: devices.py BOOTSTRAP TOPIC
"""

import json
import sys

import contract  # noqa: F401
from contract import fleet_pb2
from kafka import KafkaConsumer, TopicPartition


def main():
    bootstrap, topic = sys.argv[1:]
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False,
                             group_id=None, isolation_level="read_committed")
    partitions = [TopicPartition(topic, partition) for partition in consumer.partitions_for_topic(topic)]
    consumer.assign(partitions)
    ends = consumer.end_offsets(partitions)
    consumer.seek_to_beginning()
    states = {}
    while any(consumer.position(partition) < ends[partition] for partition in partitions):
        for records in consumer.poll(timeout_ms=200).values():
            for record in records:
                states[(record.partition, record.key)] = record.value
    for value in states.values():
        state = fleet_pb2.DeviceState.FromString(value)
        if state.HasField("checkpoint"):
            continue
        positions = {f"{at.stream:016x}": at.seq for at in state.positions}
        print(json.dumps({"device": state.device, "online": state.online, "positions": positions}))


if __name__ == "__main__":
    main()
