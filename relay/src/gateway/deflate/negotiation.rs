//! What of a client's offers is accepted (RFC 7692 §5, §7.1).

use std::fmt::Write;

use super::WINDOW_BITS;

/// The name of the extension.
const NAME: &str = "permessage-deflate";

/// The value of the response's `Sec-WebSocket-Extensions`, for the first offer in the request's values that we can
/// serve; `None`: no compression on this connection.
///
/// Always `server_no_context_takeover` (a frame is compressed once for everybody) and `client_no_context_takeover` (we
/// hold no window for a connection). `server_max_window_bits` only where it was offered: some clients refuse it
/// otherwise, and a 12-bit stream is a valid 15-bit one.
pub fn negotiate<'a>(values: impl IntoIterator<Item = &'a str>) -> Option<String> {
    values
        .into_iter()
        .flat_map(|value| split(value, ','))
        .find_map(accept)
}

fn accept(offer: &str) -> Option<String> {
    let mut parts = split(offer, ';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case(NAME) {
        return None;
    }
    let (mut server_bits, mut client_bits) = (None, None);
    let (mut server_takeover, mut client_takeover) = (false, false);
    for part in parts {
        let (key, value) = match part.split_once('=') {
            Some((key, value)) => (key.trim(), Some(unquote(value.trim())?)),
            None => (part, None),
        };
        // A parameter twice, one that is unknown and a value out of range each decline the offer (§7.1).
        match (key, value) {
            ("server_no_context_takeover", None) if !server_takeover => server_takeover = true,
            ("client_no_context_takeover", None) if !client_takeover => client_takeover = true,
            ("server_max_window_bits", Some(value)) if server_bits.is_none() => {
                server_bits = Some(bits(value)?);
            }
            ("client_max_window_bits", None) if client_bits.is_none() => client_bits = Some(15),
            ("client_max_window_bits", Some(value)) if client_bits.is_none() => {
                client_bits = Some(bits(value)?);
            }
            _ => return None,
        }
    }
    let mut answer = format!("{NAME}; server_no_context_takeover; client_no_context_takeover");
    match server_bits {
        // A smaller window than the shared frames are made with.
        Some(offered) if offered < WINDOW_BITS => return None,
        // Writing to a string cannot fail.
        Some(_) => drop(write!(answer, "; server_max_window_bits={WINDOW_BITS}")),
        None => {}
    }
    // client_max_window_bits is a hint and needs no answer: we inflate any window.
    Some(answer)
}

/// 8 to 15, without a leading zero (§7.1.2).
fn bits(value: &str) -> Option<u8> {
    let plain = !value.starts_with('0') && value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|bits| plain && (8..=15).contains(bits))
}

fn unquote(value: &str) -> Option<&str> {
    match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"'),
        None => Some(value),
    }
}

/// Splits outside of quoted strings.
fn split(text: &str, at: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |character| {
        quoted ^= character == '"';
        character == at && !quoted
    })
}

#[cfg(test)]
mod tests {
    use super::negotiate;

    const PLAIN: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    const NAMED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=12";

    #[test]
    fn what_clients_really_offer_is_accepted() {
        for (client, offer, answer) in [
            ("RFC 7692 §7.1.3", "permessage-deflate", PLAIN),
            ("Chromium", "permessage-deflate; client_max_window_bits", PLAIN),
            ("Firefox", "permessage-deflate", PLAIN),
            ("Safari, old", "x-webkit-deflate-frame, permessage-deflate", PLAIN),
            (
                "Python websockets",
                "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
                NAMED,
            ),
            (
                "quoted",
                "permessage-deflate; server_max_window_bits=\"15\"",
                NAMED,
            ),
            (
                "RFC 7692 §7.1.2.1",
                "permessage-deflate; client_max_window_bits; server_max_window_bits=10, permessage-deflate; client_max_window_bits",
                PLAIN,
            ),
            (
                "takeover",
                "permessage-deflate; client_no_context_takeover; server_no_context_takeover",
                PLAIN,
            ),
            (
                "spaces",
                " Permessage-Deflate ;  server_max_window_bits = 13 ",
                NAMED,
            ),
        ] {
            assert_eq!(negotiate([offer]).as_deref(), Some(answer), "{client}");
        }
    }

    #[test]
    fn server_max_window_bits_is_answered_only_where_offered() {
        assert!(!negotiate(["permessage-deflate"]).unwrap().contains("window_bits"));
        assert!(
            negotiate(["permessage-deflate; server_max_window_bits=12"])
                .unwrap()
                .ends_with("=12")
        );
    }

    #[test]
    fn what_cannot_be_served_is_declined() {
        for offer in [
            "",
            "permessage-bzip2",
            "permessage-deflate; unknown",
            "permessage-deflate; unknown=1",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=012",
            "permessage-deflate; server_max_window_bits=+12",
            "permessage-deflate; server_max_window_bits=11",
            "permessage-deflate; server_max_window_bits=\"12",
            "permessage-deflate; client_max_window_bits=99",
            "permessage-deflate; client_max_window_bits; client_max_window_bits=10",
        ] {
            assert_eq!(negotiate([offer]), None, "{offer}");
        }
    }

    #[test]
    fn offers_may_stand_in_several_headers() {
        assert_eq!(
            negotiate(["x-foo; a=\"b, permessage-deflate\"", "permessage-deflate"]).unwrap(),
            PLAIN
        );
        assert_eq!(negotiate(["x-foo; a=\"b, permessage-deflate\""]), None);
    }
}
