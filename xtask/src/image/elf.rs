//! What a program's ELF header says about the machine it needs.
//!
//! Formats: System V ABI, "Object Files" and "Program Loading" (64 bits, little-endian).

use anyhow::{Result, bail, ensure};

use crate::oci::Arch;

const MAGIC: &[u8] = b"\x7fELF\x02\x01";
const EM_X86_64: u16 = 62;
const EM_AARCH64: u16 = 183;
const PT_INTERP: u32 = 3;

/// Proves that `program` runs on `architecture` without any other file.
///
/// # Errors
/// When it is for another machine, asks for a dynamic loader, or is no program.
pub(crate) fn check_static(program: &[u8], architecture: Arch) -> Result<()> {
    ensure!(program.starts_with(MAGIC), "not a 64-bit little-endian ELF file");
    let wanted = match architecture {
        Arch::Amd64 => EM_X86_64,
        Arch::Arm64 => EM_AARCH64,
    };
    let machine = u16::from_le_bytes(field(program, 18)?);
    ensure!(machine == wanted, "made for ELF machine {machine}, not {wanted} ({})", architecture.as_str());
    let table = usize::try_from(u64::from_le_bytes(field(program, 32)?))?;
    let entry_size = usize::from(u16::from_le_bytes(field(program, 54)?));
    for entry in 0..usize::from(u16::from_le_bytes(field(program, 56)?)) {
        let kind = u32::from_le_bytes(field(program, table.saturating_add(entry * entry_size))?);
        ensure!(kind != PT_INTERP, "not static: it asks for a dynamic loader");
    }
    Ok(())
}

fn field<const N: usize>(program: &[u8], offset: usize) -> Result<[u8; N]> {
    match program.get(offset..).and_then(<[u8]>::first_chunk) {
        Some(bytes) => Ok(*bytes),
        None => bail!("ends before offset {offset}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF header for `machine`, followed by program headers of these kinds.
    fn program(machine: u16, segments: &[u32]) -> Vec<u8> {
        const HEADER: usize = 64;
        const SEGMENT: usize = 56;
        let mut bytes = vec![0; HEADER + SEGMENT * segments.len()];
        bytes[..MAGIC.len()].copy_from_slice(MAGIC);
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[32..40].copy_from_slice(&(HEADER as u64).to_le_bytes());
        bytes[54..56].copy_from_slice(&(SEGMENT as u16).to_le_bytes());
        bytes[56..58].copy_from_slice(&(segments.len() as u16).to_le_bytes());
        for (i, kind) in segments.iter().enumerate() {
            bytes[HEADER + i * SEGMENT..][..4].copy_from_slice(&kind.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn only_a_static_program_of_the_architecture_is_taken() {
        let check = |bytes: &[u8], arch| check_static(bytes, arch).map_err(|error| error.to_string());
        assert_eq!(check(&program(EM_X86_64, &[1, 2]), Arch::Amd64), Ok(()));
        assert_eq!(check(&program(EM_AARCH64, &[1]), Arch::Arm64), Ok(()));
        let refused = [
            (program(EM_X86_64, &[1, PT_INTERP]), "not static"),
            (program(EM_AARCH64, &[1]), "made for ELF machine 183"),
            (program(EM_X86_64, &[1])[..60].to_vec(), "ends before"),
            (b"#!/bin/sh".to_vec(), "not a 64-bit"),
        ];
        for (bytes, why) in refused {
            let error = check(&bytes, Arch::Amd64).expect_err(why);
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn the_programs_of_this_machine_are_read_as_they_are() {
        let this = std::fs::read(std::env::current_exe().expect("a test")).expect("the test's own program");
        assert!(
            check_static(&this, Arch::HOST)
                .expect_err("linked to the C library")
                .to_string()
                .contains("not static")
        );
    }
}
