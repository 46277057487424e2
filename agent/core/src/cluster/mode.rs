//! Whether policies are enforced or only audited: the annotation `sluice.dev/mode`.

use sluice_abi::PolicyMode;

use super::reject::RejectReason;
use crate::object::{self, Meta};

/// What an object says of itself, or a namespace of its policies; `None` where it says nothing.
///
/// # Errors
/// [`RejectReason::Mode`] when it says something unknown, which counts as nothing.
pub(super) fn read(metadata: &Meta) -> Result<Option<PolicyMode>, RejectReason> {
    match metadata.annotations.get(object::MODE).map(String::as_str) {
        None => Ok(None),
        Some("audit") => Ok(Some(PolicyMode::Audit)),
        Some("enforce") => Ok(Some(PolicyMode::Enforce)),
        Some(mode) => Err(RejectReason::Mode { mode: mode.to_owned() }),
    }
}
