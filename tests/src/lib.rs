//! What needs a kernel, root, another kernel, or a cluster.
//!
//! [`lab`] runs the loaded programs on single packets; [`packet`] makes and reads those. [`policy_cases`] is the table of
//! NetworkPolicy semantics, [`engine`] what answers it. [`topology`] makes nodes and
//! pods of namespaces, with the real agent and plugin in them; [`demo`] shows what they do. [`cluster`] is a real
//! Kubernetes. [`cgroup`] gives a test process a cgroup of its own.

pub mod cgroup;
pub mod cluster;
pub mod demo;
pub mod engine;
pub mod lab;
pub mod packet;
pub mod policy_cases;
pub mod topology;
