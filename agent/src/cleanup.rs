//! Removes from the node what the agent made, and nothing else.
//!
//! Start at [`cleanup`]. Gone are: the CNI configuration (first, so that no pod is made meanwhile), the pinned programs
//! and maps with their folder, routes of our protocol, the socket, the lock.
//!
//! **Pods stay as they are.** Their veths, addresses and host routes are the CNI plugin's, and its DEL removes them
//! when the runtime says so; leases are its as well. Without programs such pods are plain routed pods: they keep
//! talking, without policy, and Services need kube-proxy again. To remove pods' network, delete the pods first.
//!
//! **Invariant.** Every part is tried, whatever fails before it; running it again is harmless.

use std::{fs, io, path::PathBuf};

use tracing::info;

use crate::{
    config::Paths,
    conflist::{self, ConflistError},
    lock::{Lock, LockError},
    netlink::{self, NetlinkError},
    routes::{RouteError, Routes},
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
    /// A route.
    #[error(transparent)]
    Route(#[from] RouteError),
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
    match remove_routes().await {
        Ok(count) => info!(count, "routes removed"),
        Err(error) => errors.push(error),
    }
    if let Err(source) = lock.remove() {
        errors.push(CleanupError::Remove { path: paths.state_dir.clone(), source });
    }
    errors
}

fn remove(path: &std::path::Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

async fn remove_routes() -> Result<usize, CleanupError> {
    Ok(Routes::new(netlink::connect()?).remove_all().await?)
}
