//! Backends that a plan takes from a UDP frontend and leaves to others: flows that are on them are to be forgotten.

use std::collections::BTreeSet;

use sluice_abi::{BackendId, BackendState, FrontendKey, protocol};
use sluice_core::plan::{Actual, Entry, Key, Plan, Step};

/// The frontends a plan changes, and what they led to before.
#[derive(Debug)]
pub(super) struct Before(Vec<(FrontendKey, BTreeSet<BackendId>)>);

impl Before {
    /// To be asked before the plan is carried out.
    pub(super) fn of(plan: &Plan, actual: &Actual) -> Self {
        let changed = plan.iter().filter_map(|step| {
            let (Step::Put(Entry::Frontend(key, _)) | Step::Delete(Key::Frontend(key))) = step else {
                return None;
            };
            Some(*key)
        });
        let changed = changed.filter(|key| key.protocol == protocol::UDP);
        Self(
            changed
                .map(|key| (key, members(&key, actual)))
                .filter(|(_, members)| !members.is_empty())
                .collect(),
        )
    }

    /// Whether any backend has left one of them and takes new flows all the same. To be asked when the plan has been
    /// carried out whole.
    pub(super) fn has_strays(&self, actual: &Actual) -> bool {
        let is_active = |id: &BackendId| {
            actual.backends.get(id).is_some_and(|backend| backend.state == BackendState::Active as u8)
        };
        self.0.iter().any(|(key, before)| before.difference(&members(key, actual)).any(is_active))
    }
}

fn members(key: &FrontendKey, actual: &Actual) -> BTreeSet<BackendId> {
    let Some(frontend) = actual.frontends.get(key) else {
        return BTreeSet::new();
    };
    let (first, count) = frontend.members();
    actual.slots.range(first..first.saturating_add(count)).map(|(_, id)| *id).collect()
}
