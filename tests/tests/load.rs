//! Every program passes the verifier of the running kernel, within its budget. Also run in VMs with other kernels.

use aya::programs::ProgramInfo;
use sluice_abi::Hook;
use sluice_tests::lab::Lab;

/// Instructions the verifier may walk through for one program (DESIGN, section 4).
const BUDGET: u32 = 100_000;

#[test]
fn every_program_passes_the_verifier_within_its_budget() {
    let mut lab = Lab::new();
    let xdp = lab.xdp().info().expect("the program's description");
    check("xdp_netdev", &xdp);
    for hook in [Hook::FromPod, Hook::ToPod, Hook::FromNetdev, Hook::ToNetdev] {
        let info = lab.program(hook).info().expect("the program's description");
        check(hook.name(), &info);
    }
}

fn check(name: &str, info: &ProgramInfo) {
    // The kernel tells the number since 5.16.
    if let Some(verified) = info.verified_instruction_count().filter(|count| *count != 0) {
        eprintln!("{name}: {verified} instructions verified");
        assert!(verified <= BUDGET, "{name}: {verified} > {BUDGET}");
    }
}
