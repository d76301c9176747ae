//! What a release says of itself: a JSON document that is signed as it stands.
//!
//! ```json
//! {
//!   "headwater": "agent",
//!   "version": "0.2.0",
//!   "files": {
//!     "aarch64-unknown-linux-musl": { "name": "headwater-agent-0.2.0-aarch64", "size": 3118072, "sha256": "64 hexadecimal digits" }
//!   }
//! }
//! ```
//!
//! Keys that are not known are left for later versions.

use serde_json::Value;

use crate::version::Version;

/// The longest manifest, bytes.
pub(crate) const MANIFEST_MAX: usize = 32 * 1024;
/// The largest program, bytes.
const SIZE_MAX: u64 = 64 * 1024 * 1024;

/// A program of a release, for one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) version: String,
    /// What to ask a server for.
    pub(crate) name: String,
    /// Bytes.
    pub(crate) size: u64,
    /// Hexadecimal, in lower case.
    pub(crate) sha256: String,
}

impl File {
    /// The program for `target` of the release that a manifest describes.
    ///
    /// # Errors
    /// What is wrong with the manifest, to stand behind "the manifest".
    pub(crate) fn of_manifest(text: &str, target: &str) -> Result<Self, String> {
        let document: Value = match serde_json::from_slice(text.as_bytes()) {
            Ok(document) if text.len() <= MANIFEST_MAX => document,
            Ok(_) => return Err(format!("is longer than {MANIFEST_MAX} bytes")),
            Err(error) => return Err(format!("is no JSON: {error}")),
        };
        if document["headwater"].as_str() != Some("agent") {
            return Err("is of no agent: its key `headwater` is not \"agent\"".into());
        }
        let version = document["version"].as_str().unwrap_or_default();
        if Version::parse(version).is_none() {
            return Err(format!("has the version {version:?}, which is none"));
        }
        let Some(files) = document["files"].as_object() else {
            return Err("has no files".into());
        };
        let Some(file) = files.get(target) else {
            let known: Vec<&str> = files.keys().map(String::as_str).collect();
            let known = known.join(", ");
            return Err(format!(
                "has nothing for {target}, which this agent was built for; there is {known}"
            ));
        };
        let text = |key: &str| file[key].as_str().unwrap_or_default().to_string();
        let found = Self {
            version: version.into(),
            name: text("name"),
            size: file["size"].as_u64().unwrap_or(0),
            sha256: text("sha256"),
        };
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let wrong = if !(1..=SIZE_MAX).contains(&found.size) {
            "size"
        } else if found.sha256.len() != 64 || !found.sha256.bytes().all(digit) {
            "sha256"
        } else if !(1..=128).contains(&found.name.len()) || !found.name.bytes().all(plain) {
            // It becomes part of an address.
            "name"
        } else {
            return Ok(found);
        };
        Err(format!("has no usable `{wrong}` for {target}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"headwater": "agent", "version": "0.2.0", "later": [1], "files": {
        "a-b": {"name": "agent-0.2.0", "size": 7, "sha256": "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"}}}"#;

    #[test]
    fn the_program_for_a_target_is_found() {
        let file = File::of_manifest(GOOD, "a-b").unwrap();
        assert_eq!(
            (&*file.version, &*file.name, file.size),
            ("0.2.0", "agent-0.2.0", 7)
        );
        let why = File::of_manifest(GOOD, "c-d").unwrap_err();
        assert!(why.contains("nothing for c-d") && why.contains("a-b"), "{why}");
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (good, bad, part) in [
            ("\"agent\",", "\"relay\",", "of no agent"),
            ("0.2.0\", \"later", "two\", \"later", "\"two\""),
            ("files", "fiels", "no files"),
            ("agent-0.2.0", "../agent", "`name`"),
            ("agent-0.2.0", "", "`name`"),
            ("\"size\": 7", "\"size\": -7", "`size`"),
            ("\"size\": 7", "\"size\": 67108865", "`size`"),
            ("00112233", "0011223", "`sha256`"),
            ("00112233", "0011223G", "`sha256`"),
            ("{", "[", "no JSON"),
        ] {
            let text = GOOD.replacen(good, bad, 1);
            let why = File::of_manifest(&text, "a-b").unwrap_err();
            assert!(why.contains(part), "{bad}: {why}");
        }
        let long = format!("{GOOD}{}", " ".repeat(MANIFEST_MAX));
        assert!(File::of_manifest(&long, "a-b").unwrap_err().contains("longer"));
    }
}
