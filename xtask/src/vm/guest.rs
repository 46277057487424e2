//! What a guest starts with: a static busybox, the modules that reach this machine's files, and [`INIT`].

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail};

use super::kernel::Kernel;
use crate::command;

/// Process 1 until the root file system stands.
const INIT: &str = include_str!("init.sh");
/// Process 1 from then on: runs the job and ends the VM.
pub(super) const JOB: &str = include_str!("job.sh");

/// Modules without which there are no files and no output; the guest loads all others by itself.
const MODULES: &[&str] = &["virtio_pci", "virtio_console", "virtiofs", "overlay"];

/// The initrd of a kernel, made once.
///
/// # Errors
/// When busybox or a module is missing, or it cannot be packed.
pub(super) fn initrd(kernel: &Kernel) -> Result<PathBuf> {
    let initrd = kernel.folder.join("initrd");
    let init = kernel.folder.join("init.sh");
    if initrd.exists() && fs::read_to_string(&init).is_ok_and(|text| text == INIT) {
        return Ok(initrd);
    }
    let folder = tempfile::tempdir_in(&kernel.folder).context("making a folder for an initrd")?;
    fill(folder.path(), kernel)?;
    let packed = pack(folder.path())?;
    fs::write(&initrd, packed).with_context(|| format!("writing {}", initrd.display()))?;
    fs::write(&init, INIT).with_context(|| format!("writing {}", init.display()))?;
    Ok(initrd)
}

fn fill(root: &Path, kernel: &Kernel) -> Result<()> {
    let busybox = command::find("busybox").context("finding busybox")?;
    fs::copy(&busybox, root.join("busybox")).with_context(|| format!("copying {}", busybox.display()))?;
    let init = root.join("init");
    fs::write(&init, INIT).with_context(|| format!("writing {}", init.display()))?;
    command::capture(command::command("chmod").arg("755").arg(&init))?;
    for folder in ["dev", "proc", "modules", "files", "memory", "root"] {
        fs::create_dir(root.join(folder)).with_context(|| format!("making {folder} in an initrd"))?;
    }
    for (number, module) in modules(kernel)?.iter().enumerate() {
        // busybox loads what is not compressed, in the order of the names.
        let content = if module.extension().is_some_and(|extension| extension == "xz") {
            command::command("xz").arg("-dc").arg(module).output().context("starting xz")?.stdout
        } else {
            fs::read(module).with_context(|| format!("reading {}", module.display()))?
        };
        let name = format!("modules/{number:02}-{}", command::name_of(module).trim_end_matches(".xz"));
        fs::write(root.join(&name), content).with_context(|| format!("writing {name}"))?;
    }
    Ok(())
}

/// The files of [`MODULES`] and of what they need, in the order of loading.
fn modules(kernel: &Kernel) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let modprobe = command::find("modprobe").context("finding modprobe")?;
    for module in MODULES {
        let mut modprobe = command::command(&modprobe);
        modprobe.arg("-d").arg(&kernel.folder).args(["-S", &kernel.release, "--show-depends", module]);
        for line in command::capture(&mut modprobe)?.lines() {
            let file = line.trim().strip_prefix("insmod ").map(|file| PathBuf::from(file.trim()));
            files.extend(file.filter(|file| !files.contains(file)));
        }
    }
    Ok(files)
}

/// Packs a folder as the kernel's initramfs.
fn pack(folder: &Path) -> Result<Vec<u8>> {
    let mut cpio = command::command("cpio");
    cpio.args(["--quiet", "--null", "-o", "-H", "newc"]).current_dir(folder);
    let mut child = cpio.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting cpio")?;
    let names = command::capture(command::command("find").args([".", "-print0"]).current_dir(folder))?;
    child.stdin.take().expect("stdin is piped").write_all(names.as_bytes()).context("writing to cpio")?;
    let output = child.wait_with_output().context("waiting for cpio")?;
    if !output.status.success() {
        bail!("packing an initrd: {}", output.status);
    }
    Ok(output.stdout)
}
