//! The kernel side: tc programs that balance ClusterIP traffic and drop what policy forbids, and cgroup programs that lead
//! the node's own processes to Services.
//!
//! Start at [`hooks`]; each of the other modules owns its maps and does one thing. `docs/datapath.md` walks one
//! packet through them.
//!
//! **Invariant: one verified object per hook.** Nothing is compiled per pod; configuration is in maps and in the
//! read-only globals of [`config`].
//!
//! **Invariant: closed.** Every path ends in a `Forward` or in a `DropReason` that is counted and reported.
//!
//! The modules `conntrack::state` and `service::select` are pure and are tested on the host.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    expect(
        clippy::needless_borrows_for_generic_args,
        reason = "a map's value passed by value is copied to the stack first"
    )
)]
#![cfg_attr(
    not(target_arch = "bpf"),
    expect(dead_code, reason = "on the host only tests use the pure modules")
)]

#[cfg(target_arch = "bpf")]
mod config;
mod conntrack;
#[cfg(target_arch = "bpf")]
mod drops;
#[cfg(target_arch = "bpf")]
mod endpoint;
#[cfg(target_arch = "bpf")]
mod forward;
#[cfg(target_arch = "bpf")]
mod hooks;
#[cfg(target_arch = "bpf")]
mod icmp;
#[cfg(target_arch = "bpf")]
mod ipcache;
#[cfg(target_arch = "bpf")]
mod nat;
#[cfg(target_arch = "bpf")]
mod outcome;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod policy;
#[cfg(target_arch = "bpf")]
mod ports;
#[cfg(target_arch = "bpf")]
mod scratch;
mod service;

/// The kernel lends helpers such as `bpf_fib_lookup` only to programs that say GPL here: of the two licences offered,
/// this is the one under which they are loaded.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: `tests/load.rs` fails when a panic path is in a program.
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
