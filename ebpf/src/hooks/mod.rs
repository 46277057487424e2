//! The programs, named by what the packet does.

mod flow;
mod from_netdev;
mod from_pod;
mod to_pod;
