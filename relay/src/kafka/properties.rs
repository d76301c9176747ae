//! Which of librdkafka's properties are not an operator's to set, and why: each would break what the relay promises
//! (acknowledged means in Kafka, once and in order) or belongs to a key of ours. The names are those of librdkafka's
//! CONFIGURATION.md, aliases too.

/// Properties and the reason that each is refused with.
const OURS: [(&[&str], &str); 20] = [
    (
        &["bootstrap.servers", "metadata.broker.list"],
        "write it as kafka.bootstrap",
    ),
    (
        &["acks", "request.required.acks"],
        "an acknowledgement to an agent stands for all replicas in sync",
    ),
    (
        &["enable.idempotence"],
        "without it a retry can repeat or reorder batches",
    ),
    (
        &["enable.gapless.guarantee"],
        "without it a failed record leaves a hole",
    ),
    (
        &["message.timeout.ms", "delivery.timeout.ms"],
        "a record given up by time leaves a hole",
    ),
    (
        &["retries", "message.send.max.retries"],
        "a record given up after some attempts leaves a hole",
    ),
    (
        &["max.in.flight", "max.in.flight.requests.per.connection"],
        "more than an idempotent producer allows reorders",
    ),
    (&["queuing.strategy"], "another than first in, first out reorders"),
    (
        &["delivery.report.only.error"],
        "agents are acknowledged by the reports of success",
    ),
    (
        &["partitioner"],
        "a device's partition follows from its shard, for every program alike",
    ),
    (
        &["transactional.id"],
        "it has to tell the owners of a partition apart",
    ),
    (
        &["queue.buffering.max.messages", "queue.buffering.max.kbytes"],
        "memory is bounded by bridge.in_flight",
    ),
    (
        &[
            "session.timeout.ms",
            "heartbeat.interval.ms",
            "transaction.timeout.ms",
        ],
        "it follows from bridge.session_timeout and rows.session_timeout",
    ),
    (
        &["group.protocol", "group.instance.id"],
        "handing partitions over rests on how the relay is a member",
    ),
    (&["message.max.bytes"], "it follows from bridge.limits.body"),
    (
        &["group.id"],
        "it follows from kafka.prefix, so that bridges find each other",
    ),
    (
        &[
            "enable.auto.commit",
            "auto.commit.enable",
            "enable.auto.offset.store",
            "auto.offset.reset",
            "enable.partition.eof",
            "partition.assignment.strategy",
        ],
        "where reading begins, and what counts as read, is decided by the relay",
    ),
    (
        &["isolation.level"],
        "what a transaction took back must not be seen",
    ),
    (
        &["allow.auto.create.topics"],
        "topics are created with the partitions they need: see kafka.create_topics",
    ),
    (
        &["test.mock.num.brokers", "test.mock.broker.rtt"],
        "it makes a Kafka that forgets; `headwater-relay demo` has one",
    ),
];

/// Why this property is not to be set, if it is not.
pub fn refusal(name: &str) -> Option<&'static str> {
    let known = |(names, why): &(&[&str], &'static str)| names.contains(&name).then_some(*why);
    OURS.iter().find_map(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_a_property_of_librdkafka() {
        for name in OURS.iter().flat_map(|(names, _)| *names) {
            let mut config = rdkafka::ClientConfig::new();
            config.set(*name, "\u{1}");
            // The value may be refused; a name that is not known would be a refusal that never applies.
            let told = config
                .create_native_config()
                .map(drop)
                .err()
                .map(|error| error.to_string());
            assert!(
                !told.is_some_and(|told| told.contains("No such configuration")),
                "{name}"
            );
        }
        let mut config = rdkafka::ClientConfig::new();
        config.set("acknowledgements", "1");
        let told = config.create_native_config().map(drop).unwrap_err().to_string();
        assert!(told.contains("No such configuration"), "{told}");
    }

    #[test]
    fn what_operators_tune_is_theirs() {
        for name in [
            "linger.ms",
            "compression.type",
            "sasl.password",
            "ssl.ca.location",
            "socket.timeout.ms",
            "client.rack",
            "statistics.interval.ms",
        ] {
            assert_eq!(refusal(name), None, "{name}");
        }
    }
}
