//! `sluice endpoints`: the pods of this node.

use std::{collections::BTreeSet, net::IpAddr};

use serde::Serialize;
use sluice_abi::{Addr, Endpoint, EndpointId, EndpointMeta, RuleSetId, endpoint_flags};
use sluice_maps::{Maps, MapsError};

use crate::{
    names::{Isolation, Names},
    output::{self, Answer},
};

/// The pods of this node, and the node's own addresses.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Endpoints {
    endpoints: Vec<Row>,
    node_addresses: Vec<IpAddr>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    id: u32,
    namespace: String,
    pod: String,
    uid: String,
    container: String,
    ifname: String,
    host_ifname: String,
    ifindex: u32,
    mac: String,
    addresses: Vec<IpAddr>,
    /// Whether every address has its rules; without, all of the pod's packets are dropped.
    in_force: bool,
    ingress: Option<Rules>,
    egress: Option<Rules>,
    /// What would be in force if audited policies were enforced too, where that is something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    shadow_ingress: Option<Rules>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shadow_egress: Option<Rules>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rules {
    rule_set: u32,
    isolated_by: Isolation,
}

/// Reads the endpoints, sorted by namespace, pod and number.
pub(crate) fn answer(maps: &Maps) -> Result<Endpoints, MapsError> {
    let mut metas = maps.endpoint_meta.entries()?;
    metas
        .sort_unstable_by(|(a_id, a), (b_id, b)| (a.namespace, a.pod, a_id).cmp(&(b.namespace, b.pod, b_id)));
    let mut node_addresses: Vec<IpAddr> = Vec::new();
    maps.endpoints.for_each(|addr, endpoint| {
        if endpoint.flags & endpoint_flags::HOST != 0 {
            node_addresses.push(addr.into());
        }
    })?;
    node_addresses.sort_unstable();
    let endpoints = metas.iter().map(|(id, meta)| row(maps, *id, meta)).collect::<Result<_, _>>()?;
    Ok(Endpoints { endpoints, node_addresses })
}

fn row(maps: &Maps, id: EndpointId, meta: &EndpointMeta) -> Result<Row, MapsError> {
    let addresses: Vec<Addr> = meta.addrs.into_iter().filter(|addr| *addr != Addr::UNSPECIFIED).collect();
    let entries = addresses.iter().map(|addr| maps.endpoints.get(addr)).collect::<Result<Vec<_>, _>>()?;
    let entries: Vec<Endpoint> = entries.into_iter().flatten().filter(|entry| entry.id == id).collect();
    let rules = |set: Option<RuleSetId>| -> Result<Option<Rules>, MapsError> {
        let Some(set) = set.filter(|set| *set != RuleSetId::NONE) else { return Ok(None) };
        Ok(Some(Rules { rule_set: set.0, isolated_by: Names(maps).isolation(set)? }))
    };
    let [a, b, c, d, e, f] = meta.mac;
    Ok(Row {
        id: id.0,
        namespace: meta.namespace.to_string(),
        pod: meta.pod.to_string(),
        uid: meta.uid.to_string(),
        container: meta.container.to_string(),
        ifname: meta.ifname.to_string(),
        host_ifname: meta.host_ifname.to_string(),
        ifindex: meta.ifindex,
        mac: format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"),
        in_force: !addresses.is_empty() && entries.len() == addresses.len(),
        addresses: addresses.into_iter().map(IpAddr::from).collect(),
        ingress: rules(entries.first().map(|entry| entry.ingress))?,
        egress: rules(entries.first().map(|entry| entry.egress))?,
        shadow_ingress: rules(entries.first().map(|entry| entry.shadow_ingress))?,
        shadow_egress: rules(entries.first().map(|entry| entry.shadow_egress))?,
    })
}

impl Answer for Endpoints {
    fn text(&self) -> String {
        let side = |rules: &Option<Rules>| output::or_dash(rules.as_ref().map(|rules| &rules.isolated_by));
        let rows = self.endpoints.iter().map(|row| {
            let in_force = if row.in_force { "yes" } else { "no" };
            [
                row.id.to_string(),
                row.namespace.clone(),
                row.pod.clone(),
                output::list(&row.addresses),
                row.host_ifname.clone(),
                in_force.to_owned(),
                side(&row.ingress),
                side(&row.egress),
                audited(row),
            ]
        });
        let header = [
            "ID",
            "NAMESPACE",
            "POD",
            "ADDRESSES",
            "INTERFACE",
            "IN FORCE",
            "INGRESS ISOLATED BY",
            "EGRESS ISOLATED BY",
            "AUDITED",
        ];
        output::table(header, rows)
    }
}

/// The audited policies that would isolate the pod; of others the shadow's number.
fn audited(row: &Row) -> String {
    let shadows = [&row.shadow_ingress, &row.shadow_egress].into_iter().flatten();
    let names: BTreeSet<String> = shadows
        .flat_map(|shadow| match shadow.isolated_by.audited.as_slice() {
            [] => vec![format!("rule set {}", shadow.rule_set)],
            audited => audited.to_vec(),
        })
        .collect();
    output::list(&names.into_iter().collect::<Vec<_>>())
}
