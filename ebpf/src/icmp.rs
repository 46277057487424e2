//! ICMP errors about known flows: always let pass, and translated back (RFC 5508, section 4.2).

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use sluice_abi::{DropReason, flow_flags};

use crate::{
    config, conntrack, nat, outcome,
    packet::quoted,
    scratch::{self, Scratch},
};

/// Whether the error is about a flow that is known here; if the flow is translated and the error is for its opener,
/// the quoted packet becomes what the opener sent.
///
/// # Errors
/// The number of [`DropReason::Rewrite`].
#[inline(always)]
pub(crate) fn related(ctx: &TcContext) -> Result<bool, u8> {
    outcome::decode(find_related(ctx.skb.skb)).map(|related| related != 0)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_related(skb: *mut __sk_buff) -> u32 {
    let Some(scratch) = scratch::get() else {
        return DropReason::Malformed as u32;
    };
    outcome::encode(try_find_related(&TcContext::new(skb), scratch).map(u8::from))
}

#[inline(always)]
fn try_find_related(ctx: &TcContext, scratch: &mut Scratch) -> Result<bool, DropReason> {
    let (icmp_offset, is_v4) = (scratch.packet.l4_offset, scratch.packet.is_v4);
    let about = &mut scratch.quoted;
    if !config::related_icmp() || !quoted(ctx, icmp_offset, is_v4, about) {
        return Ok(false);
    }
    let Some(found) = conntrack::find(&about.tuple, config::now_ns()) else {
        return Ok(false);
    };
    if found.from_opener && found.has(flow_flags::TRANSLATED) {
        nat::rewrite_quoted(ctx, icmp_offset, about, &found.entry().other)?;
    }
    Ok(true)
}
