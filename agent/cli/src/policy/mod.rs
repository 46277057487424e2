//! `sluice policy`: the policies in force.

use std::collections::BTreeMap;

use sluice_abi::{EndpointId, RuleSetId};
use sluice_maps::{Maps, MapsError};

use crate::names::Names;

pub(crate) mod dump;
pub(crate) mod list;

/// The pods (namespace and name, sorted) that use each rule set.
fn pods_by_rule_set(maps: &Maps) -> Result<BTreeMap<RuleSetId, Vec<String>>, MapsError> {
    let mut users: BTreeMap<RuleSetId, Vec<EndpointId>> = BTreeMap::new();
    maps.endpoints.for_each(|_, endpoint| {
        for set in [endpoint.ingress, endpoint.egress, endpoint.shadow_ingress, endpoint.shadow_egress] {
            if set != RuleSetId::NONE {
                users.entry(set).or_default().push(endpoint.id);
            }
        }
    })?;
    let named = |(set, mut ids): (_, Vec<EndpointId>)| {
        ids.sort_unstable();
        ids.dedup();
        let named = |id: EndpointId| Ok(Names(maps).pod(id)?.unwrap_or_else(|| format!("endpoint {}", id.0)));
        let mut pods = ids.into_iter().map(named).collect::<Result<Vec<_>, MapsError>>()?;
        pods.sort_unstable();
        Ok((set, pods))
    };
    users.into_iter().map(named).collect()
}
