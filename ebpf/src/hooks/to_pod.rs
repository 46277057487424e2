//! To a pod through the host stack: tc egress of its host-side veth.
//!
//! What the node's own stack made (`ingress_ifindex` 0) always passes, translated back where the pod asked a Service.
//! What came from another device was handed to the stack for an ICMP answer, or translated there by someone else
//! (portmap, kube-proxy): it is judged, and such a flow stays on the stack in both directions.

use aya_ebpf::{macros::classifier, programs::TcContext};
use sluice_abi::{DropReason, Endpoint, Hook, Tuple, flow_flags};

use super::flow;
use crate::{
    config, conntrack, drops,
    endpoint::{self, End},
    forward, icmp, nat,
    packet::{self, Frame, Kind},
    scratch::{self, Handle, Scratch},
};

/// Packets to a pod from the host stack.
#[classifier]
pub(crate) fn to_pod(ctx: TcContext) -> i32 {
    let Some(mut scratch) = scratch::get() else {
        return forward::DROP;
    };
    scratch.trace.start(Hook::ToPod);
    match try_to_pod(&ctx, scratch) {
        Ok(()) => {
            drops::forwarded(&ctx);
            forward::STACK
        }
        Err(reason) => {
            drops::record(&ctx, &scratch, reason);
            forward::DROP
        }
    }
}

#[inline(always)]
fn try_to_pod(ctx: &TcContext, mut scratch: Handle) -> Result<(), u8> {
    // SAFETY: the context of a running program.
    let ingress_ifindex = unsafe { (*ctx.skb.skb).ingress_ifindex };
    let is_from_host = ingress_ifindex == 0;
    scratch.packet.tuple = Tuple::default();
    scratch.trace.endpoint = endpoint::of_interface(drops::ifindex(ctx)).ok_or(DropReason::NotReady as u8)?;
    let frame = packet::parse(ctx)?;
    if frame != Frame::Ip {
        // ARP, and what else the node's own stack says to its neighbour.
        return if is_from_host { Ok(()) } else { Err(DropReason::NotIp as u8) };
    }
    match scratch.packet.kind {
        Kind::Neighbor | Kind::LinkLocal if is_from_host => return Ok(()),
        Kind::Neighbor | Kind::LinkLocal => return Err(DropReason::LinkLocal as u8),
        Kind::Flow | Kind::IcmpError => {}
    }
    let destination = destination(ctx, scratch)?;
    scratch.dst = End::of(Some(destination));
    if is_from_host {
        return from_host(ctx, scratch);
    }
    let source = endpoint::local(&scratch.packet.tuple.src);
    if source.is_some_and(|source| !endpoint::is_host(source) && source.ifindex != ingress_ifindex)
        || scratch.packet.tuple.src.is_hairpin()
    {
        return Err(DropReason::SpoofedSource as u8);
    }
    scratch.src = End::of(source);
    scratch.packet.note_fragment();
    if scratch.packet.kind == Kind::IcmpError {
        return if icmp::related(ctx)? { Ok(()) } else { flow::judge_alone(scratch) };
    }
    flow::pass(ctx, false, flow_flags::STACK).map(|_| ())
}

/// The pod behind the interface, for whose address the packet must be.
#[inline(always)]
fn destination(ctx: &TcContext, scratch: Handle) -> Result<&'static Endpoint, u8> {
    match endpoint::local(&scratch.packet.tuple.dst) {
        Some(destination) if destination.ifindex == drops::ifindex(ctx) => Ok(destination),
        _ => Err(DropReason::NotReady as u8),
    }
}

/// What the node itself sends: an ICMP error, perhaps about a translated flow; or a reply, perhaps as the backend of a
/// Service the pod asked; or anything.
#[inline(always)]
fn from_host(ctx: &TcContext, mut scratch: Handle) -> Result<(), u8> {
    if scratch.packet.kind == Kind::IcmpError {
        return icmp::related(ctx).map(|_| ());
    }
    let now_ns = config::now_ns();
    let Some(mut found) = conntrack::find(&scratch.packet.tuple, now_ns) else {
        return Ok(());
    };
    if found.from_opener || found.has(flow_flags::ALIAS) {
        return Ok(());
    }
    let is_reply = found.has(flow_flags::TRANSLATED);
    scratch.target = found.entry().other.reversed();
    scratch.opened = scratch.packet.tuple.reversed();
    {
        let scratch: &mut Scratch = &mut scratch;
        found.advance(&scratch.opened, scratch.packet.tcp_flags, now_ns).map_err(|reason| reason as u8)?;
    }
    if is_reply { nat::rewrite(ctx) } else { Ok(()) }
}
