//! Routes to other nodes' pod ranges, for native routing, and an unreachable route for this node's own.
//!
//! Start at [`Routes::sync`]: it reads the kernel's routes, writes what is missing or different, and deletes what is
//! no longer wanted, in this order.
//!
//! **Invariant.** Only routes of protocol [`PROTOCOL`] are ever changed or deleted; every route written has it. So a
//! restart and cleanup find exactly ours, and no memory of them is needed.
//!
//! The unreachable route answers for pod addresses that no pod has: without it such packets would leave by the
//! default route and come back. A pod's own /32 or /128 is more specific.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures::TryStreamExt;
use ipnetwork::IpNetwork;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};

/// `rtm_protocol` of every route Sluice makes (`linux/rtnetlink.h`: values from 5 on are the administrator's to give;
/// 83 is named by neither the kernel nor iproute2).
pub const PROTOCOL: RouteProtocol = RouteProtocol::Other(83);

/// The routes there should be.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Wanted {
    /// Pod range of another node → that node's address of the same family.
    pub remote: BTreeMap<IpNetwork, IpAddr>,
    /// Pod ranges of this node.
    pub own: BTreeSet<IpNetwork>,
}

/// Where packets to a range go.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Hop {
    /// Nowhere; the sender is told.
    Unreachable,
    /// To a neighbour.
    Via {
        /// The other node's address.
        gateway: IpAddr,
        /// The device that reaches it.
        ifindex: u32,
    },
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable => f.write_str("unreachable"),
            Self::Via { gateway, ifindex } => write!(f, "via {gateway} dev #{ifindex}"),
        }
    }
}

/// What a [`Routes::sync`] did.
#[derive(Debug, Default)]
pub struct Report {
    /// Routes written.
    pub written: usize,
    /// Routes deleted.
    pub deleted: usize,
    /// Ranges without a route, and why.
    pub skipped: Vec<RouteError>,
}

/// Why a route is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// The kernel did not list its routes.
    #[error("listing routes")]
    List {
        /// Why not.
        source: rtnetlink::Error,
    },
    /// The kernel knows no way to the other node.
    #[error("finding the way to node address {gateway}, for {range}")]
    Lookup {
        /// The pod range.
        range: IpNetwork,
        /// The other node.
        gateway: IpAddr,
        /// Why not.
        source: rtnetlink::Error,
    },
    /// Native routing needs nodes that share a link.
    #[error("routing {range} to node address {gateway}: it is not on one link with this node")]
    NotOnLink {
        /// The pod range.
        range: IpNetwork,
        /// The other node.
        gateway: IpAddr,
    },
    /// The kernel refused a route.
    #[error("writing route {range} {hop}")]
    Write {
        /// The pod range.
        range: IpNetwork,
        /// Where it should go.
        hop: Hop,
        /// Why not.
        source: rtnetlink::Error,
    },
    /// The kernel kept a route.
    #[error("deleting route {range}")]
    Delete {
        /// The pod range.
        range: IpNetwork,
        /// Why not.
        source: rtnetlink::Error,
    },
}

type Found = Vec<(IpNetwork, Option<Hop>, RouteMessage)>;

/// Writes and deletes the routes.
#[derive(Clone, Debug)]
pub struct Routes {
    handle: Handle,
}

impl Routes {
    /// Routes of the network namespace `handle`'s socket is in.
    pub fn new(handle: Handle) -> Self {
        Self { handle }
    }

    /// Makes the kernel's routes those in `wanted`; what cannot be made is left out and reported.
    ///
    /// # Errors
    /// [`RouteError::List`]: nothing was changed.
    pub async fn sync(&self, wanted: &Wanted) -> Result<Report, RouteError> {
        let found = self.ours().await?;
        let mut report = Report::default();
        let mut hops: BTreeMap<IpNetwork, Hop> =
            wanted.own.iter().map(|range| (*range, Hop::Unreachable)).collect();
        for (range, gateway) in &wanted.remote {
            match self.hop(*range, *gateway).await {
                Ok(hop) => drop(hops.insert(*range, hop)),
                Err(error) => report.skipped.push(error),
            }
        }
        for (range, hop) in &hops {
            if !found.iter().any(|(found, has, _)| found == range && has.as_ref() == Some(hop)) {
                match self.write(*range, *hop).await {
                    Ok(()) => report.written += 1,
                    Err(error) => report.skipped.push(error),
                }
            }
        }
        // A route whose successor could not be made stays: it may still lead there.
        let keeps = |range: &IpNetwork| report.skipped.iter().any(|error| error.range() == Some(*range));
        let stale: Vec<_> = found
            .into_iter()
            .filter(|(range, hop, _)| hops.get(range) != hop.as_ref() && !keeps(range))
            .collect();
        for (range, _, message) in stale {
            match self.delete(range, message).await {
                Ok(()) => report.deleted += 1,
                Err(error) => report.skipped.push(error),
            }
        }
        Ok(report)
    }

    /// Deletes every route of ours; the number of them.
    ///
    /// # Errors
    /// [`RouteError::List`], or the first [`RouteError::Delete`] after all were tried.
    pub async fn remove_all(&self) -> Result<usize, RouteError> {
        let report = self.sync(&Wanted::default()).await?;
        report.skipped.into_iter().next().map_or(Ok(report.deleted), Err)
    }

    async fn ours(&self) -> Result<Found, RouteError> {
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().protocol(PROTOCOL).build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().protocol(PROTOCOL).build();
        let mut found = Found::new();
        for family in [v4, v6] {
            let mut routes = std::pin::pin!(self.handle.route().get(family).execute());
            while let Some(route) = routes.try_next().await.map_err(|source| RouteError::List { source })? {
                let is_ours =
                    route.header.protocol == PROTOCOL && route.header.table == RouteHeader::RT_TABLE_MAIN;
                if let (true, Some(range)) = (is_ours, range_of(&route)) {
                    found.push((range, hop_of(&route), route));
                }
            }
        }
        Ok(found)
    }

    /// The device that reaches a node, which must be a neighbour.
    async fn hop(&self, range: IpNetwork, gateway: IpAddr) -> Result<Hop, RouteError> {
        let question = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(gateway, if gateway.is_ipv4() { 32 } else { 128 })
            .expect("a whole address")
            .build();
        let mut answers = std::pin::pin!(self.handle.route().get(question).execute());
        let answer =
            answers.try_next().await.map_err(|source| RouteError::Lookup { range, gateway, source })?;
        answer
            .filter(|route| route.header.kind == RouteType::Unicast && gateway_of(route).is_none())
            .and_then(|route| device_of(&route))
            .map(|ifindex| Hop::Via { gateway, ifindex })
            .ok_or(RouteError::NotOnLink { range, gateway })
    }

    async fn write(&self, range: IpNetwork, hop: Hop) -> Result<(), RouteError> {
        let builder = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(range.network(), range.prefix())
            .expect("the prefix length of a network")
            .protocol(PROTOCOL);
        let message = match hop {
            Hop::Unreachable => builder.kind(RouteType::Unreachable).build(),
            Hop::Via { gateway, ifindex } => builder
                .gateway(gateway)
                .expect("a node of the range's family")
                .output_interface(ifindex)
                .build(),
        };
        self.handle.route().add(message).replace().execute().await.map_err(|source| RouteError::Write {
            range,
            hop,
            source,
        })
    }

    async fn delete(&self, range: IpNetwork, message: RouteMessage) -> Result<(), RouteError> {
        match self.handle.route().del(message).execute().await {
            // Replaced in place, or lost with its device.
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ESRCH => Ok(()),
            other => other.map_err(|source| RouteError::Delete { range, source }),
        }
    }
}

impl RouteError {
    fn range(&self) -> Option<IpNetwork> {
        match self {
            Self::List { .. } => None,
            Self::Lookup { range, .. }
            | Self::NotOnLink { range, .. }
            | Self::Write { range, .. }
            | Self::Delete { range, .. } => Some(*range),
        }
    }
}

fn range_of(route: &RouteMessage) -> Option<IpNetwork> {
    let bits = route.header.destination_prefix_length;
    route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Destination(address) = attribute {
            IpNetwork::new(ip(address)?, bits).ok()
        } else {
            None
        }
    })
}

fn hop_of(route: &RouteMessage) -> Option<Hop> {
    if route.header.kind == RouteType::Unreachable {
        return Some(Hop::Unreachable);
    }
    Some(Hop::Via { gateway: gateway_of(route)?, ifindex: device_of(route)? })
}

fn gateway_of(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Gateway(address) = attribute { ip(address) } else { None }
    })
}

fn device_of(route: &RouteMessage) -> Option<u32> {
    route
        .attributes
        .iter()
        .find_map(|a| if let RouteAttribute::Oif(ifindex) = a { Some(*ifindex) } else { None })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(v4) = address {
        Some((*v4).into())
    } else if let RouteAddress::Inet6(v6) = address {
        Some((*v6).into())
    } else {
        None
    }
}
