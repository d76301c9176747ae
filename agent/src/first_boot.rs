//! The file that a field engineer lays on an SD card: `headwater.toml` on the boot partition, which any PC can write.
//!
//! It holds the agent's settings as `deploy/agent.toml` shows them, with a token to enrol with. At the machine's next start it is checked
//! whole, becomes the agent's settings (the ones before are kept beside them as `.old`), and is taken from the boot partition, where
//! anybody who finds the card could read the token; `headwater.taken.toml` stays there without it. Then the agent enrols. What is wrong is written
//! to `headwater.error.txt` on the boot partition, for whoever takes the card back to the PC, and to the log.
//!
//! **Power.** The steps, each of which can be repeated: the token to its place beside the key, for root and the agent alone; the settings; the
//! copy without a token; the file itself marked, blanked, then removed; the enrolment. The first three leave the file, so all begins again; after
//! them nothing on the boot partition is needed any more, and what is left to do the agent itself does. The mark is in the file's first sector,
//! which is written before the others: whatever of it was blanked, what begins so has been taken. (It is not renamed for that. FAT writes the new
//! name and strikes out the old one in any order, so that a cut leaves two names for the same clusters, or none.)

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use headwater_proto::name;

use crate::Config;
use crate::config::{ENVIRONMENT_PREFIX, Token};
use crate::enroll::files::{Files, place, sync_dir_of};
use crate::enroll::{self, Failure};

const NAME: &str = "headwater.toml";
const TAKEN: &str = "headwater.taken.toml";
const ERROR: &str = "headwater.error.txt";
/// What is written over the beginning of a file that has been taken over.
const MARK: &[u8] = b"# This was taken over, and can be removed.\n";
/// What a medium writes whole or not at all, bytes.
const SECTOR: usize = 512;
/// The longest file that is read, bytes.
const LENGTH_MAX: u64 = 256 * 1024;

/// Takes over what lies in one of these folders, the first that has it, as the settings in `config`; and enrols, for as long as `wait`. Returns
/// whether nothing is left that a person has to do.
pub async fn run(folders: &[PathBuf], config: &Path, wait: Duration) -> bool {
    let of = folders.iter().find(|folder| folder.join(NAME).is_file());
    let folder = of.or_else(|| folders.iter().find(|folder| folder.join(ERROR).is_file()));
    // A token may wait that was taken from there before.
    let folder = folder.or_else(|| folders.iter().find(|folder| folder.is_dir()));
    let Some(folder) = folder else {
        return true;
    };
    let done = match take(folder, config) {
        Ok(settings) => {
            let other = settings.is_none().then(|| misplaced(folder)).flatten();
            finish(settings, config, wait).await.and_then(|()| match other {
                None => Ok(()),
                Some(other) => Err(format!(
                    "{other} lies here, and only {NAME} is read. What to do: move it beside config.txt and call it {NAME}, with nothing behind \
                     (Windows hides the end of a name), and start this machine again"
                )),
            })
        }
        Err(why) => Err(why),
    };
    match done {
        Ok(()) => {
            // What it says is no longer so.
            let path = folder.join(ERROR);
            if path.exists() && fs::remove_file(&path).and_then(|()| sync_dir_of(&path)).is_err() {
                log::warn!(
                    "{} cannot be removed; what it says is no longer so",
                    path.display()
                );
            }
            true
        }
        Err(why) => {
            log::error!("first boot: {why}");
            let text = format!("{why}\n");
            let path = folder.join(ERROR);
            if fs::read_to_string(&path).ok().as_deref() != Some(&text)
                && let Err(why) = place(&path, 0o644, text.as_bytes())
            {
                log::error!("first boot: this cannot be left on the boot partition: {why}");
            }
            false
        }
    }
}

/// What was meant to be the file, by its name: one with an end that a PC has put on or hidden, a copy, a whole folder of cards.
fn misplaced(folder: &Path) -> Option<String> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    let mut found = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let longer = name.strip_prefix(NAME).is_some_and(|rest| !rest.is_empty());
        let copy = name.starts_with("headwater") && name.contains('(') && name.ends_with(".toml");
        if longer || copy {
            return Some(name);
        }
        let inside = entry.path().join(NAME).is_file();
        inside.then(|| format!("{name}/{NAME}"))
    });
    found.next()
}

/// What is in `folder`, as settings; `None`: it was taken before.
fn take(folder: &Path, config: &Path) -> Result<Option<Config>, String> {
    let path = folder.join(NAME);
    if !path.exists() {
        return Ok(None);
    }
    // To be written, too: what cannot be removed would be taken again and again.
    let open = || -> std::io::Result<(File, Vec<u8>)> {
        let mut file = File::options().read(true).write(true).open(&path)?;
        let mut content = Vec::new();
        Read::by_ref(&mut file)
            .take(LENGTH_MAX + 1)
            .read_to_end(&mut content)?;
        Ok((file, content))
    };
    let (file, content) = open().map_err(|error| {
        format!(
            "{}: {error}. What to do: see that the boot partition is mounted so that it can be written",
            path.display()
        )
    })?;
    if content.len() as u64 > LENGTH_MAX {
        return Err(format!(
            "{NAME} is longer than {LENGTH_MAX} bytes. What to do: write the settings alone into it"
        ));
    }
    // All but removed when the power went.
    if was_taken(&content) && folder.join(TAKEN).exists() {
        return remove(file, &path, content.len()).map(|()| None);
    }
    let text = text(&content)?;
    let settings = check(text)?;
    let full = |why| format!("{why}. What to do: see that the disk under it has room, and can be written");
    let clean = without_token(text, settings.enroll.token())?;
    let before = fs::read_to_string(config).ok();
    if let Some(files) = Files::of(&settings) {
        let device = before.as_deref().and_then(device_of);
        if device.is_some() && device != settings.device {
            files.put_aside().map_err(full)?;
        }
        if let Some(token) = settings.enroll.token() {
            files.keep_token(token).map_err(full)?;
        }
    }
    if before.as_deref() != Some(&clean) {
        if let Some(before) = before {
            let mut old = config.as_os_str().to_owned();
            old.push(".old");
            place(Path::new(&old), 0o644, before.as_bytes()).map_err(full)?;
        }
        place(config, 0o644, clean.as_bytes()).map_err(full)?;
    }
    let taken = folder.join(TAKEN);
    if fs::read(&taken).ok().as_deref() != Some(clean.as_bytes()) {
        place(&taken, 0o644, clean.as_bytes()).map_err(full)?;
    }
    remove(file, &path, content.len())?;
    log::info!("{} is taken over as {}", path.display(), config.display());
    Ok(Some(settings))
}

/// Whether a file begins as one does that is being removed. What is empty is one whose clusters were free already: that is what a check of the
/// file system makes of it.
fn was_taken(content: &[u8]) -> bool {
    let first = &content[..content.len().min(SECTOR)];
    let rest = first.strip_prefix(MARK);
    content.is_empty() || rest.is_some_and(|rest| rest.iter().all(|byte| *byte == b' '))
}

/// What is written over a file of this length, one after the other, before it is removed.
fn blanks(length: usize) -> [Vec<u8>; 2] {
    let mut first = MARK.to_vec();
    first.resize(length.clamp(MARK.len(), SECTOR), b' ');
    let rest = vec![b' '; length.saturating_sub(first.len())];
    [first, rest]
}

/// Blanked first: what is merely removed can be read from the card for a long time. (A card moves what it overwrites, too; whoever
/// takes it apart may find it. By then the token has been used.)
fn remove(mut file: File, path: &Path, length: usize) -> Result<(), String> {
    let mut blank = || {
        file.seek(SeekFrom::Start(0))?;
        for part in blanks(length) {
            file.write_all(&part)?;
            file.sync_all()?;
        }
        fs::remove_file(path)?;
        sync_dir_of(path)
    };
    blank().map_err(|error| {
        format!(
            "{} cannot be removed: {error}. What to do: remove it, since its token can be read",
            path.display()
        )
    })
}

/// Enrols with the token that waits, and tells what is left to do.
async fn finish(settings: Option<Config>, config: &Path, wait: Duration) -> Result<(), String> {
    let settings = match settings {
        Some(settings) => settings,
        None if !config.exists() => return Ok(()),
        None => match Config::load(config) {
            Ok(settings) => settings,
            Err(error) => return Err(error.to_string()),
        },
    };
    let Some(files) = Files::of(&settings) else {
        return Ok(());
    };
    if settings.enroll.url.is_none() || !files.has_token() {
        return Ok(());
    }
    match enroll::enroll(&settings, wait).await {
        Ok(done) => {
            log::info!("{done}");
            Ok(())
        }
        Err(why @ Failure::Refused(_)) if files.is_enrolled() => {
            log::warn!("{why}; the certificate that there is stays");
            Ok(())
        }
        Err(why @ Failure::Refused(_)) => Err(format!(
            "{why}. What to do: ask the operator for a new token (headwater-relay fleet provision), and lay a {NAME} with it beside this file"
        )),
        Err(why) => Err(format!(
            "Not enrolled yet: {why}. What to do: nothing if the network comes later, the agent goes on trying; else see whether this machine \
             reaches the endpoint, or correct a copy of {TAKEN} and lay it beside this file as {NAME}"
        )),
    }
}

/// As PCs write text.
fn text(content: &[u8]) -> Result<&str, String> {
    if content.starts_with(&[0xff, 0xfe]) || content.starts_with(&[0xfe, 0xff]) || content.contains(&0) {
        return Err(format!("{NAME} is UTF-16. What to do: save it as UTF-8"));
    }
    let text = std::str::from_utf8(content).map_err(|error| {
        let line = content[..error.valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            + 1;
        format!("{NAME}, line {line}: this is not UTF-8. What to do: save it as UTF-8")
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

fn check(text: &str) -> Result<Config, String> {
    let wrong = |why: &dyn std::fmt::Display| {
        format!("{why}. What to do: correct it in {NAME}, and start this machine again")
    };
    let config: Config =
        headwater_config::parse(text, NAME, ENVIRONMENT_PREFIX, []).map_err(|error| wrong(&error))?;
    config
        .check()
        .map_err(|error| wrong(&format_args!("{NAME}: {error}")))?;
    if let Some(device) = &config.device {
        name::check_device(device).map_err(|error| wrong(&format_args!("{NAME}: {error}; set `device`")))?;
    }
    if let Some(ca) = &config.enroll.ca {
        crate::mqtt::tls::check_certificates(ca.as_bytes())
            .map_err(|why| wrong(&format_args!("{NAME}: setting `enroll.ca`: {why}")))?;
    }
    Ok(config)
}

/// The settings with an empty token. Whatever way it is written down in TOML, a token has no character that could be written otherwise.
fn without_token(text: &str, token: Option<&Token>) -> Result<String, String> {
    let Some(Token(token)) = token else {
        return Ok(text.to_string());
    };
    if !text.contains(token.as_str()) {
        return Err(format!(
            "{NAME}: setting `enroll.token`: it is written with escapes. What to do: write it plainly"
        ));
    }
    Ok(text.replace(token.as_str(), ""))
}

/// The device's name in settings that may be wrong otherwise.
fn device_of(text: &str) -> Option<String> {
    let table: toml::Table = text.parse().ok()?;
    Some(table.get("device")?.as_str()?.to_string())
}

#[cfg(test)]
mod tests;
