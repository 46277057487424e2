//! The agent's unix-socket protocol: HTTP/1.1 and JSON, one path prefix per version.
//!
//! Version N of the agent serves the paths of N and N−1, so that a plugin binary and an agent of neighbouring
//! releases work together while a DaemonSet rolls.

#![warn(missing_docs)]

pub mod client;
pub mod endpoint;
