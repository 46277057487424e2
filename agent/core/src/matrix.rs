//! Who reaches whom on one port: every pod as source and as destination.
//!
//! **Invariant: a cell is [`explain`](crate::explain::explain)'s verdict.**

use serde::Serialize;

use crate::{
    explain::{Port, Protocol, port_on},
    reach::Reach,
    world::{Pod, World},
};

/// The answer.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Matrix {
    /// Namespace and name of every pod that has not finished, sorted.
    pub pods: Vec<String>,
    /// Row = source, column = destination, in the order of `pods`.
    pub allowed: Vec<Vec<bool>>,
}

/// Who reaches whom. A pod that has no port of that name is reached by nobody, nor is one without a common family.
pub fn matrix(world: &World, protocol: Protocol, port: &Port) -> Matrix {
    let ports: Vec<Option<u16>> =
        world.pods().iter().map(|pod| port_on(world, pod, port, protocol).ok()).collect();
    let mut numbers: Vec<u16> = ports.iter().flatten().copied().collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut reach = Reach::new(world, numbers.iter().map(|port| (protocol, *port)).collect());
    let mut row = |source: &Pod| {
        let cell = |(destination, port): (&Pod, &Option<u16>)| {
            let probe = port.and_then(|port| numbers.binary_search(&port).ok());
            probe.is_some_and(|probe| reach.allowed(source, destination).has(probe))
        };
        world.pods().iter().zip(&ports).map(cell).collect()
    };
    let allowed = world.pods().iter().map(&mut row).collect();
    Matrix { pods: world.pods().iter().map(|pod| pod.name.to_string()).collect(), allowed }
}
