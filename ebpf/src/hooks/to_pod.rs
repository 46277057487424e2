//! To a pod through the host stack: tc egress of its host-side veth.
//!
//! What the node's own stack made (`ingress_ifindex` 0) always passes, translated back where the pod asked a Service.
//! What came from another device was handed to the stack for an ICMP answer, or translated there by someone else
//! (portmap, kube-proxy): it is judged, and such a flow stays on the stack in both directions.

use aya_ebpf::{macros::classifier, programs::TcContext};
use sluice_abi::{DropReason, Endpoint, Hook, Tuple};

use super::flow::{self, Place};
use crate::{
    drops,
    endpoint::{self, End},
    forward, icmp,
    packet::{self, Frame, Kind},
    scratch::{self, Handle},
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
    let frame = match packet::parse(ctx) {
        // Its first needed no translation, so neither does it.
        Err(reason) if is_from_host && reason == DropReason::FragmentWithoutFirst as u8 => return Ok(()),
        frame => frame?,
    };
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
        return flow::pass_host(ctx, scratch);
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
    flow::pass(ctx, scratch, Place::Stack).map(|_| ())
}

/// The pod behind the interface, for whose address the packet must be.
#[inline(always)]
fn destination(ctx: &TcContext, scratch: Handle) -> Result<&'static Endpoint, u8> {
    match endpoint::local(&scratch.packet.tuple.dst) {
        Some(destination) if destination.ifindex == drops::ifindex(ctx) => Ok(destination),
        _ => Err(DropReason::NotReady as u8),
    }
}
