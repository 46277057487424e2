//! What Services need from the node's network, and what load balancers may ask about them.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use sluice_abi::Addr;
use sluice_core::{cluster::Change, desired::DesiredEndpoint};

use super::Reconciler;

impl Reconciler {
    /// The addresses on the uplinks: where the node's object names none, translated flows take the first of them.
    pub(super) fn tell_uplink_addresses(&mut self) {
        let uplinks = self.uplinks.wanted().filter_map(|uplink| self.addresses.get(&uplink.ifindex));
        let addresses: Vec<Addr> = uplinks.flatten().copied().collect();
        self.change(Change::UplinkAddresses(addresses));
    }

    /// Publishes which Services have endpoints here, and where that may be asked.
    pub(super) fn publish_health_checks(&mut self) {
        let desired = self.compiler.desired();
        let takes = |endpoint: &DesiredEndpoint| match endpoint {
            DesiredEndpoint::Host { takes_node_ports } => Some(*takes_node_ports),
            DesiredEndpoint::Pod { .. } => None,
        };
        let own = || desired.endpoints.iter().filter_map(|(addr, endpoint)| Some((*addr, takes(endpoint)?)));
        // As long as every address takes NodePorts, those to come are meant as well.
        let is_everywhere = own().all(|(_, takes)| takes);
        let addresses: BTreeSet<IpAddr> =
            own().filter(|(_, takes)| *takes).map(|(addr, _)| addr.into()).collect();
        let addresses = (!is_everywhere).then_some(addresses);
        self.published.send_if_modified(|published| {
            let known = &mut published.health_checks;
            let modified = *known.services != desired.health_checks || known.addresses != addresses;
            if modified {
                known.services = Arc::new(desired.health_checks.clone());
                known.addresses = addresses;
            }
            modified
        });
    }
}
