//! What every hook does with a packet that belongs, or may belong, to a flow.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use sluice_abi::{BackendId, CtState, DropReason, FrontendScope, Judgement, Tuple, flow_flags, protocol};

use crate::{
    config,
    conntrack::{self, Found, state},
    drops,
    endpoint::{End, EndKind},
    icmp, nat, outcome,
    packet::Kind,
    policy,
    scratch::{self, Handle, Scratch},
    service::{self, Chosen, Source},
};

/// Where packets are seen, which decides what a new flow may be.
#[derive(Clone, Copy, Eq, PartialEq)]
#[repr(u32)]
pub(crate) enum Place {
    /// From a pod: to Services as pods see them, and out under the node's address.
    Pod = 0,
    /// From the network: to Services as clients outside see them, or to a pod.
    Network = 1,
    /// Through the host stack, where somebody may have translated it: a new flow stays there.
    Stack = 2,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Way {
    /// To wherever its destination is.
    On = 0,
    /// To the host stack, on which its flow stays.
    Stack = 1,
    /// To the host stack, as it came: no flow of ours.
    NotOurs = 2,
}

/// Tracks, translates and judges the packet.
///
/// `scratch.src` and `scratch.dst` are the ends of the packet as it came, which `scratch.sent` keeps. On success
/// `scratch.packet.tuple` is what is on the wire.
///
/// # Errors
/// The number of the drop reason.
#[inline(always)]
pub(crate) fn pass(ctx: &TcContext, mut scratch: Handle, place: Place) -> Result<Way, u8> {
    scratch.audits.start();
    let way = outcome::decode(match pass_flow(ctx.skb.skb, place as u32) {
        NEW => open_flow(ctx.skb.skb, place as u32),
        code => code,
    })?;
    policy::audit(&scratch);
    Ok(match way {
        0 => Way::On,
        1 => Way::Stack,
        _ => Way::NotOurs,
    })
}

/// What [`pass_flow`] returns when the packet belongs to no known flow.
const NEW: u32 = 0;

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pass_flow(skb: *mut __sk_buff, place: u32) -> u32 {
    let Some(mut scratch) = scratch::get() else {
        return DropReason::Malformed as u32;
    };
    scratch.sent = scratch.packet.tuple;
    match try_pass(&TcContext::new(skb), scratch, place) {
        Ok(None) => NEW,
        Ok(Some(way)) => outcome::encode(Ok(way as u8)),
        Err(reason) => u32::from(reason),
    }
}

/// `Ok(None)` when the packet opens a flow.
#[inline(always)]
fn try_pass(ctx: &TcContext, mut scratch: Handle, place: u32) -> Result<Option<Way>, u8> {
    let now_ns = config::now_ns();
    let opens = state::opens(scratch.sent.protocol, scratch.packet.tcp_flags);
    let owner = conntrack::find_for(&scratch.sent, opens, now_ns);
    let is_taken = place != Place::Stack as u32 && owner.is_some_and(|owner| is_taken(&owner, opens));
    if is_taken && scratch.src.kind != EndKind::Pod && scratch.dst.kind == EndKind::Host {
        return Ok(Some(leave_to_host(&scratch, opens)));
    }
    let found = if is_taken || (owner.is_none() && !opens) { beside(scratch, now_ns) } else { owner };
    let Some(mut found) = found else {
        scratch.sent.beside = u8::from(is_taken);
        return Ok(None);
    };
    scratch.opened = scratch.sent;
    if found.has(flow_flags::ALIAS) {
        let Some(direct) = follow(scratch, &found, opens, now_ns) else {
            scratch.sent.beside = u8::from(is_taken);
            return Ok(None);
        };
        if found.from_opener {
            scratch.target = scratch.opened;
            nat::rewrite(ctx)?;
        }
        found = direct;
    } else if opens && is_over(found.state()) {
        conntrack::forget(&scratch.sent);
        return Ok(None);
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
        let Scratch { opened, trace, audits, .. } = scratch;
        policy::judge(found.judged(), &opener, &responder, opened, trace, audits)
            .and_then(|()| found.advance(&scratch.opened, scratch.packet.tcp_flags, now_ns))
            .map_err(|reason| reason as u8)?;
    }
    if is_reply {
        nat::rewrite(ctx)?;
    }
    Ok(Some(if stays { Way::Stack } else { Way::On }))
}

/// Whether a packet that meets the entry is sent straight to where another flow's translation leads. (Behind the stack it
/// is what was translated.)
#[inline(always)]
fn is_taken(owner: &Found, opens: bool) -> bool {
    owner.from_opener
        && !owner.has(flow_flags::ALIAS)
        && owner.has(flow_flags::TRANSLATED)
        && !(opens && is_over(owner.state()))
}

/// The flow that stands beside the owner of `scratch.sent`, or did while that lived.
#[inline(always)]
fn beside(mut scratch: Handle, now_ns: u64) -> Option<Found> {
    scratch.sent.beside = 1;
    conntrack::find(&scratch.sent, now_ns)
}

/// The node's own stack has the last word on what is for it: its connections are not known here.
#[inline(always)]
fn leave_to_host(scratch: &Scratch, opens: bool) -> Way {
    if opens {
        conntrack::forget(&scratch.sent); // or the answers would be translated
    }
    Way::NotOurs
}

/// From an alias to its flow, with `scratch.opened` the direct tuple. When the flow does not go on, what is left of
/// it is removed.
#[inline(always)]
pub(super) fn follow(mut scratch: Handle, alias: &Found, opens: bool, now_ns: u64) -> Option<Found> {
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
///
/// A flow without a backend goes on if its source alone was translated; one that is refused is opened anew each time,
/// since by now there may be a backend.
#[inline(always)]
fn continues(found: &Found, backend: BackendId, protocol: u8, opens: bool) -> bool {
    if backend == BackendId::NONE {
        return found.has(flow_flags::SNAT) && !(opens && is_over(found.state()));
    }
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
extern "C" fn open_flow(skb: *mut __sk_buff, place: u32) -> u32 {
    let Some(mut scratch) = scratch::get() else {
        return DropReason::Malformed as u32;
    };
    scratch.opened = Tuple { beside: 0, ..scratch.sent };
    scratch.backend = BackendId::NONE;
    scratch.responder = scratch.dst;
    match try_open(&TcContext::new(skb), scratch, place) {
        Ok(way) => outcome::encode(Ok(way as u8)),
        Err(reason) => u32::from(reason),
    }
}

#[inline(always)]
fn try_open(ctx: &TcContext, mut scratch: Handle, place: u32) -> Result<Way, u8> {
    let mut flags = if place == Place::Stack as u32 { flow_flags::STACK } else { 0 };
    let mut source = if scratch.sent.beside == 0 { Source::Kept } else { Source::OtherPort };
    if place == Place::Pod as u32 {
        if service::choose(FrontendScope::Internal)? == Chosen::LedBeside {
            source = Source::OtherPort;
        }
    } else if place == Place::Network as u32 && scratch.dst.kind != EndKind::Pod {
        match service::choose(FrontendScope::External)? {
            Chosen::NoService => return Ok(Way::NotOurs),
            Chosen::LedAway => source = Source::Node,
            Chosen::LedBeside => source = Source::OtherPort,
            Chosen::Led => {}
        }
    }
    judge_opened(scratch)?;
    let is_led = scratch.opened != scratch.sent;
    if scratch.responder.kind == EndKind::Host && !is_led && goes_on(&scratch) {
        return Ok(Way::On);
    }
    let is_world = place == Place::Pod as u32 && scratch.responder.kind == EndKind::Elsewhere;
    if is_world && service::masquerades(&scratch.opened.dst, scratch.packet.is_v4) {
        source = Source::Node;
    }
    if source != Source::Kept {
        flags |= flow_flags::SNAT;
        service::take_source(source)?;
    }
    let now_ns = config::now_ns();
    conntrack::create(scratch, flags, now_ns).map_err(|reason| reason as u8)?;
    drops::flow(ctx, &scratch, now_ns);
    if scratch.opened != scratch.sent {
        scratch.target = scratch.opened;
        nat::rewrite(ctx)?;
    }
    Ok(if flags & flow_flags::STACK != 0 { Way::Stack } else { Way::On })
}

/// Judges the flow that is opened. A packet that is dropped is reported as it would have gone on.
#[inline(always)]
fn judge_opened(mut scratch: Handle) -> Result<(), u8> {
    let (opener, responder) = (pod(scratch.src), scratch.responder);
    scratch.judged = [Judgement::default(); 2];
    let judged = judge(scratch, &opener, &responder);
    if judged.is_err() {
        scratch.packet.tuple = scratch.opened;
    }
    judged
}

/// Whether the packet is of a TCP connection that the node's own stack opened, which keeps its flows itself. What a pod
/// opens to its node is tracked, so that an answer that somebody translated finds its flow.
#[inline(always)]
fn goes_on(scratch: &Scratch) -> bool {
    scratch.sent.protocol == protocol::TCP && !state::opens(protocol::TCP, scratch.packet.tcp_flags)
}

/// What the node's own stack sends: an ICMP error, perhaps about a translated flow; or a reply, perhaps as the backend of
/// a Service, or as who refuses for one that has none; or anything.
///
/// # Errors
/// The number of the drop reason.
#[inline(always)]
pub(crate) fn pass_host(ctx: &TcContext, mut scratch: Handle) -> Result<(), u8> {
    if scratch.packet.kind == Kind::IcmpError {
        return icmp::related(ctx).map(|_| ());
    }
    let now_ns = config::now_ns();
    let Some(mut found) = conntrack::find(&scratch.packet.tuple, now_ns) else {
        return Ok(());
    };
    if found.from_opener || found.has(flow_flags::ALIAS) {
        return Ok(());
    }
    let is_reply = found.has(flow_flags::TRANSLATED);
    scratch.target = found.entry().other.reversed();
    scratch.opened = scratch.packet.tuple.reversed();
    {
        let scratch: &mut Scratch = &mut scratch;
        found.advance(&scratch.opened, scratch.packet.tcp_flags, now_ns).map_err(|reason| reason as u8)?;
    }
    if !is_reply {
        return Ok(());
    }
    scratch.packet.note_fragment(); // what follows has no ports
    nat::rewrite(ctx)
}

/// Judges a packet that is no flow's: an ICMP error about nothing that is known here.
///
/// # Errors
/// The number of the drop reason.
#[inline(always)]
pub(crate) fn judge_alone(mut scratch: Handle) -> Result<(), u8> {
    scratch.judged = [Judgement::default(); 2];
    scratch.opened = scratch.packet.tuple;
    scratch.audits.start();
    let (opener, responder) = (pod(scratch.src), scratch.dst);
    judge(scratch, &opener, &responder)?;
    policy::audit(&scratch);
    Ok(())
}

#[inline(always)]
fn judge(mut scratch: Handle, opener: &End, responder: &End) -> Result<(), u8> {
    let Scratch { judged, opened, trace, audits, .. } = &mut *scratch;
    policy::judge(judged, opener, responder, opened, trace, audits).map_err(|reason| reason as u8)
}
