//! The devices of a register, as a table or for programs.

use std::fmt::Write as _;

use super::day;
use crate::enroll::Error;
use crate::enroll::register::Register;
use crate::enroll::standing;

/// Devices, until when their certificates are good, and tokens that wait.
///
/// # Errors
/// [`Error`].
pub(super) fn list(register: &Register, json: bool, now_s: i64) -> Result<String, Error> {
    let mut rows: Vec<(String, &'static str, Option<i64>)> = (standing::all(register, now_s)?.into_iter())
        .map(|one| (one.device, one.state, one.until_s))
        .collect();
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
