//! What a plan of Services clears up when no program reads it any more. Other plans do not wait for that: it takes the
//! kernel several ticks, and changes come one upon the other.
//!
//! **Invariant: nobody else writes what waits here.** A plan that touches one of these entries comes after them.

use std::collections::BTreeSet;

use sluice_core::plan::{Entry, Key, Plan, Step};
use sluice_maps::{MapsError, grace_period};
use tokio::{
    task::{JoinError, JoinHandle},
    time::Instant,
};
use tracing::error;

use super::{RETRY, Reconciler, ended, strays::Before};
use crate::{apply::ApplyError, causes::Causes};

/// Steps that wait for readers.
#[derive(Debug, Default)]
pub(super) struct Clearing {
    /// For these it is being waited.
    waiting: Option<JoinHandle<Result<(), MapsError>>>,
    behind: Later,
    /// For these it will be when that is over: their readers may have begun since.
    next: Later,
}

/// Steps, and what is to be done when they are.
#[derive(Debug, Default)]
pub(super) struct Later {
    pub(super) steps: Plan,
    /// To plan once more: what did not fit may fit then.
    pub(super) plans_again: bool,
    /// To look for flows on backends that left their Service.
    pub(super) sweeps: bool,
}

impl Later {
    /// Whether other plans may come before these steps: slots, backends and names that nothing leads to.
    fn can_wait(&self) -> bool {
        self.steps.iter().all(|step| {
            matches!(
                step,
                Step::Grace
                    | Step::Put(Entry::Backend(..))
                    | Step::Delete(Key::Slot(_) | Key::Backend(_) | Key::ServiceMeta(_))
            )
        })
    }

    fn add(&mut self, other: Self) {
        self.steps.extend(other.steps);
        self.plans_again |= other.plans_again;
        self.sweeps |= other.sweeps;
    }
}

impl Clearing {
    /// Takes steps that begin with the wait for readers.
    fn add(&mut self, mut later: Later) {
        later.steps.retain(|step| *step != Step::Grace);
        self.next.add(later);
        self.wait();
    }

    fn wait(&mut self) {
        if self.waiting.is_none() && !self.next.steps.is_empty() {
            self.behind = std::mem::take(&mut self.next);
            self.waiting = Some(tokio::task::spawn_blocking(grace_period));
        }
    }

    /// Whether the plan touches what waits here.
    pub(super) fn is_in_the_way(&self, plan: &Plan) -> bool {
        let waiting: BTreeSet<Key> =
            self.behind.steps.iter().chain(&self.next.steps).filter_map(key).collect();
        !waiting.is_empty() && plan.iter().filter_map(key).any(|key| waiting.contains(&key))
    }

    /// Whether nothing waits.
    fn is_empty(&self) -> bool {
        self.behind.steps.is_empty() && self.next.steps.is_empty()
    }

    /// Waits for readers; without anything to wait for, for ever.
    pub(super) async fn ended(&mut self) -> Result<Result<(), MapsError>, JoinError> {
        ended(&mut self.waiting).await
    }

    /// What nobody reads any more, after [`Clearing::ended`]; it is waited for the rest.
    fn take(&mut self) -> Later {
        let done = std::mem::take(&mut self.behind);
        self.wait();
        done
    }

    /// Everything, for which nobody waits any more.
    pub(super) fn take_all(&mut self) -> Later {
        self.waiting = None;
        let mut all = std::mem::take(&mut self.behind);
        all.add(std::mem::take(&mut self.next));
        all
    }
}

impl Drop for Reconciler {
    /// Leaves nothing to clear up to the next agent.
    fn drop(&mut self) {
        let later = self.clearing.take_all();
        if let Err(error) = self.clear_all(&later) {
            error!(error = %Causes(&error), "what nothing leads to stays in the maps");
        }
    }
}

impl Reconciler {
    /// Clears up behind a plan: later, where others need not wait for it.
    pub(super) fn clear_up(&mut self, mut later: Later, before: &Before) -> Result<(), ApplyError> {
        if !later.can_wait() {
            self.finish_clearing()?;
            self.execute(&later.steps)?;
            later.sweeps = before.has_strays(&self.actual);
            self.follow_up(&later);
            return Ok(());
        }
        later.steps.iter().for_each(|step| self.actual.apply(step));
        later.sweeps = before.has_strays(&self.actual);
        if later.steps.is_empty() {
            self.follow_up(&later);
        } else {
            self.clearing.add(later);
        }
        Ok(())
    }

    pub(super) fn take_graced(&mut self, graced: Result<Result<(), MapsError>, JoinError>) {
        let later = match graced {
            Ok(Ok(())) => self.clearing.take(),
            Ok(Err(error)) => return self.give_up_clearing(&error),
            Err(error) => return self.give_up_clearing(&error),
        };
        match self.execute(&later.steps) {
            Ok(()) => self.follow_up(&later),
            Err(error) => self.give_up_clearing(&error),
        }
    }

    /// What was not cleared up is found in the maps by the next plan.
    fn give_up_clearing(&mut self, error: &dyn std::error::Error) {
        error!(error = %Causes(error), "not cleared up: trying again");
        self.read_back();
        self.dirty = true;
        self.retry_at = Some(Instant::now() + RETRY);
    }

    /// Clears up everything at once, after one wait for readers.
    pub(super) fn finish_clearing(&mut self) -> Result<(), ApplyError> {
        let later = self.clearing.take_all();
        self.clear_all(&later)?;
        self.follow_up(&later);
        Ok(())
    }

    fn clear_all(&mut self, later: &Later) -> Result<(), ApplyError> {
        if later.steps.is_empty() {
            return Ok(());
        }
        let wait = std::iter::once(&Step::Grace);
        self.execute(&wait.chain(&later.steps).copied().collect())
    }

    /// What is due when it has been cleared up.
    fn follow_up(&mut self, later: &Later) {
        if self.clearing.is_empty() {
            self.differ.cleared();
        }
        self.dirty |= later.plans_again;
        if later.sweeps {
            self.sweep();
        }
    }
}

fn key(step: &Step) -> Option<Key> {
    match step {
        Step::Put(entry) => Some(entry.key()),
        Step::Delete(key) => Some(*key),
        Step::Number(..) | Step::Epoch(_) | Step::Grace => None,
    }
}
