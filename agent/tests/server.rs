//! The protocol of `sluice-api`, over a real unix socket.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::PathBuf,
    time::Duration,
};

use sluice_agent::{
    request::{Attachment, NotInForce, NotReady, Request, UnknownEndpoint},
    server::Server,
};
use sluice_api::{
    client::{Client, ClientError},
    endpoint::{EndpointStatus, Registered, Registration},
};
use tempfile::TempDir;
use tokio::{sync::mpsc, task::JoinHandle};

/// A server, and the questions it passes on.
struct Served {
    dir: TempDir,
    requests: mpsc::Receiver<Request>,
    task: JoinHandle<()>,
}

impl Served {
    fn start() -> Self {
        Self::start_in(tempfile::tempdir().expect("a folder"))
    }

    fn start_in(dir: TempDir) -> Self {
        let server = Server::bind(&dir.path().join("run/agent.sock")).expect("a socket");
        let (sender, requests) = mpsc::channel(8);
        let task = tokio::spawn(async move { server.run(sender).await.expect("serving") });
        Self { dir, requests, task }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("run/agent.sock")
    }

    async fn client(&self) -> Client {
        Client::connect(&self.socket()).await.expect("a connection")
    }

    async fn asked(&mut self) -> Request {
        self.requests.recv().await.expect("a question")
    }
}

fn registration() -> Registration {
    Registration {
        container: "5f3c".to_owned(),
        ifname: "eth0".to_owned(),
        host_ifname: "sl5f3c".to_owned(),
        host_ifindex: 7,
        mac: "02:00:00:00:00:0a".to_owned(),
        addresses: vec!["10.0.0.7".parse().expect("an address")],
        pod_namespace: "shop".to_owned(),
        pod_name: "db-0".to_owned(),
        pod_uid: None,
    }
}

fn refusal(error: ClientError) -> (u16, String) {
    let ClientError::Refused { status, message } = error else { panic!("{error:?}") };
    (status.as_u16(), message)
}

#[tokio::test]
async fn every_call_of_the_table_is_answered() {
    let mut served = Served::start();
    let mut client = served.client().await;
    let at = Attachment { container: "5f3c".to_owned(), ifname: "eth0".to_owned() };
    let wanted = registration();

    let (answer, ()) = tokio::join!(client.register(&wanted), async {
        let Request::Register { registration: got, answer } = served.asked().await else {
            panic!("a registration")
        };
        assert_eq!(got, registration());
        answer.send(Ok(Registered { endpoint: 3 })).expect("an asker");
    });
    assert_eq!(answer.expect("registered").endpoint, 3);

    let (answer, ()) = tokio::join!(client.await_in_force("5f3c", "eth0", Duration::from_secs(20)), async {
        let Request::AwaitInForce { at: got, answer } = served.asked().await else { panic!("a wait") };
        assert_eq!(got, at);
        answer.send(Ok(())).expect("an asker");
    });
    answer.expect("in force");

    let status = EndpointStatus { endpoint: 3, registration: registration(), in_force: true };
    let (answer, ()) = tokio::join!(client.endpoints(), async {
        let Request::List { answer } = served.asked().await else { panic!("a list") };
        answer.send(vec![status.clone()]).expect("an asker");
    });
    assert_eq!(answer.expect("a list"), [status]);

    let (answer, ()) = tokio::join!(client.remove("5f3c", "eth0"), async {
        let Request::Remove { at: got, answer } = served.asked().await else { panic!("a removal") };
        assert_eq!(got, at);
        answer.send(()).expect("an asker");
    });
    answer.expect("removed");

    let (answer, ()) = tokio::join!(client.ready(), async {
        let Request::Ready { answer } = served.asked().await else { panic!("a question") };
        answer.send(Err(NotReady::NotSynced)).expect("an asker");
    });
    assert_eq!(refusal(answer.expect_err("not ready")), (503, NotReady::NotSynced.to_string()));
}

#[tokio::test]
async fn a_wait_that_lasts_too_long_is_a_504_with_its_reason() {
    let mut served = Served::start();
    let mut client = served.client().await;
    let (answer, ()) =
        tokio::join!(client.await_in_force("5f3c", "eth0", Duration::from_millis(20)), async {
            let Request::AwaitInForce { answer: never, .. } = served.asked().await else { panic!("a wait") };
            let Request::WhyNotInForce { answer, .. } = served.asked().await else { panic!("a question") };
            assert!(never.is_closed(), "nobody waits any more");
            answer.send(NotInForce::NotSynced).expect("an asker");
        });
    let (status, message) = refusal(answer.expect_err("too long"));
    assert_eq!(status, 504);
    assert!(message.contains("objects are not known yet"), "{message}");
}

#[tokio::test]
async fn an_endpoint_that_nobody_registered_is_a_404() {
    let mut served = Served::start();
    let mut client = served.client().await;
    let (answer, ()) = tokio::join!(client.await_in_force("5f3c", "eth0", Duration::from_secs(20)), async {
        let Request::AwaitInForce { at, answer } = served.asked().await else { panic!("a wait") };
        answer.send(Err(UnknownEndpoint { at })).expect("an asker");
    });
    assert_eq!(
        refusal(answer.expect_err("unknown")),
        (404, "endpoint 5f3c/eth0 is not registered".to_owned())
    );
}

#[tokio::test]
async fn what_is_no_call_is_refused_in_words() {
    use std::io::{Read, Write};

    let served = Served::start();
    let socket = served.socket();
    let cases = [
        ("GET /v2/endpoints", "", 404),
        ("POST /v1/endpoints", "", 405),
        ("GET /v1/endpoints/a/b/in-force", "", 400),
        ("GET /v1/endpoints/a/b/in-force?timeout_ms=-1", "", 400),
        ("PUT /v1/endpoints/a/b", "{", 400),
        ("PUT /v1/endpoints/a/b", "{\"container\": 1}", 422),
    ];
    let answers = tokio::task::spawn_blocking(move || {
        cases.map(|(line, body, want)| {
            let mut stream = UnixStream::connect(&socket).expect("a connection");
            let length = body.len();
            write!(
                stream,
                "{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
            )
            .expect("sent");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer");
            (line, want, answer)
        })
    });
    for (line, want, answer) in answers.await.expect("all asked") {
        assert!(answer.starts_with(&format!("HTTP/1.1 {want} ")), "{line}: {answer}");
        assert!(answer.contains("{\"message\":"), "{line}: {answer}");
    }
}

#[tokio::test]
async fn names_in_path_and_body_must_agree() {
    let served = Served::start();
    let mut client = served.client().await;
    // The client takes the path from the body, so a slash in a name makes them differ.
    let odd = Registration { container: "a/b".to_owned(), ..registration() };
    assert_eq!(refusal(client.register(&odd).await.expect_err("refused")).0, 404);
}

#[tokio::test]
async fn the_socket_is_roots_alone_replaces_a_stale_one_and_goes_with_the_server() {
    let dir = tempfile::tempdir().expect("a folder");
    let socket = dir.path().join("run/agent.sock");
    fs::create_dir(dir.path().join("run")).expect("a folder");
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("a stale socket"));
    assert!(Client::connect(&socket).await.is_err(), "nobody listens");
    let served = Served::start_in(dir);
    assert_eq!(fs::metadata(&socket).expect("the socket").permissions().mode() & 0o777, 0o600);
    served.client().await;
    served.task.abort();
    assert!(served.task.await.expect_err("stopped").is_cancelled());
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_successors_socket_is_left_alone() {
    let first = Served::start();
    let second = Server::bind(&first.socket()).expect("a successor");
    first.task.abort();
    assert!(first.task.await.expect_err("stopped").is_cancelled());
    assert!(first.dir.path().join("run/agent.sock").exists());
    drop(second);
}
