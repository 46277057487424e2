//! The network configuration: JSON as the runtime passes it → [`Network`], checked once.
//!
//! Unknown fields are ignored (CNI specification 1.1.0, section 1, "Plugin configuration objects"). A field of the
//! wrong type or value is an error that names it.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use ipnetwork::IpNetwork;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    attachment::is_name,
    ipam::range::{Range, RangeProblem, RangeSet},
};

/// Where leases live when the configuration does not say.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/cni/sluice";
/// The agent's socket when the configuration does not say.
pub const DEFAULT_SOCKET: &str = "/run/sluice/agent.sock";
/// How long a released address rests when the configuration does not say.
pub const DEFAULT_QUARANTINE: Duration = Duration::from_secs(60);
/// How long ADD waits for the agent when the configuration does not say.
pub const DEFAULT_AGENT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest network name: it is part of a directory's name and of the host-side veth's alias (256 bytes, `IFALIASZ`).
pub const NAME_MAX_BYTES: usize = 200;

/// A checked network configuration.
#[derive(Clone, Debug)]
pub struct Network {
    /// Name of the network: leases and veths carry it.
    pub name: String,
    /// MTU in bytes of both ends; `None`: that of the device of the host's default route.
    pub mtu: Option<u32>,
    /// Where addresses come from.
    pub ipam: Ipam,
    /// The agent to ask; `None`: wires and addresses only.
    pub agent: Option<Agent>,
    /// Name servers for the result, passed on as they are.
    pub dns: Option<Value>,
    /// The result of the plugin before, or of ADD; not decoded, because DEL must not depend on it.
    pub prev_result: Option<Value>,
}

/// Where addresses come from.
#[derive(Clone, Debug)]
pub struct Ipam {
    /// One set per family that pods get, at most one of each.
    pub ranges: Vec<RangeSet>,
    /// Folder of all networks' leases.
    pub data_dir: PathBuf,
    /// How long a released address rests while others are free.
    pub quarantine: Duration,
}

/// How to reach the agent.
#[derive(Clone, Debug)]
pub struct Agent {
    /// Its unix socket.
    pub socket: PathBuf,
    /// How long an ADD may wait for it in all.
    pub timeout: Duration,
}

/// An attachment that is still valid (CNI specification 1.1.0, section 2, "GC").
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct ValidAttachment {
    /// `CNI_CONTAINERID` of its ADD.
    #[serde(rename = "containerID")]
    pub container: String,
    /// `CNI_IFNAME` of its ADD.
    pub ifname: String,
}

/// A field of the network configuration that is missing or wrong.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The JSON value has the wrong type.
    #[error("reading field {field} of the network configuration")]
    Type {
        /// Path of the field.
        field: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The value is not one the field can have.
    #[error("checking field {field} of the network configuration")]
    Value {
        /// Path of the field.
        field: String,
        /// What is wrong.
        source: FieldProblem,
    },
}

/// What is wrong with a field.
#[derive(Debug, thiserror::Error)]
pub enum FieldProblem {
    /// It is required.
    #[error("the field is missing")]
    Missing,
    /// What the plugin before has made stands in the way.
    #[error("the plugin before has made {ifname} in the pod already, which this plugin makes")]
    Interface {
        /// `CNI_IFNAME`.
        ifname: String,
    },
    /// Not a network name (CNI specification 1.1.0, section 1).
    #[error(
        "a name starts with a letter or digit, goes on with letters, digits, '_', '.' and '-', and has at most \
         {NAME_MAX_BYTES} bytes"
    )]
    NotAName,
    /// Not an absolute path.
    #[error("the path is not absolute")]
    NotAbsolute,
    /// Outside of its bounds.
    #[error("{value} is not within {min} to {max}")]
    Bounds {
        /// The value.
        value: u64,
        /// Smallest good value.
        min: u64,
        /// Largest good value.
        max: u64,
    },
    /// A second set of the same family.
    #[error("an earlier set has the same address family; a pod gets one address of each")]
    FamilyTwice,
    /// A range that cannot be leased from.
    #[error(transparent)]
    Range(#[from] RangeProblem),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawNetwork {
    name: Option<String>,
    mtu: Option<u32>,
    ipam: Option<RawIpam>,
    agent: Option<RawAgent>,
    dns: Option<Value>,
    prev_result: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawIpam {
    ranges: Option<Vec<Vec<RawRange>>>,
    data_dir: Option<PathBuf>,
    quarantine_seconds: Option<u32>,
}

/// A subnet as text, or an object that can narrow it.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a subnet, or an object with `subnet`, `rangeStart` and `rangeEnd`")]
enum RawRange {
    Subnet(IpNetwork),
    #[serde(rename_all = "camelCase")]
    Narrowed {
        subnet: IpNetwork,
        range_start: Option<IpAddr>,
        range_end: Option<IpAddr>,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawAgent {
    socket: Option<PathBuf>,
    timeout_seconds: Option<u32>,
}

impl Network {
    /// Decodes and checks a network configuration.
    ///
    /// # Errors
    /// [`ConfigError`] names the first wrong field.
    pub fn parse(json: &Value) -> Result<Self, ConfigError> {
        let raw: RawNetwork = decode("", json)?;
        let name = raw.name.ok_or_else(|| wrong("name", FieldProblem::Missing))?;
        if name.len() > NAME_MAX_BYTES || !is_name(&name) {
            return Err(wrong("name", FieldProblem::NotAName));
        }
        let ipam = Ipam::check(raw.ipam.ok_or_else(|| wrong("ipam", FieldProblem::Missing))?)?;
        // 68: RFC 791, section 3.2; 1280: RFC 8200, section 5.
        let min = if ipam.ranges.iter().any(RangeSet::is_v6) { 1280 } else { 68 };
        let mtu = raw.mtu.filter(|mtu| *mtu != 0);
        if let Some(value) = mtu {
            within("mtu", value, min, 65_535)?;
        }
        let agent = raw.agent.map(Agent::check).transpose()?;
        let dns = raw.dns.filter(|dns| !dns.is_null());
        let prev_result = raw.prev_result.filter(|result| !result.is_null());
        Ok(Self { name, mtu, ipam, agent, dns, prev_result })
    }
}

impl Ipam {
    fn check(raw: RawIpam) -> Result<Self, ConfigError> {
        let sets = raw.ranges.ok_or_else(|| wrong("ipam.ranges", FieldProblem::Missing))?;
        let mut ranges: Vec<RangeSet> = Vec::new();
        for (index, set) in sets.into_iter().enumerate() {
            let field = || format!("ipam.ranges[{index}]");
            let set = set.into_iter().map(RawRange::check).collect::<Result<_, _>>();
            let set = set.and_then(RangeSet::new).map_err(|problem| wrong(&field(), problem.into()))?;
            if ranges.iter().any(|earlier| earlier.is_v6() == set.is_v6()) {
                return Err(wrong(&field(), FieldProblem::FamilyTwice));
            }
            ranges.push(set);
        }
        if ranges.is_empty() {
            return Err(wrong("ipam.ranges", FieldProblem::Missing));
        }
        let data_dir = raw.data_dir.unwrap_or_else(|| DEFAULT_DATA_DIR.into());
        if !data_dir.is_absolute() {
            return Err(wrong("ipam.dataDir", FieldProblem::NotAbsolute));
        }
        let quarantine = raw.quarantine_seconds.map_or(DEFAULT_QUARANTINE, |s| Duration::from_secs(s.into()));
        Ok(Self { ranges, data_dir, quarantine })
    }
}

impl RawRange {
    fn check(self) -> Result<Range, RangeProblem> {
        match self {
            Self::Subnet(subnet) => Range::new(subnet, None, None),
            Self::Narrowed { subnet, range_start, range_end } => Range::new(subnet, range_start, range_end),
        }
    }
}

impl Agent {
    fn check(raw: RawAgent) -> Result<Self, ConfigError> {
        let socket = raw.socket.unwrap_or_else(|| DEFAULT_SOCKET.into());
        if !socket.is_absolute() {
            return Err(wrong("agent.socket", FieldProblem::NotAbsolute));
        }
        let timeout = match raw.timeout_seconds {
            None => DEFAULT_AGENT_TIMEOUT,
            Some(seconds) => {
                within("agent.timeoutSeconds", seconds, 1, 600)?;
                Duration::from_secs(seconds.into())
            }
        };
        Ok(Self { socket, timeout })
    }
}

/// Decodes a part of the configuration; errors name the field below `at`.
///
/// # Errors
/// [`ConfigError::Type`].
pub(crate) fn decode<T: DeserializeOwned>(at: &str, json: &Value) -> Result<T, ConfigError> {
    serde_path_to_error::deserialize(json).map_err(|error| {
        let below = error.path().to_string();
        let field = match (at, below.as_str()) {
            ("", _) => below,
            (_, ".") => at.to_owned(),
            _ => format!("{at}.{below}"),
        };
        ConfigError::Type { field, source: error.into_inner() }
    })
}

pub(crate) fn wrong(field: &str, source: FieldProblem) -> ConfigError {
    ConfigError::Value { field: field.to_owned(), source }
}

fn within(field: &str, value: u32, min: u32, max: u32) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(wrong(field, FieldProblem::Bounds { value: value.into(), min: min.into(), max: max.into() }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problem(json: &Value) -> String {
        Network::parse(json).expect_err("a wrong configuration").to_string()
    }

    #[test]
    fn defaults_are_filled_in_and_unknown_fields_ignored() {
        let network = Network::parse(&json!({
            "cniVersion": "1.1.0", "name": "pods", "type": "sluice-cni", "mtu": 0, "surprise": {"a": 1},
            "ipam": {"ranges": [["10.244.1.0/24"], [{"subnet": "fd00:10:244:1::/64"}]], "type": "ignored"},
            "agent": {}, "capabilities": {"portMappings": true},
        }))
        .expect("a good configuration");
        assert_eq!(network.mtu, None);
        assert_eq!(network.ipam.ranges.len(), 2);
        assert_eq!(network.ipam.quarantine, DEFAULT_QUARANTINE);
        assert_eq!(network.agent.expect("an agent").timeout, DEFAULT_AGENT_TIMEOUT);
    }

    #[test]
    fn the_wrong_field_is_named() {
        let good = json!({"name": "n", "ipam": {"ranges": [["10.0.0.0/24"]]}});
        for (pointer, value, field) in [
            ("/name", json!("../n"), "name"),
            ("/name", json!(7), "name"),
            ("/mtu", json!(60), "mtu"),
            ("/mtu", json!("big"), "mtu"),
            ("/ipam", json!([]), "ipam"),
            ("/ipam/ranges", json!([]), "ipam.ranges"),
            ("/ipam/ranges", json!([["10.0.0.0/24"], ["10.1.0.0/24"]]), "ipam.ranges[1]"),
            ("/ipam/ranges", json!([["10.0.0.0/33"]]), "ipam.ranges[0][0]"),
            ("/ipam/ranges", json!([["10.0.0.0/24", "fd00::/64"]]), "ipam.ranges[0]"),
            ("/ipam/dataDir", json!("var"), "ipam.dataDir"),
            ("/ipam/quarantineSeconds", json!(-1), "ipam.quarantineSeconds"),
            ("/agent", json!({"timeoutSeconds": 0}), "agent.timeoutSeconds"),
            ("/agent", json!({"socket": "x"}), "agent.socket"),
        ] {
            let mut json = good.clone();
            let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
            json.pointer_mut(parent).expect("a parent")[key] = value.clone();
            let message = problem(&json);
            assert!(message.contains(&format!("field {field} of")), "{pointer} = {value}: {message}");
        }
    }

    #[test]
    fn ipv6_needs_its_minimum_mtu() {
        let json = json!({"name": "n", "mtu": 1200, "ipam": {"ranges": [["fd00::/64"]]}});
        assert!(problem(&json).contains("mtu"));
    }
}
