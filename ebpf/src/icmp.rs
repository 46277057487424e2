//! ICMP errors about known flows: always let pass, and translated back (RFC 5508, section 4.2).

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use sluice_abi::{DropReason, flow_flags};

use crate::{
    config, conntrack, nat, outcome,
    packet::quoted,
    scratch::{self, Handle},
};

/// Whether the error is about a flow that is known here and goes to that packet's sender. Where a translation lies
/// between them the quoted packet becomes what that sender sent, and the error goes to its address.
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
    match try_find_related(&TcContext::new(skb), scratch) {
        Ok(related) => outcome::encode(Ok(u8::from(related))),
        Err(reason) => u32::from(reason),
    }
}

#[inline(always)]
fn try_find_related(ctx: &TcContext, mut scratch: Handle) -> Result<bool, u8> {
    let (icmp_offset, is_v4) = (scratch.packet.l4_offset, scratch.packet.is_v4);
    if !config::related_icmp() || !quoted(ctx, icmp_offset, is_v4, &mut scratch.quoted) {
        return Ok(false);
    }
    // An error that went to anybody else would carry its payload past that one's policy.
    if scratch.quoted.tuple.src != scratch.packet.tuple.dst {
        return Ok(false);
    }
    let Some(found) = conntrack::find(&scratch.quoted.tuple, config::now_ns()) else {
        return Ok(false);
    };
    // Quoted is what left this node. If its sender sent it in another form, that is what it must find in the quote.
    scratch.opened = match (found.has(flow_flags::ALIAS), found.from_opener) {
        (true, false) => found.entry().other.reversed(),
        (false, true) if found.has(flow_flags::TRANSLATED) => found.entry().other,
        (_, _) => return Ok(true),
    };
    let sender_is_end = scratch.packet.tuple.src == scratch.quoted.tuple.dst;
    nat::rewrite_quoted(ctx, icmp_offset, &scratch.quoted, &scratch.opened).map_err(|reason| reason as u8)?;
    scratch.target = scratch.packet.tuple;
    scratch.target.dst = scratch.opened.src;
    // The other end itself has the address there that the receiver knows it by (RFC 5508, section 4.2).
    if sender_is_end {
        scratch.target.src = scratch.opened.dst;
    }
    if scratch.target != scratch.packet.tuple {
        nat::rewrite(ctx)?;
    }
    Ok(true)
}
