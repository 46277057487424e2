//! From a pod: tc ingress of its host-side veth.
//!
//! Everything a pod sends is judged here: its own egress policy and, for a pod of this node, the other's ingress
//! policy too, because the redirect into that pod skips its veth's own hook.

use aya_ebpf::{macros::classifier, programs::TcContext};
use sluice_abi::{DropReason, Endpoint, Hook};

use super::flow;
use crate::{
    drops::{self, Trace},
    endpoint,
    forward::{self, Forward},
    icmp,
    packet::{self, Frame, Kind, Packet},
    policy::Ends,
    scratch::{self, Scratch},
};

/// Packets from a pod.
#[classifier]
pub(crate) fn from_pod(ctx: TcContext) -> i32 {
    let Some(scratch) = scratch::get() else {
        return forward::DROP;
    };
    scratch.trace.start(Hook::FromPod);
    match try_from_pod(&ctx, scratch) {
        Ok(action) => {
            drops::forwarded(&ctx);
            action
        }
        Err(reason) => {
            drops::record(&ctx, scratch, reason);
            forward::DROP
        }
    }
}

#[inline(always)]
fn try_from_pod(ctx: &TcContext, scratch: &mut Scratch) -> Result<i32, u8> {
    match packet::parse(ctx)? {
        Frame::Ip => {}
        Frame::Arp => return on_stack(ctx, &mut scratch.trace),
        Frame::Vlan => return Err(unless_ready(ctx, &mut scratch.trace, DropReason::VlanTagged)),
        Frame::Other => return Err(unless_ready(ctx, &mut scratch.trace, DropReason::NotIp)),
    }
    match scratch.packet.kind {
        Kind::Neighbor => return on_stack(ctx, &mut scratch.trace),
        Kind::LinkLocal => return Err(unless_ready(ctx, &mut scratch.trace, DropReason::LinkLocal)),
        Kind::Flow | Kind::IcmpError => {}
    }
    let source = source(ctx, &scratch.packet, &mut scratch.trace)?;
    if scratch.packet.tuple.dst.is_multicast() {
        return Err(DropReason::Multicast as u8);
    }
    let mut destination = endpoint::local(&scratch.packet.tuple.dst);
    if destination.is_some_and(endpoint::is_host) {
        return Ok(forward::STACK); // nobody's policy, and the stack keeps its own flows
    }
    let mut stays = false;
    if scratch.packet.kind == Kind::IcmpError {
        if !icmp::related(ctx)? {
            flow::judge_alone(scratch, &Ends { opener: Some(source), responder: destination })?;
        }
    } else {
        stays = flow::pass(ctx, true, 0)?;
        if destination.is_none() {
            destination = endpoint::local(&scratch.packet.tuple.dst);
        }
    }
    forward::run(if stays { Forward::Stack } else { towards(destination) }, ctx, &scratch.packet)
        .map_err(|reason| reason as u8)
}

/// The pod behind the interface, whose address the packet must carry.
#[inline(always)]
fn source(ctx: &TcContext, packet: &Packet, trace: &mut Trace) -> Result<&'static Endpoint, u8> {
    let ifindex = drops::ifindex(ctx);
    match endpoint::local(&packet.tuple.src) {
        Some(source) if source.ifindex == ifindex => {
            trace.endpoint = source.id;
            Ok(source)
        }
        _ => Err(unless_ready(ctx, trace, DropReason::SpoofedSource)),
    }
}

/// Before a pod's rules are in force that is the reason for everything.
#[inline(always)]
fn unless_ready(ctx: &TcContext, trace: &mut Trace, reason: DropReason) -> u8 {
    match endpoint::of_interface(drops::ifindex(ctx)) {
        Some(id) => {
            trace.endpoint = id;
            reason as u8
        }
        None => DropReason::NotReady as u8,
    }
}

/// Address resolution for the pod's gateway, which the host stack answers.
#[inline(always)]
fn on_stack(ctx: &TcContext, trace: &mut Trace) -> Result<i32, u8> {
    trace.endpoint = endpoint::of_interface(drops::ifindex(ctx)).ok_or(DropReason::NotReady as u8)?;
    Ok(forward::STACK)
}

#[inline(always)]
fn towards(destination: Option<&'static Endpoint>) -> Forward {
    match destination {
        Some(endpoint) if endpoint::is_host(endpoint) => Forward::Stack,
        Some(endpoint) => Forward::Pod(endpoint),
        None => Forward::Route,
    }
}
