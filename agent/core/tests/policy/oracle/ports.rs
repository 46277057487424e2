//! Ports, as the API's text has them.

use serde_json::Value;

use super::{Corners, Question, array, hit};

pub(super) fn number_of(protocol: &Value) -> u8 {
    match protocol.as_str() {
        None | Some("TCP") => 6,
        Some("UDP") => 17,
        Some("SCTP") => 132,
        _ => 0,
    }
}

/// The number that a name has on the pod that receives.
pub(super) fn named(name: &str, protocol: u8, receiver: Option<&Value>) -> Option<u64> {
    let containers = receiver.map_or(&[][..], |pod| array(&pod["spec"]["containers"]));
    let mut ports = containers.iter().flat_map(|container| array(&container["ports"]));
    let port = ports.find(|port| port["name"] == name && number_of(&port["protocol"]) == protocol)?;
    port["containerPort"].as_u64()
}

pub(super) fn is_port(port: &Value, question: &Question<'_>, corners: &mut Corners) -> bool {
    if number_of(&port["protocol"]) != question.protocol {
        return false;
    }
    let wanted = u64::from(question.port);
    match (&port["port"], port["endPort"].as_u64()) {
        (Value::Null, _) => hit(corners, "every port of a protocol", true),
        (Value::String(name), _) => {
            named(name, question.protocol, question.receiver) == Some(wanted)
                && hit(corners, "a named port", true)
        }
        (first, None) => first.as_u64() == Some(wanted) && hit(corners, "a port", true),
        (first, Some(end)) => {
            first.as_u64().is_some_and(|first| (first..=end).contains(&wanted))
                && hit(corners, "a range of ports", true)
        }
    }
}

pub(super) fn is_protocol(matches: &Value, question: &Question<'_>, corners: &mut Corners) -> bool {
    if let Some(name) = matches["destinationNamedPort"].as_str() {
        return matches!(question.protocol, 6 | 17 | 132)
            && named(name, question.protocol, question.receiver) == Some(u64::from(question.port))
            && hit(corners, "destinationNamedPort", true);
    }
    let wanted = u64::from(question.port);
    [("tcp", 6), ("udp", 17), ("sctp", 132)].into_iter().any(|(field, protocol)| {
        let port = &matches[field]["destinationPort"];
        let range = &port["range"];
        let is_in = port["number"].as_u64() == Some(wanted)
            || (range["start"].as_u64()..=range["end"].as_u64()).contains(&Some(wanted)) && !range.is_null();
        protocol == question.protocol && is_in && hit(corners, "destinationPort", true)
    })
}
