//! Per-device network sysctls, in the network namespace of the calling thread.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A sysctl could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("setting {path} to {value}", path = path.display())]
pub struct SysctlError {
    path: PathBuf,
    value: &'static str,
    source: io::Error,
}

/// Whether this kernel has IPv6.
pub(crate) fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

/// Sets a sysctl of one device.
///
/// Reads first: writing takes the kernel's rtnl lock and spins while another process holds it, also to change nothing.
pub(crate) fn set(family: &str, device: &str, name: &str, value: &'static str) -> Result<(), SysctlError> {
    // Joined by hand: a device's name may hold dots, and must stay one component.
    let path = PathBuf::from(format!("/proc/sys/net/{family}/conf/{device}/{name}"));
    let write = || {
        if fs::read_to_string(&path)?.trim_ascii() == value {
            return Ok(());
        }
        fs::write(&path, value)
    };
    write().map_err(|source| SysctlError { path: path.clone(), value, source })
}
