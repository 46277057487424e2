//! The API server's protocol: lists in pages or streamed, watches, what happens when they break, and Events.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use rtnetlink::LinkUnspec;
use serde_json::{Value, json};
use sluice_agent::{
    notice::{self, Notice, Reason},
    watch::{Event, kube},
};
use sluice_core::{
    cluster::Change,
    object::{NamespacedName, ObjectKey},
};
use sluice_maps::testing::PrivateBpffs;
use tokio::sync::mpsc;

mod netns;

const PLURALS: [&str; 7] = [
    "namespaces",
    "nodes",
    "pods",
    "services",
    "endpointslices",
    "networkpolicies",
    "clusternetworkpolicies",
];

/// An API server that says what a test tells it to.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<Script>>);

#[derive(Default)]
struct Script {
    /// Whether lists can be streamed.
    streams: bool,
    /// A kind that does not exist (yet).
    missing: Option<&'static str>,
    /// Whether discovery says that there are ClusterNetworkPolicies.
    defines: bool,
    /// Names of objects by plural.
    objects: BTreeMap<&'static str, Vec<&'static str>>,
    /// Objects by name that have another `spec` than an empty one.
    specs: BTreeMap<&'static str, Value>,
    /// Names of Events that somebody has created before.
    taken: BTreeSet<String>,
    /// The open watches.
    watches: Vec<(String, mpsc::UnboundedSender<Bytes>)>,
    /// Every request line.
    requests: Vec<String>,
    /// What was written: method, path, body.
    written: Vec<(Method, String, Value)>,
}

impl Server {
    fn new(script: Script) -> Self {
        Self(Arc::new(Mutex::new(script)))
    }

    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.0.lock().expect("no test panics inside")
    }

    /// Listens; the URL.
    async fn listen(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("its address");
        let router = axum::Router::new().fallback(answer).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{at}")
    }

    /// Listens; a client.
    async fn client(&self) -> ::kube::Client {
        let config = ::kube::Config::new(self.listen().await.parse().expect("a URL"));
        ::kube::Client::try_from(config).expect("a client")
    }

    /// Listens, and follows itself by the code under test.
    async fn follow(&self) -> Follower {
        let client = self.client().await;
        let (sender, events) = mpsc::channel(8);
        tokio::spawn(async move { kube::follow(client, &sender).await });
        Follower { events, known: BTreeSet::new(), unreadable: Vec::new() }
    }

    fn say(&self, plural: &str, kind: &str, object: &Value) {
        let line = event(kind, object);
        let script = self.script();
        let watches: Vec<_> = script.watches.iter().filter(|(watched, _)| watched == plural).collect();
        let (_, last) = watches.last().expect("an open watch");
        last.send(line).expect("an open watch");
    }

    /// Ends every watch of a kind.
    fn hang_up(&self, plural: &str) {
        self.script().watches.retain(|(watched, _)| watched != plural);
    }
}

fn object(plural: &str, name: &str, version: u32) -> Value {
    let namespace =
        (!matches!(plural, "namespaces" | "nodes" | "clusternetworkpolicies")).then_some("default");
    json!({"metadata": {"name": name, "namespace": namespace, "resourceVersion": version.to_string(), "managedFields": [{}]}})
}

/// A line of a watch, its fields in the order of the API server.
fn event(kind: &str, object: &Value) -> Bytes {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n").into()
}

/// The object of that name, with the `spec` the script gives it.
fn scripted(plural: &str, name: &str, script: &Script) -> Value {
    let mut object = object(plural, name, 1);
    object["spec"] = script.specs.get(name).cloned().unwrap_or_else(|| json!({}));
    object
}

async fn answer(State(server): State<Server>, method: Method, uri: Uri, body: Bytes) -> Response {
    if method != Method::GET {
        let written: Value = serde_json::from_slice(&body).expect("JSON");
        let mut script = server.script();
        script.written.push((method.clone(), uri.path().to_owned(), written.clone()));
        let name = written["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if method == Method::POST && !script.taken.insert(name) {
            return refusal(StatusCode::CONFLICT, "AlreadyExists");
        }
        return axum::Json(written).into_response();
    }
    let plural = uri.path().rsplit('/').next().unwrap_or_default().to_owned();
    let query = uri.query().unwrap_or_default();
    let mut script = server.script();
    script.requests.push(uri.to_string());
    if script.missing.is_some_and(|missing| missing == plural) {
        return status(StatusCode::NOT_FOUND);
    }
    if let Some(found) = discovery(uri.path(), script.defines) {
        return axum::Json(found).into_response();
    }
    if let Some((plural, name)) = single(uri.path()) {
        return metadata(plural, name, &script);
    }
    let names = script.objects.get(plural.as_str()).cloned().unwrap_or_default();
    if !query.contains("watch=true") {
        return list(&plural, &names, query, &script);
    }
    let (sender, mut lines) = mpsc::unbounded_channel::<Bytes>();
    if query.contains("sendInitialEvents=true") {
        if !script.streams {
            return status(StatusCode::UNPROCESSABLE_ENTITY);
        }
        for name in names {
            sender.send(event("ADDED", &scripted(&plural, name, &script))).expect("open");
        }
        let annotations = json!({"k8s.io/initial-events-end": "true"});
        let end = json!({"apiVersion": "v1", "kind": "X",
            "metadata": {"resourceVersion": "5", "annotations": annotations}});
        sender.send(event("BOOKMARK", &end)).expect("open");
    }
    script.watches.push((plural, sender));
    let stream = futures::stream::poll_fn(move |context| {
        lines.poll_recv(context).map(|line| line.map(Ok::<_, std::io::Error>))
    });
    Body::from_stream(stream).into_response()
}

/// What the server says that it has.
fn discovery(path: &str, defines: bool) -> Option<Value> {
    let version = json!({"groupVersion": "policy.networking.k8s.io/v1alpha2", "version": "v1alpha2"});
    let group =
        json!({"name": "policy.networking.k8s.io", "versions": [version], "preferredVersion": version});
    let resource = json!({"name": "clusternetworkpolicies", "singularName": "", "namespaced": false,
        "kind": "ClusterNetworkPolicy", "verbs": ["list", "watch"]});
    match path {
        "/apis" => {
            let groups = if defines { vec![group] } else { Vec::new() };
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        "/apis/policy.networking.k8s.io/v1alpha2" => Some(json!({"kind": "APIResourceList",
            "apiVersion": "v1", "groupVersion": version["groupVersion"], "resources": [resource]})),
        _ => None,
    }
}

/// Plural and name, when the path is one namespaced object's.
fn single(path: &str) -> Option<(&str, &str)> {
    let (_, rest) = path.split_once("/namespaces/")?;
    let (_, rest) = rest.split_once('/')?;
    rest.split_once('/')
}

fn metadata(plural: &str, name: &str, script: &Script) -> Response {
    if !script.objects.get(plural).is_some_and(|names| names.contains(&name)) {
        return status(StatusCode::NOT_FOUND);
    }
    let metadata = json!({"name": name, "uid": format!("uid-of-{name}")});
    axum::Json(json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata}))
        .into_response()
}

/// One object a page.
fn list(plural: &str, names: &[&str], query: &str, script: &Script) -> Response {
    let page =
        query.split('&').find_map(|part| part.strip_prefix("continue=")?.parse().ok()).unwrap_or(0_usize);
    let items: Vec<Value> =
        names.iter().skip(page).take(1).map(|name| scripted(plural, name, script)).collect();
    let next = (page + 1 < names.len()).then(|| (page + 1).to_string());
    let metadata = json!({"resourceVersion": "5", "continue": next});
    axum::Json(json!({"kind": "XList", "apiVersion": "v1", "metadata": metadata, "items": items}))
        .into_response()
}

fn status(code: StatusCode) -> Response {
    refusal(code, if code == StatusCode::NOT_FOUND { "NotFound" } else { "No" })
}

fn refusal(code: StatusCode, reason: &str) -> Response {
    let body = json!({"kind": "Status", "status": "Failure", "code": code.as_u16(), "message": "no", "reason": reason});
    (code, axum::Json(body)).into_response()
}

struct Follower {
    events: mpsc::Receiver<Event>,
    known: BTreeSet<String>,
    /// What could not be read.
    unreadable: Vec<String>,
}

impl Follower {
    async fn next(&mut self) -> Event {
        tokio::time::timeout(Duration::from_secs(20), self.events.recv())
            .await
            .expect("in time")
            .expect("goes on")
    }

    /// Takes in changes until the mark that all was told; what is known then.
    async fn synced(&mut self) -> Vec<String> {
        loop {
            match self.next().await {
                Event::Synced => return self.known.iter().cloned().collect(),
                Event::Change(change) => self.take(change),
                Event::Changes(changes) => changes.into_iter().for_each(|change| self.take(change)),
                Event::Unreadable(unreadable) => self.unreadable.push(unreadable.key.to_string()),
            }
        }
    }

    fn take(&mut self, change: Change) {
        match change {
            Change::Upsert(object) => drop(self.known.insert(object.key().to_string())),
            Change::Delete(key) => assert!(self.known.remove(&key.to_string()), "{key} was known"),
            Change::Attach(_) | Change::Detach(_) | Change::NodeAddresses(_) | Change::UplinkAddresses(_) => {
                unreachable!("{change:?}")
            }
        }
    }

    /// Takes in changes until what is known is this.
    async fn until(&mut self, want: &[&str]) {
        while !self.known.iter().eq(want) {
            match self.next().await {
                Event::Change(change) => self.take(change),
                Event::Changes(changes) => changes.into_iter().for_each(|change| self.take(change)),
                Event::Unreadable(unreadable) => self.unreadable.push(unreadable.key.to_string()),
                Event::Synced => panic!("synced twice"),
            }
        }
    }
}

fn everything() -> BTreeMap<&'static str, Vec<&'static str>> {
    PLURALS.into_iter().map(|plural| (plural, vec!["a", "b"])).collect()
}

fn two_pods() -> BTreeMap<&'static str, Vec<&'static str>> {
    BTreeMap::from([("pods", vec!["a", "b"])])
}

#[tokio::test]
async fn streamed_lists_are_told_before_synced_and_followed_after() {
    let server = Server::new(Script { streams: true, objects: everything(), ..Script::default() });
    let mut follower = server.follow().await;
    assert_eq!(follower.synced().await.len(), 14);
    assert!(server.script().requests.iter().all(|line| line.contains("watch=true")), "nothing was listed");
    server.say("pods", "ADDED", &object("pods", "c", 6));
    server.say("pods", "DELETED", &object("pods", "a", 7));
    server.say("pods", "DELETED", &object("pods", "b", 8));
    let others = follower.known.iter().filter(|key| !key.starts_with("Pod ")).cloned().collect::<Vec<_>>();
    let mut want: Vec<&str> = others.iter().map(String::as_str).chain(["Pod default/c"]).collect();
    want.sort_unstable();
    follower.until(&want).await;
}

#[tokio::test]
async fn a_server_that_cannot_stream_is_listed_page_by_page() {
    let server = Server::new(Script { objects: everything(), ..Script::default() });
    let mut follower = server.follow().await;
    assert_eq!(follower.synced().await.len(), 14);
    let script = server.script();
    let pages = |line: &&String| line.contains("/api/v1/pods") && line.contains("limit=500");
    assert_eq!(script.requests.iter().filter(pages).count(), 2, "{:?}", script.requests);
}

#[tokio::test]
async fn a_watch_goes_on_from_the_last_bookmark() {
    let server = Server::new(Script { streams: true, objects: two_pods(), ..Script::default() });
    let mut follower = server.follow().await;
    follower.synced().await;
    let bookmark = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"resourceVersion": "77"}});
    server.say("pods", "BOOKMARK", &bookmark);
    server.hang_up("pods");
    let resumed = async {
        while !server
            .script()
            .requests
            .iter()
            .any(|line| line.contains("pods") && line.contains("resourceVersion=77"))
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), resumed).await.expect("resumed where it was");
}

#[tokio::test]
async fn a_watch_that_starts_over_deletes_what_vanished_meanwhile() {
    for streams in [true, false] {
        let server = Server::new(Script { streams, objects: two_pods(), ..Script::default() });
        let mut follower = server.follow().await;
        assert_eq!(follower.synced().await, ["Pod default/a", "Pod default/b"]);
        while !server.script().watches.iter().any(|(plural, _)| plural == "pods") {
            tokio::task::yield_now().await;
        }
        server.script().objects.insert("pods", vec!["b", "c"]);
        let gone = json!({"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"});
        server.say("pods", "ERROR", &gone);
        follower.until(&["Pod default/b", "Pod default/c"]).await;
    }
}

#[tokio::test]
async fn while_a_kind_does_not_exist_not_everything_was_told() {
    let objects = BTreeMap::from([("pods", vec!["a"])]);
    let server =
        Server::new(Script { streams: true, missing: Some("networkpolicies"), objects, ..Script::default() });
    let mut follower = server.follow().await;
    follower.until(&["Pod default/a"]).await;
    let is_asked_again = || {
        let script = server.script();
        script.requests.iter().filter(|line| line.contains("networkpolicies")).count() > 1
    };
    eventually(is_asked_again).await;
    assert!(follower.events.is_empty(), "not synced");
    server.script().missing = None;
    server.script().objects.insert("networkpolicies", vec!["p"]);
    assert_eq!(follower.synced().await, ["NetworkPolicy default/p", "Pod default/a"]);
}

#[tokio::test]
async fn a_cluster_without_cluster_network_policies_is_told_whole_and_takes_them_once_they_are_defined() {
    for streams in [true, false] {
        let missing = Some("clusternetworkpolicies");
        let objects = BTreeMap::from([("pods", vec!["a"])]);
        let server = Server::new(Script { streams, missing, objects, ..Script::default() });
        let mut follower = server.follow().await;
        assert_eq!(follower.synced().await, ["Pod default/a"]);
        server.script().objects.insert("clusternetworkpolicies", vec!["c"]);
        server.script().defines = true;
        server.script().missing = None;
        follower.until(&["ClusterNetworkPolicy c", "Pod default/a"]).await;
        // The definition goes, and all of its objects with it.
        server.script().defines = false;
        server.script().missing = missing;
        server.hang_up("clusternetworkpolicies");
        follower.until(&["Pod default/a"]).await;
    }
}

#[tokio::test]
async fn a_resource_that_is_not_found_but_defined_is_no_empty_one() {
    let missing = Some("clusternetworkpolicies");
    let server = Server::new(Script { streams: true, defines: true, missing, ..Script::default() });
    let mut follower = server.follow().await;
    let asked = || {
        let script = server.script();
        script.requests.iter().filter(|line| line.contains("clusternetworkpolicies")).count() > 1
    };
    eventually(asked).await;
    assert!(follower.events.is_empty(), "not synced");
    server.script().missing = None;
    server.script().objects.insert("clusternetworkpolicies", vec!["c"]);
    assert_eq!(follower.synced().await, ["ClusterNetworkPolicy c"]);
}

#[tokio::test]
async fn an_object_that_cannot_be_read_keeps_nobody_waiting() {
    for streams in [true, false] {
        let objects =
            BTreeMap::from([("networkpolicies", vec!["odd", "good"]), ("pods", vec!["broken", "a"])]);
        let specs =
            BTreeMap::from([("odd", json!({"ingress": "all"})), ("broken", json!({"containers": 7}))]);
        let server = Server::new(Script { streams, objects, specs, ..Script::default() });
        let mut follower = server.follow().await;
        // The policy is known because it isolates; the pod is not, and stays unknown.
        let known = ["NetworkPolicy default/good", "NetworkPolicy default/odd", "Pod default/a"];
        assert_eq!(follower.synced().await, known, "streams: {streams}");
        follower.unreadable.sort_unstable();
        assert_eq!(follower.unreadable, ["NetworkPolicy default/odd", "Pod default/broken"]);

        // What was readable and is no more stays as it was; what is deleted goes, readable or not.
        while !server.script().watches.iter().any(|(plural, _)| plural == "pods") {
            tokio::task::yield_now().await;
        }
        let mut a = object("pods", "a", 6);
        a["spec"] = json!({"containers": 7});
        server.say("pods", "MODIFIED", &a);
        server.say("pods", "ADDED", &object("pods", "b", 7));
        follower
            .until(&[
                "NetworkPolicy default/good",
                "NetworkPolicy default/odd",
                "Pod default/a",
                "Pod default/b",
            ])
            .await;
        assert_eq!(follower.unreadable.last().map(String::as_str), Some("Pod default/a"));
        server.say("pods", "DELETED", &a);
        follower.until(&["NetworkPolicy default/good", "NetworkPolicy default/odd", "Pod default/b"]).await;
    }
}

fn does_not_fit(service: &str) -> Notice {
    Notice {
        regarding: ObjectKey::Service(NamespacedName::new("shop", service)),
        reason: Reason::DoesNotFit,
        note: format!("SLOTS has no room for Service shop/{service}"),
    }
}

#[tokio::test]
async fn events_name_their_object_count_repetitions_and_skip_what_is_gone() {
    let objects = BTreeMap::from([("services", vec!["db"])]);
    let server = Server::new(Script { objects, ..Script::default() });
    let (sender, notices) = mpsc::channel(8);
    for service in ["gone", "db", "db"] {
        sender.send(does_not_fit(service)).await.expect("room");
    }
    drop(sender);
    notice::publish(server.client().await, "n1", notices).await;

    let script = server.script();
    let [(created, path, event), (changed, changed_path, series)] = &script.written[..] else {
        panic!("two writes, none of them about what is gone: {:?}", script.written);
    };
    assert_eq!((created, path.as_str()), (&Method::POST, "/apis/events.k8s.io/v1/namespaces/shop/events"));
    let regarding =
        json!({"apiVersion": "v1", "kind": "Service", "namespace": "shop", "name": "db", "uid": "uid-of-db"});
    assert_eq!(event["regarding"], regarding);
    for (field, want) in [
        ("type", "Warning"),
        ("reason", "DoesNotFit"),
        ("note", "SLOTS has no room for Service shop/db"),
        ("reportingController", "sluice.dev/agent"),
        ("reportingInstance", "n1"),
    ] {
        assert_eq!(event[field], want, "{field}");
    }
    let name = event["metadata"]["name"].as_str().expect("a name");
    assert_eq!((changed, changed_path.as_str()), (&Method::PATCH, format!("{path}/{name}").as_str()));
    assert_eq!(series["series"]["count"], 2);
}

#[tokio::test]
async fn nodes_that_say_the_same_make_one_event() {
    let objects = BTreeMap::from([("services", vec!["db"])]);
    let server = Server::new(Script { objects, ..Script::default() });
    for node in ["n1", "n2", "n3"] {
        let (sender, notices) = mpsc::channel(8);
        for _ in 0..2 {
            sender.send(does_not_fit("db")).await.expect("room");
        }
        drop(sender);
        notice::publish(server.client().await, node, notices).await;
    }
    let script = server.script();
    let of = |wanted: Method| script.written.iter().filter(move |(method, ..)| *method == wanted);
    let names: BTreeSet<_> =
        of(Method::POST).map(|(.., event)| event["metadata"]["name"].as_str().expect("a name")).collect();
    assert_eq!(names.len(), 1, "{:?}", script.written);
    assert_eq!(of(Method::PATCH).count(), 1, "who created it counts, the others are silent");
}

/// The agent's binary; it ends with the test.
struct Agent(Child);

impl Agent {
    fn start(server: &str, folder: &Path, bpffs: &Path) -> Self {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": server}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "users": [{"name": "test", "user": {}}],
        });
        fs::write(folder.join("kubeconfig"), config.to_string()).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice-agent"));
        command
            .env("KUBECONFIG", folder.join("kubeconfig"))
            .args(["--node-name", "n1", "--cgroup-root", "none"])
            .arg("--bpffs")
            .arg(bpffs);
        command.arg("--socket").arg(folder.join("agent.sock")).arg("--state-dir").arg(folder.join("state"));
        command.arg("--cni-conf-dir").arg(folder).arg("--lease-dir").arg(folder.join("leases"));
        Self(command.stderr(Stdio::null()).spawn().expect("the agent"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_policy_that_is_not_understood_gets_an_event() {
    netns::within(|| async {
        let handle = netns::connect();
        handle.link().set(LinkUnspec::new_with_name("lo").up().build()).execute().await.expect("loopback");
        netns::add_veth(&handle, "up0", &[("10.0.0.1", 24)]).await;
        let (bpffs, folder) = (PrivateBpffs::mount(), tempfile::tempdir().expect("a folder"));
        let objects = BTreeMap::from([("networkpolicies", vec!["odd"])]);
        let server = Server::new(Script { streams: true, objects, ..Script::default() });
        let _agent = Agent::start(&server.listen().await, folder.path(), bpffs.path());

        let is_watched = || server.script().watches.iter().any(|(plural, _)| plural == "networkpolicies");
        eventually(is_watched).await;
        let spec = json!({"podSelector": {}, "ingress": [{"ports": [{"port": 70000}]}]});
        let mut policy = object("networkpolicies", "odd", 6);
        policy["spec"] = spec;
        server.say("networkpolicies", "MODIFIED", &policy);
        eventually(|| !server.script().written.is_empty()).await;

        let (method, path, event) = server.script().written.remove(0);
        assert_eq!(
            (method, path.as_str()),
            (Method::POST, "/apis/events.k8s.io/v1/namespaces/default/events")
        );
        let regarding = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "namespace": "default",
            "name": "odd", "uid": "uid-of-odd"});
        assert_eq!(event["regarding"], regarding);
        assert_eq!((&event["reason"], &event["note"]), (&json!("NotUnderstood"), &json!("70000 is no port")));
        assert_eq!(event["reportingInstance"], "n1");
    });
}

#[test]
fn the_node_is_told_that_its_network_is_there_after_the_configuration_and_again_when_it_is_reset() {
    netns::within(|| async {
        let handle = netns::connect();
        handle.link().set(LinkUnspec::new_with_name("lo").up().build()).execute().await.expect("loopback");
        netns::add_veth(&handle, "up0", &[("10.0.0.1", 24)]).await;
        let (bpffs, folder) = (PrivateBpffs::mount(), tempfile::tempdir().expect("a folder"));
        let objects = BTreeMap::from([("nodes", vec!["n1"])]);
        let taints = json!([{"key": "node.sluice.dev/agent-not-ready", "effect": "NoExecute"}, {"key": "other", "effect": "NoSchedule"}]);
        let spec = json!({"podCIDRs": ["10.244.1.0/24"], "taints": taints});
        let specs = BTreeMap::from([("n1", spec.clone())]);
        let server = Server::new(Script { streams: true, objects, specs, ..Script::default() });
        let conflist = folder.path().join("10-sluice.conflist");
        let _agent = Agent::start(&server.listen().await, folder.path(), bpffs.path());

        eventually(|| !server.script().written.is_empty()).await;
        assert!(conflist.exists(), "pods can be made by then");
        eventually(|| server.script().written.len() == 2).await;
        let written = std::mem::take(&mut server.script().written);
        let paths: Vec<_> =
            written.iter().map(|(method, path, _)| (method.as_str(), path.as_str())).collect();
        assert_eq!(paths, [("PATCH", "/api/v1/nodes/n1/status"), ("PATCH", "/api/v1/nodes/n1")]);
        let condition = &written[0].2["status"]["conditions"][0];
        assert_eq!(
            (&condition["type"], &condition["status"]),
            (&json!("NetworkUnavailable"), &json!("False"))
        );
        assert_eq!(condition["reason"], "SluiceIsUp");
        assert_eq!(written[1].2["spec"]["taints"], json!([{"key": "other", "effect": "NoSchedule"}]));
        assert_eq!(written[1].2["metadata"]["resourceVersion"], "1");

        // A cloud controller sets the condition again; the taint is gone.
        let is_followed =
            || server.script().watches.iter().filter(|(plural, _)| plural == "nodes").count() == 2;
        eventually(is_followed).await;
        let mut reset = object("nodes", "n1", 7);
        reset["status"] = json!({"conditions": [{"type": "NetworkUnavailable", "status": "True"}]});
        server.say("nodes", "MODIFIED", &reset);
        eventually(|| !server.script().written.is_empty()).await;
        assert_eq!(server.script().written[0].1, "/api/v1/nodes/n1/status");
    });
}

/// What happens in other tasks and processes, which this one serves meanwhile.
async fn eventually(happened: impl Fn() -> bool) {
    let wait = async {
        while !happened() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("in time");
}
