//! Forgetting flows: those that have expired, those of an address that is gone, and those over UDP whose backend has left
//! their Service and lives on for another.
//!
//! The datapath judges expiry itself, by timestamp; the sweeper only gives the room back. It also notices a backend that is
//! gone or takes no new flows, but not for whom one does: to ask that for every packet would cost each of them two
//! lookups more. An entry is looked at again just before it is deleted, since a packet may have revived it.

use std::collections::BTreeSet;

use sluice_abi::{
    Addr, BackendId, CtEntry, CtState, FlowKey, FrontendScope, Tuple, endpoint_flags, flow_flags, protocol,
};
use sluice_maps::{Maps, MapsError, Table};

use super::members::{self, Members};

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Swept {
    /// Flows that stay, aliases not counted.
    pub live: usize,
    /// Entries deleted.
    pub deleted: usize,
}

/// Deletes expired flows, aliases whose flow is gone, and aliases that lead over UDP to backends that have left their Service.
/// `now_ns` is `CLOCK_MONOTONIC`.
///
/// # Errors
/// The first map that could not be read or written.
pub fn sweep(maps: &Maps, now_ns: u64) -> Result<Swept, MapsError> {
    let mut swept = Swept::default();
    let mut members = Members::new(maps);
    for table in [&maps.ct_confirmed, &maps.ct_half_open] {
        let mut dead = Vec::new();
        table.for_each(|key, entry| {
            if entry.flags & flow_flags::ALIAS != 0 || is_expired(&key, &entry, now_ns) {
                dead.push(key);
            } else {
                swept.live += 1;
            }
        })?;
        for key in dead {
            let Some(entry) = table.get(&key)? else {
                continue;
            };
            if is_stray(maps, &mut members, &key, &entry)? {
                swept.deleted += forget(maps, &key)?;
            } else if is_dead(maps, &key, &entry, now_ns)? && table.delete(&key)? {
                swept.deleted += 1;
            }
        }
    }
    Ok(swept)
}

/// Deletes every flow that has one of `addrs` at either end, in one pass.
///
/// # Errors
/// The first map that could not be read or written.
pub fn purge(maps: &Maps, addrs: &BTreeSet<Addr>) -> Result<usize, MapsError> {
    let mut deleted = 0;
    for table in [&maps.ct_confirmed, &maps.ct_half_open] {
        deleted += purge_table(table, addrs)?;
    }
    Ok(deleted)
}

fn purge_table(table: &Table<FlowKey, CtEntry>, addrs: &BTreeSet<Addr>) -> Result<usize, MapsError> {
    let mut of_addrs = Vec::new();
    table.for_each(|key, entry| {
        if [key.0.src, key.0.dst, entry.other.src, entry.other.dst].iter().any(|addr| addrs.contains(addr)) {
            of_addrs.push(key);
        }
    })?;
    let mut deleted = 0;
    for key in of_addrs {
        deleted += usize::from(table.delete(&key)?);
    }
    Ok(deleted)
}

/// Deletes an alias, in whichever table it is by now: its opener's next packet chooses anew. The flow stays until it
/// expires, for answers that are under way.
fn forget(maps: &Maps, alias: &FlowKey) -> Result<usize, MapsError> {
    let mut deleted = 0;
    for table in [&maps.ct_half_open, &maps.ct_confirmed] {
        deleted += usize::from(table.delete(alias)?);
    }
    Ok(deleted)
}

/// Whether the alias leads a UDP flow to a backend that takes new ones of other Services only. What a pod of this node
/// opens goes to Services as pods see them, all else as clients outside do.
fn is_stray(
    maps: &Maps,
    members: &mut Members<'_>,
    key: &FlowKey,
    entry: &CtEntry,
) -> Result<bool, MapsError> {
    let is_alias = entry.flags & flow_flags::ALIAS != 0;
    if !is_alias || key.0.protocol != protocol::UDP || entry.backend == BackendId::NONE {
        return Ok(false);
    }
    let Tuple { src, dst, dst_port, .. } =
        if entry.flags & flow_flags::OPENER_IS_KEY_SRC != 0 { key.0 } else { key.0.reversed() };
    let is_pod = maps.endpoints.get(&src)?.is_some_and(|found| found.flags & endpoint_flags::HOST == 0);
    let scope = if is_pod { FrontendScope::Internal } else { FrontendScope::External };
    members.has_left(members::frontend(dst, dst_port, protocol::UDP, scope), entry.backend)
}

fn is_dead(maps: &Maps, key: &FlowKey, entry: &CtEntry, now_ns: u64) -> Result<bool, MapsError> {
    if entry.flags & flow_flags::ALIAS == 0 {
        return Ok(is_expired(key, entry, now_ns));
    }
    let (flow, _) = FlowKey::of(&entry.other);
    // The first again, because a flow that is confirmed meanwhile leaves the second for it.
    for table in [&maps.ct_confirmed, &maps.ct_half_open, &maps.ct_confirmed] {
        if let Some(direct) = table.get(&flow)? {
            let (alias, _) = FlowKey::of(&direct.other);
            return Ok(alias != *key || is_expired(&flow, &direct, now_ns));
        }
    }
    Ok(true)
}

/// A little later than the datapath, whose seconds are longer (`ebpf/src/conntrack/table.rs`), so that no entry goes
/// that a packet would still find.
fn is_expired(key: &FlowKey, entry: &CtEntry, now_ns: u64) -> bool {
    let timeout_s = CtState::from_number(entry.state).timeout_s(key.0.protocol) + 1;
    now_ns.saturating_sub(entry.last_seen_ns) > timeout_s << 30
}
