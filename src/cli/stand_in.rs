//! What do the commands use that other parts provide? Small forms of those parts, in one place.

use std::path::PathBuf;

use crate::store::error::StoreError;
use crate::store::placing::{FILES, Place, Placing, ViewCode};
use crate::store::row::{FileRow, Row};

/// The commands whose arguments are here.
#[cfg(test)]
pub(crate) const NAMES: [&str; 5] = ["mount", "list", "latest", "show", "sample-home"];

/// Which home a command works on.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct HomeArgs {
    /// The Codex home [default: $CODEX_HOME, then ~/.codex]
    #[arg(long, value_name = "DIR")]
    pub(crate) home: Option<PathBuf>,
    /// Where the index lies [default: .rolloutfs in the home, or the user's state folder]
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
}

/// The tree with the files alone.
#[derive(Debug, Default)]
pub(crate) struct Views;

impl Views {
    pub(crate) fn new() -> Views {
        Views
    }
}

impl Placing for Views {
    fn places(&self, row: &Row, places: &mut Vec<Place>) {
        let (dir, name) = (row.file.dir_path().to_vec(), row.file.file_name().to_vec());
        if !row.file.path.is_empty() {
            places.push(Place { view: FILES, index: 0, dir, name });
        }
    }

    fn entry_name(&self, _view: ViewCode, row: &FileRow) -> Vec<u8> {
        row.file_name().to_vec()
    }

    fn second_name(&self, name: &str, suffix: &str) -> String {
        format!("{name}~{suffix}")
    }

    fn first_name(&self, name: &str, _suffix: &str) -> String {
        name.to_owned()
    }

    fn name_key(&self, first_name: &str) -> String {
        first_name.to_lowercase()
    }

    fn line(&self, _row: &Row) -> Option<Vec<u8>> {
        None
    }

    fn roots(&self) -> Vec<Vec<u8>> {
        vec![b"sessions".to_vec(), b"archived_sessions".to_vec()]
    }

    fn version(&self) -> u32 {
        0
    }
}

/// Ends mounts.
pub(crate) mod session {
    use std::os::unix::ffi::OsStrExt;
    use std::path::{Path, PathBuf};

    /// A mount or unmount that did not happen.
    #[derive(Debug, thiserror::Error)]
    pub(crate) enum MountError {
        /// There is nothing to unmount.
        #[error("nothing is mounted at {}: `findmnt -t fuse.rolloutfs` lists the mounts", path.display())]
        NotMounted {
            /// The path given.
            path: PathBuf,
        },
        /// A mount of ours is there already.
        #[error("{source_name} is already mounted at {}", path.display())]
        #[allow(dead_code)]
        AlreadyMounted {
            /// The mount point.
            path: PathBuf,
            /// The home that is mounted.
            source_name: String,
        },
        /// The system refused.
        #[error("cannot unmount {}: {source}", path.display())]
        Io {
            /// The path.
            path: PathBuf,
            /// Why.
            source: std::io::Error,
        },
    }

    /// Unmounts lazily.
    pub(crate) fn unmount(mountpoint: &Path) -> Result<(), MountError> {
        let path = mountpoint.to_owned();
        let Some(mount) = super::super::mounts::at(mountpoint) else {
            return Err(MountError::NotMounted { path });
        };
        let target = std::ffi::CString::new(mount.mount_point.as_os_str().as_bytes())
            .map_err(|error| MountError::Io { path: path.clone(), source: error.into() })?;
        // SAFETY: `target` is a NUL-terminated string that lives until after the call.
        match unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) } {
            0 => Ok(()),
            _ => Err(MountError::Io { path, source: std::io::Error::last_os_error() }),
        }
    }
}

fn absent(command: &str) -> Result<(), StoreError> {
    Err(StoreError::Invalid(format!("{command} is not part of this build; use a full one")))
}

macro_rules! command {
    ($module:ident, $args:ident, $name:literal, { $($field:tt)* }) => {
        pub(crate) mod $module {
            /// Part of the full program
            #[derive(Clone, Debug, clap::Args)]
            pub(crate) struct $args { $($field)* }

            pub(crate) fn run(_args: &$args) -> Result<(), super::StoreError> {
                super::absent($name)
            }
        }
    };
}

command!(mount, MountArgs, "mount", {
    /// Where log lines go [default: standard error]
    #[arg(long, value_name = "FILE")]
    pub(crate) log_file: Option<std::path::PathBuf>,
});
command!(list, ListArgs, "list", {});
command!(latest, LatestArgs, "latest", {});
command!(show, ShowArgs, "show", {});
command!(sample_home, SampleHomeArgs, "sample-home", {});
