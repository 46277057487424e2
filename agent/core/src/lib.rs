//! Sluice's pure middle: the cluster model, and how it becomes the contents of the kernel maps.
//!
//! ```text
//! Cluster ──compile──▶ DesiredState ──diff(Actual)──▶ Plan ──(apply, in the agent)──▶ kernel maps
//! ```
//!
//! **Invariant: pure.** No I/O, clock or randomness; the dependency list keeps it so.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod cluster;
pub mod compare;
pub mod compile;
pub mod desired;
pub mod diff;
pub mod explain;
pub mod lint;
pub mod maglev;
pub mod matrix;
pub mod object;
pub mod plan;
mod prefix;
mod reach;
pub mod selector;
pub mod verdict;
pub mod world;
