//! Services for the node's own processes: real sockets in a namespace and a cgroup of the test's own. Also run in VMs with
//! other kernels.

mod agent;
mod gone;
mod reach;
mod world;
