//! To a pod through the host stack: tc egress of its host-side veth.
//!
//! What the node's own stack made (`ingress_ifindex` 0) always passes, translated back where the pod asked a Service.
//! What came from another device was handed to the stack for an ICMP answer, or translated there by someone else
//! (portmap, kube-proxy): it is judged, and such a flow stays on the stack in both directions.

use aya_ebpf::{macros::classifier, programs::TcContext};
use sluice_abi::{DropReason, Endpoint, Hook, Tuple, flow_flags};

use super::flow;
use crate::{
    config, conntrack, drops, endpoint, forward, icmp, nat,
    packet::{self, Frame, Kind, Packet},
    policy::Ends,
    scratch::{self, Scratch},
};

/// Packets to a pod from the host stack.
#[classifier]
pub(crate) fn to_pod(ctx: TcContext) -> i32 {
    let Some(scratch) = scratch::get() else {
        return forward::DROP;
    };
    scratch.trace.start(Hook::ToPod);
    match try_to_pod(&ctx, scratch) {
        Ok(()) => {
            drops::forwarded(&ctx);
            forward::STACK
        }
        Err(reason) => {
            drops::record(&ctx, scratch, reason);
            forward::DROP
        }
    }
}

#[inline(always)]
fn try_to_pod(ctx: &TcContext, scratch: &mut Scratch) -> Result<(), u8> {
    scratch.packet.tuple = Tuple::default();
    scratch.trace.endpoint = endpoint::of_interface(drops::ifindex(ctx)).ok_or(DropReason::NotReady as u8)?;
    if packet::parse(ctx)? != Frame::Ip {
        return Ok(()); // ARP, and what else the node's own stack says to its neighbour
    }
    match scratch.packet.kind {
        Kind::Neighbor | Kind::LinkLocal => return Ok(()),
        Kind::Flow | Kind::IcmpError => {}
    }
    let destination = destination(ctx, &scratch.packet)?;
    // SAFETY: the context of a running program.
    let from_host = unsafe { (*ctx.skb.skb).ingress_ifindex } == 0;
    if scratch.packet.kind == Kind::IcmpError {
        if !icmp::related(ctx)? && !from_host {
            let opener = endpoint::local(&scratch.packet.tuple.src);
            flow::judge_alone(scratch, &Ends { opener, responder: Some(destination) })?;
        }
        return Ok(());
    }
    if from_host {
        return translate_back(ctx, scratch);
    }
    flow::pass(ctx, false, flow_flags::STACK).map(|_| ())
}

/// The pod behind the interface, for whose address the packet must be.
#[inline(always)]
fn destination(ctx: &TcContext, packet: &Packet) -> Result<&'static Endpoint, u8> {
    match endpoint::local(&packet.tuple.dst) {
        Some(destination) if destination.ifindex == drops::ifindex(ctx) => Ok(destination),
        _ => Err(DropReason::NotReady as u8),
    }
}

/// A reply of the node itself, when it is the backend of a Service the pod asked.
#[inline(always)]
fn translate_back(ctx: &TcContext, scratch: &mut Scratch) -> Result<(), u8> {
    let now_ns = config::now_ns();
    let Some(mut found) = conntrack::find(&scratch.packet.tuple, now_ns) else {
        return Ok(());
    };
    if found.from_opener || !found.has(flow_flags::TRANSLATED) {
        return Ok(());
    }
    scratch.opened = scratch.packet.tuple.reversed();
    found.advance(&scratch.opened, scratch.packet.tcp_flags, now_ns).map_err(|reason| reason as u8)?;
    scratch.target = found.entry().other.reversed();
    nat::rewrite(ctx)
}
