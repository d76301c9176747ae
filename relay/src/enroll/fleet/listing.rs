//! The devices of a register, as a table or for programs.

use std::fmt::Write as _;

use super::day;
use crate::enroll::Error;
use crate::enroll::register::Register;

const DAY: i64 = 86_400;

/// Devices, until when their certificates are good, and tokens that wait.
///
/// # Errors
/// [`Error`].
pub(super) fn list(register: &Register, json: bool, now_s: i64) -> Result<String, Error> {
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
    rows.sort();
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
