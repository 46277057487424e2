//! What is configured about the node's own processes.

use std::path::PathBuf;

use clap::Args;

use super::ConfigError;
use crate::datapath::{CgroupRoot, Served};

/// Options as typed.
#[derive(Debug, Args)]
pub struct SocketOptions {
    /// Folder of the cgroup2 file system whose processes reach Services, as far as they are in the node's network namespace;
    /// `none` for no processes [default: the root that process 1 has mounted, which needs hostPID in a pod].
    #[arg(long, global = true, env = "SLUICE_CGROUP_ROOT", value_name = "PATH|none")]
    pub cgroup_root: Option<PathBuf>,
    /// Lead pods' sockets too: a TCP connection, or a datagram that is not connected, then needs no translation per packet.
    /// Every network namespace below the cgroup counts, also that of a cluster in a pod, with Services of its own.
    #[arg(long, global = true, env = "SLUICE_SOCKET_LB_PODS")]
    pub socket_lb_pods: bool,
}

impl SocketOptions {
    /// Whose sockets are led, of those in the cgroup.
    pub(super) fn served(&self) -> Served {
        if self.socket_lb_pods { Served::NodeAndPods } else { Served::Node }
    }

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
