//! Connected UDP sockets whose backend is gone, or that were connected when there was none.
//!
//! Their packets go where the socket is connected to, past every hook: the only way to another backend is to end the
//! connection, after which the process connects again, as it would after an ICMP error. TCP is left to itself: its peer
//! says that it is gone, or is still there to finish. What is not connected is led anew at its next datagram.
//!
//! **Invariant: a socket that is led is known until it is closed.** `LED_SOCKETS` forgets none to make room.

use std::{
    collections::HashMap,
    io,
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use sluice_abi::{BackendId, FrontendScope, SocketConnection, SocketPeer, protocol};
use sluice_maps::{Maps, MapsError};
use tracing::{debug, info, warn};

use super::diag::Diag;
use crate::{
    causes::Causes,
    datapath::members::{self, Members},
};

/// A socket is led a moment before it is connected: what is not found connected is looked for again after these.
const SECOND_LOOKS: [Duration; 3] =
    [Duration::from_millis(10), Duration::from_millis(50), Duration::from_millis(200)];

/// Why sockets were not released.
#[derive(Debug, thiserror::Error)]
enum ReleaseError {
    #[error(transparent)]
    Maps(#[from] MapsError),
    #[error("asking the kernel for connected sockets")]
    Diag(#[source] io::Error),
}

/// What came of one look.
#[derive(Clone, Copy, Debug, Default)]
struct Released {
    /// Sockets ended.
    ended: usize,
    /// Sockets to end that are not connected to where they were led: not yet, or no more.
    absent: usize,
}

/// Releases what is to be released, now and after every change, until nobody can tell of changes any more.
pub(super) fn run(maps: &Maps, changes: &Receiver<()>) {
    let mut is_able = true;
    loop {
        let mut looks = SECOND_LOOKS.iter();
        while look(maps, &mut is_able).absent > 0
            && let Some(pause) = looks.next()
        {
            match changes.recv_timeout(*pause) {
                Ok(()) => looks = SECOND_LOOKS.iter(),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        if changes.recv().is_err() {
            return;
        }
    }
}

/// One look, of which the log tells.
fn look(maps: &Maps, is_able: &mut bool) -> Released {
    let released = release(maps, is_able).unwrap_or_else(|error| {
        warn!(error = %Causes(&error), "UDP sockets of gone backends stay");
        Released::default()
    });
    if released.ended > 0 {
        info!(count = released.ended, "UDP sockets of gone backends ended");
    }
    released
}

fn release(maps: &Maps, is_able: &mut bool) -> Result<Released, ReleaseError> {
    let mut stale = stale(maps)?;
    let mut released = Released::default();
    if stale.is_empty() || !*is_able {
        return Ok(released);
    }
    let diag = Diag::new().map_err(ReleaseError::Diag)?;
    for socket in diag.connected().map_err(ReleaseError::Diag)? {
        let Some(SocketConnection { peer, addr, port, .. }) = stale.get(&socket.cookie()).copied() else {
            continue;
        };
        if socket.peer() != (addr, u16::from_be_bytes(port)) {
            continue;
        }
        stale.remove(&socket.cookie());
        match diag.destroy(&socket) {
            Ok(()) => {
                debug!(service = %peer.addr, backend = %addr, "UDP socket ended");
                forget(maps, socket.cookie(), &peer)?;
                released.ended += 1;
            }
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                *is_able = false;
                warn!(
                    "kernel ends no sockets (CONFIG_INET_DIAG_DESTROY): connected UDP sockets stay on gone backends"
                );
                return Ok(released);
            }
            Err(error) => {
                warn!(service = %peer.addr, backend = %addr, %error, "UDP socket stays on a gone backend")
            }
        }
    }
    released.absent = stale.len();
    Ok(released)
}

/// Forgets a socket that was ended, unless its process has connected it again by now.
fn forget(maps: &Maps, cookie: u64, ended: &SocketPeer) -> Result<(), MapsError> {
    if maps.led_sockets.get(&cookie)?.is_some_and(|found| found.peer == *ended) {
        maps.led_sockets.delete(&cookie)?;
    }
    Ok(())
}

/// Connections whose backend is gone, or has left their Service for others; and those without one where there is one now.
/// Sockets that have been connected elsewhere since are among them.
fn stale(maps: &Maps) -> Result<HashMap<u64, SocketConnection>, MapsError> {
    let mut members = Members::new(maps);
    let mut stale = HashMap::new();
    for (cookie, connection) in maps.led_sockets.entries()? {
        if is_stale(maps, &mut members, &connection.peer)? {
            stale.insert(cookie, connection);
        }
    }
    Ok(stale)
}

fn is_stale(maps: &Maps, members: &mut Members<'_>, peer: &SocketPeer) -> Result<bool, MapsError> {
    let key = members::frontend(peer.addr, peer.port, protocol::UDP, FrontendScope::Internal);
    if peer.backend == BackendId::NONE {
        // A Service that is gone leaves an ordinary address.
        return Ok(members.of(key)?.is_none_or(|members| !members.is_empty()));
    }
    Ok(maps.backends.get(&peer.backend)?.is_none() || members.has_left(key, peer.backend)?)
}
