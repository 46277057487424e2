//! Where things are in the work tree.

use std::path::{Path, PathBuf};

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace")
}

/// Tools built for this work tree; `agent/build.rs` looks here too.
pub(crate) fn tools() -> PathBuf {
    root().join("target/tools")
}

/// Kernels, and the package lists they came from.
pub(crate) fn vm() -> PathBuf {
    root().join("target/vm")
}

/// Clusters, what they are built from, and what they keep.
pub(crate) fn cluster() -> PathBuf {
    root().join("target/cluster")
}
