//! From the network: tc ingress of the uplink.
//!
//! To a pod of this node: the redirect skips the pod's own hook, so its ingress policy is enforced here. The first
//! packet of a flow pays for it; later ones pass on conntrack alone until a plan moves the epoch.
//!
//! To a Service, by the node's own address or another: what clients outside the cluster see. The backend is a pod of
//! this node, which sees the client; the node itself; or another node's, which answers by way of this node's address.
//!
//! **Invariant.** What belongs to no flow of ours goes on to the host stack untouched.

use aya_ebpf::{macros::classifier, programs::TcContext};
use sluice_abi::{DropReason, Hook};

use super::flow::{self, Place, Way};
use crate::{
    drops,
    endpoint::{self, End, EndKind},
    forward::{self, Forward},
    icmp,
    packet::{self, Frame, Kind},
    ports,
    scratch::{self, Handle},
};

/// Packets from the network.
#[classifier]
pub(crate) fn from_netdev(ctx: TcContext) -> i32 {
    let Some(mut scratch) = scratch::get() else {
        return forward::DROP;
    };
    scratch.trace.start(Hook::FromNetdev);
    match try_from_netdev(&ctx, scratch) {
        Ok(action) => action,
        Err(reason) => {
            drops::record(&ctx, &scratch, reason);
            forward::DROP
        }
    }
}

#[inline(always)]
fn try_from_netdev(ctx: &TcContext, mut scratch: Handle) -> Result<i32, u8> {
    match packet::parse(ctx) {
        Ok(Frame::Ip) => {}
        Ok(Frame::Arp | Frame::Vlan | Frame::Other) => return Ok(forward::STACK), // the host's business
        Err(reason) => return unless_for_pod(&scratch, reason),
    }
    match scratch.packet.kind {
        Kind::Neighbor | Kind::LinkLocal => return Ok(forward::STACK), // for no pod: see `packet::Kind`
        Kind::Flow | Kind::IcmpError => {}
    }
    let src = &scratch.packet.tuple.src;
    if endpoint::local(src).is_some() || src.is_hairpin() {
        return Err(DropReason::SpoofedSource as u8);
    }
    let mut destination = endpoint::local(&scratch.packet.tuple.dst);
    scratch.src = End::of(None);
    scratch.dst = End::of(destination);
    if scratch.dst.kind == EndKind::Elsewhere && scratch.packet.tuple.dst.is_multicast() {
        return Ok(forward::STACK);
    }
    scratch.trace.endpoint = scratch.dst.id;
    scratch.packet.note_fragment();
    let way = way(ctx, scratch)?;
    if way == Way::NotOurs {
        return Ok(forward::STACK);
    }
    drops::forwarded(ctx);
    if scratch.packet.tuple.dst != scratch.sent.dst {
        destination = endpoint::local(&scratch.packet.tuple.dst);
    }
    let forward = if way == Way::Stack { Forward::Stack } else { Forward::towards(destination) };
    forward::run(forward, ctx, scratch)
}

/// What cannot be understood is dropped where a pod would get it; the host stack judges its own.
#[inline(always)]
fn unless_for_pod(scratch: &Handle, reason: u8) -> Result<i32, u8> {
    match endpoint::local(&scratch.packet.tuple.dst) {
        Some(destination) if !endpoint::is_host(destination) => Err(reason),
        _ => Ok(forward::STACK),
    }
}

#[inline(always)]
fn way(ctx: &TcContext, mut scratch: Handle) -> Result<Way, u8> {
    if scratch.packet.kind != Kind::IcmpError {
        if scratch.dst.kind == EndKind::Host && !ports::lead_in(&scratch.packet.tuple) {
            return Ok(Way::NotOurs);
        }
        return flow::pass(ctx, scratch, Place::Network);
    }
    scratch.sent = scratch.packet.tuple;
    if icmp::related(ctx)? {
        return Ok(Way::On);
    }
    if scratch.dst.kind != EndKind::Pod {
        return Ok(Way::NotOurs);
    }
    flow::judge_alone(scratch).map(|()| Way::On)
}
