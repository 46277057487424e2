//! Services for the node's own processes: programs at the node's cgroup2 root that see what sockets are told.
//!
//! Start at [`Sockets::start`]. `load` loads and pins the programs, `link` attaches them, `netns` finds out which sockets
//! are the node's, `release` ends what is connected to backends that are gone, by way of `diag`; `program` is what the
//! two kinds of programs have in common.
//!
//! **Invariant: no moment without a program.** Links are pinned, and their programs are replaced in one step each; a
//! connected socket is never touched by that. What answers is attached before what asks.
//!
//! **Invariant: optional.** Without cgroup2, or where the kernel refuses, nothing else depends on it.

mod diag;
mod link;
mod load;
mod netns;
mod program;
mod release;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};

use aya::programs::{CgroupSockAddrAttachType, ProgramError};
use sluice_maps::{Maps, MapsError};

use program::Kind;

use super::{
    LoadError,
    cgroup::{self, CgroupError, CgroupRoot},
    loader, make_folder,
};

/// A program of the object and the call it sees.
#[derive(Clone, Copy, Debug)]
struct Call {
    name: &'static str,
    kind: Kind,
}

impl Call {
    const fn address(name: &'static str, attach_type: CgroupSockAddrAttachType) -> Self {
        Self { name, kind: Kind::Address(attach_type) }
    }
}

/// Every call, in the order of attaching.
const CALLS: [Call; 9] = [
    // Before what remembers comes what forgets.
    Call { name: "sock_release", kind: Kind::Release },
    Call::address("sock_recvmsg4", CgroupSockAddrAttachType::UDPRecvMsg4),
    Call::address("sock_recvmsg6", CgroupSockAddrAttachType::UDPRecvMsg6),
    Call::address("sock_peername4", CgroupSockAddrAttachType::GetPeerName4),
    Call::address("sock_peername6", CgroupSockAddrAttachType::GetPeerName6),
    Call::address("sock_sendmsg4", CgroupSockAddrAttachType::UDPSendMsg4),
    Call::address("sock_sendmsg6", CgroupSockAddrAttachType::UDPSendMsg6),
    Call::address("sock_connect4", CgroupSockAddrAttachType::Connect4),
    Call::address("sock_connect6", CgroupSockAddrAttachType::Connect6),
];

/// Whose sockets are led to Services.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Served {
    /// Those of the node's network namespace.
    #[default]
    Node,
    /// Those of every network namespace of the cgroup's processes.
    NodeAndPods,
}

/// Why the node's own processes do not reach Services through their sockets.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The node's cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The node's network namespace cannot be told from others.
    #[error("finding the cookie of the network namespace")]
    Netns(#[source] io::Error),
    /// The maps could not be read.
    #[error(transparent)]
    Maps(#[from] MapsError),
    /// The object, or a folder of pins.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The object lacks a program.
    #[error("the eBPF object has no program {name}")]
    Missing {
        /// The program.
        name: &'static str,
    },
    /// A program was refused.
    #[error("loading the program {name}")]
    Program {
        /// The program.
        name: &'static str,
        /// Why.
        source: Box<ProgramError>,
    },
    /// The kernel does not attach a program.
    #[error("attaching {name} to the cgroup {path}", path = path.display())]
    Attach {
        /// The program.
        name: &'static str,
        /// The cgroup.
        path: PathBuf,
        /// Why not.
        source: Box<ProgramError>,
    },
    /// A link that is there is not replaced.
    #[error("replacing the program of the pinned link {path}", path = path.display())]
    Replace {
        /// The pin.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A link could not be pinned.
    #[error("pinning the link {path}", path = path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A pin stays.
    #[error("removing {path}", path = path.display())]
    Unpin {
        /// The pin, or a folder of pins.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The thread that releases sockets.
    #[error("starting a thread")]
    Thread(#[source] io::Error),
}

/// The programs in force.
#[derive(Debug)]
pub struct Sockets {
    changes: mpsc::SyncSender<()>,
    cgroup: PathBuf,
}

impl Sockets {
    /// Lets the processes of the node's cgroup reach Services: loads the programs or takes them over, puts them in force,
    /// and starts to end UDP sockets whose backend is gone. The calling thread's network namespace is the node's.
    ///
    /// # Errors
    /// Any [`SocketError`]; programs that were in force stay.
    pub fn start(maps: &Maps, root: &CgroupRoot, served: Served) -> Result<Self, SocketError> {
        let cgroup = cgroup::open(root)?;
        let folder = folder(maps);
        let netns_cookie = match netns::own_cookie().map_err(SocketError::Netns)? {
            Some(cookie) => cookie,
            None => netns::learned_cookie(maps, &cgroup)?,
        };
        let (mut programs, digest) = load::load(netns_cookie, served, maps, &folder.join("programs"))?;
        let links = folder.join("links");
        make_folder(&links)?;
        for (call, program) in CALLS.iter().zip(&mut programs) {
            link::attach(call, program, &cgroup, &links)?;
        }
        loader::remove_others(&folder.join("programs"), &digest)?;
        let maps = Maps::open(maps.bpffs())?;
        let (changes, changed) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("sockets".to_owned());
        thread.spawn(move || release::run(&maps, &changed)).map_err(SocketError::Thread)?;
        Ok(Self { changes, cgroup: cgroup.path })
    }

    /// Takes the programs out of force, also those of an earlier agent; connected sockets stay as they are.
    ///
    /// # Errors
    /// [`SocketError::Unpin`] with the first pin that stays.
    pub fn stop(maps: &Maps) -> Result<(), SocketError> {
        let folder = folder(maps);
        // What asks before what answers.
        for call in CALLS.iter().rev() {
            link::detach(&folder.join("links").join(call.name))?;
        }
        match fs::remove_dir_all(&folder) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(SocketError::Unpin { path: folder, source })
            }
            _ => Ok(()),
        }
    }

    /// The cgroup whose processes reach Services.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Says that backends or frontends have changed: UDP sockets may have to be ended. Does not wait for that.
    pub fn changed(&self) {
        // Full means that it is said already.
        let _ = self.changes.try_send(());
    }
}

fn folder(maps: &Maps) -> PathBuf {
    sluice_maps::pin_dir(maps.bpffs()).join("sockets")
}
