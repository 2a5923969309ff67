//! Which threads are pending, how do they get their place, and what of them does a start find unfinished?
//!
//! A daemon that was killed between a user message and the rename left the thread pending; one that was killed while it
//! copied to another disk may have left it in both areas. Both are told by the disk alone, and mended at the next start.
//! Depends on `areas`, `content`, `placement` and `trigger`.

use std::fs::{self, File, Metadata};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::areas::{Area, Areas};
use super::content;
use super::error::{Result, StoreError};
use super::failpoint::hit;
use super::home::Home;
use super::placement::{make_folder, move_no_replace, starts_with};
use super::rollout::RolloutName;
use super::scan::{ROOTS, join};
use super::tree::split_path;
use super::trigger::{Flow, Trigger};

/// Folders below a root that are entered: year, month, day, and two to spare.
const DEPTH_MAX: usize = 5;

/// A thread that is not materialised.
#[derive(Clone, Debug)]
pub struct Pending {
    /// What its name says.
    pub name: RolloutName,
    /// Where it will be, below the home.
    pub path: Vec<u8>,
    /// Where it is now.
    pub file: PathBuf,
    /// Its attributes.
    pub metadata: Metadata,
}

/// The pending threads, in the order of their paths.
///
/// # Errors
/// [`StoreError::Io`] where a folder of the spool is there and cannot be read.
pub fn list(areas: &Areas) -> Result<Vec<Pending>> {
    let mut found = Vec::new();
    for root in ROOTS {
        collect(areas, root.as_bytes().to_vec(), DEPTH_MAX, &mut found)?;
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(found)
}

fn collect(areas: &Areas, dir: Vec<u8>, depth: usize, found: &mut Vec<Pending>) -> Result<()> {
    let folder = areas.join(Area::Pending, &dir);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(StoreError::io("list", &folder))?,
    };
    for entry in entries {
        let entry = entry.map_err(StoreError::io("list", &folder))?;
        let path = join(&dir, entry.file_name().as_bytes());
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() && depth > 0 {
            collect(areas, path, depth - 1, found)?;
        } else if let Some(name) =
            RolloutName::parse(entry.file_name().as_bytes()).filter(|_| metadata.is_file())
        {
            found.push(Pending { name, path, file: entry.path(), metadata });
        }
    }
    Ok(())
}

/// Gives the file `from` its place in the home: folders, then one rename that replaces nothing. With `durable` it
/// survives a power cut.
///
/// # Errors
/// As [`make_folder`] and [`move_no_replace`]: then it stays where it is.
pub fn place(home: &Home, from: &Path, path: &[u8], durable: bool) -> Result<()> {
    make_folder(home, split_path(path).0, durable)?;
    hit("materialise.folders");
    move_no_replace(from, &home.join(path), durable)?;
    hit("materialise.placed");
    Ok(())
}

/// Which pending threads a start gives their place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recover {
    /// None: nothing is written.
    #[default]
    Nothing,
    /// Those whose lines or names say so.
    Asked,
    /// All, where a thread is materialised when it is created.
    All,
}

/// What [`recover`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Threads that got their place.
    pub placed: u64,
    /// Files that the home has already.
    pub dropped: u64,
    /// Files that stay beside a file of the home with other bytes.
    pub kept: u64,
}

/// Finishes what a killed daemon left: a thread that is to be materialised gets its place, and a file whose bytes the
/// home has under its path goes. Only pending files are read, and those of the home at their
/// paths. What cannot be done is logged and stays as it is.
pub fn recover(home: &Home, areas: &Areas, which: Recover) -> Recovered {
    let mut recovered = Recovered::default();
    if which == Recover::Nothing {
        return recovered;
    }
    let threads = match list(areas) {
        Ok(threads) => threads,
        Err(error) => {
            log::warn!("{error}; pending threads are left as they are");
            return recovered;
        }
    };
    for thread in threads {
        if let Err(error) = recover_one(home, &thread, which, &mut recovered) {
            log::warn!("{error}; {} stays pending", String::from_utf8_lossy(&thread.path));
        }
    }
    recovered
}

fn recover_one(home: &Home, thread: &Pending, which: Recover, recovered: &mut Recovered) -> Result<()> {
    let there = match content::locate_now(&home.join(&thread.path)) {
        Ok(there) => there,
        Err(StoreError::NotFound { .. }) => {
            let (flow, _) =
                Trigger::default().look(&thread.file).map_err(StoreError::io("read", &thread.file))?;
            // A segment of a reverted thread has no user message of its own.
            let is_segment = thread.name.rollout_id().is_some();
            if flow == Flow::Materialise || is_segment || which == Recover::All {
                place(home, &thread.file, &thread.path, false)?;
                recovered.placed += 1;
            }
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let mut own = File::open(&thread.file).map_err(StoreError::io("open", &thread.file))?;
    let mut whole = content::open_decoded_reader(&there)?;
    if starts_with(&mut *whole, &mut own).map_err(StoreError::io("compare", &there.path))? {
        fs::remove_file(&thread.file).map_err(StoreError::io("remove", &thread.file))?;
        recovered.dropped += 1;
    } else {
        log::warn!(
            "{} is pending, and the home has other bytes at its path, which are the ones shown; move it away or remove it",
            thread.file.display()
        );
        recovered.kept += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const NAME: &str = "sessions/2026/02/08/rollout-2026-02-08T10-15-01-0198c0de-0000-7000-8000-0000000000";
    const META: &str = "{\"timestamp\":\"t\",\"type\":\"session_meta\",\"payload\":{}}\n";
    const USER: &str =
        "{\"timestamp\":\"t\",\"type\":\"event_msg\",\"payload\":{\"type\":\"user_message\"}}\n";

    /// End of the name, pending, home (`.zst` where told so), what is in the two after.
    type Case<'a> = (&'a str, &'a str, Option<(&'a str, bool)>, Option<&'a str>, Option<&'a str>);

    #[test]
    fn a_start_finishes_what_was_left() {
        let dir = TempDir::new().unwrap();
        let home = Home::open(dir.path()).unwrap();
        let areas = home.areas();
        let asked = META.to_owned() + USER;
        let segment = "01_0198c0de-0000-7000-8000-0000000000ff";
        let table: [Case<'_>; 9] = [
            ("01", META, None, Some(META), None),
            ("02", &asked, None, None, Some(&asked)),
            ("03", &asked, Some((&asked, false)), None, Some(&asked)),
            ("04", META, Some((&asked, false)), None, Some(&asked)),
            ("05", &asked, Some((META, false)), Some(&asked), Some(META)),
            ("06", USER, Some((&asked, false)), Some(USER), Some(&asked)),
            ("07", "", None, Some(""), None),
            ("08", META, Some((&asked, true)), None, None),
            (segment, META, None, None, Some(META)),
        ];
        let path = |end: &str| format!("{NAME}{end}.jsonl").into_bytes();
        for (end, pending, there, _, _) in table {
            let write = |file: PathBuf, bytes: &[u8]| {
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, bytes).unwrap();
            };
            write(areas.join(Area::Pending, &path(end)), pending.as_bytes());
            match there {
                Some((text, false)) => write(home.join(&path(end)), text.as_bytes()),
                Some((text, true)) => {
                    let packed = zstd::encode_all(text.as_bytes(), 1).unwrap();
                    write(content::compressed_path(&home.join(&path(end))), &packed);
                }
                None => {}
            }
        }
        assert_eq!(list(&areas).unwrap().len(), table.len());
        assert_eq!(recover(&home, &areas, Recover::Nothing), Recovered::default());
        assert_eq!(recover(&home, &areas, Recover::Asked), Recovered { placed: 2, dropped: 3, kept: 2 });
        for (end, _, _, pending, there) in table {
            let read = |file: PathBuf| fs::read_to_string(file).ok();
            assert_eq!(read(areas.join(Area::Pending, &path(end))).as_deref(), pending, "{end}");
            assert_eq!(read(home.join(&path(end))).as_deref(), there, "{end}");
        }
        assert_eq!(recover(&home, &areas, Recover::Asked), Recovered { kept: 2, ..Recovered::default() });
        assert_eq!(recover(&home, &areas, Recover::All), Recovered { placed: 2, kept: 2, dropped: 0 });
    }
}
