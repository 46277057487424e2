//! From the network, before the kernel has made a packet of it: XDP on the uplink, where it is asked for.
//!
//! A client outside whose backend is another node's, and that backend's answer, turn round here: the same flows, by the same
//! functions and in the same maps as `from_netdev`, sent out of the device they came by. What nobody may send from there is
//! dropped.
//!
//! **Invariant: tc's program is the one that knows.** Everything else passes, as it came: other forms of packets, ICMP,
//! fragments, what is for this node or its pods, a next hop that is not resolved or by another device, and whatever goes
//! wrong. `from_netdev` sees it and does the same work again, so either may have opened a flow.

use aya_ebpf::{
    bindings::{bpf_fib_lookup, xdp_action},
    macros::xdp,
    programs::XdpContext,
};
use sluice_abi::{BackendId, DropReason, FrontendScope, Hook, Judgement, flow_flags};

use super::flow;
use crate::{
    config, conntrack,
    conntrack::state,
    drops,
    endpoint::{self, End, EndKind},
    forward,
    nat::plain::{self, Link},
    packet, ports,
    scratch::{self, Handle, Scratch},
    service::{self, Chosen, Source},
};

/// Packets from the network, also those in several buffers.
#[xdp(frags)]
pub(crate) fn xdp_netdev(ctx: XdpContext) -> u32 {
    run(&ctx)
}

/// The same for kernels without packets in several buffers there (before Linux 5.18).
#[xdp]
pub(crate) fn xdp_netdev_one(ctx: XdpContext) -> u32 {
    run(&ctx)
}

#[inline(always)]
fn run(ctx: &XdpContext) -> u32 {
    let Some(mut scratch) = scratch::get() else {
        return xdp_action::XDP_PASS;
    };
    let Some(length) = scratch.packet.parse_plain(ctx) else {
        return xdp_action::XDP_PASS;
    };
    let src = &scratch.packet.tuple.src;
    if endpoint::local(src).is_some() || src.is_hairpin() {
        scratch.trace.start(Hook::FromNetdev);
        let length = u32::from(length) + packet::ETH_LEN as u32;
        drops::record_at(&scratch, DropReason::SpoofedSource as u8, length, ctx.ingress_ifindex() as u32);
        return xdp_action::XDP_DROP;
    }
    // Ports of the node, of other addresses that only Services have, and of translated sources alike.
    if scratch.packet.ttl <= 1 || !ports::lead_in(&scratch.packet.tuple) {
        return xdp_action::XDP_PASS;
    }
    scratch.sent = scratch.packet.tuple;
    match turn(ctx, scratch, length) {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_PASS,
    }
}

/// Sends the packet on to where its flow leads, if that is away from this node by the same device.
#[inline(always)]
fn turn(ctx: &XdpContext, mut scratch: Handle, length: u16) -> Option<()> {
    let now_ns = config::now_ns();
    let opens = state::opens(scratch.sent.protocol, scratch.packet.tcp_flags);
    let Some(found) = conntrack::find_for(&scratch.sent, opens, now_ns) else {
        return open(ctx, scratch, length, now_ns);
    };
    if !found.has(flow_flags::SNAT) {
        return None;
    }
    let mut direct = if found.has(flow_flags::ALIAS) && found.from_opener {
        let direct = flow::follow(scratch, &found, opens, now_ns)?;
        scratch.target = scratch.opened;
        direct
    } else if found.has(flow_flags::TRANSLATED) && !found.from_opener {
        // To a pod of this node that speaks to the world under the node's address it goes by tc.
        if endpoint::local(&found.entry().other.src).is_some() {
            return None;
        }
        scratch.opened = scratch.sent.reversed();
        scratch.target = found.entry().other.reversed();
        found
    } else {
        return None;
    };
    let link = next_hop(ctx, &scratch, length)?;
    {
        let scratch: &mut Scratch = &mut scratch;
        direct.advance(&scratch.opened, scratch.packet.tcp_flags, now_ns).ok()?;
    }
    send(ctx, scratch, link)
}

/// The first packet of a flow, if it is for a Service and its backend another node's.
#[inline(always)]
fn open(ctx: &XdpContext, mut scratch: Handle, length: u16, now_ns: u64) -> Option<()> {
    scratch.dst = End::at(&scratch.sent.dst);
    if scratch.dst.kind == EndKind::Pod {
        return None;
    }
    scratch.opened = scratch.sent;
    scratch.backend = BackendId::NONE;
    scratch.responder = scratch.dst;
    // Chosen again by tc's program where it is not this one that opens the flow.
    if service::choose(FrontendScope::External).ok()? != Chosen::LedAway {
        return None;
    }
    service::take_source(Source::Node).ok()?;
    scratch.target = scratch.opened;
    let link = next_hop(ctx, &scratch, length)?;
    scratch.judged = [Judgement::default(); 2]; // neither end is a pod of this node
    conntrack::create(scratch, flow_flags::SNAT, now_ns).ok()?;
    send(ctx, scratch, link)
}

/// Source and destination of the frame that takes `scratch.target` out by the device it came by.
#[inline(always)]
fn next_hop(ctx: &XdpContext, scratch: &Scratch, length: u16) -> Option<Link> {
    let ifindex = ctx.ingress_ifindex() as u32;
    let mut params: bpf_fib_lookup = forward::question(&scratch.target, &scratch.packet, ifindex, length);
    (forward::has_next_hop(ctx.ctx.cast(), &mut params) && params.ifindex == ifindex)
        .then_some(Link { to: params.dmac, from: params.smac })
}

#[inline(always)]
fn send(ctx: &XdpContext, scratch: Handle, link: Link) -> Option<()> {
    plain::forward(ctx, &scratch.packet, &scratch.target, link).ok()?;
    drops::forwarded_bytes((ctx.data_end() - ctx.data()) as u32);
    Some(())
}
