use super::*;

const TOKEN: &str = "hw-0123456789abcdefghijklmnop";

/// A card and a machine.
struct Rig {
    temp: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        for dir in ["boot", "etc"] {
            fs::create_dir(temp.path().join(dir)).unwrap();
        }
        Self { temp }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path(name)).ok()
    }

    /// Settings whose endpoint nobody answers at.
    fn settings(&self, device: &str, token: &str) -> String {
        let tls = self.path("state/tls");
        let tls = tls.display();
        format!(
            "device = \"{device}\"\n[uplink.tls]\ncert_file = \"{tls}/device.crt\"\nkey_file = \"{tls}/device.key\"\n\
             [enroll]\nurl = \"http://127.0.0.1:1\"\ntoken = '{token}'\n[[source]]\ntype = \"system\"\n"
        )
    }

    fn lay(&self, content: impl AsRef<[u8]>) {
        fs::write(self.path("boot/headwater.toml"), content).unwrap();
    }

    fn start(&self) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let folders = [self.path("nowhere"), self.path("boot")];
        runtime.block_on(run(&folders, &self.path("etc/agent.toml"), Duration::ZERO))
    }

    /// What there is on the card and on the machine, with what it holds.
    fn files(&self) -> Vec<(String, Vec<u8>)> {
        let mut found = Vec::new();
        let mut dirs = vec![self.temp.path().to_path_buf()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    dirs.push(path);
                } else {
                    let name = path.strip_prefix(self.temp.path()).unwrap().display().to_string();
                    found.push((name, fs::read(&path).unwrap()));
                }
            }
        }
        found.sort();
        found
    }
}

/// What Windows makes of the name, what a browser does, and a folder of cards that was copied whole.
#[test]
fn a_file_of_another_name_is_said_so_on_the_card() {
    for other in [
        "headwater.toml.txt",
        "headwater (1).toml",
        "gw-002/headwater.toml",
    ] {
        let rig = Rig::new();
        let path = rig.path("boot").join(other);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::create_dir(rig.path("boot/overlays")).unwrap();
        fs::write(&path, rig.settings("gw-1", TOKEN)).unwrap();
        assert!(!rig.start());
        let said = rig.read("boot/headwater.error.txt").unwrap();
        assert!(
            said.contains(other) && said.contains("call it headwater.toml"),
            "{said}"
        );
        assert!(path.exists() && rig.read("etc/agent.toml").is_none());
        fs::remove_file(path).unwrap();
        assert!(rig.start());
        assert_eq!(rig.read("boot/headwater.error.txt"), None);
    }
}

#[test]
fn a_file_is_taken_over_and_its_token_leaves_the_card() {
    let rig = Rig::new();
    assert!(rig.start(), "nothing lies there");
    // As an editor on Windows writes it.
    rig.lay(format!(
        "\u{feff}{}",
        rig.settings("gw-01", TOKEN).replace('\n', "\r\n")
    ));
    assert!(!rig.start(), "nobody answers at the endpoint");
    let settings = rig.read("etc/agent.toml").unwrap();
    assert_eq!(settings, rig.settings("gw-01", "").replace('\n', "\r\n"));
    assert_eq!(rig.read("boot/headwater.taken.toml").unwrap(), settings);
    assert_eq!(rig.read("boot/headwater.toml"), None);
    assert_eq!(rig.read("state/tls/token").unwrap(), TOKEN);
    let error = rig.read("boot/headwater.error.txt").unwrap();
    assert!(
        error.contains("Not enrolled yet") && error.contains("127.0.0.1:1") && error.contains("What to do"),
        "{error}"
    );
    for (name, content) in rig.files() {
        let holds = content.windows(TOKEN.len()).any(|part| part == TOKEN.as_bytes());
        assert_eq!(holds, name == "state/tls/token", "{name}");
    }
    // Another file, of the same device: the settings before are kept, and so is the key.
    fs::write(rig.path("state/tls/device.key"), "key").unwrap();
    rig.lay(rig.settings("gw-01", ""));
    fs::remove_file(rig.path("state/tls/token")).unwrap();
    assert!(rig.start(), "there is nothing to enrol with");
    assert_eq!(rig.read("etc/agent.toml.old").unwrap(), settings);
    assert_eq!(rig.read("state/tls/device.key").unwrap(), "key");
    assert_eq!(
        rig.read("boot/headwater.error.txt"),
        None,
        "what it said is no longer so"
    );
    // And of another.
    rig.lay(rig.settings("gw-02", ""));
    assert!(rig.start());
    assert_eq!(rig.read("state/tls/device.key"), None);
    assert_eq!(rig.read("state/tls/device.key.old").unwrap(), "key");
}

#[test]
fn what_is_wrong_is_left_on_the_card_and_changes_nothing() {
    let rig = Rig::new();
    let good = rig.settings("gw-01", TOKEN);
    let bad: [(Vec<u8>, &str); 9] = [
        (
            good.replace("device =", "devise =").into(),
            "line 1: unknown key `devise`; did you mean `device`?",
        ),
        (good.replace("gw-01", "gw 01").into(), "only A-Z a-z 0-9"),
        (good.replace("'", "").into(), "headwater.toml, line 7"),
        (good.replace(TOKEN, "short").into(), "enroll.token"),
        (good.replace("http:", "https:").into(), "enroll.ca"),
        (
            good.replace("[[source]]\ntype = \"system\"\n", "").into(),
            "`source`",
        ),
        (
            good.replace(&format!("'{TOKEN}'"), &format!("\"\\u0068{}\"", &TOKEN[1..]))
                .into(),
            "plainly",
        ),
        (
            good.encode_utf16()
                .flat_map(u16::to_le_bytes)
                .collect::<Vec<u8>>(),
            "UTF-16",
        ),
        (vec![b'#'; 300_000], "longer than"),
    ];
    for (content, part) in bad {
        rig.lay(&content);
        assert!(!rig.start());
        let error = rig.read("boot/headwater.error.txt").unwrap();
        assert!(error.contains(part), "{part}: {error}");
        assert!(error.contains("What to do: "), "{error}");
        let names: Vec<String> = rig.files().into_iter().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            ["boot/headwater.error.txt", "boot/headwater.toml"],
            "{part}"
        );
    }
    // Corrected.
    rig.lay(rig.settings("gw-01", ""));
    assert!(rig.start());
    assert_eq!(rig.read("boot/headwater.error.txt"), None);
}

#[test]
fn a_power_cut_after_any_step_is_made_good_at_the_next_start() {
    // What each step leaves, for a cut right after it: the token, the settings, the copy, the mark, the blank, the removal. Between mark and
    // blank any of the other sectors may have been written.
    let torn = 1 << 3;
    for steps in (0..=3).chain(10..10 + torn).chain([5]) {
        let rig = Rig::new();
        // Of four sectors, the last of which is not full.
        let text = rig.settings("gw-01", TOKEN);
        let text = text.clone() + "#" + &"x".repeat(4 * SECTOR - 100 - text.len()) + "\n";
        let clean = text.replace(TOKEN, "");
        fs::write(rig.path("etc/agent.toml"), "device = \"gw-01\"\n").unwrap();
        rig.lay(&text);
        let files = Files::of(&check(&text).unwrap()).unwrap();
        if steps >= 1 {
            files.keep_token(&Token(TOKEN.into())).unwrap();
            fs::write(rig.path("state/tls/token.part"), "half").unwrap();
        }
        if steps >= 2 {
            fs::write(rig.path("etc/agent.toml.old"), "device = \"gw-01\"\n").unwrap();
            fs::write(rig.path("etc/agent.toml"), &clean).unwrap();
        }
        if steps >= 3 {
            fs::write(rig.path("boot/headwater.taken.toml"), &clean).unwrap();
        }
        if steps >= 10 {
            let [first, rest] = blanks(text.len());
            let mut left = text.clone().into_bytes();
            assert_eq!(first.len(), SECTOR);
            left[..SECTOR].copy_from_slice(&first);
            let sectors = left[SECTOR..].chunks_mut(SECTOR).zip(rest.chunks(SECTOR));
            for (n, (sector, blank)) in sectors.enumerate() {
                if (steps - 10) & (1 << n) != 0 {
                    sector.copy_from_slice(blank);
                }
            }
            rig.lay(left);
        }
        if steps == 5 {
            fs::remove_file(rig.path("boot/headwater.toml")).unwrap();
            // Without it the unit would not have started this; the agent finds the token by itself.
            fs::write(rig.path("boot/headwater.error.txt"), "of before").unwrap();
        }
        assert!(!rig.start(), "nobody answers at the endpoint");
        assert_eq!(rig.read("etc/agent.toml").as_deref(), Some(&*clean), "{steps}");
        assert_eq!(
            rig.read("etc/agent.toml.old").unwrap(),
            "device = \"gw-01\"\n",
            "{steps}"
        );
        assert_eq!(
            rig.read("boot/headwater.taken.toml").as_deref(),
            Some(&*clean),
            "{steps}"
        );
        assert_eq!(rig.read("boot/headwater.toml"), None, "{steps}");
        assert_eq!(rig.read("state/tls/token").as_deref(), Some(TOKEN), "{steps}");
        assert!(
            rig.read("boot/headwater.error.txt")
                .unwrap()
                .contains("Not enrolled yet"),
            "{steps}"
        );
        assert!(
            rig.read("state/tls/device.key").unwrap().contains("PRIVATE KEY"),
            "{steps}"
        );
    }
}

#[test]
fn only_a_file_that_was_taken_is_removed_without_being_read() {
    let rig = Rig::new();
    let marked = |length| String::from_utf8(blanks(length).concat()).unwrap();
    // Somebody's own, beneath what was left: it is not blank.
    let own = String::from_utf8_lossy(MARK).into_owned() + &rig.settings("gw-01", "");
    rig.lay(&own);
    assert!(rig.start());
    assert_eq!(rig.read("boot/headwater.taken.toml").as_deref(), Some(&*own));
    for left in [
        "",
        &marked(10),
        &marked(SECTOR),
        &marked(SECTOR + 1),
        &marked(5_000),
    ] {
        rig.lay(left);
        assert!(rig.start(), "{left:?}");
        assert_eq!(rig.read("boot/headwater.toml"), None, "{left:?}");
        assert_eq!(rig.read("etc/agent.toml").as_deref(), Some(&*own), "{left:?}");
    }
    // Where nothing was taken, it is somebody's mistake.
    fs::remove_file(rig.path("boot/headwater.taken.toml")).unwrap();
    rig.lay("");
    assert!(!rig.start());
    assert!(rig.read("boot/headwater.toml").is_some());
}

#[test]
fn what_cannot_be_written_leaves_the_card_as_it_is() {
    let rig = Rig::new();
    let text = rig.settings("gw-01", TOKEN);
    rig.lay(&text);
    // In the place of the directory, as good as a full disk.
    fs::write(rig.path("state"), "").unwrap();
    assert!(!rig.start());
    let error = rig.read("boot/headwater.error.txt").unwrap();
    assert!(
        error.contains("cannot make") && error.contains("What to do: see that the disk"),
        "{error}"
    );
    assert_eq!(rig.read("boot/headwater.toml").unwrap(), text);
    assert_eq!(rig.read("etc/agent.toml"), None);
    fs::remove_file(rig.path("state")).unwrap();
    assert!(!rig.start(), "nobody answers at the endpoint");
    assert_eq!(rig.read("boot/headwater.toml"), None);
    assert_eq!(rig.read("state/tls/token").unwrap(), TOKEN);
}
