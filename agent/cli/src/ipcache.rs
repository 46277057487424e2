//! `sluice ipcache`: which peer identity each address has.

use serde::Serialize;
use sluice_abi::{Identity, Prefix};
use sluice_maps::{Maps, MapsError};

use crate::{
    names::Names,
    output::{self, Answer},
};

/// Addresses and ranges with an identity; all others are any peer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Ipcache {
    entries: Vec<Row>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    prefix: String,
    identity: u32,
    /// The selectors that the addresses satisfy, in words.
    selectors: String,
    /// Namespace and name when it is the address of a pod of this node; `node` when it is the node's own.
    local: Option<String>,
}

/// Reads both maps, sorted by prefix.
pub(crate) fn answer(maps: &Maps) -> Result<Ipcache, MapsError> {
    let mut found = maps.ipcache_cidrs.entries()?;
    maps.ipcache.for_each(|addr, identity| found.push((Prefix::host(addr), identity)))?;
    found.sort_unstable();
    let names = Names(maps);
    let row = |(prefix, identity): &(Prefix, Identity)| {
        Ok(Row {
            prefix: prefix.to_string(),
            identity: identity.0,
            selectors: names.identity(*identity)?,
            local: if prefix.bits == 128 { names.local(&prefix.addr)? } else { None },
        })
    };
    Ok(Ipcache { entries: found.iter().map(row).collect::<Result<_, _>>()? })
}

impl Answer for Ipcache {
    fn text(&self) -> String {
        let rows = self.entries.iter().map(|row| {
            [
                row.prefix.clone(),
                row.identity.to_string(),
                output::or_dash(row.local.as_ref()),
                row.selectors.clone(),
            ]
        });
        output::table(["PREFIX", "IDENTITY", "LOCAL", "SELECTORS"], rows)
    }
}
