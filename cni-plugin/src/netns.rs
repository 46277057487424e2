//! The pod's network namespace.
//!
//! **Invariant: only throw-away threads enter it.** A socket stays in the namespace it was made in, so a thread enters,
//! makes the socket and ends; the plugin's own threads never leave the host's namespace.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd as _, RawFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    thread,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
};

const OWN: &str = "/proc/thread-self/ns/net";

/// Why a namespace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The path is gone or cannot be opened.
    #[error("opening network namespace {path}", path = path.display())]
    Open {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The path is something else.
    #[error("{path} is not a network namespace", path = path.display())]
    OfAnotherKind {
        /// Its path.
        path: PathBuf,
    },
    /// The kernel refuses to let us in.
    #[error("entering network namespace {path}", path = path.display())]
    Enter {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The path is the namespace the plugin runs in.
    #[error("network namespace {path} is the host's own", path = path.display())]
    Own {
        /// Its path.
        path: PathBuf,
    },
}

/// An open network namespace.
#[derive(Debug)]
pub(crate) struct Netns {
    path: PathBuf,
    file: File,
}

impl Netns {
    /// Opens the namespace at `path`, which must be another one than the calling thread's.
    pub(crate) fn open(path: &Path) -> Result<Self, NetnsError> {
        let failed = |source| NetnsError::Open { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        if kind(&file) != Ok(CloneFlags::CLONE_NEWNET.bits()) {
            return Err(NetnsError::OfAnotherKind { path: path.to_owned() });
        }
        let (given, own) = (file.metadata().map_err(failed)?, fs::metadata(OWN).map_err(failed)?);
        if (given.dev(), given.ino()) == (own.dev(), own.ino()) {
            return Err(NetnsError::Own { path: path.to_owned() });
        }
        Ok(Self { path: path.to_owned(), file })
    }

    /// Its path as the runtime gave it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file descriptor, as netlink attributes want it; valid while `self` lives.
    pub(crate) fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Runs `inside` in the namespace, on a thread of its own.
    pub(crate) fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        let entered = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET)?;
            Ok(inside())
        };
        let result = thread::scope(|scope| scope.spawn(entered).join());
        let result = result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        result
            .map_err(|errno: nix::Error| NetnsError::Enter { path: self.path.clone(), source: errno.into() })
    }
}

/// The `CLONE_NEW…` flag of the namespace a file stands for (ioctl_ns(2), `NS_GET_NSTYPE`).
fn kind(file: &File) -> Result<i32, Errno> {
    nix::ioctl_none_bad!(ns_get_nstype, nix::request_code_none!(0xb7, 0x3));
    // SAFETY: the call takes no argument, and the descriptor is open for as long as `file` is borrowed.
    unsafe { ns_get_nstype(file.as_raw_fd()) }
}
