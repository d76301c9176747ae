"""Prints the records of a topic as they are: a JSON object a record, from the first on, until it is ended.

Usage: records.py BOOTSTRAP TOPIC
"""

import base64
import json
import sys

from kafka import KafkaConsumer, TopicPartition
from telemetry import connect


def main():
    bootstrap, topic = sys.argv[1:]
    consumer, partitions = connect(bootstrap, topic, "read_committed")
    assert isinstance(consumer, KafkaConsumer)
    consumer.assign([TopicPartition(topic, partition) for partition in sorted(partitions)])
    consumer.seek_to_beginning()
    while True:
        for records in consumer.poll(timeout_ms=200).values():
            for record in records:
                print(json.dumps({
                    "key": record.key and record.key.decode(),
                    "headers": {name: value.decode() for name, value in record.headers},
                    "value": record.value and base64.b64encode(record.value).decode(),
                }))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
