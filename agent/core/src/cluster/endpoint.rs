//! Interfaces of this node's pods.

use sluice_abi::{Addr, EndpointId, EndpointMeta, Text};

use crate::object::NamespacedName;

/// The interface of a pod of this node, as the CNI plugin wired it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LocalEndpoint {
    /// Its number.
    pub id: EndpointId,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's uid, where the runtime passed it.
    pub uid: Option<String>,
    /// The container id of the CNI call.
    pub container: String,
    /// The interface's name in the pod.
    pub ifname: String,
    /// The name of the host-side veth.
    pub host_ifname: String,
    /// The leased addresses; [`Addr::UNSPECIFIED`] where there is none.
    pub addrs: [Addr; 2],
    /// Interface index of the host-side veth.
    pub ifindex: u32,
    /// MAC address of the pod's own interface.
    pub mac: [u8; 6],
}

impl LocalEndpoint {
    /// The pod's name.
    pub fn pod_name(&self) -> NamespacedName {
        NamespacedName::new(&*self.namespace, &*self.pod)
    }

    /// Whether it is an interface of the pod of that name.
    pub fn is_of(&self, pod: &NamespacedName) -> bool {
        self.namespace == pod.namespace && self.pod == pod.name
    }

    /// The endpoint as the pinned maps remember it.
    pub fn meta(&self) -> EndpointMeta {
        EndpointMeta {
            namespace: Text::new(&self.namespace),
            pod: Text::new(&self.pod),
            uid: Text::new(self.uid.as_deref().unwrap_or_default()),
            container: Text::new(&self.container),
            ifname: Text::new(&self.ifname),
            host_ifname: Text::new(&self.host_ifname),
            addrs: self.addrs,
            ifindex: self.ifindex,
            mac: self.mac,
            reserved: [0; 6],
        }
    }

    /// The endpoint that the pinned maps remember.
    pub fn from_meta(id: EndpointId, meta: &EndpointMeta) -> Self {
        let uid = meta.uid.as_str();
        Self {
            id,
            namespace: meta.namespace.as_str().to_owned(),
            pod: meta.pod.as_str().to_owned(),
            uid: (!uid.is_empty()).then(|| uid.to_owned()),
            container: meta.container.as_str().to_owned(),
            ifname: meta.ifname.as_str().to_owned(),
            host_ifname: meta.host_ifname.as_str().to_owned(),
            addrs: meta.addrs,
            ifindex: meta.ifindex,
            mac: meta.mac,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pinned_maps_remember_an_endpoint_whole() {
        for uid in [None, Some("b7c1".to_owned())] {
            let endpoint = LocalEndpoint {
                id: EndpointId(7),
                namespace: "shop".to_owned(),
                pod: "db-0".to_owned(),
                uid,
                container: "5f3c".to_owned(),
                ifname: "eth0".to_owned(),
                host_ifname: "slc5f3c".to_owned(),
                addrs: [Addr::v4([10, 0, 0, 7]), Addr::UNSPECIFIED],
                ifindex: 12,
                mac: [2, 0, 0, 0, 0, 7],
            };
            assert_eq!(LocalEndpoint::from_meta(endpoint.id, &endpoint.meta()), endpoint);
        }
    }
}
