//! What the CNI plugin registers, in our own words and back.
//!
//! **Invariant.** Whatever passes here survives the pinned maps whole: no name is cut, no address changes family.

use std::net::IpAddr;

use sluice_abi::{Addr, EndpointId};
use sluice_api::endpoint::Registration;
use sluice_core::cluster::LocalEndpoint;

/// What is wrong with a registration.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// An empty name, or one longer than the pinned maps hold.
    #[error("{field} {value:?}: empty, or too long to be remembered")]
    Name {
        /// Which field.
        field: &'static str,
        /// What was given.
        value: String,
    },
    /// Not a MAC address.
    #[error("mac {mac:?}: not six pairs of hexadecimal digits with colons between")]
    Mac {
        /// What was given.
        mac: String,
    },
    /// A pod has one address of either family, or one of each.
    #[error("addresses {addresses:?}: must be one, or one of each family")]
    Addresses {
        /// What was given.
        addresses: Vec<IpAddr>,
    },
    /// Interface indexes are positive.
    #[error("hostIfindex 0: not an interface index")]
    Ifindex,
}

/// The endpoint that `registration` describes, as number `id`.
///
/// # Errors
/// Any [`RegistrationError`].
pub fn endpoint(id: EndpointId, registration: &Registration) -> Result<LocalEndpoint, RegistrationError> {
    if registration.host_ifindex == 0 {
        return Err(RegistrationError::Ifindex);
    }
    let endpoint = LocalEndpoint {
        id,
        namespace: registration.pod_namespace.clone(),
        pod: registration.pod_name.clone(),
        uid: registration.pod_uid.clone().filter(|uid| !uid.is_empty()),
        container: registration.container.clone(),
        ifname: registration.ifname.clone(),
        host_ifname: registration.host_ifname.clone(),
        addrs: addresses(&registration.addresses)?,
        ifindex: registration.host_ifindex,
        mac: parse_mac(&registration.mac)?,
    };
    remembered_whole(&endpoint)?;
    Ok(endpoint)
}

/// What the plugin registered, as far as it can be told from the endpoint.
pub fn registration(endpoint: &LocalEndpoint) -> Registration {
    Registration {
        container: endpoint.container.clone(),
        ifname: endpoint.ifname.clone(),
        host_ifname: endpoint.host_ifname.clone(),
        host_ifindex: endpoint.ifindex,
        mac: endpoint.mac.map(|byte| format!("{byte:02x}")).join(":"),
        addresses: endpoint
            .addrs
            .iter()
            .filter(|a| **a != Addr::UNSPECIFIED)
            .map(|a| IpAddr::from(*a))
            .collect(),
        pod_namespace: endpoint.namespace.clone(),
        pod_name: endpoint.pod.clone(),
        pod_uid: endpoint.uid.clone(),
    }
}

fn addresses(given: &[IpAddr]) -> Result<[Addr; 2], RegistrationError> {
    let wrong = || RegistrationError::Addresses { addresses: given.to_vec() };
    // A mapped IPv6 address would become IPv4, and a reserved one could not be told from none.
    let keeps_family = |ip: &IpAddr| Addr::from(*ip).is_v4() == ip.is_ipv4() && !ip.is_unspecified();
    if !given.iter().all(keeps_family) {
        return Err(wrong());
    }
    match *given {
        [one] => Ok([one.into(), Addr::UNSPECIFIED]),
        [one, two] if one.is_ipv4() != two.is_ipv4() => Ok([one.into(), two.into()]),
        _ => Err(wrong()),
    }
}

fn parse_mac(text: &str) -> Result<[u8; 6], RegistrationError> {
    let parse = || {
        let mut mac = [0; 6];
        let mut pairs = text.split(':');
        for byte in &mut mac {
            let pair =
                pairs.next().filter(|pair| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()))?;
            *byte = u8::from_str_radix(pair, 16).ok()?;
        }
        pairs.next().is_none().then_some(mac)
    };
    parse().ok_or_else(|| RegistrationError::Mac { mac: text.to_owned() })
}

fn remembered_whole(endpoint: &LocalEndpoint) -> Result<(), RegistrationError> {
    let kept = LocalEndpoint::from_meta(endpoint.id, &endpoint.meta());
    let uid = endpoint.uid.as_deref().unwrap_or("-");
    for (field, given, kept) in [
        ("podNamespace", endpoint.namespace.as_str(), kept.namespace.as_str()),
        ("podName", &endpoint.pod, &kept.pod),
        ("podUid", uid, kept.uid.as_deref().unwrap_or("-")),
        ("container", &endpoint.container, &kept.container),
        ("ifname", &endpoint.ifname, &kept.ifname),
        ("hostIfname", &endpoint.host_ifname, &kept.host_ifname),
    ] {
        if given.is_empty() || given != kept {
            return Err(RegistrationError::Name { field, value: given.to_owned() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Registration {
        Registration {
            container: "5f3c".to_owned(),
            ifname: "eth0".to_owned(),
            host_ifname: "sl5f3c".to_owned(),
            host_ifindex: 7,
            mac: "02:00:00:00:00:0a".to_owned(),
            addresses: vec!["10.0.0.7".parse().expect("v4"), "fd00::7".parse().expect("v6")],
            pod_namespace: "shop".to_owned(),
            pod_name: "db-0".to_owned(),
            pod_uid: Some("b7c1".to_owned()),
        }
    }

    #[test]
    fn a_registration_can_be_told_again_from_its_endpoint() {
        for registration in [good(), Registration { pod_uid: None, ..good() }] {
            let endpoint = endpoint(EndpointId(3), &registration).expect("a good one");
            assert_eq!(super::registration(&endpoint), registration);
        }
    }

    #[test]
    fn what_would_not_survive_the_maps_is_refused() {
        let v4 = || "10.0.0.7".parse().expect("v4");
        let bad = [
            Registration { pod_name: String::new(), ..good() },
            Registration { pod_name: "x".repeat(257), ..good() },
            Registration { pod_uid: Some("x".repeat(41)), ..good() },
            Registration { container: "a\0b".to_owned(), ..good() },
            Registration { ifname: "seventeen-letters".to_owned(), ..good() },
            Registration { host_ifindex: 0, ..good() },
            Registration { mac: "02:00:00:00:00".to_owned(), ..good() },
            Registration { mac: "02:00:00:00:00:0a:0b".to_owned(), ..good() },
            Registration { mac: "02:00:00:00:00:+a".to_owned(), ..good() },
            Registration { addresses: vec![], ..good() },
            Registration { addresses: vec![v4(), v4()], ..good() },
            Registration { addresses: vec!["::ffff:10.0.0.7".parse().expect("mapped")], ..good() },
            Registration { addresses: vec!["::".parse().expect("none")], ..good() },
        ];
        for registration in bad {
            assert!(endpoint(EndpointId(3), &registration).is_err(), "{registration:?}");
        }
    }
}
