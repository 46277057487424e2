//! The CNI plugin: wires pods and leases their addresses (CNI specification 1.1.0, back to 0.3.1).
//!
//! ```text
//! environment, stdin ─▶ request ─▶ command::{add, del, check, gc, status} ─▶ result ─▶ stdout
//!                                      │ ipam: leases as files, under a lock
//!                                      │ plumb: veth, addresses, routes, by netlink
//!                                      └ agent: attach, wait until in force
//! ```
//!
//! **Invariant: no packet before the rules.** With an agent configured, both links stay down until it has attached
//! its default-drop programs, and ADD answers only after the pod's first plan is in force.
//!
//! **Invariant: one owner.** Everything the plugin leaves on the node is named by the attachment's hash: lease files
//! and the host-side veth. So DEL needs neither the namespace, nor a previous result, nor the agent.
//!
//! **Absent on purpose**: a heavy runtime (the binary must start in a millisecond), IPAM delegation, IP masquerade
//! (the agent's), and any change to the host beyond the pod's own veth, routes and neighbours.

#![warn(missing_docs)]

mod agent;
pub mod attachment;
pub mod command;
pub mod config;
pub mod error;
mod inspect;
pub mod ipam;
mod message;
mod netlink;
mod netns;
mod plumb;
pub mod request;
pub mod result;
mod sysctl;
