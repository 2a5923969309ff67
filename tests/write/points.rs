//! What is left when the daemon ends at a step? At every named point of every operation it aborts there while a client
//! makes the call. Then it is mounted again: what was acknowledged is there, in order, once; the thread is in one place; no
//! temporary is shown; and the same call succeeds.
//!
//! One table: points, the operation, what is expected. A point that is never passed is a failure.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::common::{files_below, thread_id};
use super::harness::{Daemon, Kind, Place, line, parse_line, reason_to_skip};

const DAY: &str = "sessions/2026/02/08";
/// Bytes of a test line.
const LINE_BYTES: usize = 300;
/// The daemon has ended so long after the call failed, or the point was not passed.
const END_MAX: Duration = Duration::from_secs(10);
/// The line that a user wrote.
const USER_AT: u64 = 3;
/// Who wrote the thread, and who wrote the one that replaces it.
const OLD: u64 = 1;
const NEW: u64 = 2;

/// Where a copy of a thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Where {
    Home,
    Archive,
    Pending,
    Scratch,
    Trash,
}
use Where::{Archive, Home, Pending, Scratch, Trash};

/// What is on another file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Elsewhere {
    Nothing,
    State,
    Archive,
}

/// A thread through an operation.
struct Thread {
    writer: u64,
    /// Lines that were acknowledged before, and after the call succeeded.
    lines: (u64, u64),
    /// Where it may be after a crash, and is when the call succeeded.
    after: &'static [Where],
    end: Where,
}

/// An operation with the points that it passes.
struct Operation {
    what: &'static str,
    elsewhere: Elsewhere,
    flags: &'static [&'static str],
    points: &'static [&'static str],
    /// Done through a mount that does not abort.
    prepare: fn(&Setup),
    /// The call. Done again, it does what is left to do. `armed`: where a command is to abort.
    act: fn(&Setup, Option<&str>) -> io::Result<()>,
    /// The command aborts, not the daemon.
    by_command: bool,
    threads: &'static [Thread],
    /// Points after which a copy is left in another of these places until the call is made again, as DESIGN 15 says.
    twice: &'static [&'static str],
}

const PLAIN: Operation = Operation {
    what: "",
    elsewhere: Elsewhere::Nothing,
    flags: &[],
    points: &[],
    prepare: |_| {},
    act: |_, _| Ok(()),
    by_command: false,
    threads: &[],
    twice: &[],
};

/// A home, its mount, and another disk where one is needed.
struct Setup {
    // Dropped in this order: what is on the disk is used by nobody then.
    disk: Option<Disk>,
    place: Place,
    flags: Vec<String>,
    state: PathBuf,
}

/// A small file system for a test.
struct Disk(CString);

impl Disk {
    fn mount(at: &Path) -> Disk {
        fs::create_dir(at).unwrap();
        let at = CString::new(at.as_os_str().as_bytes()).unwrap();
        let kind = c"tmpfs".as_ptr();
        // SAFETY: all are strings that end in NUL and live through the call.
        let result = unsafe { libc::mount(kind, at.as_ptr(), kind, 0, c"size=64m,mode=700".as_ptr().cast()) };
        assert_eq!(result, 0, "a tmpfs: {}", io::Error::last_os_error());
        Disk(at)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // SAFETY: a string that ends in NUL.
        unsafe { libc::umount2(self.0.as_ptr(), libc::MNT_DETACH) };
    }
}

impl Setup {
    /// None: this machine cannot have it, which was said.
    fn new(operation: &Operation) -> Option<Setup> {
        let place = Place::new();
        let other = place.notes().join("disk");
        let mut setup =
            Setup { disk: None, state: place.home().join(".rolloutfs"), flags: Vec::new(), place };
        setup.flags.extend(operation.flags.iter().map(|&flag| flag.to_owned()));
        if operation.elsewhere != Elsewhere::Nothing {
            // SAFETY: no arguments, no failure.
            if unsafe { libc::geteuid() } != 0 {
                println!("skipped: {}: a second file system needs root", operation.what);
                return None;
            }
            setup.disk = Some(Disk::mount(&other));
        }
        match operation.elsewhere {
            Elsewhere::Nothing => {}
            Elsewhere::State => {
                setup.state = other.join("state");
                setup.flags.push(format!("--state-dir={}", setup.state.display()));
            }
            Elsewhere::Archive => {
                std::os::unix::fs::symlink(&other, setup.place.home().join("archived_sessions")).unwrap();
            }
        }
        Some(setup)
    }

    fn mount(&self, point: Option<&str>) -> Daemon {
        let environment: Vec<_> = point.map(|point| ("ROLLOUTFS_FAILPOINT", point)).into_iter().collect();
        let flags: Vec<_> = self.flags.iter().map(String::as_str).collect();
        let daemon = self.place.mount_with(&environment, &flags);
        let end = Instant::now() + END_MAX;
        let is_settled = || {
            let status = fs::read(self.mnt(".rolloutfs/status.json")).unwrap();
            let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
            status["progress"]["settled"] == true
        };
        while !is_settled() {
            assert!(Instant::now() < end, "not everything is read: {}", daemon.log_text());
            std::thread::sleep(Duration::from_millis(5));
        }
        daemon
    }

    fn mnt(&self, path: &str) -> PathBuf {
        self.place.mnt().join(path)
    }

    fn home(&self, path: &str) -> PathBuf {
        self.place.home().join(path)
    }

    /// Every copy of the test's threads on disk, by writer: where it is, and how many lines it has. Each is checked:
    /// whole lines, once, in order, from the first.
    fn copies(&self) -> BTreeMap<u64, Vec<(Where, u64)>> {
        let mut copies: BTreeMap<u64, Vec<(Where, u64)>> = BTreeMap::new();
        let roots = [
            (Home, self.home("sessions")),
            (Archive, self.home("archived_sessions")),
            (Pending, self.state.join("pending")),
            (Scratch, self.state.join("scratch")),
            (Trash, self.state.join("trash")),
        ];
        for (place, root) in roots.into_iter().filter(|(_, root)| root.is_dir()) {
            for file in files_below(&root) {
                let name = file.file_name().unwrap().to_string_lossy().into_owned();
                let mut bytes = fs::read(root.join(&file)).unwrap();
                if name.ends_with(".zst") || name.starts_with("rollout-compress-") {
                    // Beside a plain file it is the same thread.
                    if root.join(&file).with_extension("").exists() || name.starts_with("rollout-compress-") {
                        continue;
                    }
                    bytes = zstd::decode_all(&bytes[..]).unwrap();
                } else if name == "info.json" || is_hidden_temporary(&name) {
                    continue;
                }
                let (writer, lines) = count(&bytes, &file);
                copies.entry(writer).or_default().push((place, lines));
            }
        }
        copies
    }

    /// Regular files that the mount shows below the two roots.
    fn shown(&self) -> Vec<PathBuf> {
        let roots = ["sessions", "archived_sessions"].into_iter();
        roots
            .flat_map(|root| {
                files_below(&self.mnt(root)).into_iter().map(move |file| Path::new(root).join(file))
            })
            .collect()
    }
}

/// A temporary of ours: it is on the disk until the next try, and never shown.
fn is_hidden_temporary(name: &str) -> bool {
    name.starts_with(".rollout-materialize-rolloutfs-")
}

/// Whose lines these are, and how many. An empty file is of the first writer.
fn count(bytes: &[u8], file: &Path) -> (u64, u64) {
    let (mut writer, mut lines) = (OLD, 0);
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        let parsed = line.strip_suffix(b"\n").and_then(parse_line);
        let (by, number) = parsed.unwrap_or_else(|| panic!("{}: a broken line", file.display()));
        assert_eq!(number, lines + 1, "{}", file.display());
        (writer, lines) = (by, number);
    }
    (writer, lines)
}

fn text(writer: u64, lines: u64) -> Vec<u8> {
    (1..=lines).flat_map(|number| one_line(writer, number)).collect()
}

fn one_line(writer: u64, number: u64) -> Vec<u8> {
    let kind = match number {
        1 => Kind::Meta,
        USER_AT => Kind::User,
        _ => Kind::Response,
    };
    line(writer, number, LINE_BYTES, kind, &thread_id(1))
}

fn name() -> String {
    format!("rollout-2026-02-08T10-15-01-{}.jsonl", thread_id(1))
}

fn segment() -> String {
    format!("{DAY}/rollout-2026-02-08T10-15-01-{}_{}.jsonl", thread_id(1), thread_id(2))
}

fn active() -> String {
    format!("{DAY}/{}", name())
}

fn archived() -> String {
    format!("archived_sessions/{}", name())
}

// ---- what is done ----------------------------------------------------------------------------------

/// Writes the lines that are missing, a write each, as a program does that goes on after a crash.
fn record(path: &Path, lines: u64) -> io::Result<()> {
    let folder = path.parent().unwrap();
    fs::create_dir_all(folder).or_else(|_| fs::metadata(folder).map(drop))?;
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    for number in count(&bytes, path).1 + 1..=lines {
        file.write_all(&one_line(OLD, number))?;
    }
    Ok(())
}

/// Renames, if that was not done already.
fn move_over(from: &Path, to: &Path) -> io::Result<()> {
    if fs::symlink_metadata(from).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return fs::metadata(to).map(drop);
    }
    fs::rename(from, to)
}

/// Removes, if that was not done already.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn put_in_home(setup: &Setup, path: &str, bytes: &[u8]) {
    let file = setup.home(path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, bytes).unwrap();
}

/// Runs the program on the home; an aborted one is an error.
fn command(setup: &Setup, words: &[&str], armed: Option<&str>) -> io::Result<()> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rolloutfs"));
    command.args(words).arg("--home").arg(setup.place.home());
    if setup.state != setup.place.home().join(".rolloutfs") {
        command.arg("--state-dir").arg(&setup.state);
    }
    if let Some(point) = armed {
        command.env("ROLLOUTFS_FAILPOINT", point);
    }
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("{}: {said}", output.status)))
}

fn restore(setup: &Setup, armed: Option<&str>) -> io::Result<()> {
    if setup.home(&active()).exists() && setup.copies()[&OLD].iter().all(|(place, _)| *place != Trash) {
        return Ok(());
    }
    command(setup, &["trash", "restore", &thread_id(1)], armed)
}

/// Where Codex's migration writes the new file.
fn migrated() -> String {
    format!("{DAY}/.{}.paginated.tmp", name())
}

fn compressed() -> String {
    format!("{DAY}/rollout-compress-a1B2c3.tmp")
}

// ---- the table -------------------------------------------------------------------------------------

const TRASH_POINTS: &[&str] = &[
    "trash.folder_made",
    "trash.info_unsynced",
    "trash.info_written",
    "place.moved",
    "trash.file_moved",
    "call.changed",
];
const PLACE_POINTS: &[&str] = &["materialise.folders", "place.moved", "materialise.placed", "call.changed"];
/// The first move is that of the temporary.
const COPY_POINTS: &[&str] = &["place.copied", "place.moved", "place.copy_placed", "place.moved:2"];
/// Between the copy and the removal.
const BOTH_THERE: &[&str] = &["place.moved", "place.copy_placed"];

const RECORDING: &[Operation] = &[
    Operation {
        what: "create",
        points: &["call.changed"],
        act: |setup, _| record(&setup.mnt(&active()), 0),
        threads: &[Thread { writer: OLD, lines: (0, 0), after: &[Pending], end: Pending }],
        ..PLAIN
    },
    Operation {
        what: "write to a pending thread",
        points: &["spool.written"],
        prepare: |setup| record(&setup.mnt(&active()), 1).unwrap(),
        act: |setup, _| record(&setup.mnt(&active()), 2),
        threads: &[Thread { writer: OLD, lines: (1, 2), after: &[Pending], end: Pending }],
        ..PLAIN
    },
    Operation {
        what: "write the user message",
        points: &[
            "spool.written",
            "materialise.folders",
            "place.moved",
            "materialise.placed",
            "call.changed",
        ],
        prepare: |setup| record(&setup.mnt(&active()), 2).unwrap(),
        act: |setup, _| record(&setup.mnt(&active()), 4),
        threads: &[Thread { writer: OLD, lines: (2, 4), after: &[Home], end: Home }],
        ..PLAIN
    },
    Operation {
        what: "create with --materialize=create",
        flags: &["--materialize=create"],
        points: PLACE_POINTS,
        act: |setup, _| record(&setup.mnt(&active()), 1),
        threads: &[Thread { writer: OLD, lines: (0, 1), after: &[Home], end: Home }],
        ..PLAIN
    },
    Operation {
        what: "create a segment",
        points: PLACE_POINTS,
        act: |setup, _| record(&setup.mnt(&segment()), 1),
        threads: &[Thread { writer: OLD, lines: (0, 1), after: &[Home], end: Home }],
        ..PLAIN
    },
    Operation {
        what: "fsync with --materialize=fsync",
        flags: &["--materialize=fsync"],
        points: PLACE_POINTS,
        prepare: |setup| record(&setup.mnt(&active()), 1).unwrap(),
        act: |setup, _| File::open(setup.mnt(&active()))?.sync_all(),
        threads: &[Thread { writer: OLD, lines: (1, 1), after: &[Pending, Home], end: Home }],
        ..PLAIN
    },
    Operation {
        what: "persist",
        points: PLACE_POINTS,
        prepare: |setup| record(&setup.mnt(&active()), 1).unwrap(),
        act: |setup, _| fs::write(setup.mnt(".rolloutfs/control"), format!("persist {}\n", thread_id(1))),
        threads: &[Thread { writer: OLD, lines: (1, 1), after: &[Pending, Home], end: Home }],
        ..PLAIN
    },
    Operation {
        what: "write the user message, the spool on another disk",
        elsewhere: Elsewhere::State,
        points: COPY_POINTS,
        prepare: |setup| record(&setup.mnt(&active()), 2).unwrap(),
        act: |setup, _| record(&setup.mnt(&active()), 4),
        threads: &[Thread { writer: OLD, lines: (2, 4), after: &[Home], end: Home }],
        ..PLAIN
    },
];

const MOVING: &[Operation] = &[
    Operation {
        what: "append to a compressed thread",
        points: &["thaw.decoded", "place.moved", "thaw.placed", "thaw.removed", "call.changed"],
        prepare: |setup| {
            let packed = zstd::encode_all(&text(OLD, 3)[..], 1).unwrap();
            put_in_home(setup, &(active() + ".zst"), &packed);
        },
        act: |setup, _| record(&setup.mnt(&active()), 4),
        threads: &[Thread { writer: OLD, lines: (3, 4), after: &[Home], end: Home }],
        ..PLAIN
    },
    Operation {
        what: "archive",
        points: &[
            "archive.checked",
            "archive.folder_made",
            "place.moved",
            "archive.plain_moved",
            "call.changed",
        ],
        prepare: |setup| record(&setup.mnt(&active()), 3).unwrap(),
        act: |setup, _| move_over(&setup.mnt(&active()), &setup.mnt(&archived())),
        threads: &[Thread { writer: OLD, lines: (3, 3), after: &[Home, Archive], end: Archive }],
        ..PLAIN
    },
    Operation {
        what: "unarchive",
        points: &[
            "archive.checked",
            "archive.folder_made",
            "place.moved",
            "archive.plain_moved",
            "call.changed",
        ],
        prepare: |setup| {
            put_in_home(setup, &archived(), &text(OLD, 3));
            fs::create_dir_all(setup.mnt(DAY)).unwrap();
        },
        act: |setup, _| move_over(&setup.mnt(&archived()), &setup.mnt(&active())),
        threads: &[Thread { writer: OLD, lines: (3, 3), after: &[Home, Archive], end: Home }],
        ..PLAIN
    },
    Operation {
        what: "archive a thread with its .zst",
        points: &["archive.zst_moved", "place.moved:2", "archive.plain_moved"],
        prepare: |setup| {
            put_in_home(setup, &active(), &text(OLD, 3));
            put_in_home(setup, &(active() + ".zst"), &zstd::encode_all(&text(OLD, 3)[..], 1).unwrap());
        },
        act: |setup, _| move_over(&setup.mnt(&active()), &setup.mnt(&archived())),
        threads: &[Thread { writer: OLD, lines: (3, 3), after: &[Home, Archive], end: Archive }],
        twice: &["archive.zst_moved"],
        ..PLAIN
    },
    Operation {
        what: "unarchive a thread with its .zst",
        points: &["archive.plain_moved", "place.moved:2", "archive.zst_moved"],
        prepare: |setup| {
            put_in_home(setup, &archived(), &text(OLD, 3));
            put_in_home(setup, &(archived() + ".zst"), &zstd::encode_all(&text(OLD, 3)[..], 1).unwrap());
            fs::create_dir_all(setup.mnt(DAY)).unwrap();
        },
        act: |setup, _| move_over(&setup.mnt(&archived()), &setup.mnt(&active())),
        threads: &[Thread { writer: OLD, lines: (3, 3), after: &[Home, Archive], end: Home }],
        twice: &["archive.plain_moved"],
        ..PLAIN
    },
    Operation {
        what: "archive to another disk",
        elsewhere: Elsewhere::Archive,
        points: COPY_POINTS,
        prepare: |setup| record(&setup.mnt(&active()), 3).unwrap(),
        act: |setup, _| move_over(&setup.mnt(&active()), &setup.mnt(&archived())),
        threads: &[Thread { writer: OLD, lines: (3, 3), after: &[Home, Archive], end: Archive }],
        twice: BOTH_THERE,
        ..PLAIN
    },
    Operation {
        what: "compress: the temporary becomes the .zst",
        points: &["place.moved", "call.changed"],
        prepare: |setup| {
            record(&setup.mnt(&active()), 3).unwrap();
            let packed = zstd::encode_all(&text(OLD, 3)[..], 1).unwrap();
            fs::write(setup.mnt(&compressed()), packed).unwrap();
        },
        act: |setup, _| {
            if setup.mnt(&compressed()).exists() {
                fs::rename(setup.mnt(&compressed()), setup.mnt(&(active() + ".zst")))?;
            }
            assert!(setup.home(&(active() + ".zst")).exists());
            Ok(())
        },
        threads: &[Thread { writer: OLD, lines: (3, 3), after: &[Home], end: Home }],
        ..PLAIN
    },
    Operation {
        what: "compress: the plain file goes",
        points: &["call.changed"],
        prepare: |setup| {
            put_in_home(setup, &active(), &text(OLD, 3));
            put_in_home(setup, &(active() + ".zst"), &zstd::encode_all(&text(OLD, 3)[..], 1).unwrap());
        },
        act: |setup, _| {
            if setup.home(&active()).exists() {
                fs::remove_file(setup.mnt(&active()))?;
            }
            Ok(())
        },
        threads: &[Thread { writer: OLD, lines: (3, 3), after: &[Home], end: Home }],
        ..PLAIN
    },
    Operation {
        what: "replace a thread by a rename",
        points: &[
            "trash.folder_made",
            "trash.info_written",
            "place.moved",
            "trash.file_moved",
            "rename.spooled",
            "materialise.folders",
            "place.moved:2",
            "materialise.placed",
            "call.changed",
        ],
        prepare: |setup| {
            record(&setup.mnt(&active()), 3).unwrap();
            fs::write(setup.mnt(&migrated()), text(NEW, 3)).unwrap();
        },
        act: |setup, _| move_over(&setup.mnt(&migrated()), &setup.mnt(&active())),
        threads: &[
            Thread { writer: OLD, lines: (3, 3), after: &[Home, Trash], end: Trash },
            Thread { writer: NEW, lines: (3, 3), after: &[Scratch, Home], end: Home },
        ],
        ..PLAIN
    },
];

const REMOVING: &[Operation] = &[
    Operation {
        what: "rm",
        points: TRASH_POINTS,
        prepare: |setup| record(&setup.mnt(&active()), 3).unwrap(),
        act: |setup, _| remove(&setup.mnt(&active())),
        threads: &[Thread { writer: OLD, lines: (3, 3), after: &[Home, Trash], end: Trash }],
        ..PLAIN
    },
    Operation {
        what: "rm of a pending thread",
        points: TRASH_POINTS,
        prepare: |setup| record(&setup.mnt(&active()), 2).unwrap(),
        act: |setup, _| remove(&setup.mnt(&active())),
        threads: &[Thread { writer: OLD, lines: (2, 2), after: &[Pending, Trash], end: Trash }],
        ..PLAIN
    },
    Operation {
        what: "rm, the trash on another disk",
        elsewhere: Elsewhere::State,
        points: COPY_POINTS,
        prepare: |setup| record(&setup.mnt(&active()), 3).unwrap(),
        act: |setup, _| remove(&setup.mnt(&active())),
        threads: &[Thread { writer: OLD, lines: (3, 3), after: &[Home, Trash], end: Trash }],
        twice: BOTH_THERE,
        ..PLAIN
    },
    Operation {
        what: "restore",
        points: &[
            "trash.restore_checked",
            "trash.restore_folder_made",
            "place.moved",
            "trash.file_restored",
            "trash.info_removed",
        ],
        prepare: |setup| {
            record(&setup.mnt(&active()), 3).unwrap();
            fs::remove_file(setup.mnt(&active())).unwrap();
        },
        act: restore,
        by_command: true,
        threads: &[Thread { writer: OLD, lines: (3, 3), after: &[Home, Trash], end: Home }],
        ..PLAIN
    },
    Operation {
        what: "restore of what was pending",
        points: &["trash.restore_folder_made", "place.moved"],
        prepare: |setup| {
            record(&setup.mnt(&active()), 2).unwrap();
            fs::remove_file(setup.mnt(&active())).unwrap();
        },
        act: restore,
        by_command: true,
        threads: &[Thread { writer: OLD, lines: (2, 2), after: &[Home, Trash], end: Home }],
        ..PLAIN
    },
    Operation {
        what: "restore, the trash on another disk",
        elsewhere: Elsewhere::State,
        points: COPY_POINTS,
        prepare: |setup| {
            record(&setup.mnt(&active()), 3).unwrap();
            fs::remove_file(setup.mnt(&active())).unwrap();
        },
        act: restore,
        by_command: true,
        threads: &[Thread { writer: OLD, lines: (3, 3), after: &[Home, Trash], end: Home }],
        twice: BOTH_THERE,
        ..PLAIN
    },
];

#[test]
fn recording_may_end_at_every_step() {
    run(RECORDING);
}

#[test]
fn moving_may_end_at_every_step() {
    run(MOVING);
}

#[test]
fn removing_and_restoring_may_end_at_every_step() {
    run(REMOVING);
}

fn run(operations: &[Operation]) {
    if reason_to_skip().is_some() {
        return;
    }
    let mut steps = 0;
    for operation in operations {
        for point in operation.points {
            steps += u32::from(step(operation, point));
        }
    }
    println!("{steps} steps");
}

/// False: it was skipped.
fn step(operation: &Operation, point: &str) -> bool {
    let Some(setup) = Setup::new(operation) else { return false };
    let context = format!("{} at {point}", operation.what);
    let daemon = setup.mount(None);
    (operation.prepare)(&setup);
    daemon.unmount();
    crash(&setup, &context, point, operation.by_command, operation.act);

    let _daemon = setup.mount(None);
    let is_twice = operation.twice.contains(&point);
    let copies = setup.copies();
    for thread in operation.threads {
        let found = copies.get(&thread.writer).map_or(&[][..], Vec::as_slice);
        assert_eq!(found.len(), if is_twice { 2 } else { 1 }, "{context}: {copies:?}");
        for (place, lines) in found {
            assert!(thread.after.contains(place), "{context}: {copies:?}");
            assert!((thread.lines.0..=thread.lines.1).contains(lines), "{context}: {copies:?}");
        }
    }
    check_shown(&setup, &context, &copies);

    let again = (operation.act)(&setup, None);
    assert!(again.is_ok(), "{context}, done again: {again:?}");
    let copies = setup.copies();
    for thread in operation.threads {
        let mut found = copies[&thread.writer].clone();
        if is_twice && thread.end == Trash {
            // What the first try copied stays there as an item of its own.
            found.dedup();
        }
        assert_eq!(found, [(thread.end, thread.lines.1)], "{context}, done again: {copies:?}");
    }
    if operation.by_command {
        // The watcher tells the mount.
        let end = Instant::now() + END_MAX;
        while setup.shown().len() != 1 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    check_shown(&setup, &context, &copies);
    let left = ["sessions", "archived_sessions"].map(|root| setup.home(root));
    let left = left.iter().filter(|root| root.is_dir()).flat_map(|root| files_below(root));
    let left: Vec<_> =
        left.filter(|file| is_hidden_temporary(&file.file_name().unwrap().to_string_lossy())).collect();
    assert_eq!(left, [] as [PathBuf; 0], "{context}, done again");
    true
}

/// Mounts, armed, and makes the call. Whoever is armed must abort.
fn crash(
    setup: &Setup,
    context: &str,
    point: &str,
    by_command: bool,
    act: fn(&Setup, Option<&str>) -> io::Result<()>,
) {
    if by_command {
        let daemon = setup.mount(None);
        let done = act(setup, Some(point));
        // The number of SIGABRT.
        assert!(
            done.as_ref().is_err_and(|error| error.to_string().contains("signal: 6")),
            "{context}: {done:?}"
        );
        return daemon.unmount();
    }
    let mut daemon = setup.mount(Some(point));
    let done = act(setup, None);
    assert!(done.is_err(), "{context}: the caller is told that it failed");
    let end = Instant::now() + END_MAX;
    while !daemon.has_ended() {
        assert!(Instant::now() < end, "{context}: the point is not passed; {done:?}\n{}", daemon.log_text());
        std::thread::sleep(Duration::from_millis(2));
    }
    daemon.kill();
}

/// The mount shows what is on disk, each file once under its name, and no temporary of ours.
fn check_shown(setup: &Setup, context: &str, copies: &BTreeMap<u64, Vec<(Where, u64)>>) {
    let shown = setup.shown();
    let is_tools = |file: &&PathBuf| {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        name.ends_with(".tmp")
    };
    let threads = shown.iter().filter(|file| !is_tools(file));
    let expected = copies.values().flatten().filter(|(place, _)| !matches!(place, Trash | Scratch));
    assert_eq!(threads.count(), expected.count(), "{context}: {shown:?} of {copies:?}");
    for file in shown.iter().filter(|file| !is_tools(file)) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        assert!(name.starts_with("rollout-") && name.ends_with(".jsonl"), "{context}: {shown:?}");
        // Read through the mount: whole lines, once, in order.
        count(&fs::read(setup.place.mnt().join(file)).unwrap(), file);
    }
}

// ---- names -----------------------------------------------------------------------------------------

/// An operation on names: what it leaves of `session_index.jsonl`.
struct Naming {
    what: &'static str,
    elsewhere: Elsewhere,
    points: &'static [&'static str],
    act: fn(&Setup, Option<&str>) -> io::Result<()>,
    /// The names of the first thread before and after.
    names: [Option<&'static str>; 2],
}

fn entry(number: u64, name: &str) -> String {
    let id = thread_id(number);
    format!("{{\"id\":\"{id}\",\"thread_name\":\"{name}\",\"updated_at\":\"2026-02-08T10:00:00Z\"}}\n")
}

/// Lines of others, one of which does not parse.
fn lines_of_others() -> String {
    entry(2, "other") + "no json\n" + &entry(3, "third")
}

const NAMING: &[Naming] = &[
    Naming {
        what: "rm in by-name",
        elsewhere: Elsewhere::Nothing,
        points: &[
            "names.appended",
            "names.temporary_unsynced",
            "names.temporary_written",
            "names.replaced",
            "call.changed",
        ],
        act: |setup, _| remove(&setup.mnt("by-name/old.jsonl")),
        names: [Some("old"), None],
    },
    Naming {
        what: "mv in by-name",
        elsewhere: Elsewhere::Nothing,
        points: &["names.appended", "call.changed"],
        act: |setup, _| move_over_link(&setup.mnt("by-name/old.jsonl"), &setup.mnt("by-name/new.jsonl")),
        names: [Some("old"), Some("new")],
    },
    Naming {
        what: "ln -s in by-name",
        elsewhere: Elsewhere::Nothing,
        points: &["names.appended", "call.changed"],
        act: |setup, _| {
            let done = std::os::unix::fs::symlink(format!("../{}", active()), setup.mnt("by-name/new.jsonl"));
            match done {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                done => done,
            }
        },
        names: [Some("old"), Some("new")],
    },
    Naming {
        what: "append to session_index.jsonl",
        elsewhere: Elsewhere::Nothing,
        points: &["call.changed"],
        act: |setup, _| {
            if fs::read_to_string(setup.mnt("session_index.jsonl"))?.contains("\"new\"") {
                return Ok(());
            }
            let mut file = OpenOptions::new().append(true).open(setup.mnt("session_index.jsonl"))?;
            file.write_all(entry(1, "new").as_bytes())
        },
        names: [Some("old"), Some("new")],
    },
    Naming {
        what: "replace session_index.jsonl by a rename",
        elsewhere: Elsewhere::Nothing,
        points: &["call.changed"],
        act: replace_names,
        names: [Some("old"), Some("new")],
    },
    Naming {
        what: "replace session_index.jsonl by a rename, the spool on another disk",
        elsewhere: Elsewhere::State,
        points: &["names.copied", "names.copy_placed", "call.changed"],
        act: replace_names,
        names: [Some("old"), Some("new")],
    },
];

fn move_over_link(from: &Path, to: &Path) -> io::Result<()> {
    if fs::symlink_metadata(to).is_ok() {
        return Ok(());
    }
    fs::rename(from, to)
}

/// As Codex does it: a temporary, whole, and a rename.
fn replace_names(setup: &Setup, _: Option<&str>) -> io::Result<()> {
    let temporary = setup.mnt("session_index.jsonl.tmp");
    let whole = lines_of_others() + &entry(1, "new");
    if fs::read_to_string(setup.mnt("session_index.jsonl"))? == whole {
        return remove(&temporary);
    }
    fs::write(&temporary, whole)?;
    fs::rename(&temporary, setup.mnt("session_index.jsonl"))
}

#[test]
fn naming_may_end_at_every_step() {
    if reason_to_skip().is_some() {
        return;
    }
    for naming in NAMING {
        naming.points.iter().for_each(|point| name_step(naming, point));
    }
}

fn name_step(naming: &Naming, point: &str) {
    let Some(setup) = Setup::new(&Operation { what: naming.what, elsewhere: naming.elsewhere, ..PLAIN })
    else {
        return;
    };
    let context = format!("{} at {point}", naming.what);
    for number in 1..=3 {
        put_in_home(&setup, &active().replace(&thread_id(1), &thread_id(number)), &text(OLD, 3));
    }
    fs::write(setup.home("session_index.jsonl"), lines_of_others() + &entry(1, "old")).unwrap();
    crash(&setup, &context, point, false, naming.act);

    let _daemon = setup.mount(None);
    let check = |may: &[Option<&str>]| {
        let lines = fs::read_to_string(setup.home("session_index.jsonl")).unwrap();
        let of_first = |line: &&str| line.contains(&thread_id(1));
        let others: String = lines.split_inclusive('\n').filter(|line| !of_first(line)).collect();
        assert_eq!(others, lines_of_others(), "{context}: all other lines stay");
        let last = lines.lines().rfind(|line| of_first(line));
        let is_so = |name: &Option<&str>| match (name, last) {
            (None, None) => true,
            (Some(name), Some(line)) => line.contains(&format!("\"{name}\"")),
            _ => false,
        };
        assert!(may.iter().any(is_so), "{context}: {last:?}");
        assert!(lines.lines().filter(|line| line.contains("\"new\"")).count() <= 1, "{context}: {lines}");
        assert_eq!(fs::read_to_string(setup.mnt("session_index.jsonl")).unwrap(), lines, "{context}");
        // Shown is who has which name now, and no temporary of ours.
        let mut wanted = vec!["other.jsonl".to_owned(), "third.jsonl".to_owned()];
        wanted.extend(
            ["old", "new"].iter().filter(|&&name| is_so(&Some(name))).map(|name| format!("{name}.jsonl")),
        );
        wanted.sort();
        let names = |dir: &str| -> Vec<String> {
            let entries = fs::read_dir(setup.mnt(dir)).unwrap();
            let mut names: Vec<_> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names("by-name"), wanted, "{context}");
        let root = names("");
        assert!(root.iter().all(|name| !name.contains("rolloutfs.tmp")), "{context}: {root:?}");
        for number in 1..=3 {
            let path = active().replace(&thread_id(1), &thread_id(number));
            assert_eq!(fs::read(setup.mnt(&path)).unwrap(), text(OLD, 3), "{context}");
        }
    };
    check(&naming.names);
    let again = (naming.act)(&setup, None);
    assert!(again.is_ok(), "{context}, done again: {again:?}");
    check(&naming.names[1..]);
}
