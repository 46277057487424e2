//! The policy table on both engines.

use std::{fs, path::Path};

use sluice_tests::{
    engine::{Kernel, Model, check, check_full, full},
    policy_cases::CORNERS,
};

/// What depends on the kernel: its tries, and how programs read packets. Other kernels are emulated, so they are asked these alone.
const KERNELS: [&str; 4] = ["ports", "ip blocks", "services", "cluster: tiers and precedence"];

#[test]
fn the_compiled_model_answers_every_row_of_the_policy_table() {
    assert_eq!(check(&mut Model::default(), |_| true), CORNERS.len());
}

#[test]
fn the_loaded_programs_answer_rows_about_packets_and_tries() {
    assert_eq!(check(&mut Kernel::new(), |corner| KERNELS.contains(&corner)), KERNELS.len());
}

#[test]
fn the_loaded_programs_answer_every_other_row_of_the_policy_table() {
    let others = check(&mut Kernel::new(), |corner| !KERNELS.contains(&corner));
    assert_eq!(others, CORNERS.len() - KERNELS.len());
}

#[test]
fn what_has_no_room_is_closed_by_the_compiled_model_and_by_the_loaded_programs() {
    let asked = check_full(&mut Model::with_limits(full()));
    assert_eq!(asked, check_full(&mut Kernel::with_limits(full())));
}

#[test]
fn every_upstream_spec_has_rows_that_hold_the_same() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(folder.join("../docs/policy.md")).expect("docs/policy.md");
    let (_, table) = document.split_once("| Spec | Rows |\n| --- | --- |\n").expect("the table of specs");
    let specs: Vec<_> = table.lines().take_while(|line| line.starts_with('|')).collect();
    assert_eq!(specs.len(), 50);
    for spec in specs {
        let rows: Vec<_> = spec.split('`').skip(1).step_by(2).collect();
        assert!(!rows.is_empty(), "no rows: {spec}");
        for row in rows {
            let (file, name) = row.split_once(": ").expect("a file and a row");
            let text = fs::read_to_string(folder.join("src/policy_cases").join(file).with_extension("rs"));
            let is_there = text.is_ok_and(|text| text.contains(&format!("name: {name:?}")));
            assert!(is_there, "no such row: {row}");
        }
    }
}
