//! What every hook does with a packet that belongs, or may belong, to a flow.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use sluice_abi::{BackendId, CtState, DropReason, Judgement, flow_flags, protocol};

use crate::{
    config,
    conntrack::{self, Found, state},
    endpoint::{End, EndKind},
    nat, outcome, policy,
    scratch::{self, Handle, Scratch},
    service,
};

/// Tracks, translates and judges the packet; says whether its flow stays on the host stack. `flags` are those of a
/// flow that is first seen here; `services` says whether packets to a Service's address are translated here.
///
/// `scratch.src` and `scratch.dst` are the ends of the packet as it came. On success `scratch.packet.tuple` is what is
/// on the wire.
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
    let Some(mut scratch) = scratch::get() else {
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
fn try_pass(ctx: &TcContext, mut scratch: Handle) -> Result<Option<bool>, u8> {
    let now_ns = config::now_ns();
    let opens = state::opens(scratch.sent.protocol, scratch.packet.tcp_flags);
    let Some(mut found) = conntrack::find(&scratch.sent, now_ns) else {
        return Ok(None);
    };
    scratch.opened = scratch.sent;
    if found.has(flow_flags::ALIAS) {
        let Some(direct) = follow(scratch, &found, opens, now_ns) else {
            return Ok(None);
        };
        if found.from_opener {
            scratch.target = scratch.opened;
            nat::rewrite(ctx)?;
        }
        found = direct;
    } else if opens && is_over(found.state()) {
        return Ok(None);
    } else if found.from_opener && found.has(flow_flags::TRANSLATED) {
        // Sent straight to where another flow's translation leads.
        return Err(DropReason::TupleCollision as u8);
    } else if !found.from_opener {
        scratch.opened = scratch.sent.reversed();
    }
    // Read before the flow is confirmed, which moves its entry.
    let is_reply = !found.from_opener && found.has(flow_flags::TRANSLATED);
    let stays = found.has(flow_flags::STACK);
    if is_reply {
        scratch.target = found.entry().other.reversed();
    }
    let (opener, responder) = ends(&scratch, &found);
    {
        let scratch: &mut Scratch = &mut scratch;
        policy::judge(found.judged(), &opener, &responder, &scratch.opened, &mut scratch.trace)
            .and_then(|()| found.advance(&scratch.opened, scratch.packet.tcp_flags, now_ns))
            .map_err(|reason| reason as u8)?;
    }
    if is_reply {
        nat::rewrite(ctx)?;
    }
    Ok(Some(stays))
}

/// From an alias to its flow, with `scratch.opened` the direct tuple. When the flow does not go on, what is left of
/// it is removed.
#[inline(always)]
fn follow(mut scratch: Handle, alias: &Found, opens: bool, now_ns: u64) -> Option<Found> {
    scratch.opened = alias.entry().other;
    // What the opener sends, whichever side this packet is from.
    scratch.target = if alias.from_opener { scratch.sent } else { scratch.sent.reversed() };
    let direct =
        conntrack::find(&scratch.opened, now_ns).filter(|direct| direct.is_translation_of(&scratch.target));
    let Some(direct) = direct else {
        conntrack::forget(&scratch.sent); // the direct tuple is nobody's or another's by now
        return None;
    };
    if !continues(&direct, alias.entry().backend, scratch.sent.protocol, opens) {
        conntrack::forget(&scratch.sent);
        conntrack::forget(&scratch.opened);
        return None;
    }
    // From the other side it is a reply, translated back already, on its way over the host stack.
    Some(if alias.from_opener { direct } else { direct.turned() })
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

/// Opener and responder of the flow `scratch.opened`: those of the packet, but where a translation hides one.
#[inline(always)]
fn ends(scratch: &Scratch, found: &Found) -> (End, End) {
    if found.has(flow_flags::TRANSLATED) {
        return (pod(End::at(&found.entry().other.src)), End::at(&scratch.opened.dst));
    }
    if found.from_opener { (pod(scratch.src), scratch.dst) } else { (pod(scratch.dst), scratch.src) }
}

/// An opener that is a pod. One that has the node's address is not the node: its own stack's flows are not tracked, so
/// somebody translated this one, and it is judged like any peer.
#[inline(always)]
fn pod(opener: End) -> End {
    match opener.kind {
        EndKind::Pod => opener,
        EndKind::Elsewhere | EndKind::Host => End::of(None),
    }
}

/// The first packet of a flow, `scratch.sent`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn open_flow(skb: *mut __sk_buff, services: u32, flags: u32) -> u32 {
    let Some(mut scratch) = scratch::get() else {
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
fn try_open(ctx: &TcContext, mut scratch: Handle, services: bool, flags: u8) -> Result<(), u8> {
    let now_ns = config::now_ns();
    let mut responder = scratch.dst;
    if services && let Some(frontend) = service::frontend(&scratch.sent) {
        service::choose(frontend, scratch, now_ns).map_err(|reason| reason as u8)?;
        scratch.target = scratch.opened;
        nat::rewrite(ctx)?;
        responder = End::at(&scratch.opened.dst);
    }
    let opener = pod(scratch.src);
    scratch.judged = [Judgement::default(); 2];
    judge(scratch, &opener, &responder)?;
    if responder.kind == EndKind::Host && goes_on(&scratch) {
        return Ok(());
    }
    conntrack::create(scratch, flags, now_ns).map_err(|reason| reason as u8)
}

/// Whether the packet is of a TCP connection that the node's own stack opened, which keeps its flows itself. What a pod
/// opens to its node is tracked, so that an answer that somebody translated finds its flow.
#[inline(always)]
fn goes_on(scratch: &Scratch) -> bool {
    let is_tcp = scratch.sent.protocol == protocol::TCP;
    is_tcp && scratch.backend == BackendId::NONE && !state::opens(protocol::TCP, scratch.packet.tcp_flags)
}

/// Judges a packet that is no flow's: an ICMP error about nothing that is known here.
///
/// # Errors
/// The number of the drop reason.
#[inline(always)]
pub(crate) fn judge_alone(mut scratch: Handle) -> Result<(), u8> {
    scratch.judged = [Judgement::default(); 2];
    scratch.opened = scratch.packet.tuple;
    let (opener, responder) = (pod(scratch.src), scratch.dst);
    judge(scratch, &opener, &responder)
}

#[inline(always)]
fn judge(mut scratch: Handle, opener: &End, responder: &End) -> Result<(), u8> {
    let scratch: &mut Scratch = &mut scratch;
    policy::judge(&mut scratch.judged, opener, responder, &scratch.opened, &mut scratch.trace)
        .map_err(|reason| reason as u8)
}
