//! What it costs that a bridge that lost its partitions cannot write into them any more: no fence, one transactional producer with the group's
//! generation (what the bridge does), and a transactional producer per partition, on a real Kafka.
//!
//! `scripts/kafka start`, then `cargo run --release -p headwater-relay --example fencing -- BOOTSTRAP KAFKA_PID plain|group|each PARTITIONS`.
//! Each run: 1,000 records/s of 300 bytes for 10 s, then as many as get through in 5 s.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

type Failure = Box<dyn Error + Send + Sync>;

const SIZE: usize = 300;
const RATE: u32 = 1000;
/// Records in one transaction at most.
const MOST: usize = 5000;
const LONG: Duration = Duration::from_secs(30);

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [bootstrap, broker, how, partitions] = arguments.as_slice() else {
        return Err("give BOOTSTRAP KAFKA_PID plain|group|each PARTITIONS".into());
    };
    let partitions: usize = partitions.parse()?;
    let topic = format!("fencing-{}", std::process::id());
    create(bootstrap, &topic, partitions)?;
    let group = Group::join(bootstrap, &topic)?;
    let before = (status("Threads:")?, status("VmRSS:")?);
    let writers = if how == "each" { partitions } else { 1 };
    let begun = Instant::now();
    let mut queues = Vec::new();
    let mut threads = Vec::new();
    let (tell, told) = channel();
    for number in 0..writers {
        let (queue, records) = channel();
        let writer = Writer::start(bootstrap, &topic, how, number, &group)?;
        let tell = tell.clone();
        threads.push(std::thread::spawn(move || writer.run(&records, &tell)));
        queues.push(queue);
    }
    let ready = begun.elapsed();
    let run = |rate: Option<u32>, time: Duration| -> Result<String, Failure> {
        let (own, brokers) = (cpu("self")?, cpu(broker)?);
        let begun = Instant::now();
        let (mut sent, mut back) = (0usize, Vec::new());
        while begun.elapsed() < time {
            let due = rate.map_or(back.len() + 20_000, |rate| {
                (begun.elapsed().as_secs_f64() * f64::from(rate)) as usize
            });
            while sent < due {
                let partition = sent % partitions;
                let queue: &Sender<(usize, Instant)> = &queues[partition % writers];
                queue.send((partition, Instant::now()))?;
                sent += 1;
            }
            back.extend(told.try_iter());
            std::thread::sleep(Duration::from_millis(1));
        }
        let through = back.len();
        let took = begun.elapsed().as_secs_f64();
        while back.len() < sent {
            back.push(told.recv_timeout(LONG)?);
        }
        let all = begun.elapsed().as_secs_f64();
        back.sort_unstable();
        let at = |share: f64| back[((back.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
        Ok(format!(
            "{:.0} records/s, p50 {:.1} ms, p99 {:.1} ms, CPU {:.0} % and Kafka's {:.0} %",
            through as f64 / took,
            at(0.5),
            at(0.99),
            (cpu("self")? - own) / all * 100.0,
            (cpu(broker)? - brokers) / all * 100.0
        ))
    };
    run(Some(RATE), Duration::from_secs(2))?;
    let steady = run(Some(RATE), Duration::from_secs(10))?;
    let after = (status("Threads:")?, status("VmRSS:")?);
    let most = run(None, Duration::from_secs(5))?;
    println!(
        "{how}, {partitions} partitions: ready after {ready:.1?}; {} threads and {} KiB more (before: {} and {}); steady: {steady}; \
         at most: {most}",
        after.0 - before.0,
        after.1 - before.1,
        before.0,
        before.1
    );
    drop(queues);
    for thread in threads {
        thread.join().map_err(|_| "a writer panicked")??;
    }
    Ok(())
}

struct Group(Arc<BaseConsumer>);

impl Group {
    fn join(bootstrap: &str, topic: &str) -> Result<Self, Failure> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", topic)
            .set("enable.auto.commit", "false")
            .create()?;
        consumer.subscribe(&[topic])?;
        let begun = Instant::now();
        while consumer.assignment()?.count() == 0 {
            consumer.poll(Duration::from_millis(100));
            if begun.elapsed() > LONG {
                return Err("the group gives nothing".into());
            }
        }
        consumer.pause(&consumer.assignment()?)?;
        Ok(Self(Arc::new(consumer)))
    }
}

struct Writer {
    producer: BaseProducer,
    topic: String,
    /// With the group's generation, if that is the fence.
    group: Option<Arc<BaseConsumer>>,
    transactional: bool,
}

impl Writer {
    fn start(bootstrap: &str, topic: &str, how: &str, number: usize, group: &Group) -> Result<Self, Failure> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", bootstrap)
            .set("enable.idempotence", "true")
            .set("compression.type", "lz4")
            .set("linger.ms", "1");
        let transactional = how != "plain";
        if transactional {
            config.set("transactional.id", format!("{topic}.{number}"));
        }
        let producer: BaseProducer = config.create()?;
        if transactional {
            producer.init_transactions(LONG)?;
        }
        Ok(Self {
            producer,
            topic: topic.to_owned(),
            group: (how == "group").then(|| Arc::clone(&group.0)),
            transactional,
        })
    }

    fn run(&self, records: &Receiver<(usize, Instant)>, tell: &Sender<Duration>) -> Result<(), Failure> {
        let payload: Vec<u8> = (0..SIZE).map(|at| (at * at % 251) as u8).collect();
        while let Ok(first) = records.recv() {
            let mut taken = vec![first];
            taken.extend(records.try_iter().take(MOST - 1));
            let metadata = self.group.as_ref().map(|group| group.group_metadata());
            if self.transactional {
                self.producer.begin_transaction()?;
            }
            for (partition, _) in &taken {
                let record: BaseRecord<'_, [u8], _> = BaseRecord::to(&self.topic)
                    .partition(*partition as i32)
                    .payload(&payload);
                self.producer.send(record).map_err(|(error, _)| error)?;
            }
            // The library's own flush looks only every 100 ms.
            loop {
                let before = self.producer.in_flight_count();
                if before == 0 {
                    break;
                }
                self.producer.poll(Duration::ZERO);
                if self.producer.in_flight_count() == before {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            if let Some(metadata) = metadata {
                let mut offsets = TopicPartitionList::new();
                let partitions: BTreeSet<usize> = taken.iter().map(|(partition, _)| *partition).collect();
                for partition in partitions {
                    offsets.add_partition_offset(&self.topic, partition as i32, Offset::Offset(0))?;
                }
                let metadata = metadata.ok_or("no member")?;
                self.producer
                    .send_offsets_to_transaction(&offsets, &metadata, LONG)?;
            }
            if self.transactional {
                self.producer.commit_transaction(LONG)?;
            }
            for (_, at) in taken {
                tell.send(at.elapsed())?;
            }
        }
        Ok(())
    }
}

fn create(bootstrap: &str, topic: &str, partitions: usize) -> Result<(), Failure> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", bootstrap).create()?;
    let new = NewTopic::new(topic, partitions as i32, TopicReplication::Fixed(1));
    let runtime = tokio::runtime::Runtime::new()?;
    let made = runtime.block_on(admin.create_topics(&[new], &AdminOptions::new()))?;
    made.into_iter().try_for_each(|result| {
        result
            .map(drop)
            .map_err(|(topic, code)| format!("{topic}: {code}").into())
    })
}

/// A figure of /proc/self/status.
fn status(name: &str) -> Result<i64, Failure> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let figure = line.and_then(|line| line.split_whitespace().next());
    Ok(figure.ok_or("no such line")?.parse()?)
}

/// CPU seconds of a process so far (ticks of 10 ms).
fn cpu(pid: &str) -> Result<f64, Failure> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = text
        .rsplit_once(')')
        .ok_or("no stat")?
        .1
        .split_whitespace()
        .collect();
    let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    Ok(ticks / 100.0)
}
