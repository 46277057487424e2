//! What is configured about Services and about pods' way out of the cluster.

use std::{net::IpAddr, num::ParseIntError, ops::RangeInclusive};

use clap::{ArgAction, Args};
use ipnetwork::{IpNetwork, IpNetworkError};
use sluice_abi::Prefix;
use sluice_core::{
    compile::{NodePortAddresses, Settings},
    maglev,
};

/// Options as typed.
#[derive(Debug, Args)]
pub struct ServiceOptions {
    /// Whether Services are served wholly, so that no kube-proxy is needed; with false, beside a kube-proxy, only what pods send
    /// to cluster addresses.
    #[arg(
        long,
        global = true,
        env = "SLUICE_KUBE_PROXY_REPLACEMENT",
        default_value_t = true,
        action = ArgAction::Set,
        value_name = "BOOL"
    )]
    pub kube_proxy_replacement: bool,
    /// Whether what pods send out of the cluster takes the node's address.
    #[arg(
        long,
        global = true,
        env = "SLUICE_MASQUERADE",
        default_value_t = true,
        action = ArgAction::Set,
        value_name = "BOOL"
    )]
    pub masquerade: bool,
    /// Range that sees pods' own addresses, besides the cluster's nodes and pods; may be given more than once, or with commas.
    #[arg(
        long = "non-masquerade-cidr",
        global = true,
        env = "SLUICE_NON_MASQUERADE_CIDR",
        value_delimiter = ',',
        value_name = "CIDR"
    )]
    pub non_masquerade_cidrs: Vec<String>,
    /// Which of the node's addresses take NodePorts: ranges, or `primary` for the node's address of each family
    /// [default: all but loopback and link-local].
    #[arg(
        long,
        global = true,
        env = "SLUICE_NODEPORT_ADDRESSES",
        value_delimiter = ',',
        value_name = "CIDR|primary"
    )]
    pub nodeport_addresses: Vec<String>,
    /// Size of the tables by which every node leads a client from outside to the same backend: a prime from 251 to 16381, the
    /// same on all nodes; 0 lets chance decide.
    #[arg(
        long,
        global = true,
        env = "SLUICE_MAGLEV_TABLE_SIZE",
        default_value_t = maglev::DEFAULT_SIZE,
        value_name = "PLACES"
    )]
    pub maglev_table_size: u32,
    /// Ports of the node that translated flows take as their source; the node's own sockets are kept off them.
    #[arg(
        long,
        global = true,
        env = "SLUICE_SNAT_PORTS",
        default_value = "61000-65535",
        value_name = "FIRST-LAST"
    )]
    pub snat_ports: String,
}

/// What is true about Services.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Services {
    /// What decides which entries the maps have.
    pub settings: Settings,
    /// Ports of the node that translated flows take as their source.
    pub snat_ports: RangeInclusive<u16>,
}

/// Fewest ports: a flow tries some at random, and they are to be free mostly.
const FEWEST_PORTS: u16 = 256;

/// What is wrong with the options.
#[derive(Debug, thiserror::Error)]
pub enum ServiceOptionError {
    /// No address range.
    #[error("{option} {typed:?}")]
    Range {
        /// Which option.
        option: &'static str,
        /// What was typed.
        typed: String,
        /// What is wrong.
        source: IpNetworkError,
    },
    /// It would be taken for IPv4.
    #[error("{option} {typed:?}: an IPv4 address mapped into IPv6 is none of the two")]
    Mapped {
        /// Which option.
        option: &'static str,
        /// What was typed.
        typed: String,
    },
    /// `primary` stands alone.
    #[error("--nodeport-addresses: either \"primary\" or ranges")]
    PrimaryAndRanges,
    /// Not a size that a table can have.
    #[error("--maglev-table-size {typed}: must be 0, or a prime from 251 to 16381")]
    TableSize {
        /// What was typed.
        typed: u32,
    },
    /// Not a range of ports.
    #[error(
        "--snat-ports {typed:?}: must be FIRST-LAST, from 1024 to 65535, and hold {FEWEST_PORTS} ports at least"
    )]
    Ports {
        /// What was typed.
        typed: String,
    },
    /// No number.
    #[error("--snat-ports {typed:?}")]
    PortNumber {
        /// What was typed.
        typed: String,
        /// What is wrong.
        source: ParseIntError,
    },
}

impl TryFrom<ServiceOptions> for Services {
    type Error = ServiceOptionError;

    fn try_from(options: ServiceOptions) -> Result<Self, ServiceOptionError> {
        let size = options.maglev_table_size;
        if size != 0 && !maglev::is_size(size) {
            return Err(ServiceOptionError::TableSize { typed: size });
        }
        let ranges = |option, typed: &[String]| -> Result<_, ServiceOptionError> {
            typed.iter().map(|typed| range(option, typed)).collect()
        };
        let node_port_addresses = match &*options.nodeport_addresses {
            [word] if word == "primary" => NodePortAddresses::Primary,
            words if words.iter().any(|word| word == "primary") => {
                return Err(ServiceOptionError::PrimaryAndRanges);
            }
            words => NodePortAddresses::Ranges(ranges("--nodeport-addresses", words)?),
        };
        Ok(Self {
            settings: Settings {
                replaces_kube_proxy: options.kube_proxy_replacement,
                masquerade: options.masquerade,
                no_masquerade: ranges("--non-masquerade-cidr", &options.non_masquerade_cidrs)?,
                node_port_addresses,
                maglev_table_size: size,
            },
            snat_ports: ports(&options.snat_ports)?,
        })
    }
}

/// A range, or a single address; bits behind the length are cleared, as kube-proxy does.
fn range(option: &'static str, typed: &str) -> Result<Prefix, ServiceOptionError> {
    let network: IpNetwork = typed.parse().map_err(|source| ServiceOptionError::Range {
        option,
        typed: typed.to_owned(),
        source,
    })?;
    prefix(network).ok_or_else(|| ServiceOptionError::Mapped { option, typed: typed.to_owned() })
}

/// A network as the maps have it; `None` when its IPv6 addresses would be taken for IPv4.
pub fn prefix(network: IpNetwork) -> Option<Prefix> {
    let bits = if network.is_ipv4() { 96 + network.prefix() } else { network.prefix() };
    let prefix = Prefix::new(network.ip().into(), bits);
    let is_mapped = matches!(network.ip(), IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) && bits >= 96;
    (!is_mapped).then_some(prefix)
}

fn ports(typed: &str) -> Result<RangeInclusive<u16>, ServiceOptionError> {
    let wrong = || ServiceOptionError::Ports { typed: typed.to_owned() };
    let (first, last) = typed.split_once('-').ok_or_else(wrong)?;
    let number = |text: &str| {
        let number = text.trim().parse::<u16>();
        number.map_err(|source| ServiceOptionError::PortNumber { typed: typed.to_owned(), source })
    };
    let (first, last) = (number(first)?, number(last)?);
    if first < 1024 || last < first || last - first < FEWEST_PORTS - 1 {
        return Err(wrong());
    }
    Ok(first..=last)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: ServiceOptions,
    }

    fn parse(line: &str) -> Result<Services, ServiceOptionError> {
        let words = std::iter::once("sluice-agent").chain(line.split_whitespace());
        Services::try_from(Line::try_parse_from(words).expect("words clap knows").options)
    }

    #[test]
    fn without_options_everything_is_served() {
        let services = parse("").expect("defaults");
        assert_eq!(services, Services { settings: Settings::default(), snat_ports: 61_000..=65_535 });
    }

    #[test]
    fn options_mean_what_they_say() {
        let line = "--kube-proxy-replacement false --masquerade=false --non-masquerade-cidr 10.0.0.0/8,fd00::/8 \
                    --non-masquerade-cidr 192.0.2.1 --nodeport-addresses 192.0.2.77/24 --maglev-table-size 2039 \
                    --snat-ports 50000-50999";
        let services = parse(line).expect(line);
        let settings = &services.settings;
        assert!(!settings.replaces_kube_proxy && !settings.masquerade);
        let words: Vec<_> = settings.no_masquerade.iter().map(ToString::to_string).collect();
        assert_eq!(words, ["10.0.0.0/8", "192.0.2.1/32", "fd00::/8"]);
        let range = prefix("192.0.2.0/24".parse().expect("a range")).expect("plain");
        assert_eq!(settings.node_port_addresses, NodePortAddresses::Ranges(BTreeSet::from([range])));
        assert_eq!((settings.maglev_table_size, services.snat_ports), (2039, 50_000..=50_999));
        let primary = parse("--nodeport-addresses primary").expect("primary").settings.node_port_addresses;
        assert_eq!(primary, NodePortAddresses::Primary);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_option() {
        for (line, want) in [
            ("--non-masquerade-cidr 10.0.0.0/33", "--non-masquerade-cidr \"10.0.0.0/33\""),
            (
                "--nodeport-addresses ::ffff:10.0.0.0/112",
                "--nodeport-addresses \"::ffff:10.0.0.0/112\": an IPv4",
            ),
            ("--nodeport-addresses primary,10.0.0.0/8", "either \"primary\" or ranges"),
            ("--maglev-table-size 1024", "--maglev-table-size 1024: must be"),
            ("--snat-ports 61000", "--snat-ports \"61000\": must be"),
            ("--snat-ports 61000-61100", "--snat-ports \"61000-61100\": must be"),
            ("--snat-ports 80-65535", "--snat-ports \"80-65535\": must be"),
            ("--snat-ports 61000-70000", "--snat-ports \"61000-70000\""),
        ] {
            let error = parse(line).expect_err(line).to_string();
            assert!(error.contains(want), "{line}: {error}");
        }
    }
}
