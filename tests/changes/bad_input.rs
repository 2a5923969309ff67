//! What is refused: a clear number, a line in the log that says what would work, and nothing changed.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::Path;

use super::mount::{Mount, can_mount, errno, rename_with};
use super::{DAY, active, archived, id, item, meta, name, thread, user, with_threads};

fn make(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o644).open(path).map(drop)
}

type Attempt = Box<dyn Fn(&Mount) -> io::Result<()>>;

/// What is tried, the number it gets, and what the log says of it (nothing where the kernel answers by itself).
fn attempts() -> Vec<(String, Attempt, i32, &'static str)> {
    let mut all: Vec<(String, Attempt, i32, &'static str)> = Vec::new();
    let mut add = |what: &str, attempt: Attempt, errno: i32, says: &'static str| {
        all.push((what.to_owned(), attempt, errno, says));
    };
    let creation = |path: String| -> Attempt { Box::new(move |mount| make(&mount.path(&path))) };
    let renaming = |from: String, to: String| -> Attempt {
        Box::new(move |mount| fs::rename(mount.path(&from), mount.path(&to)))
    };
    let linking = |to: String, path: String| -> Attempt {
        Box::new(move |mount| symlink(to.replace("MNT", mount.path("").to_str().unwrap()), mount.path(&path)))
    };
    let removal = |path: String| -> Attempt { Box::new(move |mount| fs::remove_file(mount.path(&path))) };
    let folder = |path: String| -> Attempt { Box::new(move |mount| fs::create_dir(mount.path(&path))) };
    let day = |file: &str| format!("{DAY}/{file}");
    let uuid = id(77);
    for bad in [
        format!("rollout-2026-02-09T09-15-02-{uuid}.jsonl"),
        format!("rollout-2025-02-08T09-15-02-{uuid}.jsonl"),
    ] {
        add("the wrong day", creation(day(&bad)), libc::EINVAL, "belongs in sessions/");
        add(
            "the wrong folder",
            creation(format!("sessions/2026/{bad}")),
            libc::EINVAL,
            "belongs in sessions/",
        );
    }
    for bad in [
        format!("rollout-2026-02-30T09-15-02-{uuid}.jsonl"),
        format!("rollout-2026-13-08T09-15-02-{uuid}.jsonl"),
        format!("rollout-2026-02-08T25-15-02-{uuid}.jsonl"),
        format!("rollout-2026-02-08T09-15-61-{uuid}.jsonl"),
        format!("rollout-2026-02-08 09:15:02-{uuid}.jsonl"),
        "rollout-2026-02-08T09-15-02-not-an-id.jsonl".to_owned(),
        "rollout-2026-02-08T09-15-02.jsonl".to_owned(),
    ] {
        add("no legal name of a rollout", creation(day(&bad)), libc::EINVAL, "rollout-YYYY-MM-DDThh-mm-ss-");
    }
    add("the compressed form", creation(day(&(name(77) + ".zst"))), libc::EPERM, "write the thread plain");
    add("a second file of a thread", creation(archived(1)), libc::EEXIST, "the thread is sessions/");
    let later = format!("rollout-2026-02-08T10-15-02-{}.jsonl", id(1));
    add("a second file of a thread", creation(day(&later)), libc::EEXIST, "the thread is sessions/");
    add("the same", creation(active(1)), libc::EEXIST, "");
    for clutter in [".DS_Store", "._x", "Thumbs.db", "desktop.ini"] {
        for dir in ["", "sessions/", &day(""), "archived_sessions/"] {
            add("clutter", creation(format!("{dir}{clutter}")), libc::EPERM, "desktops leave behind");
        }
    }
    for view in ["by-name", "by-id", "by-cwd/src/app", "archived/2026/02/08", "health"] {
        add("a file in a view", creation(format!("{view}/x.jsonl")), libc::EPERM, "mv or ln -s in by-name");
    }
    for path in [
        "by-id/new",
        "by-name/new",
        "new",
        "sessions/26",
        "sessions/2026/2",
        "sessions/2026/02/08/x",
        "archived_sessions/2026",
    ] {
        add("a folder", folder(path.to_owned()), libc::EPERM, "years, months and days");
    }
    for path in ["sessions/2026/13", "sessions/2026/02/30", "sessions/2026/00"] {
        add("a folder of no date", folder(path.to_owned()), libc::EPERM, "years, months and days");
    }
    for path in [
        format!("by-id/{}.jsonl", id(1)),
        format!("by-cwd/src/app/{}", name(1)),
        "latest".into(),
        "README.md".into(),
        "threads.jsonl".into(),
    ] {
        add("rm in a view", removal(path), libc::EPERM, "can be removed");
    }
    add(
        "a thread into a view",
        renaming(active(1), format!("by-id/{}x.jsonl", id(1))),
        libc::EPERM,
        "a view shows what is",
    );
    add(
        "a thread into by-name",
        renaming(active(1), "by-name/x.jsonl".into()),
        libc::EPERM,
        "a view shows what is",
    );
    add(
        "a link out of its view",
        renaming(format!("by-id/{}.jsonl", id(1)), "by-name/x.jsonl".into()),
        libc::EPERM,
        "nothing moves",
    );
    add(
        "a link within a view",
        renaming(format!("by-id/{}.jsonl", id(1)), "by-id/x.jsonl".into()),
        libc::EPERM,
        "nothing moves",
    );
    add(
        "a name into sessions",
        renaming("by-name/one.jsonl".into(), active(77)),
        libc::EPERM,
        "nothing moves",
    );
    add("a folder", renaming("sessions/2026".into(), "sessions/2027".into()), libc::EPERM, "folders stay");
    add("a thread under another name", renaming(active(1), active(77)), libc::EPERM, "keeps its name");
    add(
        "a thread in another day",
        renaming(active(1), format!("sessions/2026/02/{}", name(1))),
        libc::EINVAL,
        "belongs in",
    );
    add("a thread over another", renaming(active(1), active(2)), libc::EPERM, "keeps its name");
    for to in [
        "../nowhere",
        "/etc/passwd",
        "../sessions",
        "../README.md",
        "MNT/nowhere",
        &format!("../{}", active(99)),
        "",
    ] {
        let number = if to.is_empty() { libc::ENOENT } else { libc::EINVAL };
        let says = if to.is_empty() { "" } else { "no thread of this mount" };
        add(&format!("a name for {to:?}"), linking(to.to_owned(), "by-name/x.jsonl".into()), number, says);
    }
    add(
        "a link elsewhere",
        linking(format!("../{}", active(1)), "by-id/x.jsonl".into()),
        libc::EPERM,
        "in by-name alone",
    );
    add("a link in sessions", linking(name(1), day("x.jsonl")), libc::EPERM, "in by-name alone");
    let target = format!("../{}", active(1));
    for (bad, number) in [
        (".jsonl", libc::EINVAL),
        ("%.jsonl", libc::EINVAL),
        ("   .jsonl", libc::EINVAL),
        ("%0A%09.jsonl", libc::EINVAL),
    ] {
        add(
            &format!("the name {bad:?}"),
            linking(target.clone(), format!("by-name/{bad}")),
            number,
            "more than white space",
        );
    }
    add(
        "a name of 10 kB",
        linking(target.clone(), format!("by-name/{}", "n".repeat(10_000))),
        libc::ENAMETOOLONG,
        "",
    );
    add("a name that is taken", linking(target, "by-name/one.jsonl".into()), libc::EEXIST, "");
    let exchange: Attempt = Box::new(|mount| {
        rename_with(&mount.path(&active(1)), &mount.path(&active(2)), libc::RENAME_EXCHANGE)
    });
    add("an exchange", exchange, libc::EINVAL, "is not exchanged");
    let over: Attempt = Box::new(|mount| {
        rename_with(
            &mount.path("by-name/one.jsonl"),
            &mount.path("by-name/two.jsonl"),
            libc::RENAME_NOREPLACE,
        )
    });
    add("a name that is taken, not to be replaced", over, libc::EEXIST, "");
    for path in ["README.md", "threads.jsonl", ".rolloutfs/status.json"] {
        let write: Attempt =
            Box::new(move |mount| OpenOptions::new().append(true).open(mount.path(path))?.write_all(b"x"));
        add(&format!("writing to {path}"), write, libc::EPERM, "made up");
    }
    let fifo: Attempt = Box::new(|mount| {
        let path = std::ffi::CString::new(mount.path("fifo").as_os_str().as_bytes()).unwrap();
        // SAFETY: the path ends in NUL and lives through the call.
        if unsafe { libc::mkfifo(path.as_ptr(), 0o600) } == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    });
    add("a fifo", fifo, libc::EPERM, "only regular files");
    all
}

#[test]
fn what_is_refused_changes_nothing() {
    if !can_mount() {
        return;
    }
    let mount = Mount::of(
        |home| {
            with_threads(home, 1..=3);
            fs::create_dir(home.join("archived_sessions")).unwrap();
            fs::rename(home.join(active(3)), home.join(archived(3))).unwrap();
            let named = |number, name| {
                format!("{{\"id\":\"{}\",\"thread_name\":\"{name}\",\"updated_at\":\"x\"}}\n", id(number))
            };
            fs::write(home.join("session_index.jsonl"), named(1, "one") + &named(2, "two")).unwrap();
        },
        &[],
    );
    let before = mount.state();
    let mut wrong = Vec::new();
    for (what, attempt, expected, says) in attempts() {
        let logged = mount.log().len();
        let got = attempt(&mount);
        let log = mount.log()[logged..].to_owned();
        let number = errno(got);
        if number != Some(expected) || (!says.is_empty() && !log.contains(says)) {
            wrong.push(format!("{what}: {number:?} instead of {expected}, {says:?}: {log}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let after = mount.state();
    let (before, after): (Vec<_>, Vec<_>) = (before.lines().collect(), after.lines().collect());
    let missing: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
    let new: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
    assert!(missing.is_empty() && new.is_empty(), "gone: {missing:?}\nnew: {new:?}");
}

#[test]
fn odd_bytes_are_written_as_they_are() {
    if !can_mount() {
        return;
    }
    let mount = Mount::of(|home| with_threads(home, 1..=2), &[]);
    let parts: [&[u8]; 6] =
        [b"{\"half\":", b"\0\0\0\n", b"\xff\xfe\n", b"\n\n\r\n", b"{} {} {}\n", b"no newline"];
    let (path, lies) = (mount.path(&active(1)), mount.home().join(active(1)));
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    let mut expected = thread(1).into_bytes();
    for part in parts {
        file.write_all(part).unwrap();
        expected.extend(part);
        assert_eq!(fs::read(&lies).unwrap(), expected);
        assert_eq!(fs::read(&path).unwrap(), expected);
    }
    file.write_all(item("after").as_bytes()).unwrap();
    let pending = mount.path(&active(5));
    let mut file = OpenOptions::new().append(true).create(true).open(&pending).unwrap();
    for part in parts {
        file.write_all(part).unwrap();
    }
    assert!(!mount.home().join(active(5)).exists());
    file.write_all(b"\n").unwrap();
    assert!(!mount.home().join(active(5)).exists());
    file.write_all(user("x").as_bytes()).unwrap();
    let expected = [&parts.concat()[..], b"\n", user("x").as_bytes()].concat();
    assert_eq!(fs::read(mount.home().join(active(5))).unwrap(), expected);
}

#[test]
fn a_line_of_64_mebibytes() {
    if !can_mount() {
        return;
    }
    const BYTES: usize = 64 << 20;
    let mount = Mount::of(|home| with_threads(home, [2]), &[]);
    let long =
        format!("{{\"timestamp\":\"x\",\"type\":\"response_item\",\"payload\":\"{}\"}}\n", "y".repeat(BYTES));
    let text = meta(1, "") + &long + &user("x");
    let mut file = OpenOptions::new().append(true).create(true).open(mount.path(&active(1))).unwrap();
    for part in text.as_bytes().chunks(2 << 20) {
        file.write_all(part).unwrap();
    }
    assert_eq!(fs::metadata(mount.home().join(active(1))).unwrap().size(), text.len() as u64);
    mount.ok(&format!("cmp $H/{0} $M/{0}", active(1)));
    // And as one appended to a thread.
    OpenOptions::new().append(true).open(mount.path(&active(2))).unwrap().write_all(long.as_bytes()).unwrap();
    assert_eq!(fs::metadata(mount.path(&active(2))).unwrap().size(), (thread(2).len() + long.len()) as u64);
    mount.ok(&format!("cmp $H/{0} $M/{0}", active(2)));
}
