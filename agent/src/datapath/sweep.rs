//! Forgetting flows: those that have expired, and those of an address that is gone.
//!
//! The datapath judges expiry itself, by timestamp; the sweeper only gives the room back. An entry is looked at again
//! just before it is deleted, since a packet may have revived it.

use std::collections::BTreeSet;

use sluice_abi::{Addr, CtEntry, CtState, FlowKey, flow_flags};
use sluice_maps::{Maps, MapsError, Table};

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Swept {
    /// Flows that stay, aliases not counted.
    pub live: usize,
    /// Entries deleted.
    pub deleted: usize,
}

/// Deletes expired flows, and aliases whose flow is gone. `now_ns` is `CLOCK_MONOTONIC`.
///
/// # Errors
/// The first map that could not be read or written.
pub fn sweep(maps: &Maps, now_ns: u64) -> Result<Swept, MapsError> {
    let mut swept = Swept::default();
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
            if is_dead(maps, &key, &entry, now_ns)? && table.delete(&key)? {
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
