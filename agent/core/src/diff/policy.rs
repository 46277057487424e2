//! Rule sets, identities, addresses and endpoints.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use sluice_abi::{
    Addr, Endpoint, EndpointId, Identity, IdentityMeta, PolicyId, Prefix, Rule, RuleId, RuleSetId,
    endpoint_flags, maps::Numbers,
};

use super::{
    Limits, NumberSource, Phases, Rejection,
    bind::Bound,
    moves::{self, Moves},
    narrow::{self, Mistaken, Narrowed},
    shadow,
};
use crate::{
    cluster::LocalEndpoint,
    desired::{DesiredEndpoint, DesiredState, Digest},
    plan::{Actual, Entry, Key, Plan, RulePrefix, Step},
    selector::{Peer, Selector},
};

/// What is left out because it does not fit.
#[derive(Clone, Debug, Default)]
struct Refused {
    /// By what they are called in the wanted state, before they are narrowed.
    sets: BTreeMap<Digest, &'static str>,
    addresses: BTreeMap<Prefix, &'static str>,
    endpoints: BTreeMap<EndpointId, &'static str>,
    /// Pods that would let left-out addresses pass.
    closed: BTreeSet<EndpointId>,
    everything: Option<&'static str>,
}

/// Plans this half of the state; leaves out what does not fit. Audits go first, all of them, whatever is too large: then
/// everything else fares as if there were none.
pub(super) fn plan(
    desired: &DesiredState,
    actual: &Actual,
    limits: &Limits,
    numbers: &mut NumberSource,
) -> Phases {
    let mut attempt = numbers.clone();
    let phases = plan_all(desired, actual, limits, &mut attempt);
    let full = phases.rejected.iter().find_map(Rejection::full_map);
    let (Some(map), Some(enforced)) = (full, shadow::without(desired)) else {
        *numbers = attempt;
        return phases;
    };
    let mut phases = plan_all(&enforced, actual, limits, numbers);
    let policies = shadow::policies(desired).into_iter().collect();
    phases.rejected.push(Rejection::Audit { map, policies });
    phases
}

/// Plans everything; of what does not fit it leaves out the largest first.
fn plan_all(desired: &DesiredState, actual: &Actual, limits: &Limits, numbers: &mut NumberSource) -> Phases {
    let mut refused = Refused::default();
    refused.interfaces(desired, actual, limits);
    loop {
        let mut attempt = numbers.clone();
        let narrowed = narrow::narrowed(desired, &refused.addresses);
        if refused.everything.is_some() {
            refused.close(None, desired, actual);
        }
        let draft = Draft::new(&narrowed, actual, &refused, &mut attempt);
        if refused.everything.is_some() {
            desired.interfaces.keys().for_each(|id| numbers.pass(Numbers::Endpoint, id.0));
            return draft.phases(desired, &narrowed, actual, &refused);
        }
        let Some((map, excess)) = draft.overflow(actual, limits) else {
            if refused.close(Some(&draft), desired, actual) {
                continue;
            }
            *numbers = attempt;
            return draft.phases(desired, &narrowed, actual, &refused);
        };
        refused.more(map, excess, &draft, &narrowed, actual);
    }
}

impl Refused {
    /// Interfaces need a name each, whether served or not.
    fn interfaces(&mut self, desired: &DesiredState, actual: &Actual, limits: &Limits) {
        for (map, limit, known) in [
            (
                "ENDPOINT_META",
                limits.endpoint_meta,
                actual.endpoint_meta.keys().copied().collect::<BTreeSet<_>>(),
            ),
            ("INTERFACES", limits.interfaces, actual.interfaces.values().copied().collect()),
        ] {
            let new = desired.interfaces.keys().filter(|id| !known.contains(id));
            let room = limit.saturating_sub(known.len());
            self.endpoints.extend(new.skip(room).map(|id| (*id, map)));
        }
    }

    /// Leaves out more, after `map` turned out to be `excess` entries too small.
    fn more(
        &mut self,
        map: &'static str,
        excess: usize,
        draft: &Draft,
        narrowed: &Narrowed<'_>,
        actual: &Actual,
    ) {
        let desired = &*narrowed.desired;
        let sets = draft.largest_new_sets(map, excess, actual);
        let addresses = match map {
            "IPCACHE" => {
                let mut new: Vec<_> = draft.new_addresses(actual).map(|(prefix, _)| prefix).collect();
                // Exceptions last: without them NetworkPolicies are narrowed too.
                new.sort_by_key(|prefix| is_range(desired, prefix));
                new.truncate(excess);
                new
            }
            "IDENTITY_META" => draft.addresses_of_new_identities(excess, actual),
            _ => Vec::new(),
        };
        let new_endpoint = desired.endpoints.values().rev().find_map(|endpoint| match endpoint {
            DesiredEndpoint::Pod { id, .. }
                if !self.endpoints.contains_key(id) && !is_served(actual, *id) =>
            {
                Some(*id)
            }
            DesiredEndpoint::Pod { .. } | DesiredEndpoint::Host { .. } => None,
        });
        match (map, new_endpoint) {
            _ if !addresses.is_empty() => {
                self.addresses.extend(addresses.into_iter().map(|prefix| (prefix, map)));
            }
            ("ENDPOINTS", Some(endpoint)) => drop(self.endpoints.insert(endpoint, map)),
            _ if !sets.is_empty() => {
                self.sets.extend(sets.into_iter().map(|set| (narrowed.origin(&set), map)));
            }
            _ => self.everything = Some(map),
        }
    }

    /// Closes pods that would let left-out addresses pass: those that keep an old set, by a draft that fits, or all of which
    /// nothing changes. The answer is whether there are any more.
    fn close(&mut self, draft: Option<&Draft>, desired: &DesiredState, actual: &Actual) -> bool {
        let is_new = |prefix: &&Prefix| prefix.bits == 128 && !actual.ipcache.contains_key(prefix);
        let mistaken = match draft {
            Some(_) => Mistaken::of(self.addresses.keys(), desired, actual),
            None => Mistaken::of(desired.ipcache.keys().filter(is_new), desired, actual),
        };
        let known = self.closed.len();
        for (addr, endpoint) in &desired.endpoints {
            let DesiredEndpoint::Pod { id, rule_sets, .. } = endpoint else { continue };
            let found = draft.map_or(&actual.endpoints, |draft| &draft.endpoints).get(addr);
            let Some(found) = found.filter(|found| found.id == *id && !self.closed.contains(id)) else {
                continue;
            };
            // Where selectors only add, whoever has no entry is let pass no more than one who has.
            let keeps = |set: &RuleSetId| {
                draft.is_none_or(|draft| draft.kept.contains(set))
                    && actual.rule_set_meta.get(set).is_none_or(|meta| meta.denies != 0)
            };
            let mut sets = [found.ingress, found.egress].into_iter().zip(rule_sets);
            if sets.any(|(old, wanted)| keeps(&old) && mistaken.pass(desired, actual, old, wanted)) {
                self.closed.insert(*id);
            }
        }
        self.closed.len() > known
    }

    fn rejections(&self, desired: &DesiredState, narrowed: &Narrowed<'_>) -> Vec<Rejection> {
        let sets = self.sets.iter().map(|(digest, map)| {
            let set = &desired.rule_sets[digest];
            let policies = set.policies().into_iter().collect();
            Rejection::RuleSet { map, direction: set.direction, policies }
        });
        let maps: BTreeSet<_> = self.addresses.values().copied().collect();
        let count = |map| self.addresses.values().filter(|other| **other == map).count();
        let addresses = maps.into_iter().map(|map| Rejection::Addresses { map, count: count(map) });
        let endpoints =
            self.endpoints.iter().map(|(endpoint, map)| Rejection::Endpoint { map, endpoint: *endpoint });
        let everything = self.everything.map(|map| Rejection::Policies { map });
        let full = self.everything.or_else(|| self.addresses.values().next().copied()).unwrap_or_default();
        let closed = self.closed.iter().map(|id| Rejection::Closed { map: full, endpoint: *id });
        let origins = narrowed.origins.values().filter(|origin| !self.sets.contains_key(origin));
        let narrowed = origins.filter(|_| self.everything.is_none()).map(|origin| {
            let set = &desired.rule_sets[origin];
            let policies = set.policies().into_iter().collect();
            Rejection::Narrowed { map: full, direction: set.direction, policies }
        });
        sets.chain(addresses).chain(endpoints).chain(everything).chain(narrowed).chain(closed).collect()
    }
}

/// Whether an address is a range of its own, or an exception of one, and nothing is known of a pod there.
fn is_range(desired: &DesiredState, prefix: &Prefix) -> bool {
    let class = desired.ipcache.get(prefix).copied().flatten();
    let is_block = |selector: &Arc<Selector>| matches!(**selector, Selector::Peer(Peer::Block(_)));
    class.is_none_or(|class| desired.classes[&class].0.iter().all(is_block))
}

fn is_served(actual: &Actual, id: EndpointId) -> bool {
    actual.endpoints.values().any(|endpoint| endpoint.id == id)
}

/// Everything that a plan is made of.
#[derive(Debug)]
struct Draft {
    bound: Bound,
    moves: Moves,
    wanted_ipcache: BTreeMap<Prefix, Identity>,
    endpoints: BTreeMap<Addr, Endpoint>,
    in_force: BTreeSet<EndpointId>,
    identity_meta: BTreeMap<Identity, IdentityMeta>,
    /// Rules that must stand before anything is switched.
    rules: BTreeMap<RulePrefix, Rule>,
    /// Old sets that endpoints have to keep.
    kept: BTreeSet<RuleSetId>,
}

impl Draft {
    fn new(narrowed: &Narrowed<'_>, actual: &Actual, refused: &Refused, numbers: &mut NumberSource) -> Self {
        let desired = &*narrowed.desired;
        for id in desired.interfaces.keys() {
            numbers.pass(Numbers::Endpoint, id.0);
        }
        let is_refused = |set: &&Digest| refused.sets.contains_key(&narrowed.origin(set));
        let sets = desired.rule_sets.keys().filter(is_refused).copied().collect();
        let carried = desired.ipcache.values().filter_map(|class| *class).collect();
        let bound = Bound::new(desired, actual, &sets, &carried, numbers);
        let (endpoints, in_force, kept) = endpoints(desired, actual, &bound, refused);
        let change = change(actual, &endpoints, &bound, &kept);
        let wanted_ipcache: BTreeMap<_, _> = desired
            .ipcache
            .iter()
            .map(|(prefix, class)| (*prefix, class.map_or(Identity::ANY, |class| bound.classes[&class])))
            .collect();
        let moves = moves::plan(&wanted_ipcache, actual, &bound, &change, numbers);
        let mut rules: BTreeMap<_, _> = bound.rules().collect();
        rules.extend(moves.rules.iter().map(|(prefix, rule)| (*prefix, *rule)));
        let mut identity_meta = bound.identity_meta.clone();
        identity_meta.extend(&moves.identity_meta);
        Self { bound, moves, wanted_ipcache, endpoints, in_force, identity_meta, rules, kept }
    }

    /// The largest sets that are new: as many as hold `excess` entries of `map`, where that is known.
    fn largest_new_sets(&self, map: &'static str, excess: usize, actual: &Actual) -> Vec<Digest> {
        let mut sizes: BTreeMap<RuleSetId, usize> = BTreeMap::new();
        self.rules.keys().for_each(|prefix| *sizes.entry(prefix.key.rule_set).or_default() += 1);
        let new = self.bound.sets.iter().filter(|(_, set)| !actual.rule_set_meta.contains_key(set));
        let mut new: Vec<_> =
            new.map(|(digest, set)| (sizes.get(set).copied().unwrap_or_default(), *digest)).collect();
        new.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
        let mut freed = 0;
        let needed = new.iter().take_while(|(size, _)| {
            let is_needed = freed < excess;
            freed += match map {
                "RULES" => *size,
                "RULE_SET_META" => 1,
                _ => excess,
            };
            is_needed
        });
        needed.map(|(_, digest)| *digest).collect()
    }

    /// Single addresses that the maps do not hold yet, the last first.
    fn new_addresses(&self, actual: &Actual) -> impl Iterator<Item = (Prefix, Identity)> {
        let singles = self.wanted_ipcache.iter().rev().filter(|(prefix, _)| prefix.bits == 128);
        singles.filter(|(prefix, _)| !actual.ipcache.contains_key(prefix)).map(|(prefix, id)| (*prefix, *id))
    }

    /// The addresses of `count` new identities that nothing else carries, or of all there are.
    fn addresses_of_new_identities(&self, count: usize, actual: &Actual) -> Vec<Prefix> {
        let new: BTreeSet<Prefix> = self.new_addresses(actual).map(|(prefix, _)| prefix).collect();
        let mut identities = self.bound.new_identities.clone();
        for (_, identity) in self.wanted_ipcache.iter().filter(|(prefix, _)| !new.contains(prefix)) {
            identities.remove(identity);
        }
        let last: BTreeSet<Identity> = identities.into_iter().rev().take(count).collect();
        self.new_addresses(actual).filter(|(_, id)| last.contains(id)).map(|(prefix, _)| prefix).collect()
    }

    /// The first map that is too small for what has to be in it before anything is deleted, and by how much.
    fn overflow(&self, actual: &Actual, limits: &Limits) -> Option<(&'static str, usize)> {
        let puts = |single: bool| {
            let steps = self.moves.before.iter().chain(&self.moves.after);
            let new = steps.filter_map(move |step| match step {
                Step::Put(Entry::Ipcache(prefix, _)) if (prefix.bits == 128) == single => Some(prefix),
                Step::Put(_) | Step::Delete(_) | Step::Number(..) | Step::Epoch(_) | Step::Grace => None,
            });
            new.filter(|prefix| !actual.ipcache.contains_key(prefix)).collect::<BTreeSet<_>>().len()
        };
        let singles = actual.ipcache.keys().filter(|prefix| prefix.bits == 128).count();
        let bound = &self.bound;
        let needs = [
            ("RULES", actual.rules.len() + added(&self.rules, &actual.rules), limits.rules),
            (
                "RULE_SET_META",
                actual.rule_set_meta.len() + added(&bound.rule_set_meta, &actual.rule_set_meta),
                limits.rule_set_meta,
            ),
            (
                "RULE_META",
                actual.rule_meta.len() + added(&bound.rule_meta, &actual.rule_meta),
                limits.rule_meta,
            ),
            (
                "POLICY_META",
                actual.policy_meta.len() + added(&bound.policy_meta, &actual.policy_meta),
                limits.policy_meta,
            ),
            ("IPCACHE", singles + puts(true), limits.ipcache),
            ("IPCACHE_CIDRS", actual.ipcache.len() - singles + puts(false), limits.ipcache_cidrs),
            (
                "IDENTITY_META",
                actual.identity_meta.len() + added(&self.identity_meta, &actual.identity_meta),
                limits.identity_meta,
            ),
            // What goes is deleted first here.
            ("ENDPOINTS", self.endpoints.len(), limits.endpoints),
        ];
        let too_small =
            |(map, need, limit): (&'static str, usize, usize)| (need > limit).then(|| (map, need - limit));
        needs.into_iter().find_map(too_small)
    }

    fn phases(
        self,
        desired: &DesiredState,
        narrowed: &Narrowed<'_>,
        actual: &Actual,
        refused: &Refused,
    ) -> Phases {
        let mut phases = Phases { rejected: refused.rejections(desired, narrowed), ..Phases::default() };
        let interfaces = desired.interfaces.iter().filter(|(id, _)| !refused.endpoints.contains_key(id));
        let interfaces: BTreeMap<_, _> = interfaces.map(|(id, endpoint)| (*id, endpoint)).collect();
        self.prepare_interfaces(&interfaces, actual, &mut phases);
        let gone = actual
            .endpoints
            .iter()
            .filter(|(addr, old)| self.endpoints.get(addr).is_none_or(|new| !is_same(old, new)));
        phases.switch.extend(gone.map(|(addr, _)| Step::Delete(Key::Endpoint(*addr))));
        if refused.everything.is_some() {
            let served = actual.endpoints.values().map(|endpoint| endpoint.id);
            let deleted = phases.switch.iter().filter_map(|step| match step {
                Step::Delete(Key::Endpoint(addr)) => Some(actual.endpoints[addr].id),
                Step::Delete(_) | Step::Put(_) | Step::Number(..) | Step::Epoch(_) | Step::Grace => None,
            });
            phases.in_force = &served.collect::<BTreeSet<_>>() - &deleted.collect();
            return phases;
        }
        self.prepare_rules(actual, &mut phases.prepare);
        let (changed, new): (Vec<_>, Vec<_>) = self
            .endpoints
            .iter()
            .filter(|(addr, endpoint)| actual.endpoints.get(addr) != Some(endpoint))
            .partition(|(addr, endpoint)| {
                actual.endpoints.get(addr).is_some_and(|old| is_same(old, endpoint))
            });
        let put = |(addr, endpoint): (&Addr, &Endpoint)| Step::Put(Entry::Endpoint(*addr, *endpoint));
        phases.switch.extend(self.moves.before.iter().copied());
        phases.switch.extend(changed.into_iter().map(put));
        phases.switch.extend(self.moves.after.iter().copied());
        phases.switch.extend(new.into_iter().map(put));
        self.clear(actual, &mut phases.clear);
        phases.in_force = self.in_force;
        phases
    }

    fn prepare_interfaces(
        &self,
        interfaces: &BTreeMap<EndpointId, &LocalEndpoint>,
        actual: &Actual,
        phases: &mut Phases,
    ) {
        // An interface is known when its pod's rules are: until then what it sends is dropped as "not ready".
        let served: BTreeSet<EndpointId> = self.endpoints.values().map(|endpoint| endpoint.id).collect();
        let by_index: BTreeMap<_, _> = interfaces
            .iter()
            .filter(|(id, _)| served.contains(id))
            .map(|(id, endpoint)| (endpoint.ifindex, *id))
            .collect();
        let metas: BTreeMap<_, _> = interfaces.iter().map(|(id, endpoint)| (*id, endpoint.meta())).collect();
        let (prepare, clear) = (&mut phases.prepare, &mut phases.clear);
        compare(&metas, &actual.endpoint_meta, Entry::EndpointMeta, Key::EndpointMeta, prepare, clear);
        compare(&by_index, &actual.interfaces, Entry::Interface, Key::Interface, prepare, clear);
    }

    fn prepare_rules(&self, actual: &Actual, prepare: &mut Plan) {
        let bound = &self.bound;
        put_changed(&bound.policy_meta, &actual.policy_meta, Entry::PolicyMeta, prepare);
        put_changed(&bound.rule_meta, &actual.rule_meta, Entry::RuleMeta, prepare);
        put_changed(&bound.rule_set_meta, &actual.rule_set_meta, Entry::RuleSetMeta, prepare);
        put_changed(&self.identity_meta, &actual.identity_meta, Entry::IdentityMeta, prepare);
        put_changed(&self.rules, &actual.rules, Entry::Rule, prepare);
    }

    /// Deletes what nothing in force refers to any more.
    fn clear(&self, actual: &Actual, clear: &mut Plan) {
        let carried = self.moves.carried(actual);
        let is_kept = |prefix: &RulePrefix| {
            self.kept.contains(&prefix.key.rule_set) && carried.contains(&prefix.key.identity)
        };
        let mut rules: BTreeMap<RulePrefix, Rule> = self.bound.rules().collect();
        let standing = actual.rules.iter().chain(&self.rules);
        let on_the_way = |prefix: &RulePrefix| {
            !self.kept.is_empty()
                && self.bound.rule_set_meta.contains_key(&prefix.key.rule_set)
                && carried.contains(&prefix.key.identity)
                && !self.bound.identity_meta.contains_key(&prefix.key.identity)
        };
        let stays = standing.filter(|(prefix, _)| is_kept(prefix) || on_the_way(prefix));
        rules.extend(stays.map(|(prefix, rule)| (*prefix, *rule)));
        let all = actual.rules.keys().chain(self.rules.keys()).collect::<BTreeSet<_>>();
        clear.extend(
            all.into_iter().filter(|key| !rules.contains_key(key)).map(|key| Step::Delete(Key::Rule(*key))),
        );

        let named_rules: BTreeSet<RuleId> = rules.values().map(|rule| rule.id).collect();
        let sets: BTreeSet<RuleSetId> = self.bound.rule_set_meta.keys().chain(&self.kept).copied().collect();
        let mut policies: BTreeSet<PolicyId> = self.bound.policy_meta.keys().copied().collect();
        let isolating = self.kept.iter().filter_map(|set| actual.rule_set_meta.get(set));
        policies.extend(isolating.flat_map(|meta| meta.policies));
        let rule_of = |id: &RuleId| actual.rule_meta.get(id).or_else(|| self.bound.rule_meta.get(id));
        policies.extend(named_rules.iter().filter_map(rule_of).map(|meta| meta.policy));
        let identities =
            actual.identity_meta.keys().chain(self.identity_meta.keys()).collect::<BTreeSet<_>>();
        let is_idle = |id: &&&Identity| !carried.contains(id) && !self.bound.identity_meta.contains_key(id);
        clear.extend(identities.iter().filter(is_idle).map(|id| Step::Delete(Key::IdentityMeta(**id))));
        delete_unless(&actual.rule_set_meta, |set| sets.contains(set), Key::RuleSetMeta, clear);
        let is_named = |id: &RuleId| named_rules.contains(id) || self.bound.rule_meta.contains_key(id);
        delete_unless(&actual.rule_meta, is_named, Key::RuleMeta, clear);
        delete_unless(&actual.policy_meta, |policy| policies.contains(policy), Key::PolicyMeta, clear);
    }
}

/// Whether an entry stays the same pod's (or the node's), so that it may change in place.
fn is_same(old: &Endpoint, new: &Endpoint) -> bool {
    let is_host = |endpoint: &Endpoint| endpoint.flags & endpoint_flags::HOST != 0;
    (old.id, old.ifindex, is_host(old)) == (new.id, new.ifindex, is_host(new))
}

/// The entry of an address of the node's own.
fn host(takes_node_ports: bool) -> Endpoint {
    let node_port = if takes_node_ports { endpoint_flags::NODE_PORT } else { 0 };
    Endpoint { id: EndpointId::HOST, flags: endpoint_flags::HOST | node_port, ..Endpoint::default() }
}

/// What `ENDPOINTS` shall hold, who is in force then, and which unwanted sets are still needed.
fn endpoints(
    desired: &DesiredState,
    actual: &Actual,
    bound: &Bound,
    refused: &Refused,
) -> (BTreeMap<Addr, Endpoint>, BTreeSet<EndpointId>, BTreeSet<RuleSetId>) {
    let (mut endpoints, mut in_force, mut kept) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
    let mut closed = BTreeSet::new();
    for (addr, endpoint) in &desired.endpoints {
        let (id, rule_sets, shadows) = match endpoint {
            DesiredEndpoint::Pod { id, rule_sets, shadows } => (id, rule_sets, shadows),
            DesiredEndpoint::Host { takes_node_ports } => {
                endpoints.insert(*addr, host(*takes_node_ports));
                continue;
            }
        };
        let is_refused = refused.endpoints.contains_key(id) || refused.closed.contains(id);
        let (Some(interface), false) = (desired.interfaces.get(id), is_refused) else { continue };
        let mut entry =
            Endpoint { id: *id, ifindex: interface.ifindex, mac: interface.mac, ..Endpoint::default() };
        let old = actual.endpoints.get(addr).filter(|old| is_same(old, &entry));
        let old_sets = old.map(|old| [old.ingress, old.egress]);
        let sets = [0, 1].map(|direction| {
            let wanted = bound.sets.get(&rule_sets[direction]).copied();
            wanted.or_else(|| old_sets.map(|sets| sets[direction]).filter(|set| *set != RuleSetId::NONE))
        });
        let [Some(ingress), Some(egress)] = sets else {
            closed.insert(*id);
            continue;
        };
        (entry.ingress, entry.egress) = (ingress, egress);
        // A shadow that was refused is none.
        let shadow =
            |direction: usize| shadows[direction].and_then(|shadow| bound.sets.get(&shadow).copied());
        entry.shadow_ingress = shadow(0).unwrap_or_default();
        entry.shadow_egress = shadow(1).unwrap_or_default();
        if [entry.shadow_ingress, entry.shadow_egress] != [RuleSetId::NONE; 2] {
            entry.flags |= endpoint_flags::AUDIT;
        }
        kept.extend([ingress, egress].into_iter().filter(|set| !bound.rule_set_meta.contains_key(set)));
        endpoints.insert(*addr, entry);
        in_force.insert(*id);
    }
    in_force.retain(|id| !closed.contains(id));
    (endpoints, in_force, kept)
}

/// Which sets endpoints leave and enter.
fn change(
    actual: &Actual,
    endpoints: &BTreeMap<Addr, Endpoint>,
    bound: &Bound,
    kept: &BTreeSet<RuleSetId>,
) -> moves::Change {
    let mut change =
        moves::Change { left: kept.clone(), entered: BTreeSet::new(), keeps_old: !kept.is_empty() };
    let mut shadows = Vec::new();
    for (addr, new) in endpoints {
        let Some(old) = actual.endpoints.get(addr).filter(|old| is_same(old, new)) else { continue };
        let changed = |of: fn(&Endpoint) -> [RuleSetId; 2]| {
            of(old).into_iter().zip(of(new)).filter(|(old, new)| old != new)
        };
        for (old, new) in changed(|endpoint| [endpoint.ingress, endpoint.egress]) {
            change.left.insert(old);
            change.entered.insert(new);
        }
        shadows.extend(changed(|endpoint| [endpoint.shadow_ingress, endpoint.shadow_egress]));
    }
    // A set that becomes a shadow, or was one, is asked by what is enforced first.
    let (left, entered) = (change.left.clone(), change.entered.clone());
    change.left.extend(shadows.iter().map(|(old, _)| *old).filter(|set| !entered.contains(set)));
    change.entered.extend(shadows.iter().map(|(_, new)| *new).filter(|set| !left.contains(set)));
    // No shadow.
    change.left.remove(&RuleSetId::NONE);
    change.entered.remove(&RuleSetId::NONE);
    if change.keeps_old {
        change.entered.extend(bound.rule_set_meta.keys());
    }
    change
}

/// How many keys of `wanted` are new.
fn added<K: Ord, V, W>(wanted: &BTreeMap<K, V>, found: &BTreeMap<K, W>) -> usize {
    wanted.keys().filter(|key| !found.contains_key(key)).count()
}

fn put_changed<K: Ord + Copy, V: PartialEq + Copy>(
    wanted: &BTreeMap<K, V>,
    found: &BTreeMap<K, V>,
    entry: fn(K, V) -> Entry,
    plan: &mut Plan,
) {
    let changed = wanted.iter().filter(|(key, value)| found.get(key) != Some(value));
    plan.extend(changed.map(|(key, value)| Step::Put(entry(*key, *value))));
}

pub(super) fn delete_unless<K: Copy, V>(
    found: &BTreeMap<K, V>,
    stays: impl Fn(&K) -> bool,
    key: fn(K) -> Key,
    plan: &mut Plan,
) {
    plan.extend(found.keys().filter(|found| !stays(found)).map(|found| Step::Delete(key(*found))));
}

fn compare<K: Ord + Copy, V: PartialEq + Copy>(
    wanted: &BTreeMap<K, V>,
    found: &BTreeMap<K, V>,
    entry: fn(K, V) -> Entry,
    key: fn(K) -> Key,
    prepare: &mut Plan,
    clear: &mut Plan,
) {
    put_changed(wanted, found, entry, prepare);
    delete_unless(found, |found| wanted.contains_key(found), key, clear);
}
