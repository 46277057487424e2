//! STATUS: could an ADD be served now?
//!
//! An agent that restarts is away for some seconds. The runtime would call the node's network not ready, and the control
//! plane would take every pod of the node out of its Services, though all of them go on: so the answer stays yes for
//! [`GRACE`] after the agent was last found ready. An ADD meanwhile waits for the agent, or fails with code 11 and is tried again.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};

use crate::{
    agent::Agent,
    config::{self, Network},
    error::StatusError,
    ipam::Ipam,
    result::causes,
};

/// How long an agent may be away: an upgrade that fetches an image, not one that fails again and again.
const GRACE: Duration = Duration::from_secs(120);

pub(super) fn run(network: &Network) -> Result<(), StatusError> {
    if let Some(config) = &network.agent {
        ask(config)?;
    }
    Ok(Ipam::new(&network.name, &network.ipam).check_room()?)
}

fn ask(config: &config::Agent) -> Result<(), StatusError> {
    let seen = Seen::beside(&config.socket);
    let ready = Agent::connect(config).and_then(|mut agent| agent.ready());
    let written = match ready {
        Ok(()) => seen.write(now()),
        Err(source) if seen.age(now()).is_some_and(|age| age < GRACE) => {
            eprintln!("STATUS: the agent is away since less than {GRACE:?}: {source}: {}", causes(&source));
            Ok(())
        }
        Err(source) => return Err(StatusError::Agent { source }),
    };
    // Without it the next answer is only less patient.
    if let Err(error) = written {
        eprintln!("STATUS: noting that the agent is ready: {error}");
    }
    Ok(())
}

/// When the agent was last found ready: a file in the folder of its socket, which no boot outlives.
struct Seen(PathBuf);

impl Seen {
    fn beside(socket: &Path) -> Self {
        Self(socket.with_extension("seen"))
    }

    fn write(&self, now: Duration) -> io::Result<()> {
        let temporary = self.0.with_extension("seen.new");
        fs::write(&temporary, now.as_secs().to_string())?;
        fs::rename(&temporary, &self.0)
    }

    /// `None` when it was never found ready, or in another boot.
    fn age(&self, now: Duration) -> Option<Duration> {
        let seen = fs::read_to_string(&self.0).ok()?.parse().ok().map(Duration::from_secs)?;
        now.checked_sub(seen)
    }
}

/// Time since boot, sleep included: no wall-clock step can lengthen or shorten the grace.
fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).expect("CLOCK_BOOTTIME is there since Linux 2.6.39").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_may_be_away_for_a_while_after_it_was_ready() {
        let folder = tempfile::tempdir().expect("a folder");
        let seen = Seen::beside(&folder.path().join("agent.sock"));
        let at = Duration::from_secs(1000);
        assert_eq!(seen.age(at), None, "never ready");
        seen.write(at).expect("written");
        assert_eq!(seen.age(at + GRACE), Some(GRACE));
        assert_eq!(seen.age(Duration::from_secs(5)), None, "of an earlier boot");
    }
}
