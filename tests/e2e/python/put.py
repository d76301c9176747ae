"""Puts batches of one reading each into a topic, keyed by device as the bridge does: the value is the batch's number.

Usage: put.py BOOTSTRAP TOPIC FIRST LAST DEVICE…     (numbers FIRST to LAST of each device)
"""

import sys
import time

import contract  # noqa: F401
from contract import batch_pb2
from kafka import KafkaProducer


def batch(device, seq):
    made = batch_pb2.Batch(device=device, stream=7, seq=seq)
    made.times.add(first=time.time_ns() // 1000, count=1)
    column = made.columns.add(metric="number", times=0)
    column.doubles.values.append(seq)
    return made.SerializeToString()


def main():
    bootstrap, topic, first, last, *devices = sys.argv[1:]
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all")
    sent = [
        producer.send(topic, key=device.encode(), value=batch(device, seq))
        for seq in range(int(first), int(last) + 1)
        for device in devices
    ]
    producer.flush()
    for future in sent:
        future.get(timeout=60)
    producer.close()


if __name__ == "__main__":
    main()
