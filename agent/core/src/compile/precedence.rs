//! Tiers, precedence and overlapping ports, flattened into entries of which the longest prefix decides.
//!
//! Rules name sets of packets that are prefixes ([`PortPrefix`]), and any two prefixes are nested or apart. So all packets
//! whose longest prefix, of those that any rule names, is the same are matched by the same rules, and fare alike: by the
//! rules that name that prefix or a wider one. One decision for each prefix is the whole answer, and it has an entry where
//! it differs from that of the next wider entry.

use std::{collections::BTreeMap, sync::Arc};

use sluice_abi::RuleVerdict;

use crate::{
    cluster::{Action, Tier},
    desired::{PortPrefix, RuleEntry, RuleSet, SetRule},
    selector::Peer,
};

/// The rules that match, by tier; each the one that counts, by its index in the set.
#[derive(Clone, Copy, Debug, Default)]
struct Matching {
    /// The first of them.
    admin: Option<usize>,
    /// Of those that name the widest range, the first.
    network_policy: Option<usize>,
    /// The first of them.
    baseline: Option<usize>,
}

impl Matching {
    /// Adds a rule about the same range.
    fn add(&mut self, tier: Tier, index: usize) {
        let place = match tier {
            Tier::Admin => &mut self.admin,
            Tier::NetworkPolicy => &mut self.network_policy,
            Tier::Baseline => &mut self.baseline,
        };
        *place = first(*place, Some(index));
    }

    /// Those that match here, when `wider` match in a wider range around it.
    fn within(self, wider: Self) -> Self {
        Self {
            admin: first(self.admin, wider.admin),
            network_policy: wider.network_policy.or(self.network_policy),
            baseline: first(self.baseline, wider.baseline),
        }
    }

    /// What becomes of a packet, and by which rule.
    fn decide(self, set: &RuleSet) -> Decision {
        let by = |index: usize, verdict| (verdict, Some(index));
        let action = |index: usize| set.rules[index].action;
        for tier in [Tier::Admin, Tier::Baseline] {
            let decisive = if tier == Tier::Admin { self.admin } else { self.baseline };
            match decisive.map(|index| (index, action(index))) {
                Some((index, Action::Accept)) => return by(index, RuleVerdict::Allow),
                Some((index, Action::Deny)) => return by(index, RuleVerdict::Deny),
                Some((_, Action::Pass)) | None => {}
            }
            if tier == Tier::Admin && !set.isolating.is_empty() {
                let rule = self.network_policy;
                return rule.map_or((RuleVerdict::Deny, None), |index| by(index, RuleVerdict::Allow));
            }
        }
        (RuleVerdict::Allow, None)
    }
}

fn first(one: Option<usize>, other: Option<usize>) -> Option<usize> {
    one.into_iter().chain(other).min()
}

/// The verdict, and the rule behind it, by its index in the set.
type Decision = (RuleVerdict, Option<usize>);

/// What no rule of an isolated pod allows.
const NO_RULE: Decision = (RuleVerdict::Deny, None);

/// The entries of a set for peers that these rules match on these ports; `None` where nothing has to be said.
///
/// The absence of an entry says [`NO_RULE`], unless a rule denies every peer: then the kernel would find that rule, behind
/// the entries of the peer itself.
pub(super) fn flattened(
    set: &RuleSet,
    rules: impl Iterator<Item = (usize, Vec<PortPrefix>)>,
) -> Option<Arc<[RuleEntry]>> {
    // Sorted, a prefix comes after all that cover it.
    let mut named: BTreeMap<PortPrefix, Matching> = BTreeMap::from([(PortPrefix::Any, Matching::default())]);
    for (index, ports) in rules {
        for prefix in ports {
            named.entry(prefix).or_default().add(set.rules[index].tier, index);
        }
    }
    let denies_all = |rule: &SetRule| rule.action == Action::Deny && rule.peers.contains(&Peer::Any);
    let absence = (!set.rules.iter().any(denies_all)).then_some(NO_RULE);
    let mut entries = Vec::new();
    let mut around: Vec<(PortPrefix, Matching, Decision)> = Vec::new();
    for (ports, here) in named {
        while around.pop_if(|(wider, ..)| !wider.covers(&ports)).is_some() {}
        let (wider, said) =
            around.last().map_or((Matching::default(), absence), |(_, wider, said)| (*wider, Some(*said)));
        let matching = here.within(wider);
        let decision = matching.decide(set);
        if Some(decision) != said {
            let source = decision.1.map(|index| Arc::new(set.rules[index].source.clone()));
            entries.push(RuleEntry { ports, verdict: decision.0, source });
        }
        around.push((ports, matching, decision));
    }
    (!entries.is_empty()).then(|| entries.into())
}
