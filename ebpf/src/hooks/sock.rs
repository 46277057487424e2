//! Calls of the node's own processes on their sockets: cgroup hooks at the node's cgroup2 root.
//!
//! `connect` and `sendmsg` to a Service's address go to a backend, `recvmsg` and `getpeername` answer with the Service's
//! address, and what is closed is forgotten. A program for each call and family, because the kernel lets each see only its
//! own fields; an IPv4 address in an IPv6 socket is an [`Addr`] like any other.
//!
//! Everything else passes after one comparison: the socket's network namespace is not the node's. Pods' sockets are led where
//! it is asked for (`--socket-lb-pods`).

use aya_ebpf::{
    macros::{cgroup_sock, cgroup_sock_addr},
    programs::{SockAddrContext, SockContext},
};
use sluice_abi::{Addr, protocol};

use crate::service::socket::{self, Outcome, Place};

/// The call goes on.
const PROCEED: i32 = 1;
/// The call fails with `EPERM`, as it does behind a rule of netfilter that drops.
const DENY: i32 = 0;

/// `connect` of an IPv4 socket, or of an IPv6 datagram socket with an IPv4 address.
#[cgroup_sock_addr(connect4)]
pub(crate) fn sock_connect4(ctx: SockAddrContext) -> i32 {
    let to = Place { addr: addr4(&ctx), port: port(&ctx) };
    let Some(asker) = socket::asker(&ctx) else {
        socket::tell_netns(&ctx, &to);
        return PROCEED;
    };
    let Some(protocol) = balanced(&ctx) else {
        return PROCEED;
    };
    lead4(&ctx, socket::connect(&ctx, asker, &to, protocol, socket::loopback(&to.addr)))
}

/// `connect` of an IPv6 socket.
#[cgroup_sock_addr(connect6)]
pub(crate) fn sock_connect6(ctx: SockAddrContext) -> i32 {
    let Some(asker) = socket::asker(&ctx) else {
        return PROCEED;
    };
    let Some(protocol) = balanced(&ctx) else {
        return PROCEED;
    };
    let to = Place { addr: addr6(&ctx), port: port(&ctx) };
    // A datagram socket of this family takes port 0 of no IPv4 address (`udpv6_sendmsg`).
    let nobody = if protocol == protocol::UDP { socket::LOOPBACK_V6 } else { socket::loopback(&to.addr) };
    lead6(&ctx, socket::connect(&ctx, asker, &to, protocol, nobody))
}

/// A datagram with an IPv4 address.
#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn sock_sendmsg4(ctx: SockAddrContext) -> i32 {
    let Some(asker) = socket::asker(&ctx) else {
        return PROCEED;
    };
    let Some(protocol) = balanced(&ctx) else {
        return PROCEED;
    };
    let to = Place { addr: addr4(&ctx), port: port(&ctx) };
    lead4(&ctx, socket::send(&ctx, asker, &to, protocol))
}

/// A datagram with an IPv6 address.
#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn sock_sendmsg6(ctx: SockAddrContext) -> i32 {
    let Some(asker) = socket::asker(&ctx) else {
        return PROCEED;
    };
    let Some(protocol) = balanced(&ctx) else {
        return PROCEED;
    };
    let to = Place { addr: addr6(&ctx), port: port(&ctx) };
    lead6(&ctx, socket::send(&ctx, asker, &to, protocol))
}

/// Where a datagram on an IPv4 socket came from.
#[cgroup_sock_addr(recvmsg4)]
pub(crate) fn sock_recvmsg4(ctx: SockAddrContext) -> i32 {
    believe4(&ctx)
}

/// Where a datagram on an IPv6 socket came from.
#[cgroup_sock_addr(recvmsg6)]
pub(crate) fn sock_recvmsg6(ctx: SockAddrContext) -> i32 {
    believe6(&ctx)
}

/// `getpeername` of an IPv4 socket.
#[cgroup_sock_addr(getpeername4)]
pub(crate) fn sock_peername4(ctx: SockAddrContext) -> i32 {
    believe4(&ctx)
}

/// `getpeername` of an IPv6 socket.
#[cgroup_sock_addr(getpeername6)]
pub(crate) fn sock_peername6(ctx: SockAddrContext) -> i32 {
    believe6(&ctx)
}

/// The end of a socket, in whatever namespace: its cookie is nobody else's.
#[cgroup_sock(sock_release)]
pub(crate) fn sock_release(ctx: SockContext) -> i32 {
    socket::closed(&ctx);
    PROCEED
}

#[inline(always)]
fn lead4(ctx: &SockAddrContext, outcome: Outcome) -> i32 {
    match outcome {
        Outcome::Untouched => PROCEED,
        // Backends have the family of their frontend; nothing else could be written here.
        Outcome::Led(place) if !place.addr.is_v4() => DENY,
        Outcome::Led(place) => {
            set4(ctx, &place);
            PROCEED
        }
        Outcome::Denied => DENY,
    }
}

#[inline(always)]
fn lead6(ctx: &SockAddrContext, outcome: Outcome) -> i32 {
    match outcome {
        Outcome::Untouched => PROCEED,
        Outcome::Led(place) => {
            set6(ctx, &place);
            PROCEED
        }
        Outcome::Denied => DENY,
    }
}

#[inline(always)]
fn believe4(ctx: &SockAddrContext) -> i32 {
    if socket::asker(ctx).is_some()
        && let Some(place) = socket::believed(ctx, &Place { addr: addr4(ctx), port: port(ctx) })
        && place.addr.is_v4()
    {
        set4(ctx, &place);
    }
    PROCEED // the only answer the kernel takes here
}

#[inline(always)]
fn believe6(ctx: &SockAddrContext) -> i32 {
    if socket::asker(ctx).is_some()
        && let Some(place) = socket::believed(ctx, &Place { addr: addr6(ctx), port: port(ctx) })
    {
        set6(ctx, &place);
    }
    PROCEED
}

/// The socket's protocol, if Services balance it.
#[inline(always)]
fn balanced(ctx: &SockAddrContext) -> Option<u8> {
    // SAFETY: as in `load`.
    match unsafe { load(&raw const (*ctx.sock_addr).protocol) } {
        6 => Some(protocol::TCP),
        17 => Some(protocol::UDP),
        _ => None,
    }
}

#[inline(always)]
fn addr4(ctx: &SockAddrContext) -> Addr {
    // SAFETY: as in `load`.
    Addr::v4(unsafe { load(&raw const (*ctx.sock_addr).user_ip4) }.to_ne_bytes())
}

#[inline(always)]
fn addr6(ctx: &SockAddrContext) -> Addr {
    let mut addr = Addr::UNSPECIFIED;
    for (index, bytes) in addr.0.chunks_exact_mut(4).enumerate() {
        // SAFETY: as in `load`; four words each.
        let word = unsafe { load(&raw const (*ctx.sock_addr).user_ip6[index]) };
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    addr
}

#[inline(always)]
fn port(ctx: &SockAddrContext) -> [u8; 2] {
    // SAFETY: as in `load`; the upper half is zero.
    (unsafe { load(&raw const (*ctx.sock_addr).user_port) } as u16).to_ne_bytes()
}

#[inline(always)]
fn set4(ctx: &SockAddrContext, place: &Place) {
    // SAFETY: as in `store`.
    unsafe { store(&raw mut (*ctx.sock_addr).user_ip4, u32::from_ne_bytes(place.addr.v4_octets())) };
    set_port(ctx, place.port);
}

#[inline(always)]
fn set6(ctx: &SockAddrContext, place: &Place) {
    for (index, bytes) in place.addr.0.as_chunks::<4>().0.iter().enumerate() {
        // SAFETY: as in `store`; four words each.
        unsafe { store(&raw mut (*ctx.sock_addr).user_ip6[index], u32::from_ne_bytes(*bytes)) };
    }
    set_port(ctx, place.port);
}

#[inline(always)]
fn set_port(ctx: &SockAddrContext, port: [u8; 2]) {
    // SAFETY: as in `store`.
    unsafe { store(&raw mut (*ctx.sock_addr).user_port, u32::from(u16::from_ne_bytes(port))) };
}

/// Reads a field of the context.
///
/// Volatile: the verifier takes whole words only, and the compiler would join or split them.
///
/// # Safety
/// `field` must be one that the kernel lets the program read.
#[inline(always)]
unsafe fn load(field: *const u32) -> u32 {
    // SAFETY: the context of a running program; which field is the caller's promise.
    unsafe { field.read_volatile() }
}

/// Writes a field of the context, as [`load`] reads it.
///
/// # Safety
/// `field` must be one that the kernel lets the program write.
#[inline(always)]
unsafe fn store(field: *mut u32, value: u32) {
    // SAFETY: the context of a running program; which field is the caller's promise.
    unsafe { field.write_volatile(value) }
}
