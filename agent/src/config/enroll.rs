//! The settings of where this agent's certificate comes from.

use std::fmt;

use serde::Deserialize;

/// The relay's enrolment endpoint, which signs this agent's certificate, and renews it. Key and certificate are put where
/// `uplink.tls.key_file` and `uplink.tls.cert_file` say, the authorities that it names where `uplink.tls.ca_file` does.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Enroll {
    /// `https://host:port`. `None`: who renews the certificate is another's business.
    pub url: Option<String>,
    /// The endpoint's authority: its certificate, in PEM. `None`: `pin`, or the file in `uplink.tls.ca_file`.
    pub ca: Option<String>,
    /// In place of `ca`: `sha256:` and the SHA-256 of that certificate in hexadecimal, which the endpoint has to send along.
    pub pin: Option<String>,
    /// Lets this agent in once. For `headwater.toml` on the boot partition, from where it is taken away, and for the environment.
    pub token: Option<Token>,
}

/// What lets an agent in once. It is not shown.
#[derive(Clone, Default, Deserialize, PartialEq, Eq)]
#[serde(transparent)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// Whether it can be one: 16 to 128 of `A-Z a-z 0-9 _ -`.
    pub fn is_plausible(&self) -> bool {
        (16..=128).contains(&self.0.len())
            && self
                .0
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    }
}

impl Enroll {
    /// The token, if there is one: an empty one has been taken away.
    pub fn token(&self) -> Option<&Token> {
        self.token.as_ref().filter(|token| !token.0.is_empty())
    }

    /// The SHA-256 that `pin` says. Bytes may be parted by colons, as openssl shows them.
    ///
    /// # Errors
    /// It says none.
    pub(crate) fn pinned(&self) -> Result<Option<[u8; 32]>, &'static str> {
        const WRONG: &str = "it is not \"sha256:\" and 64 hexadecimal digits";
        let Some(pin) = &self.pin else {
            return Ok(None);
        };
        let digits: Vec<u8> = pin
            .strip_prefix("sha256:")
            .ok_or(WRONG)?
            .bytes()
            .filter(|byte| *byte != b':')
            .collect();
        let mut bytes = [0; 32];
        if digits.len() != 2 * bytes.len() {
            return Err(WRONG);
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16).ok_or(WRONG);
            *byte = (digit(0)? * 16 + digit(1)?) as u8;
        }
        Ok(Some(bytes))
    }

    /// Checks what the types cannot say: the key that is wrong, and why.
    pub(super) fn check(&self, tls: &super::Tls) -> Result<(), (&'static str, &'static str)> {
        let Some(url) = &self.url else {
            return if *self == Self::default() {
                Ok(())
            } else {
                Err((
                    "url",
                    "it is missing: which endpoint signs the certificate, https://host:8443",
                ))
            };
        };
        check_url(url).map_err(|why| ("url", why))?;
        self.pinned().map_err(|why| ("pin", why))?;
        if self
            .ca
            .as_ref()
            .is_some_and(|ca| !ca.contains("-----BEGIN CERTIFICATE-----"))
        {
            return Err((
                "ca",
                "it holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)",
            ));
        }
        if self.token().is_some_and(|token| !token.is_plausible()) {
            return Err((
                "token",
                "it is not 16 to 128 of A-Z a-z 0-9 _ -; was all of it copied?",
            ));
        }
        if tls.cert_file.is_none() {
            return Err((
                "url",
                "where the certificate is to be put is not said: set uplink.tls.cert_file and uplink.tls.key_file",
            ));
        }
        if self.ca.is_none() && self.pin.is_none() && tls.ca_file.is_none() && url.starts_with("https:") {
            return Err((
                "ca",
                "by what the endpoint is known is not said: set enroll.ca, enroll.pin or uplink.tls.ca_file",
            ));
        }
        Ok(())
    }
}

#[cfg(feature = "enroll")]
fn check_url(url: &str) -> Result<(), &'static str> {
    let url = crate::http::client::Url::parse(url)?;
    if !url.server.tls && !url.is_loopback() {
        return Err(
            "is not https://, and its host is not this machine: anybody on the way could read the token",
        );
    }
    Ok(())
}

#[cfg(not(feature = "enroll"))]
fn check_url(_: &str) -> Result<(), &'static str> {
    Err("this build leaves enrolment out; build with the feature `enroll`")
}

#[cfg(all(test, feature = "enroll"))]
mod tests {
    use super::*;
    use crate::config::Tls;

    #[test]
    fn what_would_trust_anybody_or_lead_nowhere_is_refused() {
        let tls = Tls {
            cert_file: Some("c".into()),
            key_file: Some("k".into()),
            ..Tls::default()
        };
        let read = |text: &str| toml::from_str::<Enroll>(text).unwrap();
        let pin = "AB:".repeat(31) + "cd";
        for good in [
            String::new(),
            format!("url = 'https://r'\npin = 'sha256:{pin}'"),
            "url = 'https://r'\nca = '''-----BEGIN CERTIFICATE-----'''\ntoken = 'abcdefghijklmnop'".into(),
            "url = 'http://127.0.0.1:1'\ntoken = ''".into(),
        ] {
            assert_eq!(read(&good).check(&tls), Ok(()), "{good}");
        }
        for (bad, key, part) in [
            ("token = 'abcdefghijklmnop'", "url", "missing"),
            ("url = 'https://r'", "ca", "enroll.pin"),
            ("url = 'http://relay'\npin = 'x'", "url", "not https"),
            ("url = 'ftp://r'", "url", "no scheme"),
            ("url = 'https://r'\npin = 'sha256:abcd'", "pin", "64 hexadecimal"),
            ("url = 'https://r'\npin = 'md5:abcd'", "pin", "sha256:"),
            ("url = 'https://r'\nca = 'ca.pem'", "ca", "PEM"),
            ("url = 'http://localhost'\ntoken = 'short'", "token", "16 to 128"),
            (
                "url = 'http://localhost'\ntoken = 'a token with blanks'",
                "token",
                "16 to 128",
            ),
        ] {
            let (of, why) = read(bad).check(&tls).unwrap_err();
            assert!(of == key && why.contains(part), "{bad}: {of}: {why}");
        }
        let url = read("url = 'http://localhost'");
        assert!(
            url.check(&Tls::default())
                .unwrap_err()
                .1
                .contains("uplink.tls.cert_file")
        );
        let shown = format!(
            "{:?}",
            read("url = 'http://localhost'\ntoken = 'abcdefghijklmnop'")
        );
        assert!(!shown.contains("abcdefghijklmnop"), "{shown}");
        assert_eq!(
            read(&format!("pin = 'sha256:{pin}'")).pinned().unwrap().unwrap()[30..],
            [0xab, 0xcd]
        );
    }
}
