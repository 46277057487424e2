//! Typed handles on the pinned maps, for the agent, the command line and tests.
//!
//! Start at [`Maps`]: one field for each map of [`sluice_abi::maps`]. [`pins`] finds, makes and compares them;
//! [`Table`], [`Words`], [`Counters`] and [`Events`] read and write them; [`grace_period`] waits for readers.
//!
//! **Invariant: what is opened has the shape that `abi` says.** A map of another type, size, capacity or with other
//! flags is an error that names the difference, never a map that is read wrongly.
//!
//! **Invariant: no cache.** Every call asks the kernel, so handles can be opened twice, and any number of processes may
//! read. Only the agent writes; the programs write conntrack, counters, records and events.

#![warn(missing_docs)]

mod counters;
mod error;
mod events;
mod grace;
mod handles;
mod key;
pub mod pins;
mod syscall;
mod table;
#[cfg(feature = "testing")]
pub mod testing;
mod words;

pub use counters::Counters;
pub use error::MapsError;
pub use events::Events;
pub use grace::grace_period;
pub use handles::{Fill, Maps};
pub use key::{RuleRange, SourceRange, TableKey};
pub use pins::pin_dir;
pub use table::Table;
pub use words::Words;
