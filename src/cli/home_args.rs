//! Which home does a command mean? The two options that every command on a home has.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::store::error::{Result, StoreError};
use crate::store::home::Home;
use crate::store::list::{Source, open_for_reading};

/// The home, and where its state lies.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct HomeArgs {
    /// The Codex home [default: $CODEX_HOME, else ~/.codex]
    #[arg(long, value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// The folder with rolloutfs's index, where it is not in the home
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

impl HomeArgs {
    /// The home.
    ///
    /// # Errors
    /// [`StoreError::NotAHome`] says what to do.
    pub(super) fn resolve(&self) -> Result<Home> {
        Home::resolve(self.home.as_deref())
    }

    /// The home, to be listed and searched. Nothing is made or written.
    ///
    /// # Errors
    /// As [`HomeArgs::resolve`].
    pub(super) fn source(&self) -> Result<Source> {
        Ok(open_for_reading(&self.resolve()?, self.state_dir.as_deref()))
    }
}

/// A folder as a person gives it, from the root.
pub(super) fn absolute(dir: &Path) -> Result<PathBuf> {
    std::path::absolute(dir).map_err(StoreError::io("resolve", dir))
}
