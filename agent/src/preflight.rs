//! What the node must offer, looked at before anything is loaded: each lack has its own words.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use sluice_maps::{MapsError, pins::check_bpffs};

/// What is lacking.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// The agent does not know what it may do.
    #[error("reading the agent's capabilities from {STATUS}")]
    Status(#[source] io::Error),
    /// The container or unit gives too little.
    #[error(
        "lacking the capabilities {missing}: add them to the agent's container or unit, or run it privileged"
    )]
    Capabilities {
        /// Their names.
        missing: String,
    },
    /// Nothing can be pinned.
    #[error(
        "preparing to pin maps and programs (`sluice-agent install --mount-bpffs` mounts a BPF file system)"
    )]
    Bpffs(#[from] MapsError),
    /// The BPF file system is not the agent's to write to.
    #[error("writing to the BPF file system: making {path}", path = path.display())]
    ReadOnly {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

const STATUS: &str = "/proc/self/status";

/// Bits of `CapEff` (`linux/capability.h`): a capability, and one that includes it.
const NEEDED: [(&str, u32, Option<u32>); 3] = [
    ("NET_ADMIN", 12, None),
    // Linux 5.8 took these two out of SYS_ADMIN (21).
    ("BPF", 39, Some(21)),
    ("PERFMON", 38, Some(21)),
];

/// Looks at what the agent may do and where it may pin.
///
/// # Errors
/// The first [`PreflightError`].
pub fn check(bpffs: &Path) -> Result<(), PreflightError> {
    let status = fs::read_to_string(STATUS).map_err(PreflightError::Status)?;
    let missing = missing(&status);
    if !missing.is_empty() {
        return Err(PreflightError::Capabilities { missing: missing.join(", ") });
    }
    check_bpffs(bpffs)?;
    let folder = sluice_maps::pin_dir(bpffs);
    fs::create_dir_all(&folder).map_err(|source| PreflightError::ReadOnly { path: folder, source })
}

fn missing(status: &str) -> Vec<&'static str> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0);
    let has = |bit: u32| effective & (1 << bit) != 0;
    let lacks = |(_, bit, or): &&(&str, u32, Option<u32>)| !has(*bit) && !or.is_some_and(has);
    NEEDED.iter().filter(lacks).map(|(name, ..)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_that_are_missing_are_named() {
        let of = |bits: &str| missing(&format!("Name:\tx\nCapEff:\t{bits}\nSeccomp:\t0\n"));
        assert!(of("000001ffffffffff").is_empty());
        assert!(of("000000c000001000").is_empty(), "no more than what is needed");
        assert!(of("0000000000201000").is_empty(), "SYS_ADMIN includes BPF and PERFMON");
        assert_eq!(of("00000000a80425fb"), ["NET_ADMIN", "BPF", "PERFMON"], "a container's default");
        assert_eq!(missing(""), ["NET_ADMIN", "BPF", "PERFMON"]);
    }

    #[test]
    fn what_is_no_bpf_file_system_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        match check(folder.path()) {
            // Without root the capabilities come first.
            Err(PreflightError::Bpffs(error)) => assert!(error.to_string().contains("no bpf file system")),
            other => assert!(matches!(other, Err(PreflightError::Capabilities { .. })), "{other:?}"),
        }
    }
}
