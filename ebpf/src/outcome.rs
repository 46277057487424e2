//! What the larger parts say to each other.
//!
//! `packet::parse_frame`, `flow::pass_flow`, `flow::open_flow`, `service::choose_backend` with `take_backend`,
//! `service::choose_source`, `conntrack::is_opened_free`, `icmp::find_related`, `policy::audit_flow` and
//! `nat::rewrite_headers` are *global* functions: the verifier checks each of them once, whatever its caller knew, so that
//! their states add up instead of multiplying, and a loop over one of them costs what its body does. In exchange they take
//! only the context and numbers, work on [`crate::scratch`], and answer with a number; this module is where it gets its meaning back.

use sluice_abi::DropReason;

/// The number of `Ok(value)`; values stay clear of the drop reasons.
const OK: u32 = 0x100;

/// Turns a result into the number a global function returns.
#[inline(always)]
pub(crate) fn encode(result: Result<u8, DropReason>) -> u32 {
    match result {
        Ok(value) => OK | u32::from(value),
        Err(reason) => reason as u32,
    }
}

/// Turns the number back.
#[inline(always)]
pub(crate) fn decode(code: u32) -> Result<u8, u8> {
    if code & OK != 0 { Ok(code as u8) } else { Err(code as u8) }
}
