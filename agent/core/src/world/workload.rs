//! Pods that a manifest will make: those of Deployments, StatefulSets and the like, from their templates.
//!
//! A workload stands for one pod of its own name, or, with several replicas, for two (`NAME-0`, `NAME-1`): enough to ask
//! whether replicas reach each other. Where pods are given that have all the labels of the template, in its namespace,
//! those count, and it stands for none.

use serde_json::{Map, Value, json};

/// Adds the pods that the workloads among these objects will make.
pub fn with_templates(mut objects: Vec<Value>) -> Vec<Value> {
    let made: Vec<Value> =
        objects.iter().filter(|object| !is_live(object, &objects)).flat_map(pods).collect();
    objects.extend(made);
    objects
}

/// Whether the pods of a workload are given themselves.
fn is_live(workload: &Value, objects: &[Value]) -> bool {
    let Some(template) = template(workload) else { return false };
    let labels = labels(template);
    let is_one = |object: &&Value| {
        object["apiVersion"] == "v1"
            && object["kind"] == "Pod"
            && namespace(object) == namespace(workload)
            && self::labels(object).is_some_and(|have| {
                labels.into_iter().flatten().all(|(key, value)| have.get(key) == Some(value))
            })
    };
    labels.is_some_and(|labels| !labels.is_empty()) && objects.iter().any(|object| is_one(&object))
}

fn namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().filter(|name| !name.is_empty()).unwrap_or("default")
}

fn labels(object: &Value) -> Option<&Map<String, Value>> {
    object["metadata"]["labels"].as_object()
}

/// The pod template of a workload.
fn template(object: &Value) -> Option<&Value> {
    let spec = &object["spec"];
    let template = match (object["apiVersion"].as_str()?, object["kind"].as_str()?) {
        ("apps/v1", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("batch/v1", "Job")
        | ("v1", "ReplicationController") => &spec["template"],
        ("batch/v1", "CronJob") => &spec["jobTemplate"]["spec"]["template"],
        _ => return None,
    };
    template.is_object().then_some(template)
}

/// The pods of a workload; none of anything else.
fn pods(workload: &Value) -> Vec<Value> {
    let (Some(template), Some(name)) = (template(workload), workload["metadata"]["name"].as_str()) else {
        return Vec::new();
    };
    let replicas = match workload["kind"].as_str() {
        Some("DaemonSet") => 2,
        _ => workload["spec"]["replicas"].as_i64().unwrap_or(1),
    };
    let names =
        if replicas > 1 { vec![format!("{name}-0"), format!("{name}-1")] } else { vec![name.to_owned()] };
    let pod = |name: String| {
        let mut metadata = template["metadata"].as_object().cloned().unwrap_or_default();
        metadata.insert("name".to_owned(), name.into());
        metadata.insert("namespace".to_owned(), namespace(workload).into());
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
    };
    names.into_iter().map(pod).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(objects: Vec<Value>) -> Vec<String> {
        let pods = with_templates(objects).into_iter().filter(|object| object["kind"] == "Pod");
        pods.map(|pod| format!("{}/{}", namespace(&pod), pod["metadata"]["name"].as_str().unwrap_or("?")))
            .collect()
    }

    fn deployment(replicas: i64) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"replicas": replicas, "template": {"metadata": {"labels": {"app": "web"}}, "spec": {}}}})
    }

    #[test]
    fn a_workload_stands_for_one_pod_and_with_replicas_for_two() {
        assert_eq!(names(vec![deployment(1)]), ["shop/web"]);
        assert_eq!(names(vec![deployment(5)]), ["shop/web-0", "shop/web-1"]);
        let job = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "sync"},
            "spec": {"jobTemplate": {"spec": {"template": {"spec": {}}}}}});
        assert_eq!(names(vec![job]), ["default/sync"]);
        assert_eq!(
            names(vec![json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}})]),
            [""; 0]
        );
    }

    #[test]
    fn pods_that_are_given_stand_for_themselves() {
        let pod = |namespace: &str| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web-x7", "namespace": namespace,
                "labels": {"app": "web", "pod-template-hash": "x7"}}})
        };
        assert_eq!(names(vec![deployment(2), pod("shop")]), ["shop/web-x7"]);
        assert_eq!(names(vec![deployment(1), pod("other")]), ["other/web-x7", "shop/web"]);
    }
}
