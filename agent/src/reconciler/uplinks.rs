//! The devices to other nodes: each gets its program, and what was refused is tried again.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::Reconciler;
use crate::{causes::Causes, netlink::Uplink};

/// How long until a refused attach is tried again: at first, and at most after doubling.
const RETRY: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// The uplinks, and which of them have no program yet.
#[derive(Debug, Default)]
pub(super) struct Uplinks {
    wanted: BTreeSet<Uplink>,
    bare: BTreeSet<Uplink>,
    retry: Option<Retry>,
}

#[derive(Debug)]
struct Retry {
    at: Instant,
    delay: Duration,
}

impl Uplinks {
    /// When a refused attach is tried again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry.as_ref().map(|retry| retry.at)
    }

    /// The uplinks, by index.
    pub(super) fn wanted(&self) -> impl Iterator<Item = &Uplink> {
        self.wanted.iter()
    }

    /// An uplink without its program: the first by index.
    pub(super) fn bare(&self) -> Option<&Uplink> {
        self.bare.first()
    }

    /// Plans the next try; the delay doubles from try to try.
    fn postpone(&mut self, delay: Duration) {
        let delay = delay.min(RETRY_MAX);
        self.retry = (!self.bare.is_empty()).then(|| Retry { at: Instant::now() + delay, delay });
    }
}

impl Reconciler {
    pub(super) fn take_uplinks(&mut self, uplinks: Vec<Uplink>) {
        if uplinks.is_empty() {
            warn!("no uplink: pods reach this node only");
        }
        let wanted: BTreeSet<_> = uplinks.into_iter().collect();
        let before = std::mem::replace(&mut self.uplinks.wanted, wanted.clone());
        self.uplinks.bare.retain(|uplink| wanted.contains(uplink));
        for uplink in wanted.difference(&before) {
            if let Err(error) = self.attach_uplink(uplink) {
                error!(device = %uplink.name, error, "uplink has no program: trying again");
            }
        }
        self.uplinks.postpone(RETRY);
        self.published.send_if_modified(|published| {
            let modified = published.uplinks != wanted;
            published.uplinks = wanted;
            modified
        });
    }

    /// Tries again what was refused, when it is time.
    pub(super) fn retry_uplinks(&mut self) {
        let Some(Retry { delay, .. }) = self.uplinks.retry.take_if(|retry| retry.at <= Instant::now()) else {
            return;
        };
        for uplink in self.uplinks.bare.clone() {
            if let Err(error) = self.attach_uplink(&uplink) {
                debug!(device = %uplink.name, error, "uplink still has no program");
            }
        }
        self.uplinks.postpone(delay * 2);
    }

    /// What it does tc's program does too: a device that refuses is told of and goes without.
    fn attach_xdp(&mut self, uplink: &Uplink) {
        match self.datapath.attach_xdp(&uplink.name, uplink.ifindex) {
            Ok(None) => {}
            Ok(Some(mode)) => info!(device = %uplink.name, mode = mode.name(), "uplink runs XDP"),
            Err(error) => {
                warn!(device = %uplink.name, error = %Causes(&error), "uplink runs no XDP: its packets go through tc");
            }
        }
    }

    fn attach_uplink(&mut self, uplink: &Uplink) -> Result<(), String> {
        match self.datapath.attach_uplink(&uplink.name, uplink.ifindex) {
            Ok(()) => {
                info!(device = %uplink.name, ifindex = uplink.ifindex, "programs attached to uplink");
                self.uplinks.bare.remove(uplink);
                self.attach_xdp(uplink);
                Ok(())
            }
            Err(error) => {
                self.uplinks.bare.insert(uplink.clone());
                Err(Causes(&error).to_string())
            }
        }
    }
}
