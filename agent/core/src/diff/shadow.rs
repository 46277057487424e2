//! What remains when audits are given up.
//!
//! Selectors that only audited policies name tell peers apart, too. Without them classes of addresses become one, so that
//! what is left takes no more room than if nothing had been audited.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use sluice_abi::Prefix;

use crate::{
    cluster::PortMatch,
    desired::{Class, DesiredEndpoint, DesiredState, Digest, RuleSet},
    object::PolicyName,
    prefix::longest,
    selector::{Peer, Selector},
};

/// The audited policies that have a say in some shadow.
pub(super) fn policies(desired: &DesiredState) -> BTreeSet<PolicyName> {
    let shadows = desired.endpoints.values().flat_map(|endpoint| match endpoint {
        DesiredEndpoint::Pod { shadows, .. } => *shadows,
        DesiredEndpoint::Host { .. } => [None; 2],
    });
    let digests: BTreeSet<Digest> = shadows.flatten().collect();
    let sets = digests.iter().filter_map(|digest| desired.rule_sets.get(digest));
    sets.flat_map(|set| set.policies()).filter(|policy| desired.audited.contains(policy)).collect()
}

/// Rule sets, identities, addresses and endpoints without shadows; `None` when there are none.
pub(super) fn without(desired: &DesiredState) -> Option<DesiredState> {
    let mut endpoints = desired.endpoints.clone();
    let (mut enforced, mut has_shadows) = (BTreeSet::new(), false);
    for endpoint in endpoints.values_mut() {
        if let DesiredEndpoint::Pod { rule_sets, shadows, .. } = endpoint {
            enforced.extend(*rule_sets);
            has_shadows |= *shadows != [None; 2];
            *shadows = [None; 2];
        }
    }
    if !has_shadows {
        return None;
    }
    let is_enforced = |digest: &Digest| enforced.contains(digest);
    let rule_sets: BTreeMap<_, _> = desired
        .rule_sets
        .iter()
        .filter(|(digest, _)| is_enforced(digest))
        .map(|(d, s)| (*d, s.clone()))
        .collect();
    let narrowed = Narrowed::to(&Named::by(rule_sets.values()), desired);
    let rules = desired.rules.iter().filter(|(digest, _)| is_enforced(digest)).map(|(digest, entries)| {
        // Classes that become one differ in selectors only that the set does not name, so their entries are equal.
        let entries = entries
            .iter()
            .map(|(class, entries)| (class.and_then(|class| narrowed.of[&class]), entries.clone()));
        (*digest, entries.collect())
    });
    Some(DesiredState {
        rules: rules.collect(),
        ipcache: ipcache(desired, &narrowed.of),
        rule_sets,
        classes: narrowed.classes,
        endpoints,
        interfaces: desired.interfaces.clone(),
        audited: desired.audited.clone(),
        ..DesiredState::default()
    })
}

/// What rules name.
struct Named<'a> {
    peers: BTreeSet<&'a Peer>,
    ports: BTreeSet<(&'a Peer, &'a str, u8)>,
}

impl<'a> Named<'a> {
    fn by(sets: impl Iterator<Item = &'a Arc<RuleSet>>) -> Self {
        let mut named = Self { peers: BTreeSet::new(), ports: BTreeSet::new() };
        for rule in sets.flat_map(|set| &set.rules) {
            for peer in &rule.peers {
                named.peers.insert(peer);
                for port in rule.ports.iter().flatten() {
                    if let PortMatch::Named { protocol, name } = port {
                        named.ports.insert((peer, name, *protocol));
                    }
                }
            }
        }
        named
    }

    fn holds(&self, selector: &Selector) -> bool {
        match selector {
            Selector::Peer(peer) => self.peers.contains(peer),
            Selector::Port { peer, name, protocol, .. } => self.ports.contains(&(peer, name, *protocol)),
        }
    }
}

/// The classes with what is still named.
#[derive(Default)]
struct Narrowed {
    classes: BTreeMap<Digest, Arc<Class>>,
    /// What has become of each; `None` where nothing is left.
    of: BTreeMap<Digest, Option<Digest>>,
}

impl Narrowed {
    fn to(named: &Named<'_>, desired: &DesiredState) -> Self {
        let mut narrowed = Self::default();
        for (digest, class) in &desired.classes {
            let selectors: BTreeSet<_> = class.0.iter().filter(|one| named.holds(one)).cloned().collect();
            let left = (!selectors.is_empty()).then(|| {
                let class = Class(selectors);
                let digest = Digest::of(&class.to_string());
                narrowed.classes.entry(digest).or_insert_with(|| Arc::new(class));
                digest
            });
            narrowed.of.insert(*digest, left);
        }
        narrowed
    }
}

/// The addresses, without the entries that say what the next wider one does.
fn ipcache(
    desired: &DesiredState,
    narrowed: &BTreeMap<Digest, Option<Digest>>,
) -> BTreeMap<Prefix, Option<Digest>> {
    let mut widest_first: Vec<_> = desired.ipcache.iter().collect();
    widest_first.sort_by_key(|(prefix, _)| (prefix.bits, **prefix));
    let mut ipcache: BTreeMap<Prefix, Option<Digest>> = BTreeMap::new();
    for (prefix, class) in widest_first {
        let class = class.and_then(|class| narrowed[&class]);
        let around = prefix.bits.checked_sub(1).map(|bits| Prefix::new(prefix.addr, bits));
        let around = around.and_then(|around| longest(&ipcache, &around).copied().flatten());
        if class != around {
            ipcache.insert(*prefix, class);
        }
    }
    ipcache
}
