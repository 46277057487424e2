//! From the network to a pod of this node: tc ingress of the uplink.
//!
//! The redirect skips the pod's own hook, so its ingress policy is enforced here. The first packet of a flow pays for
//! it; later ones pass on conntrack alone until a plan moves the epoch.

use aya_ebpf::{macros::classifier, programs::TcContext};
use sluice_abi::{DropReason, Hook};

use super::flow;
use crate::{
    drops,
    endpoint::{self, End},
    forward::{self, Forward},
    icmp,
    packet::{self, Frame, Kind},
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
    if packet::parse(ctx)? != Frame::Ip {
        return Ok(forward::STACK); // ARP, LLDP, a VLAN device's frames: the host's business
    }
    match scratch.packet.kind {
        Kind::Neighbor | Kind::LinkLocal => return Ok(forward::STACK), // for no pod: see `packet::Kind`
        Kind::Flow | Kind::IcmpError => {}
    }
    let src = &scratch.packet.tuple.src;
    if endpoint::local(src).is_some() || src.is_hairpin() {
        return Err(DropReason::SpoofedSource as u8);
    }
    let destination = match endpoint::local(&scratch.packet.tuple.dst) {
        Some(destination) if !endpoint::is_host(destination) => destination,
        _ => return Ok(forward::STACK),
    };
    scratch.trace.endpoint = destination.id;
    scratch.src = End::of(None);
    scratch.dst = End::of(Some(destination));
    scratch.packet.note_fragment();
    let mut stays = false;
    if scratch.packet.kind == Kind::IcmpError {
        if !icmp::related(ctx)? {
            flow::judge_alone(scratch)?;
        }
    } else {
        stays = flow::pass(ctx, false, 0)?;
    }
    drops::forwarded(ctx);
    forward::run(if stays { Forward::Stack } else { Forward::Pod(destination) }, ctx, &scratch.packet)
        .map_err(|reason| reason as u8)
}
