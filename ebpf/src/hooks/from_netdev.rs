//! From the network to a pod of this node: tc ingress of the uplink.
//!
//! The redirect skips the pod's own hook, so its ingress policy is enforced here. The first packet of a flow pays for
//! it; later ones pass on conntrack alone until a plan moves the epoch.

use aya_ebpf::{macros::classifier, programs::TcContext};
use sluice_abi::{DropReason, Hook};

use super::flow;
use crate::{
    drops, endpoint,
    forward::{self, Forward},
    icmp,
    packet::{self, Frame, Kind},
    policy::Ends,
    scratch::{self, Scratch},
};

/// Packets from the network.
#[classifier]
pub(crate) fn from_netdev(ctx: TcContext) -> i32 {
    let Some(scratch) = scratch::get() else {
        return forward::DROP;
    };
    scratch.trace.start(Hook::FromNetdev);
    match try_from_netdev(&ctx, scratch) {
        Ok(action) => action,
        Err(reason) => {
            drops::record(&ctx, scratch, reason);
            forward::DROP
        }
    }
}

#[inline(always)]
fn try_from_netdev(ctx: &TcContext, scratch: &mut Scratch) -> Result<i32, u8> {
    if packet::parse(ctx)? != Frame::Ip {
        return Ok(forward::STACK); // ARP, LLDP, a VLAN device's frames: the host's business
    }
    match scratch.packet.kind {
        Kind::Neighbor | Kind::LinkLocal => return Ok(forward::STACK),
        Kind::Flow | Kind::IcmpError => {}
    }
    if endpoint::local(&scratch.packet.tuple.src).is_some() {
        return Err(DropReason::SpoofedSource as u8);
    }
    let destination = match endpoint::local(&scratch.packet.tuple.dst) {
        Some(destination) if !endpoint::is_host(destination) => destination,
        _ => return Ok(forward::STACK),
    };
    scratch.trace.endpoint = destination.id;
    let mut stays = false;
    if scratch.packet.kind == Kind::IcmpError {
        if !icmp::related(ctx)? {
            flow::judge_alone(scratch, &Ends { opener: None, responder: Some(destination) })?;
        }
    } else {
        stays = flow::pass(ctx, false, 0)?;
    }
    drops::forwarded(ctx);
    forward::run(if stays { Forward::Stack } else { Forward::Pod(destination) }, ctx, &scratch.packet)
        .map_err(|reason| reason as u8)
}
