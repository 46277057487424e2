//! What this node's object says about its network: the condition `NetworkUnavailable`, and the startup taint.
//!
//! Start at [`keep`]. Both wait until pods can be made: datapath in force → CNI configuration → condition → taint. Cloud
//! providers set the condition on new nodes and wait for whoever routes pods to clear it; an administrator registers
//! nodes with the taint, so that nothing is scheduled to a node before its network is there.
//!
//! **Invariant.** What somebody sets again later is cleared again: the object is watched as long as the agent runs. The
//! agent's end changes nothing, since the datapath goes on without it.

use std::{pin::pin, time::Duration};

use futures::StreamExt;
use k8s_openapi::{
    api::core::v1::{Node, NodeCondition, Taint},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    runtime::{
        WatchStreamExt,
        watcher::{self, DefaultBackoff, watcher},
    },
};
use serde_json::{Value, json};
use tracing::{debug, info, warn};

use crate::causes::Causes;

/// The condition (`k8s.io/api/core/v1`, `NodeNetworkUnavailable`).
const CONDITION: &str = "NetworkUnavailable";

/// Its reason: API, people look for it.
const REASON: &str = "SluiceIsUp";

const MESSAGE: &str = "Sluice is running on this node";

/// Keeps the condition false and the taint away until nothing else is to be done here; never ends.
pub async fn keep(client: Client, node: &str, taint: Option<&str>) {
    let api: Api<Node> = Api::all(client);
    let config = watcher::Config::default().fields(&format!("metadata.name={node}"));
    let mut changes = pin!(watcher(api.clone(), config).default_backoff().applied_objects());
    let mut complained = false;
    while let Some(change) = changes.next().await {
        match change {
            Ok(object) => {
                settle(&api, object, taint).await;
                complained = false;
            }
            Err(error) if !std::mem::replace(&mut complained, true) => {
                warn!(node, error = %Causes(&error), "node object not followed: trying again");
            }
            Err(error) => debug!(node, error = %Causes(&error), "node object still not followed"),
        }
    }
}

/// Brings the object into form, however often it takes.
async fn settle(api: &Api<Node>, mut object: Node, taint: Option<&str>) {
    let name = object.metadata.name.clone().unwrap_or_default();
    let mut backoff = DefaultBackoff::default();
    let mut complained = false;
    loop {
        let settled = async {
            write_condition(api, &name, &object).await?;
            remove_taint(api, &name, &object, taint).await
        };
        let Err(error) = settled.await else { return };
        // 409: somebody else has written meanwhile, which happens.
        let is_conflict = matches!(&error, kube::Error::Api(status) if status.is_conflict());
        if is_conflict || std::mem::replace(&mut complained, true) {
            debug!(node = name, error = %Causes(&error), "node object not written");
        } else {
            warn!(node = name, error = %Causes(&error), "node object not written: trying again");
        }
        tokio::time::sleep(backoff.next().unwrap_or(LONGEST_BACKOFF)).await;
        match api.get_opt(&name).await {
            Ok(Some(newer)) => object = newer,
            // Gone: there is nothing to write to, until it comes back.
            Ok(None) => return,
            Err(error) => debug!(node = name, error = %Causes(&error), "node object not read"),
        }
    }
}

/// The backoff never ends; if it did, this long.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

async fn write_condition(api: &Api<Node>, name: &str, object: &Node) -> kube::Result<()> {
    let Some(patch) = condition_patch(object, Timestamp::now()) else { return Ok(()) };
    api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
    info!(node = name, condition = CONDITION, reason = REASON, "node condition set to False");
    Ok(())
}

async fn remove_taint(api: &Api<Node>, name: &str, object: &Node, key: Option<&str>) -> kube::Result<()> {
    let Some(patch) = key.and_then(|key| taint_patch(object, key)) else { return Ok(()) };
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    info!(node = name, taint = key, "startup taint removed");
    Ok(())
}

/// The condition as it should be; `None` when it is. Conditions merge by their type, so others' stay.
fn condition_patch(object: &Node, now: Timestamp) -> Option<Value> {
    let conditions = object.status.as_ref().and_then(|status| status.conditions.as_ref());
    let found = conditions.into_iter().flatten().find(|condition| condition.type_ == CONDITION);
    let is_false = found.is_some_and(|condition| condition.status == "False");
    if is_false && found.is_some_and(|condition| condition.reason.as_deref() == Some(REASON)) {
        return None;
    }
    let since = found.filter(|_| is_false).and_then(|condition| condition.last_transition_time.clone());
    let condition = NodeCondition {
        type_: CONDITION.to_owned(),
        status: "False".to_owned(),
        reason: Some(REASON.to_owned()),
        message: Some(MESSAGE.to_owned()),
        last_heartbeat_time: Some(Time(now)),
        last_transition_time: Some(since.unwrap_or(Time(now))),
    };
    Some(json!({"status": {"conditions": [condition]}}))
}

/// The taints without that of `key`, whatever its effect; `None` when there is none. The list is replaced whole, so the
/// patch names the version it is made for: a taint that somebody adds meanwhile is not lost.
fn taint_patch(object: &Node, key: &str) -> Option<Value> {
    let taints = object.spec.as_ref()?.taints.as_ref()?;
    let stay: Vec<&Taint> = taints.iter().filter(|taint| taint.key != key).collect();
    let version = &object.metadata.resource_version;
    (stay.len() < taints.len())
        .then(|| json!({"metadata": {"resourceVersion": version}, "spec": {"taints": stay}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(spec: &Value, conditions: &Value) -> Node {
        let metadata = json!({"name": "n1", "resourceVersion": "7"});
        serde_json::from_value(
            json!({"metadata": metadata, "spec": spec, "status": {"conditions": conditions}}),
        )
        .expect("a node")
    }

    #[test]
    fn the_condition_is_written_unless_it_is_ours_already() {
        let now: Timestamp = "2030-01-01T00:00:00Z".parse().expect("a time");
        let ours = json!({"type": "NetworkUnavailable", "status": "False", "reason": "SluiceIsUp"});
        let (ready, spec) = (json!({"type": "Ready", "status": "True"}), json!({}));
        assert_eq!(condition_patch(&node(&spec, &json!([ready, ours])), now), None);
        for found in [
            json!([ready]),
            json!([{"type": "NetworkUnavailable", "status": "True", "reason": "NoRouteCreated"}]),
            json!([{"type": "NetworkUnavailable", "status": "False", "reason": "OtherIsUp"}]),
        ] {
            let patch = condition_patch(&node(&spec, &found), now).expect("a patch");
            let written = &patch["status"]["conditions"];
            assert_eq!(written.as_array().map(Vec::len), Some(1), "others' conditions are left alone");
            assert_eq!(
                (&written[0]["status"], &written[0]["reason"]),
                (&json!("False"), &json!("SluiceIsUp"))
            );
            assert_eq!(written[0]["lastTransitionTime"], "2030-01-01T00:00:00Z");
        }
    }

    #[test]
    fn the_taint_goes_with_every_effect_and_others_stay() {
        let taints = json!([{"key": "a/b", "effect": "NoSchedule"}, {"key": "other", "effect": "NoExecute", "value": "x"},
            {"key": "a/b", "effect": "NoExecute"}]);
        let tainted = node(&json!({"taints": taints}), &json!([]));
        let patch = taint_patch(&tainted, "a/b").expect("a patch");
        assert_eq!(patch["spec"]["taints"], json!([{"key": "other", "effect": "NoExecute", "value": "x"}]));
        assert_eq!(patch["metadata"]["resourceVersion"], "7", "made for this version alone");
        assert_eq!(taint_patch(&tainted, "c"), None);
        assert_eq!(taint_patch(&node(&json!({}), &json!([])), "a/b"), None);
    }
}
