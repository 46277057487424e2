//! Errors of the commands and their CNI codes.
//!
//! | Code | When |
//! | --- | --- |
//! | 1 | the CNI version is not spoken, or lacks the command |
//! | 3 | CHECK: neither a lease nor a veth is known of the container |
//! | 4 | an environment variable is missing or wrong |
//! | 5 | a file cannot be read or written |
//! | 6 | stdin is not JSON |
//! | 7 | a field of the network configuration is missing or wrong |
//! | 8 | the network namespace is gone, is none, or is the host's (the reference library's `ErrInvalidNetNS`) |
//! | 11 | try again: the agent is unreachable, the pod's rules are not in force in time, the leases stay locked |
//! | 50 | STATUS: the agent is not ready, or every address is leased |
//! | 51 | STATUS: the agent is unreachable; pods keep their last rules but nothing new reaches them |
//! | 100 | every address of a range is leased |
//! | 101 | the kernel refused a step |
//! | 102 | the interface exists already |
//! | 103 | CHECK found a difference |
//! | 104 | the agent refused the request itself |
//! | 105 | DEL or GC could not remove everything |
//!
//! Codes below 100 are the specification's (CNI 1.1.0, section 5, "Error"), those from 100 ours.

use std::{fmt, net::IpAddr};

use ipnetwork::IpNetwork;

use crate::{
    agent::AgentError,
    config::ConfigError,
    ipam::{IpamError, store::StoreError},
    netlink::NetlinkError,
    netns::NetnsError,
    plumb::PlumbError,
    request::RequestError,
};

impl RequestError {
    /// Its CNI code.
    pub fn code(&self) -> u32 {
        match self {
            Self::Version { .. } => 1,
            Self::Missing { .. } | Self::Invalid { .. } | Self::UnknownArgument { .. } => 4,
            Self::Json { .. } => 6,
            Self::Config(_) => 7,
        }
    }
}

impl IpamError {
    /// Its CNI code.
    pub fn code(&self) -> u32 {
        match self {
            Self::RangeExhausted { .. } => 100,
            Self::Store(StoreError::LockTimeout { .. }) => 11,
            Self::Store(StoreError::File { .. } | StoreError::Record { .. }) => 5,
        }
    }
}

impl PlumbError {
    /// Its CNI code.
    pub fn code(&self) -> u32 {
        match self {
            Self::InterfaceExists { .. } | Self::Attached { .. } => 102,
            Self::Netns(_) => 8,
            Self::DefaultRoute { .. } | Self::Sysctl(_) => 5,
            Self::Netlink(_) | Self::NoIndex { .. } => 101,
            Self::NotUp { .. } | Self::NotLocal { .. } => 11,
        }
    }
}

impl AgentError {
    /// Its CNI code.
    pub fn code(&self) -> u32 {
        if self.is_transient() { 11 } else { 104 }
    }
}

/// Why a pod was not wired. Everything done is undone.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// The result of the plugin before is wrong, or not for us to go on from.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The runtime passed a namespace path that is gone or is not a namespace.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// No address.
    #[error(transparent)]
    Ipam(#[from] IpamError),
    /// No wire.
    #[error(transparent)]
    Plumb(#[from] PlumbError),
    /// No netlink socket.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// No agent, or not in time.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The agent needs to know which pod it is.
    #[error("finding {name} in CNI_ARGS, which the agent needs")]
    PodUnknown {
        /// The key.
        name: &'static str,
    },
}

impl AddError {
    /// Its CNI code.
    pub fn code(&self) -> u32 {
        match self {
            Self::Config(_) => 7,
            Self::Netns(_) => 8,
            Self::Ipam(error) => error.code(),
            Self::Plumb(error) => error.code(),
            Self::Netlink(_) => 101,
            Self::Agent(error) => error.code(),
            Self::PodUnknown { .. } => 4,
        }
    }
}

/// What could not be removed; everything else is.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// A veth stayed.
    #[error(transparent)]
    Plumb(#[from] PlumbError),
    /// No netlink socket, so every veth stayed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A lease stayed.
    #[error(transparent)]
    Ipam(#[from] IpamError),
    /// Several things stayed.
    #[error("{} of the steps could not be done", _0.0.len())]
    Several(#[source] Several),
}

impl RemoveError {
    /// One error out of those that were collected; `None`: none.
    pub(crate) fn collect(mut errors: Vec<Self>) -> Option<Self> {
        match errors.len() {
            0 | 1 => errors.pop(),
            _ => Some(Self::Several(Several(errors))),
        }
    }

    /// Its CNI code.
    pub fn code(&self) -> u32 {
        match self {
            Self::Ipam(error) => error.code(),
            Self::Plumb(_) | Self::Netlink(_) | Self::Several(_) => 105,
        }
    }
}

/// Errors that were collected on the way.
#[derive(Debug)]
pub struct Several(Vec<RemoveError>);

impl fmt::Display for Several {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}: {}", if index == 0 { "" } else { "; " }, crate::result::causes(error))?;
        }
        Ok(())
    }
}

impl std::error::Error for Several {}

/// Which side of a wire.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// The host's namespace.
    Host,
    /// The pod's.
    Pod,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "on the host",
            Self::Pod => "in the pod",
        })
    }
}

/// How a pod's networking differs from what ADD left.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// There is nothing of the attachment at all.
    #[error("{attachment} is unknown: it has neither a lease nor a veth")]
    Unknown {
        /// Which.
        attachment: String,
    },
    /// The configuration is not one for CHECK.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The namespace is gone.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// Reality cannot be read.
    #[error(transparent)]
    Plumb(#[from] PlumbError),
    /// Reality cannot be read.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The leases cannot be read.
    #[error(transparent)]
    Ipam(#[from] IpamError),
    /// The pod's rules are not in force.
    #[error("the rules of {attachment} are not in force")]
    NotInForce {
        /// Which.
        attachment: String,
        /// What the agent says.
        source: AgentError,
    },
    /// `prevResult` lists no such interface.
    #[error("prevResult has no interface {name} {side}")]
    NotInResult {
        /// Its name.
        name: String,
        /// Where.
        side: Side,
    },
    /// An interface is missing.
    #[error("interface {name} is missing {side}")]
    NoInterface {
        /// Its name.
        name: String,
        /// Where.
        side: Side,
    },
    /// An interface is down.
    #[error("interface {name} is down {side}")]
    Down {
        /// Its name.
        name: String,
        /// Where.
        side: Side,
    },
    /// An interface has another MAC address or MTU.
    #[error("interface {name} has not the MAC address or MTU of prevResult {side}")]
    Changed {
        /// Its name.
        name: String,
        /// Where.
        side: Side,
    },
    /// An address is not leased to the attachment.
    #[error("{addr} is not leased to {attachment}")]
    NotLeased {
        /// The address.
        addr: IpAddr,
        /// Which attachment.
        attachment: String,
    },
    /// An address is missing in the pod.
    #[error("address {addr} is missing in the pod")]
    NoAddress {
        /// The address.
        addr: IpAddr,
    },
    /// A route is missing.
    #[error("route to {destination} is missing {side}")]
    NoRoute {
        /// Its destination.
        destination: IpNetwork,
        /// Where.
        side: Side,
    },
    /// A permanent neighbour is missing or has another MAC address.
    #[error("permanent neighbour {addr} is missing or wrong {side}")]
    NoNeighbour {
        /// The address.
        addr: IpAddr,
        /// Where.
        side: Side,
    },
}

impl CheckError {
    /// Its CNI code.
    pub fn code(&self) -> u32 {
        match self {
            Self::Unknown { .. } => 3,
            Self::Config(_) => 7,
            Self::Netns(_) => 8,
            Self::Plumb(error) => error.code(),
            Self::Netlink(_) => 101,
            Self::Ipam(error) => error.code(),
            Self::NotInForce { source, .. } => source.code(),
            Self::NotInResult { .. }
            | Self::NoInterface { .. }
            | Self::Down { .. }
            | Self::Changed { .. }
            | Self::NotLeased { .. }
            | Self::NoAddress { .. }
            | Self::NoRoute { .. }
            | Self::NoNeighbour { .. } => 103,
        }
    }
}

/// Why an ADD could not be served now.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// No address, or no directory for leases.
    #[error(transparent)]
    Ipam(#[from] IpamError),
    /// The agent.
    #[error("asking whether the agent is ready")]
    Agent {
        /// What it says, or why it says nothing.
        source: AgentError,
    },
}

impl StatusError {
    /// Its CNI code (CNI specification 1.1.0, section 2, "STATUS").
    ///
    /// 51 says that pods which exist may have limited connectivity. That is so when nobody is there to follow changes
    /// of policies, Services and routes, and not when merely no further pod fits in.
    pub fn code(&self) -> u32 {
        match self {
            Self::Agent { source } if !source.is_answer() => 51,
            Self::Agent { .. } | Self::Ipam(_) => 50,
        }
    }
}

/// Any failure of the plugin.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// stdin could not be read.
    #[error("reading the network configuration from stdin")]
    Stdin {
        /// Why not.
        source: std::io::Error,
    },
    /// The request is none.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// ADD.
    #[error(transparent)]
    Add(#[from] AddError),
    /// DEL or GC.
    #[error(transparent)]
    Remove(#[from] RemoveError),
    /// CHECK.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// STATUS.
    #[error(transparent)]
    Status(#[from] StatusError),
}

impl Failure {
    /// Its CNI code.
    pub fn code(&self) -> u32 {
        match self {
            Self::Stdin { .. } => 5,
            Self::Request(error) => error.code(),
            Self::Add(error) => error.code(),
            Self::Remove(error) => error.code(),
            Self::Check(error) => error.code(),
            Self::Status(error) => error.code(),
        }
    }
}
