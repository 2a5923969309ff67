//! Does the index say what the disk says?

use std::path::Path;

use super::disk::{Disk, OnDisk, shown};
use super::{Check, Verdict};
use crate::cli::index_queries::{IndexedFile, each_file, open_untouched};
use crate::store::error::{Result, StoreError};
use crate::store::home::{Home, INDEX_NAME};
use crate::store::placing::Placing;
use crate::store::schema;
use crate::views::Views;

const NAME: &str = "index";
const REMEDY: &str = "run `rolloutfs index`; a mount does it by itself";

/// How the index differs from the disk.
#[derive(Debug, Default, PartialEq, Eq)]
struct Differences {
    known: u64,
    /// On disk, not in the index.
    files_without_row: u64,
    /// In the index, not on disk.
    rows_without_file: u64,
    /// Size, time or encoding differ.
    changed: u64,
    unread: u64,
    failed: u64,
    /// One of the files that could not be read.
    failed_path: Option<Vec<u8>>,
}

/// Compares.
pub(super) fn check(home: &Home, state_dir: Option<&Path>, disk: &Disk) -> Check {
    let Some(folder) = home.find_state_dir(state_dir) else {
        return Check::ok(NAME, "none yet: `rolloutfs index` or the first mount makes it");
    };
    let path = folder.join(INDEX_NAME);
    match compare(&path, disk) {
        Ok(Some(differences)) => judge(&differences),
        Ok(None) => Check::warning(
            NAME,
            format!("{} is of another version of rolloutfs", path.display()),
            "run `rolloutfs index`: it is made again from the rollouts",
        ),
        Err(error) => Check::problem(NAME, error.to_string(), "run `rolloutfs index --rebuild`"),
    }
}

/// None: of another version.
fn compare(path: &Path, disk: &Disk) -> Result<Option<Differences>> {
    let connection = open_untouched(path)?;
    if let Err(error) = connection.query_row("SELECT count(*) FROM meta", [], |_| Ok(())) {
        return Err(StoreError::index(path)(error));
    }
    if !schema::is_current(&connection, Views::new().version()) {
        return Ok(None);
    }
    let mut differences = Differences::default();
    let mut seen = 0;
    each_file(&connection, |row| {
        let found = disk.files.get(&row.path);
        seen += u64::from(found.is_some());
        differences.count(row, found, disk);
    })
    .map_err(StoreError::index(path))?;
    differences.files_without_row = (disk.files.len() as u64).saturating_sub(seen);
    Ok(Some(differences))
}

impl Differences {
    fn count(&mut self, row: IndexedFile, found: Option<&OnDisk>, disk: &Disk) {
        self.known += 1;
        let wanted =
            OnDisk { compressed: row.compressed, size_bytes: row.size_bytes, mtime_ns: row.mtime_ns };
        match found {
            // What cannot be listed is kept as it was known.
            None if disk.is_hidden(&row.path) => {}
            None => self.rows_without_file += 1,
            Some(found) => self.changed += u64::from(*found != wanted),
        }
        self.unread += u64::from(row.unread);
        self.failed += u64::from(row.failed);
        if row.failed {
            self.failed_path.get_or_insert(row.path);
        }
    }
}

fn judge(differences: &Differences) -> Check {
    let Differences { known, files_without_row, rows_without_file, changed, unread, failed, .. } =
        differences;
    let behind = files_without_row + rows_without_file + changed + unread;
    let mut parts = Vec::new();
    for (count, words) in [
        (files_without_row, "on disk but not in it"),
        (rows_without_file, "in it but not on disk"),
        (changed, "changed since"),
        (unread, "not read yet"),
        (failed, "could not be read"),
    ] {
        if *count > 0 {
            parts.push(format!("{count} {words}"));
        }
    }
    if parts.is_empty() {
        return Check::ok(NAME, format!("{known} files, all as on disk"));
    }
    let mut remedies = Vec::new();
    if behind > 0 {
        remedies.push(REMEDY.to_owned());
    }
    if let Some(path) = &differences.failed_path {
        remedies.push(format!(
            "{} and others like it: `rolloutfs status` says why; restore or move away what is damaged",
            shown(path)
        ));
    }
    Check {
        check: NAME,
        verdict: Verdict::Warning,
        found: format!("{known} files: {}", parts.join(", ")),
        remedy: Some(remedies.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_index_like_the_disk_is_ok() {
        let none = || Differences { known: 3, ..Differences::default() };
        let table: [(Differences, Verdict, &str); 6] = [
            (none(), Verdict::Ok, "all as on disk"),
            (Differences { files_without_row: 1, ..none() }, Verdict::Warning, "1 on disk but not in it"),
            (Differences { rows_without_file: 2, ..none() }, Verdict::Warning, "2 in it but not on disk"),
            (Differences { changed: 1, ..none() }, Verdict::Warning, "1 changed since"),
            (Differences { unread: 1, ..none() }, Verdict::Warning, "1 not read yet"),
            (
                Differences { failed: 1, failed_path: Some(b"a".to_vec()), ..none() },
                Verdict::Warning,
                "1 could not be read",
            ),
        ];
        for (differences, verdict, expected) in table {
            let check = judge(&differences);
            assert_eq!(check.verdict, verdict, "{differences:?}");
            assert!(check.found.contains(expected), "{}", check.found);
        }
    }
}
