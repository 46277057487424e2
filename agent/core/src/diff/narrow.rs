//! What becomes of rule sets while addresses are left out of the maps, for want of room (promise 4: closed).
//!
//! An address without an entry is answered by what is said about the range around it, or about every peer. A rule that
//! denies by selectors, or an exception, does not reach it there. So a set says of that range, or of every peer, only what
//! it says of the left-out address too: it is *narrowed*, and is another set under another name. Sets of NetworkPolicies alone
//! stay as they are, since their selectors only add.
//!
//! **Invariant: nothing that is left out is let pass what the wanted state denies it.** Where not even the narrowed set has
//! room, [`Mistaken::pass`] tells whether the old one would break that; then the pod is closed.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use sluice_abi::{Identity, Prefix, RuleSetId, RuleVerdict};

use super::bind::entries_in;
use crate::{
    desired::{DesiredEndpoint, DesiredState, Digest, PortPrefix, RuleEntry},
    plan::Actual,
    prefix::longest,
};

/// The entries of one rule set, by class; `None` is about every peer.
type ByClass = BTreeMap<Option<Digest>, Arc<[RuleEntry]>>;

/// The wanted state without some addresses.
#[derive(Debug)]
pub(super) struct Narrowed<'a> {
    /// What the maps can hold of it.
    pub(super) desired: Cow<'a, DesiredState>,
    /// The wanted set that each narrowed one stands for.
    pub(super) origins: BTreeMap<Digest, Digest>,
}

impl Narrowed<'_> {
    /// The wanted set that a set stands for: mostly itself.
    pub(super) fn origin(&self, set: &Digest) -> Digest {
        self.origins.get(set).copied().unwrap_or(*set)
    }
}

/// Leaves addresses out, and narrows the sets for which that makes a difference.
pub(super) fn narrowed<'a>(
    desired: &'a DesiredState,
    left_out: &BTreeMap<Prefix, &'static str>,
) -> Narrowed<'a> {
    if left_out.is_empty() {
        return Narrowed { desired: Cow::Borrowed(desired), origins: BTreeMap::new() };
    }
    let mut rest = desired.clone();
    rest.ipcache.retain(|prefix, _| !left_out.contains_key(prefix));
    // What such an address is taken for, and what it is.
    let mistaken: BTreeSet<(Option<Digest>, Option<Digest>)> = left_out
        .keys()
        .map(|prefix| (longest(&rest.ipcache, prefix).copied().flatten(), desired.ipcache[prefix]))
        .collect();
    let mut names = BTreeMap::new();
    for (digest, set) in &desired.rule_sets {
        let Some((entries, words)) = narrowed_entries(desired.rules.get(digest), &mistaken) else { continue };
        let name = Digest::of(&format!("{digest} narrowed{words}"));
        rest.rule_sets.remove(digest);
        rest.rules.remove(digest);
        rest.rule_sets.insert(name, set.clone());
        rest.rules.insert(name, entries);
        names.insert(*digest, name);
    }
    for endpoint in rest.endpoints.values_mut() {
        if let DesiredEndpoint::Pod { rule_sets, .. } = endpoint {
            *rule_sets = rule_sets.map(|set| names.get(&set).copied().unwrap_or(set));
        }
    }
    let origins = names.into_iter().map(|(digest, name)| (name, digest)).collect();
    Narrowed { desired: Cow::Owned(rest), origins }
}

/// The entries of a set for which it makes a difference, and for which addresses it does, in words.
fn narrowed_entries(
    entries: Option<&ByClass>,
    mistaken: &BTreeSet<(Option<Digest>, Option<Digest>)>,
) -> Option<(ByClass, String)> {
    let entries = entries?;
    let (mut narrowed, mut words) = (entries.clone(), String::new());
    for (taken_for, class) in mistaken {
        let (open, wanted) = (effective(&narrowed, taken_for), effective(entries, class));
        let both = both(open, wanted);
        if opens_more(&verdicts(open), &verdicts(&both)) {
            narrowed.insert(*taken_for, both.into());
            let word = |class: &Option<Digest>| class.map_or("any".to_owned(), |digest| digest.to_string());
            words += &format!("; {} as {}", word(taken_for), word(class));
        }
    }
    (!words.is_empty()).then_some((narrowed, words))
}

/// What the programs find for a class: its own entries, else those about every peer.
fn effective<'a>(entries: &'a ByClass, class: &Option<Digest>) -> &'a [RuleEntry] {
    entries.get(class).or_else(|| entries.get(&None)).map_or(&[], |entries| entries)
}

/// What both allow; what one of them denies is denied by its rule.
fn both(one: &[RuleEntry], other: &[RuleEntry]) -> Vec<RuleEntry> {
    let ranges: BTreeSet<PortPrefix> = one.iter().chain(other).map(|entry| entry.ports).collect();
    let found = |entries: &[RuleEntry], ports: PortPrefix| {
        // Sorted, the longest of the prefixes that cover it is the last.
        let entry = entries.iter().rev().find(|entry| entry.ports.covers(&ports));
        let (verdict, source) =
            entry.map_or((RuleVerdict::Deny, None), |entry| (entry.verdict, entry.source.clone()));
        RuleEntry { ports, verdict, source }
    };
    let decide = |ports| {
        let [one, other] = [one, other].map(|entries| found(entries, ports));
        if one.verdict == RuleVerdict::Allow { other } else { one }
    };
    ranges.into_iter().map(decide).collect()
}

/// What left-out addresses are taken for by the maps as they are, and what they are.
#[derive(Debug)]
pub(super) struct Mistaken(BTreeSet<(Identity, Option<Digest>)>);

impl Mistaken {
    pub(super) fn of<'a>(
        left_out: impl Iterator<Item = &'a Prefix>,
        desired: &DesiredState,
        actual: &Actual,
    ) -> Self {
        Self(left_out.map(|prefix| (actual.identity_of(prefix.addr), desired.ipcache[prefix])).collect())
    }

    /// Whether an old set lets one of them pass what the wanted set denies it.
    pub(super) fn pass(
        &self,
        desired: &DesiredState,
        actual: &Actual,
        old: RuleSetId,
        wanted: &Digest,
    ) -> bool {
        let nothing = ByClass::new();
        let entries = desired.rules.get(wanted).unwrap_or(&nothing);
        self.0.iter().any(|(identity, class)| {
            let [own, every] = [*identity, Identity::ANY].map(|identity| {
                let found = entries_in(actual, old, identity).into_iter();
                found.map(|(ports, rule)| (ports, rule.allows())).collect::<Vec<_>>()
            });
            let found = if own.is_empty() { every } else { own };
            opens_more(&found, &verdicts(effective(entries, class)))
        })
    }
}

fn verdicts(entries: &[RuleEntry]) -> Vec<(PortPrefix, bool)> {
    entries.iter().map(|entry| (entry.ports, entry.verdict == RuleVerdict::Allow)).collect()
}

/// Whether some packet passes by the first entries and not by the others.
fn opens_more(one: &[(PortPrefix, bool)], other: &[(PortPrefix, bool)]) -> bool {
    let allows = |entries: &[(PortPrefix, bool)], ports: &PortPrefix| {
        entries.iter().rev().find(|(wider, _)| wider.covers(ports)).is_some_and(|(_, allows)| *allows)
    };
    one.iter().chain(other).any(|(ports, _)| allows(one, ports) && !allows(other, ports))
}
