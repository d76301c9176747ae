//! How each device stands with its certificates: for `fleet list` and for the metrics.

use super::Error;
use super::register::Register;

const DAY: i64 = 86_400;

/// In words; [`label`] is the same for a metric.
pub(super) const STATES: [&str; 5] = [ENROLLED, ENDS_SOON, EXPIRED, REVOKED, WITHOUT];
const ENROLLED: &str = "enrolled";
const ENDS_SOON: &str = "ends soon";
const EXPIRED: &str = "expired";
const REVOKED: &str = "revoked";
const WITHOUT: &str = "without a certificate";

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) device: String,
    /// One of [`STATES`].
    pub(super) state: &'static str,
    /// Until when its newest certificate is good that was not revoked.
    pub(super) until_s: Option<i64>,
}

/// A state as a metric's label says it.
pub(super) fn label(state: &str) -> String {
    state.replace(' ', "_")
}

/// All that ever had a certificate or were revoked, by name.
///
/// # Errors
/// [`Error::File`].
pub(super) fn all(register: &Register, now_s: i64) -> Result<Vec<Standing>, Error> {
    let revoked = register.all_revoked()?;
    let mut names = register.devices()?;
    names.extend(revoked.iter().map(|(name, _)| name.clone()));
    names.sort();
    names.dedup();
    let mut all = Vec::new();
    for device in names {
        let good = (register.issued(&device)?.into_iter()).filter(|issued| issued.revoked_s.is_none());
        let newest = good.max_by_key(|issued| issued.until_s);
        let state = match &newest {
            _ if revoked.iter().any(|(other, _)| *other == device) => REVOKED,
            None => WITHOUT,
            Some(issued) if issued.until_s <= now_s => EXPIRED,
            // Long after it should have been renewed, also where certificates live for weeks.
            Some(issued) if issued.until_s - now_s < (30 * DAY).min((issued.until_s - issued.from_s) / 6) => {
                ENDS_SOON
            }
            Some(_) => ENROLLED,
        };
        let until_s = newest.map(|issued| issued.until_s);
        all.push(Standing {
            device,
            state,
            until_s,
        });
    }
    Ok(all)
}
