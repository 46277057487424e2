//! DEL and GC: remove what an attachment left, whatever of it is still there.
//!
//! **Invariant: continue past errors.** Every step is tried; errors are collected. The agent is told last, if it is
//! there, and its silence is no error: it finds out by itself that the link is gone.

use std::collections::HashSet;

use crate::{
    agent,
    attachment::Attachment,
    config::{Network, ValidAttachment},
    error::RemoveError,
    ipam::Ipam,
    netlink::Netlink,
    plumb,
    result::causes,
};

/// Removes the veth first, so that nothing sends from the address any more, then tells the agent, then releases the
/// lease.
pub(super) fn del(network: &Network, attachment: &Attachment) -> Result<(), RemoveError> {
    let mut errors = Vec::new();
    let removed = Netlink::open().map_err(RemoveError::from);
    let removed = removed.and_then(|mut host| Ok(plumb::remove(&mut host, &attachment.host_ifname())?));
    errors.extend(removed.err());
    tell_agent(network, attachment, "DEL");
    errors.extend(Ipam::new(&network.name, &network.ipam).release(attachment).err().map(RemoveError::from));
    RemoveError::collect(errors).map_or(Ok(()), Err)
}

/// Removes veths and leases of this network that belong to no valid attachment.
pub(super) fn gc(network: &Network, valid: &[ValidAttachment]) -> Result<(), RemoveError> {
    let known = |valid: &ValidAttachment| Attachment::new(&valid.container, &valid.ifname);
    let stay: HashSet<String> = valid.iter().filter_map(known).map(|known| known.host_ifname()).collect();
    let mut errors = remove_veths(&network.name, &stay).err().into_iter().flatten().collect::<Vec<_>>();
    match Ipam::new(&network.name, &network.ipam).retain(|owner| stay.contains(owner)) {
        Ok(gone) => gone.iter().for_each(|attachment| tell_agent(network, attachment, "GC")),
        Err(error) => errors.push(error.into()),
    }
    RemoveError::collect(errors).map_or(Ok(()), Err)
}

fn remove_veths(name: &str, stay: &HashSet<String>) -> Result<(), Vec<RemoveError>> {
    let mut host = Netlink::open().map_err(|error| vec![error.into()])?;
    let owned = plumb::owned(&mut host, &plumb::alias_of(name)).map_err(|error| vec![error.into()])?;
    let stale = owned.iter().filter(|veth| !stay.contains(*veth));
    let errors: Vec<_> =
        stale.filter_map(|veth| plumb::remove(&mut host, veth).err().map(RemoveError::from)).collect();
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn tell_agent(network: &Network, attachment: &Attachment, verb: &str) {
    let Some(config) = &network.agent else { return };
    if let Err(error) = agent::deregister(config, attachment) {
        eprintln!("{verb} {attachment}: telling the agent: {error}: {}", causes(&error));
    }
}
