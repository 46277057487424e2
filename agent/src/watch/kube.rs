//! The API server, followed by one watch for each kind.
//!
//! Start at [`connect`] and [`follow`]. [`super::wire`] decodes what comes.
//!
//! **Invariant.** A watch that has to start over replaces: what the new list does not hold is deleted, after the list
//! is whole. While the API server is away nothing is deleted.
//!
//! Pods of all nodes are watched: they are policy peers.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
};

use axum::http::Uri;
use futures::StreamExt;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher},
};
use sluice_core::{
    cluster::Change,
    object::{EndpointSlice, Namespace, NetworkPolicy, Node, Object, ObjectKey, Pod, Service},
};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::{
    Event,
    wire::{Kind, Watched},
};

/// Why the API server cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    /// Neither a pod's environment nor a kubeconfig.
    #[error("finding the API server and its credentials")]
    Config(#[source] Box<kube::config::InferConfigError>),
    /// The credentials make no client.
    #[error("making a client of the API server")]
    Client(#[source] Box<kube::Error>),
}

/// Objects of one page of a list, where the server cannot stream it.
const PAGE: u32 = 500;

/// A client of the API server; it need not be there yet.
///
/// # Errors
/// Any [`KubeError`].
pub async fn connect(api_server: Option<Uri>) -> Result<Client, KubeError> {
    let mut config = kube::Config::infer().await.map_err(|error| KubeError::Config(Box::new(error)))?;
    if let Some(uri) = api_server {
        config.cluster_url = uri;
    }
    info!(api_server = %config.cluster_url, "following the API server");
    Client::try_from(config).map_err(|error| KubeError::Client(Box::new(error)))
}

/// Sends what `client`'s API server says until nobody listens; one that does not answer is waited for.
pub async fn follow(client: Client, events: &mpsc::Sender<Event>) {
    let follow = Follow { client, events, unsynced: &AtomicUsize::new(6) };
    tokio::join!(
        follow.kind::<Namespace>(),
        follow.kind::<Node>(),
        follow.kind::<Pod>(),
        follow.kind::<Service>(),
        follow.kind::<EndpointSlice>(),
        follow.kind::<NetworkPolicy>(),
    );
}

struct Follow<'a> {
    client: Client,
    events: &'a mpsc::Sender<Event>,
    /// Kinds that have not told everything yet.
    unsynced: &'a AtomicUsize,
}

/// What is known of one kind.
#[derive(Debug, Default)]
struct Progress {
    known: BTreeSet<ObjectKey>,
    /// The list under way.
    listed: Option<BTreeSet<ObjectKey>>,
    synced: bool,
    /// Whether the present trouble was told.
    complained: bool,
}

/// Why a watch ends.
enum End {
    /// Nobody listens.
    Closed,
    /// The server does not stream lists (before Kubernetes 1.34, unless its gate `WatchList` is open).
    NoStreaming,
}

impl Follow<'_> {
    async fn kind<T: Kind>(&self) {
        let mut progress = Progress::default();
        // Streamed, objects come one by one: no page is ever held in memory.
        let end = self.watch::<T>(watcher::Config::default().streaming_lists(), &mut progress).await;
        if let End::NoStreaming = end {
            debug!(kind = T::KIND, "API server does not stream lists");
            self.watch::<T>(watcher::Config::default().page_size(PAGE), &mut progress).await;
        }
    }

    async fn watch<T: Kind>(&self, config: watcher::Config, progress: &mut Progress) -> End {
        let streams = config.initial_list_strategy == watcher::InitialListStrategy::StreamingList;
        let api: Api<Watched<T>> = Api::all(self.client.clone());
        let mut stream = std::pin::pin!(watcher(api, config).default_backoff());
        while let Some(event) = stream.next().await {
            let sent = match event {
                Ok(event) => self.take(event, progress).await,
                Err(error) if streams && lacks_streaming(&error) => return End::NoStreaming,
                Err(error) => {
                    trouble::<T>(&error, progress);
                    Ok(())
                }
            };
            if sent.is_err() {
                return End::Closed;
            }
        }
        End::Closed
    }

    async fn take<T: Kind>(
        &self,
        event: watcher::Event<Watched<T>>,
        progress: &mut Progress,
    ) -> Result<(), Closed> {
        progress.complained = false;
        match event {
            watcher::Event::Init => progress.listed = Some(BTreeSet::new()),
            watcher::Event::InitApply(watched) | watcher::Event::Apply(watched) => {
                let object: Object = watched.object.into();
                let key = object.key();
                if let Some(listed) = &mut progress.listed {
                    listed.insert(key.clone());
                }
                progress.known.insert(key);
                self.send(Event::Change(Change::Upsert(object))).await?;
            }
            watcher::Event::Delete(watched) => {
                let object: Object = watched.object.into();
                progress.known.remove(&object.key());
                self.send(Event::Change(Change::Delete(object.key()))).await?;
            }
            watcher::Event::InitDone => {
                let listed = progress.listed.take().unwrap_or_default();
                for key in std::mem::take(&mut progress.known) {
                    if !listed.contains(&key) {
                        self.send(Event::Change(Change::Delete(key))).await?;
                    }
                }
                progress.known = listed;
                self.synced(progress).await?;
            }
        }
        Ok(())
    }

    async fn synced(&self, progress: &mut Progress) -> Result<(), Closed> {
        if !std::mem::replace(&mut progress.synced, true)
            && self.unsynced.fetch_sub(1, Ordering::Relaxed) == 1
        {
            self.send(Event::Synced).await?;
        }
        Ok(())
    }

    async fn send(&self, event: Event) -> Result<(), Closed> {
        self.events.send(event).await.map_err(|_| Closed)
    }
}

/// Tells of the first of a row of troubles. No kind here may be missing: a server that says so (404) is not ready, or not
/// the right one, and is asked again.
fn trouble<T: Kind>(error: &watcher::Error, progress: &mut Progress) {
    if !std::mem::replace(&mut progress.complained, true) {
        warn!(kind = T::KIND, error = %error, "watch interrupted; the last known objects stay in force");
    }
}

/// Nobody listens any more.
struct Closed;

fn lacks_streaming(error: &watcher::Error) -> bool {
    // 422: the gate is closed; 400: the parameter is unknown.
    matches!(error, watcher::Error::WatchStartFailed(_)) && matches!(status_of(error), Some(400 | 422))
}

/// The HTTP status in an error, when the API server gave one.
fn status_of(error: &watcher::Error) -> Option<u16> {
    if let watcher::Error::WatchError(status) = error {
        return Some(status.code);
    }
    let (watcher::Error::InitialListFailed(cause)
    | watcher::Error::WatchStartFailed(cause)
    | watcher::Error::WatchFailed(cause)) = error
    else {
        return None;
    };
    if let kube::Error::Api(status) = cause { Some(status.code) } else { None }
}
