//! The dumps against real maps with known content: output is compared with `tests/golden`; `UPDATE=1` rewrites it.
//! Needs root.

use std::{
    os::unix::net::UnixListener,
    path::Path,
    process::{Command, Output, Stdio},
};

use sluice_abi::{DropKey, DropReason, DropRecord, maps};
use sluice_maps::{Maps, testing::PrivateBpffs};

mod content;

#[test]
fn endpoints_show_who_isolates_them_and_whether_they_are_in_force() {
    golden("endpoints", &["endpoints"]);
}

#[test]
fn services_show_their_backends() {
    golden("services", &["services"]);
}

#[test]
fn a_trace_says_which_backend_a_flow_gets_and_why() {
    for (name, from, to) in [
        ("affinity", "shop/web-0", "10.96.0.20:80"),
        ("refused", "shop/web-0", "10.96.0.20:81"),
        ("node-port", "node", "192.0.2.10:30080"),
        ("local", "198.51.100.7", "192.0.2.10:30080"),
        ("maglev", "198.51.100.7", "203.0.113.80:80"),
        ("source-range", "192.0.2.99", "203.0.113.80:80"),
        ("source-range-pod", "shop/web-0", "203.0.113.80:80"),
        ("source-range-node", "node", "203.0.113.80:80"),
        ("only", "10.1.0.6", "203.0.113.90:80"),
        ("inside-only", "198.51.100.7", "203.0.113.90:80"),
        ("no-service", "shop/web-0", "198.51.100.7:443"),
    ] {
        golden(&format!("trace-{name}"), &["services", "trace", "--from", from, "--to", to]);
    }
}

#[test]
fn a_trace_of_an_unknown_client_is_an_error() {
    let bpffs = filled();
    for (from, to, want) in [
        ("shop/gone", "10.96.0.20:80", "sluice: shop/gone is no pod of this node\n"),
        ("shop/web-0", "[fd96::1]:80", "sluice: shop/web-0 has no IPv6 address\n"),
        ("fd00::1", "10.96.0.20:80", "sluice: fd00::1 and 10.96.0.20 are of two families\n"),
        (
            "nobody",
            "10.96.0.20:80",
            "sluice: \"nobody\" is neither NAMESPACE/POD, nor an address, nor \"node\": ",
        ),
    ] {
        let output = sluice(bpffs.path(), &["services", "trace", "--from", from, "--to", to]);
        assert_eq!(output.status.code(), Some(1));
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(words.starts_with(want), "{words}");
    }
}

#[test]
fn policies_show_whom_they_isolate() {
    golden("policy-list", &["policy", "list"]);
}

#[test]
fn an_audit_shows_what_audited_policies_would_have_dropped() {
    golden("policy-audit", &["policy", "audit"]);
}

#[test]
fn compiled_rules_show_ranges_and_the_policies_they_come_from() {
    golden("policy-dump", &["policy", "dump"]);
}

#[test]
fn compiled_rules_can_be_had_for_one_pod() {
    golden("policy-dump-pod", &["policy", "dump", "--pod", "shop/api-0"]);
}

#[test]
fn flows_show_who_opened_them_and_which_rule_let_them_pass() {
    golden("conntrack", &["conntrack"]);
}

#[test]
fn the_ipcache_says_what_identities_mean() {
    golden("ipcache", &["ipcache"]);
}

#[test]
fn drops_show_the_rule_or_its_absence() {
    golden("drops", &["drops"]);
}

#[test]
fn every_drop_reason_is_counted() {
    let bpffs = filled();
    let answer = json(bpffs.path(), &["drops", "--counters"]);
    assert_eq!(answer["forwarded"], serde_json::json!({"packets": 1000, "bytes": 64_000}));
    assert_eq!(answer["dropped"], serde_json::json!({"packets": 13, "bytes": 832}));
    let rows = answer["byReason"].as_array().expect("rows");
    assert_eq!(rows.len(), DropReason::ALL.len());
    for (row, reason) in rows.iter().zip(DropReason::ALL) {
        let counted = [(DropReason::PolicyDenied, 12), (DropReason::SpoofedSource, 1)];
        let packets =
            counted.iter().find(|(counted, _)| counted == reason).map_or(0, |(_, packets)| *packets);
        let wanted = serde_json::json!({
            "reason": reason.name(), "packets": packets, "bytes": 64 * packets, "help": reason.help()
        });
        assert_eq!(*row, wanted);
    }
}

#[test]
fn maps_show_their_shape_and_filling() {
    let bpffs = filled();
    let answer = json(bpffs.path(), &["bpf", "maps"]);
    let rows = answer["maps"].as_array().expect("rows");
    assert_eq!(rows.len(), maps::ALL.len());
    for (row, spec) in rows.iter().zip(maps::ALL) {
        assert_eq!(row["name"], spec.name);
        assert_eq!(row["keyBytes"], spec.key_size, "{}", spec.name);
        assert_eq!(row["valueBytes"], spec.value_size, "{}", spec.name);
        assert_eq!(row["capacity"], spec.max_entries, "{}", spec.name);
        assert!(row["problem"].is_null(), "{row}");
    }
    let used = |spec: &maps::MapSpec| {
        rows.iter().find(|row| row["name"] == spec.name).expect("every map")["used"].as_u64()
    };
    assert_eq!((used(&maps::RULES), used(&maps::SLOTS), used(&maps::EVENTS)), (Some(9), Some(7), None));
}

#[test]
fn status_shows_the_datapath_without_an_agent() {
    let bpffs = filled();
    let status = ["status", "--socket", "/nonexistent/agent.sock"];
    let mut answer = json(bpffs.path(), &status);
    let fill = answer["datapath"]["maps"].take();
    let rules = serde_json::json!({"name": "RULES", "used": 9, "capacity": maps::RULES.max_entries});
    assert!(fill.as_array().expect("maps").contains(&rules), "{fill}");
    compare("status.json", bpffs.path(), &(serde_json::to_string_pretty(&answer).expect("JSON") + "\n"));
    let text = String::from_utf8(sluice(bpffs.path(), &status).stdout).expect("text");
    let (head, table) = text.split_once("\n\n").expect("a paragraph and a table");
    compare("status.txt", bpffs.path(), &format!("{head}\n"));
    assert_eq!(table.lines().next(), Some("MAP            USED  CAPACITY  FULL"));
}

#[test]
fn ages_count_from_the_stamp() {
    let bpffs = PrivateBpffs::mount();
    let maps = Maps::create(bpffs.path()).expect("maps");
    // One nanosecond after boot: as old as the machine is up.
    let record = DropRecord { count: 1, last_seen_ns: 1, ..DropRecord::default() };
    maps.drop_records.put(&DropKey::default(), &record).expect("drop");
    let up = || {
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
            .expect("a clock")
            .tv_sec()
            .unsigned_abs()
    };
    let before = up();
    let answer = json(bpffs.path(), &["drops"]);
    let age = answer["drops"][0]["lastSeenSeconds"].as_u64().expect("a number");
    assert!((before.saturating_sub(1)..=up()).contains(&age), "{age} after {before}");
}

#[test]
fn status_sees_an_agent_that_listens() {
    let bpffs = filled();
    let socket = tempfile::tempdir().expect("a folder");
    let path = socket.path().join("agent.sock");
    let _listener = UnixListener::bind(&path).expect("listen");
    let output = sluice(bpffs.path(), &["status", "-o", "json", "--socket", path.to_str().expect("a path")]);
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(status["agent"]["reachable"], true);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn status_without_a_datapath_is_an_answer_and_a_bad_sign() {
    let bpffs = PrivateBpffs::mount();
    let output = sluice(bpffs.path(), &["status", "-o", "json"]);
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(status["datapath"].is_null(), "{status}");
    assert!(
        status["problem"].as_str().expect("why").starts_with("no map ENDPOINTS is pinned at "),
        "{status}"
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_missing_map_is_named_by_the_error_and_in_the_list_of_maps() {
    let bpffs = filled();
    std::fs::remove_file(sluice_maps::pin_dir(bpffs.path()).join("RULES")).expect("unpin");
    let output = sluice(bpffs.path(), &["policy", "dump"]);
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8(output.stderr).expect("text");
    assert!(words.starts_with("sluice: no map RULES is pinned at "), "{words}");
    assert!(output.stdout.is_empty(), "words go to standard error");
    let answer = json(bpffs.path(), &["bpf", "maps"]);
    let rows = answer["maps"].as_array().expect("rows");
    let broken: Vec<_> =
        rows.iter().filter(|row| !row["problem"].is_null()).map(|row| &row["name"]).collect();
    assert_eq!(broken, ["RULES"]);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let bpffs = filled();
    let mut child = command(bpffs.path(), &["drops", "--counters"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start sluice");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("wait");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn the_bpf_file_system_can_come_from_the_environment() {
    let bpffs = filled();
    let output = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(["ipcache"])
        .env("SLUICE_BPFFS", bpffs.path())
        .output()
        .expect("start sluice");
    assert!(output.status.success());
    let output = sluice(Path::new("/proc"), &["ipcache"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "sluice: no bpf file system is mounted at /proc\n");
    assert_eq!(sluice(bpffs.path(), &["nonsense"]).status.code(), Some(2));
}

fn filled() -> PrivateBpffs {
    let bpffs = PrivateBpffs::mount();
    content::fill(&Maps::create(bpffs.path()).expect("maps"));
    bpffs
}

fn command(bpffs: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command.env_remove("SLUICE_BPFFS").env_remove("SLUICE_SOCKET").arg("--bpffs").arg(bpffs).args(args);
    command
}

fn sluice(bpffs: &Path, args: &[&str]) -> Output {
    command(bpffs, args).output().expect("start sluice")
}

fn json(bpffs: &Path, args: &[&str]) -> serde_json::Value {
    let output = sluice(bpffs, &[args, &["-o", "json"]].concat());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Compares both forms of an answer with what it should be.
fn golden(name: &str, args: &[&str]) {
    let bpffs = filled();
    for (format, extension) in [("table", "txt"), ("json", "json")] {
        let output = sluice(bpffs.path(), &[args, &["-o", format]].concat());
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert_eq!(output.status.code(), Some(0));
        let found = String::from_utf8(output.stdout).expect("text");
        compare(&format!("{name}.{extension}"), bpffs.path(), &found);
    }
}

fn compare(name: &str, bpffs: &Path, found: &str) {
    let found = found.replace(bpffs.to_str().expect("a path"), "/sys/fs/bpf");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, found).expect("write golden text");
    } else {
        let wanted = std::fs::read_to_string(&path).expect("read golden text");
        assert_eq!(found, wanted, "{} differs; UPDATE=1 rewrites it", path.display());
    }
}
