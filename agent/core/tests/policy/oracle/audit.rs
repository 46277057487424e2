//! Which policies are enforced: `sluice.dev/mode` of a policy, else of its namespace.

use serde_json::Value;

/// The objects without the policies that are audited.
pub(crate) fn enforced(objects: &[Value]) -> Vec<Value> {
    fn mode_of(object: &Value) -> Option<&str> {
        object["metadata"]["annotations"]["sluice.dev/mode"].as_str()
    }
    let of_namespace = |name: &Value| {
        let named = |object: &&Value| object["kind"] == "Namespace" && object["metadata"]["name"] == *name;
        objects.iter().find(named).and_then(mode_of)
    };
    let is_audited = |object: &Value| match object["kind"].as_str() {
        Some("NetworkPolicy") => {
            mode_of(object).or_else(|| of_namespace(&object["metadata"]["namespace"])) == Some("audit")
        }
        Some("ClusterNetworkPolicy") => mode_of(object) == Some("audit"),
        _ => false,
    };
    objects.iter().filter(|object| !is_audited(object)).cloned().collect()
}
