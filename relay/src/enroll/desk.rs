//! Who is given a certificate. The time is an argument; what is remembered is in the register.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use globset::Glob;
use ring::digest::{SHA256, digest};

use super::Error;
use super::authority::{self, Authority, Lists, Request};
use super::register::{Issued, Register, Used};
use super::settings::EnrollSettings;

/// What a device is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Signed {
    pub(super) device: String,
    pub(super) issued: Issued,
    /// It was given the same before: the answer was lost on its way.
    pub(super) repeated: bool,
}

/// Why it is given nothing. What is said is for the field engineer who reads it on a card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The token lets nobody in, or not this one.
    Token(String),
    /// The name is revoked.
    Revoked(String),
    /// The request makes no sense.
    Request(String),
    /// Not yet.
    Early(String),
    /// It is the endpoint's own fault.
    Failed(String),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// A certificate that is revoked and that no list can say so of: its authority's key is not here, and nobody else's list counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unlisted {
    pub(super) device: String,
    /// Who has signed it.
    pub(super) issuer: String,
    pub(super) until_s: i64,
}

/// Register and authority.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) register: Register,
    authority: RwLock<Arc<Authority>>,
    /// Lists what was revoked by other means.
    crl_file: Option<PathBuf>,
}

/// What a token is known by here.
pub(super) fn hash(token: &str) -> String {
    authority::hex(digest(&SHA256, token.as_bytes()).as_ref())
}

impl Desk {
    pub(super) fn open(settings: &EnrollSettings) -> Result<Self, Error> {
        Ok(Self {
            register: Register::open(&settings.state)?,
            authority: RwLock::new(Arc::new(Authority::load(settings)?)),
            crl_file: settings.crl_file.clone(),
        })
    }

    fn authority(&self) -> Arc<Authority> {
        Arc::clone(&self.authority.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on another one signs.
    pub(super) fn exchange(&self, authority: Authority) {
        *self.authority.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(authority);
    }

    /// For who has a token.
    pub(super) fn enroll(&self, token: &str, request: &[u8], now_s: i64) -> Result<Signed, Refusal> {
        let request = authority::request(request).map_err(Refusal::Request)?;
        let device = request.device.clone();
        let hash = hash(token);
        let refuse = |why: String| Err(Refusal::Token(why));
        let _lock = self.register.lock()?;
        let Some(token) = self.register.token(&hash)? else {
            return refuse("this token is not known here".into());
        };
        let fits = Glob::new(&token.device).is_ok_and(|glob| glob.compile_matcher().is_match(&device));
        if !fits {
            return refuse(format!("this token is not for a device called {device}"));
        }
        if token.expires_s <= now_s {
            return refuse("this token has expired".into());
        }
        self.may(&device)?;
        if let Some(used) = self.register.used(&hash)? {
            if (&used.device, &used.key) != (&device, &request.key) {
                return refuse(format!(
                    "this token has been used already, for {} with another key",
                    used.device
                ));
            }
            // Its answer was lost.
            let issued = self.register.issued(&device)?;
            return match issued.into_iter().find(|issued| issued.serial == used.serial) {
                Some(issued) if issued.revoked_s.is_some() => {
                    refuse("this token has been used, and what it was used for is revoked".into())
                }
                Some(issued) => Ok(Signed {
                    device,
                    issued,
                    repeated: true,
                }),
                None => Err(Refusal::Failed(format!(
                    "the certificate {} is not in the register",
                    used.serial
                ))),
            };
        }
        if token.device != device {
            self.is_free(&device, &request.key, now_s)?;
        }
        let issued = self.sign(&request, now_s)?;
        self.register.put_used(
            &hash,
            &Used {
                device: device.clone(),
                key: request.key,
                serial: issued.serial.clone(),
                at_s: now_s,
            },
        )?;
        Ok(Signed {
            device,
            issued,
            repeated: false,
        })
    }

    /// For who has shown the certificate `shown`, which TLS has verified.
    pub(super) fn renew(&self, shown: &[u8], request: &[u8], now_s: i64) -> Result<Signed, Refusal> {
        let shown = authority::shown(shown).map_err(Refusal::Request)?;
        let request = authority::request(request).map_err(Refusal::Request)?;
        let device = shown.device;
        if request.device != device {
            let why = format!("{device} cannot have a certificate for {}", request.device);
            return Err(Refusal::Request(why));
        }
        if request.key != shown.issued.key {
            let why = "a certificate is renewed for its own key; for another, enrol anew with a token".into();
            return Err(Refusal::Request(why));
        }
        let _lock = self.register.lock()?;
        self.may(&device)?;
        let known = self.register.issued(&device)?;
        let of_shown = known.iter().find(|issued| issued.serial == shown.issued.serial);
        let is_listed = || self.is_listed(&shown.issued.serial);
        if of_shown.is_some_and(|issued| issued.revoked_s.is_some()) || is_listed()? {
            return Err(Refusal::Revoked(format!(
                "this certificate of {device} is revoked"
            )));
        }
        // Its answer was lost: what has followed the one shown, and is not due itself.
        let newest = known
            .iter()
            .filter(|issued| issued.revoked_s.is_none())
            .max_by_key(|issued| issued.until_s);
        if let Some(newest) = newest
            && newest.key == request.key
            && newest.from_s > shown.issued.from_s
            && is_young(newest, now_s)
        {
            return Ok(Signed {
                device,
                issued: newest.clone(),
                repeated: true,
            });
        }
        if is_young(&shown.issued, now_s) {
            return Err(Refusal::Early(format!(
                "the certificate of {device} is not half through its time; is its clock right?"
            )));
        }
        if of_shown.is_none() {
            // Another hand has signed it with this authority's key; so it can be revoked here, too.
            self.register.put_issued(&device, &shown.issued)?;
        }
        let issued = self.sign(&request, now_s)?;
        Ok(Signed {
            device,
            issued,
            repeated: false,
        })
    }

    fn sign(&self, request: &Request, now_s: i64) -> Result<Issued, Refusal> {
        let issued = self
            .authority()
            .sign(request, &request.device, now_s)
            .map_err(Refusal::Failed)?;
        // First of all: what is not in the register could not be revoked.
        self.register.put_issued(&request.device, &issued)?;
        Ok(issued)
    }

    fn may(&self, device: &str) -> Result<(), Refusal> {
        match self.register.revoked(device)? {
            None => Ok(()),
            Some(_) => Err(Refusal::Revoked(format!(
                "{device} is revoked; the operator allows it again with headwater-relay fleet allow {device}"
            ))),
        }
    }

    /// Whether a token for a glob of names may let this key in as `device`: not in the place of a machine that has that name, or is to have
    /// it.
    fn is_free(&self, device: &str, key: &str, now_s: i64) -> Result<(), Refusal> {
        let held = self.register.issued(device)?.into_iter();
        let held = held.filter(|issued| issued.revoked_s.is_none() && issued.until_s > now_s);
        let what = if held.map(|issued| issued.key).any(|other| other != key) {
            "another machine is enrolled as"
        } else if (self.register.waiting()?.iter())
            .any(|(_, token)| token.device == device && token.expires_s > now_s)
        {
            "there is a token of its own for"
        } else {
            return Ok(());
        };
        Err(Refusal::Token(format!(
            "{what} {device}, and this token is for any of several names; ask for one for {device} alone"
        )))
    }

    fn is_listed(&self, serial: &str) -> Result<bool, Refusal> {
        let Some(path) = &self.crl_file else {
            return Ok(false);
        };
        let listed = read_list(path).and_then(|text| authority::listed(&text));
        let listed = listed.map_err(Refusal::Failed)?;
        Ok(listed.iter().any(|(listed, _)| authority::hex(listed) == serial))
    }

    /// Whether a name has, or had, a certificate or a token of its own, or is revoked.
    ///
    /// # Errors
    /// [`Error`].
    pub(super) fn knows(&self, device: &str) -> Result<bool, Error> {
        Ok(self.register.revoked(device)?.is_some()
            || !self.register.issued(device)?.is_empty()
            || (self.register.waiting()?.iter()).any(|(_, token)| token.device == device))
    }

    /// Takes all certificates of a name back, and writes the lists anew. Returns how many were taken back, and which of the name's are in no
    /// list.
    ///
    /// # Errors
    /// [`Error`].
    pub(super) fn revoke(&self, device: &str, now_s: i64) -> Result<(usize, Vec<Unlisted>), Error> {
        let _lock = self.register.lock()?;
        let path = self.crl_path()?;
        // The name first: what comes while this goes on is refused.
        if self.register.revoked(device)?.is_none() {
            self.register
                .put_revoked(device, &super::register::Revoked { at_s: now_s })?;
        }
        let mut count = 0;
        for mut issued in self.register.issued(device)? {
            if issued.revoked_s.is_none() {
                issued.revoked_s = Some(now_s);
                self.register.put_issued(device, &issued)?;
                count += 1;
            }
        }
        let (lists, mut unlisted) = self.list(now_s)?;
        super::register::place(path, 0o644, lists.as_bytes())
            .map_err(|error| of_file(path, error.to_string()))?;
        unlisted.retain(|unlisted| unlisted.device == device);
        Ok((count, unlisted))
    }

    /// The lists of what is revoked, made anew, in PEM; behind them those of authorities whose keys are not here. And what is in none of them.
    ///
    /// # Errors
    /// [`Error`].
    pub(super) fn crl(&self, now_s: i64) -> Result<(String, Vec<Unlisted>), Error> {
        let _lock = self.register.lock()?;
        self.list(now_s)
    }

    fn list(&self, now_s: i64) -> Result<(String, Vec<Unlisted>), Error> {
        let path = self.crl_path()?;
        let wrong = |why| of_file(path, why);
        // What others have revoked stays in it, and so do lists of other authorities.
        let authority = self.authority();
        let text = read_list(path).map_err(wrong)?;
        let Lists { own, others } = authority.lists(&text).map_err(wrong)?;
        let by_others = authority::listed(others.as_bytes()).map_err(wrong)?;
        let (mut revoked, mut unlisted) = (own, Vec::new());
        for device in self.register.devices()? {
            for issued in self.register.issued(&device)? {
                let Some(since_s) = issued.revoked_s.filter(|_| issued.until_s > now_s) else {
                    continue;
                };
                let serial = authority::unhex(&issued.serial);
                let is_in = |list: &[authority::Revoked]| list.iter().any(|(other, _)| *other == serial);
                match authority.signer(&issued.certificate) {
                    Ok(signer) if is_in(&revoked[signer]) => {}
                    Ok(signer) => revoked[signer].push((serial, since_s)),
                    Err(_) if is_in(&by_others) => {}
                    Err(issuer) => unlisted.push(Unlisted {
                        device: device.clone(),
                        issuer,
                        until_s: issued.until_s,
                    }),
                }
            }
        }
        let lists = authority.list(&revoked, now_s).map_err(wrong)? + &others;
        Ok((lists, unlisted))
    }

    fn crl_path(&self) -> Result<&Path, Error> {
        self.crl_file.as_deref().ok_or(Error::Missing {
            key: "enroll.crl_file",
        })
    }
}

fn of_file(path: &Path, why: String) -> Error {
    Error::File {
        key: "enroll.crl_file",
        path: path.to_path_buf(),
        why,
    }
}

/// Whether less than half of its time has passed.
fn is_young(issued: &Issued, now_s: i64) -> bool {
    now_s < issued.from_s + (issued.until_s - issued.from_s) / 2
}

/// Without the file nothing is revoked yet.
fn read_list(path: &Path) -> Result<Vec<u8>, String> {
    match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests;
