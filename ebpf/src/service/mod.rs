//! From a Service's address to one of its backends.

pub(crate) mod select;

#[cfg(target_arch = "bpf")]
mod lookup;

#[cfg(target_arch = "bpf")]
pub(crate) use lookup::{choose, frontend, takes_new, usable};
