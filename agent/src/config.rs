//! What the agent is told: [`Args`] is what was typed, [`Config`] is what is true. Checked once, here.
//!
//! **Invariant.** Nothing behind this module reads the command line or the environment.

mod services;
mod sockets;

use std::{
    ffi::OsStr,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use axum::http::Uri;
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use ipnetwork::IpNetwork;
pub use services::{ServiceOptionError, ServiceOptions, Services, prefix};
pub use sockets::SocketOptions;

use crate::datapath::CgroupRoot;

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
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Subcommand)]
pub enum Command {
    /// Run the agent (the default).
    #[default]
    Run,
    /// Remove from this node what the agent made: programs, maps, routes, socket, conflist; sysctls are restored. Pods
    /// keep their interfaces and addresses, without policy and Services.
    Cleanup,
}

/// Options as typed.
#[derive(Debug, ClapArgs)]
pub struct Options {
    /// Name of this node's Node object.
    #[arg(long, env = "NODE_NAME", global = true, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Where objects come from: `kube` (the API server), or `dir:PATH` (a watched folder of YAML).
    #[arg(long, global = true, default_value = "kube", value_name = "kube|dir:PATH")]
    pub source: String,
    /// Mount point of the BPF file system; maps and programs are pinned below `sluice/` in it.
    #[arg(long, global = true, default_value = "/sys/fs/bpf", value_name = "PATH")]
    pub bpffs: PathBuf,
    /// Unix socket for the CNI plugin and the tools, readable by root only.
    #[arg(long, global = true, default_value = "/run/sluice/agent.sock", value_name = "PATH")]
    pub socket: PathBuf,
    /// Folder of the agent's lock (one agent per folder) and of what cleanup must know; keep it while the node is up.
    #[arg(long, global = true, default_value = "/run/sluice", value_name = "PATH")]
    pub state_dir: PathBuf,
    /// Folder of CNI configurations; when given, the agent writes its own there, last.
    #[arg(long, global = true, value_name = "PATH")]
    pub cni_conf_dir: Option<PathBuf>,
    /// File name of the CNI configuration in that folder.
    #[arg(long, global = true, default_value = "10-sluice.conflist", value_name = "NAME")]
    pub cni_conf: PathBuf,
    /// Network name in the CNI configuration.
    #[arg(long, global = true, default_value = "sluice", value_name = "NAME")]
    pub cni_network_name: String,
    /// Device to other nodes; may be given more than once [default: the devices of the default routes].
    #[arg(long = "uplink", global = true, value_name = "DEVICE")]
    pub uplinks: Vec<String>,
    /// Range of this node's pods; may be given more than once [default: the Node object's spec.podCIDRs].
    #[arg(long = "pod-cidr", global = true, value_name = "CIDR")]
    pub pod_cidrs: Vec<String>,
    /// The API server's real address, for nodes where its Service is not reachable yet
    /// [default: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT].
    #[arg(long, global = true, value_name = "HOST:PORT|URL")]
    pub api_server: Option<String>,
    /// MTU of pods' interfaces, bytes; 0 takes the default route's device's.
    #[arg(long, global = true, default_value_t = 0, value_name = "BYTES")]
    pub mtu: u32,
    /// Address for `/metrics`, `/healthz` and `/readyz` [default: on the socket only].
    #[arg(long, global = true, value_name = "ADDRESS:PORT")]
    pub metrics_address: Option<SocketAddr>,
    /// Services, and pods' way out of the cluster.
    #[command(flatten)]
    pub services: ServiceOptions,
    /// The node's own processes.
    #[command(flatten)]
    pub sockets: SocketOptions,
    /// Form of the log, on standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug, or a filter like `info,sluice_agent::watch=debug`.
    #[arg(long, global = true, default_value = "info", value_name = "FILTER")]
    pub log_level: String,
    /// Switches of the datapath, NAME=VALUE: `related-icmp=false` stops ICMP errors of allowed flows from passing.
    #[arg(long = "datapath-option", global = true, hide = true, value_name = "NAME=VALUE")]
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

/// What the agent does, checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Task {
    /// Run.
    Run(Box<Config>),
    /// Remove what was made.
    Cleanup(Paths),
}

/// Where objects come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Source {
    /// The API server; the address overrides what the pod's environment says.
    Kube(Option<Uri>),
    /// A folder of YAML.
    Dir(PathBuf),
}

/// Where the agent leaves things on the node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Paths {
    /// Mount point of the BPF file system.
    pub bpffs: PathBuf,
    /// The unix socket.
    pub socket: PathBuf,
    /// Folder of the lock and the record of sysctls.
    pub state_dir: PathBuf,
    /// The CNI configuration, when the agent writes one.
    pub conflist: Option<PathBuf>,
    /// Network name in it.
    pub network: String,
}

/// Everything the running agent needs to know.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// Name of this node's Node object.
    pub node: String,
    /// Where objects come from.
    pub source: Source,
    /// Where things are left.
    pub paths: Paths,
    /// Devices to other nodes; empty means the default routes' devices.
    pub uplinks: Vec<String>,
    /// Ranges of this node's pods; empty means the Node object's.
    pub pod_cidrs: Vec<IpNetwork>,
    /// MTU of pods' interfaces, bytes; `None` means the default route's device's.
    pub mtu: Option<u32>,
    /// Where metrics and health are served over TCP.
    pub metrics: Option<SocketAddr>,
    /// Whether ICMP errors of allowed flows pass whatever the policy says (promise 5).
    pub related_icmp: bool,
    /// Services, and pods' way out of the cluster.
    pub services: Services,
    /// Whose sockets reach Services; `None` when none do.
    pub sockets: Option<CgroupRoot>,
}

/// Longest network name the CNI plugin takes, bytes.
const NETWORK_NAME_BYTES: usize = 200;

/// What is wrong with the options.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The agent must know which pods are its own.
    #[error("--node-name (or NODE_NAME) is missing")]
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

impl TryFrom<Args> for Task {
    type Error = ConfigError;

    fn try_from(args: Args) -> Result<Self, ConfigError> {
        match args.command.unwrap_or_default() {
            Command::Run => Config::try_from(args.options).map(Box::new).map(Self::Run),
            Command::Cleanup => paths(&args.options).map(Self::Cleanup),
        }
    }
}

impl TryFrom<Options> for Config {
    type Error = ConfigError;

    fn try_from(options: Options) -> Result<Self, ConfigError> {
        let paths = paths(&options)?;
        let source = source(&options)?;
        let related_icmp = related_icmp(&options.datapath_options)?;
        let services = Services::try_from(options.services)?;
        // A kube-proxy serves the node's own processes.
        let sockets = options.sockets.root()?.filter(|_| services.settings.replaces_kube_proxy);
        if options.mtu != 0 && !(1280..=65535).contains(&options.mtu) {
            return Err(ConfigError::Mtu { mtu: options.mtu });
        }
        if let Some(name) = options.uplinks.iter().find(|name| !is_device_name(name)) {
            return Err(ConfigError::Uplink { name: name.clone() });
        }
        Ok(Self {
            node: node_name(options.node_name)?,
            source,
            paths,
            uplinks: options.uplinks,
            pod_cidrs: options.pod_cidrs.iter().map(|typed| pod_cidr(typed)).collect::<Result<_, _>>()?,
            mtu: (options.mtu != 0).then_some(options.mtu),
            metrics: options.metrics_address,
            related_icmp,
            services,
            sockets,
        })
    }
}

fn paths(options: &Options) -> Result<Paths, ConfigError> {
    let absolute = |option, path: &Path| match path.is_absolute() {
        true => Ok(path.to_owned()),
        false => Err(ConfigError::RelativePath { option, path: path.to_owned() }),
    };
    let name = &options.cni_conf;
    if name.file_name() != Some(name.as_os_str()) || name.extension() != Some(OsStr::new("conflist")) {
        return Err(ConfigError::ConflistName { name: name.clone() });
    }
    if !is_network_name(&options.cni_network_name) {
        return Err(ConfigError::NetworkName { name: options.cni_network_name.clone() });
    }
    let folder =
        options.cni_conf_dir.as_deref().map(|folder| absolute("--cni-conf-dir", folder)).transpose()?;
    Ok(Paths {
        bpffs: absolute("--bpffs", &options.bpffs)?,
        socket: absolute("--socket", &options.socket)?,
        state_dir: absolute("--state-dir", &options.state_dir)?,
        conflist: folder.map(|folder| folder.join(name)),
        network: options.cni_network_name.clone(),
    })
}

fn node_name(typed: Option<String>) -> Result<String, ConfigError> {
    let name = typed.filter(|name| !name.is_empty()).ok_or(ConfigError::NodeNameMissing)?;
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if name.len() > 253 || !name.split('.').all(is_label) {
        return Err(ConfigError::NodeName { name });
    }
    Ok(name)
}

fn source(options: &Options) -> Result<Source, ConfigError> {
    let typed = options.source.as_str();
    if typed == "kube" {
        return Ok(Source::Kube(options.api_server.as_deref().map(api_server).transpose()?));
    }
    match typed.strip_prefix("dir:").filter(|path| !path.is_empty()).map(PathBuf::from) {
        Some(path) if path.is_absolute() => Ok(Source::Dir(path)),
        Some(path) => Err(ConfigError::RelativePath { option: "--source dir:", path }),
        None => Err(ConfigError::Source { typed: typed.to_owned() }),
    }
}

fn api_server(typed: &str) -> Result<Uri, ConfigError> {
    let wrong = || ConfigError::ApiServer { typed: typed.to_owned() };
    let is_url = typed.starts_with("https://") || typed.starts_with("http://");
    let url = if is_url { typed.to_owned() } else { format!("https://{typed}") };
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let has_host = uri.host().is_some_and(|host| !host.is_empty());
    if has_host && (is_url || uri.port_u16().is_some()) { Ok(uri) } else { Err(wrong()) }
}

fn pod_cidr(typed: &str) -> Result<IpNetwork, ConfigError> {
    let range: IpNetwork =
        typed.parse().map_err(|source| ConfigError::PodCidr { typed: typed.to_owned(), source })?;
    let meant = network_of(range);
    if range == meant { Ok(range) } else { Err(ConfigError::PodCidrBits { typed: range, meant }) }
}

/// The range `cidr` lies in, named by its first address.
pub(crate) fn network_of(cidr: IpNetwork) -> IpNetwork {
    IpNetwork::new(cidr.network(), cidr.prefix()).expect("the prefix length of a network")
}

fn related_icmp(typed: &[String]) -> Result<bool, ConfigError> {
    typed.iter().try_fold(true, |_, option| match option.as_str() {
        "related-icmp=true" => Ok(true),
        "related-icmp=false" => Ok(false),
        _ => Err(ConfigError::DatapathOption { typed: option.clone() }),
    })
}

fn is_device_name(name: &str) -> bool {
    let is_odd = |b: u8| b == b'/' || b == b':' || b.is_ascii_whitespace() || b == 0;
    !matches!(name, "" | "." | "..") && name.len() < libc::IFNAMSIZ && !name.bytes().any(is_odd)
}

fn is_network_name(name: &str) -> bool {
    name.len() <= NETWORK_NAME_BYTES
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Task, ConfigError> {
        let words = std::iter::once("sluice-agent").chain(line.split_whitespace());
        Task::try_from(Args::try_parse_from(words).expect("words clap knows"))
    }

    #[test]
    fn what_is_wrong_is_named_with_its_option() {
        let cases = [
            ("--node-name=", "--node-name (or NODE_NAME) is missing"),
            ("--node-name N1", "--node-name \"N1\": not the name of a Node"),
            ("--node-name a..b", "--node-name \"a..b\": not the name of a Node"),
            ("--node-name n --source etcd", "--source \"etcd\": neither"),
            ("--node-name n --source dir:", "--source \"dir:\": neither"),
            ("--node-name n --source dir:a/b", "--source dir: a/b: not an absolute path"),
            ("--node-name n --bpffs bpf", "--bpffs bpf: not an absolute path"),
            ("--node-name n --socket a.sock", "--socket a.sock: not an absolute path"),
            ("--node-name n --cni-conf-dir net.d", "--cni-conf-dir net.d: not an absolute path"),
            ("--node-name n --cni-conf a.json", "--cni-conf a.json: not a file name that ends in .conflist"),
            ("--node-name n --cni-conf ../a.conflist", "--cni-conf ../a.conflist: not a file name"),
            ("--node-name n --cni-network-name _a", "--cni-network-name \"_a\": must start with"),
            ("--node-name n --uplink a/b", "--uplink \"a/b\": not the name of a network device"),
            ("--node-name n --uplink sixteen-letters-", "--uplink \"sixteen-letters-\""),
            ("--node-name n --pod-cidr 10.0.0.0/33", "--pod-cidr \"10.0.0.0/33\""),
            ("--node-name n --pod-cidr 10.0.0.1/24", "the range is 10.0.0.0/24"),
            ("--node-name n --api-server example", "--api-server \"example\": neither"),
            ("--node-name n --api-server ftp://a:1", "--api-server \"ftp://a:1\": neither"),
            ("--node-name n --mtu 1279", "--mtu 1279: must be 0, or 1280 to 65535"),
            ("--node-name n --datapath-option x=1", "--datapath-option \"x=1\": known is"),
            ("--node-name n --cgroup-root cgroup", "--cgroup-root cgroup: not an absolute path"),
            ("cleanup --bpffs bpf", "--bpffs bpf: not an absolute path"),
        ];
        for (line, want) in cases {
            let error = parse(line).expect_err(line).to_string();
            assert!(error.contains(want), "{line}: {error}");
        }
    }

    #[test]
    fn options_mean_what_they_say() {
        let line = "run --node-name n1.example --source dir:/etc/sluice --uplink eth0 --uplink eth1 --mtu 1450 \
                    --pod-cidr 10.1.0.0/24 --pod-cidr fd00:1::/64 --cni-conf-dir /etc/cni/net.d \
                    --datapath-option related-icmp=false";
        let Ok(Task::Run(config)) = parse(line) else { panic!("{:?}", parse(line)) };
        assert_eq!(config.source, Source::Dir("/etc/sluice".into()));
        assert_eq!(config.uplinks, ["eth0", "eth1"]);
        assert_eq!(config.pod_cidrs.len(), 2);
        assert_eq!((config.mtu, config.related_icmp), (Some(1450), false));
        assert_eq!(config.paths.conflist, Some("/etc/cni/net.d/10-sluice.conflist".into()));
    }

    #[test]
    fn the_nodes_own_processes_are_served_unless_told_otherwise_or_by_a_kube_proxy() {
        let at = |path: &str| Some(CgroupRoot::At(path.into()));
        for (line, want) in [
            ("", Some(CgroupRoot::OfInit)),
            ("--cgroup-root /sys/fs/cgroup", at("/sys/fs/cgroup")),
            ("--cgroup-root none", None),
            ("--cgroup-root /sys/fs/cgroup --kube-proxy-replacement false", None),
        ] {
            let Ok(Task::Run(config)) = parse(&format!("--node-name n {line}")) else { panic!("{line}") };
            assert_eq!(config.sockets, want, "{line}");
        }
    }

    #[test]
    fn an_api_server_is_a_host_with_port_or_a_url() {
        for (typed, want) in [
            ("10.0.0.1:6443", "https://10.0.0.1:6443/"),
            ("[fd00::1]:6443", "https://[fd00::1]:6443/"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/"),
            ("https://api.example", "https://api.example/"),
        ] {
            assert_eq!(api_server(typed).expect(typed).to_string(), want);
        }
    }

    #[test]
    fn cleanup_needs_no_node() {
        assert!(matches!(parse("cleanup"), Ok(Task::Cleanup(_))));
    }
}
