//! What can go wrong in a command, and how is it said?
//!
//! Errors of the layers below keep their own words; each says what failed, why, and what to do.

use std::error::Error;
use std::io;

use super::daemon::DaemonError;
use crate::fs::session::MountError;
use crate::store::error::StoreError;

/// An error of a command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Mounting or unmounting failed.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The daemon behind the command did not start.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// Standard output cannot be written.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    /// Anything else.
    #[error("cannot {action}: {reason}")]
    Failed {
        /// What was tried, as a verb with its object.
        action: String,
        /// Why it failed, and what to do.
        reason: String,
    },
}

impl CliError {
    /// The command was not done because of `reason`.
    pub(crate) fn failed(action: impl Into<String>, reason: impl ToString) -> CliError {
        CliError::Failed { action: action.into(), reason: reason.to_string() }
    }

    /// Did the reader of our output go away? Then there is nothing to do and nothing wrong.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        let mut cause: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if error.downcast_ref::<io::Error>().is_some_and(|io| io.kind() == io::ErrorKind::BrokenPipe) {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

/// The error and its causes, joined by colons. A cause that the error above it already quotes is not said twice.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_said_once() {
        let io = || io::Error::from_raw_os_error(libc::EACCES);
        let stored: CliError = StoreError::io("open", std::path::Path::new("/h"))(io()).into();
        assert_eq!(chain(&stored), format!("cannot open /h: {}", io()));
        assert_eq!(chain(&CliError::Output(io())), format!("cannot write to standard output: {}", io()));
    }

    #[test]
    fn a_closed_pipe_is_found_behind_any_error() {
        let pipe = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(CliError::Output(pipe()).is_closed_pipe());
        let stored: CliError = StoreError::io("write", std::path::Path::new("/h"))(pipe()).into();
        assert!(stored.is_closed_pipe());
        assert!(!CliError::failed("mount", "no").is_closed_pipe());
    }
}
