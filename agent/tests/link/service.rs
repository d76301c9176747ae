//! The program under a service manager, and before it is one: the watchdog, `check`, `init`.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use headwater_agent::SourceState;

use crate::agent::program;
use crate::bridge::Bridge;
use crate::library::wait_for;
use crate::mosquitto::Mosquitto;
use crate::status::read_status;

/// Killed when a test fails.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn signal(agent: &Agent, name: &str) {
    let id = agent.0.id().to_string();
    assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
}

/// What a service manager would be told, in order.
fn manager(folder: &Path) -> Arc<Mutex<Vec<String>>> {
    let socket = UnixDatagram::bind(folder.join("notify")).unwrap();
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = told.clone();
    // Ends with the test's process.
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length) = socket.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            kept.lock().unwrap().push(text);
        }
    });
    told
}

#[tokio::test]
async fn the_manager_is_told_ready_alive_reloading_and_stopping_and_nothing_while_it_hangs() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let _relay = bridge.run(broker.port());
    let folder = tempfile::tempdir().unwrap();
    let told = manager(folder.path());
    let config = folder.path().join("agent.toml");
    let text = format!(
        "device = 'gw-01'\n[uplink]\nbroker = '{}'\n[[source]]\ntype = 'simulated'\n",
        broker.address()
    );
    std::fs::write(&config, text).unwrap();
    let child = program()
        .args(["run", "--config"])
        .arg(&config)
        .env("NOTIFY_SOCKET", folder.path().join("notify"))
        .env("WATCHDOG_USEC", "600000")
        .stderr(Stdio::null())
        .spawn();
    let mut child = Agent(child.unwrap());
    let count = |word: &str| {
        told.lock()
            .unwrap()
            .iter()
            .filter(|text| text.contains(word))
            .count()
    };
    wait_for("signs of life", || count("WATCHDOG=1") > 3).await;
    assert!(
        told.lock().unwrap()[0].contains("READY=1"),
        "ready comes first, and once"
    );
    assert_eq!(count("READY=1"), 1);
    wait_for("the status line", || {
        count("STATUS=connected to mqtt://127.0.0.1") > 0
    })
    .await;
    signal(&child, "-STOP");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = count("WATCHDOG=1");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(count("WATCHDOG=1"), before, "nobody feeds it in its place");
    signal(&child, "-CONT");
    wait_for("signs of life again", || count("WATCHDOG=1") > before).await;
    signal(&child, "-HUP");
    wait_for("reloading, and ready again", || {
        count("RELOADING=1") == 1 && count("READY=1") == 2
    })
    .await;
    signal(&child, "-TERM");
    wait_for("stopping", || count("STOPPING=1") == 1).await;
    let ended = tokio::task::spawn_blocking(move || child.0.wait().unwrap());
    assert!(ended.await.unwrap().success());
}

/// The log goes to a pipe that nobody reads, as to a journal daemon that hangs: once it is full, the thread that moves readings stands still
/// in a write. The process lives, and its other threads too.
#[tokio::test]
async fn the_watchdog_starves_while_the_thread_that_moves_readings_stands_still() {
    use std::io::Read;
    let broker = Mosquitto::started();
    let folder = tempfile::tempdir().unwrap();
    let told = manager(folder.path());
    let config = folder.path().join("agent.toml");
    let text = format!(
        "device = 'gw-01'\nstate_dir = '{}/state'\n[uplink]\nbroker = '{}'\n[[source]]\ntype = 'simulated'\n",
        folder.path().display(),
        broker.address()
    );
    std::fs::write(&config, text).unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    // The least there is: a page.
    rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
    let child = program()
        .args(["run", "--config"])
        .arg(&config)
        .env("NOTIFY_SOCKET", folder.path().join("notify"))
        .env("WATCHDOG_USEC", "600000")
        .stderr(writer)
        .spawn();
    let mut child = Agent(child.unwrap());
    let fed = || {
        let told = told.lock().unwrap();
        told.iter().filter(|text| text.contains("WATCHDOG=1")).count()
    };
    wait_for("signs of life", || fed() > 3).await;
    // Every reload is logged.
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let before = fed();
        for _ in 0..20 {
            signal(&child, "-HUP");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Five times as long as it is fed in.
        tokio::time::sleep(Duration::from_secs(1)).await;
        if fed() == before {
            break;
        }
        assert!(Instant::now() < until, "it is fed all the while");
    }
    let starved = fed();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fed(), starved, "nobody feeds it in its place");
    assert!(child.0.try_wait().unwrap().is_none());
    // Somebody reads again.
    std::thread::spawn(move || {
        let mut page = [0; 4096];
        while let Ok(1..) = reader.read(&mut page) {}
    });
    wait_for("signs of life again", || fed() > starved).await;
}

/// Exit code and standard output.
async fn check(config: &Path) -> (Option<i32>, String) {
    let config = config.to_path_buf();
    let checked = tokio::task::spawn_blocking(move || {
        program()
            .args(["check", "--config"])
            .arg(config)
            .output()
            .unwrap()
    });
    let output = checked.await.unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

fn line<'a>(table: &'a str, subject: &str) -> &'a str {
    let found = table.lines().find(|line| line.contains(subject));
    found.unwrap_or_else(|| panic!("{subject}: {table}"))
}

#[tokio::test]
async fn check_reads_each_source_and_reaches_the_broker_beside_a_running_agent() {
    let broker = Mosquitto::started();
    let bridge = Bridge::default();
    let _relay = bridge.run(broker.port());
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("agent.toml");
    // Not the beginning of a port that `free_port` gives.
    let dead = "127.0.0.1:9";
    let text = format!(
        "device = 'gw-01'\nstate_dir = '{}/state'\n[uplink]\nbroker = ['{}', 'mqtt://{dead}']\n\
         [clock]\ntrust = 'always'\n[journal]\nmax_bytes = '1 MiB'\nsegment = '256 KiB'\n\
         [[source]]\ntype = 'simulated'\nname = 'good'\nsensors = 9\n\
         [[source]]\ntype = 'mqtt'\nname = 'local'\nbroker = '{1}'\nclient_id = 'collector'\n\
         [[source.subscription]]\ntopic = 'zigbee2mqtt/+'\n\
         [[source]]\ntype = 'replay'\nname = 'bad'\npath = '/nonexistent/trace.csv'\n",
        folder.path().display(),
        broker.address()
    );
    std::fs::write(&config, &text).unwrap();
    // An agent of the same name runs all the while.
    let good = text.split("[[source]]\ntype = 'replay'").next().unwrap();
    let running = folder.path().join("running.toml");
    std::fs::write(&running, good).unwrap();
    let agent = program()
        .args(["run", "--config"])
        .arg(&running)
        .stderr(Stdio::null())
        .spawn();
    let agent = Agent(agent.unwrap());
    wait_for("hello", || bridge.state(|state| state.hellos.len() == 1)).await;
    let socket = folder.path().join("state/agent.sock");
    let local = async || {
        let sources = read_status(socket.clone()).await.map(|status| status.sources);
        let mut sources = sources.into_iter().flatten();
        sources.find(|source| source.name == "local").unwrap()
    };
    while local().await.state != SourceState::Running {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (code, table) = check(&config).await;
    assert_eq!(code, Some(1), "{table}");
    for (subject, part) in [
        ("configuration", "ok"),
        ("source good", "ok"),
        ("source good", "and 3 more"),
        ("source local", "ok"),
        ("source bad", "FAILED"),
        ("source bad", "/nonexistent/trace.csv"),
        (&*broker.address(), "ok"),
        (dead, "FAILED"),
        ("disk", "the journal may take 1.0 MiB"),
    ] {
        assert!(line(&table, subject).contains(part), "{subject}, {part}: {table}");
    }
    assert!(line(&table, "clock").contains("right"), "{table}");
    let (hellos, online) =
        bridge.state(|state| (state.hellos.len(), state.statuses.last().unwrap().1.online));
    assert!(hellos == 1 && online, "the running agent was disturbed");
    let local = local().await;
    assert_eq!(
        (local.failures, local.last_error),
        (0, None),
        "its source was thrown off the local broker"
    );
    drop(agent);
    std::fs::write(&config, text.replace("type = 'simulated'", "type = 'simulatd'")).unwrap();
    let (code, table) = check(&config).await;
    assert_eq!(code, Some(1));
    assert!(
        table.contains("did you mean `simulated`") && table.contains("1 of 1 failed"),
        "{table}"
    );
}

#[test]
fn init_writes_settings_that_check_reads_and_never_over_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    let init = |arguments: &[&str]| program().arg("init").args(arguments).output().unwrap();
    let output = init(&["--output", path.to_str().unwrap()]);
    assert!(output.status.success());
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(
        written.contains("[[source]]") && written.contains("\nstate_dir = "),
        "{written}"
    );
    assert_eq!(init(&[]).stdout, written.as_bytes());
    std::fs::write(&path, "mine").unwrap();
    let output = init(&["--output", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("--force"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    assert!(
        init(&["--force", "--output", path.to_str().unwrap()])
            .status
            .success()
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), written);
}
