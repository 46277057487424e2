//! `cargo xtask docs`: the documents that are made from code.

use std::{fmt::Write as _, fs};

use anyhow::{Context as _, Result, bail};
use sluice_abi::{
    ABI_VERSION, DropReason,
    maps::{self, MapSpec, MapType, NO_PREALLOC},
};

use crate::{chart, workspace};

const MAPS: &str = "docs/maps.md";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write nothing; fail when a document is not what its source says.
    #[arg(long)]
    check: bool,
}

/// Writes, or compares, every generated document.
///
/// # Errors
/// When a document cannot be written, or with `--check` is stale.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.check {
        return check();
    }
    for (document, text) in documents()? {
        let path = workspace::root().join(document);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        println!("wrote {document}");
    }
    Ok(())
}

/// Compares every generated document with its source.
///
/// # Errors
/// When one is stale; the message is the command that mends it.
pub(crate) fn check() -> Result<()> {
    for (document, text) in documents()? {
        if fs::read_to_string(workspace::root().join(document)).unwrap_or_default() != text {
            bail!("{document} is stale: run `cargo xtask docs`");
        }
    }
    Ok(())
}

/// Every generated document, from the root of the workspace.
fn documents() -> Result<[(&'static str, String); 2]> {
    Ok([(MAPS, maps_document()), (chart::TEMPLATE, chart::template()?)])
}

fn maps_document() -> String {
    let mut text = format!(
        "<!-- Generated from abi/src by `cargo xtask docs`: edit there. -->\n\
         # Maps and drop reasons\n\n\
         The contract between the eBPF programs and user space, version {ABI_VERSION}: the maps are pinned under\n\
         `/sys/fs/bpf/sluice/v{ABI_VERSION}/` by these names.\n\n\
         ## Maps\n\n\
         Sizes are in bytes. Memory is what the kernel takes when the map is made; a map marked *as used* has no\n\
         preallocated entries, and the figure is for a full one. An LPM trie also takes up to one inner node per entry.\n\n\
         | Map | Type | Key | Value | Entries | Flags | Memory | Holds |\n\
         | --- | --- | ---: | ---: | ---: | --- | ---: | --- |\n"
    );
    for map in maps::ALL {
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {} | {} | {} | {} |",
            map.name,
            type_name(map.map_type),
            map.key_size,
            map.value_size,
            map.max_entries,
            if map.flags & NO_PREALLOC == 0 { "" } else { "no prealloc" },
            memory(map),
            map.help
        );
    }
    text.push_str(
        "\n## Drop reasons\n\n\
         The number is the place in `COUNTERS` and the reason in `DROP_RECORDS` and events; numbers are never reused.\n\n\
         | Number | Name | Means |\n\
         | ---: | --- | --- |\n",
    );
    for reason in DropReason::ALL {
        let _ = writeln!(text, "| {} | `{}` | {} |", *reason as u8, reason.name(), reason.help());
    }
    text
}

fn type_name(map_type: MapType) -> &'static str {
    match map_type {
        MapType::Hash => "hash",
        MapType::Array => "array",
        MapType::PerCpuArray => "per-CPU array",
        MapType::LruHash => "LRU hash",
        MapType::LpmTrie => "LPM trie",
        MapType::RingBuf => "ring buffer",
    }
}

/// Memory of a full map on a 64-bit kernel (`kernel/bpf/hashtab.c`: element header 48, bucket 16;
/// `kernel/bpf/lpm_trie.c`: node header 40, the key's prefix length included).
fn memory(map: &MapSpec) -> String {
    let aligned = |bytes: u32| u64::from(bytes.next_multiple_of(8));
    let (entries, value) = (u64::from(map.max_entries), aligned(map.value_size));
    match map.map_type {
        MapType::Hash | MapType::LruHash => {
            // Buckets are a power of two and there from the start.
            let bytes = entries * (48 + aligned(map.key_size) + value) + entries.next_power_of_two() * 16;
            size(bytes, map.flags & NO_PREALLOC != 0)
        }
        MapType::LpmTrie => size(entries * (40 + aligned(map.key_size - 4 + map.value_size)), true),
        MapType::Array => size(entries * value, false),
        MapType::PerCpuArray => format!("{} per CPU", size(entries * value, false)),
        MapType::RingBuf => size(entries, false),
    }
}

fn size(bytes: u64, as_used: bool) -> String {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    let unit = match bytes {
        0..KIB => format!("{bytes} B"),
        KIB..MIB => format!("{} KiB", bytes.div_ceil(KIB)),
        _ => format!("{:.1} MiB", bytes as f64 / MIB as f64),
    };
    if as_used { format!("{unit} as used") } else { unit }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_and_every_drop_reason_is_in_the_document() {
        let text = maps_document();
        assert!(maps::ALL.iter().all(|map| text.contains(&format!("\n| `{}` |", map.name))));
        assert!(DropReason::ALL.iter().all(|reason| text.contains(&format!("| `{}` |", reason.name()))));
    }
}
