//! The backend of a new flow.

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use sluice_abi::{
    Addr, AffinityKey, Backend, BackendId, DropReason, Frontend, FrontendKey, FrontendScope, Tuple,
    endpoint_flags, frontend_flags, protocol,
};

use super::{affinity, lookup, select, source};
use crate::{
    config, conntrack,
    endpoint::{End, EndKind},
    outcome,
    scratch::{self, Handle, Scratch},
};

/// Backends that are tried when the first choice would meet another flow's tuple, or has just gone.
const TRIES: u32 = 4;

/// What became of a packet that may be for a Service.
#[derive(Clone, Copy, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Chosen {
    /// It is for none.
    NoService = 0,
    /// A backend, or the port of the node where the kernel refuses.
    Led = 1,
    /// A backend of another node for a client outside, which must answer by way of this one.
    LedAway = 2,
    /// A backend with which another flow has the tuple: the source must change.
    LedBeside = 3,
}

/// Chooses for the new flow `scratch.sent`, seen in `scope`: into `scratch.backend`, `scratch.opened` and
/// `scratch.responder`.
///
/// # Errors
/// The number of the drop reason: the client may not use the Service, it has no backend of this node where only those
/// count, or none and the node has no address to refuse from.
#[inline(always)]
pub(crate) fn choose(scope: FrontendScope) -> Result<Chosen, u8> {
    outcome::decode(choose_backend(scope as u32)).map(|chosen| match chosen {
        1 => Chosen::Led,
        2 => Chosen::LedAway,
        3 => Chosen::LedBeside,
        _ => Chosen::NoService,
    })
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn choose_backend(scope: u32) -> u32 {
    let Some(scratch) = scratch::get() else {
        return DropReason::Malformed as u32;
    };
    let is_external = scope == FrontendScope::External as u32;
    outcome::encode(match frontend(scratch, is_external) {
        None => Ok(Chosen::NoService as u8),
        Some(frontend) => try_choose(frontend, scratch, is_external).map(|chosen| chosen as u8),
    })
}

/// The frontend a packet is for: by its very address, or as a port of the node.
#[inline(always)]
fn frontend(scratch: Handle, is_external: bool) -> Option<&'static Frontend> {
    let sent = &scratch.sent;
    let scope = if is_external { FrontendScope::External } else { FrontendScope::Internal };
    let mut key =
        FrontendKey { addr: sent.dst, port: sent.dst_port, protocol: sent.protocol, scope: scope as u8 };
    let exact = lookup::find(&key);
    if exact.is_some() || scratch.dst.flags & endpoint_flags::NODE_PORT == 0 {
        return exact;
    }
    key.addr = if scratch.packet.is_v4 { FrontendKey::NODE_V4 } else { FrontendKey::NODE_V6 };
    lookup::find(&key)
}

#[inline(always)]
fn try_choose(frontend: &Frontend, scratch: Handle, is_external: bool) -> Result<Chosen, DropReason> {
    let now_ns = config::now_ns();
    let flags = frontend.flags;
    if flags & frontend_flags::SOURCE_RANGES != 0 && !lookup::may_use(frontend, &scratch.sent.src) {
        return Err(DropReason::SourceRange);
    }
    let is_local = flags & frontend_flags::LOCAL != 0;
    let keeps = flags & frontend_flags::AFFINITY != 0;
    let client = AffinityKey {
        client: scratch.sent.src,
        service: frontend.service,
        service_port: frontend.service_port,
        protocol: scratch.sent.protocol,
        reserved: 0,
    };
    let mut taken = Taken::Gone;
    if keeps && let Some(id) = affinity::kept(&client, frontend, now_ns) {
        taken = take(id, is_external);
    }
    if taken == Taken::Gone {
        taken = take_any(frontend, &scratch, is_external);
    }
    match taken {
        Taken::Gone if is_local => return Err(DropReason::NoLocalBackend),
        Taken::Gone => return refuse(scratch),
        Taken::Busy | Taken::Free | Taken::FreeAway => {}
    }
    if keeps {
        affinity::keep(&client, scratch.backend, now_ns);
    }
    Ok(match taken {
        Taken::FreeAway => Chosen::LedAway,
        Taken::Busy => Chosen::LedBeside,
        Taken::Gone | Taken::Free => Chosen::Led,
    })
}

/// What taking a backend came to.
#[derive(Clone, Copy, Eq, PartialEq)]
#[repr(u32)]
enum Taken {
    /// The backend is not there.
    Gone = 0,
    /// It is taken, and another flow has the tuple already.
    Busy = 1,
    Free = 2,
    /// Free, and the client's answer must come by way of this node.
    FreeAway = 3,
}

/// Takes a backend at random, or by the flow's hash where every node must choose alike (Maglev).
#[inline(never)]
fn take_any(frontend: &Frontend, scratch: &Handle, is_external: bool) -> Taken {
    let (first_slot, count) = (frontend.first_slot, frontend.count);
    if count == 0 {
        return Taken::Gone;
    }
    let number = if frontend.flags & frontend_flags::MAGLEV != 0 {
        select::flow_hash(&scratch.sent)
    } else {
        // SAFETY: no arguments.
        unsafe { bpf_get_prandom_u32() }
    };
    let (mut index, mut best) = (select::first(number, count), Taken::Gone);
    for _ in 0..TRIES {
        if let Some(id) = lookup::slot(first_slot + index) {
            match take(id, is_external) {
                Taken::Gone => {}
                Taken::Busy => best = Taken::Busy,
                free @ (Taken::Free | Taken::FreeAway) => return free,
            }
        }
        index = select::next(index, count);
    }
    best
}

/// Leads the flow to the backend, unless it is gone.
#[inline(always)]
fn take(id: BackendId, is_external: bool) -> Taken {
    match take_backend(id.0, u32::from(is_external)) {
        1 => Taken::Busy,
        2 => Taken::Free,
        3 => Taken::FreeAway,
        _ => Taken::Gone,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn take_backend(id: u32, is_external: u32) -> u32 {
    match scratch::get() {
        Some(scratch) => try_take(scratch, BackendId(id), is_external != 0) as u32,
        None => Taken::Gone as u32,
    }
}

#[inline(always)]
fn try_take(mut scratch: Handle, id: BackendId, is_external: bool) -> Taken {
    let Some(backend) = lookup::backend(id) else {
        return Taken::Gone;
    };
    scratch.backend = id;
    scratch.opened = translated(&scratch.sent, backend);
    scratch.responder = End::at(&backend.addr);
    if is_external && scratch.responder.kind == EndKind::Elsewhere {
        return Taken::FreeAway; // the source becomes this node's, with a port that is free
    }
    if conntrack::is_free() { Taken::Free } else { Taken::Busy }
}

/// The tuple behind the translation. A pod that reaches itself must see another source, or it would answer to itself
/// past the datapath.
#[inline(always)]
fn translated(sent: &Tuple, backend: &Backend) -> Tuple {
    let mut opened = *sent;
    opened.dst = backend.addr;
    opened.dst_port = backend.port;
    if backend.addr == sent.src {
        opened.src = if sent.src.is_v4() { Addr::HAIRPIN_V4 } else { Addr::HAIRPIN_V6 };
    }
    opened
}

/// Leads the flow to port 0 of the node, where the kernel itself refuses it: no socket can have that port. The answer
/// is translated back like any other (`docs/adr/0007-the-nodes-address.md`).
#[inline(always)]
fn refuse(mut scratch: Handle) -> Result<Chosen, DropReason> {
    let scratch: &mut Scratch = &mut scratch;
    let node = source::node(scratch.packet.is_v4).filter(|_| scratch.sent.protocol != protocol::SCTP);
    let Some(node) = node else {
        return Err(DropReason::NoBackend);
    };
    scratch.backend = BackendId::NONE;
    scratch.opened = scratch.sent;
    scratch.opened.dst = node.addr;
    scratch.opened.dst_port = [0; 2];
    scratch.responder = End::at(&node.addr);
    Ok(Chosen::Led)
}
