//! Who has a frontend that several Services ask for: the first by name, so that every node and every start agree.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use sluice_abi::FrontendKey;

use crate::object::NamespacedName;

/// The Services that ask for each frontend.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    /// Who has it.
    owners: HashMap<FrontendKey, Arc<NamespacedName>>,
    /// All who ask for it, where there are more than one.
    contested: BTreeMap<FrontendKey, BTreeSet<NamespacedName>>,
}

impl Claims {
    /// Frontends that more than one Service asks for.
    pub(super) fn contested(&self) -> &BTreeMap<FrontendKey, BTreeSet<NamespacedName>> {
        &self.contested
    }

    /// Contested frontends that a Service asks for.
    pub(super) fn contested_by<'a>(&'a self, name: &'a NamespacedName) -> impl Iterator<Item = FrontendKey> {
        self.contested.iter().filter(|(_, names)| names.contains(name)).map(|(key, _)| *key)
    }

    /// Whether a Service has the frontend.
    pub(super) fn has(&self, name: &NamespacedName, key: &FrontendKey) -> bool {
        self.owners.get(key).is_some_and(|owner| **owner == *name)
    }

    /// A Service asks for a frontend; the one that loses it, if any.
    pub(super) fn claim(&mut self, name: &Arc<NamespacedName>, key: FrontendKey) -> Option<NamespacedName> {
        let owner = self.owners.entry(key).or_insert_with(|| Arc::clone(name));
        if **owner == **name {
            return None;
        }
        let names = self.contested.entry(key).or_insert_with(|| BTreeSet::from([(**owner).clone()]));
        names.insert((**name).clone());
        (**name < **owner).then(|| (*std::mem::replace(owner, Arc::clone(name))).clone())
    }

    /// A Service no longer asks for a frontend; the one that gets it, if any.
    pub(super) fn release(&mut self, name: &NamespacedName, key: &FrontendKey) -> Option<NamespacedName> {
        let had = self.has(name, key);
        let Some(names) = self.contested.get_mut(key) else {
            if had {
                self.owners.remove(key);
            }
            return None;
        };
        names.remove(name);
        let first = names.first().cloned();
        if names.len() == 1 {
            self.contested.remove(key);
        }
        let first = first.filter(|_| had)?;
        self.owners.insert(*key, Arc::new(first.clone()));
        Some(first)
    }
}
