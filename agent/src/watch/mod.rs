//! Where objects come from: the API server or a folder, as one stream of changes in our own words.
//!
//! Start at [`run`]. [`kube`] follows the API server, [`dir`] a folder of YAML.
//!
//! **Invariant.** [`Event::Synced`] comes once, after every object that was there when the source was first read. No
//! later trouble of a source deletes anything: what cannot be read is as it was.

pub mod dir;
pub mod kube;
mod wire;

use sluice_core::cluster::Change;
use tokio::sync::mpsc;

use crate::config::Source;

/// What a source says.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "events pass through a short queue; none is kept")]
pub enum Event {
    /// An object is new, has changed, or is gone.
    Change(Change),
    /// Everything that was there at the beginning has been told.
    Synced,
}

/// Why a source could not be followed.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The folder.
    #[error(transparent)]
    Dir(#[from] dir::DirError),
    /// The API server.
    #[error(transparent)]
    Kube(#[from] kube::KubeError),
}

/// Sends what `source` says until nobody listens.
///
/// # Errors
/// [`WatchError`] when the source cannot even be opened; later trouble is waited out.
pub async fn run(source: Source, events: mpsc::Sender<Event>) -> Result<(), WatchError> {
    match source {
        Source::Dir(folder) => Ok(dir::run(folder, &events).await?),
        Source::Kube(api_server) => Ok(kube::run(api_server, &events).await?),
    }
}
