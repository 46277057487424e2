//! Frontends, slices of slots, backends.
//!
//! A frontend whose backends change gets a new slice; the old one is freed after a grace period. A backend begins to take
//! flows before a frontend names it, and stops after.

use std::collections::{BTreeMap, HashMap, HashSet};

use sluice_abi::{
    Backend, BackendId, BackendState, Frontend, FrontendKey, ServiceId, ServiceMeta, Text, frontend_flags,
    maps::Numbers,
};

use super::{Limits, NumberSource, Phases, Rejection, policy::delete_unless};
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
    let mut draft = Draft::new(desired, actual, limits);
    let mut rejected = Vec::new();
    for (name, service) in &desired.services {
        if let Err(map) = draft.add(name, service, numbers) {
            draft.keep(name);
            rejected.push(Rejection::Service { map, service: name.clone() });
        }
    }
    Phases { rejected, ..draft.phases() }
}

/// What the maps lack, and what they hold that stays.
///
/// Most Services have not changed: for them nothing is built, only looked up.
#[derive(Debug)]
struct Draft<'a> {
    actual: &'a Actual,
    limits: &'a Limits,
    states: HashMap<BackendKey, BackendState>,
    known_services: HashMap<(&'a str, &'a str), ServiceId>,
    known_backends: HashMap<BackendKey, BackendId>,
    /// Made when the first slice is needed.
    free: Option<FreeSlots>,
    services: HashSet<ServiceId>,
    frontends: HashSet<FrontendKey>,
    backends: HashSet<BackendId>,
    /// Slices that stay: first slot, length.
    slices: Vec<(u32, u32)>,
    /// How many entries are in each map before anything is deleted.
    peak: Peak,
    phases: Phases,
}

#[derive(Clone, Copy, Debug)]
struct Peak {
    services: usize,
    frontends: usize,
    backends: usize,
}

impl<'a> Draft<'a> {
    fn new(desired: &DesiredState, actual: &'a Actual, limits: &'a Limits) -> Self {
        let key = |backend: &Backend| BackendKey {
            addr: backend.addr,
            protocol: backend.protocol,
            port: u16::from_be_bytes(backend.port),
        };
        let names = actual.service_meta.iter();
        let peak = Peak {
            services: actual.service_meta.len(),
            frontends: actual.frontends.len(),
            backends: actual.backends.len(),
        };
        Self {
            actual,
            limits,
            states: backend_states(desired),
            known_services: names
                .map(|(id, meta)| ((meta.namespace.as_str(), meta.name.as_str()), *id))
                .collect(),
            known_backends: actual.backends.iter().map(|(id, backend)| (key(backend), *id)).collect(),
            free: None,
            services: HashSet::with_capacity(peak.services),
            frontends: HashSet::with_capacity(peak.frontends),
            backends: HashSet::with_capacity(peak.backends),
            slices: Vec::with_capacity(peak.frontends),
            peak,
            phases: Phases::default(),
        }
    }

    /// Adds a Service whole, or nothing of it and names the map that is too small.
    fn add(
        &mut self,
        name: &NamespacedName,
        service: &DesiredService,
        numbers: &mut NumberSource,
    ) -> Result<(), &'static str> {
        self.room_for(name, service)?;
        let slices = self.slices_for(service).ok_or("SLOTS")?;
        let id = self.service(name, numbers);
        for key in service.backends.keys() {
            self.backend(*key, numbers);
        }
        for ((key, frontend), slice) in service.frontends.iter().zip(slices) {
            // Two Services with one address: the first by name has it.
            if !self.frontends.insert(*key) {
                continue;
            }
            let found = self.actual.frontends.get(key);
            self.peak.frontends += usize::from(found.is_none());
            match slice {
                Slice::Standing(first) => self.slices.push((first, length(frontend))),
                Slice::New(first) => {
                    let places = (first..).zip(&frontend.backends);
                    let put = |(slot, key)| Step::Put(Entry::Slot(slot, self.known_backends[key]));
                    self.phases.prepare.extend(places.map(put));
                }
            }
            let (Slice::Standing(first) | Slice::New(first)) = slice;
            let value = value(id, key.port, first, frontend);
            if found != Some(&value) {
                self.phases.switch.push(Step::Put(Entry::Frontend(*key, value)));
            }
        }
        Ok(())
    }

    fn service(&mut self, name: &NamespacedName, numbers: &mut NumberSource) -> ServiceId {
        let known = self.known_services.get(&(&*name.namespace, &*name.name)).copied();
        let id = known.unwrap_or_else(|| {
            let id = ServiceId(numbers.take(Numbers::Service));
            let meta = ServiceMeta { namespace: Text::new(&name.namespace), name: Text::new(&name.name) };
            self.phases.prepare.push(Step::Put(Entry::ServiceMeta(id, meta)));
            self.peak.services += 1;
            id
        });
        self.services.insert(id);
        id
    }

    fn backend(&mut self, key: BackendKey, numbers: &mut NumberSource) {
        let known = self.known_backends.get(&key).copied();
        let id = known.unwrap_or_else(|| {
            self.peak.backends += 1;
            BackendId(numbers.take(Numbers::Backend))
        });
        self.known_backends.insert(key, id);
        if !self.backends.insert(id) {
            return;
        }
        let BackendKey { addr, protocol, port } = key;
        let backend = Backend { addr, port: port.to_be_bytes(), protocol, state: self.states[&key] as u8 };
        let put = Step::Put(Entry::Backend(id, backend));
        match self.actual.backends.get(&id) {
            Some(found) if *found == backend => {}
            Some(_) if backend.state != BackendState::Active as u8 => self.phases.clear.push(put),
            Some(_) | None => self.phases.prepare.push(put),
        }
    }

    fn room_for(&self, name: &NamespacedName, service: &DesiredService) -> Result<(), &'static str> {
        let is_new =
            |key: &&FrontendKey| !self.actual.frontends.contains_key(key) && !self.frontends.contains(key);
        let frontends = service.frontends.keys().filter(is_new).count();
        let backends = service.backends.keys().filter(|key| !self.known_backends.contains_key(key)).count();
        let is_known = self.known_services.contains_key(&(&*name.namespace, &*name.name));
        let limits = self.limits;
        match () {
            () if self.peak.services + usize::from(!is_known) > limits.service_meta => Err("SERVICE_META"),
            () if self.peak.frontends + frontends > limits.frontends => Err("FRONTENDS"),
            () if self.peak.backends + backends > limits.backends => Err("BACKENDS"),
            () => Ok(()),
        }
    }

    /// The slice of each frontend; `None` when one of them finds no room.
    fn slices_for(&mut self, service: &DesiredService) -> Option<Vec<Slice>> {
        let mut slices: Vec<Option<Slice>> =
            service.frontends.iter().map(|(key, frontend)| self.standing(key, frontend)).collect();
        if slices.iter().all(Option::is_some) {
            return slices.into_iter().collect();
        }
        let free = self.free.get_or_insert_with(|| FreeSlots::of(self.actual, self.limits.slots));
        let before = free.clone();
        for (slice, (key, frontend)) in slices.iter_mut().zip(&service.frontends) {
            if slice.is_none() {
                let needs_none = frontend.backends.is_empty() || self.frontends.contains(key);
                let first = if needs_none { Some(0) } else { free.take(frontend.backends.len()) };
                *slice = first.map(Slice::New);
            }
        }
        let complete: Option<Vec<Slice>> = slices.into_iter().collect();
        if complete.is_none() {
            *free = before;
        }
        complete
    }

    /// The slice that a frontend has, when the right backends are in it.
    fn standing(&self, key: &FrontendKey, frontend: &DesiredFrontend) -> Option<Slice> {
        let found = self.actual.frontends.get(key)?;
        let end = found.first_slot.checked_add(found.count)?;
        let mut standing = self.actual.slots.range(found.first_slot..end).map(|(_, id)| id);
        let mut wanted = frontend.backends.iter();
        let stand =
            wanted.all(|key| standing.next().is_some_and(|id| self.known_backends.get(key) == Some(id)));
        (stand && found.count == length(frontend)).then_some(Slice::Standing(found.first_slot))
    }

    /// Keeps all there is of a Service.
    fn keep(&mut self, name: &NamespacedName) {
        let Some(id) = self.known_services.get(&(&*name.namespace, &*name.name)).copied() else { return };
        self.services.insert(id);
        for (key, frontend) in self.actual.frontends.iter().filter(|(_, frontend)| frontend.service == id) {
            if !self.frontends.insert(*key) {
                continue;
            }
            self.slices.push((frontend.first_slot, frontend.count));
            let end = frontend.first_slot.saturating_add(frontend.count);
            self.backends.extend(self.actual.slots.range(frontend.first_slot..end).map(|(_, id)| *id));
        }
    }

    fn phases(mut self) -> Phases {
        let actual = self.actual;
        let frontends = &self.frontends;
        delete_unless(
            &actual.frontends,
            |key| frontends.contains(key),
            Key::Frontend,
            &mut self.phases.switch,
        );
        let occupied = actual.slots.values().filter(|id| **id != BackendId::NONE).count();
        let staying: u64 = self.slices.iter().map(|(_, length)| u64::from(*length)).sum();
        if u64::try_from(occupied) != Ok(staying) {
            let slots: HashSet<u32> = self
                .slices
                .iter()
                .flat_map(|(first, length)| *first..first.saturating_add(*length))
                .collect();
            let stays = |slot: &u32| slots.contains(slot) || actual.slots[slot] == BackendId::NONE;
            delete_unless(&actual.slots, stays, Key::Slot, &mut self.phases.clear);
        }
        delete_unless(
            &actual.backends,
            |id| self.backends.contains(id),
            Key::Backend,
            &mut self.phases.clear,
        );
        delete_unless(
            &actual.service_meta,
            |id| self.services.contains(id),
            Key::ServiceMeta,
            &mut self.phases.clear,
        );
        self.phases
    }
}

/// The state of each backend: the best that any Service has for it.
fn backend_states(desired: &DesiredState) -> HashMap<BackendKey, BackendState> {
    let mut states = HashMap::with_capacity(desired.services.len());
    for (key, state) in desired.services.values().flat_map(|service| &service.backends) {
        let known = states.entry(*key).or_insert(*state);
        *known = (*known).min(*state);
    }
    states
}

/// Where a frontend's backends are.
#[derive(Clone, Copy, Debug)]
enum Slice {
    /// In the slots from here on, already.
    Standing(u32),
    /// To be written from here on.
    New(u32),
}

fn length(frontend: &DesiredFrontend) -> u32 {
    u32::try_from(frontend.backends.len()).expect("fewer backends than addresses of pods")
}

fn value(service: ServiceId, port: [u8; 2], first_slot: u32, frontend: &DesiredFrontend) -> Frontend {
    Frontend {
        first_slot,
        count: length(frontend),
        service,
        affinity_s: frontend.affinity_s.unwrap_or_default(),
        flags: if frontend.affinity_s.is_some() { frontend_flags::AFFINITY } else { 0 },
        service_port: port,
    }
}

/// Slots that nothing uses, as ranges: first slot → length.
#[derive(Clone, Debug)]
struct FreeSlots(BTreeMap<u32, u32>);

impl FreeSlots {
    fn of(actual: &Actual, capacity: usize) -> Self {
        let used = actual.slots.iter().filter(|(_, id)| **id != BackendId::NONE).map(|(slot, _)| *slot);
        let (mut free, mut next) = (BTreeMap::new(), 0);
        for slot in used.chain([u32::try_from(capacity).unwrap_or(u32::MAX)]) {
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
