//! The source as a whole: what it refuses, threads that hang, sensors that come and go.

use std::fs;
use std::time::Duration;

use tokio::sync::mpsc::Receiver;

use super::super::*;
use super::{Tree, slave};
use crate::clock::Clock;
use crate::config::{SysfsFile, SysfsParse};

fn start(settings: &SysfsSource) -> (tokio::task::JoinHandle<()>, Receiver<Sample>) {
    let mut source = Sysfs::open(settings).unwrap();
    let (output, samples) = Output::new(Clock::default());
    let task = tokio::spawn(async move {
        source.run(&output).await.unwrap();
    });
    (task, samples)
}

async fn until(samples: &mut Receiver<Sample>, what: &str, mut found: impl FnMut(&Sample) -> bool) {
    let look = async {
        while let Some(sample) = samples.recv().await {
            assert_eq!(sample.time_us % 50_000, 0, "{what}");
            if found(&sample) {
                return;
            }
        }
        panic!("the source has ended");
    };
    tokio::time::timeout(Duration::from_secs(20), look)
        .await
        .expect(what);
}

fn names(sample: &Sample) -> Vec<&str> {
    let mut names: Vec<_> = sample
        .readings
        .iter()
        .map(|reading| &*reading.metric.name)
        .collect();
    names.sort_unstable();
    names
}

/// A reading that hangs, one that fails, sensors that come and go: none costs another a reading.
#[tokio::test]
async fn sensors_that_hang_fail_come_and_go_leave_the_others_alone() {
    let tree = Tree::new();
    slave(&tree, "28-00000000000a", "YES", 20_000);
    // Reading an address that nobody has is an input/output error.
    tree.link_to("class/thermal/thermal_zone0/temp", "/proc/self/mem");
    tree.file("class/thermal/thermal_zone0/type", "broken");
    let hanging = tree.0.path().join("bus/w1/devices/28-00000000000b/w1_slave");
    fs::create_dir_all(hanging.parent().unwrap()).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &hanging,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let settings = SysfsSource {
        readers: 2,
        ..tree.settings(&SysfsPreset::ALL)
    };
    let (task, mut samples) = start(&settings);
    let mut seen = 0;
    until(&mut samples, "one goes on", |sample| {
        assert_eq!(names(sample), ["onewire.28-00000000000a"]);
        seen += 1;
        seen == 5
    })
    .await;

    slave(&tree, "28-00000000000c", "YES", 30_000);
    until(&mut samples, "the new one is found", |sample| {
        names(sample) == ["onewire.28-00000000000a", "onewire.28-00000000000c"]
    })
    .await;
    fs::remove_dir_all(tree.0.path().join("bus/w1/devices/28-00000000000a")).unwrap();
    until(&mut samples, "the other goes on", |sample| {
        names(sample) == ["onewire.28-00000000000c"]
    })
    .await;
    slave(&tree, "28-00000000000a", "YES", 21_000);
    until(&mut samples, "it is found again", |sample| {
        names(sample) == ["onewire.28-00000000000a", "onewire.28-00000000000c"]
    })
    .await;

    // The hanging one answers: what it says is hours old and left out, the next reading counts.
    let answer = tree.0.path().join("answer");
    slave(&tree, "28-00000000000d", "YES", 40_000);
    fs::rename(
        tree.0.path().join("bus/w1/devices/28-00000000000d/w1_slave"),
        &answer,
    )
    .unwrap();
    let text = fs::read_to_string(&answer).unwrap();
    fs::rename(&answer, hanging.with_extension("new")).unwrap();
    let fifo = hanging.with_extension("fifo");
    fs::rename(&hanging, &fifo).unwrap();
    fs::rename(hanging.with_extension("new"), &hanging).unwrap();
    tokio::task::spawn_blocking(move || fs::write(fifo, text).unwrap())
        .await
        .unwrap();
    until(&mut samples, "it is back", |sample| {
        names(sample).contains(&"onewire.28-00000000000b")
    })
    .await;
    task.abort();
}

#[test]
fn settings_that_make_no_sense_are_refused_by_key() {
    let file = |path: &str, metric: &str| SysfsSource {
        files: vec![SysfsFile {
            path: path.into(),
            metric: metric.into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let mut scaled_text = file("a", "a");
    scaled_text.files[0].parse = SysfsParse::Text;
    scaled_text.files[0].scale = 2.0;
    let mut no_scale = file("a", "a");
    no_scale.files[0].scale = f64::NAN;
    let settings = SysfsSource::default;
    for (settings, part) in [
        (
            SysfsSource {
                interval: Duration::ZERO,
                ..settings()
            },
            "`interval`: 0ns is less than 10ms",
        ),
        (
            SysfsSource {
                rescan: Duration::ZERO,
                ..settings()
            },
            "`rescan`",
        ),
        (
            SysfsSource {
                readers: 0,
                ..settings()
            },
            "`readers`: 0 is not in 1..=16",
        ),
        (
            SysfsSource {
                presets: vec![],
                ..settings()
            },
            "`presets`",
        ),
        (file("/sys/class/x", "a"), "`file.path`"),
        (file("class/../x", "a"), "`file.path`"),
        (file("", "a"), "`file.path`"),
        (file("a", ""), "`file.metric`"),
        (file("a*/b", "a{2}"), "`file.metric`: {2} stands for nothing"),
        (scaled_text, "`file.parse`"),
        (no_scale, "`file.scale`: NaN"),
    ] {
        let error = Sysfs::open(&settings).err().unwrap().to_string();
        assert!(error.contains(part), "{error}");
    }
}
