//! Services for sockets of the node's own processes: what an address a process names leads to, and back.
//!
//! The socket is led to the backend itself, so its packets need no translation; what the process believes it talks to is
//! kept in `SOCKET_PEERS`, and of connected UDP sockets, which user space has to find again, in `LED_SOCKETS`.
//!
//! **Invariant: the stack only.** These programs run in process context, where a packet's program may interrupt them on
//! the same CPU: they never touch `SCRATCH`.

use aya_ebpf::{
    Global, helpers,
    macros::map,
    maps::{HashMap, LruHashMap},
    programs::{SockAddrContext, SockContext},
};
use sluice_abi::{
    Addr, AffinityKey, Backend, BackendId, BackendState, DropReason, Frontend, FrontendKey, FrontendScope,
    SocketConnection, SocketPeer, SocketPeerKey, endpoint_flags, frontend_flags, maps, protocol,
};

use super::{affinity, lookup, select, source};
use crate::{config, drops, endpoint};

/// Cookie of the node's network namespace; 0 while it is not known, when only [`tell_netns`] does something.
#[unsafe(no_mangle)]
static NETNS_COOKIE: Global<u64> = Global::new(0);

#[map]
static SOCKET_PEERS: LruHashMap<SocketPeerKey, SocketPeer> =
    LruHashMap::with_max_entries(maps::SOCKET_PEERS.max_entries, maps::SOCKET_PEERS.flags);

#[map]
static LED_SOCKETS: HashMap<u64, SocketConnection> =
    HashMap::with_max_entries(maps::LED_SOCKETS.max_entries, maps::LED_SOCKETS.flags);

/// The loopback address (RFC 4291, section 2.5.3).
pub(crate) const LOOPBACK_V6: Addr = Addr([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

/// Slots that are tried when a backend has just gone.
const TRIES: u32 = 4;

/// An address and port as a process names or sees it.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) addr: Addr,
    /// Network order.
    pub(crate) port: [u8; 2],
}

/// Whether pods' sockets are led too.
#[unsafe(no_mangle)]
static SERVES_PODS: Global<u8> = Global::new(0);

/// Whose a socket is.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Asker {
    /// A process of the node.
    Node,
    /// One in another network namespace: a pod, which is led only where its packets would not be led otherwise.
    Pod,
}

/// What becomes of a call.
pub(crate) enum Outcome {
    /// It is about no Service.
    Untouched,
    /// It goes to another place.
    Led(Place),
    /// It fails.
    Denied,
}

/// Whose the socket is; `None` when it is left alone: a pod's packets are translated.
#[inline(always)]
pub(crate) fn asker(ctx: &SockAddrContext) -> Option<Asker> {
    let node = NETNS_COOKIE.load();
    if node == 0 {
        None
    } else if netns_cookie(ctx) == node {
        Some(Asker::Node)
    } else {
        (SERVES_PODS.load() != 0).then_some(Asker::Pod)
    }
}

/// Tells the loader which network namespace it is in, where the kernel has no `SO_NETNS_COOKIE` (before Linux 5.14): it
/// connects a socket to the address that no packet goes to, and finds the answer under the socket's cookie.
#[inline(always)]
pub(crate) fn tell_netns(ctx: &SockAddrContext, to: &Place) {
    if NETNS_COOKIE.load() == 0 && to.addr == Addr::HAIRPIN_V4 {
        let mut addr = Addr::UNSPECIFIED;
        addr.0[..8].copy_from_slice(&netns_cookie(ctx).to_ne_bytes());
        remember(cookie(ctx), to, &SocketPeer { addr, ..SocketPeer::default() });
    }
}

/// Leads a socket that connects to `to`. Without a backend the node's own stack refuses, at port 0 of `nobody`: by a reset,
/// or by an ICMP error that the socket hears of.
#[inline(always)]
pub(crate) fn connect(
    ctx: &SockAddrContext,
    asker: Asker,
    to: &Place,
    protocol: u8,
    nobody: Addr,
) -> Outcome {
    let Some(frontend) = frontend(asker, to, protocol) else {
        return Outcome::Untouched;
    };
    if asker == Asker::Pod {
        return connect_pod(ctx, frontend, to, protocol);
    }
    if !may_use(frontend, to) {
        return deny(to, protocol, DropReason::SourceRange);
    }
    let mut peer = peer_at(to, frontend, BackendId::NONE);
    let mut place = Place { addr: nobody, port: [0; 2] };
    if let Some((id, backend)) = choose(frontend, to, protocol) {
        peer.backend = id;
        place = Place { addr: backend.addr, port: backend.port };
    } else if frontend.flags & frontend_flags::LOCAL != 0 {
        return deny(to, protocol, DropReason::NoLocalBackend);
    }
    let socket = cookie(ctx);
    if protocol == protocol::UDP {
        remember_connection(socket, &place, &peer);
    } else if peer.backend != BackendId::NONE {
        // A refused connection is none.
        remember(socket, &place, &peer);
    }
    Outcome::Led(place)
}

/// The same for a pod's socket. Over UDP a connected socket could not leave a backend that is gone: its packets are led.
#[inline(always)]
fn connect_pod(ctx: &SockAddrContext, frontend: &Frontend, to: &Place, protocol: u8) -> Outcome {
    if protocol != protocol::TCP {
        return Outcome::Untouched;
    }
    let Some((id, backend)) = at_random(frontend) else {
        return Outcome::Untouched;
    };
    let place = Place { addr: backend.addr, port: backend.port };
    remember(cookie(ctx), &place, &peer_at(to, frontend, id));
    Outcome::Led(place)
}

/// Leads a datagram of a socket that is not connected.
///
/// The socket keeps its backend while that serves: several datagrams may belong together, as they would in a flow. One that
/// takes new flows for other Services only has left this one.
#[inline(always)]
pub(crate) fn send(ctx: &SockAddrContext, asker: Asker, to: &Place, protocol: u8) -> Outcome {
    let Some(frontend) = frontend(asker, to, protocol) else {
        return Outcome::Untouched;
    };
    let socket = cookie(ctx);
    let kept = peer(socket, to).filter(|kept| kept.service == frontend.service);
    let kept = kept.and_then(|kept| Some((kept, lookup::backend(kept.backend)?)));
    let kept = kept.filter(|(kept, backend)| {
        backend.state != BackendState::Active as u8 || lookup::is_member(frontend, kept.backend)
    });
    let (peer, backend) = match kept {
        Some(kept) => kept,
        None if !may_use(frontend, to) => return deny(to, protocol, DropReason::SourceRange),
        None => {
            let Some((id, backend)) = choose(frontend, to, protocol) else {
                if asker == Asker::Pod {
                    return Outcome::Untouched;
                }
                // The kernel takes no datagram for port 0, and tells a socket that is not connected of no ICMP error.
                let is_local = frontend.flags & frontend_flags::LOCAL != 0;
                let reason = if is_local { DropReason::NoLocalBackend } else { DropReason::NoBackend };
                return deny(to, protocol, reason);
            };
            let peer = peer_at(to, frontend, id);
            remember(socket, to, &peer);
            (peer, backend)
        }
    };
    let place = Place { addr: backend.addr, port: backend.port };
    // Asked each time, also to keep it young among the least recently used.
    if self::peer(socket, &place).is_none_or(|old| old != peer) {
        remember(socket, &place, &peer);
    }
    Outcome::Led(place)
}

/// What the process believes it talks to, when the socket's peer is `from`.
#[inline(always)]
pub(crate) fn believed(ctx: &SockAddrContext, from: &Place) -> Option<Place> {
    let socket = cookie(ctx);
    let connected = || {
        // SAFETY: elements of a hash without preallocation are replaced whole.
        let connection = unsafe { LED_SOCKETS.get(&socket) }?;
        (connection.addr == from.addr && connection.port == from.port).then_some(connection.peer)
    };
    let peer = peer(socket, from).or_else(connected)?;
    Some(Place { addr: peer.addr, port: peer.port })
}

/// Forgets a socket that is closed.
#[inline(always)]
pub(crate) fn closed(ctx: &SockContext) {
    // SAFETY: the context of a running program, which lets it read the field whole.
    if unsafe { (&raw const (*ctx.sock).protocol).read_volatile() } == u32::from(protocol::UDP) {
        // SAFETY: the context of a running program.
        let socket = unsafe { helpers::generated::bpf_get_socket_cookie(ctx.sock.cast()) };
        // Absent for all but a few; a look takes no lock.
        if LED_SOCKETS.get_ptr(&socket).is_some() {
            let _ = LED_SOCKETS.remove(&socket);
        }
    }
}

/// The frontend that processes of the node reach under the address: by itself, or as a node port on one of the node's
/// own addresses, loopback included, which to a pod is its own. What depends on a pod's address is left to its packets.
#[inline(always)]
fn frontend(asker: Asker, to: &Place, protocol: u8) -> Option<&'static Frontend> {
    let found = find(asker, to, protocol);
    let by_address = frontend_flags::SOURCE_RANGES | frontend_flags::AFFINITY;
    found.filter(|frontend| asker == Asker::Node || frontend.flags & by_address == 0)
}

#[inline(always)]
fn find(asker: Asker, to: &Place, protocol: u8) -> Option<&'static Frontend> {
    let scope = FrontendScope::Internal as u8;
    let mut key = FrontendKey { addr: to.addr, port: to.port, protocol, scope };
    if let Some(frontend) = lookup::find(&key) {
        return Some(frontend);
    }
    let is_own_loopback = asker == Asker::Node && is_loopback(&to.addr);
    if !is_own_loopback && endpoint::local(&to.addr)?.flags & endpoint_flags::NODE_PORT == 0 {
        return None;
    }
    key.addr = any_like(&to.addr);
    lookup::find(&key)
}

/// Whether the node may use the frontend. Which of its addresses the socket will have is not known yet: counted is the one
/// that the node translates sources to, as kube-proxy counts the node's primary one.
#[inline(always)]
fn may_use(frontend: &Frontend, to: &Place) -> bool {
    frontend.flags & frontend_flags::SOURCE_RANGES == 0
        || source::node(to.addr.is_v4()).is_some_and(|node| lookup::may_use(frontend, &node.addr))
}

/// Chooses a backend for a new flow: the one that processes of the node had last where the Service asks for that, else
/// one at random.
#[inline(always)]
fn choose(frontend: &Frontend, to: &Place, protocol: u8) -> Option<(BackendId, &'static Backend)> {
    let client = AffinityKey {
        client: any_like(&to.addr),
        service: frontend.service,
        service_port: frontend.service_port,
        protocol,
        reserved: 0,
    };
    let has_affinity = frontend.flags & frontend_flags::AFFINITY != 0;
    let now_ns = if has_affinity { config::now_ns() } else { 0 };
    let chosen = if has_affinity { affinity::kept(&client, frontend, now_ns) } else { None }
        .and_then(|id| Some((id, lookup::backend(id)?)))
        .or_else(|| at_random(frontend))?;
    if has_affinity {
        affinity::keep(&client, chosen.0, now_ns);
    }
    Some(chosen)
}

#[inline(always)]
fn at_random(frontend: &Frontend) -> Option<(BackendId, &'static Backend)> {
    let (first_slot, count) = (frontend.first_slot, frontend.count);
    if count == 0 {
        return None;
    }
    // SAFETY: no arguments.
    let mut index = select::first(unsafe { helpers::generated::bpf_get_prandom_u32() }, count);
    for _ in 0..TRIES {
        if let Some(id) = lookup::slot(first_slot + index)
            && let Some(backend) = lookup::backend(id)
        {
            return Some((id, backend));
        }
        index = select::next(index, count);
    }
    None
}

#[inline(always)]
fn deny(to: &Place, protocol: u8, reason: DropReason) -> Outcome {
    drops::record_call(&to.addr, to.port, protocol, reason);
    Outcome::Denied
}

#[inline(always)]
fn peer(socket: u64, place: &Place) -> Option<SocketPeer> {
    // SAFETY: copied out at once; only calls on the same socket write the entry.
    unsafe { SOCKET_PEERS.get(&peer_key(socket, place)) }.copied()
}

#[inline(always)]
fn peer_at(to: &Place, frontend: &Frontend, backend: BackendId) -> SocketPeer {
    SocketPeer { addr: to.addr, backend, service: frontend.service, port: to.port, reserved: [0; 2] }
}

#[inline(always)]
fn remember(socket: u64, place: &Place, peer: &SocketPeer) {
    // Without room the process sees the backend's address.
    let _ = SOCKET_PEERS.insert(&peer_key(socket, place), peer, 0);
}

#[inline(always)]
fn remember_connection(socket: u64, place: &Place, peer: &SocketPeer) {
    let connection = SocketConnection { peer: *peer, addr: place.addr, port: place.port, reserved: [0; 2] };
    if LED_SOCKETS.insert(&socket, &connection, 0).is_err() {
        // Led all the same, and not found again when its backend has gone.
        remember(socket, place, peer);
    }
}

#[inline(always)]
fn peer_key(socket: u64, place: &Place) -> SocketPeerKey {
    SocketPeerKey { cookie: socket, addr: place.addr, port: place.port, reserved: [0; 6] }
}

#[inline(always)]
fn cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context of a running program.
    unsafe { helpers::generated::bpf_get_socket_cookie(ctx.sock_addr.cast()) }
}

#[inline(always)]
fn netns_cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context of a running program; the helper is as old as cgroup links (Linux 5.7).
    unsafe { helpers::generated::bpf_get_netns_cookie(ctx.sock_addr.cast()) }
}

/// The node's own address that is always there, of the same family.
#[inline(always)]
pub(crate) fn loopback(like: &Addr) -> Addr {
    if like.is_v4() { Addr::v4([127, 0, 0, 1]) } else { LOOPBACK_V6 }
}

#[inline(always)]
fn is_loopback(addr: &Addr) -> bool {
    if addr.is_v4() { addr.0[12] == 127 } else { *addr == LOOPBACK_V6 }
}

/// What stands for the node in keys, of the same family.
#[inline(always)]
fn any_like(like: &Addr) -> Addr {
    if like.is_v4() { FrontendKey::NODE_V4 } else { FrontendKey::NODE_V6 }
}
