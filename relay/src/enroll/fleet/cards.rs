//! What SD cards need: a settings file for each device with a token that lets it in, in a folder or an archive of tar's.

use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::{day, new_token};
use crate::enroll::Error;
use crate::enroll::authority::check_name;
use crate::enroll::desk;
use crate::enroll::register::{Register, Token};
use crate::enroll::settings::EnrollSettings;
use crate::enroll::unfinished::Unfinished;
use crate::enroll::way;
use crate::release;

/// What the sources of a box are where nothing else is said.
const SOURCES: &str = "[[source]]\ntype = \"system\"\n";
/// Where agents keep what is theirs.
const STATE: &str = "/var/lib/headwater-agent";

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
    #[arg(long, value_name = "TIME", default_value = "90days", value_parser = super::expires)]
    pub expires: Duration,
    /// Settings that all of them get: sources, and whatever else of agent.toml is not of the way to the relay; -: from standard input.
    /// Unset: a machine's own figures.
    #[arg(long, value_name = "FILE")]
    pub settings: Option<PathBuf>,
    /// For cards that were lost before they were used: names whose tokens wait get new ones, and the old ones let nobody in.
    #[arg(long)]
    pub replace: bool,
}

/// The name of device number `n`.
pub(super) fn name(pattern: &str, n: u32) -> Result<String, Error> {
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

/// Makes them; an archive goes to `output`. Returns what else is to be said.
///
/// # Errors
/// [`Error`].
pub(super) fn provision(
    what: &Provision,
    settings: &EnrollSettings,
    now_s: i64,
    output: &mut dyn Write,
) -> Result<String, Error> {
    let missing = |key| Error::Missing { key };
    let url = settings.url.as_deref().ok_or(missing("enroll.url"))?;
    let broker = settings.broker.as_deref().ok_or(missing("enroll.broker"))?;
    let trust_file = settings.file("enroll.trust_file", &settings.trust_file)?;
    way::check(settings, url)?;
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
    let card =
        |name: &str, token: &str| card(name, broker, url, token, &authorities, (&update, &sources), &day);
    let (token, _) = new_token(&names[0], what.expires, now_s)?;
    if let Err(why) = read_as_agents_do(&card(&names[0], &token)) {
        return Err(Error::Argument(format!(
            "no agent could read a card with these settings, so nothing was made: {why}. (What is written here cannot be in --settings, too: device, \
             [uplink], [uplink.tls], [enroll], and [update] where enroll.update_keys is set.)"
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
        let taken_in = (tokens.iter()).try_for_each(|(hash, token)| register.put_token(hash, token));
        let made = taken_in.and_then(|()| {
            let written = output.write_all(&archive).and_then(|()| output.flush());
            written.map_err(|error| {
                Error::Argument(format!("--out -: standard output: {error}; nothing was made"))
            })
        });
        if let Err(error) = made {
            for (hash, _) in &tokens {
                // Which of them are there is not asked.
                let _ = register.remove_token(hash);
            }
            return Err(error);
        }
        replace()?;
        tracing::info!(count = names.len(), first = %names[0], "cards were provisioned");
        return Ok(String::new());
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

/// Files as an archive of tar's, which unpacks with the folders that are named.
pub(super) fn archive(files: &[(String, String)], now_s: i64) -> Result<Vec<u8>, String> {
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
    archive.into_inner().map_err(|error| error.to_string())
}

/// Reads and checks a card by the agent's own code, which is here for `headwater-relay demo`.
///
/// # Errors
/// What an agent would say of it at its first boot.
#[cfg(feature = "demo")]
fn read_as_agents_do(card: &str) -> Result<(), String> {
    let config = headwater_config::parse::<headwater_agent::Config>(card, "headwater.toml", "", None);
    let config = config.map_err(|error| error.to_string())?;
    config.check().map_err(|error| error.to_string())
}

/// Without an agent in this build: whether it is TOML.
#[cfg(not(feature = "demo"))]
fn read_as_agents_do(card: &str) -> Result<(), String> {
    card.parse::<toml::Table>()
        .map(drop)
        .map_err(|error| error.to_string())
}

/// Settings of a whole file in two: the keys before the first table, and the rest. Comments alone stay where they are.
fn halves(settings: &str) -> (&str, &str) {
    let lines = settings.split_inclusive('\n');
    let keys = lines.take_while(|line| !line.trim_start().starts_with('['));
    let (keys, sections) = settings.split_at(keys.map(str::len).sum());
    let is_comment = |line: &str| line.trim_start().starts_with('#') || line.trim().is_empty();
    match keys.lines().all(is_comment) {
        true => ("", settings),
        false => (keys, sections),
    }
}

/// A device's headwater.toml; `sections` are those of updates and the operator's own.
fn card(
    name: &str,
    broker: &str,
    url: &str,
    token: &str,
    authorities: &str,
    (update, settings): (&str, &str),
    day: &str,
) -> String {
    let (keys, sections) = halves(settings);
    let set: Option<String> = keys
        .parse::<toml::Table>()
        .ok()
        .and_then(|keys| Some(keys.get("state_dir")?.as_str()?.to_string()));
    // Basic strings of TOML are escaped as those of JSON are, but for DEL, which none of these has.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let own = match set {
        None => format!("state_dir = {}\n", quoted(STATE)),
        Some(_) => String::new(),
    };
    let state = set.as_deref().unwrap_or(STATE);
    let file = |name: &str| quoted(&format!("{state}/tls/{name}"));
    format!(
        "# {name}: onto the boot partition of its SD card, as headwater.toml, before {day}. The token lets one machine in, once.\n\
         device = {device}\n{own}{keys}\n\
         [uplink]\nbroker = {broker}\n\n\
         [uplink.tls]\nca_file = {ca_file}\ncert_file = {cert_file}\nkey_file = {key_file}\n\n\
         [enroll]\nurl = {url}\ntoken = {token}\nca = '''\n{authorities}'''\n\n\
         {update}{sections}",
        device = quoted(name),
        keys = ensure_line(keys),
        ca_file = file("ca.crt"),
        cert_file = file("device.crt"),
        key_file = file("device.key"),
        broker = quoted(broker),
        url = quoted(url),
        token = quoted(token),
        authorities = ensure_line(authorities),
    )
}

/// With the end of a line behind it, if there is anything.
fn ensure_line(text: &str) -> String {
    match text.trim_end() {
        "" => String::new(),
        text => format!("{text}\n"),
    }
}
