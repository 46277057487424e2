//! Removes from the node what the agent made, and nothing else.
//!
//! Start at [`cleanup`]. Gone are: the CNI configuration (first, so that no pod is made meanwhile), the pinned programs
//! and maps with their folder, our clsact filters, routes of our protocol, changed sysctls, the socket, the lock.
//!
//! **Pods stay as they are.** Their veths, addresses and host routes are the CNI plugin's, and its DEL removes them
//! when the runtime says so; leases are its as well. Without programs such pods are plain routed pods: they keep
//! talking as far as the node's own settings forward, without policy, and Services need kube-proxy again. To remove pods' network, delete the pods first.
//!
//! **Invariant.** Every part is tried, whatever fails before it; running it again is harmless.

use std::{fs, io, path::PathBuf};

use rtnetlink::Handle;
use tracing::info;

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
    if let Some(path) = &paths.conflist {
        match conflist::remove(path, &paths.network) {
            Ok(true) => info!(path = %path.display(), "CNI configuration removed"),
            Ok(false) => {}
            Err(error) => errors.push(error.into()),
        }
    }
    // Every version's pins: a link goes with its last reference.
    for path in [paths.bpffs.join("sluice"), paths.socket.clone()] {
        match remove(&path) {
            Ok(()) => info!(path = %path.display(), "removed"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => errors.push(CleanupError::Remove { path, source }),
        }
    }
    match netlink::connect() {
        Ok(handle) => remove_from_kernel(handle, &mut errors).await,
        Err(error) => errors.push(error.into()),
    }
    match Sysctls::new(&paths.state_dir).restore() {
        Ok(count) => info!(count, "sysctls restored"),
        Err(error) => errors.push(error.into()),
    }
    if let Err(source) = lock.remove() {
        errors.push(CleanupError::Remove { path: paths.state_dir.clone(), source });
    }
    errors
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
