//! What the agent is told: [`Args`] is what was typed, [`Config`] is what is true. Checked once, here.
//!
//! **Invariant.** Nothing behind this module reads the command line or the environment.

mod error;
mod services;
mod sockets;
mod xdp;

use std::{
    ffi::OsStr,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use axum::http::Uri;
pub use error::ConfigError;
use ipnetwork::IpNetwork;
pub use services::{ServiceOptionError, ServiceOptions, Services, prefix};
pub use sockets::SocketOptions;
pub use xdp::XdpOptions;

use crate::{
    datapath::{CgroupRoot, Served, XdpConfig},
    options::{Args, Chain, Command, Install, Options},
};

/// What the agent does, checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Task {
    /// Run.
    Run(Box<Config>),
    /// Put binaries in place.
    Install(Installation),
    /// Remove what was made.
    Cleanup(Paths),
    /// Wait for a signal.
    Pause,
}

/// What is put in place, and where.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Installation {
    /// Folder the binaries come from; `None` is the agent's own.
    pub from: Option<PathBuf>,
    /// Folder of the CNI plugin.
    pub cni_bin_dir: PathBuf,
    /// Folder of the CLI, if it is wanted.
    pub bin_dir: Option<PathBuf>,
    /// Where a BPF file system is to be mounted if there is none.
    pub bpffs: Option<PathBuf>,
}

/// Where objects come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Source {
    /// The API server.
    Kube(KubeAccess),
    /// A folder of YAML.
    Dir(PathBuf),
}

/// The way to the API server, as far as it is configured.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KubeAccess {
    /// Its address, whatever else says another.
    pub server: Option<Uri>,
    /// A file with address and credentials.
    pub kubeconfig: Option<PathBuf>,
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
    /// Folder of CNI plugins, where it is known.
    pub cni_bin_dir: Option<PathBuf>,
    /// Folder of the CNI plugin's leases, those of every network.
    pub lease_dir: PathBuf,
    /// The node's `/proc/sys/net`.
    pub sysctl_dir: PathBuf,
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
    /// Where health alone is served over TCP.
    pub health: Option<SocketAddr>,
    /// What is chained behind our plugin in the CNI configuration.
    pub chain: Chain,
    /// Key of the taint that keeps pods away until they can be made.
    pub startup_taint: Option<String>,
    /// Whether ICMP errors of allowed flows pass whatever the policy says (promise 5).
    pub related_icmp: bool,
    /// Services, and pods' way out of the cluster.
    pub services: Services,
    /// Whose sockets reach Services; `None` when none do.
    pub sockets: Option<CgroupRoot>,
    /// Whether pods' sockets are among them.
    pub served: Served,
    /// What uplinks run before tc; `None` is nothing.
    pub xdp: Option<XdpConfig>,
}

impl TryFrom<Args> for Task {
    type Error = ConfigError;

    fn try_from(args: Args) -> Result<Self, ConfigError> {
        match args.command.unwrap_or_default() {
            Command::Run => Config::try_from(args.options).map(Box::new).map(Self::Run),
            Command::Install(install) => installation(&install, &args.options).map(Self::Install),
            Command::Cleanup => paths(&args.options).map(Self::Cleanup),
            Command::Pause => Ok(Self::Pause),
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
        let xdp = options.xdp.config(services.settings.replaces_kube_proxy);
        let served = options.sockets.served();
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
            health: options.health_address,
            chain: options.cni_chain,
            startup_taint: startup_taint(options.startup_taint)?,
            related_icmp,
            services,
            sockets,
            served,
            xdp,
        })
    }
}

fn absolute(option: &'static str, path: &Path) -> Result<PathBuf, ConfigError> {
    match path.is_absolute() {
        true => Ok(path.to_owned()),
        false => Err(ConfigError::RelativePath { option, path: path.to_owned() }),
    }
}

fn optional(option: &'static str, path: Option<&Path>) -> Result<Option<PathBuf>, ConfigError> {
    path.map(|path| absolute(option, path)).transpose()
}

fn installation(install: &Install, options: &Options) -> Result<Installation, ConfigError> {
    let cni_bin_dir = optional("--cni-bin-dir", options.cni_bin_dir.as_deref())?;
    let bpffs = absolute("--bpffs", &options.bpffs)?;
    Ok(Installation {
        from: optional("--from", install.from.as_deref())?,
        cni_bin_dir: cni_bin_dir.ok_or(ConfigError::CniBinDirMissing)?,
        bin_dir: optional("--bin-dir", install.bin_dir.as_deref())?,
        bpffs: install.mount_bpffs.then_some(bpffs),
    })
}

fn paths(options: &Options) -> Result<Paths, ConfigError> {
    let name = &options.cni_conf;
    if name.file_name() != Some(name.as_os_str()) || name.extension() != Some(OsStr::new("conflist")) {
        return Err(ConfigError::ConflistName { name: name.clone() });
    }
    if !is_network_name(&options.cni_network_name) {
        return Err(ConfigError::NetworkName { name: options.cni_network_name.clone() });
    }
    let folder = optional("--cni-conf-dir", options.cni_conf_dir.as_deref())?;
    Ok(Paths {
        bpffs: absolute("--bpffs", &options.bpffs)?,
        socket: absolute("--socket", &options.socket)?,
        state_dir: absolute("--state-dir", &options.state_dir)?,
        conflist: folder.map(|folder| folder.join(name)),
        network: options.cni_network_name.clone(),
        cni_bin_dir: optional("--cni-bin-dir", options.cni_bin_dir.as_deref())?,
        lease_dir: absolute("--lease-dir", &options.lease_dir)?,
        sysctl_dir: absolute("--sysctl-dir", &options.sysctl_dir)?,
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
        return Ok(Source::Kube(KubeAccess {
            server: options.api_server.as_deref().map(api_server).transpose()?,
            kubeconfig: optional("--kubeconfig", options.kubeconfig.as_deref())?,
        }));
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

/// A label key: an optional DNS name before a slash, then a name (API reference, `Taint.key`).
fn startup_taint(key: String) -> Result<Option<String>, ConfigError> {
    if matches!(key.as_str(), "" | "none") {
        return Ok(None);
    }
    let (prefix, name) = key.split_once('/').unwrap_or(("x", &key));
    let is_word = |text: &str, inner: &[u8]| {
        let ends = [text.bytes().next(), text.bytes().next_back()];
        ends.iter().all(|end| end.is_some_and(|byte| byte.is_ascii_alphanumeric()))
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || inner.contains(&byte))
    };
    let is_key = name.len() <= 63 && is_word(name, b"-_.") && prefix.len() <= 253 && is_word(prefix, b"-.");
    if is_key { Ok(Some(key)) } else { Err(ConfigError::StartupTaint { key }) }
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
    name.len() <= error::NETWORK_NAME_BYTES
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::datapath::XdpMode;

    fn parse(line: &str) -> Result<Task, ConfigError> {
        let words = std::iter::once("sluice-agent").chain(line.split_whitespace());
        Task::try_from(Args::try_parse_from(words).expect("words clap knows"))
    }

    #[test]
    fn what_is_wrong_is_named_with_its_option() {
        let cases = [
            ("--node-name=", "--node-name (or SLUICE_NODE_NAME) is missing"),
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
            ("--node-name n --startup-taint a/b/c", "--startup-taint \"a/b/c\": not a label key"),
            ("--node-name n --kubeconfig admin.conf", "--kubeconfig admin.conf: not an absolute path"),
            ("cleanup --bpffs bpf", "--bpffs bpf: not an absolute path"),
            ("install", "install: --cni-bin-dir (or SLUICE_CNI_BIN_DIR) is missing"),
            ("install --cni-bin-dir bin", "--cni-bin-dir bin: not an absolute path"),
            ("install --cni-bin-dir /b --bin-dir bin", "--bin-dir bin: not an absolute path"),
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
    fn xdp_runs_where_it_is_asked_for_and_clients_outside_are_ours() {
        let of = |mode, on_veth| Some(XdpConfig { mode, on_veth });
        for (line, want) in [
            ("", None),
            ("--xdp off --xdp-on-veth", None),
            ("--xdp native", of(XdpMode::Native, false)),
            ("--xdp generic --xdp-on-veth", of(XdpMode::Generic, true)),
            ("--xdp native --kube-proxy-replacement false", None),
        ] {
            let Ok(Task::Run(config)) = parse(&format!("--node-name n {line}")) else { panic!("{line}") };
            assert_eq!(config.xdp, want, "{line}");
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
    fn cleanup_and_install_need_no_node() {
        assert!(matches!(parse("cleanup"), Ok(Task::Cleanup(_))));
        assert!(matches!(parse("pause"), Ok(Task::Pause)));
        let installed = parse("install --cni-bin-dir /opt/cni/bin --bin-dir /usr/local/bin --mount-bpffs");
        let Ok(Task::Install(installation)) = installed else { panic!("{installed:?}") };
        assert_eq!(installation.bpffs, Some("/sys/fs/bpf".into()));
        assert_eq!(installation.bin_dir, Some("/usr/local/bin".into()));
    }

    #[test]
    fn every_option_can_come_from_the_environment() {
        use clap::CommandFactory as _;

        let command = Args::command();
        let names_itself = |id: &str| matches!(id, "help" | "version");
        for option in command.get_arguments().filter(|option| !names_itself(option.get_id().as_str())) {
            let long = option.get_long().expect("a long name");
            let want = format!("SLUICE_{}", long.to_uppercase().replace('-', "_"));
            assert_eq!(option.get_env().and_then(OsStr::to_str), Some(want.as_str()), "--{long}");
        }
    }

    #[test]
    fn a_startup_taint_has_a_default_and_can_be_left_out() {
        for (line, want) in [
            ("--node-name n", Some("node.sluice.dev/agent-not-ready")),
            ("--node-name n --startup-taint example.org/starting", Some("example.org/starting")),
            ("--node-name n --startup-taint none", None),
        ] {
            let Ok(Task::Run(config)) = parse(line) else { panic!("{line}") };
            assert_eq!(config.startup_taint.as_deref(), want);
        }
    }
}
