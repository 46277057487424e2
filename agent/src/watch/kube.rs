//! The API server, followed by one watch for each kind.
//!
//! Start at [`connect`] and [`follow`]. [`super::wire`] decodes what comes.
//!
//! **Invariant: one bad object keeps nobody waiting.** One that cannot be read is told by name ([`Event::Unreadable`]) and
//! otherwise stays what it was; a NetworkPolicy isolates the pods it selects, as far as that can be read, and allows nothing.
//!
//! **Invariant.** A watch that has to start over replaces: what the new list does not hold is deleted, after the list
//! is whole. While the API server is away nothing is deleted.
//!
//! **Invariant: what is not defined is empty.** A cluster may be without ClusterNetworkPolicies: the API server says that
//! their resource is not found, and its discovery confirms it. Until that changes, which is asked again and again, the kind
//! counts as told, with no object. A mere 404 proves nothing: a proxy may say it, too.
//!
//! Pods of all nodes are watched: they are policy peers.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures::StreamExt;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher},
};
use sluice_core::{
    cluster::Change,
    object::{ClusterNetworkPolicy, EndpointSlice, Namespace, NetworkPolicy, Node, ObjectKey, Pod, Service},
};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::{
    Event, Unreadable,
    wire::{Kind, Watched},
};
use crate::{causes::Causes, config::KubeAccess};

/// Why the API server cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    /// Neither a pod's environment nor a kubeconfig.
    #[error("finding the API server and its credentials")]
    Infer(#[source] Box<kube::config::InferConfigError>),
    /// The kubeconfig that was named.
    #[error("reading kubeconfig {path}", path = path.display())]
    Kubeconfig {
        /// Where it is.
        path: PathBuf,
        /// Why it does not serve.
        source: Box<kube::config::KubeconfigError>,
    },
    /// The credentials make no client.
    #[error("making a client of the API server")]
    Client(#[source] Box<kube::Error>),
}

/// Objects of one page of a list, where the server cannot stream it.
const PAGE: u32 = 500;

/// How long the API server may be silent on an open watch. It sends a bookmark every minute (`bookmarkFrequency`,
/// `k8s.io/apiserver/pkg/storage/cacher`): a longer silence is a connection that is dead without saying so, and another is
/// made, which goes on where this one was.
const SILENCE: Duration = Duration::from_secs(90);

/// How long until a connection stands.
const CONNECT: Duration = Duration::from_secs(10);

/// A client of the API server; it need not be there yet.
///
/// Tokens and the cluster's CA are read again from their files every minute, and `exec` plugins are asked again when what
/// they gave expires; a client certificate in a kubeconfig is read once.
///
/// # Errors
/// Any [`KubeError`].
pub async fn connect(access: KubeAccess) -> Result<Client, KubeError> {
    let mut config = match &access.kubeconfig {
        Some(path) => from_file(path)
            .await
            .map_err(|error| KubeError::Kubeconfig { path: path.clone(), source: Box::new(error) })?,
        None => kube::Config::infer().await.map_err(|error| KubeError::Infer(Box::new(error)))?,
    };
    if let Some(uri) = access.server {
        config.cluster_url = uri;
    }
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    // Else the time that a connection waited for its next request counts.
    config.reset_reader_on_write = true;
    info!(api_server = %config.cluster_url, "following the API server");
    Client::try_from(config).map_err(|error| KubeError::Client(Box::new(error)))
}

async fn from_file(path: &Path) -> Result<kube::Config, kube::config::KubeconfigError> {
    let file = kube::config::Kubeconfig::read_from(path)?;
    kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default()).await
}

/// Sends what `client`'s API server says until nobody listens; one that does not answer is waited for.
pub async fn follow(client: Client, events: &mpsc::Sender<Event>) {
    let follow = Follow { client, events, unsynced: &AtomicUsize::new(7) };
    tokio::join!(
        follow.kind::<Namespace>(),
        follow.kind::<Node>(),
        follow.kind::<Pod>(),
        follow.kind::<Service>(),
        follow.kind::<EndpointSlice>(),
        follow.kind::<NetworkPolicy>(),
        follow.kind::<ClusterNetworkPolicy>(),
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
    /// Whether the kind is not defined.
    missing: bool,
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
                Err(error) if T::MAY_BE_MISSING && self.is_missing::<T>(&error).await => {
                    self.empty::<T>(progress).await
                }
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
        if std::mem::take(&mut progress.complained) {
            info!(kind = T::KIND, "watch goes on");
        }
        if std::mem::take(&mut progress.missing) {
            info!(kind = T::KIND, "defined now");
        }
        match event {
            watcher::Event::Init => progress.listed = Some(BTreeSet::new()),
            watcher::Event::InitApply(watched) | watcher::Event::Apply(watched) => {
                let key = watched.key();
                if let Some(listed) = &mut progress.listed {
                    listed.insert(key.clone());
                }
                progress.known.insert(key.clone());
                match watched.object {
                    Ok(object) => self.send(Event::Change(Change::Upsert(object.into()))).await?,
                    Err(broken) => {
                        if let Some(closed) = broken.closed {
                            self.send(Event::Change(Change::Upsert(closed))).await?;
                        }
                        self.send(Event::Unreadable(Unreadable { key, reason: broken.reason })).await?;
                    }
                }
            }
            watcher::Event::Delete(watched) => {
                let key = watched.key();
                progress.known.remove(&key);
                self.send(Event::Change(Change::Delete(key))).await?;
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

    /// Whether the API server knows no such kind: it says so of the resource, and again when asked for all it has.
    async fn is_missing<T: Kind>(&self, error: &watcher::Error) -> bool {
        if status_of(error) != Some(404) {
            return false;
        }
        let Ok(groups) = self.client.list_api_groups().await else { return false };
        let version = format!("{}/{}", T::GROUP, T::VERSION);
        let mut versions = groups.groups.iter().flat_map(|group| &group.versions);
        if !versions.any(|known| known.group_version == version) {
            return true;
        }
        let resources = self.client.list_api_group_resources(&version).await;
        resources.is_ok_and(|list| list.resources.iter().all(|resource| resource.name != T::PLURAL))
    }

    /// Takes it that there is no object of a kind that is not defined.
    async fn empty<T: Kind>(&self, progress: &mut Progress) -> Result<(), Closed> {
        if !std::mem::replace(&mut progress.missing, true) {
            info!(kind = T::KIND, "not defined in this cluster: none are in force until it is");
        }
        progress.listed = None;
        for key in std::mem::take(&mut progress.known) {
            self.send(Event::Change(Change::Delete(key))).await?;
        }
        self.synced(progress).await
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

/// Tells of the first of a row of troubles. A server that says of a kind that it is not there (404), and cannot confirm it,
/// is not ready, or not the right one, and is asked again.
fn trouble<T: Kind>(error: &watcher::Error, progress: &mut Progress) {
    if !std::mem::replace(&mut progress.complained, true) {
        warn!(kind = T::KIND, error = %Causes(error), "watch interrupted; the last known objects stay in force");
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
