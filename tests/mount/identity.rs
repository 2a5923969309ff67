//! Is a node the same node tomorrow? Numbers, handles and cookies over restarts, deleted indexes and changing folders.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::common::{TestHome, thread_id};
use crate::harness::{
    FreedPoint, Mounted, WAIT_MAX, assert_nobody_answers, assert_same_lines, can_be_root, can_mount, exists,
    inode, names_in, wait_for,
};
use crate::reference::rich_home;

/// More than are read between two signs of life of the backfill, many times over.
const BACKFILL_THREADS: u64 = 4000;
/// Room for a handle of any filesystem.
const HANDLE_BYTES_MAX: usize = 128;
/// Small enough that a folder takes many calls.
const GETDENTS_BYTES: usize = 1024;

#[test]
fn the_tree_is_the_same_when_the_index_was_deleted_between_two_mounts() {
    if !can_mount() {
        return;
    }
    let home = rich_home(300, 21);
    let at = home.beside("mnt");
    let mount = Mounted::new(&home.path(), &at, &[]);
    let first = mount.find();
    assert!(first.len() > 2000, "{}", first.len());
    mount.unmount();
    let mount = Mounted::new(&home.path(), &at, &[]);
    assert_same_lines(&first, &mount.find(), "a warm index");
    mount.unmount();
    home.forget_state();
    let mount = Mounted::new(&home.path(), &at, &[]);
    assert_same_lines(&first, &mount.find(), "a rebuilt index");
    mount.unmount();
}

/// Files looked at and whether all are, straight from the index: a status is made but twice a second.
fn backfill_of(home: &Path) -> Option<(u64, bool)> {
    let path = home.join(".rolloutfs/index.sqlite");
    let index =
        rusqlite::Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
    let row = index.query_row("SELECT scanned, status = 'complete' FROM backfill_state", [], |row| {
        Ok((row.get::<_, i64>(0)? as u64, row.get(1)?))
    });
    row.ok()
}

#[test]
fn a_daemon_killed_in_the_first_reading_is_cleared_away_and_the_next_goes_on_where_it_was() {
    if !can_mount() {
        return;
    }
    let home = TestHome::sample(BACKFILL_THREADS, 22);
    let at = home.beside("mnt");
    let _freed = FreedPoint(at.clone());
    let mount = Mounted::unsettled(&home.path(), &at, &[]);
    let mut seen = (0, false);
    wait_for("the first files are read", WAIT_MAX, || {
        seen = backfill_of(&home.path()).unwrap_or_default();
        seen.0 > 0
    });
    mount.kill();
    assert!(!seen.1, "killed too late: {seen:?}");
    assert_nobody_answers(&at);

    let mount = Mounted::new(&home.path(), &at, &[]);
    let status = mount.status();
    let (total, now) = (
        status["threads"]["rollouts"].as_u64().unwrap(),
        status["progress"]["files_total"].as_u64().unwrap(),
    );
    assert!(now < total && now + seen.0 <= total, "{now} of {total} were read again, {} before", seen.0);
    assert_eq!(status["backfill"]["state"]["status"], "complete", "{status:#}");
    assert!(status["backfill"]["state"]["scanned"].as_u64().unwrap() >= total, "{status:#}");
    let resumed = mount.find();
    mount.unmount();
    home.forget_state();
    let mount = Mounted::new(&home.path(), &at, &[]);
    assert_same_lines(&resumed, &mount.find(), "an uninterrupted reading");
    mount.unmount();
}

/// A handle as the kernel gives it: its kind and bytes, which are all that a file server keeps.
struct Handle {
    kind: i32,
    bytes: Vec<u8>,
}

#[repr(C)]
struct RawHandle {
    bytes: u32,
    kind: i32,
    room: [u8; HANDLE_BYTES_MAX],
}

fn handle_of(path: &Path) -> Handle {
    let name = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut raw = RawHandle { bytes: HANDLE_BYTES_MAX as u32, kind: 0, room: [0; HANDLE_BYTES_MAX] };
    let mut mount = 0;
    // SAFETY: the path ends in NUL, `raw` has the kernel's layout with the room that it says, and all live on.
    let result = unsafe {
        libc::name_to_handle_at(libc::AT_FDCWD, name.as_ptr(), (&raw mut raw).cast(), &raw mut mount, 0)
    };
    assert_eq!(result, 0, "{}: {}", path.display(), io::Error::last_os_error());
    Handle { kind: raw.kind, bytes: raw.room[..raw.bytes as usize].to_vec() }
}

fn open_handle(mount: &File, handle: &Handle, flags: i32) -> io::Result<OwnedFd> {
    let mut raw =
        RawHandle { bytes: handle.bytes.len() as u32, kind: handle.kind, room: [0; HANDLE_BYTES_MAX] };
    raw.room[..handle.bytes.len()].copy_from_slice(&handle.bytes);
    // SAFETY: as above; the descriptor that comes back is ours alone.
    unsafe {
        match libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut raw).cast(), flags | libc::O_CLOEXEC) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// What a node is, by an open descriptor: number, and bytes, names or target.
fn what_is(open: OwnedFd) -> (u64, Vec<u8>) {
    let path = format!("/proc/self/fd/{}", open.as_raw_fd());
    let metadata = fs::metadata(&path).or_else(|_| fs::symlink_metadata(&path)).unwrap();
    let mut file = File::from(open);
    let number = file.metadata().map_or(metadata.ino(), |metadata| metadata.ino());
    let kind = file.metadata().unwrap().file_type();
    let mut bytes = Vec::new();
    if kind.is_file() {
        file.read_to_end(&mut bytes).unwrap();
    } else if kind.is_dir() {
        let mut names = names_in(Path::new(&path));
        names.sort();
        bytes = names.join("\n").into_bytes();
    } else {
        bytes.resize(libc::PATH_MAX as usize, 0);
        // SAFETY: an empty path means the link itself; the buffer has the room that is said.
        let length = unsafe {
            libc::readlinkat(file.as_raw_fd(), c"".as_ptr(), bytes.as_mut_ptr().cast(), bytes.len())
        };
        assert!(length > 0, "{}", io::Error::last_os_error());
        bytes.truncate(length as usize);
    }
    (number, bytes)
}

#[test]
fn a_handle_of_every_kind_of_node_opens_the_same_node_after_a_restart() {
    if !can_mount() || !can_be_root() {
        return;
    }
    let home = rich_home(200, 23);
    let at = home.beside("mnt");
    let _freed = FreedPoint(at.clone());
    let mount = Mounted::new(&home.path(), &at, &[]);
    let first_in = |dir: &str| PathBuf::from(dir).join(names_in(&mount.path(dir)).remove(0));
    let large = |number: u64, stamp: &str| {
        PathBuf::from(format!(
            "sessions/{}/rollout-{stamp}-{}.jsonl",
            stamp[..10].replace('-', "/"),
            thread_id(number)
        ))
    };
    let paths = [
        PathBuf::new(),
        "sessions".into(),
        "sessions/2026/02/08".into(),
        "by-id".into(),
        "health/torn".into(),
        large(901, "2026-02-08T09-15-02"),
        large(902, "2026-02-09T09-15-02"),
        first_in("archived_sessions"),
        first_in("by-id"),
        first_in("by-name"),
        "latest".into(),
        "README.md".into(),
        "threads.jsonl".into(),
        "session_index.jsonl".into(),
        first_in("health/missing"),
        "sessions/rollout-not-a-date.jsonl".into(),
    ];
    let flags = |path: &Path| match fs::symlink_metadata(mount.path(path)).unwrap().is_symlink() {
        true => libc::O_PATH | libc::O_NOFOLLOW,
        false => libc::O_RDONLY,
    };
    let nodes: Vec<_> = paths.iter().map(|path| (path, flags(path), handle_of(&mount.path(path)))).collect();
    let root = File::open(&at).unwrap();
    let before: Vec<_> =
        nodes.iter().map(|(_, flags, handle)| what_is(open_handle(&root, handle, *flags).unwrap())).collect();
    for ((path, ..), (number, _)) in nodes.iter().zip(&before) {
        assert_eq!(*number, inode(&at.join(path)), "{}", path.display());
    }
    drop(root);

    let check = |how: &str| {
        let root = File::open(&at).unwrap();
        for ((path, flags, handle), before) in nodes.iter().zip(&before) {
            let opened = open_handle(&root, handle, *flags)
                .unwrap_or_else(|error| panic!("{}, {how}: {error}", path.display()));
            let now = what_is(opened);
            assert!(
                now == *before,
                "{}, {how}: another node {:#x}, was {:#x}",
                path.display(),
                now.0,
                before.0
            );
        }
    };
    mount.unmount();
    let mount = Mounted::new(&home.path(), &at, &[]);
    check("unmounted and mounted again");
    mount.kill();
    let mount = Mounted::new(&home.path(), &at, &[]);
    check("killed and mounted again");
    mount.unmount();
    home.forget_state();
    let mount = Mounted::new(&home.path(), &at, &[]);
    check("mounted without the index");
    mount.unmount();
}

/// Entries of a folder from a cookie on: name and the cookie after it; at most this many calls.
fn entries_from(dir: &Path, cookie: i64, calls_max: usize) -> Vec<(String, i64)> {
    let dir = File::options().read(true).custom_flags(libc::O_DIRECTORY).open(dir).unwrap();
    // SAFETY: takes integers.
    let at = unsafe { libc::lseek(dir.as_raw_fd(), cookie, libc::SEEK_SET) };
    assert_eq!(at, cookie, "{}", io::Error::last_os_error());
    let mut entries = Vec::new();
    let mut buffer = [0u8; GETDENTS_BYTES];
    for _ in 0..calls_max {
        // SAFETY: the buffer has the room that is said.
        let length = unsafe {
            libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buffer.as_mut_ptr(), GETDENTS_BYTES)
        };
        assert!(length >= 0, "{}", io::Error::last_os_error());
        if length == 0 {
            break;
        }
        let mut rest = &buffer[..length as usize];
        while !rest.is_empty() {
            // number (8), cookie (8), length (2), kind (1), name.
            let cookie = i64::from_ne_bytes(rest[8..16].try_into().unwrap());
            let entry_bytes = usize::from(u16::from_ne_bytes(rest[16..18].try_into().unwrap()));
            let name = rest[19..entry_bytes].split(|&byte| byte == 0).next().unwrap();
            assert_ne!(
                u64::from_ne_bytes(rest[..8].try_into().unwrap()),
                0,
                "an entry that programs pass over"
            );
            entries.push((String::from_utf8(name.to_vec()).unwrap(), cookie));
            rest = &rest[entry_bytes..];
        }
    }
    entries
}

#[test]
fn a_folder_read_half_closed_and_read_on_misses_and_repeats_nothing() {
    if !can_mount() {
        return;
    }
    let home = TestHome::empty();
    let stamp =
        |number: u64| format!("2026-02-08T{:02}-{:02}-{:02}", number / 3600, number / 60 % 60, number % 60);
    let add = |number: u64| home.thread(&stamp(number), number, "/srv/demo", "a question");
    let paths: BTreeMap<u64, String> = (100..500).map(|number| (number, add(number))).collect();
    let mount = Mounted::new(&home.path(), &home.beside("mnt"), &[]);
    for (dir, new) in [("sessions/2026/02/08", 600), ("by-id", 601), ("by-cwd/srv/demo", 602)] {
        let whole: Vec<_> =
            entries_from(&mount.path(dir), 0, usize::MAX).into_iter().map(|(name, _)| name).collect();
        assert_eq!(&whole[..2], [".", ".."], "{dir}");
        let first = entries_from(&mount.path(dir), 0, 15);
        assert!(
            first.len() > 50 && first.len() < whole.len() - 50,
            "{dir}: {} of {}",
            first.len(),
            whole.len()
        );
        let (last_name, cookie) = first.last().unwrap().clone();
        // The last entry read goes, one before it and one after; some come, before and after.
        let number_of = |name: &str| {
            u64::from_str_radix(&name.strip_suffix(".jsonl").unwrap()[name.len() - 18..], 16).unwrap()
        };
        let gone = [last_name, whole[10].clone(), whole[whole.len() - 5].clone()]
            .map(|name| (number_of(&name), name));
        for (number, _) in &gone {
            fs::remove_file(home.path().join(&paths[number])).unwrap();
        }
        for number in [new % 100, new] {
            add(number);
            let link = mount.path(format!("by-id/{}.jsonl", thread_id(number)));
            wait_for("a new thread is seen", WAIT_MAX, || exists(&link));
        }
        for (_, name) in &gone {
            wait_for("a deleted thread is gone", WAIT_MAX, || !exists(&mount.path(dir).join(name)));
        }
        let rest = entries_from(&mount.path(dir), cookie, usize::MAX);
        let seen: Vec<_> = first.iter().chain(&rest).map(|(name, _)| name.clone()).collect();
        let distinct: BTreeSet<_> = seen.iter().collect();
        assert_eq!(distinct.len(), seen.len(), "{dir}: some are repeated");
        let stayed: Vec<_> =
            whole.iter().filter(|name| !gone.iter().any(|(_, gone)| gone == *name)).collect();
        let missed: Vec<_> = stayed.into_iter().filter(|name| !distinct.contains(name)).collect();
        assert!(missed.is_empty(), "{dir}: missed {missed:?}");
        assert!(!rest.iter().any(|(name, _)| *name == gone[2].1), "{dir}: a deleted entry is listed");
        // A folder that changed lists itself anew, in order.
        let now: BTreeSet<_> =
            entries_from(&mount.path(dir), 0, usize::MAX).into_iter().map(|(name, _)| name).collect();
        let expected: BTreeSet<_> =
            names_in(&mount.path(dir)).into_iter().chain([".".into(), "..".into()]).collect();
        assert_eq!(now, expected, "{dir}");
    }
    mount.unmount();
}
