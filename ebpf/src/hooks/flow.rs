//! What every hook does with a packet that belongs, or may belong, to a flow.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use sluice_abi::{BackendId, CtState, DropReason, Endpoint, Judgement, flow_flags, protocol};

use crate::{
    config,
    conntrack::{self, Found, state},
    endpoint, nat, outcome,
    policy::{self, Ends},
    scratch::{self, Scratch},
    service,
};

/// Tracks, translates and judges the packet; says whether its flow stays on the host stack. `flags` are those of a
/// flow that is first seen here; `services` says whether packets to a Service's address are translated here.
///
/// On success `scratch.packet.tuple` is what is on the wire.
///
/// # Errors
/// The number of the drop reason.
#[inline(always)]
pub(crate) fn pass(ctx: &TcContext, services: bool, flags: u8) -> Result<bool, u8> {
    outcome::decode(match pass_flow(ctx.skb.skb) {
        NEW => open_flow(ctx.skb.skb, u32::from(services), u32::from(flags)),
        code => code,
    })
    .map(|stays| stays != 0)
}

/// What [`pass_flow`] returns when the packet belongs to no known flow.
const NEW: u32 = 0;

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pass_flow(skb: *mut __sk_buff) -> u32 {
    let Some(scratch) = scratch::get() else {
        return DropReason::Malformed as u32;
    };
    scratch.sent = scratch.packet.tuple;
    match try_pass(&TcContext::new(skb), scratch) {
        Ok(None) => NEW,
        Ok(Some(stays)) => outcome::encode(Ok(u8::from(stays))),
        Err(reason) => u32::from(reason),
    }
}

/// `Ok(None)` when the packet opens a flow.
#[inline(always)]
fn try_pass(ctx: &TcContext, scratch: &mut Scratch) -> Result<Option<bool>, u8> {
    let now_ns = config::now_ns();
    let opens = state::opens(scratch.sent.protocol, scratch.packet.tcp_flags);
    let Some(mut found) = conntrack::find(&scratch.sent, now_ns) else {
        return Ok(None);
    };
    scratch.opened = scratch.sent;
    if found.has(flow_flags::ALIAS) {
        let alias = found;
        scratch.opened = alias.entry().other;
        found = match conntrack::find(&scratch.opened, now_ns) {
            Some(found) if continues(&found, alias.entry().backend, scratch.sent.protocol, opens) => found,
            _ => {
                conntrack::forget(&scratch.sent);
                conntrack::forget(&scratch.opened);
                return Ok(None);
            }
        };
        if alias.from_opener {
            scratch.target = scratch.opened;
            nat::rewrite(ctx)?;
        } else {
            // A reply, translated back already, on its way over the host stack.
            found = found.turned();
        }
    } else if opens && is_over(found.state()) {
        return Ok(None);
    } else if found.from_opener && found.has(flow_flags::TRANSLATED) {
        // Sent straight to where another flow's translation leads.
        return Err(DropReason::TupleCollision as u8);
    } else if !found.from_opener {
        scratch.opened = scratch.sent.reversed();
    }
    let ends = Ends { opener: opener(scratch, &found), responder: endpoint::local(&scratch.opened.dst) };
    policy::judge(found.judged(), &ends, &scratch.opened, config::epoch(), &mut scratch.trace)
        .and_then(|()| found.advance(&scratch.opened, scratch.packet.tcp_flags, now_ns))
        .map_err(|reason| reason as u8)?;
    if !found.from_opener && found.has(flow_flags::TRANSLATED) {
        scratch.target = found.entry().other.reversed();
        nat::rewrite(ctx)?;
    }
    Ok(Some(found.has(flow_flags::STACK)))
}

/// Whether a flow that came to its end may be opened again with the same tuple.
#[inline(always)]
fn is_over(state: CtState) -> bool {
    matches!(state, CtState::Closing | CtState::Closed)
}

/// Whether a translated flow goes on with the backend it has: TCP while the backend serves at all, a TCP opening and
/// UDP only while it takes new flows too.
#[inline(always)]
fn continues(found: &Found, backend: BackendId, protocol: u8, opens: bool) -> bool {
    if opens || protocol == protocol::UDP {
        return !(opens && is_over(found.state())) && service::takes_new(backend);
    }
    found.state() != CtState::New || service::usable(backend)
}

/// The opener as an endpoint of this node, also when a translation hid its address.
#[inline(always)]
fn opener(scratch: &Scratch, found: &Found) -> Option<&'static Endpoint> {
    endpoint::local(if found.has(flow_flags::TRANSLATED) {
        &found.entry().other.src
    } else {
        &scratch.opened.src
    })
}

/// The first packet of a flow, `scratch.sent`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn open_flow(skb: *mut __sk_buff, services: u32, flags: u32) -> u32 {
    let Some(scratch) = scratch::get() else {
        return DropReason::Malformed as u32;
    };
    scratch.opened = scratch.sent;
    scratch.backend = BackendId::NONE;
    match try_open(&TcContext::new(skb), scratch, services != 0, flags as u8) {
        Ok(()) => outcome::encode(Ok(u8::from(flags as u8 & flow_flags::STACK != 0))),
        Err(reason) => u32::from(reason),
    }
}

#[inline(always)]
fn try_open(ctx: &TcContext, scratch: &mut Scratch, services: bool, flags: u8) -> Result<(), u8> {
    let now_ns = config::now_ns();
    if services && let Some(frontend) = service::frontend(&scratch.sent) {
        service::choose(frontend, scratch, now_ns).map_err(|reason| reason as u8)?;
        scratch.target = scratch.opened;
        nat::rewrite(ctx)?;
    }
    let ends =
        Ends { opener: endpoint::local(&scratch.sent.src), responder: endpoint::local(&scratch.opened.dst) };
    scratch.judged = [Judgement::default(); 2];
    policy::judge(&mut scratch.judged, &ends, &scratch.opened, config::epoch(), &mut scratch.trace)
        .and_then(|()| conntrack::create(scratch, flags, now_ns))
        .map_err(|reason| reason as u8)
}

/// Judges a packet that is no flow's: an ICMP error about nothing that is known here.
///
/// # Errors
/// The number of the drop reason.
#[inline(always)]
pub(crate) fn judge_alone(scratch: &mut Scratch, ends: &Ends) -> Result<(), u8> {
    scratch.judged = [Judgement::default(); 2];
    policy::judge(&mut scratch.judged, ends, &scratch.packet.tuple, config::epoch(), &mut scratch.trace)
        .map_err(|reason| reason as u8)
}
