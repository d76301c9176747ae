//! `headwater-relay fleet`: what an operator does about devices' certificates.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Subcommand};
use globset::Glob;
use ring::rand::{SecureRandom, SystemRandom};

use super::Error;
use super::authority::check_name;
use super::desk::{self, Desk};
use super::register::{Register, Token};
use super::settings::EnrollSettings;
use super::unfinished::Unfinished;
use crate::release;

/// What the sources of a box are where nothing else is said.
const SOURCES: &str = "[[source]]\ntype = \"system\"\n";
/// Where agents keep what is theirs.
const STATE: &str = "/var/lib/headwater-agent";
const DAY: i64 = 86_400;

/// What is asked for.
#[derive(Debug, Subcommand)]
pub enum Options {
    /// Makes what SD cards need: a folder with headwater.toml for each device, and labels.csv. Overwrites nothing.
    Provision(Provision),
    /// Prints a token for a device whose card is not made here, for headwater-agent enroll.
    Token {
        /// Its name, or a glob of names of which it lets one in.
        device: String,
        /// How long it can be used.
        #[arg(long, value_name = "TIME", default_value = "7days", value_parser = humantime::parse_duration)]
        expires: Duration,
    },
    /// Prints the list of revoked certificates, made anew, for a broker that does not read enroll.crl_file where it lies.
    Crl,
    /// Takes back the tokens of a device that nobody has used: of a card that was lost before its first boot.
    Withdraw {
        /// Its name, or the glob that the token is for.
        device: String,
    },
    /// Shows devices, until when their certificates are good, and tokens that wait.
    List {
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Takes all certificates of a device back, and lets it get no others.
    Revoke {
        /// Its name.
        device: String,
    },
    /// Lets a revoked device enrol again, with a new token. What was taken back stays so.
    Allow {
        /// Its name.
        device: String,
    },
}

/// What `fleet provision` makes.
#[derive(Args, Debug)]
pub struct Provision {
    /// How many devices.
    #[arg(long, value_name = "N")]
    pub count: u32,
    /// What they are called: {} stands for the number, {:04} for it with zeros in front.
    #[arg(long, value_name = "NAME", default_value = "gw-{:04}")]
    pub name: String,
    /// The first number.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub first: u32,
    /// The folder that is made for them; -: a tar archive on standard output.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// How long the tokens can be used.
    #[arg(long, value_name = "TIME", default_value = "90days", value_parser = humantime::parse_duration)]
    pub expires: Duration,
    /// Settings that all of them get: sources, and whatever else of agent.toml is not of the way to the relay; -: from standard input.
    /// Unset: a machine's own figures.
    #[arg(long, value_name = "FILE")]
    pub settings: Option<PathBuf>,
    /// For cards that were lost before they were used: names whose tokens wait get new ones, and the old ones let nobody in.
    #[arg(long)]
    pub replace: bool,
}

/// Does it. Returns what is to be printed.
///
/// # Errors
/// [`Error`].
pub fn run(options: &Options, settings: &EnrollSettings) -> Result<String, Error> {
    let now_s = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs() as i64;
    match options {
        Options::Provision(what) => provision(what, settings, now_s),
        Options::Token { device, expires } => {
            let glob = Glob::new(device).map_err(|error| Error::Argument(error.to_string()))?;
            if glob.glob().chars().all(|letter| !"*?[{\\".contains(letter)) {
                check_name(device).map_err(Error::Argument)?;
            }
            let register = Register::open(&settings.state)?;
            let _lock = register.lock()?;
            let (text, token) = new_token(device, *expires, now_s)?;
            register.put_token(&desk::hash(&text), &token)?;
            Ok(text)
        }
        Options::Withdraw { device } => {
            let register = Register::open(&settings.state)?;
            let _lock = register.lock()?;
            let mut count = 0;
            for (hash, _) in (register.waiting()?.iter()).filter(|(_, token)| token.device == *device) {
                register.remove_token(hash)?;
                count += 1;
            }
            if count == 0 {
                return Err(Error::Argument(format!(
                    "no token for {device} waits. If somebody else has used it: headwater-relay fleet revoke {device}"
                )));
            }
            tracing::info!(%device, tokens = count, "withdrawn by the operator");
            Ok(format!("{count} token(s) for {device} let nobody in any more"))
        }
        Options::Crl => Ok(Desk::open(settings)?.crl(now_s)?.trim_end().to_string()),
        Options::List { json } => list(&Register::open(&settings.state)?, *json, now_s),
        Options::Revoke { device } => {
            check_name(device).map_err(Error::Argument)?;
            let count = Desk::open(settings)?.revoke(device, now_s)?;
            tracing::info!(%device, certificates = count, "revoked by the operator");
            let list = settings.crl_file.as_deref().unwrap_or(Path::new("")).display();
            Ok(format!(
                "{device} is revoked: {count} certificate(s) taken back, no others are given. Put {list} on the broker, if it is not there, and \
                 restart it: connections that stand end then. (SIGHUP alone keeps out who comes anew.)"
            ))
        }
        Options::Allow { device } => {
            check_name(device).map_err(Error::Argument)?;
            let register = Register::open(&settings.state)?;
            let _lock = register.lock()?;
            if !register.allow(device)? {
                return Err(Error::Argument(format!("{device} is not revoked")));
            }
            tracing::info!(%device, "allowed by the operator");
            Ok(format!(
                "{device} may enrol again; it needs a new token: headwater-relay fleet token {device}"
            ))
        }
    }
}

/// A new token, which the register does not know yet.
fn new_token(device: &str, expires: Duration, now_s: i64) -> Result<(String, Token), Error> {
    let mut secret = [0; 32];
    SystemRandom::new()
        .fill(&mut secret)
        .map_err(|_| Error::Argument("the system gives no random numbers".into()))?;
    let text = URL_SAFE_NO_PAD.encode(secret);
    let token = Token {
        device: device.to_string(),
        expires_s: now_s.saturating_add(i64::try_from(expires.as_secs()).unwrap_or(i64::MAX)),
        made_s: now_s,
    };
    Ok((text, token))
}

/// The name of device number `n`.
fn name(pattern: &str, n: u32) -> Result<String, Error> {
    let wrong = || {
        Error::Argument(format!(
            "--name {pattern:?}: write {{}} or {{:04}} once, where the number is to be"
        ))
    };
    let (before, rest) = pattern.split_once('{').ok_or_else(wrong)?;
    let (form, after) = rest.split_once('}').ok_or_else(wrong)?;
    if before.contains('}') || after.contains(['{', '}']) {
        return Err(wrong());
    }
    let width = match form {
        "" => 0,
        form => form
            .strip_prefix(":0")
            .and_then(|width| width.parse().ok())
            .filter(|width| *width <= 20)
            .ok_or_else(wrong)?,
    };
    let name = format!("{before}{n:0width$}{after}");
    check_name(&name).map_err(Error::Argument)?;
    Ok(name)
}

fn provision(what: &Provision, settings: &EnrollSettings, now_s: i64) -> Result<String, Error> {
    let missing = |key| Error::Missing { key };
    let url = settings.url.as_deref().ok_or(missing("enroll.url"))?;
    let broker = settings.broker.as_deref().ok_or(missing("enroll.broker"))?;
    let trust_file = settings.file("enroll.trust_file", &settings.trust_file)?;
    let of = |path: &Path| {
        let path = path.to_path_buf();
        move |error: std::io::Error| Error::Argument(format!("{}: {error}", path.display()))
    };
    let authorities = fs::read_to_string(trust_file).map_err(of(trust_file))?;
    let sources = match &what.settings {
        Some(path) if path == Path::new("-") => {
            std::io::read_to_string(std::io::stdin()).map_err(of(path))?
        }
        Some(path) => fs::read_to_string(path).map_err(of(path))?,
        None => SOURCES.to_string(),
    };
    if !(1..=100_000).contains(&what.count) {
        return Err(Error::Argument(format!(
            "--count {}: 1 to 100000 are made at a time",
            what.count
        )));
    }
    let last = what.first.checked_add(what.count - 1);
    let last =
        last.ok_or_else(|| Error::Argument(format!("--first {}: the numbers go too far", what.first)))?;
    let names = (what.first..=last)
        .map(|n| name(&what.name, n))
        .collect::<Result<Vec<_>, _>>()?;
    let keys = &settings.update_keys;
    if let Some(wrong) = keys.iter().find(|key| !release::is_public_key(key)) {
        return Err(Error::Argument(format!(
            "enroll.update_keys: {wrong:?} is no public key; write the line that headwater-relay release key prints, which begins with RW"
        )));
    }
    // Written as JSON they are TOML.
    let update = match keys.is_empty() {
        true => String::new(),
        false => format!("[update]\nkeys = {}\n\n", serde_json::Value::from(keys.clone())),
    };
    let expires_s = now_s.saturating_add(what.expires.as_secs() as i64);
    let day = day(expires_s);
    let card = |name: &str, token: &str| {
        card(
            name,
            broker,
            url,
            token,
            &authorities,
            &format!("{update}{sources}"),
            &day,
        )
    };
    if let Err(error) = card(&names[0], "").parse::<toml::Table>() {
        return Err(Error::Argument(format!(
            "a card with these settings cannot be read; is a section in --settings that is written here ([uplink], [uplink.tls], [enroll], and \
             [update] where enroll.update_keys is set)? {error}"
        )));
    }
    let register = Register::open(&settings.state)?;
    let _lock = register.lock()?;
    let unfinished = match what.out == Path::new("-") {
        true => None,
        false => Some(Unfinished::beside(&what.out)?),
    };
    if let Some(unfinished) = &unfinished {
        unfinished.take_back(&register)?;
    }
    let known = register.devices()?;
    let waiting: Vec<(String, Token)> = register
        .waiting()?
        .into_iter()
        .filter(|(_, token)| token.expires_s > now_s && names.contains(&token.device))
        .collect();
    let taken = |name: &&String| {
        known.contains(*name) || !what.replace && waiting.iter().any(|(_, token)| token.device == **name)
    };
    if let Some(name) = names.iter().find(taken) {
        return Err(Error::Argument(format!(
            "{name} is known already, so nothing was made; begin behind it with --first, or, for a new card of that box alone: headwater-relay \
             fleet token {name}. (--replace makes cards anew that were never used.)"
        )));
    }
    if unfinished.is_some() && what.out.symlink_metadata().is_ok() {
        return Err(Error::Argument(format!(
            "--out {}: it is there already; nothing was made",
            what.out.display()
        )));
    }
    let mut labels = String::from("device,token_expires,file\n");
    let mut files = Vec::new();
    let mut tokens = Vec::new();
    for name in &names {
        let (text, token) = new_token(name, what.expires, now_s)?;
        let file = format!("{name}/headwater.toml");
        files.push((file.clone(), card(name, &text)));
        tokens.push((desk::hash(&text), token));
        // Writing to a string cannot fail.
        let _ = writeln!(labels, "{name},{day},{file}");
    }
    files.push(("labels.csv".to_string(), labels));
    let replace = || {
        waiting
            .iter()
            .try_for_each(|(hash, _)| register.remove_token(hash))
    };
    let Some(unfinished) = unfinished else {
        let archive = archive(&files, now_s).map_err(Error::Argument)?;
        replace()?;
        for (hash, token) in &tokens {
            register.put_token(hash, token)?;
        }
        tracing::info!(count = names.len(), first = %names[0], "cards were provisioned");
        return Ok(archive);
    };
    let made = unfinished
        .make(&files, &tokens, &register)
        .and_then(|()| replace())
        .and_then(|()| unfinished.finish(&what.out));
    if let Err(error) = made {
        // What cannot be taken back now is at the next call.
        let _ = unfinished.take_back(&register);
        return Err(error);
    }
    tracing::info!(count = names.len(), first = %names[0], out = %what.out.display(), "cards were provisioned");
    Ok(format!(
        "{} devices, {} to {}: each folder's headwater.toml goes onto the boot partition of that device's card by {day}. Who reads one can \
         enrol in its place: keep them as passwords are kept.",
        names.len(),
        names[0],
        names[names.len() - 1]
    ))
}

/// Files as an archive of tar's, which unpacks with the folders that are named. What follows its two empty blocks is nobody's business.
fn archive(files: &[(String, String)], now_s: i64) -> Result<String, String> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now_s.max(0).unsigned_abs());
        header.set_uid(0);
        header.set_gid(0);
        header.set_entry_type(tar::EntryType::Regular);
        let added = archive.append_data(&mut header, name, text.as_bytes());
        added.map_err(|error| format!("{name}: {error}"))?;
    }
    // Names, figures in octal and texts: all of it is text.
    let bytes = archive.into_inner().map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|error| error.to_string())
}

/// A device's headwater.toml.
fn card(
    name: &str,
    broker: &str,
    url: &str,
    token: &str,
    authorities: &str,
    sources: &str,
    day: &str,
) -> String {
    // Basic strings of TOML are escaped as those of JSON are, but for DEL, which none of these has.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    format!(
        "# {name}: onto the boot partition of its SD card, as headwater.toml, before {day}. The token lets one machine in, once.\n\
         device = {device}\n\n\
         [uplink]\nbroker = {broker}\n\n\
         [uplink.tls]\nca_file = \"{STATE}/tls/ca.crt\"\ncert_file = \"{STATE}/tls/device.crt\"\nkey_file = \"{STATE}/tls/device.key\"\n\n\
         [enroll]\nurl = {url}\ntoken = {token}\nca = '''\n{authorities}'''\n\n\
         {sources}",
        device = quoted(name),
        broker = quoted(broker),
        url = quoted(url),
        token = quoted(token),
        authorities = ensure_line(authorities),
    )
}

fn ensure_line(text: &str) -> String {
    format!("{}\n", text.trim_end())
}

/// The day of a time, seconds since the Unix epoch.
fn day(seconds: i64) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(seconds.clamp(0, 253_402_300_799).unsigned_abs());
    humantime::format_rfc3339_seconds(time).to_string()[..10].to_string()
}

fn list(register: &Register, json: bool, now_s: i64) -> Result<String, Error> {
    let revoked = register.all_revoked()?;
    let mut rows: Vec<(String, &'static str, Option<i64>)> = Vec::new();
    let mut names = register.devices()?;
    names.extend(revoked.iter().map(|(name, _)| name.clone()));
    names.sort();
    names.dedup();
    for name in names {
        let until = register
            .issued(&name)?
            .into_iter()
            .filter(|issued| issued.revoked_s.is_none());
        let until = until.map(|issued| issued.until_s).max();
        let state = match until {
            _ if revoked.iter().any(|(other, _)| *other == name) => "revoked",
            None => "without a certificate",
            Some(until) if until <= now_s => "expired",
            Some(until) if until - now_s < 30 * DAY => "ends soon",
            Some(_) => "enrolled",
        };
        rows.push((name, state, until));
    }
    for (_, token) in register.waiting()? {
        let state = if token.expires_s > now_s {
            "token waits"
        } else {
            "token expired"
        };
        rows.push((token.device, state, Some(token.expires_s)));
    }
    let mut out = String::new();
    if json {
        for (device, state, until_s) in rows {
            let row = serde_json::json!({ "device": device, "state": state, "until_s": until_s });
            let _ = writeln!(out, "{row}");
        }
        return Ok(out.trim_end().to_string());
    }
    let width = rows.iter().map(|(name, ..)| name.len()).max().unwrap_or(0).max(6);
    let _ = writeln!(out, "{:<width$}  {:<21}  UNTIL", "DEVICE", "STATE");
    for (device, state, until_s) in rows {
        let _ = writeln!(
            out,
            "{device:<width$}  {state:<21}  {}",
            until_s.map(day).unwrap_or_default()
        );
    }
    Ok(out.trim_end().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    use crate::enroll::unfinished::TOKENS;

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

    fn cards(temp: &tempfile::TempDir, more: Option<PathBuf>) -> Options {
        Options::Provision(Provision {
            count: 3,
            name: "gw-{}".into(),
            first: 1,
            out: temp.path().join("cards"),
            expires: Duration::from_secs(3_600),
            settings: more,
            replace: false,
        })
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
        let Options::Provision(mut what) = cards(&temp, None) else {
            panic!("these are cards")
        };
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
            assert!(why.contains("cannot be read"), "{section}: {why}");
        }
        fs::write(&file, "[update.tls]\n[[source]]\ntype = \"system\"\n").unwrap();
        run(&cards(&temp, Some(file)), &settings).unwrap();
        let text = fs::read_to_string(temp.path().join("cards/gw-3/headwater.toml")).unwrap();
        let card: toml::Table = text.parse().unwrap();
        assert_eq!(card["update"]["keys"][0].as_str(), Some(&*key));
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
        // As it is printed: with the end of a line.
        let printed = format!("{archive}\n");
        tar_program
            .stdin
            .take()
            .unwrap()
            .write_all(printed.as_bytes())
            .unwrap();
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
}
