//! The node agent: watches Kubernetes objects and keeps the eBPF maps true to them.
//!
//! ```text
//! config ─▶ run ─▶ watch ─▶ reconciler ─▶ apply ─▶ kernel maps
//!                  netlink ────▲  │▲
//!                              │  │└─ request ◀─ server ◀─ CNI plugin, tools
//!                      registration └─▶ topology ─▶ routes, conflist ─▶ node
//! ```
//!
//! Start at [`run::run`]. What is decided is decided in `sluice-core`; here is what touches the world.
//!
//! **Invariant.** One task, [`reconciler`], changes the maps; one thread runs all tasks.

#![warn(missing_docs)]

pub mod apply;
pub mod audits;
pub mod causes;
pub mod cleanup;
pub mod config;
pub mod conflist;
pub mod datapath;
pub mod health_checks;
pub mod install;
pub mod leases;
pub mod lock;
pub mod metrics;
pub mod netlink;
pub mod node;
pub mod notice;
pub mod options;
pub mod preflight;
pub mod reconciler;
pub mod registration;
pub mod request;
pub mod routes;
pub mod run;
pub mod server;
pub mod sysctls;
pub mod topology;
pub mod watch;
