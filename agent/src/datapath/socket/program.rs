//! The two kinds of programs, which `aya` has as two types.

use std::{fs::File, path::Path};

use aya::programs::{
    CgroupAttachMode, CgroupSock, CgroupSockAddr, CgroupSockAddrAttachType, CgroupSockAttachType,
    ProgramError, ProgramFd, links::FdLink,
};

/// Which calls a program sees.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// One that names an address or asks for it.
    Address(CgroupSockAddrAttachType),
    /// The last close.
    Release,
}

/// A loaded program.
#[derive(Debug)]
pub(super) enum Program {
    Address(CgroupSockAddr),
    Release(CgroupSock),
}

impl Program {
    /// The program that is pinned there.
    pub(super) fn from_pin(path: &Path, kind: Kind) -> Result<Self, ProgramError> {
        Ok(match kind {
            Kind::Address(attach_type) => Self::Address(CgroupSockAddr::from_pin(path, attach_type)?),
            Kind::Release => Self::Release(CgroupSock::from_pin(path, CgroupSockAttachType::SockRelease)?),
        })
    }

    /// Attaches it to the cgroup beside others, until the link goes. The mode says nothing about links, which always stand
    /// beside others (`cgroup_bpf_link_attach`).
    pub(super) fn attach(&mut self, cgroup: &File) -> Result<FdLink, ProgramError> {
        let mode = CgroupAttachMode::Single;
        let link = match self {
            Self::Address(program) => {
                let id = program.attach(cgroup, mode)?;
                program.take_link(id)?.try_into()
            }
            Self::Release(program) => {
                let id = program.attach(cgroup, mode)?;
                program.take_link(id)?.try_into()
            }
        };
        Ok(link.expect("a kernel with global functions has cgroup links (Linux 5.7)"))
    }

    pub(super) fn fd(&self) -> Result<&ProgramFd, ProgramError> {
        match self {
            Self::Address(program) => program.fd(),
            Self::Release(program) => program.fd(),
        }
    }
}
