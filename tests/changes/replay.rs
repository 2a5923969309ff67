//! The system calls of Codex as it was traced, by version, on a mounted home: bytes, sizes and times at every step.
//!
//! In the two layouts that work: links to a mount inside the home, and the mount as the whole home.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::mount::{Mount, can_mount, errno, mtime_ns, names, rename_with};
use super::{DAY, active, archived, id, item, line, meta, name, user};

/// Bytes of a rollout's head that are read back after a write.
const HEAD_BYTES: u64 = 24_000;
/// A turn with a tool call is about so many lines.
const TURN_LINES: usize = 18;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    /// Files at the start of a session, plain events.
    V0_44,
    /// Files at the first turn, names.
    V0_101,
    /// Reads all of a file back, three times a batch.
    V0_144,
    /// Opens to read and write, sets the time, compresses, migrates.
    V0_169,
}

const VERSIONS: [Version; 4] = [Version::V0_44, Version::V0_101, Version::V0_144, Version::V0_169];

/// Codex with its home, and where the files are in truth.
struct Codex {
    version: Version,
    home: PathBuf,
    disk: PathBuf,
    /// Is the names file in the mount?
    owns_names: bool,
}

/// A thread that Codex writes: its file, and what must be in it.
struct Writer {
    path: PathBuf,
    file: File,
    expected: Vec<u8>,
}

/// The deepest first, then upwards.
fn make_folders(path: &Path) {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_folders(path.parent().unwrap());
            fs::create_dir(path).unwrap();
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made.unwrap(),
    }
}

fn set_now(file: &File) {
    let times = [
        libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT },
        libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_NOW },
    ];
    // SAFETY: the descriptor is open and `times` has two elements.
    assert_eq!(
        unsafe { libc::futimens(file.as_raw_fd(), times.as_ptr()) },
        0,
        "{}",
        io::Error::last_os_error()
    );
}

fn is_recent(path: &Path) -> bool {
    let age = SystemTime::now().duration_since(fs::metadata(path).unwrap().modified().unwrap());
    age.map_or(true, |age| age < Duration::from_secs(60))
}

impl Writer {
    /// One line, one write; then what Codex reads back of it on other descriptors.
    fn append(&mut self, version: Version, line: &str) {
        let before = self.expected.len() as u64;
        assert_eq!(self.file.write(line.as_bytes()).unwrap(), line.len());
        self.expected.extend_from_slice(line.as_bytes());
        let size = self.expected.len() as u64;
        assert_eq!(fs::metadata(&self.path).unwrap().len(), size);
        assert_eq!(self.file.metadata().unwrap().len(), size);
        let mut head = Vec::new();
        File::open(&self.path).unwrap().take(HEAD_BYTES).read_to_end(&mut head).unwrap();
        assert_eq!(head, self.expected[..size.min(HEAD_BYTES) as usize]);
        let mut tail = File::open(&self.path).unwrap();
        assert_eq!(tail.seek(SeekFrom::End(0)).unwrap(), size);
        tail.seek(SeekFrom::Start(before)).unwrap();
        let mut new = vec![0; line.len()];
        tail.read_exact(&mut new).unwrap();
        assert_eq!(new, line.as_bytes());
        assert_eq!(tail.read(&mut [0; 8]).unwrap(), 0);
        if version == Version::V0_144 {
            for _ in 0..3 {
                assert_eq!(fs::read(&self.path).unwrap(), self.expected);
            }
        }
    }
}

impl Codex {
    fn path(&self, path: &str) -> PathBuf {
        self.home.join(path)
    }

    fn create(&self, number: u64) -> Writer {
        let path = self.path(&active(number));
        make_folders(path.parent().unwrap());
        let reads = self.version == Version::V0_169;
        let mut options = OpenOptions::new();
        let file = options.read(reads).append(true).create(true).mode(0o666).open(&path).unwrap();
        if reads {
            set_now(&file);
            assert_eq!(file.metadata().unwrap().len(), 0);
        }
        Writer { path, file, expected: Vec::new() }
    }

    fn start(&self, number: u64) -> Writer {
        let mut writer = self.create(number);
        let on_disk = self.disk.join(active(number));
        let filler = format!(",\"base_instructions\":{{\"text\":\"{}\"}}", "i".repeat(14_000));
        writer.append(self.version, &meta(number, &filler));
        writer.append(
            self.version,
            &line("response_item", "{\"type\":\"message\",\"role\":\"user\",\"content\":[]}"),
        );
        writer.append(self.version, &line("turn_context", "{\"cwd\":\"/src/app\"}"));
        assert!(!on_disk.exists(), "{:?}", self.version);
        self.turn(&mut writer, "hello");
        assert_eq!(fs::read(&on_disk).unwrap(), writer.expected);
        writer
    }

    fn turn(&self, writer: &mut Writer, message: &str) {
        match self.version {
            Version::V0_169 => writer.append(
                self.version,
                &line("event_msg", &format!("{{\"type\":\"item_completed\",\"item\":{{\"type\":\"UserMessage\",\"content\":[{{\"type\":\"text\",\"text\":\"{message}\"}}]}}}}")),
            ),
            _ => writer.append(self.version, &user(message)),
        }
        for count in 0..TURN_LINES {
            writer.append(self.version, &item(&format!("{message} {}", "z".repeat(count * 300))));
        }
    }

    /// A walk of `sessions` with the head of every file.
    fn list(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut dirs = vec![self.path("sessions")];
        while let Some(dir) = dirs.pop() {
            for ignore in [".ignore", ".gitignore", ".git/info/exclude"] {
                assert_eq!(errno(fs::metadata(dir.join(ignore))), Some(libc::ENOENT));
            }
            for name in names(&dir) {
                let path = dir.join(&name);
                if fs::metadata(&path).unwrap().is_dir() {
                    dirs.push(path);
                    continue;
                }
                let mut head = Vec::new();
                File::open(&path).unwrap().take(HEAD_BYTES).read_to_end(&mut head).unwrap();
                assert!(head.starts_with(b"{\"timestamp\""));
                found.push(name);
            }
        }
        found.sort();
        found
    }

    fn resume(&self, number: u64, expected: Vec<u8>) -> Writer {
        let path = self.path(&active(number));
        let mut file = File::open(&path).unwrap();
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact(&mut bytes).unwrap();
        assert_eq!(file.read(&mut [0; 32]).unwrap(), 0);
        assert_eq!(bytes, expected);
        let file = OpenOptions::new().append(true).open(&path).unwrap();
        let mut writer = Writer { path, file, expected };
        self.turn(&mut writer, "again");
        writer
    }

    fn archive_and_back(&self, number: u64, writer: &mut Writer) {
        let (from, to) = (self.path(&active(number)), self.path(&archived(number)));
        make_folders(to.parent().unwrap());
        let before = (fs::metadata(&from).unwrap().ino(), mtime_ns(&from));
        fs::rename(&from, &to).unwrap();
        assert_eq!((fs::metadata(&to).unwrap().ino(), mtime_ns(&to)), before);
        assert!(!from.exists() && !self.disk.join(active(number)).exists());
        assert_eq!(fs::read(&to).unwrap(), writer.expected);
        assert_eq!(fs::read(self.disk.join(archived(number))).unwrap(), writer.expected);
        // An open descriptor goes with it.
        writer.path = to.clone();
        writer.append(self.version, &item("while archived"));
        fs::rename(&to, &from).unwrap();
        writer.path = from.clone();
        set_now(&File::open(&from).unwrap());
        assert!(is_recent(&from) && is_recent(&self.disk.join(active(number))));
        assert_eq!(fs::metadata(&from).unwrap().ino(), before.0);
        assert_eq!(fs::read(&from).unwrap(), writer.expected);
        writer.append(self.version, &item("back"));
    }

    fn name(&self, number: u64, thread_name: &str) {
        let index = self.path("session_index.jsonl");
        let lock = self.path("session_index.jsonl.lock");
        let locked = (self.version == Version::V0_169).then(|| {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&lock).unwrap();
            // SAFETY: the descriptor is open.
            assert_eq!(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }, 0);
            file
        });
        let entry = format!(
            "{{\"id\":\"{}\",\"thread_name\":\"{thread_name}\",\"updated_at\":\"2026-02-08T10:00:00Z\"}}\n",
            id(number)
        );
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(&index)
            .unwrap()
            .write_all(entry.as_bytes())
            .unwrap();
        drop(locked);
        assert!(fs::read_to_string(&index).unwrap().ends_with(&entry));
        if self.owns_names {
            assert!(self.home.join(format!("by-name/{thread_name}.jsonl")).exists());
            assert!(fs::read_to_string(self.disk.join("session_index.jsonl")).unwrap().ends_with(&entry));
        }
    }

    /// Rewrites the names without one thread.
    fn forget_name(&self, number: u64) {
        let index = self.path("session_index.jsonl");
        let temporary = self.path(match self.version {
            Version::V0_169 => "session-index-aB3dE6",
            _ => "session_index.jsonl.tmp",
        });
        let text = fs::read_to_string(&index).unwrap();
        let kept: String = text.split_inclusive('\n').filter(|line| !line.contains(&id(number))).collect();
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).unwrap();
        file.write_all(kept.as_bytes()).unwrap();
        file.sync_all().unwrap();
        fs::rename(&temporary, &index).unwrap();
        assert_eq!(fs::read_to_string(&index).unwrap(), kept);
        assert!(!temporary.exists());
    }

    fn delete(&self, number: u64) {
        let path = self.path(&active(number));
        fs::remove_file(&path).unwrap();
        assert_eq!(errno(fs::remove_file(self.path(&(active(number) + ".zst")))), Some(libc::ENOENT));
        assert!(!path.exists() && !self.disk.join(active(number)).exists());
    }

    fn compress(&self, number: u64, expected: &[u8]) {
        let path = self.path(&active(number));
        let old = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        File::open(&path).unwrap().set_modified(old).unwrap();
        let temporary = self.path(&format!("{DAY}/rollout-compress-Zz9Yy8.tmp"));
        let mut file =
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&temporary).unwrap();
        file.write_all(&zstd::encode_all(expected, 3).unwrap()).unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o644)).unwrap();
        file.set_modified(old).unwrap();
        file.rewind().unwrap();
        assert_eq!(zstd::decode_all(&file).unwrap(), expected);
        file.sync_all().unwrap();
        rename_with(&temporary, &self.path(&(active(number) + ".zst")), libc::RENAME_NOREPLACE).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), expected);
        assert_eq!(mtime_ns(&path), 1_700_000_000_000_000_000);
        assert_eq!(fs::metadata(&path).unwrap().len(), expected.len() as u64);
        let on_disk = self.disk.join(active(number) + ".zst");
        assert_eq!(zstd::decode_all(File::open(on_disk).unwrap()).unwrap(), expected);
        assert!(!self.disk.join(active(number)).exists());
    }

    fn migrate(&self, number: u64) -> Vec<u8> {
        let path = self.path(&active(number));
        let (old, inode) = (fs::metadata(&path).unwrap(), fs::metadata(&path).unwrap().ino());
        let temporary = self.path(&format!("{DAY}/.{}.paginated.tmp", name(number)));
        let new = meta(number, ",\"history_mode\":\"paginated\"") + &user("migrated") + &item("x");
        let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary).unwrap();
        file.write_all(new.as_bytes()).unwrap();
        file.set_permissions(old.permissions()).unwrap();
        file.set_modified(old.modified().unwrap()).unwrap();
        file.sync_all().unwrap();
        fs::rename(&temporary, &path).unwrap();
        File::open(path.parent().unwrap()).unwrap().sync_all().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), new);
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), old.modified().unwrap());
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        assert_eq!(fs::read_to_string(self.disk.join(active(number))).unwrap(), new);
        new.into_bytes()
    }

    fn run(&self) {
        let mut writer = self.start(1);
        let second = self.start(2);
        assert_eq!(self.list(), [1, 2].map(name));
        self.turn(&mut writer, "second turn");
        drop(writer.file);
        let mut writer = self.resume(1, writer.expected);
        self.archive_and_back(1, &mut writer);
        drop(writer.file);
        if self.version != Version::V0_44 {
            self.name(1, "first");
            self.name(2, "second");
        }
        if matches!(self.version, Version::V0_144 | Version::V0_169) {
            self.compress(1, &writer.expected);
            let taken_back = self.resume(1, writer.expected);
            assert!(self.disk.join(active(1)).exists() && !self.disk.join(active(1) + ".zst").exists());
            assert_eq!(fs::read(self.disk.join(active(1))).unwrap(), taken_back.expected);
            drop(taken_back);
            drop(second);
            self.delete(2);
            self.forget_name(2);
            assert_eq!(self.list(), [name(1)]);
        }
        if self.version == Version::V0_169 {
            let new = self.migrate(1);
            drop(self.resume(1, new));
        }
    }
}

#[test]
fn with_links_into_a_mount_inside_the_home() {
    if !can_mount() {
        return;
    }
    for version in VERSIONS {
        let mount = Mount::placed(|_| {}, &[], "codex/.store");
        let home = mount.beside("codex");
        symlink(".store/sessions", home.join("sessions")).unwrap();
        symlink(".store/archived_sessions", home.join("archived_sessions")).unwrap();
        Codex { version, home, disk: mount.home(), owns_names: false }.run();
    }
}

#[test]
fn with_the_mount_as_the_whole_home() {
    if !can_mount() {
        return;
    }
    for version in VERSIONS {
        let mount = Mount::new(&[]);
        Codex { version, home: mount.path(""), disk: mount.home(), owns_names: true }.run();
    }
}
