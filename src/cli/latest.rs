//! `rolloutfs latest`: which active thread was written last?

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::Args;

use super::home_args::{HomeArgs, absolute};
use super::text::{escaped, output_error, terminal_columns, to_stdout, write_json_line};
use crate::store::error::{Result, StoreError};
use crate::store::list::ListItem;

/// Prints the path of the active thread that was written last.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  rolloutfs latest                  the path of the thread that was written last
  tail -f \"$(rolloutfs latest --cwd .)\"")]
pub(super) struct LatestArgs {
    /// Which home.
    #[command(flatten)]
    pub home: HomeArgs,
    /// The last thread that began in DIR or had its last turn there [default DIR: the current one]
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = ".")]
    pub cwd: Option<PathBuf>,
    /// All that is known of it, as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// [`StoreError::NotFound`] where there is no such thread, [`StoreError::NotAHome`], [`StoreError::Io`].
pub(super) fn run(args: &LatestArgs) -> Result<(), StoreError> {
    let item = newest(args)?;
    to_stdout(|out| {
        if args.json {
            return write_json_line(out, &item);
        }
        let path = item.file.as_os_str();
        match terminal_columns() {
            Some(_) => writeln!(out, "{}", escaped(&path.to_string_lossy())),
            // A program gets the path byte for byte.
            None => out.write_all(path.as_bytes()).and_then(|()| out.write_all(b"\n")),
        }
        .map_err(output_error)
    })
}

fn newest(args: &LatestArgs) -> Result<ListItem> {
    let cwd = args.cwd.as_deref().map(absolute).transpose()?;
    let source = args.home.source()?;
    source.newest(cwd.as_deref())?.ok_or_else(|| {
        let home = source.home().root().display();
        let what = match &cwd {
            Some(cwd) => format!("an active thread with the working directory {} in {home}", cwd.display()),
            None => format!("an active thread in {home}"),
        };
        StoreError::NotFound { what }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_found_or_what_was_looked_for_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let home = HomeArgs { home: Some(dir.path().to_owned()), state_dir: None };
        let args =
            |cwd: Option<&str>| LatestArgs { home: home.clone(), cwd: cwd.map(PathBuf::from), json: false };
        assert!(newest(&args(None)).unwrap_err().to_string().contains("an active thread in"));
        let folder = dir.path().join("sessions/2026/02/08");
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("rollout-2026-02-08T09-15-01-0198c0de-0000-7000-8000-000000000001.jsonl");
        std::fs::write(&file, "").unwrap();
        assert_eq!(newest(&args(None)).unwrap().file, file.canonicalize().unwrap());
        assert!(newest(&args(Some("/srv/x"))).unwrap_err().to_string().contains("/srv/x"));
    }
}
