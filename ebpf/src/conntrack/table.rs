//! The two maps of flows.

use aya_ebpf::{
    macros::map,
    maps::{HashMap, LruHashMap},
};
use sluice_abi::{CtEntry, CtState, DropReason, FlowKey, Judgement, Tuple, flow_flags, maps, protocol};

use super::state;
use crate::{
    config,
    endpoint::EndKind,
    ports,
    scratch::{self, Handle, Scratch},
};

#[map]
static CT_HALF_OPEN: LruHashMap<FlowKey, CtEntry> =
    LruHashMap::with_max_entries(maps::CT_HALF_OPEN.max_entries, maps::CT_HALF_OPEN.flags);

#[map]
static CT_CONFIRMED: HashMap<FlowKey, CtEntry> =
    HashMap::with_max_entries(maps::CT_CONFIRMED.max_entries, maps::CT_CONFIRMED.flags);

/// Writes to an entry's clock closer together than this are left out, to keep its cache line clean: 2²⁷ ns ≈ 0.13 s.
const CLOCK_STEP_NS: u64 = 1 << 27;

/// `BPF_NOEXIST` (`linux/bpf.h`) and the error it gives.
const NO_EXIST: u64 = 1;
const EEXIST: i32 = -17;

/// An entry that a packet met.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    /// A map value, valid while the program runs.
    entry: *mut CtEntry,
    /// Whether the packet comes from the flow's opener.
    pub(crate) from_opener: bool,
}

impl Found {
    #[inline(always)]
    pub(crate) fn entry(&self) -> &CtEntry {
        // SAFETY: map values outlive the program's run; fields are words that are written whole.
        unsafe { &*self.entry }
    }

    #[inline(always)]
    pub(crate) fn judged(&mut self) -> &mut [Judgement; 2] {
        // SAFETY: as in `entry`.
        unsafe { &mut (*self.entry).judged }
    }

    #[inline(always)]
    pub(crate) fn has(&self, flag: u8) -> bool {
        self.entry().flags & flag != 0
    }

    #[inline(always)]
    pub(crate) fn state(&self) -> CtState {
        CtState::from_number(self.entry().state)
    }

    /// Whether the entry is the direct one of what is sent as `foreign`. An alias may outlive its flow, and the direct
    /// tuple be another's by then.
    #[inline(always)]
    pub(crate) fn is_translation_of(&self, foreign: &Tuple) -> bool {
        self.has(flow_flags::TRANSLATED) && self.entry().other == *foreign
    }

    /// The same entry, met by a packet from the other side.
    #[inline(always)]
    pub(crate) fn turned(self) -> Self {
        Self { from_opener: false, ..self }
    }

    /// Notes the packet, and confirms the flow when it is the packet that does.
    ///
    /// # Errors
    /// [`DropReason::ConntrackFull`] when the flow should be confirmed and the table has no room.
    #[inline(always)]
    pub(crate) fn advance(&mut self, direct: &Tuple, tcp_flags: u8, now_ns: u64) -> Result<(), DropReason> {
        // SAFETY: as in `entry`.
        let entry = unsafe { &mut *self.entry };
        if now_ns.wrapping_sub(entry.last_seen_ns) > CLOCK_STEP_NS {
            entry.last_seen_ns = now_ns;
        }
        let old = CtState::from_number(entry.state);
        let (new, flags) = state::advance(old, entry.flags, direct.protocol, tcp_flags, self.from_opener);
        if new != old || flags != entry.flags {
            entry.state = new as u8;
            entry.flags = flags;
        }
        if new == CtState::Established && flags & flow_flags::CONFIRMED == 0 {
            return confirm(direct, entry);
        }
        Ok(())
    }
}

/// Moves a flow, and its alias, to the confirmed table: both or none.
#[inline(never)]
fn confirm(direct: &Tuple, entry: &mut CtEntry) -> Result<(), DropReason> {
    let other = entry.other;
    let is_translated = entry.flags & flow_flags::TRANSLATED != 0;
    if is_translated {
        let alias = half_open(&other);
        if !alias.is_null() {
            // SAFETY: a map value.
            add_confirmed(&other, unsafe { &mut *alias })?;
        }
    }
    if let Err(reason) = add_confirmed(direct, entry) {
        if is_translated {
            remove_from(&CT_CONFIRMED, &other);
        }
        return Err(reason);
    }
    // Only now: whoever finds neither meanwhile would take the next packet for a new flow.
    remove_half_open(direct);
    if is_translated {
        remove_half_open(&other);
    }
    Ok(())
}

#[inline(never)]
fn half_open(tuple: &Tuple) -> *mut CtEntry {
    let (key, _) = FlowKey::of(tuple);
    CT_HALF_OPEN.get_ptr_mut(key).unwrap_or_default()
}

#[inline(never)]
fn add_confirmed(tuple: &Tuple, entry: &mut CtEntry) -> Result<(), DropReason> {
    let (key, _) = FlowKey::of(tuple);
    entry.flags |= flow_flags::CONFIRMED;
    match CT_CONFIRMED.insert(key, &*entry, NO_EXIST) {
        // Another CPU was first, and its entry may be ahead of this one.
        Ok(()) | Err(EEXIST) => Ok(()),
        Err(_) => {
            entry.flags &= !flow_flags::CONFIRMED;
            Err(DropReason::ConntrackFull)
        }
    }
}

#[inline(never)]
fn remove_half_open(tuple: &Tuple) {
    let (key, _) = FlowKey::of(tuple);
    // Absent when another CPU has moved it already.
    let _ = CT_HALF_OPEN.remove(key);
}

#[inline(never)]
fn remove_from(table: &HashMap<FlowKey, CtEntry>, tuple: &Tuple) {
    let (key, _) = FlowKey::of(tuple);
    let _ = table.remove(key);
}

/// The entry for a packet's tuple, unless it has expired. An alias never expires by itself: its flow decides.
#[inline(always)]
pub(crate) fn find(tuple: &Tuple, now_ns: u64) -> Option<Found> {
    find_for(tuple, false, now_ns)
}

/// The same for a packet that may open a connection. Such a one takes no second look for a flow that is confirmed
/// meanwhile: what that flow would lose is a repeated SYN.
#[inline(always)]
pub(crate) fn find_for(tuple: &Tuple, opens: bool, now_ns: u64) -> Option<Found> {
    let entry = lookup(tuple, opens, now_ns);
    if entry.is_null() {
        return None;
    }
    // SAFETY: a map value.
    let flags = unsafe { (*entry).flags };
    let from_opener = (flags & flow_flags::OPENER_IS_KEY_SRC != 0) == FlowKey::is_normal(tuple);
    Some(Found { entry, from_opener })
}

/// As a call of its own, so that the key is on the stack only meanwhile. What has expired is removed, or it would hide in
/// the confirmed table the entry of the flow that is opened next.
#[inline(never)]
fn lookup(tuple: &Tuple, opens: bool, now_ns: u64) -> *mut CtEntry {
    let (key, _) = FlowKey::of(tuple);
    let confirmed = || CT_CONFIRMED.get_ptr_mut(key);
    // Asked again, because a flow that is confirmed meanwhile leaves the second table for the first.
    let again = || if opens { None } else { confirmed() };
    let Some(entry) = confirmed().or_else(|| CT_HALF_OPEN.get_ptr_mut(key)).or_else(again) else {
        return core::ptr::null_mut();
    };
    // SAFETY: a map value.
    let found = unsafe { &*entry };
    if found.flags & flow_flags::ALIAS == 0 && is_expired(found, tuple.protocol, now_ns) {
        let _ = CT_CONFIRMED.remove(key);
        return core::ptr::null_mut();
    }
    entry
}

/// Timeouts are whole seconds; a second of 2³⁰ ns avoids a division and is 7 % generous.
#[inline(always)]
fn is_expired(entry: &CtEntry, protocol: u8, now_ns: u64) -> bool {
    // Another CPU's coarse clock may be a tick ahead: then idle is negative, and the flow lives.
    let idle_ns = now_ns.wrapping_sub(entry.last_seen_ns) as i64;
    let kind = match protocol {
        protocol::TCP | protocol::SCTP => 0,
        protocol::UDP => 1,
        _ => 2,
    };
    idle_ns > TIMEOUTS_NS[(kind << 3 | usize::from(entry.state & 7)) & 31]
}

/// [`CtState::timeout_s`] by kind of protocol and state: a load, where the verifier would follow every branch.
static TIMEOUTS_NS: [i64; 32] = {
    let mut table = [0; 32];
    let mut place = 0;
    while place < table.len() {
        let protocol = [protocol::TCP, protocol::UDP, protocol::ICMP, protocol::ICMP][place >> 3];
        table[place] = (CtState::from_number((place & 7) as u8).timeout_s(protocol) << 30) as i64;
        place += 1;
    }
    table
};

/// Whether a new flow may take the direct tuple `scratch.opened`: there is none, it has ended, it is what is left of the
/// same flow when its alias was evicted, or it is only a straggler of the other side that came after its flow was
/// forgotten.
#[inline(always)]
pub(crate) fn is_free() -> bool {
    is_opened_free() != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_opened_free() -> u32 {
    scratch::get().map_or(0, |scratch| u32::from(is_tuple_free(&scratch.opened, &scratch.sent)))
}

#[inline(always)]
fn is_tuple_free(tuple: &Tuple, sent: &Tuple) -> bool {
    let Some(found) = find(tuple, config::now_ns()) else {
        return true;
    };
    let is_free = match found.state() {
        _ if found.has(flow_flags::ALIAS) => false,
        _ if found.is_translation_of(sent) => true,
        CtState::Closed => true,
        CtState::New => !found.from_opener && !found.has(flow_flags::TRANSLATED),
        CtState::Replied | CtState::Established | CtState::Closing => false,
    };
    if is_free {
        forget(tuple);
    }
    is_free
}

/// Removes a flow's entry.
#[inline(always)]
pub(crate) fn forget(tuple: &Tuple) {
    // Absent in one of them, or by now in both.
    remove_from(&CT_CONFIRMED, tuple);
    remove_half_open(tuple);
}

/// Makes the entries of the new flow in `scratch`, whose tuples have none in the confirmed table: what was `sent`, what it was translated to in `opened`, by which
/// `backend`, and how it was `judged`. `flags` are those that do not follow from the tuples.
///
/// # Errors
/// [`DropReason::ConntrackInsert`] when a table takes none.
#[inline(never)]
pub(crate) fn create(mut scratch: Handle, flags: u8, now_ns: u64) -> Result<(), DropReason> {
    let scratch: &mut Scratch = &mut scratch;
    let translated = scratch.opened != scratch.sent;
    let entry = &mut scratch.entry;
    entry.last_seen_ns = now_ns;
    entry.created_ns = now_ns;
    entry.judged = scratch.judged;
    entry.other = scratch.sent; // equal to `opened` without translation
    entry.backend = scratch.backend;
    entry.state = CtState::New as u8;
    entry.reserved = [0; 2];
    entry.flags = flags | if translated { flow_flags::TRANSLATED } else { 0 };
    insert(&scratch.opened, entry)?;
    if translated {
        // Packets for the node, by which it is to be found; a translated source has been noted with its choice.
        if scratch.responder.kind == EndKind::Host {
            ports::note(scratch.opened.protocol, scratch.opened.dst_port);
        }
        entry.judged = [Judgement::default(); 2];
        entry.other = scratch.opened;
        entry.flags = flow_flags::ALIAS | flags & flow_flags::SNAT;
        insert(&scratch.sent, entry)?;
    }
    Ok(())
}

#[inline(never)]
fn insert(tuple: &Tuple, entry: &mut CtEntry) -> Result<(), DropReason> {
    let (key, forward) = FlowKey::of(tuple);
    entry.flags |= if forward { flow_flags::OPENER_IS_KEY_SRC } else { 0 };
    CT_HALF_OPEN.insert(key, &*entry, 0).map_err(|_| DropReason::ConntrackInsert)
}
