//! From a Service's address to one of its backends, and from a pod's address to the node's.

pub(crate) mod select;

#[cfg(target_arch = "bpf")]
mod affinity;
#[cfg(target_arch = "bpf")]
mod choose;
#[cfg(target_arch = "bpf")]
mod lookup;
#[cfg(target_arch = "bpf")]
pub(crate) mod socket;
#[cfg(target_arch = "bpf")]
mod source;

#[cfg(target_arch = "bpf")]
pub(crate) use choose::{Chosen, choose};
#[cfg(target_arch = "bpf")]
pub(crate) use lookup::{takes_new, usable};
#[cfg(target_arch = "bpf")]
pub(crate) use source::{Source, masquerades, take_source};
