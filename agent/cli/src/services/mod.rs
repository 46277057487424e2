//! `sluice services`: where Services listen, and who answers.

pub(crate) mod trace;

use std::{collections::BTreeSet, net::IpAddr};

use serde::Serialize;
use sluice_abi::{
    Backend, BackendId, BackendState, Frontend, FrontendKey, FrontendScope, ServiceId, frontend_flags,
};
use sluice_maps::{Maps, MapsError};

use crate::{
    names::{self, Names},
    output::{self, Answer},
};

/// The addresses of Services.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Services {
    frontends: Vec<Row>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    /// Namespace and name; none when the name is gone.
    service: Option<String>,
    /// What kind of address it is.
    kind: &'static str,
    /// The address; of a NodePort, the unspecified one stands for every address of the node that takes NodePorts.
    address: IpAddr,
    port: u16,
    protocol: String,
    /// The Service's own port.
    service_port: u16,
    /// Who may use it: `internal` are pods and the node itself, `external` are clients outside.
    scope: &'static str,
    /// Session affinity; none when clients are spread.
    affinity_seconds: Option<u32>,
    /// Only backends of this node count.
    local_only: bool,
    /// Size of the table of consistent hashing; none when chance decides.
    maglev_table: Option<u32>,
    /// Clients that may use it; none when everybody may.
    source_ranges: Option<Vec<String>>,
    /// Those that take new flows; without any, flows are refused, or dropped where only those of this node count.
    backends: Vec<BackendRow>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BackendRow {
    id: u32,
    /// None when the number is stale: nothing is sent there.
    address: Option<IpAddr>,
    port: Option<u16>,
    state: &'static str,
    /// Namespace and name when it is a pod of this node; `node` when it is the node itself.
    local: Option<String>,
}

/// Reads the frontends, sorted by Service, address and port.
pub(crate) fn answer(maps: &Maps) -> Result<Services, MapsError> {
    let rows = maps.frontends.entries()?.into_iter().map(|(key, frontend)| row(maps, &key, &frontend));
    let mut frontends = rows.collect::<Result<Vec<_>, _>>()?;
    frontends.sort_unstable_by(|a, b| sort_key(a).cmp(&sort_key(b)));
    Ok(Services { frontends })
}

fn sort_key(row: &Row) -> (&Option<String>, &str, IpAddr, u16, &str, &str) {
    (&row.service, row.kind, row.address, row.port, &row.protocol, row.scope)
}

fn row(maps: &Maps, key: &FrontendKey, frontend: &Frontend) -> Result<Row, MapsError> {
    let has = |flag| frontend.flags & flag != 0;
    let ranges =
        if has(frontend_flags::SOURCE_RANGES) { Some(source_ranges(maps, frontend.service)?) } else { None };
    let backends = backend_ids(maps, frontend)?.into_iter().map(|id| backend(maps, id));
    Ok(Row {
        service: Names(maps).service(frontend.service)?,
        kind: kind(key, frontend),
        address: key.addr.into(),
        port: u16::from_be_bytes(key.port),
        protocol: names::protocol(key.protocol),
        service_port: u16::from_be_bytes(frontend.service_port),
        scope: scope(key.scope),
        affinity_seconds: has(frontend_flags::AFFINITY).then_some(frontend.affinity_s),
        local_only: has(frontend_flags::LOCAL),
        maglev_table: has(frontend_flags::MAGLEV).then_some(frontend.count),
        source_ranges: ranges,
        backends: backends.collect::<Result<_, _>>()?,
    })
}

fn scope(number: u8) -> &'static str {
    if number == FrontendScope::Internal as u8 { "internal" } else { "external" }
}

fn kind(key: &FrontendKey, frontend: &Frontend) -> &'static str {
    if key.addr == FrontendKey::NODE_V4 || key.addr == FrontendKey::NODE_V6 {
        "NodePort"
    } else if frontend.flags & frontend_flags::LOAD_BALANCER != 0 {
        "LoadBalancer"
    } else if frontend.flags & frontend_flags::EXTERNAL_IP != 0 {
        "ExternalIP"
    } else {
        "ClusterIP"
    }
}

/// What stands in a frontend's slots, once each.
fn backend_ids(maps: &Maps, frontend: &Frontend) -> Result<Vec<BackendId>, MapsError> {
    let mut seen = BTreeSet::new();
    let mut ids = Vec::new();
    for slot in frontend.first_slot..frontend.first_slot.saturating_add(frontend.count) {
        let id = maps.slots.get(slot)?;
        if seen.insert(id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

fn source_ranges(maps: &Maps, service: ServiceId) -> Result<Vec<String>, MapsError> {
    let mut ranges = Vec::new();
    maps.source_ranges.for_each(|range, _| {
        if range.service == service {
            ranges.push(range.clients);
        }
    })?;
    ranges.sort_unstable();
    Ok(ranges.iter().map(ToString::to_string).collect())
}

fn backend(maps: &Maps, id: BackendId) -> Result<BackendRow, MapsError> {
    let found: Option<Backend> = maps.backends.get(&id)?;
    let local = match found {
        Some(backend) => Names(maps).local(&backend.addr)?,
        None => None,
    };
    Ok(BackendRow {
        id: id.0,
        address: found.map(|backend| backend.addr.into()),
        port: found.map(|backend| u16::from_be_bytes(backend.port)),
        state: match found {
            None => "gone",
            Some(backend) if backend.state == BackendState::Active as u8 => "active",
            Some(_) => "terminating",
        },
        local,
    })
}

impl Answer for Services {
    fn text(&self) -> String {
        let rows = self.frontends.iter().map(|row| {
            let backends: Vec<_> = row.backends.iter().map(backend_text).collect();
            [
                output::or_dash(row.service.as_ref()),
                row.kind.to_owned(),
                std::net::SocketAddr::new(row.address, row.port).to_string(),
                row.protocol.clone(),
                row.scope.to_owned(),
                output::list(&flags_text(row)),
                output::list(&backends),
            ]
        });
        output::table(["SERVICE", "KIND", "ADDRESS", "PROTOCOL", "SCOPE", "FLAGS", "BACKENDS"], rows)
    }
}

fn flags_text(row: &Row) -> Vec<String> {
    let affinity = row.affinity_seconds.map(|seconds| format!("affinity {seconds}s"));
    let local = row.local_only.then(|| "local only".to_owned());
    let maglev = row.maglev_table.map(|size| format!("maglev {size}"));
    let ranges = row.source_ranges.as_ref().map(|ranges| format!("from {}", ranges.join(" ")));
    [affinity, local, maglev, ranges].into_iter().flatten().collect()
}

fn backend_text(row: &BackendRow) -> String {
    match (row.address, row.port, row.state) {
        (Some(addr), Some(port), "active") => std::net::SocketAddr::new(addr, port).to_string(),
        (Some(addr), Some(port), state) => format!("{} ({state})", std::net::SocketAddr::new(addr, port)),
        (_, _, state) => format!("backend {} ({state})", row.id),
    }
}
