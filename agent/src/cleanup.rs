//! Removes from the node what the agent made, and nothing else.
//!
//! Start at [`cleanup`]. Gone are: the CNI configuration and, where its folder is known, the CNI plugin with its leases (both
//! only when no pod needs them for its end any more), the pinned programs and maps with their folder, our clsact filters,
//! routes of our protocol, changed sysctls, the socket, the lock.
//!
//! **Pods stay as they are.** Their veths, addresses and host routes are the CNI plugin's, and its DEL removes them
//! when the runtime says so; leases are its as well. Without programs such pods are plain routed pods: they keep
//! talking as far as the node's own settings forward, without policy, and Services need kube-proxy again. To remove pods' network, delete the pods first.
//!
//! **Invariant.** Every part is tried, whatever fails before it; running it again is harmless.

use std::{collections::BTreeSet, fs, io, path::PathBuf};

use nix::net::if_::if_nametoindex;
use rtnetlink::Handle;
use sluice_cni::ipam::store::{self, StoreError};
use tracing::{info, warn};

use crate::{
    config::Paths,
    conflist::{self, ConflistError},
    datapath::{ClsactError, remove_filters},
    lock::{Lock, LockError},
    netlink::{self, NetlinkError},
    routes::{RouteError, Routes},
    sysctls::{SysctlError, Sysctls},
};

/// What is left, and why.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// An agent is at work here: stop it first.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The CNI configuration.
    #[error(transparent)]
    Conflist(#[from] ConflistError),
    /// A path.
    #[error("removing {path}", path = path.display())]
    Remove {
        /// The path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No netlink.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A filter, or its qdisc.
    #[error(transparent)]
    Clsact(#[from] ClsactError),
    /// A route.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// The leases say whether pods are left.
    #[error(transparent)]
    Leases(#[from] StoreError),
    /// A setting of the node's stack.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
}

/// Removes everything; what could not be removed is returned.
pub async fn cleanup(paths: &Paths) -> Vec<CleanupError> {
    let lock = match Lock::take(&paths.state_dir) {
        Ok(lock) => lock,
        Err(error) => return vec![error.into()],
    };
    let mut errors = Vec::new();
    remove_plugin(paths, &mut errors);
    // Every version's pins: a link goes with its last reference.
    let socket = &paths.socket;
    remove_all([paths.bpffs.join("sluice"), socket.clone(), socket.with_extension("seen")], &mut errors);
    match netlink::connect() {
        Ok(handle) => remove_from_kernel(handle, &mut errors).await,
        Err(error) => errors.push(error.into()),
    }
    match Sysctls::new(&paths.sysctl_dir, &paths.state_dir).restore() {
        Ok(count) => info!(count, "sysctls restored"),
        Err(error) => errors.push(error.into()),
    }
    if let Err(source) = lock.remove() {
        errors.push(CleanupError::Remove { path: paths.state_dir.clone(), source });
    }
    errors
}

/// Removes what the runtime makes and ends pods with, unless there are pods: their end needs the configuration and the
/// plugin, whose DEL asks no agent, while its ADD makes nothing without one.
fn remove_plugin(paths: &Paths, errors: &mut Vec<CleanupError>) {
    let pods = match pods(paths) {
        Ok(pods) => pods,
        Err(error) => return errors.push(error.into()),
    };
    if pods > 0 {
        warn!(pods, "CNI configuration and plugin stay for the end of pods: delete them and clean up again");
        return;
    }
    if let Some(path) = &paths.conflist {
        match conflist::remove(path, &paths.network) {
            Ok(true) => info!(path = %path.display(), "CNI configuration removed"),
            Ok(false) => {}
            Err(error) => errors.push(error.into()),
        }
    }
    if let Some(folder) = &paths.cni_bin_dir {
        remove_all([folder.join(conflist::PLUGIN), paths.lease_dir.clone()], errors);
    }
}

/// The pods of our network on this node. A lease without its veth is none: that pod has ended without us, when its
/// namespace went.
fn pods(paths: &Paths) -> Result<usize, StoreError> {
    let held = store::held(&paths.lease_dir.join(&paths.network))?;
    let veths: BTreeSet<_> = held.iter().map(|held| held.host_ifname.as_str()).collect();
    Ok(veths.into_iter().filter(|veth| if_nametoindex(*veth).is_ok()).count())
}

fn remove_all(paths: impl IntoIterator<Item = PathBuf>, errors: &mut Vec<CleanupError>) {
    for path in paths {
        match remove(&path) {
            Ok(()) => info!(path = %path.display(), "removed"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => errors.push(CleanupError::Remove { path, source }),
        }
    }
}

fn remove(path: &std::path::Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

async fn remove_from_kernel(handle: Handle, errors: &mut Vec<CleanupError>) {
    let (count, left) = remove_filters(&handle).await;
    info!(count, "filters removed");
    errors.extend(left.into_iter().map(CleanupError::from));
    match Routes::new(handle).remove_all().await {
        Ok(count) => info!(count, "routes removed"),
        Err(error) => errors.push(error.into()),
    }
}
