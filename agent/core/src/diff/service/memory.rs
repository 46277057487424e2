//! What the maps hold of Services, in symbols, so that a change finds what it touches.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use sluice_abi::{
    Addr, Backend, BackendId, BackendState, Frontend, FrontendKey, Prefix, ServiceId, ServiceMeta,
    frontend_flags,
};

use super::slots::FreeSlots;
use crate::{
    desired::{BackendKey, DesiredFrontend, DesiredService, FrontendKind, Slots},
    maglev,
    object::NamespacedName,
    plan::{Actual, SourceRange},
};

/// Everything the maps hold of Services.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    pub(super) services: HashMap<NamespacedName, Held>,
    pub(super) uses: HashMap<BackendKey, Use>,
    pub(super) free: FreeSlots,
    /// Services that did not fit, and the map that was too small.
    pub(super) refused: BTreeMap<NamespacedName, &'static str>,
    /// Services whose tables did not fit: chance chooses.
    pub(super) by_chance: BTreeSet<NamespacedName>,
}

/// What the maps hold of one Service.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) id: ServiceId,
    pub(super) service: Arc<DesiredService>,
    pub(super) slices: Vec<Slice>,
}

/// A slice of `SLOTS`.
#[derive(Clone, Debug)]
pub(super) struct Slice {
    pub(super) first: u32,
    pub(super) length: u32,
    /// What it holds; `None` is something that no frontend can ask for.
    pub(super) slots: Option<Slots>,
}

/// A backend in the maps, and how many Services need it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use {
    pub(super) id: BackendId,
    pub(super) active: u32,
    pub(super) ending: u32,
}

impl Use {
    pub(super) fn new(id: BackendId) -> Self {
        Self { id, active: 0, ending: 0 }
    }

    pub(super) fn count(&mut self, state: BackendState) -> &mut u32 {
        match state {
            BackendState::Active => &mut self.active,
            BackendState::Terminating => &mut self.ending,
        }
    }

    /// The best that any Service has for it; `None` when nobody needs it.
    pub(super) fn state(&self) -> Option<BackendState> {
        match (self.active, self.ending) {
            (0, 0) => None,
            (0, _) => Some(BackendState::Terminating),
            (_, _) => Some(BackendState::Active),
        }
    }
}

/// What the maps hold that no Service needs.
#[derive(Clone, Debug, Default)]
pub(super) struct Litter {
    pub(super) frontends: BTreeSet<FrontendKey>,
    /// Still occupied: they may be read until they are cleared.
    pub(super) slots: Vec<u32>,
    pub(super) backends: Vec<BackendId>,
    pub(super) metas: BTreeSet<ServiceId>,
    pub(super) source_ranges: Vec<SourceRange>,
}

impl Memory {
    /// Reads the maps.
    pub(super) fn read(actual: &Actual, capacity: usize) -> (Self, Litter) {
        let mut litter = Litter::default();
        let mut uses = HashMap::with_capacity(actual.backends.len());
        for (id, backend) in &actual.backends {
            let older: Option<Use> = uses.insert(key(backend), Use::new(*id));
            litter.backends.extend(older.map(|older| older.id));
        }
        let keys = uses.iter().map(|(key, known)| (known.id, *key)).collect();
        let mut reader = Reader { actual, keys, tables: HashMap::new() };
        let ids = actual.service_meta.keys();
        let mut found: BTreeMap<ServiceId, Held> = ids.map(|id| (*id, reader.held(*id))).collect();
        for (key, frontend) in &actual.frontends {
            match found.get_mut(&frontend.service) {
                Some(held) => reader.add(held, *key, frontend),
                None => drop(litter.frontends.insert(*key)),
            }
        }
        let is_known = |range: &&SourceRange| found.contains_key(&range.service);
        litter.source_ranges =
            actual.source_ranges.keys().filter(|range| !is_known(range)).copied().collect();
        let mut services = HashMap::with_capacity(found.len());
        for (id, held) in found {
            // The same name twice: the newer one is it.
            if let Some(older) = services.insert(name(&actual.service_meta[&id]), held) {
                litter.abandon(&older);
            }
        }
        let slices = services.values().flat_map(|held| &held.slices);
        let mut used: BTreeSet<(u32, u32)> = slices.map(|slice| (slice.first, slice.length)).collect();
        litter.slots = occupied_outside(actual, &used);
        used.extend(litter.slots.iter().map(|slot| (*slot, 1)));
        let free = FreeSlots::between(used, capacity);
        for (key, state) in services.values().flat_map(|held| &held.service.backends) {
            if let Some(known) = uses.get_mut(key) {
                *known.count(*state) += 1;
            }
        }
        (Self { services, uses, free, refused: BTreeMap::new(), by_chance: BTreeSet::new() }, litter)
    }
}

impl Litter {
    fn abandon(&mut self, held: &Held) {
        self.metas.insert(held.id);
        self.frontends.extend(held.service.frontends.keys());
        let ranges = held.service.source_ranges.iter();
        self.source_ranges.extend(ranges.map(|clients| SourceRange { service: held.id, clients: *clients }));
    }
}

fn key(backend: &Backend) -> BackendKey {
    let Backend { addr, protocol, port, state: _ } = *backend;
    BackendKey { addr, protocol, port: u16::from_be_bytes(port) }
}

fn name(meta: &ServiceMeta) -> NamespacedName {
    NamespacedName::new(meta.namespace.as_str(), meta.name.as_str())
}

/// Slots that hold something and lie in none of the slices.
fn occupied_outside(actual: &Actual, slices: &BTreeSet<(u32, u32)>) -> Vec<u32> {
    let mut slices = slices.iter().copied().peekable();
    let mut end = 0;
    let mut outside = Vec::new();
    for slot in actual.slots.iter().filter(|(_, id)| **id != BackendId::NONE).map(|(slot, _)| *slot) {
        while let Some((first, length)) = slices.next_if(|(first, _)| *first <= slot) {
            end = end.max(first.saturating_add(length));
        }
        if slot >= end {
            outside.push(slot);
        }
    }
    outside
}

/// Puts symbols to what the maps hold.
#[derive(Debug)]
struct Reader<'a> {
    actual: &'a Actual,
    keys: HashMap<BackendId, BackendKey>,
    /// Slices that were read, by place.
    tables: HashMap<(u32, u32, u32, bool), Option<Slots>>,
}

impl Reader<'_> {
    fn held(&self, id: ServiceId) -> Held {
        let ranges = self.actual.source_ranges.range(SourceRange { service: id, clients: EVERYTHING }..);
        let ranges = ranges.take_while(|(range, _)| range.service == id);
        let source_ranges = ranges.map(|(range, _)| range.clients).collect();
        let service = Arc::new(DesiredService { source_ranges, ..DesiredService::default() });
        Held { id, service, slices: Vec::new() }
    }

    fn add(&mut self, held: &mut Held, key: FrontendKey, frontend: &Frontend) {
        let slots = self.slots(frontend);
        let service = Arc::make_mut(&mut held.service);
        let has = |flag| frontend.flags & flag != 0;
        for key in slots.iter().flat_map(|slots| slots.backends.iter()) {
            service.backends.insert(*key, BackendState::Active);
        }
        let (first, length) = (frontend.first_slot, length(frontend));
        if length > 0 && held.slices.iter().all(|slice| slice.first != first) {
            held.slices.push(Slice { first, length, slots: slots.clone() });
        }
        let frontend = DesiredFrontend {
            kind: kind(&key, frontend),
            slots: slots.unwrap_or_default(),
            affinity_s: has(frontend_flags::AFFINITY).then_some(frontend.affinity_s),
            is_local: has(frontend_flags::LOCAL),
            has_source_ranges: has(frontend_flags::SOURCE_RANGES),
            service_port: u16::from_be_bytes(frontend.service_port),
        };
        service.frontends.insert(key, frontend);
    }

    /// What a frontend's slice holds; `None` when that is nothing that is ever written whole.
    fn slots(&mut self, frontend: &Frontend) -> Option<Slots> {
        let is_table = frontend.flags & frontend_flags::MAGLEV != 0;
        let place = (frontend.first_slot, frontend.count, frontend.backends, is_table);
        if let Some(known) = self.tables.get(&place) {
            return known.clone();
        }
        let end = frontend.first_slot.checked_add(length(frontend))?;
        let found: Vec<BackendId> =
            self.actual.slots.range(frontend.first_slot..end).map(|(_, id)| *id).collect();
        let ids: BTreeMap<BackendKey, BackendId> =
            found.iter().filter_map(|id| Some((*self.keys.get(id)?, *id))).collect();
        let slots =
            Slots { backends: ids.keys().copied().collect(), table: is_table.then_some(frontend.count) };
        let is_whole = is_written_whole(&slots)
            && ids.len() == frontend.backends as usize
            && content(&slots, |key| ids[key]) == found;
        let slots = is_whole.then_some(slots);
        self.tables.insert(place, slots.clone());
        slots
    }
}

fn is_written_whole(slots: &Slots) -> bool {
    let fits = |size| maglev::is_size(size) && slots.backends.len() <= size as usize;
    slots.table.is_none_or(fits)
}

/// What stands in each slot of a slice: the table if there is one, and each backend once, by rising number, so that a
/// program finds one among them by halving.
pub(super) fn content(slots: &Slots, id: impl Fn(&BackendKey) -> BackendId) -> Vec<BackendId> {
    let mut each: Vec<_> = slots.backends.iter().map(&id).collect();
    each.sort_unstable();
    let table = slots.table.filter(|_| !each.is_empty());
    let places = table.map(|size| maglev::table(&slots.backends, size)).unwrap_or_default();
    places.into_iter().map(|index| id(&slots.backends[index])).chain(each).collect()
}

/// Slots of a frontend's slice, its table and its backends.
fn length(frontend: &Frontend) -> u32 {
    let (first, count) = frontend.members();
    first.saturating_sub(frontend.first_slot).saturating_add(count)
}

/// The first of all ranges.
const EVERYTHING: Prefix = Prefix { addr: Addr::UNSPECIFIED, bits: 0 };

fn kind(key: &FrontendKey, frontend: &Frontend) -> FrontendKind {
    let has = |flag| frontend.flags & flag != 0;
    if key.addr == FrontendKey::NODE_V4 || key.addr == FrontendKey::NODE_V6 {
        FrontendKind::NodePort
    } else if has(frontend_flags::LOAD_BALANCER) {
        FrontendKind::LoadBalancer
    } else if has(frontend_flags::EXTERNAL_IP) {
        FrontendKind::ExternalIp
    } else {
        FrontendKind::ClusterIp
    }
}
