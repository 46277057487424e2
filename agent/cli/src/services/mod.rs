//! `sluice services`: where Services listen, and who answers.

use std::net::IpAddr;

use serde::Serialize;
use sluice_abi::{Backend, BackendId, BackendState, Frontend, FrontendKey, FrontendScope, frontend_flags};
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
    address: IpAddr,
    port: u16,
    protocol: String,
    scope: &'static str,
    /// Session affinity; none when clients are spread.
    affinity_seconds: Option<u32>,
    /// Those that take new flows; without any, flows are refused.
    backends: Vec<BackendRow>,
}

#[derive(Debug, Serialize)]
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

fn sort_key(row: &Row) -> (&Option<String>, IpAddr, u16, &str, &str) {
    (&row.service, row.address, row.port, &row.protocol, row.scope)
}

fn row(maps: &Maps, key: &FrontendKey, frontend: &Frontend) -> Result<Row, MapsError> {
    let slots = frontend.first_slot..frontend.first_slot.saturating_add(frontend.count);
    let backends = slots.map(|slot| backend(maps, maps.slots.get(slot)?)).collect::<Result<Vec<_>, _>>()?;
    let has_affinity = frontend.flags & frontend_flags::AFFINITY != 0;
    Ok(Row {
        service: Names(maps).service(frontend.service)?,
        address: key.addr.into(),
        port: u16::from_be_bytes(key.port),
        protocol: names::protocol(key.protocol),
        scope: if key.scope == FrontendScope::Internal as u8 { "internal" } else { "external" },
        affinity_seconds: has_affinity.then_some(frontend.affinity_s),
        backends,
    })
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
                std::net::SocketAddr::new(row.address, row.port).to_string(),
                row.protocol.clone(),
                row.scope.to_owned(),
                output::or_dash(row.affinity_seconds.map(|seconds| format!("{seconds}s"))),
                output::list(&backends),
            ]
        });
        output::table(["SERVICE", "ADDRESS", "PROTOCOL", "SCOPE", "AFFINITY", "BACKENDS"], rows)
    }
}

fn backend_text(row: &BackendRow) -> String {
    match (row.address, row.port, row.state) {
        (Some(addr), Some(port), "active") => std::net::SocketAddr::new(addr, port).to_string(),
        (Some(addr), Some(port), state) => format!("{} ({state})", std::net::SocketAddr::new(addr, port)),
        (_, _, state) => format!("backend {} ({state})", row.id),
    }
}
