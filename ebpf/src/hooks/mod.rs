//! The programs, named by what the packet does.

mod flow;
mod from_netdev;
mod from_pod;
mod sock;
mod to_netdev;
mod to_pod;
mod xdp_netdev;
