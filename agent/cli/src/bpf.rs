//! `sluice bpf maps`: the pinned maps against what this version means.

use std::path::Path;

use serde::Serialize;
use sluice_abi::maps::{self, MapSpec, MapType};
use sluice_maps::{Maps, MapsError, pins};

use crate::output::{self, Answer};

/// The maps.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BpfMaps {
    maps: Vec<Row>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: &'static str,
    r#type: &'static str,
    key_bytes: u32,
    value_bytes: u32,
    /// Entries that fit; bytes for a ring buffer.
    capacity: u32,
    /// Entries in use; none for counters, the event ring, and while not all maps are as they should be.
    used: Option<u32>,
    /// Why the map cannot be used; none when it can.
    problem: Option<String>,
    help: &'static str,
}

/// Looks at every map, in the order of the documentation.
pub(crate) fn maps(bpffs: &Path) -> Result<BpfMaps, MapsError> {
    pins::check_bpffs(bpffs)?;
    let problems: Vec<_> = maps::ALL.iter().map(|spec| pins::open(bpffs, spec).err()).collect();
    let used = if problems.iter().all(Option::is_none) {
        Maps::open(bpffs)?.fill()?.iter().map(|fill| fill.used).collect()
    } else {
        vec![None; maps::ALL.len()]
    };
    let rows = maps::ALL.iter().zip(used).zip(problems);
    Ok(BpfMaps { maps: rows.map(|((spec, used), problem)| row(spec, used, problem)).collect() })
}

fn row(spec: &MapSpec, used: Option<u32>, problem: Option<MapsError>) -> Row {
    Row {
        name: spec.name,
        r#type: match spec.map_type {
            MapType::Hash => "hash",
            MapType::Array => "array",
            MapType::PerCpuArray => "percpu_array",
            MapType::LruHash => "lru_hash",
            MapType::LpmTrie => "lpm_trie",
            MapType::RingBuf => "ringbuf",
        },
        key_bytes: spec.key_size,
        value_bytes: spec.value_size,
        capacity: spec.max_entries,
        used,
        problem: problem.map(|problem| problem.to_string()),
        help: spec.help,
    }
}

impl Answer for BpfMaps {
    fn text(&self) -> String {
        let rows = self.maps.iter().map(|row| {
            [
                row.name.to_owned(),
                row.r#type.to_owned(),
                row.key_bytes.to_string(),
                row.value_bytes.to_string(),
                row.capacity.to_string(),
                output::or_dash(row.used),
                row.problem.clone().unwrap_or_else(|| row.help.to_owned()),
            ]
        });
        output::table(["NAME", "TYPE", "KEY", "VALUE", "CAPACITY", "USED", "HOLDS"], rows)
    }
}
