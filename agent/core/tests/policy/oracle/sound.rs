//! What an API server would not take, or what comes from a newer one.

use serde_json::Value;
use sluice_abi::Direction;

use super::{
    array, lists,
    ports::number_of,
    words::{is_selector, range},
};

/// Fields of which each is `null` but one.
pub(super) fn only_one(object: &Value, fields: &[&str]) -> bool {
    fields.iter().filter(|field| !object[**field].is_null()).count() == 1
}

/// Whether a NetworkPolicy could have come from an API server.
pub(super) fn is_sound(spec: &Value) -> bool {
    let types = array(&spec["policyTypes"]);
    let rules = array(&spec["ingress"]).iter().chain(array(&spec["egress"]));
    let is_peer = |peer: &Value| {
        let block = &peer["ipBlock"];
        let excepts = array(&block["except"]);
        match (peer["podSelector"].is_null() && peer["namespaceSelector"].is_null(), block.is_null()) {
            (true, false) => {
                range(&block["cidr"]).is_some() && excepts.iter().all(|text| range(text).is_some())
            }
            (false, true) => is_selector(&peer["podSelector"]) && is_selector(&peer["namespaceSelector"]),
            _ => false,
        }
    };
    let is_port = |port: &Value| {
        let number = port["port"].as_u64();
        number_of(&port["protocol"]) != 0 && number.is_none_or(|number| (1..=65535).contains(&number))
    };
    types.iter().all(|word| word == "Ingress" || word == "Egress")
        && is_selector(&spec["podSelector"])
        && rules.clone().flat_map(|rule| array(&rule["from"]).iter().chain(array(&rule["to"]))).all(is_peer)
        && rules.clone().flat_map(|rule| array(&rule["ports"])).all(is_port)
}

/// Whether a rule of a ClusterNetworkPolicy says what it means in words that are known.
pub(super) fn is_sound_rule(rule: &Value, direction: Direction) -> bool {
    let (_, peers) = lists(direction);
    let peers = array(&rule[peers]);
    let is_pods = |pods: &Value| {
        pods.is_null()
            || !pods["podSelector"].is_null()
                && is_selector(&pods["podSelector"])
                && is_selector(&pods["namespaceSelector"])
    };
    let is_peer = |peer: &Value| {
        only_one(peer, &["namespaces", "pods", "networks"])
            && is_selector(&peer["namespaces"])
            && is_pods(&peer["pods"])
            && (peer["networks"].is_null() || direction == Direction::Egress)
            && array(&peer["networks"]).iter().all(|text| range(text).is_some())
    };
    let is_protocol = |matches: &Value| {
        let fields = ["tcp", "udp", "sctp"];
        only_one(matches, &["tcp", "udp", "sctp", "destinationNamedPort"])
            && fields.iter().all(|field| {
                let of = &matches[*field];
                of.is_null() || only_one(&of["destinationPort"], &["number", "range"])
            })
    };
    let protocols = array(&rule["protocols"]);
    let is_named = protocols.iter().any(|matches| !matches["destinationNamedPort"].is_null());
    let has_networks = peers.iter().any(|peer| !peer["networks"].is_null());
    matches!(rule["action"].as_str(), Some("Accept" | "Deny" | "Pass"))
        && !peers.is_empty()
        && peers.iter().all(is_peer)
        && protocols.iter().all(is_protocol)
        && !(is_named && has_networks)
}
