//! `sluice policy list`: policies and the pods they isolate.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use sluice_abi::{Direction, PolicyId, PolicyKind, PolicyMode};
use sluice_maps::{Maps, MapsError};

use super::{Users, pods_by_rule_set};
use crate::output::{self, Answer};

/// The policies.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Policies {
    policies: Vec<Row>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    id: u32,
    kind: &'static str,
    namespace: String,
    name: String,
    /// Rules of the policy that have a number.
    rules: usize,
    /// `enforce` or `audit`.
    mode: &'static str,
    /// Pods of this node (namespace and name) that it isolates, or would if it were enforced.
    ingress_pods: BTreeSet<String>,
    egress_pods: BTreeSet<String>,
}

/// Reads the policies, sorted by namespace and name.
pub(crate) fn answer(maps: &Maps) -> Result<Policies, MapsError> {
    let users = pods_by_rule_set(maps)?;
    let mut isolated: BTreeMap<(PolicyId, u8), BTreeSet<String>> = BTreeMap::new();
    maps.rule_set_meta.for_each(|set, meta| {
        let pods = users.get(&set).into_iter().flat_map(Users::all);
        for policy in meta.policies.iter().take(usize::from(meta.policy_count)) {
            isolated.entry((*policy, meta.direction)).or_default().extend(pods.clone().cloned());
        }
    })?;
    let mut rules: BTreeMap<PolicyId, usize> = BTreeMap::new();
    maps.rule_meta.for_each(|_, meta| *rules.entry(meta.policy).or_default() += 1)?;
    let mut policies: Vec<Row> = Vec::new();
    maps.policy_meta.for_each(|id, meta| {
        let mut pods = |direction| isolated.remove(&(id, direction as u8)).unwrap_or_default();
        policies.push(Row {
            id: id.0,
            kind: if meta.kind == PolicyKind::NetworkPolicy as u8 {
                "NetworkPolicy"
            } else {
                "ClusterNetworkPolicy"
            },
            mode: if meta.mode == PolicyMode::Audit as u8 { "audit" } else { "enforce" },
            namespace: meta.namespace.to_string(),
            name: meta.name.to_string(),
            rules: rules.get(&id).copied().unwrap_or_default(),
            ingress_pods: pods(Direction::Ingress),
            egress_pods: pods(Direction::Egress),
        });
    })?;
    policies.sort_unstable_by(|a, b| (&a.namespace, &a.name, a.id).cmp(&(&b.namespace, &b.name, b.id)));
    Ok(Policies { policies })
}

impl Answer for Policies {
    fn text(&self) -> String {
        let pods = |pods: &BTreeSet<String>| output::list(&pods.iter().collect::<Vec<_>>());
        let rows = self.policies.iter().map(|row| {
            [
                row.kind.to_owned(),
                output::or_dash(Some(&row.namespace)),
                row.name.clone(),
                row.mode.to_owned(),
                row.rules.to_string(),
                pods(&row.ingress_pods),
                pods(&row.egress_pods),
            ]
        });
        output::table(["KIND", "NAMESPACE", "NAME", "MODE", "RULES", "INGRESS OF", "EGRESS OF"], rows)
    }
}
