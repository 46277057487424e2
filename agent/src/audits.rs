//! What audited policies would have dropped, by policy.
//!
//! The programs count in records that the least recent leave ([`sluice_abi::maps::AUDIT_RECORDS`]); what is added to them
//! from one look to the next is added up here, so that a policy's count only grows while the agent runs.

use std::collections::{BTreeMap, BTreeSet};

use sluice_abi::{DropKey, DropRecord, PolicyId, PolicyKind, PolicyMode, RuleId};
use sluice_core::plan::Actual;
use sluice_maps::{Maps, MapsError};

/// How far the records were counted.
#[derive(Debug, Default)]
pub struct Audits {
    counted: BTreeMap<DropKey, u64>,
}

impl Audits {
    /// What has come to the records since the last call, by policy: the rule's, else each audited one among those that would
    /// isolate. Names are those in `actual`.
    ///
    /// # Errors
    /// [`MapsError`] when the records cannot be read.
    pub fn news(&mut self, maps: &Maps, actual: &Actual) -> Result<BTreeMap<String, u64>, MapsError> {
        Ok(self.add(maps.audit_records.entries()?, actual))
    }

    fn add(&mut self, records: Vec<(DropKey, DropRecord)>, actual: &Actual) -> BTreeMap<String, u64> {
        let mut news: BTreeMap<String, u64> = BTreeMap::new();
        let before = std::mem::take(&mut self.counted);
        for (key, record) in records {
            let known = before.get(&key).copied().unwrap_or_default();
            // One that has left and come again begins anew.
            let added = record.count.checked_sub(known).unwrap_or(record.count);
            if added > 0 {
                for policy in blamed(&record, actual) {
                    *news.entry(policy).or_default() += added;
                }
            }
            self.counted.insert(key, record.count);
        }
        news
    }
}

/// The policies that a record is the work of; one without a name when the maps have forgotten them.
fn blamed(record: &DropRecord, actual: &Actual) -> BTreeSet<String> {
    let set = actual.rule_set_meta.get(&record.rule_set);
    let isolating =
        set.iter().flat_map(|set| set.policies.iter().take(usize::from(set.policy_count)).copied());
    let is_audited = |id: &PolicyId| {
        actual.policy_meta.get(id).is_some_and(|policy| policy.mode == PolicyMode::Audit as u8)
    };
    let policies: Vec<PolicyId> = if record.rule == RuleId::NONE {
        let (audited, others): (Vec<_>, Vec<_>) = isolating.partition(is_audited);
        if audited.is_empty() { others } else { audited }
    } else {
        actual.rule_meta.get(&record.rule).map(|rule| rule.policy).into_iter().collect()
    };
    let named: BTreeSet<String> = policies.iter().filter_map(|id| name(*id, actual)).collect();
    if named.is_empty() { BTreeSet::from(["unknown".to_owned()]) } else { named }
}

fn name(id: PolicyId, actual: &Actual) -> Option<String> {
    let meta = actual.policy_meta.get(&id)?;
    Some(if meta.kind == PolicyKind::NetworkPolicy as u8 {
        format!("{}/{}", meta.namespace, meta.name)
    } else {
        meta.name.to_string()
    })
}

#[cfg(test)]
mod tests {
    use sluice_abi::{Direction, PolicyMeta, RuleMeta, RuleSetId, RuleSetMeta, Text};

    use super::*;

    fn actual() -> Actual {
        let policy = |name, mode: PolicyMode| PolicyMeta {
            namespace: Text::new("shop"),
            name: Text::new(name),
            kind: PolicyKind::NetworkPolicy as u8,
            mode: mode as u8,
            reserved: [0; 6],
        };
        let mut policies = [PolicyId::default(); RuleSetMeta::POLICIES];
        (policies[0], policies[1]) = (PolicyId(1), PolicyId(2));
        let direction = Direction::Ingress as u8;
        let set = RuleSetMeta { digest: [0; 16], direction, denies: 0, policy_count: 2, policies };
        let rule = RuleMeta { policy: PolicyId(1), index: 0, direction, reserved: 0 };
        Actual {
            policy_meta: [
                (PolicyId(1), policy("old", PolicyMode::Enforce)),
                (PolicyId(2), policy("new", PolicyMode::Audit)),
            ]
            .into(),
            rule_set_meta: [(RuleSetId(7), set)].into(),
            rule_meta: [(RuleId(16), rule)].into(),
            ..Actual::default()
        }
    }

    fn record(port: u16, count: u64, rule_set: u32, rule: RuleId) -> (DropKey, DropRecord) {
        let key = DropKey { port: port.to_be_bytes(), ..DropKey::default() };
        (key, DropRecord { count, last_seen_ns: 1, rule_set: RuleSetId(rule_set), rule })
    }

    #[test]
    fn a_policy_is_blamed_for_what_came_since_the_last_look() {
        let (mut audits, actual) = (Audits::default(), actual());
        let mut news = |records| audits.add(records, &actual).into_iter().collect::<Vec<_>>();
        let none = RuleId::NONE;
        assert_eq!(news(vec![record(80, 3, 7, none)]), [("shop/new".to_owned(), 3)]);
        assert_eq!(news(vec![record(80, 3, 7, none)]), []);
        let both = vec![record(80, 5, 7, none), record(81, 1, 7, RuleId(16))];
        assert_eq!(news(both), [("shop/new".to_owned(), 2), ("shop/old".to_owned(), 1)]);
        // The record left and came again; another's rule set is gone.
        let anew = vec![record(80, 1, 7, none), record(82, 4, 9, none)];
        assert_eq!(news(anew), [("shop/new".to_owned(), 1), ("unknown".to_owned(), 4)]);
    }
}
