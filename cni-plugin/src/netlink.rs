//! rtnetlink in batches: several messages in one datagram, one round trip.
//!
//! The kernel executes the messages of a datagram in order before `send` returns, and goes on after one that fails. It
//! answers every failure, every question, and the last message, which alone asks for an acknowledgement.
//!
//! A blocking socket, not an async one: there is nothing to wait for, and each namespace needs its own.

use std::{fmt, io, net::IpAddr};

use ipnetwork::IpNetwork;
use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// What a netlink message does, for errors.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Act {
    /// Make a veth pair.
    CreateVeth {
        /// The host's end.
        host: String,
        /// The pod's end.
        pod: String,
    },
    /// Read a device.
    ReadLink(String),
    /// Change a device.
    ConfigureLink(String),
    /// Remove a device.
    RemoveLink(String),
    /// Set a device up.
    SetUp(String),
    /// Set a device down.
    SetDown(String),
    /// Add an address to a device.
    AddAddress(IpNetwork),
    /// Add a route.
    AddRoute(IpNetwork),
    /// Ask which route leads to an address.
    FindRoute(IpAddr),
    /// Add a permanent neighbour.
    AddNeighbour(IpAddr),
    /// List devices, addresses, routes or neighbours.
    List(&'static str),
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateVeth { host, pod } => write!(f, "creating veth pair {host} (host), {pod} (pod)"),
            Self::ReadLink(name) => write!(f, "reading device {name}"),
            Self::ConfigureLink(name) => write!(f, "configuring device {name}"),
            Self::RemoveLink(name) => write!(f, "removing device {name}"),
            Self::SetUp(name) => write!(f, "setting device {name} up"),
            Self::SetDown(name) => write!(f, "setting device {name} down"),
            Self::AddAddress(address) => write!(f, "adding address {address}"),
            Self::AddRoute(destination) => write!(f, "adding route to {destination}"),
            Self::FindRoute(addr) => write!(f, "asking for the route to {addr}"),
            Self::AddNeighbour(addr) => write!(f, "adding neighbour {addr}"),
            Self::List(what) => write!(f, "listing {what}"),
        }
    }
}

/// Why the kernel did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("opening a netlink socket")]
    Open {
        /// Why not.
        source: io::Error,
    },
    /// The socket broke.
    #[error("talking to the kernel by netlink")]
    Transport {
        /// Why.
        source: io::Error,
    },
    /// What the kernel answered is not understood.
    #[error("decoding an answer of the kernel")]
    Decode {
        /// Why not.
        source: DecodeError,
    },
    /// The kernel said no.
    #[error("{act}")]
    Refused {
        /// What was asked.
        act: Act,
        /// Its errno.
        source: io::Error,
    },
}

impl NetlinkError {
    /// The errno of a refusal.
    pub(crate) fn errno(&self) -> Option<nix::Error> {
        let Self::Refused { source, .. } = self else { return None };
        source.raw_os_error().map(nix::Error::from_raw)
    }
}

/// How a message treats what exists already.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mode {
    /// A question, or a change to what must exist.
    Plain,
    /// Make it; it must not exist.
    Create,
    /// Make it, in place of what exists.
    Replace,
}

/// Messages to send in one datagram.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    messages: Vec<(Act, Mode, RouteNetlinkMessage)>,
}

impl Batch {
    pub(crate) fn push(&mut self, act: Act, mode: Mode, message: RouteNetlinkMessage) {
        self.messages.push((act, mode, message));
    }

    fn bytes(&self, first_sequence: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let last = self.messages.len().saturating_sub(1);
        for (index, (_, mode, message)) in self.messages.iter().enumerate() {
            let mut message = NetlinkMessage::from(message.clone());
            message.header.sequence_number = first_sequence.wrapping_add(index as u32);
            message.header.flags = NLM_F_REQUEST
                | if index == last { NLM_F_ACK } else { 0 }
                | match mode {
                    Mode::Plain => 0,
                    Mode::Create => NLM_F_CREATE | NLM_F_EXCL,
                    Mode::Replace => NLM_F_CREATE | NLM_F_REPLACE,
                };
            append(&mut bytes, message);
        }
        bytes
    }
}

/// A netlink socket in the namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        let open = || {
            let socket = Socket::new(NETLINK_ROUTE)?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // Errors quote only the header of what they refuse; lists obey their filters.
            socket.set_cap_ack(true)?;
            Ok(socket)
        };
        open().map(|socket| Self { socket, sequence: 1 }).map_err(|source| NetlinkError::Open { source })
    }

    /// Executes a batch in one round trip and returns the answers to its questions.
    ///
    /// Messages after a refused one are executed too; the first refusal is reported.
    #[expect(clippy::wildcard_enum_match_arm, reason = "of an open set of payloads, two matter here")]
    pub(crate) fn run(&mut self, batch: &Batch) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let Some(last) = batch.messages.len().checked_sub(1) else { return Ok(Vec::new()) };
        let first_sequence = self.sequence;
        self.send(&batch.bytes(first_sequence), batch.messages.len() as u32)?;
        let (mut answers, mut refusal) = (Vec::new(), None);
        loop {
            for message in self.receive()? {
                let index = message.header.sequence_number.wrapping_sub(first_sequence) as usize;
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Error(error) => {
                        if let (Some(_), Some((act, ..))) = (error.code, batch.messages.get(index)) {
                            refusal.get_or_insert((act.clone(), error.to_io()));
                        }
                        if index == last {
                            return match refusal {
                                None => Ok(answers),
                                Some((act, source)) => Err(NetlinkError::Refused { act, source }),
                            };
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// Lists everything `question` asks for.
    #[expect(clippy::wildcard_enum_match_arm, reason = "of an open set of payloads, three matter here")]
    pub(crate) fn list(
        &mut self,
        what: &'static str,
        question: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let mut message = NetlinkMessage::from(question);
        message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        message.header.sequence_number = self.sequence;
        let mut bytes = Vec::new();
        append(&mut bytes, message);
        self.send(&bytes, 1)?;
        let mut answers = Vec::new();
        loop {
            for message in self.receive()? {
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) => {
                        return Err(NetlinkError::Refused { act: Act::List(what), source: error.to_io() });
                    }
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, bytes: &[u8], messages: u32) -> Result<(), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(messages);
        self.socket.send(bytes, 0).map(drop).map_err(|source| NetlinkError::Transport { source })
    }

    fn receive(&mut self) -> Result<Vec<NetlinkMessage<RouteNetlinkMessage>>, NetlinkError> {
        let received = self.socket.recv_from_full();
        let (bytes, _) = received.map_err(|source| NetlinkError::Transport { source })?;
        let mut rest = bytes.as_slice();
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let message =
                NetlinkMessage::deserialize(rest).map_err(|source| NetlinkError::Decode { source })?;
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
            messages.push(message);
        }
        Ok(messages)
    }
}

fn append(bytes: &mut Vec<u8>, mut message: NetlinkMessage<RouteNetlinkMessage>) {
    message.finalize();
    let start = bytes.len();
    bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut bytes[start..]);
}
