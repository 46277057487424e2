//! What goes to stdout: CNI results and errors as JSON, in the form of the version that was asked in.
//!
//! CNI specification 1.1.0, section 5. Before 1.0.0 an address carries its `version`; before 1.1.0 interfaces have no
//! `mtu`.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::request::Version;

/// Result of an ADD; also what CHECK finds in `prevResult`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Success {
    /// Interfaces on both sides.
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    /// Addresses.
    #[serde(default)]
    pub ips: Vec<Ip>,
    /// Routes in the pod.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Name servers, as the configuration has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<Value>,
}

/// An interface in a result.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its MAC address, `aa:bb:cc:dd:ee:ff`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Its MTU in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// `CNI_NETNS` for an interface in the pod, absent for one on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// What another plugin says besides.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// An address in a result.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Ip {
    /// With its prefix length.
    pub address: IpNetwork,
    /// Default gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Index into [`Success::interfaces`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
}

/// A route in a result.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Route {
    /// Destination.
    pub dst: IpNetwork,
    /// Next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// What another plugin says besides.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Success {
    /// Puts what the plugin before has made in front (CNI specification 1.1.0, section 3, "ADD": a plugin that is given a
    /// `prevResult` passes it on, with its own changes). Name servers are the earlier plugin's where we have none.
    #[must_use]
    pub fn behind(self, previous: Self) -> Self {
        let offset = previous.interfaces.len();
        let shifted =
            self.ips.into_iter().map(|ip| Ip { interface: ip.interface.map(|at| at + offset), ..ip });
        Self {
            interfaces: previous.interfaces.into_iter().chain(self.interfaces).collect(),
            ips: previous.ips.into_iter().chain(shifted).collect(),
            routes: previous.routes.into_iter().chain(self.routes).collect(),
            dns: self.dns.or(previous.dns),
        }
    }

    /// The result in the form of `version`.
    pub fn to_json(&self, version: Version) -> Value {
        let mut json = json!(self);
        json["cniVersion"] = version.text().into();
        let list =
            |json: &mut Value, name: &str| json[name].as_array_mut().map(std::mem::take).unwrap_or_default();
        if version < Version::V1_0_0 {
            let mut ips = list(&mut json, "ips");
            for (ip, own) in ips.iter_mut().zip(&self.ips) {
                ip["version"] = if own.address.is_ipv6() { "6" } else { "4" }.into();
            }
            json["ips"] = ips.into();
        }
        if version < Version::V1_1_0 {
            let mut interfaces = list(&mut json, "interfaces");
            for interface in interfaces.iter_mut().filter_map(Value::as_object_mut) {
                interface.remove("mtu");
            }
            json["interfaces"] = interfaces.into();
        }
        json
    }
}

/// The answer to VERSION: the version that was asked in, and all that are spoken.
pub fn versions(asked: &str) -> Value {
    json!({"cniVersion": asked, "supportedVersions": Version::ALL.map(Version::text)})
}

/// An error as the runtime wants it.
///
/// `msg` is the error's own text, `details` the chain of its causes.
pub fn failure(version: Version, code: u32, error: &dyn std::error::Error) -> Value {
    json!({"cniVersion": version.text(), "code": code, "msg": error.to_string(), "details": causes(error)})
}

/// The causes of an error, outermost first, joined by `: `.
pub fn causes(error: &dyn std::error::Error) -> String {
    let chain = std::iter::successors(error.source(), |cause| cause.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// `aa:bb:cc:dd:ee:ff`.
pub(crate) fn mac_text(mac: &[u8]) -> String {
    mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Success {
        let gateway: IpAddr = "169.254.1.1".parse().expect("an address");
        Success {
            interfaces: vec![
                Interface {
                    name: "sl0".into(),
                    mac: Some("02:00:00:00:00:01".into()),
                    mtu: Some(1500),
                    sandbox: None,
                    other: Map::new(),
                },
                Interface {
                    name: "eth0".into(),
                    mac: None,
                    mtu: Some(1500),
                    sandbox: Some("/run/netns/a".into()),
                    other: Map::new(),
                },
            ],
            ips: vec![Ip {
                address: "10.0.0.1/32".parse().expect("an address"),
                gateway: Some(gateway),
                interface: Some(1),
            }],
            routes: vec![Route {
                dst: "0.0.0.0/0".parse().expect("a route"),
                gw: Some(gateway),
                other: Map::new(),
            }],
            dns: Some(json!({"nameservers": ["10.96.0.10"]})),
        }
    }

    #[test]
    fn every_version_gets_its_own_form() {
        for (version, ip_version, mtu) in [
            (Version::V0_3_1, Some("4"), None),
            (Version::V0_4_0, Some("4"), None),
            (Version::V1_0_0, None, None),
            (Version::V1_1_0, None, Some(1500)),
        ] {
            let json = example().to_json(version);
            assert_eq!(json["cniVersion"], version.text());
            assert_eq!(json["ips"][0].get("version").and_then(Value::as_str), ip_version);
            assert_eq!(json["interfaces"][0].get("mtu").and_then(Value::as_u64), mtu);
            assert!(json["interfaces"][0].get("sandbox").is_none());
            assert_eq!(json["ips"][0]["interface"], 1);
            assert_eq!(json["routes"][0], json!({"dst": "0.0.0.0/0", "gw": "169.254.1.1"}));
            assert_eq!(json["dns"]["nameservers"][0], "10.96.0.10");
        }
    }

    #[test]
    fn what_came_before_stays_in_front_and_addresses_keep_their_interfaces() {
        let mut before = Success { dns: Some(json!({"domain": "x"})), ..example() };
        before.routes[0].other.insert("mtu".to_owned(), json!(1400));
        let both = Success { dns: None, ..example() }.behind(before);
        assert_eq!((both.interfaces.len(), both.routes.len()), (4, 2));
        assert_eq!(both.ips.iter().map(|ip| ip.interface).collect::<Vec<_>>(), [Some(1), Some(3)]);
        assert_eq!(both.dns, Some(json!({"domain": "x"})));
        assert_eq!(both.to_json(Version::V1_1_0)["routes"][0]["mtu"], 1400, "nothing of it is lost");
    }

    #[test]
    fn a_result_reads_back_as_it_was_written() {
        let json = example().to_json(Version::V1_1_0);
        let back: Success = serde_json::from_value(json).expect("a result");
        assert_eq!(back, example());
    }
}
