//! What is configured about the node's own processes.

use std::path::PathBuf;

use clap::Args;

use super::ConfigError;
use crate::datapath::CgroupRoot;

/// Options as typed.
#[derive(Debug, Args)]
pub struct SocketOptions {
    /// Folder of the cgroup2 file system whose processes reach Services, as far as they are in the node's network namespace;
    /// `none` for no processes [default: the root that process 1 has mounted, which needs hostPID in a pod].
    #[arg(long, global = true, env = "SLUICE_CGROUP_ROOT", value_name = "PATH|none")]
    pub cgroup_root: Option<PathBuf>,
}

impl SocketOptions {
    /// The cgroup whose processes reach Services; `None` when none do.
    pub(super) fn root(self) -> Result<Option<CgroupRoot>, ConfigError> {
        match self.cgroup_root {
            None => Ok(Some(CgroupRoot::OfInit)),
            Some(word) if word.as_os_str() == "none" => Ok(None),
            Some(path) if path.is_absolute() => Ok(Some(CgroupRoot::At(path))),
            Some(path) => Err(ConfigError::RelativePath { option: "--cgroup-root", path }),
        }
    }
}
