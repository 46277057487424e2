//! Connected UDP sockets whose backend is gone, or that were connected when there was none.
//!
//! Their packets go where the socket is connected to, past every hook: the only way to another backend is to end the
//! connection, after which the process connects again, as it would after an ICMP error. TCP is left to itself: its peer
//! says that it is gone, or is still there to finish. What is not connected is led anew at its next datagram.

use std::{collections::BTreeMap, io, sync::mpsc::Receiver};

use sluice_abi::{BackendId, FrontendKey, FrontendScope, SocketPeer, SocketPeerKey, protocol};
use sluice_maps::{Maps, MapsError};
use tracing::{debug, info, warn};

use super::diag::Diag;
use crate::causes::Causes;

/// Why sockets were not released.
#[derive(Debug, thiserror::Error)]
enum ReleaseError {
    #[error(transparent)]
    Maps(#[from] MapsError),
    #[error("asking the kernel for connected sockets")]
    Diag(#[source] io::Error),
}

/// Releases what is to be released, now and after every change, until nobody can tell of changes any more.
pub(super) fn run(maps: &Maps, changes: &Receiver<()>) {
    let mut is_able = true;
    loop {
        match release(maps, &mut is_able) {
            Ok(0) => {}
            Ok(count) => info!(count, "UDP sockets of gone backends ended"),
            Err(error) => warn!(error = %Causes(&error), "UDP sockets of gone backends stay"),
        }
        if changes.recv().is_err() {
            return;
        }
    }
}

/// The number of sockets ended.
fn release(maps: &Maps, is_able: &mut bool) -> Result<usize, ReleaseError> {
    let stale = stale(maps)?;
    if stale.is_empty() || !*is_able {
        return Ok(0);
    }
    let diag = Diag::new().map_err(ReleaseError::Diag)?;
    let mut count = 0;
    for socket in diag.connected().map_err(ReleaseError::Diag)? {
        let (addr, port) = socket.peer();
        let key = SocketPeerKey { cookie: socket.cookie(), addr, port: port.to_be_bytes(), reserved: [0; 6] };
        let Some(peer) = stale.get(&key) else { continue };
        match diag.destroy(&socket) {
            Ok(()) => {
                debug!(service = %peer.addr, backend = %addr, "UDP socket ended");
                maps.socket_peers.delete(&key)?;
                count += 1;
            }
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                *is_able = false;
                warn!(
                    "kernel ends no sockets (CONFIG_INET_DIAG_DESTROY): connected UDP sockets stay on gone backends"
                );
                break;
            }
            Err(error) => {
                warn!(service = %peer.addr, backend = %addr, %error, "UDP socket stays on a gone backend")
            }
        }
    }
    Ok(count)
}

/// Entries whose backend is gone, and those without one where there is one now. Sockets that are closed, not connected,
/// or TCP are among them: nothing tells them apart here.
fn stale(maps: &Maps) -> Result<BTreeMap<SocketPeerKey, SocketPeer>, MapsError> {
    let mut stale = maps.socket_peers.entries()?;
    let mut error = None;
    stale.retain(|(_, peer)| {
        is_stale(maps, peer).unwrap_or_else(|cause| {
            error.get_or_insert(cause);
            false
        })
    });
    error.map_or_else(|| Ok(stale.into_iter().collect()), Err)
}

fn is_stale(maps: &Maps, peer: &SocketPeer) -> Result<bool, MapsError> {
    if peer.backend != BackendId::NONE {
        return Ok(maps.backends.get(&peer.backend)?.is_none());
    }
    let node = if peer.addr.is_v4() { FrontendKey::NODE_V4 } else { FrontendKey::NODE_V6 };
    for addr in [peer.addr, node] {
        let scope = FrontendScope::Internal as u8;
        let key = FrontendKey { addr, port: peer.port, protocol: protocol::UDP, scope };
        if let Some(frontend) = maps.frontends.get(&key)? {
            return Ok(frontend.count != 0);
        }
    }
    Ok(true) // a Service that is gone: the address is an ordinary one
}
