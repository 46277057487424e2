//! Pods come and go, many at a time.

use std::{collections::BTreeMap, env, fs, path::Path, thread};

use anyhow::{Context as _, Result};
use sluice_tests::topology::{Cluster, Node, PodSpec, eventually};

const WORKERS: usize = 8;
/// Cycles of each worker; `SLUICE_TEST_CYCLES` asks for another number.
const CYCLES: usize = 13;

#[test]
fn pods_that_come_and_go_in_parallel_leave_nothing() -> Result<()> {
    let cluster = Cluster::start(1)?;
    let node = cluster.node(1);
    let stays = cluster.pod(1, &PodSpec::new("stays", "stays"))?;
    cluster.settle()?;
    let before = contents(node)?;
    let cycles = env::var("SLUICE_TEST_CYCLES").map_or(Ok(CYCLES), |cycles| cycles.parse())?;
    let work = |worker: usize| {
        (0..cycles).try_for_each(|cycle| {
            let name = format!("pod-{worker}-{cycle}");
            cluster.pod(1, &PodSpec::new(&name, &name))?.stop(&cluster.objects)
        })
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|worker| scope.spawn(move || work(worker))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no panic"))
    })?;
    // Old rule sets and ends of links are cleared away behind the last DEL.
    let mut after = BTreeMap::new();
    let cleared = eventually("everything is cleared away", || {
        after = contents(node)?;
        Ok(after == before)
    });
    assert_eq!(after, before, "{cleared:?}");
    drop(stays);
    Ok(())
}

/// Everything a pod could leave on its node.
fn contents(node: &Node) -> Result<BTreeMap<&'static str, Vec<String>>> {
    let lines = |text: String| text.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>();
    let mut contents = BTreeMap::new();
    let names = node.netns.ip("-br link")?;
    let name = |line: &str| line.split(['@', ' ']).next().unwrap_or(line).to_owned();
    contents.insert("devices", names.lines().map(name).collect());
    contents.insert("routes", lines(node.netns.ip("-4 route show table all")?));
    contents.insert("routes of IPv6", lines(node.netns.ip("-6 route show table all")?));
    contents.insert("neighbours", lines(node.netns.ip("neigh show nud permanent")?));
    // A leased address is a file that names its interface; others remember when addresses were given back.
    let leases = files(&node.mounts.path("/var/lib/cni/sluice"))?;
    contents.insert("leases", leases.into_iter().filter(|path| path.contains('@')).collect());
    contents.insert("pins", files(&sluice_maps::pin_dir(&node.bpffs()))?);
    let maps = node.maps()?;
    let count = [
        maps.endpoints.count()?,
        maps.interfaces.count()?,
        maps.ipcache.count()?,
        maps.rules.count()?,
        maps.rule_set_meta.count()?,
        maps.endpoint_meta.count()?,
        maps.identity_meta.count()?,
    ];
    contents.insert("map entries", count.map(|count| count.to_string()).to_vec());
    Ok(contents)
}

/// Every file under `folder`.
fn files(folder: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let path = entry.context("listing a folder")?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path.display().to_string());
        }
    }
    found.sort();
    Ok(found)
}
