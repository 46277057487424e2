//! The client: one connection, a few calls.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::endpoint::{EndpointStatus, Problem, Registered, Registration};

/// Why a call got no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("connecting to the agent at {socket}", socket = socket.display())]
    Connect {
        /// The socket's path.
        socket: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The connection broke, or what came is not HTTP.
    #[error("calling the agent: {method} {path}")]
    Call {
        /// HTTP method.
        method: Method,
        /// Path and query.
        path: String,
        /// Why not.
        source: hyper::Error,
    },
    /// The agent did not answer in time.
    #[error("no answer from the agent within {limit:?}: {method} {path}")]
    Timeout {
        /// HTTP method.
        method: Method,
        /// Path and query.
        path: String,
        /// How long it was waited.
        limit: Duration,
    },
    /// The agent said no.
    #[error("the agent answered {status}: {message}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// Its words.
        message: String,
    },
    /// The answer has another form: the versions do not fit.
    #[error("reading the agent's answer to {method} {path}")]
    Answer {
        /// HTTP method.
        method: Method,
        /// Path and query.
        path: String,
        /// Why not.
        source: serde_json::Error,
    },
}

/// A connection to the agent.
#[derive(Debug)]
pub struct Client {
    sender: http1::SendRequest<Full<Bytes>>,
}

/// How much longer than its own limit a call may take before the connection is given up.
const MARGIN: Duration = Duration::from_secs(5);

impl Client {
    /// Connects to the agent's socket; call it inside a tokio runtime.
    ///
    /// # Errors
    /// [`ClientError::Connect`] when nobody listens there.
    pub async fn connect(socket: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(socket)
            .await
            .map_err(|source| ClientError::Connect { socket: socket.to_owned(), source })?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|source| {
            ClientError::Call { method: Method::CONNECT, path: socket.display().to_string(), source }
        })?;
        // The task ends with the connection; an error shows in the call that meets it.
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// Has the agent attach default-drop programs to a pod's host-side veth, whose link is still down.
    ///
    /// # Errors
    /// Any [`ClientError`]; nothing is attached after [`ClientError::Refused`].
    pub async fn register(&mut self, registration: &Registration) -> Result<Registered, ClientError> {
        let path = endpoint_path(&registration.container, &registration.ifname);
        let body = serde_json::to_vec(registration).map_err(|source| ClientError::Answer {
            method: Method::PUT,
            path: path.clone(),
            source,
        })?;
        self.call(Method::PUT, path, body, MARGIN).await
    }

    /// Waits until the endpoint's first plan is in force.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with status 504 when it is not within `limit`.
    pub async fn await_in_force(
        &mut self,
        container: &str,
        ifname: &str,
        limit: Duration,
    ) -> Result<(), ClientError> {
        let path = format!("{}/in-force?timeout_ms={}", endpoint_path(container, ifname), limit.as_millis());
        self.call(Method::GET, path, Vec::new(), limit + MARGIN).await
    }

    /// Tells the agent that the pod's interface is gone.
    ///
    /// # Errors
    /// Any [`ClientError`]; an unknown endpoint is none.
    pub async fn remove(&mut self, container: &str, ifname: &str) -> Result<(), ClientError> {
        self.call(Method::DELETE, endpoint_path(container, ifname), Vec::new(), MARGIN).await
    }

    /// Lists the endpoints.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn endpoints(&mut self) -> Result<Vec<EndpointStatus>, ClientError> {
        self.call(Method::GET, "/v1/endpoints".to_owned(), Vec::new(), MARGIN).await
    }

    /// Asks whether the agent could serve an ADD now.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with status 503 and what is missing.
    pub async fn ready(&mut self) -> Result<(), ClientError> {
        self.call(Method::GET, "/readyz".to_owned(), Vec::new(), MARGIN).await
    }

    async fn call<A: DeserializeOwned>(
        &mut self,
        method: Method,
        path: String,
        body: Vec<u8>,
        limit: Duration,
    ) -> Result<A, ClientError> {
        let exchange = self.exchange(method.clone(), &path, body);
        let answer = tokio::time::timeout(limit, exchange).await;
        let (status, bytes) = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(source)) => return Err(ClientError::Call { method, path, source }),
            Err(_) => return Err(ClientError::Timeout { method, path, limit }),
        };
        if !status.is_success() {
            let message = serde_json::from_slice::<Problem>(&bytes)
                .map_or_else(|_| String::from_utf8_lossy(&bytes).into_owned(), |problem| problem.message);
            return Err(ClientError::Refused { status, message });
        }
        // An empty body is JSON's null: the answer of calls that return nothing.
        let json: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
        serde_json::from_slice(json).map_err(|source| ClientError::Answer { method, path, source })
    }

    async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), hyper::Error> {
        self.sender.ready().await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "sluice")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .expect("a path made of checked names");
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }
}

/// Container ids and interface names are checked by the plugin before: they hold nothing a path must escape.
fn endpoint_path(container: &str, ifname: &str) -> String {
    format!("/v1/endpoints/{container}/{ifname}")
}
