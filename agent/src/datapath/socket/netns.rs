//! Which sockets are the node's: those of the agent's own network namespace, by its cookie.

use std::{
    io,
    net::{Ipv4Addr, UdpSocket},
    os::fd::{AsRawFd, RawFd},
};

use aya::programs::{CgroupAttachMode, CgroupSockAddr};
use sluice_abi::{Addr, SocketPeerKey};
use sluice_maps::Maps;

use super::{CALLS, SocketError, load};
use crate::datapath::cgroup::Cgroup;

/// Any port: no packet is sent.
const PORT: u16 = 9;

/// The cookie of the calling thread's network namespace; none where the kernel does not tell it (before Linux 5.14).
pub(super) fn own_cookie() -> io::Result<Option<u64>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    match option(socket.as_raw_fd(), libc::SO_NETNS_COOKIE) {
        Ok(cookie) => Ok(Some(cookie)),
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The same by way of a program, which sees a socket of this thread and notes its namespace under its cookie. The agent
/// must be in the cgroup.
pub(super) fn learned_cookie(maps: &Maps, cgroup: &Cgroup) -> Result<u64, SocketError> {
    let call = CALLS.into_iter().find(|call| call.name == "sock_connect4").expect("there is such a call");
    let mut object = load::teller(maps)?;
    let program = load::loaded(&mut object, call)?;
    let refused =
        |source| SocketError::Attach { name: call.name, path: cgroup.path.clone(), source: Box::new(source) };
    let program: &mut CgroupSockAddr = program.try_into().map_err(refused)?;
    // Attached until `object` is dropped.
    program.attach(&cgroup.folder, CgroupAttachMode::Single).map_err(refused)?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(SocketError::Netns)?;
    let cookie = option(socket.as_raw_fd(), libc::SO_COOKIE).map_err(SocketError::Netns)?;
    let addr = Addr::HAIRPIN_V4;
    // There may be no route: the program has seen it all the same.
    let _ = socket.connect((Ipv4Addr::from(addr.v4_octets()), PORT));
    let key = SocketPeerKey { cookie, addr, port: PORT.to_be_bytes(), reserved: [0; 6] };
    let told = maps.socket_peers.get(&key)?;
    maps.socket_peers.delete(&key)?;
    let outside = || io::Error::other("this process is not in the cgroup, so its programs do not see it");
    let told = told.ok_or_else(|| SocketError::Netns(outside()))?;
    let (cookie, _) = told.addr.0.split_first_chunk().expect("16 bytes");
    Ok(u64::from_ne_bytes(*cookie))
}

/// Reads a socket option of eight bytes.
fn option(socket: RawFd, name: i32) -> io::Result<u64> {
    let mut value = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: room for as many bytes as it says.
    let result =
        unsafe { libc::getsockopt(socket, libc::SOL_SOCKET, name, (&raw mut value).cast(), &raw mut len) };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}
