//! Which folder is the home, where does its state lie, and who may write it?

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown, lchown};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::areas::Areas;
use super::error::{Result, StoreError};
use super::scan::ROOTS;

/// The state folder's name inside a home.
pub const STATE_DIR_NAME: &str = ".rolloutfs";
/// The names file of a home (spec 4).
pub const SESSION_INDEX_NAME: &str = "session_index.jsonl";

/// What a Codex home has at least one of. Names only: of these, rolloutfs opens the first three alone.
const SIGNS: [&str; 11] = [
    "sessions",
    "archived_sessions",
    SESSION_INDEX_NAME,
    "config.toml",
    "auth.json",
    "history.jsonl",
    "version.json",
    "installation_id",
    "log",
    "skills",
    STATE_DIR_NAME,
];

/// A Codex home.
#[derive(Clone, Debug)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// The home that a command means: the one given, else `$CODEX_HOME`, else `~/.codex`.
    pub fn resolve(given: Option<&Path>) -> Result<Home> {
        let not_empty = |value: &std::ffi::OsString| !value.is_empty();
        let from_env = env::var_os("CODEX_HOME").filter(not_empty).map(PathBuf::from);
        let default = env::var_os("HOME").filter(not_empty).map(|user| PathBuf::from(user).join(".codex"));
        match given.map(Path::to_owned).or(from_env).or(default) {
            Some(path) => Home::open(&path),
            None => Err(StoreError::Invalid("no home: give its folder, or set CODEX_HOME or HOME".into())),
        }
    }

    /// The home at `path`: a folder that looks like one, or an empty one.
    pub fn open(path: &Path) -> Result<Home> {
        let not_a_home =
            |reason: &str| StoreError::NotAHome { path: path.to_owned(), reason: reason.to_owned() };
        let root = fs::canonicalize(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => not_a_home(
                "there is no such folder; give the home as an argument or set CODEX_HOME (try `rolloutfs sample-home DIR` to have one to play with)",
            ),
            _ => StoreError::io("open", path)(error),
        })?;
        if !root.is_dir() {
            return Err(not_a_home("it is not a folder"));
        }
        let mut entries = fs::read_dir(&root).map_err(StoreError::io("list", &root))?;
        if !SIGNS.iter().any(|sign| root.join(sign).symlink_metadata().is_ok()) && entries.next().is_some() {
            return Err(not_a_home(
                "there is no sessions, archived_sessions or config.toml in it; give the right folder or set CODEX_HOME",
            ));
        }
        Ok(Home { root })
    }

    /// The home's canonical path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file of a logical path below the home.
    pub fn join(&self, path: &[u8]) -> PathBuf {
        self.root.join(std::ffi::OsStr::from_bytes(path))
    }

    /// Gives a file that this process just made to the owner of the home, where it is root.
    pub fn give(&self, file: &File) {
        give_to_owner_of(&self.root, file);
    }

    /// Makes a folder within the state folder, and those above it: mode 0700, and the home's owner.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn make_private_folder(&self, folder: &Path) -> Result<()> {
        let mut missing = Vec::new();
        let mut at = Some(folder);
        while let Some(path) = at.filter(|path| !path.is_dir()) {
            missing.push(path);
            at = path.parent();
        }
        for path in missing.into_iter().rev() {
            match fs::DirBuilder::new().mode(0o700).create(path) {
                // Another call made it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
                made => {
                    made.map_err(StoreError::io("make the folder", path))?;
                    give_folder_to_owner_of(&self.root, path);
                }
            }
        }
        Ok(())
    }

    /// Where its files lie, with the spool of its own state folder.
    pub fn areas(&self) -> Areas {
        Areas::new(self, &self.root.join(STATE_DIR_NAME))
    }

    /// The names file.
    pub fn session_index(&self) -> PathBuf {
        self.root.join(SESSION_INDEX_NAME)
    }

    /// The folders with rollouts.
    pub fn roots(&self) -> [PathBuf; 2] {
        ROOTS.map(|name| self.root.join(name))
    }

    /// Where the state may lie, best first: in the home, in the user's state folder, in memory.
    fn state_candidates(&self) -> Vec<PathBuf> {
        let hash = format!("{:016x}", xxh3_64(self.root.as_os_str().as_bytes()));
        let mut candidates = vec![self.root.join(STATE_DIR_NAME)];
        let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        if let Some(state) =
            absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))
        {
            candidates.push(state.join("rolloutfs").join(&hash));
        }
        for base in passing_places() {
            candidates.push(base.join(format!("rolloutfs-{}", user_id())).join(&hash));
        }
        candidates
    }

    /// The state folder, made where it is not there: `given`, else the first candidate that can be written.
    pub fn make_state_dir(&self, given: Option<&Path>) -> Result<PathBuf> {
        if let Some(given) = given {
            self.try_state_dir(given)?;
            return fs::canonicalize(given).map_err(StoreError::io("open", given));
        }
        let mut first_error = None;
        for candidate in self.state_candidates() {
            match self.try_state_dir(&candidate) {
                Ok(()) => {
                    if let Some(error) = &first_error {
                        log::warn!("{error}; the index is kept in {} instead", candidate.display());
                    }
                    return Ok(candidate);
                }
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        // There is at least the candidate in the home, and it failed.
        Err(first_error.unwrap_or_else(|| StoreError::Invalid("no state folder".into())))
    }

    fn try_state_dir(&self, dir: &Path) -> Result<()> {
        let is_new = !dir.is_dir();
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(StoreError::io("create", dir))?;
        if is_new {
            give_folder_to_owner_of(&self.root, dir);
        }
        if !is_ours(dir) {
            return Err(StoreError::Invalid(format!("{} belongs to another user", dir.display())));
        }
        let probe = dir.join(format!(".probe-{}", std::process::id()));
        let written =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&probe).and_then(
                |mut file| file.write_all(&vec![0x5a; STATE_ROOM_BYTES]).and_then(|()| file.sync_data()),
            );
        let _ = fs::remove_file(&probe);
        written.map_err(StoreError::io("write in", dir))
    }

    /// The state folder of an earlier run, if there is one; nothing is made.
    pub fn find_state_dir(&self, given: Option<&Path>) -> Option<PathBuf> {
        let has_index = |dir: &PathBuf| dir.join(INDEX_NAME).is_file() && is_ours(dir);
        match given {
            Some(given) => Some(given.to_owned()).filter(has_index),
            None => self.state_candidates().into_iter().find(has_index),
        }
    }
}

/// Where state is kept at the last: it goes when the machine restarts.
fn passing_places() -> [PathBuf; 2] {
    [PathBuf::from("/dev/shm"), env::temp_dir()]
}

/// True for a state folder that [`Home::make_state_dir`] chose at the last.
pub(super) fn is_passing(state_dir: &Path) -> bool {
    let ours = |base: &Path| base.join(format!("rolloutfs-{}", user_id()));
    passing_places().iter().any(|base| state_dir.starts_with(ours(base)))
}

/// Where this process is root: the owner of `like`, whom what it makes is given to. Else what root made for the home of
/// another user would shut that user out.
fn owner_to_be(like: &Path) -> Option<(u32, u32)> {
    let found = (effective_user_id() == 0).then(|| fs::metadata(like).ok()).flatten()?;
    Some((found.uid(), found.gid()))
}

/// Gives a file that this process just made to the owner of `like`, where it is root. A disk may know no owners.
pub(super) fn give_to_owner_of(like: &Path, file: &File) {
    if let Some((uid, gid)) = owner_to_be(like)
        && let Err(error) = fchown(file, Some(uid), Some(gid))
    {
        log::debug!("a new file stays root's: {error}");
    }
}

/// The same of a folder.
pub(super) fn give_folder_to_owner_of(like: &Path, folder: &Path) {
    if let Some((uid, gid)) = owner_to_be(like)
        && let Err(error) = lchown(folder, Some(uid), Some(gid))
    {
        log::debug!("{} stays root's: {error}", folder.display());
    }
}

fn effective_user_id() -> libc::uid_t {
    // SAFETY: geteuid cannot fail and touches no memory.
    unsafe { libc::geteuid() }
}

fn user_id() -> libc::uid_t {
    // SAFETY: getuid cannot fail and touches no memory.
    unsafe { libc::getuid() }
}

/// The index's name in a state folder.
pub const INDEX_NAME: &str = "index.sqlite";

/// Room that a state folder must have to be chosen: an index that cannot grow is none.
const STATE_ROOM_BYTES: usize = 256 * 1024;

/// A state folder in a world-writable place could be someone else's.
fn is_ours(dir: &Path) -> bool {
    let uid = effective_user_id();
    fs::symlink_metadata(dir).is_ok_and(|found| found.is_dir() && (found.uid() == uid || uid == 0))
}

/// A command that looks whether the lock is held holds it for a moment: tried again this often, with this pause.
const LOCK_TRIES: u32 = 5;
const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

fn lock_patiently(file: &File) -> io::Result<()> {
    let mut tries = 1;
    loop {
        // SAFETY: flock on a descriptor that `file` owns.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EWOULDBLOCK) || tries == LOCK_TRIES {
            return Err(error);
        }
        tries += 1;
        std::thread::sleep(LOCK_PAUSE);
    }
}

/// The lock of a state folder: one writing process a home.
#[derive(Debug)]
pub struct StateLock {
    file: File,
}

impl StateLock {
    /// Takes the lock, or says who has it.
    pub fn take(state_dir: &Path, home: &Path, purpose: &str) -> Result<StateLock> {
        let path = state_dir.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(StoreError::io("open", &path))?;
        give_to_owner_of(home, &file);
        if let Err(error) = lock_patiently(&file) {
            if error.raw_os_error() != Some(libc::EWOULDBLOCK) {
                return Err(StoreError::io("lock", &path)(error));
            }
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            let holder = holder.trim();
            let holder = if holder.is_empty() { "another process" } else { holder }.to_owned();
            let remedy =
                "unmount it first (`rolloutfs unmount MOUNTPOINT`), or mount beside it with --read-only"
                    .to_owned();
            return Err(StoreError::Busy { path: home.to_owned(), holder, remedy });
        }
        let mut lock = StateLock { file };
        lock.describe(purpose);
        Ok(lock)
    }

    /// Writes into the lock file who holds it, for the message that another process prints.
    pub fn describe(&mut self, purpose: &str) {
        let text = format!("process {} ({purpose})\n", std::process::id());
        let written = self
            .file
            .set_len(0)
            .and_then(|()| self.file.rewind())
            .and_then(|()| self.file.write_all(text.as_bytes()));
        if let Err(error) = written {
            log::debug!("the lock file could not be described: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_are_recognised() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Home::open(dir.path()).is_ok(), "an empty folder is a home to be");
        fs::write(dir.path().join("notes.txt"), "x").unwrap();
        let refused = Home::open(dir.path()).unwrap_err().to_string();
        assert!(refused.contains("is not a Codex home") && refused.contains("CODEX_HOME"), "{refused}");
        fs::create_dir(dir.path().join("sessions")).unwrap();
        assert!(Home::open(dir.path()).is_ok());
        let missing = Home::open(&dir.path().join("none")).unwrap_err().to_string();
        assert!(missing.contains("no such folder"), "{missing}");
        assert!(Home::open(&dir.path().join("notes.txt")).is_err());
    }

    #[test]
    fn one_process_holds_the_lock_and_the_other_is_told_who() {
        let dir = tempfile::tempdir().unwrap();
        let held = StateLock::take(dir.path(), Path::new("/h"), "mounted at /mnt").unwrap();
        let refused = StateLock::take(dir.path(), Path::new("/h"), "index").unwrap_err().to_string();
        assert!(refused.contains("mounted at /mnt") && refused.contains("--read-only"), "{refused}");
        drop(held);
        assert!(StateLock::take(dir.path(), Path::new("/h"), "index").is_ok());
    }

    #[test]
    fn the_state_folder_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sessions")).unwrap();
        let home = Home::open(dir.path()).unwrap();
        let state = home.make_state_dir(None).unwrap();
        assert_eq!(state, home.root().join(".rolloutfs"));
        assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(home.find_state_dir(None).is_none(), "no index yet");
    }
}
