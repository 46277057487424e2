//! What is typed: the command line, and the environment beside it.
//!
//! **Invariant.** Nothing is judged here but form; [`crate::config`] says what is true.
//!
//! Every option that runs the agent can be given as `SLUICE_…` too, so that a ConfigMap is a configuration file; the
//! command line comes first. An empty variable is the same as none for options without a default. Lists are separated by
//! commas.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use crate::config::{ServiceOptions, SocketOptions, XdpOptions};

/// The node agent: watches Kubernetes objects and keeps the eBPF maps true to them.
#[derive(Debug, Parser)]
#[command(name = "sluice-agent", version, about)]
pub struct Args {
    /// What to do; `run` when absent.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The options of every command.
    #[command(flatten)]
    pub options: Options,
}

/// What the agent does.
#[derive(Clone, Debug, Default, Eq, PartialEq, Subcommand)]
pub enum Command {
    /// Run the agent (the default).
    #[default]
    Run,
    /// Put the CNI plugin (with --bin-dir the CLI too) into the node's folders, whole or not at all: the init step of the
    /// DaemonSet.
    Install(Install),
    /// Remove from this node what the agent made: programs, maps, routes, socket, conflist; sysctls are restored. Pods
    /// keep their interfaces and addresses, without policy and Services, and as long as there are any the conflist stays for
    /// their end. With --cni-bin-dir the plugin goes along with the conflist.
    Cleanup,
    /// Do nothing until SIGTERM or SIGINT: keeps a pod ready whose init container has done its work.
    Pause,
}

/// What is installed where.
#[derive(ClapArgs, Clone, Debug, Eq, PartialEq)]
pub struct Install {
    /// Folder for `sluice`, the CLI [default: it is not installed].
    #[arg(long, env = "SLUICE_BIN_DIR", value_name = "PATH")]
    pub bin_dir: Option<PathBuf>,
    /// Mount the BPF file system at --bpffs when there is none.
    #[arg(long)]
    pub mount_bpffs: bool,
    /// Folder the binaries are taken from [default: the agent's own].
    #[arg(long, value_name = "PATH")]
    pub from: Option<PathBuf>,
}

/// Options as typed.
#[derive(Debug, ClapArgs)]
pub struct Options {
    /// Name of this node's Node object.
    #[arg(long, global = true, value_name = "NAME", env = "SLUICE_NODE_NAME")]
    pub node_name: Option<String>,
    /// Where objects come from: `kube` (the API server), or `dir:PATH` (a watched folder of YAML).
    #[arg(long, global = true, default_value = "kube", value_name = "kube|dir:PATH", env = "SLUICE_SOURCE")]
    pub source: String,
    /// Mount point of the BPF file system; maps and programs are pinned below `sluice/` in it.
    #[arg(long, global = true, default_value = "/sys/fs/bpf", value_name = "PATH", env = "SLUICE_BPFFS")]
    pub bpffs: PathBuf,
    /// Unix socket for the CNI plugin and the tools, readable by root only.
    #[arg(
        long,
        global = true,
        default_value = "/run/sluice/agent.sock",
        value_name = "PATH",
        env = "SLUICE_SOCKET"
    )]
    pub socket: PathBuf,
    /// Folder of the agent's lock (one agent per folder) and of what cleanup must know; keep it while the node is up.
    #[arg(long, global = true, default_value = "/run/sluice", value_name = "PATH", env = "SLUICE_STATE_DIR")]
    pub state_dir: PathBuf,
    /// Folder of CNI configurations; when given, the agent writes its own there, last.
    #[arg(long, global = true, value_name = "PATH", env = "SLUICE_CNI_CONF_DIR")]
    pub cni_conf_dir: Option<PathBuf>,
    /// File name of the CNI configuration in that folder.
    #[arg(
        long,
        global = true,
        default_value = "10-sluice.conflist",
        value_name = "NAME",
        env = "SLUICE_CNI_CONF"
    )]
    pub cni_conf: PathBuf,
    /// Network name in the CNI configuration.
    #[arg(
        long,
        global = true,
        default_value = "sluice",
        value_name = "NAME",
        env = "SLUICE_CNI_NETWORK_NAME"
    )]
    pub cni_network_name: String,
    /// Folder of CNI plugins: `sluice-cni` is installed there, and --cni-chain looks there for others.
    #[arg(long, global = true, value_name = "PATH", env = "SLUICE_CNI_BIN_DIR")]
    pub cni_bin_dir: Option<PathBuf>,
    /// What serves `hostPort` behind our plugin: `portmap` chains the reference plugin of that name, `auto` does when it is
    /// in --cni-bin-dir.
    #[arg(long, global = true, value_enum, default_value_t = Chain::Auto, env = "SLUICE_CNI_CHAIN")]
    pub cni_chain: Chain,
    /// Folder of the CNI plugin's leases.
    #[arg(
        long,
        global = true,
        default_value = "/var/lib/cni/sluice",
        value_name = "PATH",
        env = "SLUICE_LEASE_DIR"
    )]
    pub lease_dir: PathBuf,
    /// The node's `/proc/sys/net`, writable: a container's own is not.
    #[arg(
        long,
        global = true,
        default_value = "/proc/sys/net",
        value_name = "PATH",
        env = "SLUICE_SYSCTL_DIR"
    )]
    pub sysctl_dir: PathBuf,
    /// Device to other nodes; may be given more than once [default: the devices of the default routes].
    #[arg(
        long = "uplink",
        global = true,
        value_name = "DEVICE",
        env = "SLUICE_UPLINK",
        value_delimiter = ','
    )]
    pub uplinks: Vec<String>,
    /// Range of this node's pods; may be given more than once [default: the Node object's spec.podCIDRs].
    #[arg(
        long = "pod-cidr",
        global = true,
        value_name = "CIDR",
        env = "SLUICE_POD_CIDR",
        value_delimiter = ','
    )]
    pub pod_cidrs: Vec<String>,
    /// The API server's real address, for nodes where its Service is not reachable yet
    /// [default: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT].
    #[arg(long, global = true, value_name = "HOST:PORT|URL", env = "SLUICE_API_SERVER")]
    pub api_server: Option<String>,
    /// Credentials for the API server [default: KUBECONFIG, ~/.kube/config, then the pod's service account].
    #[arg(long, global = true, value_name = "PATH", env = "SLUICE_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Key of the taint that is removed from this node once pods can be made; empty removes none.
    #[arg(
        long,
        global = true,
        default_value = "node.sluice.dev/agent-not-ready",
        value_name = "KEY",
        env = "SLUICE_STARTUP_TAINT"
    )]
    pub startup_taint: String,
    /// MTU of pods' interfaces, bytes; 0 takes the default route's device's.
    #[arg(long, global = true, default_value_t = 0, value_name = "BYTES", env = "SLUICE_MTU")]
    pub mtu: u32,
    /// Address for `/healthz` and `/readyz` alone, as the kubelet probes them [default: on the socket only].
    #[arg(long, global = true, value_name = "ADDRESS:PORT", env = "SLUICE_HEALTH_ADDRESS")]
    pub health_address: Option<SocketAddr>,
    /// Address for `/metrics`, `/healthz` and `/readyz` [default: on the socket only].
    #[arg(long, global = true, value_name = "ADDRESS:PORT", env = "SLUICE_METRICS_ADDRESS")]
    pub metrics_address: Option<SocketAddr>,
    /// Services, and pods' way out of the cluster.
    #[command(flatten)]
    pub services: ServiceOptions,
    /// The node's own processes.
    #[command(flatten)]
    pub sockets: SocketOptions,
    /// XDP on the uplinks.
    #[command(flatten)]
    pub xdp: XdpOptions,
    /// Form of the log, on standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, env = "SLUICE_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug, or a filter like `info,sluice_agent::watch=debug`.
    #[arg(long, global = true, default_value = "info", value_name = "FILTER", env = "SLUICE_LOG_LEVEL")]
    pub log_level: String,
    /// Switches of the datapath, NAME=VALUE: `related-icmp=false` stops ICMP errors of allowed flows from passing.
    #[arg(
        long = "datapath-option",
        global = true,
        hide = true,
        value_name = "NAME=VALUE",
        env = "SLUICE_DATAPATH_OPTION",
        value_delimiter = ','
    )]
    pub datapath_options: Vec<String>,
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// What is chained behind our plugin.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Chain {
    /// `portmap` if it is there.
    Auto,
    /// `portmap`, which must be there whenever a pod is made.
    Portmap,
    /// Nothing.
    None,
}
