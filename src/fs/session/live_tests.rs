//! Does a mount session live and end as promised, with a real kernel? As root and as an ordinary user.
//!
//! What a test does in another process it does by starting this test program again as `helper_process`.
//! Guards kill the process and unmount, so that a failing test leaves neither behind. This process
//! itself opens no file below a mount: it forks, and the child's exec would close the file, which waits
//! unkillably when nobody serves.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileHandle, FileType, Generation, INodeNo, LockOwner, OpenFlags, Request};

use super::*;

const CONTENT: &[u8] = b"one line\n";
const LIFETIME: Duration = Duration::from_secs(3600);
/// The ordinary user of the tests: nobody.
const NOBODY: u32 = 65534;
/// A home whose name needs every kind of escape.
const HOME: &str = "/home/a,b\\c d";
/// Set in a helper process: what it is to do, and where.
const TASK: &str = "ROLLOUTFS_TEST_TASK";
const PLACE: &str = "ROLLOUTFS_TEST_PLACE";
/// What marks a helper's answer among the lines of the test harness.
const MARK: &str = "helper says: ";
/// How long a process may take to end, far beyond what it takes.
const END_SECONDS_MAX: u64 = 30;
/// After how many seconds a helper process ends itself, whatever hangs.
const HELPER_SECONDS_MAX: u32 = 40;

/// A root folder with the files `file`, which can be read, and `panic`, on which the worker dies.
struct Tiny;

impl Tiny {
    fn attr(ino: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size) = match ino.0 {
            1 => (FileType::Directory, 0o755, 0),
            2 | 3 => (FileType::RegularFile, 0o444, CONTENT.len() as u64),
            _ => return None,
        };
        let (time, uid, gid) = (UNIX_EPOCH, effective_uid(), 0);
        let (blocks, nlink, rdev, flags, blksize) = (1, 1, 0, 0, 4096);
        let (atime, mtime, ctime, crtime) = (time, time, time, time);
        Some(FileAttr {
            ino,
            size,
            blocks,
            atime,
            mtime,
            ctime,
            crtime,
            kind,
            perm,
            nlink,
            uid,
            gid,
            rdev,
            flags,
            blksize,
        })
    }
}

impl fuser::Filesystem for Tiny {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: fuser::ReplyEntry) {
        let ino = match name.to_str() {
            Some("file") => 2,
            Some("panic") => 3,
            _ => 0,
        };
        match Tiny::attr(INodeNo(ino)) {
            Some(attr) => reply.entry(&LIFETIME, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: fuser::ReplyAttr) {
        match Tiny::attr(ino) {
            Some(attr) => reply.attr(&LIFETIME, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: fuser::ReplyData,
    ) {
        assert_ne!(ino.0, 3, "expected: this is the file on which the worker dies");
        let start = CONTENT.len().min(offset as usize);
        reply.data(&CONTENT[start..CONTENT.len().min(start + size as usize)]);
    }
}

/// What the tests do in other processes. A plain run of it does nothing.
#[test]
fn helper_process() {
    let (Ok(task), Some(place)) = (std::env::var(TASK), std::env::var_os(PLACE)) else {
        return;
    };
    // SAFETY: takes an integer, and arms a timer that ends this process.
    unsafe { libc::alarm(HELPER_SECONDS_MAX) };
    let place = PathBuf::from(place);
    match task.as_str() {
        "serve" | "serve alone" => match serve_tiny(&place, if task == "serve" { 2 } else { 1 }) {
            Ok(()) => println!("{MARK}ended"),
            Err(error) => println!("{MARK}{error}"),
        },
        "allow_other" => {
            let mut options = MountOptions::new(Path::new(HOME));
            options.allow_other = true;
            println!("{MARK}{}", mount(&place, &options).expect_err("fuse.conf forbids it"));
        }
        "unmount" => println!("{MARK}{:?}", unmount(&place)),
        "clear_dead" => println!("{MARK}{:?}", clear_dead(&place)),
        _ => panic!("unknown task {task}"),
    }
}

/// Mounts, says so, and serves until the end.
fn serve_tiny(place: &Path, threads: usize) -> Result<(), String> {
    let target = place.to_owned();
    let unmount_it = move || unmount(&target).unwrap_or_else(|error| println!("{MARK}{error}"));
    on_termination(unmount_it).map_err(|error| error.to_string())?;
    let options = MountOptions::new(Path::new(HOME));
    let device = mount(place, &options).map_err(|error| error.to_string())?;
    let session = run_session(Tiny, device, threads, false).map_err(|error| error.to_string())?;
    // Holds the connection open to the end, as the thread that invalidates does.
    let _notifier = session.notifier();
    println!("{MARK}ready");
    serve(session, place).map_err(|error| error.to_string())
}

/// A process of ours that ends with the test at the latest.
struct Helper(Child);

impl Helper {
    fn start(uid: u32, task: &str, place: &Path) -> Helper {
        let mut command = Command::new("/proc/self/exe");
        command.args([
            "--exact",
            "fs::session::live_tests::helper_process",
            "--nocapture",
            "--test-threads=1",
        ]);
        command.env(TASK, task).env(PLACE, place).stdout(Stdio::piped()).stderr(Stdio::null());
        Helper::spawn(uid, command)
    }

    /// Starts any program as `uid`.
    fn spawn(uid: u32, mut command: Command) -> Helper {
        if uid != effective_uid() {
            command.uid(uid).gid(uid);
        }
        let die_with_parent = || {
            // SAFETY: takes integers, and changes only how this process ends.
            match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        // SAFETY: prctl is a bare system call, so it may be called between fork and exec.
        unsafe { command.pre_exec(die_with_parent) };
        Helper(command.spawn().expect("the program is there"))
    }

    /// The next thing the helper says.
    fn answer(&mut self) -> String {
        let output = self.0.stdout.as_mut().expect("it is piped");
        let mut lines = BufReader::with_capacity(1, output).lines().map_while(Result::ok);
        lines.find_map(|line| Some(line.split_once(MARK)?.1.to_owned())).unwrap_or_default()
    }

    fn signal(&self, signal: i32) {
        // SAFETY: the process is our child and not yet waited for, so the number is still its own.
        assert_eq!(unsafe { libc::kill(self.0.id() as i32, signal) }, 0);
    }

    /// How the process ends, by itself and in time.
    fn end(&mut self) -> ExitStatus {
        let mut status = None;
        let mut has_ended = || {
            status = self.0.try_wait().expect("it is our child");
            status.is_some()
        };
        wait_until(&mut has_ended, "the process ends");
        status.expect("it has ended")
    }
}

/// Waits for what another process does, and fails when it does not happen in time.
fn wait_until(mut happened: impl FnMut() -> bool, what: &str) {
    let deadline = Instant::now() + Duration::from_secs(END_SECONDS_MAX);
    while !happened() {
        assert!(Instant::now() < deadline, "expected: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder of its user to mount on, unmounted and removed at the end.
struct Place {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Place {
    fn of(uid: u32) -> Place {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().canonicalize().expect("it exists").join("mount point");
        fs::create_dir(&path).expect("create");
        if uid != effective_uid() {
            chown(&path, Some(uid), Some(uid)).expect("root may give it away");
            fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("chmod");
        }
        Place { path, _folder: folder }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if is_mounted(&self.path).is_some() {
            let _ = detach(&self.path, Requests::Abort);
        }
    }
}

/// The users to test as: root and nobody, or whoever we are. None, with the reason, without FUSE.
fn users() -> Vec<u32> {
    static PREPARED: Once = Once::new();
    let Ok(metadata) = fs::metadata(DEVICE) else {
        eprintln!("skipped: there is no {DEVICE} here");
        return vec![];
    };
    if !is_root() {
        return vec![effective_uid()];
    }
    PREPARED.call_once(|| {
        if metadata.mode() & 0o666 != 0o666 {
            eprintln!("notice: {DEVICE} is closed to ordinary users; opening it (chmod 666)");
            fs::set_permissions(DEVICE, Permissions::from_mode(0o666)).expect("root may");
        }
    });
    vec![0, NOBODY]
}

/// Runs a program as `uid` and returns what it wrote.
fn run_as(uid: u32, program: &str, arguments: &[&OsStr]) -> (bool, Vec<u8>) {
    let mut command = Command::new(program);
    command.args(arguments);
    if uid != effective_uid() {
        command.uid(uid).gid(uid);
    }
    let output = command.output().expect("the program is installed");
    (output.status.success(), output.stdout)
}

/// A helper that serves at a new place.
fn served(uid: u32) -> (Helper, Place) {
    let place = Place::of(uid);
    let mut helper = Helper::start(uid, "serve", &place.path);
    assert_eq!(helper.answer(), "ready", "user {uid}");
    (helper, place)
}

fn assert_clean_end(helper: &mut Helper, place: &Place) {
    assert_eq!(helper.answer(), "ended");
    assert_eq!(helper.end().code(), Some(0));
    assert_eq!(is_mounted(&place.path), None);
}

#[test]
fn a_mount_is_read_and_unmounted_by_us() {
    for uid in users() {
        let (mut helper, place) = served(uid);
        let file = place.path.join("file");
        assert_eq!(run_as(uid, "cat", &[file.as_os_str()]), (true, CONTENT.to_vec()), "user {uid}");
        let info = is_mounted(&place.path).expect("it is mounted");
        assert_eq!((info.fs_type.as_str(), info.major), (FS_TYPE, 0));
        assert_eq!(info.source, HOME, "user {uid}");
        assert_eq!(info.super_number("user_id"), Some(uid));
        assert!(info.super_options.contains("default_permissions"));
        let mut unmounting = Helper::start(uid, "unmount", &place.path);
        assert_eq!(unmounting.answer(), "Ok(())", "user {uid}");
        assert_clean_end(&mut helper, &place);
        assert!(matches!(unmount(&place.path), Err(MountError::NotMounted { .. })));
    }
}

#[test]
fn an_unmount_by_others_is_a_clean_end() {
    for uid in users() {
        let ways: &[(&str, &[&str])] = match uid {
            0 => &[("umount", &[]), ("fusermount3", &["-u"]), ("umount", &["-l"])],
            _ => &[("fusermount3", &["-u"]), ("fusermount3", &["-u", "-z"])],
        };
        for (program, arguments) in ways {
            let (mut helper, place) = served(uid);
            let mut arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
            arguments.push(place.path.as_os_str());
            assert!(run_as(uid, program, &arguments).0, "user {uid}: {program}");
            assert_clean_end(&mut helper, &place);
        }
    }
}

#[test]
fn a_dead_mount_is_cleared_and_a_live_one_is_not() {
    for uid in users() {
        let (mut helper, place) = served(uid);
        assert_eq!(Helper::start(uid, "clear_dead", &place.path).answer(), "Ok(false)");
        assert!(is_mounted(&place.path).is_some());
        let refused = check_mountpoint(Path::new(HOME), &place.path).expect_err("a live mount is there");
        assert!(refused.to_string().starts_with(HOME), "{refused}");
        // Fills the kernel's cache: stat then goes on to succeed on the dead mount.
        assert!(run_as(uid, "stat", &[place.path.as_os_str()]).0);
        helper.signal(libc::SIGKILL);
        assert_eq!(helper.end().signal(), Some(libc::SIGKILL));
        assert!(is_mounted(&place.path).is_some(), "a killed daemon leaves its mount");
        assert_eq!(Helper::start(uid, "clear_dead", &place.path).answer(), "Ok(true)", "user {uid}");
        assert_eq!(is_mounted(&place.path), None);
        assert_eq!(Helper::start(uid, "clear_dead", &place.path).answer(), "Ok(false)");
        assert_eq!(check_mountpoint(Path::new(HOME), &place.path).expect("it is free"), place.path);
    }
}

#[test]
fn we_clear_the_dead_mount_of_another_user() {
    for uid in users() {
        let (mut helper, place) = served(uid);
        assert!(!clear_dead(&place.path).expect("it is alive"), "user {uid}");
        helper.signal(libc::SIGKILL);
        helper.end();
        assert!(clear_dead(&place.path).expect("we may"), "user {uid}");
        assert_eq!(is_mounted(&place.path), None);
    }
}

#[test]
fn a_signal_unmounts() {
    for uid in users() {
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            let (mut helper, place) = served(uid);
            helper.signal(signal);
            assert_clean_end(&mut helper, &place);
        }
    }
}

#[test]
fn a_second_signal_exits_at_once() {
    for uid in users() {
        for (signal, code) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
            let (mut helper, place) = served(uid);
            // An open file keeps the session alive after the lazy unmount.
            let mut command = Command::new("sh");
            let script = format!("exec < \"$1\"; echo '{MARK}open'; exec sleep {END_SECONDS_MAX}");
            command.args(["-c", &script, "sh"]).arg(place.path.join("file")).stdout(Stdio::piped());
            let mut holder = Helper::spawn(uid, command);
            assert_eq!(holder.answer(), "open");
            helper.signal(libc::SIGTERM);
            wait_until(|| is_mounted(&place.path).is_none(), "the first signal unmounts");
            assert_eq!(helper.0.try_wait().expect("it is our child"), None, "the open file is still served");
            helper.signal(signal);
            assert_eq!(helper.end().code(), Some(code));
        }
    }
}

#[test]
fn refusals_of_the_helper_say_what_to_do() {
    for uid in users().into_iter().filter(|uid| *uid != 0) {
        if !fs::read_to_string("/etc/fuse.conf")
            .unwrap_or_default()
            .lines()
            .any(|line| line == "user_allow_other")
        {
            let place = Place::of(uid);
            let answer = Helper::start(uid, "allow_other", &place.path).answer();
            assert!(answer.contains("user_allow_other` into"), "{answer}");
        }
        for (path, words) in
            [("/usr", "not yours"), ("/etc/passwd", "not a directory"), ("/no/such", "mkdir -p")]
        {
            let answer = Helper::start(uid, "serve", Path::new(path)).answer();
            assert!(answer.contains(words), "{path}: {answer}");
        }
    }
}

#[test]
fn only_our_mounts_are_unmounted() {
    assert!(matches!(unmount(Path::new("/proc")), Err(MountError::NotOurs { .. })));
    let folder = tempfile::tempdir().expect("a temporary folder");
    assert!(matches!(unmount(folder.path()), Err(MountError::NotMounted { .. })));
}

/// The session in this process: its notifier works, and the read-ahead is raised where we may.
#[test]
fn a_session_gives_its_notifier_before_it_serves() {
    if users().is_empty() {
        return;
    }
    let place = Place::of(effective_uid());
    let device = mount(&place.path, &MountOptions::new(Path::new(HOME))).expect("mount");
    let session = run_session(Tiny, device, 1, false).expect("the handshake");
    let notifier = session.notifier();
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| serve(session, &place.path));
        let file = place.path.join("file");
        assert_eq!(run_as(effective_uid(), "cat", &[file.as_os_str()]), (true, CONTENT.to_vec()));
        notifier.inval_inode(INodeNo(2), 0, 0).expect("the kernel takes it");
        set_read_ahead(&place.path);
        let info = is_mounted(&place.path).expect("it is mounted");
        if let (true, Ok(text)) = (is_root(), fs::read_to_string(tuning::read_ahead_file(&info))) {
            assert_eq!(text.trim(), "1024");
        }
        unmount(&place.path).expect("unmount");
        serving.join().expect("it does not panic").expect("a clean end");
    });
}

/// A worker that panics ends the session; nobody would answer any more, so the mount must go too.
#[test]
fn a_failed_worker_leaves_no_mount() {
    for uid in users() {
        let place = Place::of(uid);
        let mut helper = Helper::start(uid, "serve alone", &place.path);
        assert_eq!(helper.answer(), "ready");
        assert!(!run_as(uid, "cat", &[place.path.join("panic").as_os_str()]).0, "user {uid}");
        assert_eq!(helper.answer(), "event loop thread panicked");
        assert_eq!(helper.end().code(), Some(0));
        assert_eq!(is_mounted(&place.path), None);
    }
}

/// When nothing serves the descriptor the mount is dead, and `unmount` works on it.
#[test]
fn a_mount_that_was_never_served_is_unmounted() {
    if users().is_empty() {
        return;
    }
    let place = Place::of(effective_uid());
    drop(mount(&place.path, &MountOptions::new(Path::new(HOME))).expect("mount"));
    assert!(is_mounted(&place.path).is_some());
    unmount(&place.path).expect("unmount");
    assert_eq!(is_mounted(&place.path), None);
}
