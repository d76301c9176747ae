use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use super::cards::{archive, name};
use super::*;
use crate::enroll::unfinished::{TOKENS, Unfinished};

#[test]
fn numbers_stand_where_the_pattern_says() {
    for (pattern, made) in [("gw-{:04}", "gw-0007"), ("{}-a", "7-a"), ("x{:02}", "x07")] {
        assert_eq!(name(pattern, 7).unwrap(), made);
    }
    assert_eq!(name("gw-{:02}", 12_345).unwrap(), "gw-12345");
    for bad in [
        "gw", "gw-{", "gw-}", "{}{}", "{:4}", "{:x}", "{:099}", "a b{}", "-{}",
    ] {
        assert!(name(bad, 7).is_err(), "{bad}");
    }
}

/// A folder in which cards can be made, and the settings for it.
fn rig() -> (tempfile::TempDir, EnrollSettings) {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("trust.pem"), "-----BEGIN CERTIFICATE-----\n").unwrap();
    let settings = EnrollSettings {
        state: temp.path().join("state"),
        trust_file: Some(temp.path().join("trust.pem")),
        url: Some("https://relay:8443".into()),
        broker: Some("mqtts://relay".into()),
        ..EnrollSettings::default()
    };
    (temp, settings)
}

fn provision(temp: &tempfile::TempDir, more: Option<PathBuf>) -> Provision {
    Provision {
        count: 3,
        name: "gw-{}".into(),
        first: 1,
        out: temp.path().join("cards"),
        expires: Duration::from_secs(3_600),
        settings: more,
        replace: false,
    }
}

fn cards(temp: &tempfile::TempDir, more: Option<PathBuf>) -> Options {
    Options::Provision(provision(temp, more))
}

#[test]
fn what_was_broken_off_at_any_moment_is_made_by_the_same_call_again() {
    // How many tokens were taken in when it broke off; before the list of them was there; before the cards were.
    for tokens in [Some(0), Some(1), Some(3), None] {
        let (temp, settings) = rig();
        let register = Register::open(&settings.state).unwrap();
        let part = temp.path().join(".cards.unfinished");
        fs::create_dir_all(part.join("gw-1")).unwrap();
        fs::write(part.join("gw-1/headwater.toml"), "half").unwrap();
        if let Some(count) = tokens {
            let made: Vec<_> = (1..=3)
                .map(|n| new_token(&format!("gw-{n}"), Duration::from_secs(60), 2_000_000_000).unwrap())
                .collect();
            let hashes: Vec<_> = made.iter().map(|(text, _)| desk::hash(text)).collect();
            fs::write(part.join(TOKENS), hashes.join("\n")).unwrap();
            for (hash, (_, token)) in hashes.iter().zip(&made).take(count) {
                register.put_token(hash, token).unwrap();
            }
        }
        run(&cards(&temp, None), &settings).unwrap();
        assert!(!part.exists());
        let mut found: Vec<_> = fs::read_dir(temp.path().join("cards"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        found.sort();
        assert_eq!(found, ["gw-1", "gw-2", "gw-3", "labels.csv"]);
        // The tokens on the cards are those that are known, and no others.
        let mut waiting: Vec<_> = register
            .waiting()
            .unwrap()
            .into_iter()
            .map(|(hash, _)| hash)
            .collect();
        let mut on_cards: Vec<_> = (1..=3)
            .map(|n| {
                let text = fs::read_to_string(temp.path().join(format!("cards/gw-{n}/headwater.toml")));
                let card: toml::Table = text.unwrap().parse().unwrap();
                desk::hash(card["enroll"]["token"].as_str().unwrap())
            })
            .collect();
        waiting.sort();
        on_cards.sort();
        assert_eq!(waiting, on_cards);
        // What is finished is touched no more.
        let again = run(&cards(&temp, None), &settings).unwrap_err().to_string();
        assert!(again.contains("gw-1 is known already"), "{again}");
    }
}

#[test]
fn what_fails_leaves_neither_tokens_nor_a_folder() {
    let (temp, settings) = rig();
    let register = Register::open(&settings.state).unwrap();
    // In the place of the folder of tokens, as good as a full disk.
    fs::remove_dir(settings.state.join("tokens")).unwrap();
    fs::write(settings.state.join("tokens"), "").unwrap();
    let unfinished = Unfinished::beside(&temp.path().join("cards")).unwrap();
    let made = [new_token("gw-1", Duration::from_secs(60), 0).unwrap()];
    let tokens = made.map(|(text, token)| (desk::hash(&text), token));
    assert!(unfinished.make(&[], &tokens, &register).is_err());
    fs::remove_file(settings.state.join("tokens")).unwrap();
    fs::create_dir(settings.state.join("tokens")).unwrap();
    unfinished.take_back(&register).unwrap();
    unfinished.take_back(&register).unwrap();
    let names: Vec<_> = fs::read_dir(temp.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    // Somebody else's folder is left alone.
    fs::create_dir(temp.path().join("cards")).unwrap();
    let refused = run(&cards(&temp, None), &settings).unwrap_err().to_string();
    assert!(refused.contains("it is there already"), "{refused}");
    assert!(register.waiting().unwrap().is_empty());
}

#[test]
fn tokens_of_a_lost_card_are_withdrawn_and_its_name_can_be_given_again() {
    let (temp, settings) = rig();
    let register = Register::open(&settings.state).unwrap();
    run(&cards(&temp, None), &settings).unwrap();
    let withdraw = Options::Withdraw {
        device: "gw-2".into(),
    };
    run(&withdraw, &settings).unwrap();
    let left: Vec<_> = register.waiting().unwrap();
    let mut names: Vec<_> = left.iter().map(|(_, token)| &*token.device).collect();
    names.sort_unstable();
    assert_eq!(names, ["gw-1", "gw-3"]);
    let none = run(&withdraw, &settings).unwrap_err().to_string();
    assert!(none.contains("fleet revoke gw-2"), "{none}");
    let mut what = provision(&temp, None);
    (what.count, what.first, what.out) = (1, 2, temp.path().join("another"));
    run(&Options::Provision(what), &settings).unwrap();
}

#[test]
fn cards_bear_the_keys_of_releases_and_are_not_made_where_they_could_not_be_read() {
    let (temp, mut settings) = rig();
    let file = temp.path().join("more.toml");
    let refused = |settings: &EnrollSettings| {
        let refused = run(&cards(&temp, Some(file.clone())), settings);
        assert!(!temp.path().join("cards").exists());
        refused.unwrap_err().to_string()
    };
    fs::write(&file, "[[source]]\ntype = \"system\"\n").unwrap();
    settings.update_keys = vec!["RWQ".into()];
    assert!(refused(&settings).contains("is no public key"));
    let key = base64::engine::general_purpose::STANDARD.encode([&b"Ed"[..], &[7; 40]].concat());
    settings.update_keys = vec![key.clone()];
    for section in ["[enroll]\n", "[update]\n", "[[source]\n"] {
        fs::write(&file, section).unwrap();
        let why = refused(&settings);
        assert!(why.contains("no agent could read"), "{section}: {why}");
    }
    fs::write(&file, "[update.tls]\n[[source]]\ntype = \"system\"\n").unwrap();
    run(&cards(&temp, Some(file)), &settings).unwrap();
    let text = fs::read_to_string(temp.path().join("cards/gw-3/headwater.toml")).unwrap();
    let card: toml::Table = text.parse().unwrap();
    assert_eq!(card["update"]["keys"][0].as_str(), Some(&*key));
}

/// By the agent's own code: what it refuses at its first boot is refused here.
#[cfg(feature = "demo")]
#[test]
fn a_card_that_no_agent_would_take_is_not_made() {
    let (temp, settings) = rig();
    let file = temp.path().join("more.toml");
    for (text, part) in [
        ("", "there is none; add a [[source]]"),
        ("[[source]]\ntype = \"sistem\"\n", "sistem"),
        ("device = \"gw-9\"\n[[source]]\ntype = \"system\"\n", "device"),
        ("colour = 3\n[[source]]\ntype = \"system\"\n", "colour"),
        (
            "[batch]\nage = \"0s\"\n[[source]]\ntype = \"system\"\n",
            "batch.age",
        ),
    ] {
        fs::write(&file, text).unwrap();
        let why = run(&cards(&temp, Some(file.clone())), &settings).unwrap_err();
        assert!(why.to_string().contains(part), "{text}: {why}");
        assert!(!temp.path().join("cards").exists());
    }
    for (key, broker, url) in [
        ("enroll.broker", "localhost", "https://relay:8443"),
        ("enroll.url", "mqtts://relay", "http://relay:8443"),
    ] {
        let settings = EnrollSettings {
            broker: Some(broker.into()),
            url: Some(url.into()),
            ..settings.clone()
        };
        let why = run(&cards(&temp, None), &settings).unwrap_err().to_string();
        assert!(why.contains(key.rsplit('.').next().unwrap()), "{key}: {why}");
    }
    assert!(
        Register::open(&settings.state)
            .unwrap()
            .waiting()
            .unwrap()
            .is_empty()
    );
}

/// `--settings` is written as a whole agent.toml is: keys of no section come first.
#[test]
fn keys_of_no_section_stay_so_and_a_state_directory_is_written() {
    let (temp, settings) = rig();
    let file = temp.path().join("more.toml");
    let card = |out: &str, text: &str| {
        fs::write(&file, text).unwrap();
        let mut what = provision(&temp, Some(file.clone()));
        (what.out, what.replace) = (temp.path().join(out), true);
        run(&Options::Provision(what), &settings).unwrap();
        let text = fs::read_to_string(temp.path().join(out).join("gw-1/headwater.toml")).unwrap();
        text.parse::<toml::Table>().unwrap()
    };
    let plain = card("plain", "[[source]]\ntype = \"system\"\n");
    assert_eq!(plain["state_dir"].as_str(), Some("/var/lib/headwater-agent"));
    // A comment belongs to what stands below it.
    card("said", "# The shed's own.\n[[source]]\ntype = \"system\"\n");
    let text = fs::read_to_string(temp.path().join("said/gw-1/headwater.toml")).unwrap();
    assert!(
        text.ends_with("# The shed's own.\n[[source]]\ntype = \"system\"\n"),
        "{text}"
    );
    let text = "# ours\nstate_dir = \"/data/headwater\"\n\n[[source]]\ntype = \"system\"\n";
    let own = card("own", text);
    assert_eq!(own["state_dir"].as_str(), Some("/data/headwater"));
    let tls = &own["uplink"]["tls"];
    assert_eq!(tls["key_file"].as_str(), Some("/data/headwater/tls/device.key"));
    assert_eq!(own["enroll"].as_table().unwrap().len(), 3);
}

/// A pipe whose reader has gone, a full disk.
#[test]
fn an_archive_that_nobody_takes_leaves_no_tokens() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (temp, settings) = rig();
    let mut what = provision(&temp, None);
    what.out = "-".into();
    let why = cards::provision(&what, &settings, 1_900_000_000, &mut Full).unwrap_err();
    assert!(why.to_string().contains("standard output"), "{why}");
    assert!(
        Register::open(&settings.state)
            .unwrap()
            .waiting()
            .unwrap()
            .is_empty()
    );
    let mut archive = Vec::new();
    cards::provision(&what, &settings, 1_900_000_000, &mut archive).unwrap();
    assert!(archive.len() > 3 * 1024);
}

#[test]
fn a_token_is_good_for_a_minute_to_ten_years() {
    for bad in ["0s", "59s", "11years", "99999999999999d", "soon"] {
        assert!(expires(bad).is_err(), "{bad}");
    }
    assert_eq!(expires("7days"), Ok(Duration::from_secs(7 * 86_400)));
}

#[test]
fn an_archive_is_one_that_tar_unpacks() {
    use std::process::{Command, Stdio};
    let long = format!("{}/headwater.toml", "x".repeat(64));
    let files = [
        ("gw-1/headwater.toml", "a".repeat(512)),
        (long.as_str(), "é\n".into()),
        ("labels.csv", "device\n".into()),
    ];
    let files = files.map(|(name, text)| (name.to_string(), text));
    let temp = tempfile::tempdir().unwrap();
    let mut tar_program = Command::new("tar")
        .args(["-x", "-C"])
        .arg(temp.path())
        .stdin(Stdio::piped())
        .spawn()
        .expect("tar is installed");
    let archive = archive(&files, 1_900_000_000).unwrap();
    assert_eq!(archive.len() % 512, 0);
    tar_program.stdin.take().unwrap().write_all(&archive).unwrap();
    assert!(tar_program.wait().unwrap().success());
    for (name, text) in &files {
        use std::os::unix::fs::PermissionsExt as _;
        let path = temp.path().join(name);
        assert_eq!(fs::read_to_string(&path).unwrap(), *text);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn days_are_days() {
    assert_eq!(day(0), "1970-01-01");
    assert_eq!(day(1_893_456_000), "2030-01-01");
    assert_eq!(day(i64::MAX), "9999-12-31");
}
