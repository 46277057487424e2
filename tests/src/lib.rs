//! What needs a kernel, root, another kernel, or a cluster.
//!
//! [`lab`] runs the loaded programs on single packets; [`packet`] makes and reads those. [`topology`] makes nodes and
//! pods of namespaces, with the real agent and plugin in them.
pub mod lab;
pub mod packet;
