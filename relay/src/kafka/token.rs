//! The token of SASL OAUTHBEARER, from a file that somebody else keeps fresh: a mounted service account token, or what a
//! sidecar fetches from the identity provider. librdkafka asks for it at the start and again before it expires.

use std::path::Path;

use rdkafka::client::OAuthToken;
use serde::Deserialize;

/// Why there is no token. Each message is whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody said where it is.
    #[error("sasl.mechanism is OAUTHBEARER: write kafka.token_file, the file that the token is in")]
    NoFile,
    /// The file cannot be read.
    #[error("kafka.token_file: {0}")]
    Read(headwater_config::Error),
    /// It holds something else.
    #[error("kafka.token_file: {file} holds no JWT with the claims sub and exp: {why}")]
    Content {
        /// The file.
        file: String,
        /// What is wrong.
        why: String,
    },
}

/// What librdkafka needs to know of a token; the broker is who checks it.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    /// Seconds since the Unix epoch (RFC 7519, section 4.1.4).
    exp: f64,
}

/// Reads the token.
///
/// # Errors
/// [`Error`].
pub fn read(file: Option<&Path>) -> Result<OAuthToken, Error> {
    let file = file.ok_or(Error::NoFile)?;
    let token = headwater_config::secret(file).map_err(Error::Read)?;
    let claims: Claims =
        jsonwebtoken::dangerous::insecure_decode_claims(&token).map_err(|why| Error::Content {
            file: file.display().to_string(),
            why: why.to_string(),
        })?;
    Ok(OAuthToken {
        token,
        principal_name: claims.sub,
        lifetime_ms: (claims.exp * 1000.0) as i64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        file
    }

    #[test]
    fn subject_and_lifetime_are_read_from_the_token() {
        // {"alg":"none"} . {"sub":"relay","exp":2000000000.5}
        let token = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJyZWxheSIsImV4cCI6MjAwMDAwMDAwMC41fQ.";
        let file = file(&format!("{token}\n"));
        let read = read(Some(file.path())).unwrap();
        assert_eq!(read.token, token);
        assert_eq!(read.principal_name, "relay");
        assert_eq!(read.lifetime_ms, 2_000_000_000_500);
    }

    #[test]
    fn what_is_no_token_is_told_with_its_file() {
        let told = |path: Option<&Path>| read(path).map(drop).unwrap_err().to_string();
        assert!(told(None).contains("kafka.token_file"));
        assert!(told(Some(Path::new("/nonexistent/token"))).contains("/nonexistent/token"));
        for content in ["opaque", "a.b.c", "eyJhbGciOiJub25lIn0.e30."] {
            let file = file(content);
            let told = told(Some(file.path()));
            assert!(told.contains("holds no JWT") && !told.contains("a.b.c"), "{told}");
        }
    }
}
