//! One agent per node: two would write the same maps.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

/// Why there can be no agent here now.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The folder or the file could not be made.
    #[error("making lock {path}", path = path.display())]
    Make {
        /// The lock's file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another agent runs.
    #[error("taking lock {path}: another sluice-agent holds it", path = path.display())]
    Held {
        /// The lock's file.
        path: PathBuf,
    },
}

/// Held until it is dropped, or the process ends however it does.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes the lock of `folder`.
    ///
    /// # Errors
    /// Any [`LockError`].
    pub fn take(folder: &Path) -> Result<Self, LockError> {
        let path = folder.join("agent.lock");
        let make = |source| LockError::Make { path: path.clone(), source };
        fs::create_dir_all(folder).map_err(make)?;
        let file = File::options().write(true).create(true).truncate(false).open(&path).map_err(make)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path, _file: file }),
            Err(TryLockError::WouldBlock) => Err(LockError::Held { path }),
            Err(TryLockError::Error(source)) => Err(make(source)),
        }
    }

    /// Removes the lock's file, and its folder when nothing else is in it.
    ///
    /// # Errors
    /// Why the file is still there.
    pub fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)?;
        // Others may keep files there: then the folder stays.
        let _ = self.path.parent().map(fs::remove_dir);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_is_refused_until_the_first_ends() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = Lock::take(folder.path()).expect("the first");
        assert!(matches!(Lock::take(folder.path()), Err(LockError::Held { .. })));
        drop(first);
        Lock::take(folder.path()).expect("the next");
    }
}
