//! Every program passes the verifier of the running kernel, within its budget. Also run in VMs with other kernels.

use sluice_abi::Hook;
use sluice_tests::lab::Lab;

/// Instructions the verifier may walk through for one program (DESIGN, section 4).
const BUDGET: u32 = 100_000;

#[test]
fn every_program_passes_the_verifier_within_its_budget() {
    let lab = Lab::new();
    for hook in [Hook::FromPod, Hook::ToPod, Hook::FromNetdev, Hook::ToNetdev] {
        let info = lab.program(hook).info().expect("the program's description");
        // The kernel tells the number since 5.16.
        if let Some(verified) = info.verified_instruction_count().filter(|count| *count != 0) {
            eprintln!("{}: {verified} instructions verified", hook.name());
            assert!(verified <= BUDGET, "{}: {verified} > {BUDGET}", hook.name());
        }
    }
}
