"""Raises the number of partitions of topics.

Usage: partitions.py BOOTSTRAP COUNT TOPIC…
"""

import sys

from kafka.admin import KafkaAdminClient


def main():
    bootstrap, count, *topics = sys.argv[1:]
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_partitions({topic: int(count) for topic in topics})
    admin.close()


if __name__ == "__main__":
    main()
