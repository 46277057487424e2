//! From a pod: tc ingress of its host-side veth.
//!
//! Everything a pod sends is judged here: its own egress policy and, for a pod of this node, the other's ingress
//! policy too, because the redirect into that pod skips its veth's own hook.

use aya_ebpf::{macros::classifier, programs::TcContext};
use sluice_abi::{Addr, DropReason, Endpoint, Hook};

use super::flow::{self, Place, Way};
use crate::{
    drops,
    endpoint::{self, End},
    forward::{self, Forward},
    icmp,
    packet::{self, Frame, Kind},
    scratch::{self, Handle},
};

/// Packets from a pod.
#[classifier]
pub(crate) fn from_pod(ctx: TcContext) -> i32 {
    let Some(mut scratch) = scratch::get() else {
        return forward::DROP;
    };
    scratch.trace.start(Hook::FromPod);
    match try_from_pod(&ctx, scratch) {
        Ok(action) => {
            drops::forwarded(&ctx);
            action
        }
        Err(reason) => {
            drops::record(&ctx, &scratch, reason);
            forward::DROP
        }
    }
}

#[inline(always)]
fn try_from_pod(ctx: &TcContext, mut scratch: Handle) -> Result<i32, u8> {
    match packet::parse(ctx)? {
        Frame::Ip => {}
        Frame::Arp => return arp(ctx, scratch),
        Frame::Vlan => return Err(unless_ready(ctx, scratch, DropReason::VlanTagged)),
        Frame::Other => return Err(unless_ready(ctx, scratch, DropReason::NotIp)),
    }
    match scratch.packet.kind {
        Kind::Neighbor => return neighbor(ctx, scratch),
        Kind::LinkLocal => return Err(unless_ready(ctx, scratch, DropReason::LinkLocal)),
        Kind::Flow | Kind::IcmpError => {}
    }
    scratch.src = End::of(Some(source(ctx, scratch, &scratch.packet.tuple.src)?));
    if scratch.packet.tuple.dst.is_multicast() {
        return Err(DropReason::Multicast as u8);
    }
    scratch.packet.note_fragment();
    let mut destination = endpoint::local(&scratch.packet.tuple.dst);
    scratch.dst = End::of(destination);
    let mut way = Way::On;
    if scratch.packet.kind == Kind::IcmpError {
        scratch.sent = scratch.packet.tuple;
        if !icmp::related(ctx)? {
            flow::judge_alone(scratch)?;
        }
    } else {
        way = flow::pass(ctx, scratch, Place::Pod)?;
    }
    if scratch.packet.tuple.dst != scratch.sent.dst {
        destination = endpoint::local(&scratch.packet.tuple.dst);
    }
    forward::run(if way == Way::On { Forward::towards(destination) } else { Forward::Stack }, ctx, scratch)
}

/// The pod behind the interface, whose address the packet must carry.
#[inline(always)]
fn source(ctx: &TcContext, mut scratch: Handle, src: &Addr) -> Result<&'static Endpoint, u8> {
    match endpoint::local(src) {
        Some(source) if source.ifindex == drops::ifindex(ctx) => {
            scratch.trace.endpoint = source.id;
            Ok(source)
        }
        _ => Err(unless_ready(ctx, scratch, DropReason::SpoofedSource)),
    }
}

/// Before a pod's rules are in force that is the reason for everything.
#[inline(always)]
fn unless_ready(ctx: &TcContext, mut scratch: Handle, reason: DropReason) -> u8 {
    match endpoint::of_interface(drops::ifindex(ctx)) {
        Some(id) => {
            scratch.trace.endpoint = id;
            reason as u8
        }
        None => DropReason::NotReady as u8,
    }
}

/// Address resolution for the pod's gateway, which the host stack answers; the pod may speak for itself only.
#[inline(always)]
fn arp(ctx: &TcContext, scratch: Handle) -> Result<i32, u8> {
    let sender = packet::arp_sender(ctx).map_err(|reason| unless_ready(ctx, scratch, reason))?;
    source(ctx, scratch, &sender).map(|_| forward::STACK)
}

/// The same for IPv6; an interface that has no address yet, or only a link-local one, may ask too.
#[inline(always)]
fn neighbor(ctx: &TcContext, scratch: Handle) -> Result<i32, u8> {
    let src = &scratch.packet.tuple.src;
    if src.is_v6_link_local() || *src == Addr::UNSPECIFIED {
        return match unless_ready(ctx, scratch, DropReason::LinkLocal) {
            reason if reason == DropReason::NotReady as u8 => Err(reason),
            _ => Ok(forward::STACK),
        };
    }
    source(ctx, scratch, src).map(|_| forward::STACK)
}
