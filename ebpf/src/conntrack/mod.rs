//! Connection tracking (`docs/adr/0004-conntrack.md`).
//!
//! Half-open flows are in a small LRU, which a flood may turn over; confirmed ones in a preallocated hash, which
//! nothing live ever leaves. A flow through a Service has two entries: the *direct* one, keyed by what is on the wire
//! behind the translation, and an *alias*, keyed by what the opener sends. Each holds the other's tuple.

pub(crate) mod state;

#[cfg(target_arch = "bpf")]
mod table;

#[cfg(target_arch = "bpf")]
pub(crate) use table::{Found, create, find, find_for, forget, is_free};
