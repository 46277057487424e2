//! What a cluster is made of: what was asked for, and every name and address that follows from it. Pure.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// Nodes that the plan of addresses has room for.
pub(crate) const MAX_NODES: u8 = 100;
/// Port of the API server.
pub(super) const API_PORT: u16 = 6443;
/// The zone that DNS answers for.
pub(super) const DOMAIN: &str = "cluster.local";

/// IP families of pods, Services and nodes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Families {
    /// IPv4 alone.
    Ipv4,
    /// IPv6 alone: the underlay has no IPv4 address.
    Ipv6,
    /// Both, IPv4 first.
    #[default]
    Dual,
}

/// Who implements Services.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum KubeProxy {
    /// Nobody: a network's agent is to do it.
    #[default]
    None,
    /// kube-proxy, mode nftables.
    Nftables,
    /// kube-proxy, mode iptables.
    Iptables,
}

impl KubeProxy {
    /// The word of kube-proxy's configuration; none when it does not run.
    pub(super) fn mode(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Nftables => Some("nftables"),
            Self::Iptables => Some("iptables"),
        }
    }
}

/// Who connects pods.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Cni {
    /// Nobody: nodes stay `NotReady` until a network is installed.
    #[default]
    None,
    /// The reference plugins `bridge` and `host-local`, with static routes between nodes.
    Reference,
}

/// What was asked of `cluster up`; a cluster keeps it until it is taken down.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// Number of nodes; the control plane is beside them and is none.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_NODES)))]
    pub nodes: u8,
    /// IP families of pods, Services and nodes.
    #[arg(long, value_enum, default_value_t)]
    pub families: Families,
    /// Who implements Services.
    #[arg(long, value_enum, default_value_t)]
    pub kube_proxy: KubeProxy,
    /// Who connects pods.
    #[arg(long, value_enum, default_value_t)]
    pub cni: Cni,
    /// A taint that nodes register with. May be given more than once.
    #[arg(long = "taint", value_name = "KEY=VALUE:EFFECT")]
    #[serde(rename = "taint")]
    pub taints: Vec<Taint>,
    /// One more argument of kube-apiserver, as `--name=value`. May be given more than once.
    #[arg(long = "apiserver-arg", value_name = "--NAME=VALUE", allow_hyphen_values = true)]
    #[serde(rename = "apiserver-arg")]
    pub apiserver_args: Vec<String>,
}

impl fmt::Display for Options {
    /// As it would be typed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use clap::ValueEnum as _;
        let word = |value: Option<clap::builder::PossibleValue>| {
            value.map(|value| value.get_name().to_owned()).unwrap_or_default()
        };
        write!(f, "--nodes {}", self.nodes)?;
        write!(f, " --families {}", word(self.families.to_possible_value()))?;
        write!(f, " --kube-proxy {}", word(self.kube_proxy.to_possible_value()))?;
        write!(f, " --cni {}", word(self.cni.to_possible_value()))?;
        self.taints.iter().try_for_each(|taint| write!(f, " --taint {taint}"))?;
        self.apiserver_args.iter().try_for_each(|argument| write!(f, " --apiserver-arg {argument}"))
    }
}

/// A taint, as kubelet registers it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Taint {
    /// Its key.
    pub key: String,
    /// Its value; may be empty.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

impl fmt::Display for Taint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}:{}", self.key, self.value, self.effect)
    }
}

impl FromStr for Taint {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, effect) = text.rsplit_once(':').ok_or("an effect is missing: KEY=VALUE:EFFECT")?;
        let (key, value) = name.split_once('=').unwrap_or((name, ""));
        if key.is_empty() {
            return Err("a key is missing: KEY=VALUE:EFFECT");
        }
        if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
            return Err("the effect is none of NoSchedule, PreferNoSchedule, NoExecute");
        }
        Ok(Self { key: key.to_owned(), value: value.to_owned(), effect: effect.to_owned() })
    }
}

/// A part of a cluster that has namespaces of its own and a process 1.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Machine {
    /// etcd, API server, controller manager, scheduler.
    ControlPlane,
    /// A node, from 1.
    Node(u8),
}

impl Machine {
    /// The control plane, then the nodes.
    pub(super) fn all(nodes: u8) -> impl Iterator<Item = Self> {
        std::iter::once(Self::ControlPlane).chain((1..=nodes).map(Self::Node))
    }

    /// The machine that is called exactly so.
    pub(super) fn called(name: &str) -> Option<Self> {
        name.parse().ok().filter(|machine: &Self| machine.to_string() == name)
    }

    /// Its address in the underlay.
    pub(super) fn addresses(self, families: Families) -> Vec<IpAddr> {
        let host = match self {
            Self::ControlPlane => 10,
            Self::Node(number) => 10 + u16::from(number),
        };
        UNDERLAY.hosts(families, host)
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ControlPlane => f.write_str("control-plane"),
            Self::Node(number) => write!(f, "n{number}"),
        }
    }
}

impl FromStr for Machine {
    type Err = &'static str;

    /// `control-plane`, `n1` or `1`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "control-plane" {
            return Ok(Self::ControlPlane);
        }
        match text.strip_prefix('n').unwrap_or(text).parse() {
            Ok(number @ 1..=MAX_NODES) => Ok(Self::Node(number)),
            _ => Err("neither control-plane nor a node (1, 2, … or n1, n2, …)"),
        }
    }
}

/// A range of each family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ranges {
    v4: (Ipv4Addr, u8),
    v6: (Ipv6Addr, u8),
}

/// Between nodes.
pub(super) const UNDERLAY: Ranges =
    Ranges { v4: (Ipv4Addr::new(10, 77, 0, 0), 24), v6: (Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0), 64) };
/// Of pods; every node gets a /24 and a /64 of them.
pub(super) const PODS: Ranges = Ranges {
    v4: (Ipv4Addr::new(10, 244, 0, 0), 16),
    v6: (Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 0), 56),
};
/// Of Services.
pub(super) const SERVICES: Ranges = Ranges {
    v4: (Ipv4Addr::new(10, 96, 0, 0), 16),
    v6: (Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0), 112),
};

impl Ranges {
    /// Address number `host` of each family in use.
    pub(super) fn hosts(&self, families: Families, host: u16) -> Vec<IpAddr> {
        let v4 = IpAddr::V4((u32::from(self.v4.0) + u32::from(host)).into());
        // As people write it: the decimal number of IPv4 in IPv6, too.
        let digits =
            u128::from_str_radix(&host.to_string(), 16).expect("decimal digits are hexadecimal ones");
        let v6 = IpAddr::V6((u128::from(self.v6.0) + digits).into());
        chosen(families, v4, v6)
    }

    /// Prefix lengths of the families in use.
    pub(super) fn prefixes(&self, families: Families) -> Vec<u8> {
        chosen(families, self.v4.1, self.v6.1)
    }

    /// The ranges of the families in use, with commas between.
    pub(super) fn list(&self, families: Families) -> String {
        let [v4, v6] = [format!("{}/{}", self.v4.0, self.v4.1), format!("{}/{}", self.v6.0, self.v6.1)];
        chosen(families, v4, v6).join(",")
    }
}

/// Addresses of the cluster's DNS.
pub(super) fn dns(families: Families) -> Vec<IpAddr> {
    SERVICES.hosts(families, 10)
}

fn chosen<T>(families: Families, v4: T, v6: T) -> Vec<T> {
    match families {
        Families::Ipv4 => vec![v4],
        Families::Ipv6 => vec![v6],
        Families::Dual => vec![v4, v6],
    }
}

/// Where the API server answers.
pub(super) fn api_server(families: Families) -> std::net::SocketAddr {
    let address = Machine::ControlPlane.addresses(families).remove(0);
    (address, API_PORT).into()
}

/// Addresses with commas between.
pub(super) fn comma_separated(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn addresses_follow_from_the_number_of_a_node_and_from_the_families() {
        assert_eq!(Machine::Node(1).addresses(Families::Dual), addresses(&["10.77.0.11", "fd77::11"]));
        assert_eq!(Machine::Node(90).addresses(Families::Ipv6), addresses(&["fd77::100"]));
        assert_eq!(Machine::ControlPlane.addresses(Families::Ipv4), addresses(&["10.77.0.10"]));
        assert_eq!(dns(Families::Dual), addresses(&["10.96.0.10", "fd00:96::10"]));
        assert_eq!(api_server(Families::Ipv6).to_string(), "[fd77::10]:6443");
    }

    #[test]
    fn no_two_machines_share_an_address() {
        let mut all: Vec<IpAddr> =
            Machine::all(MAX_NODES).flat_map(|one| one.addresses(Families::Dual)).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 2 * (usize::from(MAX_NODES) + 1));
    }

    #[test]
    fn only_ranges_of_the_families_in_use_are_given_to_kubernetes() {
        assert_eq!(PODS.list(Families::Ipv4), "10.244.0.0/16");
        assert_eq!(PODS.list(Families::Ipv6), "fd00:244::/56");
        assert_eq!(SERVICES.list(Families::Dual), "10.96.0.0/16,fd00:96::/112");
    }

    #[test]
    fn a_taint_is_read_as_kubectl_reads_it() {
        let text = "node.sluice.dev/agent-not-ready=true:NoSchedule";
        assert_eq!(text.parse::<Taint>().unwrap().to_string(), text);
        assert_eq!("a:NoExecute".parse::<Taint>().unwrap().value, "");
        for wrong in ["a=b", "a=b:Never", "=b:NoExecute", ""] {
            assert!(wrong.parse::<Taint>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_machine_is_named_as_kubernetes_names_it_or_by_its_number() {
        for text in ["control-plane", "n1", "n100"] {
            assert_eq!(text.parse::<Machine>().unwrap().to_string(), text);
        }
        assert_eq!("2".parse(), Ok(Machine::Node(2)));
        assert_eq!(Machine::called("n2"), Some(Machine::Node(2)));
        assert_eq!(Machine::called("2"), None);
        for wrong in ["0", "n0", "101", "m1", ""] {
            assert!(wrong.parse::<Machine>().is_err(), "{wrong}");
        }
    }
}
