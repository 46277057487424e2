//! What the kernel says about this node's network: links that go, the node's own addresses, the uplinks.
//!
//! Start at [`Monitor::start`]; it subscribes first and reads everything after, so nothing is missed between.
//!
//! **Invariant.** Reading only; what is changed by netlink is changed in [`crate::routes`].

use std::collections::{BTreeMap, BTreeSet};

use futures::{FutureExt, StreamExt, TryStreamExt, channel::mpsc::UnboundedReceiver};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkMessage},
    route::{RouteAttribute, RouteHeader, RouteMessage, RouteType},
};
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder,
    packet_core::{NetlinkMessage, NetlinkPayload},
    sys::SocketAddr,
};
use sluice_abi::Addr;
use tokio::sync::mpsc;

/// A device to other nodes.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Uplink {
    /// Its interface index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
}

/// A link.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its alias, which says whose it is.
    pub alias: Option<String>,
    /// Whether it is up with a carrier.
    pub is_up: bool,
}

/// Addresses by interface index, without those that never leave a link or the node (loopback, IPv6 link-local).
pub type Addresses = BTreeMap<u32, BTreeSet<Addr>>;

/// What changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// A link is gone from this namespace.
    LinkGone(u32),
    /// The addresses, all of them.
    Addresses(Addresses),
    /// The uplinks, all of them.
    Uplinks(Vec<Uplink>),
    /// Routes may have been lost: an uplink went up or down, or an address changed.
    Disturbed,
}

/// What the kernel said at one moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Snapshot {
    /// Every link by interface index.
    pub links: BTreeMap<u32, Link>,
    /// The node's addresses.
    pub addresses: Addresses,
    /// The devices to other nodes.
    pub uplinks: Vec<Uplink>,
}

/// Why the kernel could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No netlink socket.
    #[error("opening a netlink socket")]
    Open {
        /// Why not.
        source: std::io::Error,
    },
    /// A dump was refused.
    #[error("listing {what}")]
    List {
        /// What was to be listed.
        what: &'static str,
        /// Why not.
        source: rtnetlink::Error,
    },
    /// The socket's task ended.
    #[error("listening to netlink: the socket was closed")]
    Closed,
}

type Messages = UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

/// Follows the kernel's announcements.
#[derive(Debug)]
pub struct Monitor {
    handle: Handle,
    messages: Messages,
    wanted_uplinks: Vec<String>,
    seen: Snapshot,
}

/// What a batch of messages may have changed.
#[derive(Debug, Default)]
struct Touched {
    gone: BTreeSet<u32>,
    addresses: bool,
    uplinks: bool,
    disturbed: bool,
    overrun: bool,
}

/// Opens a netlink socket in the thread's network namespace; its task runs on the current runtime.
///
/// # Errors
/// [`NetlinkError::Open`].
pub fn connect() -> Result<Handle, NetlinkError> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|source| NetlinkError::Open { source })?;
    tokio::spawn(connection);
    Ok(handle)
}

impl Monitor {
    /// Subscribes and reads the present state; `uplinks` names the devices to other nodes, none means those of
    /// the default routes.
    ///
    /// # Errors
    /// [`NetlinkError::Open`] or [`NetlinkError::List`].
    pub async fn start(uplinks: Vec<String>) -> Result<(Self, Snapshot), NetlinkError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        let (connection, handle, messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(|source| NetlinkError::Open { source })?;
        tokio::spawn(connection);
        let seen = read(&handle, &uplinks).await?;
        Ok((Self { handle, messages, wanted_uplinks: uplinks, seen: seen.clone() }, seen))
    }

    /// Sends what changes until nobody listens.
    ///
    /// # Errors
    /// Any [`NetlinkError`]: the caller starts anew.
    pub async fn run(mut self, events: mpsc::Sender<Event>) -> Result<(), NetlinkError> {
        loop {
            let Some((message, _)) = self.messages.next().await else { return Err(NetlinkError::Closed) };
            let mut touched = Touched::default();
            self.note(message, &mut touched);
            while let Some(Some((message, _))) = self.messages.next().now_or_never() {
                self.note(message, &mut touched);
            }
            for event in self.settle(touched).await? {
                if events.send(event).await.is_err() {
                    return Ok(());
                }
            }
        }
    }

    fn note(&mut self, message: NetlinkMessage<RouteNetlinkMessage>, touched: &mut Touched) {
        let message = match message.payload {
            NetlinkPayload::InnerMessage(message) => message,
            NetlinkPayload::Overrun(_) => {
                touched.overrun = true;
                return;
            }
            NetlinkPayload::Done(_) | NetlinkPayload::Error(_) | NetlinkPayload::Noop | _ => return,
        };
        if let RouteNetlinkMessage::NewLink(link) = &message {
            self.note_link(link, touched);
        } else if let RouteNetlinkMessage::DelLink(link) = &message {
            // A device that leaves a bridge is announced as a deletion of the bridge's family.
            if link.header.interface_family != AddressFamily::Bridge {
                let ifindex = link.header.index;
                self.seen.links.remove(&ifindex);
                touched.gone.insert(ifindex);
                touched.addresses |= self.seen.addresses.remove(&ifindex).is_some();
                touched.uplinks |= self.is_uplink(ifindex);
            }
        } else if let RouteNetlinkMessage::NewAddress(address) = &message {
            if let Some((ifindex, addr)) = node_address(address) {
                touched.addresses |= self.seen.addresses.entry(ifindex).or_default().insert(addr);
            }
        } else if let RouteNetlinkMessage::DelAddress(address) = &message {
            if let Some((ifindex, addr)) = node_address(address) {
                let addrs = self.seen.addresses.entry(ifindex).or_default();
                touched.addresses |= addrs.remove(&addr);
            }
        } else if let RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) = &message {
            touched.uplinks |= self.wanted_uplinks.is_empty() && is_default(route);
        }
    }

    fn note_link(&mut self, link: &LinkMessage, touched: &mut Touched) {
        let (ifindex, link) = read_link(link);
        let is_wanted = self.wanted_uplinks.contains(&link.name);
        let before = self.seen.links.insert(ifindex, link.clone());
        touched.disturbed |=
            self.is_uplink(ifindex) && before.as_ref().map(|before| before.is_up) != Some(link.is_up);
        touched.uplinks |= is_wanted && before.is_none_or(|before| before.name != link.name);
    }

    fn is_uplink(&self, ifindex: u32) -> bool {
        self.seen.uplinks.iter().any(|uplink| uplink.ifindex == ifindex)
    }

    /// What to tell after a batch; after an overrun everything is read again.
    async fn settle(&mut self, mut touched: Touched) -> Result<Vec<Event>, NetlinkError> {
        if touched.overrun {
            let now = read(&self.handle, &self.wanted_uplinks).await?;
            touched.gone.extend(self.seen.links.keys().filter(|ifindex| !now.links.contains_key(ifindex)));
            (touched.addresses, touched.disturbed) = (true, true);
            touched.uplinks = now.uplinks != self.seen.uplinks;
            self.seen = now;
        } else if touched.uplinks {
            let now = uplinks(&self.handle, &self.wanted_uplinks).await?;
            touched.uplinks = now != self.seen.uplinks;
            self.seen.uplinks = now;
        }
        let mut events: Vec<Event> = touched.gone.into_iter().map(Event::LinkGone).collect();
        if touched.addresses {
            self.seen.addresses.retain(|_, addrs| !addrs.is_empty());
            events.push(Event::Addresses(self.seen.addresses.clone()));
        }
        if touched.uplinks {
            events.push(Event::Uplinks(self.seen.uplinks.clone()));
        }
        if touched.addresses || touched.uplinks || touched.disturbed {
            events.push(Event::Disturbed);
        }
        Ok(events)
    }
}

async fn read(handle: &Handle, wanted_uplinks: &[String]) -> Result<Snapshot, NetlinkError> {
    let list = |what| move |source| NetlinkError::List { what, source };
    let links: Vec<LinkMessage> = handle.link().get().execute().try_collect().await.map_err(list("links"))?;
    let addresses: Vec<AddressMessage> =
        handle.address().get().execute().try_collect().await.map_err(list("addresses"))?;
    let mut by_link = Addresses::new();
    for (ifindex, addr) in addresses.iter().filter_map(node_address) {
        by_link.entry(ifindex).or_default().insert(addr);
    }
    Ok(Snapshot {
        links: links.iter().map(read_link).collect(),
        addresses: by_link,
        uplinks: uplinks(handle, wanted_uplinks).await?,
    })
}

/// The devices named in `wanted` that exist, or those of the default routes.
async fn uplinks(handle: &Handle, wanted: &[String]) -> Result<Vec<Uplink>, NetlinkError> {
    let mut defaults = BTreeSet::new();
    if wanted.is_empty() {
        let v4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new().build();
        for family in [v4, v6] {
            let mut routes = std::pin::pin!(handle.route().get(family).execute());
            while let Some(route) =
                routes.try_next().await.map_err(|source| NetlinkError::List { what: "routes", source })?
            {
                if is_default(&route) {
                    defaults.extend(devices(&route));
                }
            }
        }
    }
    let links: Vec<LinkMessage> = (handle.link().get().execute().try_collect().await)
        .map_err(|source| NetlinkError::List { what: "links", source })?;
    let mut uplinks: Vec<Uplink> = links
        .iter()
        .map(read_link)
        .map(|(ifindex, link)| Uplink { ifindex, name: link.name })
        .filter(|link| defaults.contains(&link.ifindex) || wanted.contains(&link.name))
        .collect();
    uplinks.sort();
    Ok(uplinks)
}

fn is_default(route: &RouteMessage) -> bool {
    let header = &route.header;
    header.destination_prefix_length == 0
        && header.table == RouteHeader::RT_TABLE_MAIN
        && header.kind == RouteType::Unicast
}

fn devices(route: &RouteMessage) -> Vec<u32> {
    let mut found = Vec::new();
    for attribute in &route.attributes {
        if let RouteAttribute::Oif(ifindex) = attribute {
            found.push(*ifindex);
        } else if let RouteAttribute::MultiPath(hops) = attribute {
            found.extend(hops.iter().map(|hop| hop.interface_index));
        }
    }
    found
}

fn read_link(message: &LinkMessage) -> (u32, Link) {
    let is_up = message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
    let mut link = Link { is_up, ..Link::default() };
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            link.name.clone_from(name);
        } else if let LinkAttribute::IfAlias(alias) = attribute {
            link.alias = Some(alias.clone());
        }
    }
    (message.header.index, link)
}

/// The address a message is about, when packets from elsewhere can carry it.
fn node_address(message: &AddressMessage) -> Option<(u32, Addr)> {
    // On point-to-point links IFA_ADDRESS is the other end and IFA_LOCAL our own (`linux/if_addr.h`).
    let of = |want_local: bool| {
        message.attributes.iter().find_map(|attribute| {
            if let AddressAttribute::Local(ip) = attribute {
                want_local.then_some(*ip)
            } else if let AddressAttribute::Address(ip) = attribute {
                (!want_local).then_some(*ip)
            } else {
                None
            }
        })
    };
    let ip = of(true).or_else(|| of(false))?;
    let addr = Addr::from(ip);
    (!ip.is_loopback() && !addr.is_v6_link_local()).then_some((message.header.index, addr))
}
