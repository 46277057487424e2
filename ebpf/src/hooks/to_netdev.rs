//! To the network, from the node's own stack: tc egress of the uplink.
//!
//! A reply of the node as the backend of a Service, or as who refuses for one that has none, is translated back, and so
//! is what an ICMP error of the stack quotes. All else passes untouched, what pods send first of all.

use aya_ebpf::{macros::classifier, programs::TcContext};
use sluice_abi::{Hook, Tuple};

use super::flow;
use crate::{
    drops, forward,
    packet::{self, Frame, Kind},
    ports,
    scratch::{self, Handle},
};

/// Packets to the network.
#[classifier]
pub(crate) fn to_netdev(ctx: TcContext) -> i32 {
    // SAFETY: the context of a running program.
    if unsafe { (*ctx.skb.skb).ingress_ifindex } != 0 {
        return forward::STACK; // forwarded, by us or by the stack
    }
    let Some(mut scratch) = scratch::get() else {
        return forward::DROP;
    };
    scratch.trace.start(Hook::ToNetdev);
    scratch.packet.tuple = Tuple::default();
    match try_to_netdev(&ctx, scratch) {
        Ok(()) => forward::STACK,
        Err(reason) => {
            drops::record(&ctx, &scratch, reason);
            forward::DROP
        }
    }
}

#[inline(always)]
fn try_to_netdev(ctx: &TcContext, scratch: Handle) -> Result<(), u8> {
    // What cannot be understood is no answer of a flow of ours; what the stack makes for itself is its own business.
    if packet::parse(ctx) != Ok(Frame::Ip) {
        return Ok(());
    }
    match scratch.packet.kind {
        Kind::Neighbor | Kind::LinkLocal => Ok(()),
        Kind::Flow if !ports::lead_out(&scratch.packet.tuple) => Ok(()),
        Kind::Flow | Kind::IcmpError => flow::pass_host(ctx, scratch),
    }
}
