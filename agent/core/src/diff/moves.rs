//! How addresses get from their old identity to their new one while endpoints change their rule sets.
//!
//! An address that has identity X and shall have Y is carried over by a third, T: under the sets that endpoints leave T
//! has the rules of X, under the sets they go to those of Y. So addresses move X → T, endpoints change over, addresses
//! move T → Y, and each judgement changes once, from its old to its new answer. Mostly T can be Y itself (nothing but Y
//! is new) or X itself (nothing but X goes), and one of the two moves is none.
//!
//! Where one endpoint leaves a set that another enters, T may only what both X and Y may there: for the one or the other
//! something that both ends of the plan pass can be closed for a moment. It never is the other way round.
//!
//! While some endpoints have to keep an old set (it was refused), addresses stay at T: it is right under both.

use std::collections::{BTreeMap, BTreeSet};

use sluice_abi::{Identity, IdentityMeta, Prefix, Rule, RuleSetId, Text, maps::Numbers};

use super::{
    NumberSource,
    bind::{Bound, Entries, entries_in},
};
use crate::{
    desired::{Digest, PortPrefix},
    plan::{Actual, Entry, Key, Plan, RulePrefix, Step},
    prefix::longest,
};

/// Which sets endpoints leave and enter.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// Sets that some endpoint leaves, or has to keep though they are no longer wanted.
    pub(super) left: BTreeSet<RuleSetId>,
    /// Sets that some endpoint goes to; all that are wanted, while an old set has to be kept.
    pub(super) entered: BTreeSet<RuleSetId>,
    /// Whether an old set has to be kept.
    pub(super) keeps_old: bool,
}

/// Steps and rules that carry addresses over.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// Before endpoints change over.
    pub(super) before: Plan,
    /// Afterwards.
    pub(super) after: Plan,
    /// Rules of the identities on the way.
    pub(super) rules: BTreeMap<RulePrefix, Rule>,
    /// Names of identities made for the way.
    pub(super) identity_meta: BTreeMap<Identity, IdentityMeta>,
    /// What becomes of the entries that change; `None` is none.
    changed: BTreeMap<Prefix, Option<Identity>>,
}

/// Plans the moves from what the maps hold to `ipcache`.
pub(super) fn plan(
    ipcache: &BTreeMap<Prefix, Identity>,
    actual: &Actual,
    bound: &Bound,
    change: &Change,
    numbers: &mut NumberSource,
) -> Moves {
    let wanted = ipcache.iter().filter(|(prefix, identity)| actual.ipcache.get(prefix) != Some(identity));
    let gone = actual.ipcache.keys().filter(|prefix| !ipcache.contains_key(prefix));
    let mut cells: Vec<Cell> = wanted
        .map(|(prefix, _)| prefix)
        .chain(gone)
        .map(|prefix| Cell {
            prefix: *prefix,
            old: longest(&actual.ipcache, prefix).copied().unwrap_or(Identity::ANY),
            new: longest(ipcache, prefix).copied().unwrap_or(Identity::ANY),
        })
        .collect();
    cells.sort_by_key(|cell| (std::cmp::Reverse(cell.prefix.bits), cell.prefix));
    let carriers = Carriers::choose(&cells, actual, bound, change, numbers);
    let mut moves =
        Moves { rules: carriers.rules, identity_meta: carriers.identity_meta, ..Moves::default() };
    moves.order(&cells, &carriers.of, ipcache, actual, change.keeps_old);
    moves
}

/// A range whose entry changes; all addresses that have no smaller range fare alike.
#[derive(Clone, Copy, Debug)]
struct Cell {
    prefix: Prefix,
    old: Identity,
    new: Identity,
}

impl Moves {
    /// The identities that addresses have in the end, and [`Identity::ANY`].
    pub(super) fn carried(&self, actual: &Actual) -> BTreeSet<Identity> {
        let staying = actual.ipcache.iter().filter(|(prefix, _)| !self.changed.contains_key(prefix));
        let changed = self.changed.values().flatten();
        staying.map(|(_, identity)| identity).chain(changed).copied().chain([Identity::ANY]).collect()
    }

    fn get(&self, prefix: &Prefix, actual: &Actual) -> Option<Identity> {
        self.changed.get(prefix).copied().unwrap_or_else(|| actual.ipcache.get(prefix).copied())
    }

    /// Puts the steps in order; `cells` begin with the smallest ranges.
    ///
    /// A range gets its own entry before a larger one around it changes, and loses it after.
    fn order(
        &mut self,
        cells: &[Cell],
        carriers: &BTreeMap<(Identity, Identity), Identity>,
        ipcache: &BTreeMap<Prefix, Identity>,
        actual: &Actual,
        keeps_old: bool,
    ) {
        let changing: BTreeMap<Prefix, ()> = cells.iter().map(|cell| (cell.prefix, ())).collect();
        for cell in cells {
            let carrier = carriers.get(&(cell.old, cell.new)).copied().unwrap_or(cell.old);
            let found = self.get(&cell.prefix, actual);
            let around = cell.prefix.bits.checked_sub(1).map(|bits| Prefix::new(cell.prefix.addr, bits));
            let is_alone = around.is_none_or(|around| longest(&changing, &around).is_none());
            // Without an entry it has the old identity anyhow, as long as nothing around it changes.
            let implied = found.is_none() && carrier == cell.old && is_alone && cell.old != cell.new;
            if found != Some(carrier) && !implied {
                self.put(cell.prefix, carrier, true);
            }
        }
        if keeps_old {
            return;
        }
        for cell in cells {
            if let Some(identity) = ipcache.get(&cell.prefix)
                && self.get(&cell.prefix, actual) != Some(*identity)
            {
                self.put(cell.prefix, *identity, false);
            }
        }
        for cell in cells.iter().rev().filter(|cell| !ipcache.contains_key(&cell.prefix)) {
            if self.get(&cell.prefix, actual).is_some() {
                self.changed.insert(cell.prefix, None);
                self.after.push(Step::Delete(Key::Ipcache(cell.prefix)));
            }
        }
    }

    fn put(&mut self, prefix: Prefix, identity: Identity, before: bool) {
        let phase = if before { &mut self.before } else { &mut self.after };
        phase.push(Step::Put(Entry::Ipcache(prefix, identity)));
        self.changed.insert(prefix, Some(identity));
    }
}

/// The identity that carries each pair of old and new over.
#[derive(Debug)]
struct Carriers<'a> {
    actual: &'a Actual,
    bound: &'a Bound,
    change: &'a Change,
    of: BTreeMap<(Identity, Identity), Identity>,
    rules: BTreeMap<RulePrefix, Rule>,
    identity_meta: BTreeMap<Identity, IdentityMeta>,
}

impl<'a> Carriers<'a> {
    fn choose(
        cells: &[Cell],
        actual: &'a Actual,
        bound: &'a Bound,
        change: &'a Change,
        numbers: &mut NumberSource,
    ) -> Self {
        let pairs: BTreeSet<_> = cells.iter().filter(|c| c.old != c.new).map(|c| (c.old, c.new)).collect();
        let mut carriers = Self {
            actual,
            bound,
            change,
            of: BTreeMap::new(),
            rules: BTreeMap::new(),
            identity_meta: BTreeMap::new(),
        };
        for (old, new) in &pairs {
            let one_source = pairs.iter().filter(|(_, other)| other == new).count() == 1;
            let one_target =
                pairs.range((*old, Identity::ANY)..).take_while(|(other, _)| other == old).count() == 1;
            let carrier = carriers.carrier(*old, *new, one_source, one_target, numbers);
            carriers.of.insert((*old, *new), carrier);
        }
        carriers
    }

    fn carrier(
        &mut self,
        old: Identity,
        new: Identity,
        one_source: bool,
        one_target: bool,
        numbers: &mut NumberSource,
    ) -> Identity {
        let bound = self.bound;
        let alike = |set: &&RuleSetId| !self.is_alike(**set, old, new);
        let left: Vec<_> = self.change.left.iter().filter(alike).copied().collect();
        let entered: Vec<_> = self.change.entered.iter().filter(alike).copied().collect();
        if entered.is_empty() && self.change.keeps_old {
            return old;
        }
        if left.is_empty() {
            return new;
        }
        if entered.is_empty() {
            return old;
        }
        let abandoned = |set: &RuleSetId| !bound.rule_set_meta.contains_key(set);
        if one_source && bound.new_identities.contains(&new) && left.iter().all(abandoned) {
            left.iter().for_each(|set| self.copy(*set, new, self.old_entries(*set, old)));
            return new;
        }
        let is_new = |set: &RuleSetId| !self.actual.rule_set_meta.contains_key(set);
        let goes = old != Identity::ANY && !bound.identity_meta.contains_key(&old);
        if one_target && goes && !self.change.keeps_old && entered.iter().all(is_new) {
            entered.iter().for_each(|set| self.copy(*set, old, self.new_entries(*set, new)));
            return old;
        }
        self.fresh(old, new, numbers)
    }

    /// Makes an identity for the way.
    fn fresh(&mut self, old: Identity, new: Identity, numbers: &mut NumberSource) -> Identity {
        let carrier = Identity(numbers.take(Numbers::Identity));
        for set in self.bound.rule_set_meta.keys().chain(&self.change.left).collect::<BTreeSet<_>>() {
            let (left, entered) = (self.change.left.contains(set), self.change.entered.contains(set));
            let entries = match (left, entered) {
                (true, false) => self.old_entries(*set, old),
                (false, _) => self.new_entries(*set, new),
                // Endpoints both leave and enter it while the peer changes: only what both allow.
                (true, true) => both(&self.effective(*set, old), &self.effective(*set, new)),
            };
            self.copy(*set, carrier, entries);
        }
        let digest = Digest::of(&format!("identity {} on the way", carrier.0)).0;
        let selectors = Text::new(&format!("on the way from identity {} to {}", old.0, new.0));
        self.identity_meta.insert(carrier, IdentityMeta { digest, selectors });
        carrier
    }

    fn copy(&mut self, set: RuleSetId, identity: Identity, entries: Entries) {
        let keyed = entries.into_iter().map(|(ports, rule)| (RulePrefix::new(set, identity, ports), rule));
        self.rules.extend(keyed);
    }

    /// The entries of a pair as the maps have them now.
    fn old_entries(&self, set: RuleSetId, identity: Identity) -> Entries {
        entries_in(self.actual, set, identity)
    }

    /// The entries of a pair once everything is prepared.
    fn new_entries(&self, set: RuleSetId, identity: Identity) -> Entries {
        let wanted = self.bound.wanted_of(set, identity);
        wanted.unwrap_or_else(|| entries_in(self.actual, set, identity))
    }

    /// What the kernel finds: the identity's own entries, else those about every peer.
    fn effective(&self, set: RuleSetId, identity: Identity) -> Entries {
        let own = self.new_entries(set, identity);
        if own.is_empty() { self.new_entries(set, Identity::ANY) } else { own }
    }

    fn is_alike(&self, set: RuleSetId, one: Identity, other: Identity) -> bool {
        let verdicts = |identity| verdicts(&self.effective(set, identity));
        verdicts(one) == verdicts(other)
    }
}

/// What the entries come to: the ranges of which the verdict differs from that of the next wider range.
fn verdicts(entries: &Entries) -> Vec<(PortPrefix, bool)> {
    let mut verdicts = Vec::new();
    let mut around: Vec<(PortPrefix, bool)> = Vec::new();
    // Sorted, a prefix comes after all that cover it.
    for (ports, rule) in entries {
        while around.pop_if(|(wider, _)| !wider.covers(ports)).is_some() {}
        if around.last().is_some_and(|(_, allows)| *allows) != rule.allows() {
            verdicts.push((*ports, rule.allows()));
        }
        around.push((*ports, rule.allows()));
    }
    verdicts
}

/// What both allow; what one of them denies is denied by its rule.
fn both(one: &Entries, other: &Entries) -> Entries {
    let ranges: BTreeSet<PortPrefix> = one.iter().chain(other).map(|(ports, _)| *ports).collect();
    let found = |entries: &Entries, ports: &PortPrefix| {
        // Sorted, the longest of the prefixes that cover it is the last.
        let rule = entries.iter().rev().find(|(wider, _)| wider.covers(ports)).map(|(_, rule)| *rule);
        rule.unwrap_or_default()
    };
    let decide = |ports: PortPrefix| {
        let (one, other) = (found(one, &ports), found(other, &ports));
        (ports, if one.allows() { other } else { one })
    };
    ranges.into_iter().map(decide).collect()
}
