//! How does a compressed rollout become a plain one again, so that lines can be appended to it?
//!
//! Spec 1.5: decode beside it, sync, publish without overwriting, then remove the compressed file. A crash
//! leaves both files, of which the plain one counts, or a temporary that the next thaw sweeps; never none. Depends on
//! `content`, `placement` and `failpoint`.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::content::{self, Encoding, Located};
use super::error::{Result, StoreError};
use super::failpoint::hit;
use super::placement::{Temporary, sync_folder};

/// Bytes that are decoded at once.
const BUFFER_BYTES: usize = 128 * 1024;

/// The mtime that a thawed rollout gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThawTime {
    /// That of the compressed file.
    Keep,
    /// Now: nothing will take the rollout for a cold one and compress it again at once.
    Now,
}

/// Makes the rollout whose plain path is `logical` a plain file. True if it was compressed.
///
/// The caller sees to it that nobody else writes the thread. Mode and, where allowed, owner are kept.
///
/// # Errors
/// [`StoreError::NotFound`] with neither file there, [`StoreError::Damaged`] when it does not decode to its
/// end, [`StoreError::Io`]. Then nothing has changed.
pub fn thaw(logical: &Path, time: ThawTime) -> Result<bool> {
    let located = content::locate(logical)?;
    if located.encoding == Encoding::Plain {
        return Ok(false);
    }
    let folder = logical.parent().unwrap_or(Path::new("."));
    let mut temporary = Temporary::create(folder)?;
    decode(&located, &mut temporary)?;
    match time {
        ThawTime::Keep => temporary.take_after(&located.stat)?,
        ThawTime::Now => temporary.take_owner_and_mode(&located.stat, located.stat.mode() & 0o7777)?,
    }
    temporary.sync()?;
    hit("thaw.decoded");
    match temporary.place(logical) {
        // A plain rollout that came meanwhile counts, and stays.
        Ok(()) | Err(StoreError::Exists { .. }) => {}
        Err(error) => return Err(error),
    }
    hit("thaw.placed");
    sync_folder(folder)?;
    match fs::remove_file(&located.path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            // The plain file counts from now on, so this is untidy and not wrong.
            log::warn!("{} is left over: {error}", located.path.display());
        }
        _ => hit("thaw.removed"),
    }
    Ok(true)
}

fn decode(located: &Located, temporary: &mut Temporary) -> Result<()> {
    let mut reader = content::open_decoded_reader(located)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let length = match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(content::read_error(located, error)),
        };
        let written = temporary.file().write_all(&buffer[..length]);
        written.map_err(StoreError::io("write", temporary.path()))?;
    }
}

#[cfg(test)]
mod tests {
    use super::super::failpoint::crash;
    use super::*;
    use std::fs::File;
    use std::io;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use std::time::{Duration, SystemTime};

    const NAME: &str = "rollout-2026-02-08T10-15-01-0198c0de-0000-7000-8000-0000000000aa.jsonl";

    struct Frozen {
        dir: tempfile::TempDir,
        logical: PathBuf,
        zst: PathBuf,
    }

    /// A compressed rollout of mode 0640, a year old.
    fn frozen(content: &[u8]) -> Frozen {
        let dir = tempfile::tempdir().unwrap();
        let logical = dir.path().join(NAME);
        let zst = content::compressed_path(&logical);
        fs::write(&zst, content).unwrap();
        fs::set_permissions(&zst, fs::Permissions::from_mode(0o640)).unwrap();
        let old = SystemTime::now() - Duration::from_secs(365 * 86_400);
        File::options().append(true).open(&zst).unwrap().set_modified(old).unwrap();
        Frozen { dir, logical, zst }
    }

    fn compressed(text: &[u8]) -> Vec<u8> {
        zstd::encode_all(text, 3).unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        fs::read_dir(dir).unwrap().map(name).collect()
    }

    /// Spec 11.6, cases 3 and 4.
    #[test]
    fn the_plain_file_takes_the_place_of_the_compressed_one() {
        let text = b"one\ntwo\n".repeat(100_000);
        for time in [ThawTime::Keep, ThawTime::Now] {
            let frozen = frozen(&compressed(&text));
            let old = fs::metadata(&frozen.zst).unwrap().modified().unwrap();
            assert!(thaw(&frozen.logical, time).unwrap());
            assert!(fs::read(&frozen.logical).unwrap() == text);
            assert_eq!(names(frozen.dir.path()), [NAME]);
            let stat = fs::metadata(&frozen.logical).unwrap();
            assert_eq!(stat.permissions().mode() & 0o777, 0o640);
            assert_eq!(stat.modified().unwrap() == old, time == ThawTime::Keep);
            assert!(!thaw(&frozen.logical, time).unwrap(), "the second time there is nothing to do");
        }
    }

    #[test]
    fn a_plain_file_counts_and_nothing_is_touched() {
        let frozen = frozen(&compressed(b"old\n"));
        fs::write(&frozen.logical, "new\n").unwrap();
        assert!(!thaw(&frozen.logical, ThawTime::Now).unwrap());
        assert_eq!(fs::read(&frozen.logical).unwrap(), b"new\n");
        assert!(frozen.zst.exists());
    }

    #[test]
    fn the_child_of_the_crash_test() {
        let Some((dir, _)) = crash::asked() else { return };
        thaw(&dir.join(NAME), ThawTime::Keep).unwrap();
    }

    #[test]
    fn a_crash_at_any_point_leaves_the_thread_and_the_next_try_tidies_up() {
        let test = "store::thaw::tests::the_child_of_the_crash_test";
        let text = b"one\ntwo\n".repeat(1000);
        for point in ["thaw.decoded", "place.moved", "thaw.placed", "thaw.removed"] {
            let frozen = frozen(&compressed(&text));
            assert!(crash::child_aborts(test, frozen.dir.path(), "thaw", point), "{point}");
            let mut found = Vec::new();
            let located = content::locate(&frozen.logical).unwrap();
            content::open_decoded_reader(&located).unwrap().read_to_end(&mut found).unwrap();
            assert!(found == text, "{point}");
            thaw(&frozen.logical, ThawTime::Keep).unwrap();
            assert!(fs::read(&frozen.logical).unwrap() == text, "{point}");
            // A `.zst` that is left is hidden by the plain file.
            let others = names(frozen.dir.path()).into_iter().filter(|name| !name.starts_with(NAME));
            assert_eq!(others.count(), 0, "{point}");
        }
    }

    #[test]
    fn damage_changes_nothing() {
        let whole = compressed(&b"line\n".repeat(50_000));
        for content in [&whole[..whole.len() / 2], b"no zstd at all"] {
            let frozen = frozen(content);
            let refused = thaw(&frozen.logical, ThawTime::Now).unwrap_err();
            assert!(matches!(refused, StoreError::Damaged { .. }), "{refused}");
            assert_eq!(names(frozen.dir.path()), [format!("{NAME}.zst")]);
            assert_eq!(fs::read(&frozen.zst).unwrap(), content);
        }
        let nothing = tempfile::tempdir().unwrap();
        let refused = thaw(&nothing.path().join(NAME), ThawTime::Now).unwrap_err();
        assert!(matches!(refused, StoreError::NotFound { .. }), "{refused}");
    }
}
