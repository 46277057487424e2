//! STATUS: could an ADD be served now?

use crate::{agent::Agent, config::Network, error::StatusError, ipam::Ipam};

pub(super) fn run(network: &Network) -> Result<(), StatusError> {
    if let Some(config) = &network.agent {
        let ready = Agent::connect(config).and_then(|mut agent| agent.ready());
        ready.map_err(|source| StatusError::Agent { source })?;
    }
    Ok(Ipam::new(&network.name, &network.ipam).check_room()?)
}
