//! A cluster for the other commands of this program.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use super::{
    components, kubectl, machine,
    place::{self, Place},
    plan::{self, Machine, Options},
    up,
};

/// A cluster that is up.
#[derive(Debug)]
pub(crate) struct Access {
    place: Place,
    api_server: SocketAddr,
    nodes: u8,
}

impl Access {
    /// Brings a cluster up, as `cluster up` does, and with it the upstream test suite.
    ///
    /// # Errors
    /// As `cluster up`.
    pub(crate) fn bring_up(name: &str, options: &Options) -> Result<Self> {
        let place: Place = name.parse().map_err(anyhow::Error::msg)?;
        components::e2e()?;
        up::run(&place, options)?;
        Ok(Self { place, api_server: plan::api_server(options.families), nodes: options.nodes })
    }

    /// A program of this machine that runs in the control plane's network namespace, as administrator.
    ///
    /// # Errors
    /// When the cluster is not up.
    pub(crate) fn enter(&self, program: &Path) -> Result<Command> {
        machine::beside(&self.place, Machine::ControlPlane, program)
    }

    /// Where the API server answers.
    pub(crate) fn api_server(&self) -> SocketAddr {
        self.api_server
    }

    /// How many nodes there are.
    pub(crate) fn nodes(&self) -> u8 {
        self.nodes
    }

    /// Applies objects, as YAML.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub(crate) fn apply(&self, yaml: &str) -> Result<()> {
        kubectl::apply(&self.place, yaml).map(drop)
    }

    /// Runs kubectl and gives its output.
    ///
    /// # Errors
    /// When it fails; with what it said.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        kubectl::run(&self.place, arguments)
    }

    /// The administrator's access.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.place.kubeconfig()
    }

    /// The folder of kubectl, ginkgo, `e2e.test` and all others.
    pub(crate) fn components(&self) -> PathBuf {
        place::components()
    }

    /// Imports an archive into every node.
    ///
    /// # Errors
    /// When a node refuses it.
    pub(crate) fn load(&self, archive: &Path) -> Result<()> {
        up::load(&self.place, archive)
    }
}

/// Takes a cluster down.
///
/// # Errors
/// As `cluster down`.
pub(crate) fn remove(name: &str) -> Result<()> {
    up::down(&name.parse().map_err(anyhow::Error::msg)?, false)
}
