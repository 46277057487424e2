//! A network namespace of a test's own.

use std::{future::Future, net::IpAddr, thread};

use nix::sched::{CloneFlags, unshare};
use rtnetlink::{Handle, LinkUnspec, LinkVeth};

/// Runs `test` on a thread of its own in a new network namespace, which ends with the thread. Needs root.
pub(crate) fn within<T, F>(test: T)
where
    T: FnOnce() -> F + Send + 'static,
    F: Future<Output = ()>,
{
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace (needs root)");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A netlink socket of the thread's namespace.
pub(crate) fn connect() -> Handle {
    sluice_agent::netlink::connect().expect("a netlink socket")
}

/// Makes the veth pair `name` and `name`p, up, with addresses on the first; its interface index.
pub(crate) async fn add_veth(handle: &Handle, name: &str, addresses: &[(&str, u8)]) -> u32 {
    let peer = format!("{name}p");
    handle.link().add(LinkVeth::new(name, &peer).up().build()).execute().await.expect("a veth pair");
    let ifindex = nix::net::if_::if_nametoindex(name).expect("the veth");
    for (address, bits) in addresses {
        let ip: IpAddr = address.parse().expect("an address");
        let mut request = handle.address().add(ifindex, ip, *bits);
        // Without the wait for duplicates an address can be used at once.
        request.message_mut().header.flags = netlink_packet_route::address::AddressHeaderFlags::Nodad;
        request.execute().await.expect("the address");
    }
    handle.link().set(LinkUnspec::new_with_name(&peer).up().build()).execute().await.expect("the peer up");
    ifindex
}
