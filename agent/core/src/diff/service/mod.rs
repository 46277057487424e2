//! Frontends, slices of slots, backends, source ranges.
//!
//! A frontend whose backends change gets a new slice; the old one is freed after a grace period. A backend begins to take
//! flows before a frontend names it, and stops after; a client's range stands before a frontend asks for it, and after
//! frontends that ask for it have gone. `memory` knows what the maps hold, so that a plan looks at nothing but what has changed; `slots` has the room.

mod memory;
mod slots;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use memory::{Held, Litter, Memory, Slice, Use, content};
use sluice_abi::{
    Backend, BackendId, BackendState, Frontend, FrontendKey, Prefix, ServiceId, ServiceMeta, Text,
    frontend_flags, maps::Numbers,
};

use super::{Limits, NumberSource, Phases, Rejection};
use crate::{
    desired::{BackendKey, DesiredFrontend, DesiredService, DesiredState, FrontendKind, Slots},
    object::NamespacedName,
    plan::{Actual, Entry, Key, Plan, SourceRange, Step},
};

/// Plans this half of the state, change by change.
#[derive(Clone, Debug)]
pub(super) struct Services(Memory);

impl Services {
    /// Reads what the maps hold, and plans everything.
    pub(super) fn first_plan(
        desired: &DesiredState,
        actual: &Actual,
        limits: &Limits,
        numbers: &mut NumberSource,
    ) -> (Self, Phases) {
        let (mut memory, litter) = Memory::read(actual, limits.slots);
        let names: BTreeSet<_> = desired.services.keys().chain(memory.services.keys()).cloned().collect();
        let mut draft = Draft::new(&mut memory, actual, limits, numbers);
        draft.take_out(&litter);
        names.iter().for_each(|name| draft.plan(name, desired.services.get(name)));
        let phases = draft.phases(desired, litter);
        (Self(memory), phases)
    }

    /// Nobody reads any more what earlier plans have freed.
    pub(super) fn cleared(&mut self) {
        self.0.free.rested();
    }

    /// Plans the Services that have changed since the last plan, which was carried out whole.
    pub(super) fn plan(
        &mut self,
        changed: &BTreeSet<NamespacedName>,
        desired: &DesiredState,
        actual: &Actual,
        limits: &Limits,
        numbers: &mut NumberSource,
    ) -> Phases {
        // What did not fit may fit now.
        let left_out = self.0.refused.keys().chain(&self.0.by_chance);
        let again: Vec<_> = left_out.filter(|name| !changed.contains(name)).cloned().collect();
        let mut draft = Draft::new(&mut self.0, actual, limits, numbers);
        changed.iter().chain(&again).for_each(|name| draft.plan(name, desired.services.get(name)));
        draft.phases(desired, Litter::default())
    }
}

/// A plan in the making; the memory is already as the maps will be.
#[derive(Debug)]
struct Draft<'a> {
    memory: &'a mut Memory,
    actual: &'a Actual,
    limits: &'a Limits,
    numbers: &'a mut NumberSource,
    /// How many entries are in each map before anything is deleted.
    peak: Peak,
    /// Frontends that some Service has in the end.
    kept: HashSet<FrontendKey>,
    /// Frontends that a Service had and has no more.
    gone: BTreeSet<FrontendKey>,
    /// Backends whose use has changed.
    touched: BTreeSet<BackendKey>,
    switch: Switch,
    /// Slices that are free once the plan has been carried out.
    freed: Vec<Slice>,
    phases: Phases,
}

/// What packets meet at once, in order, after the frontends that go: no client is let in whom neither the old ranges of a
/// frontend nor the new ones name.
#[derive(Debug, Default)]
struct Switch {
    /// New source ranges.
    ranges: Plan,
    /// Frontends that a Service has already.
    changed: Plan,
    /// Source ranges that would let clients in to frontends to come.
    withdrawn: Plan,
    /// Frontends that a Service gets.
    new: Plan,
}

#[derive(Clone, Copy, Debug)]
struct Peak {
    services: usize,
    frontends: usize,
    backends: usize,
    source_ranges: usize,
}

impl<'a> Draft<'a> {
    fn new(
        memory: &'a mut Memory,
        actual: &'a Actual,
        limits: &'a Limits,
        numbers: &'a mut NumberSource,
    ) -> Self {
        let peak = Peak {
            services: actual.service_meta.len(),
            frontends: actual.frontends.len(),
            backends: actual.backends.len(),
            source_ranges: actual.source_ranges.len(),
        };
        Self {
            memory,
            actual,
            limits,
            numbers,
            peak,
            kept: HashSet::new(),
            gone: BTreeSet::new(),
            touched: BTreeSet::new(),
            switch: Switch::default(),
            freed: Vec::new(),
            phases: Phases::default(),
        }
    }

    /// Notes what nobody needs, unless a Service turns out to.
    fn take_out(&mut self, litter: &Litter) {
        self.gone.extend(&litter.frontends);
        let unused = self.memory.uses.iter().filter(|(_, known)| known.state().is_none());
        self.touched.extend(unused.map(|(key, _)| *key));
    }

    fn plan(&mut self, name: &NamespacedName, service: Option<&Arc<DesiredService>>) {
        let Some(service) = service else {
            self.memory.refused.remove(name);
            self.memory.by_chance.remove(name);
            if let Some(held) = self.memory.services.remove(name) {
                self.remove(held);
            }
            return;
        };
        self.memory.by_chance.remove(name);
        let mut put = self.put(name, service);
        // Better served by chance than not at all.
        if put == Err("SLOTS")
            && let Some(plain) = without_tables(service)
        {
            put = self.put(name, &Arc::new(plain));
            if put.is_ok() {
                self.memory.by_chance.insert(name.clone());
            }
        }
        match put {
            Ok(()) => drop(self.memory.refused.remove(name)),
            Err(map) => {
                self.memory.refused.insert(name.clone(), map);
                let held = self.memory.services.get(name);
                self.kept.extend(held.iter().flat_map(|held| held.service.frontends.keys()));
            }
        }
    }

    /// Plans a Service whole, or nothing of it and names the map that is too small.
    fn put(&mut self, name: &NamespacedName, service: &Arc<DesiredService>) -> Result<(), &'static str> {
        self.room_for(name, service)?;
        let (slices, new) = self.slices(name, service).ok_or("SLOTS")?;
        let held = self.memory.services.remove(name);
        let id = held.as_ref().map_or_else(|| self.name(name), |held| held.id);
        self.use_backends(&service.backends, held.as_ref());
        for slice in &new {
            self.fill(slice);
        }
        let ranges =
            service.source_ranges.iter().map(|clients| SourceRange { service: id, clients: *clients });
        let missing = ranges.filter(|range| !self.actual.source_ranges.contains_key(range));
        let before = self.switch.ranges.len();
        self.switch.ranges.extend(missing.map(|range| Step::Put(Entry::SourceRange(range, 1))));
        self.peak.source_ranges += self.switch.ranges.len() - before;
        let firsts: HashMap<&Slots, u32> =
            slices.iter().filter_map(|slice| Some((slice.slots.as_ref()?, slice.first))).collect();
        let is_own = |key| self.actual.frontends.get(key).is_some_and(|found| found.service == id);
        let is_new = |(key, frontend): (_, &DesiredFrontend)| frontend.has_source_ranges && !is_own(key);
        let withdraws_at_once = service.frontends.iter().any(is_new);
        for (key, frontend) in &service.frontends {
            let first = firsts.get(&frontend.slots).copied().unwrap_or_default();
            self.frontend(*key, value(id, first, frontend));
        }
        if let Some(held) = held {
            let gone = held.service.frontends.keys().filter(|key| !service.frontends.contains_key(key));
            self.leave(id, gone);
            let stays = |slice: &Slice| slices.iter().any(|new| new.first == slice.first);
            self.freed.extend(held.slices.into_iter().filter(|slice| !stays(slice)));
            let withdrawn = withdrawn(id, held.service.source_ranges.difference(&service.source_ranges));
            if withdraws_at_once {
                self.switch.withdrawn.extend(withdrawn);
            } else {
                self.phases.clear.extend(withdrawn);
            }
        }
        let held = Held { id, service: Arc::clone(service), slices };
        self.memory.services.insert(name.clone(), held);
        Ok(())
    }

    fn remove(&mut self, held: Held) {
        self.release_backends(&held.service.backends);
        self.leave(held.id, held.service.frontends.keys());
        self.freed.extend(held.slices);
        self.phases.clear.extend(withdrawn(held.id, &held.service.source_ranges));
        self.phases.clear.push(Step::Delete(Key::ServiceMeta(held.id)));
    }

    fn name(&mut self, name: &NamespacedName) -> ServiceId {
        let id = ServiceId(self.numbers.take(Numbers::Service));
        let meta = ServiceMeta { namespace: Text::new(&name.namespace), name: Text::new(&name.name) };
        self.phases.prepare.push(Step::Put(Entry::ServiceMeta(id, meta)));
        self.peak.services += 1;
        id
    }

    fn use_backends(&mut self, backends: &BTreeMap<BackendKey, BackendState>, before: Option<&Held>) {
        for (key, state) in backends {
            let (numbers, peak) = (&mut *self.numbers, &mut self.peak.backends);
            let known = self.memory.uses.entry(*key).or_insert_with(|| {
                *peak += 1;
                Use::new(BackendId(numbers.take(Numbers::Backend)))
            });
            *known.count(*state) += 1;
            self.touched.insert(*key);
        }
        if let Some(held) = before {
            self.release_backends(&held.service.backends);
        }
    }

    fn release_backends(&mut self, backends: &BTreeMap<BackendKey, BackendState>) {
        for (key, state) in backends {
            if let Some(known) = self.memory.uses.get_mut(key) {
                *known.count(*state) -= 1;
            }
            self.touched.insert(*key);
        }
    }

    /// Writes a new slice.
    fn fill(&mut self, slice: &Slice) {
        let Some(slots) = &slice.slots else { return };
        let ids = content(slots, |key| self.memory.uses[key].id);
        let put = |(slot, id)| Step::Put(Entry::Slot(slot, id));
        self.phases.prepare.extend((slice.first..).zip(ids).map(put));
    }

    fn frontend(&mut self, key: FrontendKey, value: Frontend) {
        let found = self.actual.frontends.get(&key);
        self.kept.insert(key);
        if found != Some(&value) {
            self.peak.frontends += usize::from(found.is_none());
            let is_own = found.is_some_and(|found| found.service == value.service);
            let steps = if is_own { &mut self.switch.changed } else { &mut self.switch.new };
            steps.push(Step::Put(Entry::Frontend(key, value)));
        }
    }

    /// Notes that a Service has these frontends no more, as far as they still were its own.
    fn leave<'k>(&mut self, id: ServiceId, keys: impl IntoIterator<Item = &'k FrontendKey>) {
        let is_own = |key: &&FrontendKey| {
            self.actual.frontends.get(key).is_some_and(|frontend| frontend.service == id)
        };
        self.gone.extend(keys.into_iter().filter(is_own));
    }

    fn room_for(&self, name: &NamespacedName, service: &DesiredService) -> Result<(), &'static str> {
        let is_new =
            |key: &&FrontendKey| !self.actual.frontends.contains_key(key) && !self.kept.contains(key);
        let frontends = service.frontends.keys().filter(is_new).count();
        let backends = service.backends.keys().filter(|key| !self.memory.uses.contains_key(key)).count();
        let held = self.memory.services.get(name);
        let known = |range| held.is_some_and(|held| held.service.source_ranges.contains(range));
        let ranges = service.source_ranges.iter().filter(|range| !known(range)).count();
        let (peak, limits) = (self.peak, self.limits);
        match () {
            () if peak.services + usize::from(held.is_none()) > limits.service_meta => Err("SERVICE_META"),
            () if peak.frontends + frontends > limits.frontends => Err("FRONTENDS"),
            () if peak.backends + backends > limits.backends => Err("BACKENDS"),
            () if ranges > 0 && peak.source_ranges + ranges > limits.source_ranges => Err("SOURCE_RANGES"),
            () => Ok(()),
        }
    }

    /// The slices that a Service's frontends need, and the new ones among them; `None` when one of them finds no room.
    fn slices(
        &mut self,
        name: &NamespacedName,
        service: &DesiredService,
    ) -> Option<(Vec<Slice>, Vec<Slice>)> {
        let held = self.memory.services.get(name);
        let has = |slots: &Slots| {
            let mut slices = held.into_iter().flat_map(|held| &held.slices);
            slices.find(|slice| slice.slots.as_ref() == Some(slots)).cloned()
        };
        let (mut slices, mut new): (Vec<Slice>, Vec<Slice>) = (Vec::new(), Vec::new());
        for slots in service.frontends.values().map(|frontend| &frontend.slots) {
            let length = length(slots);
            if length == 0 || slices.iter().chain(&new).any(|slice| slice.slots.as_ref() == Some(slots)) {
                continue;
            }
            if let Some(standing) = has(slots) {
                slices.push(standing);
            } else if let Some(first) = self.memory.free.take(length) {
                new.push(Slice { first, length, slots: Some(slots.clone()) });
            } else {
                new.iter().for_each(|slice| self.memory.free.give(slice.first, slice.length));
                return None;
            }
        }
        slices.extend(new.iter().cloned());
        Some((slices, new))
    }

    fn phases(mut self, desired: &DesiredState, litter: Litter) -> Phases {
        self.settle_backends();
        let gone = self
            .gone
            .iter()
            .filter(|key| !self.kept.contains(key) && self.actual.frontends.contains_key(key));
        let gone = gone.map(|key| Step::Delete(Key::Frontend(*key)));
        let Switch { ranges, changed, withdrawn, new } = std::mem::take(&mut self.switch);
        self.phases.switch = gone.chain(ranges).chain(changed).chain(withdrawn).chain(new).collect();
        let clear = &mut self.phases.clear;
        for slice in &self.freed {
            let slots = self.actual.slots.range(slice.first..slice.first.saturating_add(slice.length));
            let occupied = slots.filter(|(_, id)| **id != BackendId::NONE);
            clear.extend(occupied.map(|(slot, _)| Step::Delete(Key::Slot(*slot))));
            self.memory.free.give_later(slice.first, slice.length);
        }
        for slot in litter.slots {
            clear.push(Step::Delete(Key::Slot(slot)));
            self.memory.free.give_later(slot, 1);
        }
        clear.extend(litter.backends.into_iter().map(|id| Step::Delete(Key::Backend(id))));
        clear.extend(litter.metas.into_iter().map(|id| Step::Delete(Key::ServiceMeta(id))));
        clear.extend(litter.source_ranges.into_iter().map(|range| Step::Delete(Key::SourceRange(range))));
        let refused = self.memory.refused.iter();
        let refused = refused.map(|(service, map)| Rejection::Service { map, service: service.clone() });
        let by_chance = self.memory.by_chance.iter().cloned();
        let by_chance = by_chance.map(|service| Rejection::Table { map: "SLOTS", service });
        self.phases.rejected = refused.chain(by_chance).chain(contested(desired)).collect();
        self.phases
    }

    /// Writes backends as all Services together need them.
    fn settle_backends(&mut self) {
        for key in &self.touched {
            let Some(known) = self.memory.uses.get(key).copied() else { continue };
            let found = self.actual.backends.get(&known.id);
            let Some(state) = known.state() else {
                self.memory.uses.remove(key);
                self.phases.clear.extend(found.map(|_| Step::Delete(Key::Backend(known.id))));
                continue;
            };
            let BackendKey { addr, protocol, port } = *key;
            let backend = Backend { addr, port: port.to_be_bytes(), protocol, state: state as u8 };
            let put = Step::Put(Entry::Backend(known.id, backend));
            match found {
                Some(found) if *found == backend => {}
                Some(_) if state != BackendState::Active => self.phases.clear.push(put),
                // Before the slices that name it.
                Some(_) | None => self.phases.prepare.push(put),
            }
        }
    }
}

/// Removes clients' ranges.
fn withdrawn<'p>(
    service: ServiceId,
    ranges: impl IntoIterator<Item = &'p Prefix>,
) -> impl Iterator<Item = Step> {
    let ranges = ranges.into_iter().map(move |clients| SourceRange { service, clients: *clients });
    ranges.map(|range| Step::Delete(Key::SourceRange(range)))
}

/// Frontends that a Service goes without, because another has them.
fn contested(desired: &DesiredState) -> impl Iterator<Item = Rejection> {
    desired.contested.iter().flat_map(|(key, names)| {
        let holder = names.first();
        let losers = names.iter().skip(1).zip(std::iter::repeat(holder));
        losers.filter_map(|(service, holder)| {
            Some(Rejection::Contested { frontend: *key, service: service.clone(), holder: holder?.clone() })
        })
    })
}

/// The same Service with backends chosen by chance; `None` when they are already.
fn without_tables(service: &DesiredService) -> Option<DesiredService> {
    service.frontends.values().find(|frontend| frontend.slots.table.is_some())?;
    let mut plain = service.clone();
    plain.frontends.values_mut().for_each(|frontend| frontend.slots.table = None);
    Some(plain)
}

fn backends(slots: &Slots) -> u32 {
    u32::try_from(slots.backends.len()).expect("fewer backends than addresses of pods")
}

/// Places among which a new flow's is chosen.
fn count(slots: &Slots) -> u32 {
    let backends = backends(slots);
    slots.table.filter(|_| backends > 0).unwrap_or(backends)
}

/// Places of the whole slice.
fn length(slots: &Slots) -> u32 {
    count(slots) + slots.table.map_or(0, |_| backends(slots))
}

fn value(service: ServiceId, first_slot: u32, frontend: &DesiredFrontend) -> Frontend {
    let kind = match frontend.kind {
        FrontendKind::LoadBalancer => frontend_flags::LOAD_BALANCER,
        FrontendKind::ExternalIp => frontend_flags::EXTERNAL_IP,
        FrontendKind::ClusterIp | FrontendKind::NodePort => 0,
    };
    let flags = [
        (frontend.affinity_s.is_some(), frontend_flags::AFFINITY),
        (frontend.is_local, frontend_flags::LOCAL),
        (frontend.has_source_ranges, frontend_flags::SOURCE_RANGES),
        (frontend.slots.table.is_some(), frontend_flags::MAGLEV),
    ];
    Frontend {
        first_slot,
        count: count(&frontend.slots),
        service,
        affinity_s: frontend.affinity_s.unwrap_or_default(),
        flags: flags.into_iter().filter(|(has, _)| *has).fold(kind, |flags, (_, flag)| flags | flag),
        service_port: frontend.service_port.to_be_bytes(),
        backends: backends(&frontend.slots),
    }
}
