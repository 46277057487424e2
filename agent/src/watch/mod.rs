//! Where objects come from: the API server or a folder, as one stream of changes in our own words.
//!
//! Start at [`Feed::open`]. [`kube`] follows the API server, [`dir`] a folder of YAML.
//!
//! **Invariant.** [`Event::Synced`] comes once, after every object that was there when the source was first read. No
//! later trouble of a source deletes anything: what cannot be read is as it was.

pub mod dir;
pub mod kube;
mod wire;

use std::path::PathBuf;

use sluice_core::{cluster::Change, object::ObjectKey};
use tokio::sync::mpsc;
pub(crate) use wire::resource;

use crate::config::Source;

/// What a source says.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "events pass through a short queue; none is kept")]
pub enum Event {
    /// An object is new, has changed, or is gone.
    Change(Change),
    /// Several at once: no plan is made of a part of them.
    Changes(Vec<Change>),
    /// An object is there, but not in a form that can be read; what it was before stays, but a policy is closed by a
    /// change that goes before.
    Unreadable(Unreadable),
    /// Everything that was there at the beginning has been told.
    Synced,
}

/// An object that could not be read.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("reading {key}: {reason}")]
pub struct Unreadable {
    /// Which.
    pub key: ObjectKey,
    /// What is wrong with it.
    pub reason: String,
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

/// A source that can be followed.
#[expect(missing_debug_implementations, reason = "a client of the API server has none")]
pub enum Feed {
    /// The API server behind the client.
    Kube(::kube::Client),
    /// A folder of YAML.
    Dir(PathBuf),
}

impl Feed {
    /// Finds the way to `source`.
    ///
    /// # Errors
    /// [`WatchError::Kube`] without usable credentials.
    pub async fn open(source: Source) -> Result<Self, WatchError> {
        Ok(match source {
            Source::Dir(folder) => Self::Dir(folder),
            Source::Kube(access) => Self::Kube(kube::connect(access).await?),
        })
    }

    /// The client of the API server, where there is one.
    pub fn client(&self) -> Option<::kube::Client> {
        match self {
            Self::Kube(client) => Some(client.clone()),
            Self::Dir(_) => None,
        }
    }

    /// Sends what the source says until nobody listens.
    ///
    /// # Errors
    /// [`WatchError::Dir`] when the folder cannot be watched; later trouble is waited out.
    pub async fn run(self, events: mpsc::Sender<Event>) -> Result<(), WatchError> {
        match self {
            Self::Dir(folder) => dir::run(folder, &events).await?,
            Self::Kube(client) => kube::follow(client, &events).await,
        }
        Ok(())
    }
}
