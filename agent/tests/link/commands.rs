//! Commands, one by one, to the program itself, over a real broker.

use std::time::{Duration, Instant};

use headwater_agent::Status;
use headwater_proto::pb::ReplyStatus;

use crate::agent;
use crate::library::wait_for;
use crate::mosquitto::Mosquitto;
use crate::operator::DEVICE;
use crate::site::Site;

#[tokio::test]
async fn ping_and_status_answer_and_a_repeat_gets_the_same_reply() {
    let site = Site::start("").await;
    let (status, output) = site.ask("ping", &[]).await;
    assert_eq!(
        (status, &*output),
        (ReplyStatus::Ok, concat!("gw-01 ", env!("CARGO_PKG_VERSION")))
    );
    let (status, output) = site.ask("status", &[]).await;
    assert_eq!(status, ReplyStatus::Ok);
    let told = Status::from_json(&output).unwrap();
    assert!(
        told.answering && told.stats.connected && told.sources.len() == 1,
        "{output}"
    );
    let ping = site.operator.command("ping", &[]);
    site.operator.send(&ping);
    let first = site.operator.reply(&ping.id).await;
    site.operator.send(&ping);
    wait_for("the same reply", || site.operator.replies(&ping.id).len() == 2).await;
    assert_eq!(site.operator.replies(&ping.id), [first.clone(), first]);
    assert!(!site.in_state("commands"), "a ping wears no flash");
}

#[tokio::test]
async fn what_is_no_command_is_counted_and_what_is_not_allowed_is_refused() {
    let site = Site::start("[control]\ncommands = ['ping', 'config']\n").await;
    for payload in [vec![], vec![0xff; 50], vec![0x10; 300_000]] {
        site.operator.send_payload(payload);
    }
    let mut foreign = site.operator.command("ping", &[]);
    foreign.device = "gw-02".into();
    site.operator.send(&foreign);
    assert_eq!(site.ask("fly", &[]).await.0, ReplyStatus::UnknownCommand);
    assert_eq!(site.ask("restart", &[]).await.0, ReplyStatus::Refused);
    assert_eq!(site.ask("config", &["burn"]).await.0, ReplyStatus::Refused);
    assert_eq!(site.ask("ping", &[]).await.0, ReplyStatus::Ok);
    assert!(site.operator.replies(&foreign.id).is_empty());
    assert!(
        site.log().contains("what came as a command is none"),
        "{}",
        site.log()
    );
}

#[tokio::test]
async fn what_comes_too_late_is_refused_where_the_clock_is_known() {
    let site = Site::start("[clock]\ntrust = 'always'\n").await;
    let mut late = site.operator.command("restart", &[]);
    late.expires_us -= 120_000_000;
    site.operator.send(&late);
    let reply = site.operator.reply(&late.id).await;
    assert_eq!(reply.status(), ReplyStatus::Expired);
    assert!(
        reply.output.contains("nothing was done") && reply.replied_us > late.expires_us,
        "{reply:?}"
    );
    let hellos = site.hellos();
    assert_eq!(site.ask("ping", &[]).await.0, ReplyStatus::Ok);
    assert_eq!(site.hellos(), hellos);
}

#[tokio::test]
async fn flush_closes_the_open_batch_and_answers_when_it_is_acknowledged() {
    let site = Site::start("[batch]\nage = '1h'\n").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(site.bridge.check_chains(), (0, 0));
    let (status, output) = site.ask("flush", &[]).await;
    assert_eq!(status, ReplyStatus::Ok, "{output}");
    assert!(site.bridge.check_chains().0 > 0);
}

#[tokio::test]
async fn set_changes_a_source_lasts_over_a_kill_and_is_taken_back() {
    let mut site = Site::start("").await;
    let before = site.status().await.settings.hash;
    let set = site.operator.command("set", &["source.sim.interval", "1s"]);
    site.operator.send(&set);
    let reply = site.operator.reply(&set.id).await;
    assert_eq!(reply.status(), ReplyStatus::Ok, "{reply:?}");
    let settings = site.status().await.settings;
    assert_ne!(settings.hash, before);
    assert_eq!(
        settings.overrides,
        [("source.sim.interval".into(), "\"1s\"".into())]
    );
    wait_for("hello with the new hash", || {
        site.bridge.state(|state| {
            let hello = &state.hellos.last().unwrap().1;
            hello.agent.as_ref().unwrap().config_hash == settings.hash
        })
    })
    .await;
    for (arguments, part) in [
        (&["source.kettle.interval", "1s"][..], "there is sim"),
        (&["source.sim.interval", "1 parsec"], "is not a duration"),
        (
            &["source.sim.interval", "1 parsec"],
            "source.sim.interval 1 parsec: ",
        ),
        (&["source.sim.intervall", "1s"], "did you mean `interval`"),
        (&["batch.readings", "0"], "setting `batch.readings`"),
        (&["uplink.broker", "mqtt://x"], "config apply"),
        (&["control.commands", "[\"exec\"]"], "on the machine itself"),
        (&["one"], "give KEY VALUE"),
    ] {
        let (status, output) = site.ask("set", arguments).await;
        assert_eq!(status, ReplyStatus::Refused, "{arguments:?}");
        assert!(output.contains(part), "{arguments:?}: {output}");
    }
    site.kill();
    site.run().await;
    assert_eq!(site.status().await.settings, settings);
    // A repeat after the restart: its effect is not repeated, its reply is.
    site.operator.send(&set);
    wait_for("the remembered reply", || {
        site.operator.replies(&set.id).len() == 2
    })
    .await;
    assert_eq!(site.ask("set", &[]).await.1, "source.sim.interval = \"1s\"");
    assert_eq!(
        site.ask("set", &["--unset", "source.sim.interval"]).await.0,
        ReplyStatus::Ok
    );
    let settings = site.status().await.settings;
    assert_eq!((settings.hash, settings.overrides.len()), (before, 0));
    assert!(!site.in_state("overrides.toml"));
}

#[tokio::test]
async fn a_configuration_is_applied_when_the_relay_answers_and_lasts() {
    let mut site = Site::start("").await;
    assert_eq!(site.ask("set", &["batch.age", "3s"]).await.0, ReplyStatus::Ok);
    let text = site.text("[batch]\nage = '2s'\n[journal]\nsync_after = '10s'\n");
    let (status, output) = site.ask("config", &["apply", &text]).await;
    assert_eq!(status, ReplyStatus::Ok, "{output}");
    assert!(
        output.contains("journal take effect at the next start"),
        "{output}"
    );
    assert!(site.in_state("config.toml") && !site.in_state("trial"));
    let settings = site.status().await.settings;
    assert!(
        output.contains(&settings.hash) && settings.overrides.is_empty(),
        "{output} {settings:?}"
    );
    site.kill();
    site.run().await;
    assert_eq!(site.status().await.settings, settings);
    let (_, got) = site.ask("config", &["get"]).await;
    assert!(got.contains(&text) && got.contains("applied by command"), "{got}");
    assert_eq!(site.ask("config", &["reset"]).await.0, ReplyStatus::Ok);
    assert!(!site.in_state("config.toml"));
    let (_, got) = site.ask("config", &["get"]).await;
    assert!(got.contains(&site.text("")), "{got}");
}

#[tokio::test]
async fn a_configuration_that_is_wrong_changes_nothing() {
    let site = Site::start("").await;
    let before = site.status().await.settings;
    let source = "[[source]]\ntype = 'replay'\npath = '/nonexistent/trace.csv'\n";
    for (text, part) in [
        (site.text("[batch]\nagee = '1s'\n"), "did you mean `age`"),
        (site.text("[batch]\nreadings = 0\n"), "setting `batch.readings`"),
        (
            site.text("").replace(DEVICE, "gw-02"),
            "setting `device`: it cannot change",
        ),
        (format!("{}{source}", site.text("")), "/nonexistent/trace.csv"),
        (
            site.text("[control]\ncommands = ['exec']\n"),
            "on the machine itself",
        ),
        ("x = ".into(), "line 1"),
        (format!("#{}", "x".repeat(70_000)), "are more than 65536"),
    ] {
        let (status, output) = site.ask("config", &["apply", &text]).await;
        assert_eq!(status, ReplyStatus::Refused, "{output}");
        assert!(output.contains(part), "{output}");
        assert_eq!(site.status().await.settings, before, "{part}");
        assert!(!site.in_state("trial") && !site.in_state("config.toml"), "{part}");
    }
    let readings = site.status().await.sources[0].readings;
    let goes_on = || site.bridge.check_chains().0 > readings;
    assert_eq!(site.ask("flush", &[]).await.0, ReplyStatus::Ok);
    wait_for("sampling goes on", goes_on).await;
}

#[tokio::test]
async fn a_configuration_without_a_relay_is_rolled_back_and_says_so() {
    let site = Site::start("[control]\nconfirm = '2s'\n").await;
    let before = site.status().await.settings;
    let text = site.text_to("mqtt://127.0.0.1:1", "[control]\nconfirm = '2s'\n");
    let apply = site.operator.command("config", &["apply", &text]);
    site.operator.send(&apply);
    wait_for("the trial", || site.in_state("trial")).await;
    // Whenever one looks, the settings are shown as those before or as those on trial, never as something in between.
    while site.operator.replies(&apply.id).is_empty() {
        let shown = site.status().await.settings;
        let on_trial = shown.trial.as_deref() == Some(&*apply.id)
            && shown.hash != before.hash
            && shown.origin != before.origin;
        assert!(shown == before || on_trial, "{shown:?}");
    }
    // A repeat while it is on trial is neither carried out nor answered.
    let (status, output) = {
        let reply = site.operator.reply(&apply.id).await;
        (reply.status(), reply.output)
    };
    assert_eq!(status, ReplyStatus::Failed);
    assert!(
        output.starts_with("rolled back: ") && output.contains("refused"),
        "{output}"
    );
    assert_eq!(site.status().await.settings, before);
    assert!(!site.in_state("trial") && !site.in_state("config.toml"));
    // What was sampled meanwhile is there.
    assert_eq!(site.ask("flush", &[]).await.0, ReplyStatus::Ok);
    let (taken, lost) = site.bridge.check_chains();
    assert!(taken >= 8 * 20 && lost == 0, "{taken} readings, {lost} lost");
}

/// As from a slip in the field: the settings lead to a broker that is there, takes the connection, and goes away.
#[tokio::test]
async fn a_configuration_is_rolled_back_when_its_broker_goes_away() {
    let confirm = "[control]\nconfirm = '2s'\n";
    let mut site = Site::start(confirm).await;
    let before = site.status().await.settings;
    // Another broker, behind which there is no relay.
    let mut other = Mosquitto::started();
    let text = site.text_to(&other.address(), confirm);
    let apply = site.operator.command("config", &["apply", &text]);
    site.operator.send(&apply);
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let status = site.status().await;
        if status.link.broker == other.address() && status.link.since_us > 0 {
            assert_eq!(status.settings.trial.as_deref(), Some(&*apply.id));
            break;
        }
        assert!(Instant::now() < until, "not connected to it: {status:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    other.kill();
    let reply = site.operator.reply(&apply.id).await;
    assert_eq!(reply.status(), ReplyStatus::Failed);
    assert!(reply.output.starts_with("rolled back: "), "{}", reply.output);
    assert_eq!(site.status().await.settings, before);
    // The broker that it has had all along goes away in the middle of a trial, and the relay never answers.
    site.bridge.state(|state| state.script.silent = true);
    let text = site.text(&format!("{confirm}[batch]\nage = '3s'\n"));
    let apply = site.operator.command("config", &["apply", &text]);
    site.operator.send(&apply);
    wait_for("the trial", || site.in_state("trial")).await;
    site.broker.kill();
    wait_for("the end of the trial", || !site.in_state("trial")).await;
    assert!(!site.in_state("config.toml"));
    site.bridge.state(|state| state.script.silent = false);
    site.broker.start();
    // The reply has waited for the broker; who is back later than the agent asks again for it.
    let until = Instant::now() + Duration::from_secs(20);
    while site.operator.replies(&apply.id).is_empty() {
        assert!(Instant::now() < until, "no reply");
        site.operator.send(&apply);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let reply = site.operator.reply(&apply.id).await;
    assert_eq!(reply.status(), ReplyStatus::Failed);
    assert!(reply.output.starts_with("rolled back: "), "{}", reply.output);
    assert_eq!(site.status().await.settings, before);
    assert_eq!(site.ask("flush", &[]).await.0, ReplyStatus::Ok);
    let (taken, lost) = site.bridge.check_chains();
    assert!(taken >= 8 * 20 && lost == 0, "{taken} readings, {lost} lost");
}

#[tokio::test]
async fn set_changes_a_metrics_rule_in_what_arrives_lasts_over_a_kill_and_is_taken_back() {
    let mut site =
        Site::start("[batch]\nage = '100ms'\n[[metric]]\nmatch = 'temperature'\nheartbeat = '0s'\n").await;
    let came = |metric: &str| site.bridge.readings(metric).len();
    wait_for("both metrics", || came("temperature") > 5 && came("humidity") > 5).await;
    let before = site.status().await.settings;
    for (arguments, part) in [
        (&["metric.kettle.deadband", "1"][..], "there is temperature"),
        (&["metric.temperature.deadbant", "1"], "did you mean `deadband`"),
        (&["metric.temperature.deadband", "wide"], "a number of at least 0"),
        (&["metric.temperature", "1"], "it is empty"),
    ] {
        let (status, output) = site.ask("set", arguments).await;
        assert_eq!(status, ReplyStatus::Refused, "{arguments:?}: {output}");
        assert!(output.contains(part), "{arguments:?}: {output}");
    }
    assert_eq!(site.status().await.settings, before);
    let key = "metric.temperature.deadband";
    let (status, output) = site.ask("set", &[key, "1000000.0"]).await;
    assert_eq!(status, ReplyStatus::Ok, "{output}");
    // The first one read under the new rule goes on, and is what others are compared with: of these nothing goes far enough.
    let free = came("humidity");
    wait_for("readings under the new rule", || came("humidity") > free + 3).await;
    assert_eq!(site.ask("flush", &[]).await.0, ReplyStatus::Ok);
    let (held, free) = (came("temperature"), came("humidity"));
    wait_for("the other metric goes on", || came("humidity") > free + 10).await;
    assert_eq!(came("temperature"), held);
    let spared = site.status().await.sources[0].spared_readings;
    assert!(spared >= 10, "{spared} spared");
    let shown = agent::program()
        .args(["status", "--socket"])
        .arg(site.socket())
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains(&format!("override  {key} = 1000000.0")), "{shown}");
    site.kill();
    site.run().await;
    assert_eq!(site.ask("set", &[]).await.1, format!("{key} = 1000000.0"));
    let came = |metric: &str| site.bridge.readings(metric).len();
    let free = came("humidity");
    wait_for("it goes on after the start", || came("humidity") > free + 10).await;
    assert_eq!(
        came("temperature"),
        held + 1,
        "the first after a start has none before it"
    );
    assert_eq!(site.ask("set", &["--unset", key]).await.0, ReplyStatus::Ok);
    wait_for("all readings again", || came("temperature") > held + 10).await;
    assert_eq!(site.status().await.settings, before);
}

#[tokio::test]
async fn a_kill_in_the_middle_of_a_trial_comes_back_with_what_was_before_and_says_so() {
    let mut site = Site::start("").await;
    let before = site.status().await.settings;
    for round in 0..3 {
        let text = site.text_to("mqtt://127.0.0.1:1", "");
        let apply = site.operator.command("config", &["apply", &text]);
        site.operator.send(&apply);
        wait_for("the trial", || site.in_state("trial")).await;
        // At different moments of it.
        tokio::time::sleep(Duration::from_millis(round * 40)).await;
        site.kill();
        site.run().await;
        let reply = site.operator.reply(&apply.id).await;
        assert_eq!(reply.status(), ReplyStatus::Failed);
        assert!(reply.output.contains("rolled back"), "{}", reply.output);
        assert_eq!(site.status().await.settings, before);
        assert!(!site.in_state("trial"));
        // Sent again, it is answered and not tried again.
        site.operator.send(&apply);
        wait_for("the remembered reply", || {
            site.operator.replies(&apply.id).len() >= 2
        })
        .await;
        assert!(!site.in_state("trial"));
    }
}

#[tokio::test]
async fn restart_replies_first_and_its_repeat_restarts_nothing() {
    let site = Site::start("").await;
    let hellos = site.hellos();
    let started = site.status().await.started_us;
    let restart = site.operator.command("restart", &[]);
    site.operator.send(&restart);
    assert_eq!(site.operator.reply(&restart.id).await.status(), ReplyStatus::Ok);
    wait_for("the next start", || site.hellos() > hellos).await;
    let status = site.status().await;
    assert!(status.started_us > started);
    assert_eq!(
        status.pid,
        site.child.as_ref().unwrap().id(),
        "it took its own place"
    );
    site.operator.send(&restart);
    wait_for("the remembered reply", || {
        site.operator.replies(&restart.id).len() == 2
    })
    .await;
    assert_eq!(site.ask("ping", &[]).await.0, ReplyStatus::Ok);
    assert_eq!(site.status().await.started_us, status.started_us);
    assert_eq!(site.bridge.check_chains().1, 0);
}

#[cfg(feature = "source-exec")]
#[tokio::test]
async fn exec_runs_what_is_listed_and_nothing_else_while_readings_go_on() {
    let site = Site::start(
        "[control]\ncommands = ['ping', 'exec']\nexec_timeout = '2s'\n[control.exec]\n\
         hello = ['/bin/echo', 'a b', '$HOME']\nhang = ['/bin/sleep', '1000']\n",
    )
    .await;
    assert_eq!(
        site.ask("exec", &["hello"]).await,
        (ReplyStatus::Ok, "a b $HOME\n".into())
    );
    let hang = site.operator.command("exec", &["hang"]);
    site.operator.send(&hang);
    for arguments in [&["/bin/sh"][..], &["hello", "more"], &[]] {
        let (status, output) = site.ask("exec", arguments).await;
        assert_eq!(status, ReplyStatus::Refused);
        assert!(output.contains("hang, hello"), "{output}");
    }
    assert_eq!(site.ask("ping", &[]).await.0, ReplyStatus::Ok);
    let reply = site.operator.reply(&hang.id).await;
    assert!(reply.output.contains("was killed"), "{reply:?}");
}
