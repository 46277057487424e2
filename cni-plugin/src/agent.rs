//! Asking the agent, from code that otherwise needs no runtime: a small one is made for the purpose.

use std::{
    io,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use sluice_api::{
    client::{Client, ClientError},
    endpoint::Registration,
};
use tokio::runtime::{Builder, Runtime};

use crate::{attachment::Attachment, config};

/// How long DEL, GC and the undoing of an ADD may wait for an agent they do not need.
const BEST_EFFORT: Duration = Duration::from_secs(1);
/// How long CHECK waits for a plan that should have been in force since ADD.
const CONVERGENCE: Duration = Duration::from_secs(2);

/// How often an agent that is away is looked for: the socket of one that starts appears by a rename.
const AWAY: Duration = Duration::from_millis(50);

/// Why the agent did not do its part.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// No event loop.
    #[error("starting the agent's client")]
    Runtime {
        /// Why not.
        source: io::Error,
    },
    /// It took longer than the configuration grants.
    #[error("waiting {limit:?} for the agent at {socket}", socket = socket.display())]
    Timeout {
        /// Its socket.
        socket: PathBuf,
        /// How long.
        limit: Duration,
    },
    /// The call failed.
    #[error(transparent)]
    Call(#[from] ClientError),
}

impl AgentError {
    /// Whether the same call may succeed later without anybody changing the request: 4xx answers and answers of
    /// another form do not.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Runtime { .. } | Self::Timeout { .. } => true,
            Self::Call(ClientError::Refused { status, .. }) => !status.is_client_error(),
            Self::Call(ClientError::Answer { .. }) => false,
            Self::Call(
                ClientError::Connect { .. } | ClientError::Call { .. } | ClientError::Timeout { .. },
            ) => true,
        }
    }

    /// Whether the agent answered at all.
    pub(crate) fn is_answer(&self) -> bool {
        matches!(self, Self::Call(ClientError::Refused { .. } | ClientError::Answer { .. }))
    }
}

/// Tells the agent that an attachment is gone, on a connection of its own: an earlier one may be stuck in a call.
///
/// # Errors
/// [`AgentError`], after a second at most; nothing depends on it.
pub(crate) fn deregister(config: &config::Agent, attachment: &Attachment) -> Result<(), AgentError> {
    let mut agent = Agent::connect_within(config, BEST_EFFORT.min(config.timeout))?;
    agent.call(async |client| client.remove(&attachment.container, &attachment.ifname).await)
}

/// A connection to the agent, for one command of the plugin.
#[derive(Debug)]
pub(crate) struct Agent {
    runtime: Runtime,
    client: Client,
    socket: PathBuf,
    limit: Duration,
    deadline: Instant,
}

impl Agent {
    /// Connects with all the time the configuration grants.
    pub(crate) fn connect(config: &config::Agent) -> Result<Self, AgentError> {
        Self::connect_within(config, config.timeout)
    }

    /// The same, and waits for an agent that is away: it may be restarting.
    pub(crate) fn connect_patiently(config: &config::Agent) -> Result<Self, AgentError> {
        let deadline = Instant::now() + config.timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match Self::connect_within(config, left) {
                Err(AgentError::Call(ClientError::Connect { .. })) if left > AWAY => thread::sleep(AWAY),
                connected => return connected,
            }
        }
    }

    fn connect_within(config: &config::Agent, limit: Duration) -> Result<Self, AgentError> {
        let deadline = Instant::now() + limit;
        let runtime = Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = runtime.map_err(|source| AgentError::Runtime { source })?;
        let socket = config.socket.clone();
        let connected =
            runtime.block_on(async { tokio::time::timeout(limit, Client::connect(&socket)).await });
        let client = connected.map_err(|_| AgentError::Timeout { socket: socket.clone(), limit })??;
        Ok(Self { runtime, client, socket, limit, deadline })
    }

    /// Has the default-drop programs attached.
    pub(crate) fn register(&mut self, registration: &Registration) -> Result<(), AgentError> {
        self.call(async |client| client.register(registration).await.map(drop))
    }

    /// Waits for the pod's first plan with what is left of the time.
    pub(crate) fn await_in_force(&mut self, attachment: &Attachment) -> Result<(), AgentError> {
        let limit = self.deadline.saturating_duration_since(Instant::now());
        // The agent ends the wait itself and says what is missing; our own limit is for one that does not answer.
        self.deadline += BEST_EFFORT;
        self.call(async |client| {
            client.await_in_force(&attachment.container, &attachment.ifname, limit).await
        })
    }

    /// Asks whether the pod's rules are in force.
    pub(crate) fn check_in_force(&mut self, attachment: &Attachment) -> Result<(), AgentError> {
        let limit = CONVERGENCE.min(self.limit);
        self.call(async |client| {
            client.await_in_force(&attachment.container, &attachment.ifname, limit).await
        })
    }

    /// Asks whether an ADD could be served.
    pub(crate) fn ready(&mut self) -> Result<(), AgentError> {
        self.call(async |client| client.ready().await)
    }

    fn call(
        &mut self,
        call: impl AsyncFnOnce(&mut Client) -> Result<(), ClientError>,
    ) -> Result<(), AgentError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let client = &mut self.client;
        let result = self.runtime.block_on(async { tokio::time::timeout(left, call(client)).await });
        let limit = self.limit;
        Ok(result.map_err(|_| AgentError::Timeout { socket: self.socket.clone(), limit })??)
    }
}
