//! Frontends, slices of slots, backends.
//!
//! A frontend whose backends change gets a new slice; the old one is freed after a grace period. A backend begins to take
//! flows before a frontend names it, and stops after.

use std::collections::{BTreeMap, BTreeSet};

use sluice_abi::{
    Backend, BackendId, BackendState, Frontend, FrontendKey, ServiceId, ServiceMeta, Text, frontend_flags,
    maps::Numbers,
};

use super::{
    Limits, NumberSource, Phases, Rejection,
    policy::{delete_unless, put_changed},
};
use crate::{
    desired::{BackendKey, DesiredFrontend, DesiredService, DesiredState},
    object::NamespacedName,
    plan::{Actual, Entry, Key, Step},
};

/// Plans this half of the state.
pub(super) fn plan(
    desired: &DesiredState,
    actual: &Actual,
    limits: &Limits,
    numbers: &mut NumberSource,
) -> Phases {
    let mut draft = Draft::new(actual, limits);
    let mut rejected = Vec::new();
    let states = backend_states(desired);
    for (name, service) in &desired.services {
        if let Err(map) = draft.add(name, service, &states, numbers) {
            rejected.push(Rejection::Service { map, service: name.clone() });
        }
    }
    Phases { rejected, ..draft.phases() }
}

/// The state of each backend: the best that any Service has for it.
fn backend_states(desired: &DesiredState) -> BTreeMap<BackendKey, BackendState> {
    let mut states = BTreeMap::new();
    for (key, state) in desired.services.values().flat_map(|service| &service.backends) {
        let known = states.entry(*key).or_insert(*state);
        *known = (*known).min(*state);
    }
    states
}

/// What the maps shall hold, Service by Service.
#[derive(Debug)]
struct Draft<'a> {
    actual: &'a Actual,
    limits: &'a Limits,
    known_services: BTreeMap<NamespacedName, ServiceId>,
    known_backends: BTreeMap<BackendKey, BackendId>,
    free: FreeSlots,
    services: BTreeMap<ServiceId, ServiceMeta>,
    frontends: BTreeMap<FrontendKey, Frontend>,
    slots: BTreeMap<u32, BackendId>,
    backends: BTreeMap<BackendId, Backend>,
    /// How many entries are in each map before anything is deleted.
    peak: Peak,
}

#[derive(Clone, Copy, Debug)]
struct Peak {
    services: usize,
    frontends: usize,
    backends: usize,
}

impl<'a> Draft<'a> {
    fn new(actual: &'a Actual, limits: &'a Limits) -> Self {
        let name = |meta: &ServiceMeta| NamespacedName::new(meta.namespace.as_str(), meta.name.as_str());
        let key = |backend: &Backend| BackendKey {
            addr: backend.addr,
            protocol: backend.protocol,
            port: u16::from_be_bytes(backend.port),
        };
        Self {
            actual,
            limits,
            known_services: actual.service_meta.iter().map(|(id, meta)| (name(meta), *id)).collect(),
            known_backends: actual.backends.iter().map(|(id, backend)| (key(backend), *id)).collect(),
            free: FreeSlots::of(actual, limits.slots),
            services: BTreeMap::new(),
            frontends: BTreeMap::new(),
            slots: BTreeMap::new(),
            backends: BTreeMap::new(),
            peak: Peak {
                services: actual.service_meta.len(),
                frontends: actual.frontends.len(),
                backends: actual.backends.len(),
            },
        }
    }

    /// Adds a Service whole, or keeps what there is of it and names the map that is too small.
    fn add(
        &mut self,
        name: &NamespacedName,
        service: &DesiredService,
        states: &BTreeMap<BackendKey, BackendState>,
        numbers: &mut NumberSource,
    ) -> Result<(), &'static str> {
        if let Err(map) = self.room_for(name, service) {
            self.keep(name);
            return Err(map);
        }
        let Some(slices) = self.slices(service) else {
            self.keep(name);
            return Err("SLOTS");
        };
        let id = match self.known_services.get(name) {
            Some(id) => *id,
            None => {
                self.peak.services += 1;
                ServiceId(numbers.take(Numbers::Service))
            }
        };
        self.known_services.insert(name.clone(), id);
        let meta = ServiceMeta { namespace: Text::new(&name.namespace), name: Text::new(&name.name) };
        self.services.insert(id, meta);
        for key in service.backends.keys() {
            self.backend(*key, states[key], numbers);
        }
        for ((key, frontend), first_slot) in service.frontends.iter().zip(slices) {
            // Two Services with one address: the first by name has it.
            if self.frontends.contains_key(key) {
                continue;
            }
            if !self.actual.frontends.contains_key(key) {
                self.peak.frontends += 1;
            }
            for (slot, backend) in (first_slot..).zip(&frontend.backends) {
                self.slots.insert(slot, self.known_backends[backend]);
            }
            self.frontends.insert(*key, value(id, first_slot, frontend));
        }
        Ok(())
    }

    fn backend(&mut self, key: BackendKey, state: BackendState, numbers: &mut NumberSource) {
        let id = match self.known_backends.get(&key) {
            Some(id) => *id,
            None => {
                self.peak.backends += 1;
                BackendId(numbers.take(Numbers::Backend))
            }
        };
        self.known_backends.insert(key, id);
        let BackendKey { addr, protocol, port } = key;
        self.backends.insert(id, Backend { addr, port: port.to_be_bytes(), protocol, state: state as u8 });
    }

    fn room_for(&self, name: &NamespacedName, service: &DesiredService) -> Result<(), &'static str> {
        let is_new = |key: &&FrontendKey| {
            !self.actual.frontends.contains_key(key) && !self.frontends.contains_key(key)
        };
        let frontends = service.frontends.keys().filter(is_new).count();
        let backends = service.backends.keys().filter(|key| !self.known_backends.contains_key(key)).count();
        let services = usize::from(!self.known_services.contains_key(name));
        let limits = self.limits;
        match () {
            () if self.peak.services + services > limits.service_meta => Err("SERVICE_META"),
            () if self.peak.frontends + frontends > limits.frontends => Err("FRONTENDS"),
            () if self.peak.backends + backends > limits.backends => Err("BACKENDS"),
            () => Ok(()),
        }
    }

    /// The first slot of each frontend: where its backends stand already, else in a free slice.
    fn slices(&mut self, service: &DesiredService) -> Option<Vec<u32>> {
        let before = self.free.clone();
        let mut slices = Vec::with_capacity(service.frontends.len());
        for (key, frontend) in &service.frontends {
            let taken = self.frontends.contains_key(key);
            let slice = match self.standing(key, frontend) {
                Some(first) => Some(first),
                None if taken || frontend.backends.is_empty() => Some(0),
                None => self.free.take(frontend.backends.len()),
            };
            let Some(first) = slice else {
                self.free = before;
                return None;
            };
            slices.push(first);
        }
        Some(slices)
    }

    fn standing(&self, key: &FrontendKey, frontend: &DesiredFrontend) -> Option<u32> {
        let found = self.actual.frontends.get(key)?;
        let is_same_length = usize::try_from(found.count).is_ok_and(|count| count == frontend.backends.len());
        let mut pairs = (found.first_slot..).zip(&frontend.backends);
        let stands = |(slot, backend): (u32, &BackendKey)| {
            let id = self.actual.slots.get(&slot);
            id.is_some() && id == self.known_backends.get(backend)
        };
        (is_same_length && pairs.all(stands)).then_some(found.first_slot)
    }

    /// Keeps all there is of a Service.
    fn keep(&mut self, name: &NamespacedName) {
        let Some(id) = self.known_services.get(name).copied() else { return };
        let Some(meta) = self.actual.service_meta.get(&id) else { return };
        self.services.insert(id, *meta);
        for (key, frontend) in self.actual.frontends.iter().filter(|(_, frontend)| frontend.service == id) {
            if self.frontends.contains_key(key) {
                continue;
            }
            self.frontends.insert(*key, *frontend);
            let slice = frontend.first_slot..frontend.first_slot.saturating_add(frontend.count);
            for (slot, backend) in self.actual.slots.range(slice) {
                self.slots.insert(*slot, *backend);
                if let Some(found) = self.actual.backends.get(backend) {
                    self.backends.entry(*backend).or_insert(*found);
                }
            }
        }
    }

    fn phases(self) -> Phases {
        let mut phases = Phases::default();
        let actual = self.actual;
        put_changed(&self.services, &actual.service_meta, Entry::ServiceMeta, &mut phases.prepare);
        for (id, backend) in &self.backends {
            let put = Step::Put(Entry::Backend(*id, *backend));
            match actual.backends.get(id) {
                Some(found) if found == backend => {}
                Some(_) if backend.state != BackendState::Active as u8 => phases.clear.push(put),
                Some(_) | None => phases.prepare.push(put),
            }
        }
        put_changed(&self.slots, &actual.slots, Entry::Slot, &mut phases.prepare);
        put_changed(&self.frontends, &actual.frontends, Entry::Frontend, &mut phases.switch);
        let is_wanted = |key: &FrontendKey| self.frontends.contains_key(key);
        delete_unless(&actual.frontends, is_wanted, Key::Frontend, &mut phases.switch);
        let used = |slot: &u32| self.slots.contains_key(slot) || actual.slots[slot] == BackendId::NONE;
        delete_unless(&actual.slots, used, Key::Slot, &mut phases.clear);
        delete_unless(&actual.backends, |id| self.backends.contains_key(id), Key::Backend, &mut phases.clear);
        let is_named = |id: &ServiceId| self.services.contains_key(id);
        delete_unless(&actual.service_meta, is_named, Key::ServiceMeta, &mut phases.clear);
        phases
    }
}

fn value(service: ServiceId, first_slot: u32, frontend: &DesiredFrontend) -> Frontend {
    Frontend {
        first_slot,
        count: u32::try_from(frontend.backends.len()).expect("a slice fits the slots"),
        service,
        affinity_s: frontend.affinity_s.unwrap_or_default(),
        flags: if frontend.affinity_s.is_some() { frontend_flags::AFFINITY } else { 0 },
        reserved: 0,
    }
}

/// Slots that nothing uses, as ranges: first slot → length.
#[derive(Clone, Debug)]
struct FreeSlots(BTreeMap<u32, u32>);

impl FreeSlots {
    fn of(actual: &Actual, capacity: usize) -> Self {
        let used: BTreeSet<u32> =
            actual.slots.iter().filter(|(_, id)| **id != BackendId::NONE).map(|(slot, _)| *slot).collect();
        let (mut free, mut next) = (BTreeMap::new(), 0);
        for slot in used.into_iter().chain([u32::try_from(capacity).unwrap_or(u32::MAX)]) {
            if slot > next {
                free.insert(next, slot - next);
            }
            next = slot.saturating_add(1);
        }
        Self(free)
    }

    /// Takes the first slice that is long enough.
    fn take(&mut self, length: usize) -> Option<u32> {
        let length = u32::try_from(length).ok()?;
        let (first, free) =
            self.0.iter().find(|(_, free)| **free >= length).map(|(first, free)| (*first, *free))?;
        self.0.remove(&first);
        if free > length {
            self.0.insert(first + length, free - length);
        }
        Some(first)
    }
}
