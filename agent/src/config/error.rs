//! What can be wrong with the options, in words that name the option.

use std::path::PathBuf;

use ipnetwork::IpNetwork;

use super::ServiceOptionError;

/// What is wrong with the options.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The agent must know which pods are its own.
    #[error("--node-name (or SLUICE_NODE_NAME) is missing")]
    NodeNameMissing,
    /// Not the name of a Node object (RFC 1123 subdomain).
    #[error(
        "--node-name {name:?}: not the name of a Node: lower-case letters, digits, '-' and '.', at most 253"
    )]
    NodeName {
        /// What was typed.
        name: String,
    },
    /// Neither `kube` nor `dir:PATH`.
    #[error("--source {typed:?}: neither \"kube\" nor \"dir:PATH\"")]
    Source {
        /// What was typed.
        typed: String,
    },
    /// Paths must not depend on the working directory.
    #[error("{option} {path}: not an absolute path", path = path.display())]
    RelativePath {
        /// Which option.
        option: &'static str,
        /// What was typed.
        path: PathBuf,
    },
    /// The runtime reads only some names.
    #[error("--cni-conf {name}: not a file name that ends in .conflist", name = name.display())]
    ConflistName {
        /// What was typed.
        name: PathBuf,
    },
    /// Not a network name (CNI specification 1.1, section 1: alphanumeric first, then also `_.-`).
    #[error(
        "--cni-network-name {name:?}: must start with a letter or digit, hold only those, '_', '.' and '-', and have at \
         most {NETWORK_NAME_BYTES} bytes"
    )]
    NetworkName {
        /// What was typed.
        name: String,
    },
    /// Not a device name (`dev_valid_name`, `net/core/dev.c`).
    #[error("--uplink {name:?}: not the name of a network device")]
    Uplink {
        /// What was typed.
        name: String,
    },
    /// Not a CIDR.
    #[error("--pod-cidr {typed:?}")]
    PodCidr {
        /// What was typed.
        typed: String,
        /// Why not.
        source: ipnetwork::IpNetworkError,
    },
    /// A range is named by its first address.
    #[error("--pod-cidr {typed}: has address bits behind its prefix; the range is {meant}")]
    PodCidrBits {
        /// What was typed.
        typed: IpNetwork,
        /// The range it lies in.
        meant: IpNetwork,
    },
    /// Not an address of a server.
    #[error("--api-server {typed:?}: neither HOST:PORT nor a URL of http or https")]
    ApiServer {
        /// What was typed.
        typed: String,
    },
    /// Too small for IPv6 (RFC 8200, section 5), or more than an IP packet.
    #[error("--mtu {mtu}: must be 0, or 1280 to 65535")]
    Mtu {
        /// What was typed.
        mtu: u32,
    },
    /// Not the key of a taint.
    #[error(
        "--startup-taint {key:?}: not a label key: letters, digits, '-', '_' and '.', at most 63, behind a DNS name and '/'"
    )]
    StartupTaint {
        /// What was typed.
        key: String,
    },
    /// Something has to say where to.
    #[error("install: --cni-bin-dir (or SLUICE_CNI_BIN_DIR) is missing")]
    CniBinDirMissing,
    /// Services, and pods' way out of the cluster.
    #[error(transparent)]
    Services(#[from] ServiceOptionError),
    /// Not a switch the datapath has.
    #[error("--datapath-option {typed:?}: known is related-icmp=true|false")]
    DatapathOption {
        /// What was typed.
        typed: String,
    },
}

/// Longest network name the CNI plugin takes, bytes.
pub(super) const NETWORK_NAME_BYTES: usize = 200;
