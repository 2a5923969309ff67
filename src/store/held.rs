//! What was accepted of a write whose rest is still to come? Pieces, journaled until they land as one.
//!
//! The kernel hands a long write over in pieces, and each is answered before the next comes. Appended one by one, a line
//! of another process on the disk below could come between them. So a piece that looks unfinished is kept here, in a file
//! below `held/` of the state folder, until the rest is there and all of it can be appended by one write. A killed daemon
//! finds it at its next start and appends it then ([`Journal::replay`]).
//!
//! An entry is a file: one line of JSON padded to `HEADER_BYTES`, then the bytes. The header is written last, by one write
//! that a kill cannot cut; a file without one holds nothing that was accepted.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::areas::Areas;
use super::error::{Result, StoreError};
use super::failpoint;
use super::home::{SESSION_INDEX_NAME, give_folder_to_owner_of, give_to_owner_of};
use super::rollout::RolloutName;
use super::thaw::{ThawTime, thaw};

/// The folder of the entries, in the state folder.
const FOLDER: &str = "held";
/// Bytes of an entry's header: a page, so that the kernel writes it whole or not at all when the process is killed.
const HEADER_BYTES: usize = 4096;
/// The most bytes that one entry holds. A write that is longer lands in pieces of this size: 64 MiB.
pub const HELD_BYTES_MAX: usize = 64 << 20;

/// What an entry says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Header {
    /// The file below the home.
    path: String,
    /// Bytes that the writer was told are written.
    accepted: u64,
    /// Bytes of them that are in the file already.
    landed: u64,
    /// The write at hand, where there is one.
    landing: Option<Landing>,
}

/// A write that may have happened.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Landing {
    /// The file was this long before, bytes.
    size: u64,
    /// The entry's bytes from `landed` to here are written, those that were not accepted yet with them.
    total: u64,
}

/// The folder of the entries.
#[derive(Clone, Debug)]
pub struct Journal {
    folder: PathBuf,
}

/// Pieces of one write, in order.
#[derive(Debug)]
pub struct Entry {
    file: File,
    lies: PathBuf,
    header: Header,
    /// Accepted and not landed.
    bytes: Vec<u8>,
}

/// What a replay did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Entries whose bytes were appended now.
    pub appended: u64,
    /// Entries whose bytes were there.
    pub present: u64,
    /// Entries that are kept: their file is gone, or takes nothing.
    pub kept: u64,
}

impl Journal {
    /// Of a state folder.
    pub fn new(state_dir: &Path) -> Journal {
        Journal { folder: state_dir.join(FOLDER) }
    }

    /// Accepts the first piece of a write to the file `path` below the home. `key` names the entry: one a file.
    ///
    /// # Errors
    /// [`StoreError::Io`]; then nothing is kept.
    pub fn begin(&self, key: u64, path: &[u8], piece: &[u8]) -> Result<Entry> {
        let path =
            String::from_utf8(path.to_vec()).ok().filter(|path| path.len() < HEADER_BYTES / 8).ok_or_else(
                || StoreError::Invalid(format!("{}: no name of a rollout", String::from_utf8_lossy(path))),
            )?;
        let lies = self.folder.join(format!("{key:016x}"));
        let failed = StoreError::io("hold a piece in", &lies);
        let open = || OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&lies);
        let opened = open().or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error);
            }
            make_folder(&self.folder)?;
            open()
        });
        let file = opened.map_err(failed)?;
        give_to_owner_of(&self.folder, &file);
        let header = Header { path, accepted: 0, landed: 0, landing: None };
        let mut entry = Entry { file, lies, header, bytes: Vec::new() };
        match entry.extend(piece) {
            Ok(()) => Ok(entry),
            Err(error) => {
                entry.end();
                Err(error)
            }
        }
    }

    /// Appends what a daemon that was killed had accepted. Called before anything else writes.
    pub fn replay(&self, areas: &Areas) -> Replayed {
        let mut replayed = Replayed::default();
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        for lies in entries.map(|entry| entry.path()) {
            match replay_one(&lies, areas) {
                Ok(Replay::Empty) => {}
                Ok(Replay::Appended) => replayed.appended += 1,
                Ok(Replay::Present) => replayed.present += 1,
                Err(error) => {
                    log::error!("{error}; what was to be appended is kept in {}", lies.display());
                    replayed.kept += 1;
                }
            }
        }
        replayed
    }
}

impl Entry {
    /// Bytes accepted and not landed.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The file below the home, as it was called when the first piece came.
    pub fn path(&self) -> &[u8] {
        self.header.path.as_bytes()
    }

    /// Accepts another piece.
    ///
    /// # Errors
    /// [`StoreError::Io`]; then the piece is not kept, and those before are.
    pub fn extend(&mut self, piece: &[u8]) -> Result<()> {
        self.write_bytes(piece)?;
        let accepted = self.header.accepted + piece.len() as u64;
        self.write_header(Header { accepted, ..self.header.clone() })?;
        self.bytes.extend_from_slice(piece);
        failpoint::hit("held.accepted");
        Ok(())
    }

    /// Appends what is held, and `rest` behind it, by one call of `append`, which is given the bytes and answers with how
    /// many it wrote; `size` is the file's length before. Returns how much of `rest` was written.
    ///
    /// # Errors
    /// What `append` answers, and ENOSPC where it wrote less than what is held: then nothing of `rest` is written, and
    /// what was not written is still held.
    pub fn land(
        &mut self,
        size: u64,
        rest: &[u8],
        append: impl FnOnce(&[u8]) -> io::Result<usize>,
    ) -> Result<usize> {
        let held = self.bytes.len();
        let whole = [&self.bytes, rest].concat();
        let landing = Landing { size, total: self.header.accepted + rest.len() as u64 };
        // Kept as it was accepted: a kill from here on may find the bytes in the file, or not.
        self.write_bytes(rest)?;
        self.write_header(Header { landing: Some(landing), ..self.header.clone() })?;
        failpoint::hit("held.landing");
        let written = append(&whole);
        failpoint::hit("held.landed");
        let count = *written.as_ref().unwrap_or(&0);
        let landed = self.header.landed + count.min(held) as u64;
        if count < held {
            // The header first: what has landed must not land again.
            let _ = self.write_header(Header { landed, landing: None, ..self.header.clone() });
            self.bytes.drain(..count);
            let error = written.err().unwrap_or_else(|| io::ErrorKind::StorageFull.into());
            return Err(StoreError::io("append to", Path::new(&self.header.path))(error));
        }
        self.bytes.clear();
        Ok(count - held)
    }

    /// Forgets what is held: all of it has landed.
    pub fn end(self) {
        if let Err(error) = fs::remove_file(&self.lies)
            && error.kind() != io::ErrorKind::NotFound
        {
            log::warn!("cannot remove {}: {error}; it is empty", self.lies.display());
            // An entry without a header holds nothing.
            let _ = self.file.set_len(0);
        }
    }

    /// The entry in a file; None where nothing of it was accepted.
    fn load(lies: &Path) -> Result<Option<Entry>> {
        let failed = |error| StoreError::io("read", lies)(error);
        let mut file = OpenOptions::new().read(true).write(true).open(lies).map_err(failed)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let header = bytes.get(..HEADER_BYTES).and_then(|line| serde_json::from_slice::<Header>(line).ok());
        let Some(header) = header else { return Ok(None) };
        let held = HEADER_BYTES + header.landed as usize..HEADER_BYTES + header.accepted as usize;
        let Some(bytes) = bytes.get(held).map(<[u8]>::to_vec) else {
            return Err(StoreError::Invalid(format!("{} is cut short", lies.display())));
        };
        Ok(Some(Entry { file, lies: lies.to_owned(), header, bytes }))
    }

    /// Finds out what of a write that may have happened is in the file; `since` is what the file has since before it.
    fn settle(&mut self, landing: Landing, since: &[u8]) -> Result<()> {
        let failed = StoreError::io("read", &self.lies);
        let mut written = vec![0; (landing.total - self.header.landed) as usize];
        self.file.read_exact_at(&mut written, HEADER_BYTES as u64 + self.header.landed).map_err(failed)?;
        let count = landed_bytes(since, &written).min(self.bytes.len());
        let landed = self.header.landed + count as u64;
        self.write_header(Header { landed, landing: None, ..self.header.clone() })?;
        self.bytes.drain(..count);
        Ok(())
    }

    /// Writes bytes behind what was accepted.
    fn write_bytes(&self, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all_at(bytes, HEADER_BYTES as u64 + self.header.accepted);
        written.map_err(StoreError::io("hold a piece in", &self.lies))
    }

    fn write_header(&mut self, header: Header) -> Result<()> {
        let failed = StoreError::io("hold a piece in", &self.lies);
        let line = serde_json::to_vec(&header).map_err(io::Error::from).and_then(|mut line| {
            line.resize(HEADER_BYTES - 1, b' ');
            line.push(b'\n');
            self.file.write_all_at(&line, 0)
        });
        line.map_err(failed)?;
        self.header = header;
        Ok(())
    }
}

enum Replay {
    Empty,
    Appended,
    Present,
}

fn make_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    give_folder_to_owner_of(folder.parent().unwrap_or(folder), folder);
    Ok(())
}

fn replay_one(lies: &Path, areas: &Areas) -> Result<Replay> {
    let Some(mut entry) = Entry::load(lies)? else {
        fs::remove_file(lies).map_err(StoreError::io("remove", lies))?;
        return Ok(Replay::Empty);
    };
    let path = find(entry.path(), areas)?;
    thaw(&path, ThawTime::Now)?;
    let failed = |error| StoreError::io("append to", &path)(error);
    let opened = OpenOptions::new().read(true).append(true).custom_flags(libc::O_NOFOLLOW).open(&path);
    let mut file = opened.map_err(failed)?;
    if let Some(landing) = entry.header.landing {
        let since = read_from(&mut file, landing.size).map_err(failed)?;
        entry.settle(landing, &since)?;
    }
    let replayed = if entry.bytes.is_empty() { Replay::Present } else { Replay::Appended };
    if !entry.bytes.is_empty() {
        let size = file.metadata().map_err(failed)?.size();
        entry.land(size, &[], |bytes| io::Write::write(&mut file, bytes))?;
    }
    entry.end();
    Ok(replayed)
}

/// Of bytes that one write may have put into the file: how many it did, given what the file has since then.
fn landed_bytes(since: &[u8], written: &[u8]) -> usize {
    if memchr::memmem::find(since, written).is_some() {
        return written.len();
    }
    // Killed within the write, at the border of a page.
    if written.starts_with(since) { since.len() } else { 0 }
}

fn read_from(file: &mut File, offset: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Seek::seek(file, io::SeekFrom::Start(offset))?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Where the file is now: it may have been archived, or taken back, meanwhile.
fn find(path: &[u8], areas: &Areas) -> Result<PathBuf> {
    let home = |path: &[u8]| areas.join(super::areas::Area::Home, path);
    if path == SESSION_INDEX_NAME.as_bytes() {
        return Ok(home(path));
    }
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let rollout = RolloutName::parse(name)
        .ok_or_else(|| StoreError::Invalid(format!("{}: no rollout", String::from_utf8_lossy(path))))?;
    let (year, month, day) = rollout.date_parts();
    let dated = [format!("sessions/{year}/{month}/{day}/").as_bytes(), name].concat();
    let archived = [b"archived_sessions/", name].concat();
    for candidate in [path.to_vec(), dated, archived] {
        match super::content::locate_now(&home(&candidate)) {
            Ok(_) => return Ok(home(&candidate)),
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Err(StoreError::NotFound { what: String::from_utf8_lossy(path).into_owned() })
}

#[cfg(test)]
mod tests {
    use super::super::failpoint::crash;
    use super::super::home::Home;
    use super::*;

    const PATH: &str =
        "sessions/2026/02/08/rollout-2026-02-08T10-15-01-0198c0de-0000-7000-8000-000000000001.jsonl";
    const THERE: &[u8] = b"{\"there\":1}\n";
    const FIRST: &[u8] = b"{\"first\":";
    const REST: &[u8] = b"2}\n";

    struct Place {
        dir: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Place {
            let place = Place { dir: tempfile::tempdir().unwrap() };
            fs::create_dir_all(place.home().join(PATH).parent().unwrap()).unwrap();
            fs::write(place.home().join(PATH), THERE).unwrap();
            place
        }

        fn home(&self) -> PathBuf {
            self.dir.path().join("home")
        }

        fn journal(&self) -> Journal {
            Journal::new(&self.dir.path().join("state"))
        }

        fn replay(&self) -> Replayed {
            let areas = Areas::new(&Home::open(&self.home()).unwrap(), &self.dir.path().join("state"));
            self.journal().replay(&areas)
        }

        fn text(&self) -> Vec<u8> {
            fs::read(self.home().join(PATH)).unwrap()
        }

        fn is_empty(&self) -> bool {
            fs::read_dir(&self.journal().folder).map_or(true, |entries| entries.count() == 0)
        }
    }

    fn append(file: &Path, bytes: &[u8]) -> io::Result<usize> {
        io::Write::write(&mut OpenOptions::new().append(true).open(file)?, bytes)
    }

    #[test]
    fn pieces_land_as_one_and_leave_nothing() {
        let place = Place::new();
        let mut entry = place.journal().begin(7, PATH.as_bytes(), FIRST).unwrap();
        entry.extend(b"0").unwrap();
        assert_eq!(place.text(), THERE, "nothing of it is in the file");
        let mut calls = 0;
        let count = entry
            .land(THERE.len() as u64, REST, |bytes| {
                calls += 1;
                append(&place.home().join(PATH), bytes)
            })
            .unwrap();
        entry.end();
        assert_eq!((count, calls), (REST.len(), 1));
        assert_eq!(place.text(), [THERE, FIRST, b"0", REST].concat());
        assert!(place.is_empty());
    }

    #[test]
    fn what_was_accepted_is_appended_at_the_next_start_wherever_the_thread_is() {
        let archived = format!("archived_sessions/{}", PATH.rsplit('/').next().unwrap());
        for to in [None, Some(archived)] {
            let place = Place::new();
            drop(place.journal().begin(7, PATH.as_bytes(), FIRST).unwrap());
            let lies = to.as_ref().map_or(place.home().join(PATH), |to| place.home().join(to));
            fs::create_dir_all(lies.parent().unwrap()).unwrap();
            fs::rename(place.home().join(PATH), &lies).unwrap();
            assert_eq!(place.replay(), Replayed { appended: 1, ..Replayed::default() });
            assert_eq!(fs::read(&lies).unwrap(), [THERE, FIRST].concat());
            assert_eq!(place.replay(), Replayed::default());
            assert!(place.is_empty());
        }
    }

    #[test]
    fn an_entry_whose_thread_is_gone_is_kept() {
        let place = Place::new();
        drop(place.journal().begin(7, PATH.as_bytes(), FIRST).unwrap());
        fs::rename(place.home().join(PATH), place.dir.path().join("away")).unwrap();
        assert_eq!(place.replay(), Replayed { kept: 1, ..Replayed::default() });
        fs::rename(place.dir.path().join("away"), place.home().join(PATH)).unwrap();
        assert_eq!(place.replay(), Replayed { appended: 1, ..Replayed::default() });
        assert_eq!(place.text(), [THERE, FIRST].concat());
    }

    #[test]
    fn a_compressed_thread_is_made_plain_for_it() {
        let place = Place::new();
        drop(place.journal().begin(7, PATH.as_bytes(), FIRST).unwrap());
        let plain = place.home().join(PATH);
        fs::write(super::super::content::compressed_path(&plain), zstd::encode_all(THERE, 1).unwrap())
            .unwrap();
        fs::remove_file(&plain).unwrap();
        assert_eq!(place.replay(), Replayed { appended: 1, ..Replayed::default() });
        assert_eq!(place.text(), [THERE, FIRST].concat());
    }

    #[test]
    fn files_that_hold_nothing_are_removed() {
        let place = Place::new();
        fs::create_dir_all(&place.journal().folder).unwrap();
        for (name, bytes) in [("1", vec![]), ("2", vec![0; HEADER_BYTES + 3]), ("3", b"{}".to_vec())] {
            fs::write(place.journal().folder.join(name), bytes).unwrap();
        }
        assert_eq!(place.replay(), Replayed::default());
        assert!(place.is_empty());
        assert_eq!(place.text(), THERE);
    }

    #[test]
    fn a_full_disk_takes_nothing_twice() {
        let full = || io::Error::from_raw_os_error(libc::ENOSPC);
        let place = Place::new();
        let file = place.home().join(PATH);
        let mut entry = place.journal().begin(7, PATH.as_bytes(), FIRST).unwrap();
        entry.land(THERE.len() as u64, REST, |_| Err(full())).unwrap_err();
        assert_eq!(entry.bytes(), FIRST);
        // A few bytes fit.
        entry.land(THERE.len() as u64, REST, |bytes| append(&file, &bytes[..4])).unwrap_err();
        assert_eq!(entry.bytes(), &FIRST[4..]);
        // The held ones fit, and one more.
        let size = THERE.len() as u64 + 4;
        let fits = FIRST.len() - 4 + 1;
        assert_eq!(entry.land(size, REST, |bytes| append(&file, &bytes[..fits])).unwrap(), 1);
        entry.end();
        assert_eq!(place.text(), [THERE, FIRST, &REST[..1]].concat());
        // Killed after the first few bytes had landed: the others follow.
        let place = Place::new();
        let mut entry = place.journal().begin(7, PATH.as_bytes(), FIRST).unwrap();
        let file = place.home().join(PATH);
        entry.land(THERE.len() as u64, REST, |bytes| append(&file, &bytes[..4])).unwrap_err();
        drop(entry);
        assert_eq!(place.replay(), Replayed { appended: 1, ..Replayed::default() });
        assert_eq!(place.text(), [THERE, FIRST].concat());
    }

    #[test]
    fn of_a_write_that_was_cut_the_rest_follows() {
        let others = b"{\"other\":9}\n".as_slice();
        let whole = [FIRST, REST].concat();
        let table: [(&[u8], usize); 6] = [
            (b"", 0),
            (&whole[..4], 4),
            (&whole, whole.len()),
            (&[others, &whole, others].concat(), whole.len()),
            (others, 0),
            (&[&whole[..], others].concat(), whole.len()),
        ];
        for (since, expected) in table {
            assert_eq!(landed_bytes(since, &whole), expected, "{}", String::from_utf8_lossy(since));
        }
    }

    /// In a child: the pieces of two lines, and their landing.
    #[test]
    fn the_child_that_holds_pieces() {
        let Some((dir, _)) = crash::asked() else { return };
        let (journal, file) = (Journal::new(&dir.join("state")), dir.join("home").join(PATH));
        for _ in 0..2 {
            let mut entry = journal.begin(7, PATH.as_bytes(), FIRST).unwrap();
            io::Write::write_all(&mut OpenOptions::new().append(true).open(dir.join("said")).unwrap(), FIRST)
                .unwrap();
            let size = fs::metadata(&file).unwrap().len();
            entry.land(size, REST, |bytes| append(&file, bytes)).unwrap();
            entry.end();
            io::Write::write_all(&mut OpenOptions::new().append(true).open(dir.join("said")).unwrap(), REST)
                .unwrap();
        }
    }

    #[test]
    fn killed_at_any_step_nothing_is_lost_and_nothing_is_there_twice() {
        let test = "store::held::tests::the_child_that_holds_pieces";
        for point in ["held.accepted", "held.landing", "held.landed"]
            .into_iter()
            .flat_map(|name| [format!("{name}:1"), format!("{name}:2")])
        {
            let place = Place::new();
            fs::write(place.dir.path().join("said"), "").unwrap();
            assert!(crash::child_aborts(test, place.dir.path(), "", &point), "{point}");
            place.replay();
            let said = [THERE, &fs::read(place.dir.path().join("said")).unwrap()].concat();
            let text = place.text();
            assert!(text.starts_with(&said), "{point}: {}", String::from_utf8_lossy(&text));
            let line = [FIRST, REST].concat();
            let all = [THERE, &line, &line].concat();
            assert!(all.starts_with(&text), "{point}: {}", String::from_utf8_lossy(&text));
            assert!(place.is_empty(), "{point}");
        }
    }
}
