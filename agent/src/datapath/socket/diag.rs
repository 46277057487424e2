//! Finding and ending connected UDP sockets, by netlink (sock_diag(7)).

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_packet_sock_diag::{
    SockDiagDestroy, SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_UDP},
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use sluice_abi::Addr;

/// Bytes of one answer; the kernel fills at most this much for a reader who has room (`netlink_dump`).
const ROOM: usize = 32 << 10;

/// A socket of the calling thread's network namespace that speaks of the others there.
pub(super) struct Diag(Socket);

/// A connected UDP socket.
#[derive(Clone, Debug)]
pub(super) struct Connected {
    family: u8,
    id: SocketId,
}

impl Connected {
    pub(super) fn cookie(&self) -> u64 {
        u64::from_ne_bytes(self.id.cookie)
    }

    pub(super) fn peer(&self) -> (Addr, u16) {
        (self.id.destination_address.into(), self.id.destination_port)
    }
}

impl Diag {
    pub(super) fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Every connected UDP socket of the namespace.
    pub(super) fn connected(&self) -> io::Result<Vec<Connected>> {
        let mut found = Vec::new();
        for (family, id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
            let request = SockDiagMessage::InetRequest(request(family, id));
            self.ask(request, NLM_F_DUMP, |answer: SockDiagMessage| {
                if let SockDiagMessage::InetResponse(answer) = answer {
                    found.push(Connected { family, id: answer.header.socket_id });
                }
            })?;
        }
        Ok(found)
    }

    /// Ends the socket: what it waits for and its next call fail with `ECONNABORTED`. A socket that is gone stays so.
    ///
    /// # Errors
    /// `EOPNOTSUPP` from a kernel without `CONFIG_INET_DIAG_DESTROY`.
    pub(super) fn destroy(&self, socket: &Connected) -> io::Result<()> {
        let request = SockDiagMessage::InetRequest(request(socket.family, socket.id.clone()));
        match self.ask(SockDiagDestroy::new(request), NLM_F_ACK, |_: SockDiagDestroy| {}) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Sends a request and reads its answers to the end.
    fn ask<T>(&self, request: T, flags: u16, mut answer: impl FnMut(T)) -> io::Result<()>
    where
        T: NetlinkSerializable + NetlinkDeserializable + Into<NetlinkPayload<T>>,
    {
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | flags;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.0.send(&bytes, 0)?;
        let mut room = Vec::with_capacity(ROOM);
        loop {
            room.clear();
            self.0.recv(&mut room, 0)?;
            let mut rest = room.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<T>::deserialize(rest).map_err(io::Error::other)?;
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => answer(inner),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Noop | NetlinkPayload::Overrun(_) => {}
                    _ => {}
                }
                // Messages begin at multiples of four (`NLMSG_ALIGN`).
                let len = (message.header.length as usize).next_multiple_of(4).min(rest.len());
                rest = &rest[len..];
            }
        }
    }
}

fn request(family: u8, socket_id: SocketId) -> InetRequest {
    InetRequest {
        family,
        protocol: IPPROTO_UDP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::ESTABLISHED,
        socket_id,
    }
}
