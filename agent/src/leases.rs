//! What the CNI plugin's leases know of pods that the maps have forgotten: a BPF file system that was mounted anew, or
//! emptied, takes maps, programs and links along, and leaves pods with a wire that nobody judges.
//!
//! Start at [`wired`]. A pod's host-side veth is known by its alias, its names and addresses by the lease of that veth.

use std::{collections::BTreeMap, path::Path};

use sluice_api::endpoint::Registration;
use sluice_cni::{
    attachment::Attachment,
    ipam::store::{self, Held, StoreError},
};

use crate::netlink::Snapshot;

/// A pod's wire as the node shows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wired {
    /// Interface index of its host-side veth.
    pub ifindex: u32,
    /// Name of that veth.
    pub host_ifname: String,
    /// What the plugin registered; `None` when its lease does not tell.
    pub registration: Option<Registration>,
}

/// The wires of the pods of `network`, whose leases are below `folder`.
///
/// # Errors
/// [`StoreError`] when leases cannot be listed.
pub fn wired(folder: &Path, network: &str, seen: &Snapshot) -> Result<Vec<Wired>, StoreError> {
    // As `cni-plugin/src/plumb.rs` marks them.
    let alias = format!("sluice:{network}");
    let links = || seen.links.iter().filter(|(_, link)| link.alias.as_deref() == Some(&*alias));
    if links().next().is_none() {
        return Ok(Vec::new());
    }
    let mut leases: BTreeMap<String, Vec<Held>> = BTreeMap::new();
    for held in store::held(&folder.join(network))? {
        leases.entry(held.host_ifname.clone()).or_default().push(held);
    }
    let wire = |(ifindex, link): (&u32, &crate::netlink::Link)| Wired {
        ifindex: *ifindex,
        host_ifname: link.name.clone(),
        registration: leases.get(&link.name).and_then(|held| registration(*ifindex, held)),
    };
    Ok(links().map(wire).collect())
}

/// What the plugin registered for the veth that holds these leases.
fn registration(ifindex: u32, held: &[Held]) -> Option<Registration> {
    let Held { host_ifname, record, .. } = held.first()?;
    let attachment = Attachment::new(&record.container, &record.ifname)?;
    Some(Registration {
        container: record.container.clone(),
        ifname: record.ifname.clone(),
        host_ifname: host_ifname.clone(),
        host_ifindex: ifindex,
        mac: attachment.pod_mac().map(|byte| format!("{byte:02x}")).join(":"),
        addresses: held.iter().map(|held| held.addr).collect(),
        pod_namespace: record.pod_namespace.clone()?,
        pod_name: record.pod_name.clone()?,
        pod_uid: record.pod_uid.clone(),
    })
}
