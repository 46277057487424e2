//! `sluice policy`: the policies in force, and those that are audited.

use std::collections::{BTreeMap, BTreeSet};

use sluice_abi::{EndpointId, RuleSetId};
use sluice_maps::{Maps, MapsError};

use crate::names::Names;

pub(crate) mod audit;
pub(crate) mod dump;
pub(crate) mod list;

/// The pods (namespace and name, sorted) that a rule set is for.
#[derive(Debug, Default)]
struct Users {
    /// Those on which it is enforced.
    enforced: Vec<String>,
    /// Those of which it is the shadow: judged, and never enforced.
    shadow: Vec<String>,
}

impl Users {
    fn all(&self) -> impl Iterator<Item = &String> + Clone {
        self.enforced.iter().chain(&self.shadow)
    }
}

/// The pods that use each rule set.
fn pods_by_rule_set(maps: &Maps) -> Result<BTreeMap<RuleSetId, Users>, MapsError> {
    let mut ids: BTreeMap<RuleSetId, [BTreeSet<EndpointId>; 2]> = BTreeMap::new();
    maps.endpoints.for_each(|_, endpoint| {
        let enforced = [endpoint.ingress, endpoint.egress];
        let shadows = [endpoint.shadow_ingress, endpoint.shadow_egress];
        for (kind, sets) in [enforced, shadows].into_iter().enumerate() {
            for set in sets.into_iter().filter(|set| *set != RuleSetId::NONE) {
                ids.entry(set).or_default()[kind].insert(endpoint.id);
            }
        }
    })?;
    let named = |id: EndpointId| Ok(Names(maps).pod(id)?.unwrap_or_else(|| format!("endpoint {}", id.0)));
    let pods = |ids: BTreeSet<EndpointId>| {
        let mut pods = ids.into_iter().map(named).collect::<Result<Vec<_>, MapsError>>()?;
        pods.sort_unstable();
        Ok(pods)
    };
    let users = ids.into_iter().map(|(set, [enforced, shadow])| {
        Ok((set, Users { enforced: pods(enforced)?, shadow: pods(shadow)? }))
    });
    users.collect()
}
