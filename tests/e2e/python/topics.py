"""What an operator does to topics.

Usage: topics.py BOOTSTRAP create TOPIC PARTITIONS
       topics.py BOOTSTRAP delete TOPIC…
       topics.py BOOTSTRAP truncate TOPIC PARTITION OFFSET     (deletes the records before, as retention does)
       topics.py BOOTSTRAP limit TOPIC BYTES     (sets max.message.bytes)
       topics.py BOOTSTRAP replicas              (prints the smallest number of copies in sync of any partition)
"""

import sys

from kafka import TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient


def main():
    bootstrap, command, *rest = sys.argv[1:]
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    if command == "create":
        topic, partitions = rest
        compacted = {"cleanup.policy": "compact"} if topic.endswith(".devices") else {}
        admin.create_topics({topic: {"num_partitions": int(partitions), "replication_factor": 1, "configs": compacted}})
    elif command == "delete":
        admin.delete_topics(rest)
    elif command == "truncate":
        topic, partition, offset = rest
        admin.delete_records({TopicPartition(topic, int(partition)): int(offset)})
    elif command == "limit":
        topic, limit = rest
        admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": limit})])
    else:
        topics = admin.describe_topics()
        print(min(len(partition["isr_nodes"]) for topic in topics for partition in topic["partitions"]))
    admin.close()


if __name__ == "__main__":
    main()
