//! The unix socket: what [`sluice_api::endpoint`] says, over HTTP/1.1.
//!
//! Start at [`Server::bind`]. Every question goes to the one task that owns the state, and its answer comes back.
//!
//! **Invariant.** The socket is root's alone (mode 0600) from the moment it has its name.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{
        FromRequestParts, Path as UrlPath, Query, State,
        rejection::{JsonRejection, QueryRejection},
    },
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, put},
};
use serde::Deserialize;
use sluice_api::endpoint::{EndpointStatus, Problem, Registered, Registration};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{mpsc, oneshot},
};

use crate::{
    causes::Causes,
    request::{Attachment, Request},
};

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The folder of the socket could not be made.
    #[error("making folder {folder}", folder = folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The socket could not be made or put in place.
    #[error("listening on {socket}", socket = socket.display())]
    Listen {
        /// The socket.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// An address of metrics or health.
    #[error("serving health on {at}")]
    Health {
        /// The address.
        at: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Accepting calls ended.
    #[error("serving {socket}", socket = socket.display())]
    Serve {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Media type of what [`Request::Metrics`] answers (OpenMetrics 1.0, section "Overall structure").
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Longest wait for an endpoint's rules: a forgotten call must not stay for ever.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// The bound socket; its name goes when it is dropped.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    name: Name,
}

impl Server {
    /// Makes the socket at `socket`, in place of one that an earlier agent left.
    ///
    /// # Errors
    /// [`ServerError::Folder`] or [`ServerError::Listen`].
    pub fn bind(socket: &Path) -> Result<Self, ServerError> {
        if let Some(folder) = socket.parent() {
            fs::create_dir_all(folder)
                .map_err(|source| ServerError::Folder { folder: folder.to_owned(), source })?;
        }
        let (listener, inode) =
            listen(socket).map_err(|source| ServerError::Listen { socket: socket.to_owned(), source })?;
        Ok(Self { listener, name: Name { socket: socket.to_owned(), inode } })
    }

    /// Serves until the future is dropped; every call becomes a [`Request`].
    ///
    /// # Errors
    /// [`ServerError::Serve`] when calls can no longer be accepted.
    pub async fn run(self, requests: mpsc::Sender<Request>) -> Result<(), ServerError> {
        // The name goes with this future.
        let Self { listener, name } = self;
        axum::serve(listener, router(requests))
            .await
            .map_err(|source| ServerError::Serve { socket: name.socket.clone(), source })
    }
}

/// The socket's name in the file system.
#[derive(Debug)]
struct Name {
    socket: PathBuf,
    inode: u64,
}

impl Drop for Name {
    fn drop(&mut self) {
        // A successor may have put its own socket there already.
        if fs::symlink_metadata(&self.socket).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.socket);
        }
    }
}

/// A socket gets its final name by a rename, when its mode is right; a stale one is replaced by the same step.
fn listen(socket: &Path) -> io::Result<(UnixListener, u64)> {
    let temporary = socket.with_extension("new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&temporary)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))?;
    fs::rename(&temporary, socket)?;
    Ok((listener, fs::symlink_metadata(socket)?.ino()))
}

fn router(requests: mpsc::Sender<Request>) -> Router {
    Router::new()
        .route("/v1/endpoints", get(list))
        .route("/v1/endpoints/{container}/{ifname}", put(register).delete(remove))
        .route("/v1/endpoints/{container}/{ifname}/in-force", get(await_in_force))
        .merge(public(Public::Metrics))
        .fallback(|| async { Failure::new(StatusCode::NOT_FOUND, "no such path") })
        .method_not_allowed_fallback(|| async {
            Failure::new(StatusCode::METHOD_NOT_ALLOWED, "no such method")
        })
        .with_state(Asker { requests })
}

/// What is served to anybody who may connect.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Public {
    /// `/healthz` and `/readyz`.
    Health,
    /// Those, and `/metrics`.
    Metrics,
}

fn public(what: Public) -> Router<Asker> {
    let health = Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz));
    match what {
        Public::Health => health,
        Public::Metrics => health.route("/metrics", get(metrics)),
    }
}

/// Serves `what`, and nothing else, on a TCP socket.
///
/// # Errors
/// [`ServerError::Health`] when the address cannot be listened on.
pub async fn serve_public(
    what: Public,
    at: SocketAddr,
    requests: mpsc::Sender<Request>,
) -> Result<(), ServerError> {
    let serve = async {
        let listener = TcpListener::bind(at).await?;
        axum::serve(listener, public(what).with_state(Asker { requests })).await
    };
    serve.await.map_err(|source| ServerError::Health { at, source })
}

/// Asks the task that owns the state.
#[derive(Clone)]
struct Asker {
    requests: mpsc::Sender<Request>,
}

impl Asker {
    async fn ask<A>(&self, request: impl FnOnce(oneshot::Sender<A>) -> Request) -> Result<A, Failure> {
        let (sender, answer) = oneshot::channel();
        let stopping = || Failure::new(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping");
        self.requests.send(request(sender)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }
}

/// An answer that is no success.
#[derive(Debug)]
struct Failure {
    status: StatusCode,
    message: String,
}

impl Failure {
    fn new(status: StatusCode, message: impl ToString) -> Self {
        Self { status, message: message.to_string() }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(Problem { message: self.message })).into_response()
    }
}

/// The two names in a path.
struct AtPath(Attachment);

impl<S: Send + Sync> FromRequestParts<S> for AtPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, state: &S) -> Result<Self, Failure> {
        let UrlPath((container, ifname)) = UrlPath::from_request_parts(parts, state)
            .await
            .map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error))?;
        Ok(Self(Attachment { container, ifname }))
    }
}

async fn register(
    State(asker): State<Asker>,
    AtPath(at): AtPath,
    body: Result<Json<Registration>, JsonRejection>,
) -> Result<Json<Registered>, Failure> {
    let Json(registration) = body.map_err(|error| Failure::new(error.status(), error.body_text()))?;
    if (&registration.container, &registration.ifname) != (&at.container, &at.ifname) {
        return Err(Failure::new(
            StatusCode::BAD_REQUEST,
            "container and ifname differ between path and body",
        ));
    }
    let answer = asker.ask(|answer| Request::Register { registration, answer }).await?;
    answer.map(Json).map_err(|error| {
        let status =
            if error.is_callers() { StatusCode::BAD_REQUEST } else { StatusCode::SERVICE_UNAVAILABLE };
        Failure::new(status, Causes(&error))
    })
}

#[derive(Deserialize)]
struct Wait {
    timeout_ms: u64,
}

async fn await_in_force(
    State(asker): State<Asker>,
    AtPath(at): AtPath,
    wait: Result<Query<Wait>, QueryRejection>,
) -> Result<StatusCode, Failure> {
    let Query(wait) = wait.map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let limit = Duration::from_millis(wait.timeout_ms).min(LONGEST_WAIT);
    let asked = asker.ask(|answer| Request::AwaitInForce { at: at.clone(), answer });
    match tokio::time::timeout(limit, asked).await {
        Ok(answer) => match answer? {
            Ok(()) => Ok(StatusCode::OK),
            Err(error) => Err(Failure::new(StatusCode::NOT_FOUND, error)),
        },
        Err(_) => {
            let why = asker.ask(|answer| Request::WhyNotInForce { at, answer }).await?;
            Err(Failure::new(StatusCode::GATEWAY_TIMEOUT, format_args!("{why}, after {limit:?}")))
        }
    }
}

async fn remove(State(asker): State<Asker>, AtPath(at): AtPath) -> Result<StatusCode, Failure> {
    asker.ask(|answer| Request::Remove { at, answer }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn list(State(asker): State<Asker>) -> Result<Json<Vec<EndpointStatus>>, Failure> {
    asker.ask(|answer| Request::List { answer }).await.map(Json)
}

async fn healthz(State(asker): State<Asker>) -> Result<StatusCode, Failure> {
    // An answer, whatever it says, shows that the task which owns the state is at work.
    asker.ask(|answer| Request::Ready { answer }).await.map(|_| StatusCode::OK)
}

async fn readyz(State(asker): State<Asker>) -> Result<StatusCode, Failure> {
    let ready = asker.ask(|answer| Request::Ready { answer }).await?;
    ready.map(|()| StatusCode::OK).map_err(|missing| Failure::new(StatusCode::SERVICE_UNAVAILABLE, missing))
}

async fn metrics(State(asker): State<Asker>) -> Result<Response, Failure> {
    let text = asker.ask(|answer| Request::Metrics { answer }).await?;
    Ok(([(CONTENT_TYPE, OPENMETRICS)], text).into_response())
}
