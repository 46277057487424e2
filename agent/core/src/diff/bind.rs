//! Numbers for symbols: those the maps already hold for equal content, else new ones.

use std::collections::{BTreeMap, BTreeSet};

use sluice_abi::{
    Endpoint, Identity, IdentityMeta, PolicyId, PolicyKind, PolicyMeta, PolicyMode, Rule, RuleId, RuleMeta,
    RuleSetId, RuleSetMeta, RuleVerdict, Text, maps::Numbers,
};

use super::NumberSource;
use crate::{
    desired::{DesiredState, Digest, PortPrefix, RuleEntry, RuleSet, RuleSource},
    object::{NamespacedName, PolicyName},
    plan::{Actual, RulePrefix},
};

/// The entries of one rule set and identity, in the order of their ports.
pub(super) type Entries = Vec<(PortPrefix, Rule)>;

/// Policy, rule, rule set and identity numbers, and the rules they make.
#[derive(Debug, Default)]
pub(super) struct Bound {
    pub(super) sets: BTreeMap<Digest, RuleSetId>,
    pub(super) classes: BTreeMap<Digest, Identity>,
    /// Identities that nothing in the maps knows yet.
    pub(super) new_identities: BTreeSet<Identity>,
    /// What each pair of rule set and identity shall hold; other pairs that are bound hold nothing.
    pub(super) wanted: BTreeMap<(RuleSetId, Identity), Entries>,
    pub(super) identity_meta: BTreeMap<Identity, IdentityMeta>,
    pub(super) rule_set_meta: BTreeMap<RuleSetId, RuleSetMeta>,
    pub(super) rule_meta: BTreeMap<RuleId, RuleMeta>,
    pub(super) policy_meta: BTreeMap<PolicyId, PolicyMeta>,
}

impl Bound {
    /// Binds the `carried` classes, and everything else but the `refused` sets.
    pub(super) fn new(
        desired: &DesiredState,
        actual: &Actual,
        refused: &BTreeSet<Digest>,
        carried: &BTreeSet<Digest>,
        numbers: &mut NumberSource,
    ) -> Self {
        let mut bound = Self::default();
        bound.bind_classes(desired, actual, carried, numbers);
        let mut sources = Sources::new(actual, &desired.audited);
        let known = known_sets(actual);
        let in_use: BTreeSet<RuleSetId> = actual.endpoints.values().flat_map(sets_of).collect();
        let in_the_maps: BTreeSet<Identity> = actual.ipcache.values().copied().collect();
        let wanted: BTreeSet<Identity> = bound.classes.values().copied().collect();
        for (digest, set) in desired.rule_sets.iter().filter(|(digest, _)| !refused.contains(digest)) {
            let entries = bound.entries_of(desired, digest, &mut sources, numbers);
            let candidates = known.get(digest).into_iter().flatten().copied();
            // A set that was half written, or that somebody else wrote to, is not built upon.
            let intact = |set: &RuleSetId| {
                let found = all_entries_in(actual, *set);
                let is_wanted =
                    |identity: &&Identity| **identity == Identity::ANY || wanted.contains(identity);
                found.keys().chain(entries.keys()).filter(is_wanted).all(|identity| {
                    let [found, wanted] = [found.get(identity), entries.get(identity)]
                        .map(|entries| entries.map_or(&[][..], |e| e));
                    let in_force = in_use.contains(set)
                        && (in_the_maps.contains(identity) || *identity == Identity::ANY);
                    found == wanted || (!in_force && found.iter().all(|entry| wanted.contains(entry)))
                })
            };
            let number = candidates
                .into_iter()
                .find(intact)
                .unwrap_or_else(|| RuleSetId(numbers.take(Numbers::RuleSet)));
            bound.sets.insert(*digest, number);
            let meta = sources.set_meta(*digest, set, numbers);
            bound.rule_set_meta.insert(number, meta);
            bound.wanted.extend(entries.into_iter().map(|(identity, entries)| ((number, identity), entries)));
        }
        (bound.rule_meta, bound.policy_meta) = (sources.rule_meta, sources.policy_meta);
        bound
    }

    fn bind_classes(
        &mut self,
        desired: &DesiredState,
        actual: &Actual,
        carried: &BTreeSet<Digest>,
        numbers: &mut NumberSource,
    ) {
        let mut known: BTreeMap<Digest, Identity> = BTreeMap::new();
        for (identity, meta) in &actual.identity_meta {
            known.entry(Digest(meta.digest)).or_insert(*identity);
        }
        for (digest, class) in desired.classes.iter().filter(|(digest, _)| carried.contains(digest)) {
            let identity = known.get(digest).copied().unwrap_or_else(|| {
                let identity = Identity(numbers.take(Numbers::Identity));
                self.new_identities.insert(identity);
                identity
            });
            self.classes.insert(*digest, identity);
            let meta = IdentityMeta { digest: digest.0, selectors: Text::new(&class.to_string()) };
            self.identity_meta.insert(identity, meta);
        }
    }

    /// The entries of a set, by identity.
    fn entries_of(
        &self,
        desired: &DesiredState,
        set: &Digest,
        sources: &mut Sources<'_>,
        numbers: &mut NumberSource,
    ) -> BTreeMap<Identity, Entries> {
        let mut all: BTreeMap<Identity, Entries> = BTreeMap::new();
        for (class, entries) in desired.rules.get(set).into_iter().flatten() {
            let identity = class.map_or(Some(Identity::ANY), |class| self.classes.get(&class).copied());
            let Some(identity) = identity else { continue };
            let bound = entries.iter().map(|RuleEntry { ports, verdict, source }| {
                let id = match (source, verdict) {
                    (Some(source), _) => sources.rule(source, numbers),
                    (None, RuleVerdict::Allow) => RuleId::NOT_ISOLATED,
                    (None, RuleVerdict::Deny) => RuleId::NONE,
                };
                (*ports, Rule::new(id, *verdict))
            });
            all.insert(identity, bound.collect());
        }
        all
    }

    /// What a pair shall hold; `None` when set or identity is none that is wanted.
    pub(super) fn wanted_of(&self, set: RuleSetId, identity: Identity) -> Option<Entries> {
        let is_bound = self.rule_set_meta.contains_key(&set)
            && (identity == Identity::ANY || self.identity_meta.contains_key(&identity));
        is_bound.then(|| self.wanted.get(&(set, identity)).cloned().unwrap_or_default())
    }

    /// Every rule that is wanted.
    pub(super) fn rules(&self) -> impl Iterator<Item = (RulePrefix, Rule)> {
        let keyed = |((set, identity), entries): (&(RuleSetId, Identity), &Entries)| {
            let (set, identity) = (*set, *identity);
            let prefixes = entries.clone().into_iter();
            prefixes.map(move |(ports, rule)| (RulePrefix::new(set, identity, ports), rule))
        };
        self.wanted.iter().flat_map(keyed)
    }
}

/// The rule sets of an endpoint: those in force, then those of its shadow, each in the order of directions.
const fn sets_of(endpoint: &Endpoint) -> [RuleSetId; 4] {
    [endpoint.ingress, endpoint.egress, endpoint.shadow_ingress, endpoint.shadow_egress]
}

/// The rule sets the maps hold, by what they mean; those in use first.
fn known_sets(actual: &Actual) -> BTreeMap<Digest, Vec<RuleSetId>> {
    let mut known: BTreeMap<Digest, Vec<RuleSetId>> = BTreeMap::new();
    for (set, meta) in &actual.rule_set_meta {
        known.entry(Digest(meta.digest)).or_default().push(*set);
    }
    let several = known.values_mut().filter(|sets| sets.len() > 1);
    for sets in several {
        let is_used =
            |set: &RuleSetId| actual.endpoints.values().any(|endpoint| sets_of(endpoint).contains(set));
        sets.sort_by_key(|set| !is_used(set));
    }
    known
}

/// What the maps hold for a rule set, by identity.
fn all_entries_in(actual: &Actual, set: RuleSetId) -> BTreeMap<Identity, Entries> {
    let first = RulePrefix::new(set, Identity::ANY, PortPrefix::Any);
    let mut all: BTreeMap<Identity, Entries> = BTreeMap::new();
    for (prefix, rule) in actual.rules.range(first..).take_while(|(prefix, _)| prefix.key.rule_set == set) {
        if let Some(ports) = prefix.ports() {
            all.entry(prefix.key.identity).or_default().push((ports, *rule));
        }
    }
    all.values_mut().for_each(|entries| entries.sort_by_key(|(ports, _)| *ports));
    all
}

/// What the maps hold for a pair of rule set and identity.
pub(super) fn entries_in(actual: &Actual, set: RuleSetId, identity: Identity) -> Entries {
    let first = RulePrefix::new(set, identity, PortPrefix::Any);
    let here = actual
        .rules
        .range(first..)
        .take_while(|(prefix, _)| prefix.key.rule_set == set && prefix.key.identity == identity);
    let mut entries: Entries = here.filter_map(|(prefix, rule)| Some((prefix.ports()?, *rule))).collect();
    entries.sort_by_key(|(ports, _)| *ports);
    entries
}

/// The policy that the maps name.
fn name_of(meta: &PolicyMeta) -> PolicyName {
    let (namespace, name) = (meta.namespace.as_str(), meta.name.as_str());
    if meta.kind == PolicyKind::ClusterNetworkPolicy as u8 {
        PolicyName::ClusterNetworkPolicy(name.to_owned())
    } else {
        PolicyName::NetworkPolicy(NamespacedName::new(namespace, name))
    }
}

/// A policy as the maps name it.
fn meta_of(name: &PolicyName, mode: PolicyMode) -> PolicyMeta {
    let (namespace, name, kind) = match name {
        PolicyName::NetworkPolicy(name) => (&*name.namespace, &*name.name, PolicyKind::NetworkPolicy),
        PolicyName::ClusterNetworkPolicy(name) => ("", &**name, PolicyKind::ClusterNetworkPolicy),
    };
    PolicyMeta {
        namespace: Text::new(namespace),
        name: Text::new(name),
        kind: kind as u8,
        mode: mode as u8,
        reserved: [0; 6],
    }
}

/// Numbers of policies and their rules.
#[derive(Debug)]
struct Sources<'a> {
    audited: &'a BTreeSet<PolicyName>,
    policies: BTreeMap<PolicyName, PolicyId>,
    rules: BTreeMap<(PolicyId, u8, u16), RuleId>,
    rule_meta: BTreeMap<RuleId, RuleMeta>,
    policy_meta: BTreeMap<PolicyId, PolicyMeta>,
}

impl<'a> Sources<'a> {
    fn new(actual: &Actual, audited: &'a BTreeSet<PolicyName>) -> Self {
        let policies = actual.policy_meta.iter().map(|(id, meta)| (name_of(meta), *id)).collect();
        let rules = actual
            .rule_meta
            .iter()
            .map(|(id, meta)| ((meta.policy, meta.direction, meta.index), *id))
            .collect();
        Self { audited, policies, rules, rule_meta: BTreeMap::new(), policy_meta: BTreeMap::new() }
    }

    fn policy(&mut self, name: &PolicyName, numbers: &mut NumberSource) -> PolicyId {
        // Asked for every entry: a name is copied once.
        let id = match self.policies.get(name) {
            Some(id) => *id,
            None => {
                let id = PolicyId(numbers.take(Numbers::Policy));
                self.policies.insert(name.clone(), id);
                id
            }
        };
        let mode = if self.audited.contains(name) { PolicyMode::Audit } else { PolicyMode::Enforce };
        self.policy_meta.entry(id).or_insert_with(|| meta_of(name, mode));
        id
    }

    fn rule(&mut self, source: &RuleSource, numbers: &mut NumberSource) -> RuleId {
        let policy = self.policy(&source.policy, numbers);
        let meta = RuleMeta { policy, index: source.index, direction: source.direction as u8, reserved: 0 };
        let key = (policy, meta.direction, meta.index);
        let id = *self.rules.entry(key).or_insert_with(|| RuleId(numbers.take(Numbers::Rule)));
        self.rule_meta.insert(id, meta);
        id
    }

    fn set_meta(&mut self, digest: Digest, set: &RuleSet, numbers: &mut NumberSource) -> RuleSetMeta {
        let mut policies = [PolicyId::default(); RuleSetMeta::POLICIES];
        // Every isolating policy gets a name, also those beyond the places of the entry.
        let isolating = set.isolating.iter().cloned().map(PolicyName::NetworkPolicy);
        let ids: Vec<_> = isolating.map(|name| self.policy(&name, numbers)).collect();
        for (place, id) in policies.iter_mut().zip(&ids) {
            *place = *id;
        }
        RuleSetMeta {
            digest: digest.0,
            direction: set.direction as u8,
            denies: u8::from(set.denies_some()),
            policy_count: u16::try_from(ids.len()).unwrap_or(u16::MAX),
            policies,
        }
    }
}
