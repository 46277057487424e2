//! What each class of addresses may do under each rule set.
//!
//! **Invariant: a pair is judged once.** Rule sets and classes are named by their content, so the answer about a pair,
//! be it entries or none, stands as long as both do.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{ports, precedence::flattened};
use crate::{
    cluster::PortMatch,
    desired::{Class, DesiredState, Digest, PortPrefix, RuleEntry, RuleSet, SetRule},
    selector::{Peer, Selector},
};

/// Which pairs have been judged: every known rule set with every known class.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    sets: BTreeSet<Digest>,
    classes: BTreeSet<Digest>,
}

impl Rules {
    /// Brings the entries of every pair of rule set and class up to date.
    pub(super) fn update(&mut self, desired: &mut DesiredState) {
        let (sets, classes) = (&desired.rule_sets, &desired.classes);
        let gone: Vec<_> =
            self.classes.iter().filter(|class| !classes.contains_key(class)).copied().collect();
        let new: Vec<_> = classes.iter().filter(|(digest, _)| !self.classes.contains(digest)).collect();
        desired.rules.retain(|digest, _| sets.contains_key(digest));
        for (digest, set) in sets {
            let entries = desired.rules.entry(*digest).or_default();
            if self.sets.contains(digest) {
                for class in &gone {
                    entries.remove(&Some(*class));
                }
                judge(set, new.iter().copied(), entries);
            } else {
                judge(set, classes, entries);
                entries.extend(about_every_peer(set).map(|rules| (None, rules)));
            }
        }
        self.sets = sets.keys().copied().collect();
        self.classes = classes.keys().copied().collect();
    }
}

/// Adds the entries of classes that have their own in a set.
fn judge<'a>(
    set: &RuleSet,
    classes: impl IntoIterator<Item = (&'a Digest, &'a Arc<Class>)>,
    entries: &mut BTreeMap<Option<Digest>, Arc<[RuleEntry]>>,
) {
    let mut classes = classes.into_iter().peekable();
    if classes.peek().is_none() || set.rules.is_empty() {
        return;
    }
    let mut by_peer: BTreeMap<&Peer, Vec<usize>> = BTreeMap::new();
    for (index, rule) in set.rules.iter().enumerate() {
        rule.peers.iter().for_each(|peer| by_peer.entry(peer).or_default().push(index));
    }
    for (digest, class) in classes {
        if let Some(rules) = about_class(set, &by_peer, class) {
            entries.insert(Some(*digest), rules);
        }
    }
}

/// The entries about every peer.
fn about_every_peer(set: &RuleSet) -> Option<Arc<[RuleEntry]>> {
    let rules = set.rules.iter().enumerate().filter(|(_, rule)| rule.peers.contains(&Peer::Any));
    flattened(set, rules.map(|(index, rule)| (index, ports_of(rule))))
}

/// The entries a class has in a set: none of its own when no rule names it, else with those about every peer.
fn about_class(
    set: &RuleSet,
    by_peer: &BTreeMap<&Peer, Vec<usize>>,
    class: &Class,
) -> Option<Arc<[RuleEntry]>> {
    let mut hits: BTreeMap<usize, Vec<PortPrefix>> = BTreeMap::new();
    for selector in &class.0 {
        match &**selector {
            Selector::Peer(peer) => {
                for index in by_peer.get(peer).into_iter().flatten() {
                    hits.entry(*index).or_default().extend(ports_of(&set.rules[*index]));
                }
            }
            Selector::Port { peer, name, protocol, number } => {
                let wanted = PortMatch::Named { protocol: *protocol, name: name.clone() };
                let known = PortPrefix::Ports { protocol: *protocol, first: *number, bits: 16 };
                let naming = by_peer.get(peer).into_iter().flatten().filter(|index| {
                    set.rules[**index].ports.as_ref().is_some_and(|ports| ports.contains(&wanted))
                });
                naming.for_each(|index| hits.entry(*index).or_default().push(known));
            }
        }
    }
    if hits.values().all(Vec::is_empty) {
        return None;
    }
    for index in by_peer.get(&Peer::Any).into_iter().flatten() {
        hits.entry(*index).or_default().extend(ports_of(&set.rules[*index]));
    }
    flattened(set, hits.into_iter())
}

/// The ports of a rule as far as they are numbers.
fn ports_of(rule: &SetRule) -> Vec<PortPrefix> {
    match &rule.ports {
        None => vec![PortPrefix::Any],
        Some(matches) => matches.iter().flat_map(ports::of).collect(),
    }
}
