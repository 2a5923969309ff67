//! Where does the file of a logical path lie? In the home, or in the spool: what was accepted and has no place there yet.
//!
//! The spool mirrors the home below the state folder: `pending/` holds threads that are not materialised, and folders
//! made for them; `scratch/` holds files that are no rollouts (temporary names of tools). Which area a file is in is told
//! by the disk alone, so a killed daemon finds everything again. The home wins where a path is in two.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::content::{self, Located};
use super::error::{Result, StoreError};
use super::home::Home;

/// Where a file lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Area {
    /// In the home.
    #[default]
    Home,
    /// A thread that is not materialised.
    Pending,
    /// A file that is no rollout.
    Scratch,
}

/// The areas, in the order in which they are asked.
pub const AREAS: [Area; 3] = [Area::Home, Area::Pending, Area::Scratch];

/// The areas that a path may be in. The home's own root is not shown: what is there besides the folders of rollouts is
/// a tool's temporary.
pub(super) fn areas_of(path: &[u8]) -> &'static [Area] {
    if path.contains(&b'/') { &AREAS } else { &[Area::Scratch] }
}

/// The folders of the areas.
#[derive(Clone, Debug)]
pub struct Areas {
    home: PathBuf,
    pending: PathBuf,
    scratch: PathBuf,
}

impl Areas {
    /// Of a home with its state folder.
    pub fn new(home: &Home, state_dir: &Path) -> Areas {
        Areas {
            home: home.root().to_owned(),
            pending: state_dir.join("pending"),
            scratch: state_dir.join("scratch"),
        }
    }

    /// The folder of an area.
    pub fn root(&self, area: Area) -> &Path {
        match area {
            Area::Home => &self.home,
            Area::Pending => &self.pending,
            Area::Scratch => &self.scratch,
        }
    }

    /// The file of a logical path in an area.
    pub fn join(&self, area: Area, path: &[u8]) -> PathBuf {
        self.root(area).join(OsStr::from_bytes(path))
    }

    /// The file of a logical path, and how it lies on disk: plain, else compressed (spec 1.5).
    ///
    /// # Errors
    /// `NotFound` where no area has it.
    pub fn locate(&self, path: &[u8]) -> Result<(Area, Located)> {
        for &area in areas_of(path) {
            match content::locate_now(&self.join(area, path)) {
                Ok(located) => return Ok((area, located)),
                Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::NotFound { what: String::from_utf8_lossy(path).into_owned() })
    }
}
