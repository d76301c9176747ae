"""Raises the number of partitions of topics, and waits until the broker says so: the controller answers before the broker has heard of it.

Usage: partitions.py BOOTSTRAP COUNT TOPIC…
"""

import sys
import time

from kafka.admin import KafkaAdminClient


def main():
    bootstrap, count, *topics = sys.argv[1:]
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_partitions({topic: int(count) for topic in topics})
    until = time.monotonic() + 30
    while any(len(topic["partitions"]) != int(count) for topic in admin.describe_topics(topics)):
        if time.monotonic() > until:
            sys.exit(f"{topics} have not {count} partitions after 30 s")
        time.sleep(0.1)
    admin.close()


if __name__ == "__main__":
    main()
