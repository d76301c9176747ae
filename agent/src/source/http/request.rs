//! What a request asks for, judged by its head alone. Pure.

use headwater_foreign::TimeFormat;
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, HeaderMap, ORIGIN};
use hyper::{Method, Uri};

use super::answer::Answer;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Readings as JSON.
    Readings,
    /// Line protocol, with times in this unit.
    Lines(TimeFormat),
    /// Whether anybody is there.
    Ping,
}

/// How a body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
}

/// What a request asks for.
pub(super) fn asked(method: &Method, uri: &Uri) -> Result<Asked, Answer> {
    let asked = match uri.path() {
        "/v1/readings" => Asked::Readings,
        "/write" | "/api/v2/write" => Asked::Lines(precision(uri.query().unwrap_or(""))?),
        "/ping" | "/health" => Asked::Ping,
        path => {
            return Err(Answer::refused(
                404,
                format!("there is no {path:?} here, but /v1/readings, /write, /api/v2/write and /ping"),
            ));
        }
    };
    let is_allowed = match asked {
        Asked::Ping => method == Method::GET || method == Method::HEAD,
        _ => method == Method::POST,
    };
    if is_allowed {
        Ok(asked)
    } else {
        Err(Answer::refused(
            405,
            format!("{method} is not what {} takes", uri.path()),
        ))
    }
}

/// The unit of times in line protocol: `precision`, by the names of both versions of the interface.
fn precision(query: &str) -> Result<TimeFormat, Answer> {
    let given = query.split('&').find_map(|pair| pair.strip_prefix("precision="));
    match given {
        None | Some("" | "n" | "ns") => Ok(TimeFormat::Ns),
        Some("u" | "us") => Ok(TimeFormat::Us),
        Some("ms") => Ok(TimeFormat::Ms),
        Some("s") => Ok(TimeFormat::S),
        Some(other) => Err(Answer::refused(
            400,
            format!("precision {other:?} is none of ns, us, ms, s"),
        )),
    }
}

/// Whether the request may be made: by whom the token tells; without one by any program of this machine, though not by a page in a
/// browser, which anybody may have written.
pub(super) fn may(headers: &HeaderMap, token: Option<&str>) -> Result<(), Answer> {
    let Some(token) = token else {
        return match headers.get(ORIGIN) {
            None => Ok(()),
            Some(_) => Err(Answer::refused(
                403,
                "pages in a browser may not hand in readings unless token_file is set".into(),
            )),
        };
    };
    let given = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("token"))
        .map_or("", |(_, given)| given.trim());
    if is_same(given.as_bytes(), token.as_bytes()) {
        Ok(())
    } else {
        Err(Answer::refused(
            401,
            "the token is missing or wrong; send it as \"Authorization: Bearer …\"".into(),
        ))
    }
}

/// In a time that does not tell how much of it is right.
fn is_same(given: &[u8], token: &[u8]) -> bool {
    let differences = given
        .iter()
        .zip(token)
        .fold(0, |differences, (a, b)| differences | (a ^ b));
    given.len() == token.len() && std::hint::black_box(differences) == 0
}

/// How the body is packed.
pub(super) fn packing(headers: &HeaderMap) -> Result<Packing, Answer> {
    match headers.get(CONTENT_ENCODING).map(|value| value.as_bytes()) {
        None | Some(b"identity") => Ok(Packing::Plain),
        Some(b"gzip") => Ok(Packing::Gzip),
        Some(other) => Err(Answer::refused(
            415,
            format!(
                "content encoding {:?} is neither identity nor gzip",
                String::from_utf8_lossy(other)
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: &Method, uri: &str) -> Result<Asked, u16> {
        asked(method, &uri.parse().unwrap()).map_err(|answer| answer.status)
    }

    #[test]
    fn paths_and_precisions_of_both_versions_are_known() {
        assert_eq!(ask(&Method::POST, "/v1/readings"), Ok(Asked::Readings));
        assert_eq!(
            ask(&Method::POST, "/write?db=x"),
            Ok(Asked::Lines(TimeFormat::Ns))
        );
        assert_eq!(
            ask(&Method::POST, "/write?precision=u&db=x"),
            Ok(Asked::Lines(TimeFormat::Us))
        );
        assert_eq!(
            ask(&Method::POST, "/api/v2/write?bucket=b&precision=ms"),
            Ok(Asked::Lines(TimeFormat::Ms))
        );
        assert_eq!(ask(&Method::HEAD, "/ping"), Ok(Asked::Ping));
        assert_eq!(ask(&Method::POST, "/write?precision=h"), Err(400));
        assert_eq!(ask(&Method::GET, "/write"), Err(405));
        assert_eq!(ask(&Method::GET, "/"), Err(404));
    }

    #[test]
    fn a_token_is_whole_or_wrong() {
        let with = |value: &str| HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]);
        let status = |headers: &HeaderMap, token| may(headers, token).map_err(|answer| answer.status);
        for value in ["Bearer secret", "Token secret", "bearer  secret"] {
            assert_eq!(status(&with(value), Some("secret")), Ok(()), "{value}");
        }
        for value in [
            "Bearer secre",
            "Bearer secret2",
            "Bearer",
            "Bearer ",
            "secret",
            "Basic secret",
        ] {
            assert_eq!(status(&with(value), Some("secret")), Err(401), "{value}");
        }
        assert_eq!(status(&HeaderMap::new(), Some("secret")), Err(401));
        assert_eq!(status(&HeaderMap::new(), None), Ok(()));
        let page = HeaderMap::from_iter([(ORIGIN, "http://page.example".parse().unwrap())]);
        assert_eq!(status(&page, None), Err(403));
    }
}
