//! The policy table on both engines.

use sluice_tests::engine::{Kernel, Model, check};

#[test]
fn the_compiled_model_answers_every_row_of_the_policy_table() {
    check(&mut Model::default());
}

#[test]
fn the_loaded_programs_answer_every_row_of_the_policy_table() {
    check(&mut Kernel::new());
}
