//! Which exit code does each outcome get? The only place that knows; `--help` and the man page print its table.

use std::process::ExitCode;

use super::error::CliError;
use crate::fs::session::MountError;
use crate::store::error::StoreError;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Ok,
    /// It failed; the reason is on standard error.
    Failed,
    /// The command line is wrong.
    Usage,
    /// There is no such thread, name or mount.
    NotFound,
    /// Another process has it.
    Busy,
    /// `doctor` found a problem.
    Unhealthy,
    /// Ended by SIGINT.
    Interrupted,
    /// Ended by SIGTERM.
    Terminated,
}

const ALL: [Exit; 8] = [
    Exit::Ok,
    Exit::Failed,
    Exit::Usage,
    Exit::NotFound,
    Exit::Busy,
    Exit::Unhealthy,
    Exit::Interrupted,
    Exit::Terminated,
];

impl Exit {
    /// The number that the shell sees, and what it means.
    const fn describe(self) -> (u8, &'static str) {
        match self {
            Exit::Ok => (0, "done; also when the reader of the output closed the pipe"),
            Exit::Failed => (1, "it failed; the reason and what to do are on standard error"),
            Exit::Usage => (2, "the command line is wrong"),
            Exit::NotFound => (3, "there is no such thread, name or mount"),
            Exit::Busy => (4, "another process has the home or the mount point"),
            Exit::Unhealthy => (5, "doctor found a problem"),
            Exit::Interrupted => (130, "ended by SIGINT (Ctrl-C)"),
            Exit::Terminated => (143, "ended by SIGTERM"),
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.describe().0)
    }
}

/// The table, for help texts.
pub(crate) fn help() -> String {
    let lines = ALL.map(|exit| {
        let (code, meaning) = exit.describe();
        format!("{code:>5}  {meaning}")
    });
    format!("Exit codes:\n{}", lines.join("\n"))
}

/// The exit of an error.
pub(crate) fn of(error: &CliError) -> Exit {
    match error {
        CliError::Store(error) => of_store(error),
        CliError::Mount(error) => of_mount(error),
        CliError::Daemon(error) => {
            ALL.into_iter().find(|exit| exit.describe().0 == error.exit_code).unwrap_or(Exit::Failed)
        }
        CliError::Output(_) | CliError::Failed { .. } => Exit::Failed,
    }
}

fn of_store(error: &StoreError) -> Exit {
    match error {
        StoreError::NotFound { .. } => Exit::NotFound,
        StoreError::Busy { .. } => Exit::Busy,
        StoreError::Index { source, .. } => match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => Exit::Busy,
            _ => Exit::Failed,
        },
        // A wrong home is no missing thread: scripts tell the two apart.
        StoreError::NotAHome { .. }
        | StoreError::Io { .. }
        | StoreError::Damaged { .. }
        | StoreError::Exists { .. }
        | StoreError::Denied { .. }
        | StoreError::Invalid(_) => Exit::Failed,
    }
}

fn of_mount(error: &MountError) -> Exit {
    match error {
        MountError::NotMounted { .. } => Exit::NotFound,
        MountError::AlreadyMounted { .. } => Exit::Busy,
        _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_exit() {
        let path = || std::path::PathBuf::from("/h");
        let table: [(CliError, Exit); 6] = [
            (StoreError::NotFound { what: "thread x".into() }.into(), Exit::NotFound),
            (
                StoreError::Busy { path: path(), holder: "1".into(), remedy: "end it".into() }.into(),
                Exit::Busy,
            ),
            (StoreError::NotAHome { path: path(), reason: "no".into() }.into(), Exit::Failed),
            (StoreError::Invalid("no".into()).into(), Exit::Failed),
            (MountError::NotMounted { path: path() }.into(), Exit::NotFound),
            (MountError::AlreadyMounted { path: path(), source_name: "/h".into() }.into(), Exit::Busy),
        ];
        for (error, expected) in table {
            assert_eq!(of(&error), expected, "{error}");
        }
    }

    #[test]
    fn codes_are_distinct_and_all_in_the_help() {
        let help = help();
        let mut codes: Vec<u8> = ALL.iter().map(|exit| exit.describe().0).collect();
        codes.dedup();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 130, 143]);
        assert_eq!(help.lines().count(), 1 + codes.len(), "{help}");
    }
}
