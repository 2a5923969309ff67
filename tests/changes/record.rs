//! A thread that is written through the mount: where it is when.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use inotify::{EventMask, Inotify, WatchMask};

use super::mount::{Mount, can_mount, errno, mtime_ns, names, set_mtime};
use super::{DAY, active, id, item, line, meta, name, thread, user};

fn create(path: &Path) -> File {
    OpenOptions::new().append(true).create(true).mode(0o666).open(path).unwrap()
}

fn make_day(mount: &Mount) {
    fs::create_dir_all(mount.path(DAY)).unwrap();
}

/// What happened in a folder and those made below it, until nothing comes for a moment.
struct Watched {
    inotify: Inotify,
    folders: Vec<(inotify::WatchDescriptor, PathBuf)>,
    seen: Vec<(EventMask, String)>,
}

impl Watched {
    fn new(root: &Path) -> Watched {
        let mut watched = Watched { inotify: Inotify::init().unwrap(), folders: vec![], seen: vec![] };
        watched.add(root);
        watched
    }

    fn add(&mut self, dir: &Path) {
        let mask = WatchMask::CREATE
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::DELETE
            | WatchMask::MODIFY;
        let descriptor = self.inotify.watches().add(dir, mask).unwrap();
        self.folders.push((descriptor, dir.to_owned()));
    }

    fn poll(&mut self) -> Vec<(EventMask, String)> {
        let mut buffer = [0; 65536];
        loop {
            let mut new = Vec::new();
            match self.inotify.read_events(&mut buffer) {
                Ok(events) => {
                    for event in events {
                        let dir = &self.folders.iter().find(|(it, _)| *it == event.wd).unwrap().1;
                        new.push((event.mask, dir.join(event.name.unwrap_or_default())));
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return self.seen.clone(),
                Err(error) => panic!("{error}"),
            }
            for (mask, path) in new {
                self.seen.push((mask, path.file_name().unwrap().to_string_lossy().into_owned()));
                if mask.contains(EventMask::ISDIR) {
                    self.add(&path);
                }
            }
        }
    }
}

#[test]
fn a_thread_is_pending_until_its_user_speaks() {
    if !can_mount() {
        return;
    }
    let mount = Mount::new(&[]);
    make_day(&mount);
    // The day is made before in the home too, so that all that happens in it is seen.
    let mut watched = Watched::new(&mount.home());
    let path = mount.path(&active(1));
    let mut file = create(&path);
    let number = file.metadata().unwrap().ino();
    let mut text = String::new();
    for part in [meta(1, ",\"source\":\"cli\""), line("turn_context", "{\"cwd\":\"/src/app\"}"), item("x")] {
        file.write_all(part.as_bytes()).unwrap();
        text += &part;
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(fs::metadata(&path).unwrap().len(), text.len() as u64);
        file.sync_all().unwrap();
        assert!(!mount.home().join("sessions").exists(), "not even the folder");
    }
    assert_eq!(names(&mount.path(DAY)), [name(1)]);
    assert!(fs::read_link(mount.path(&format!("by-id/{}.jsonl", id(1)))).is_ok());
    // Half of the line is no line.
    let said = user("hello");
    let (first, second) = said.split_at(40);
    file.write_all(first.as_bytes()).unwrap();
    assert!(!mount.home().join("sessions").exists());
    file.write_all(second.as_bytes()).unwrap();
    text += &said;
    let lies = mount.home().join(active(1));
    assert_eq!(fs::read_to_string(&lies).unwrap(), text);
    for part in [item("y"), user("more")] {
        file.write_all(part.as_bytes()).unwrap();
        text += &part;
        assert_eq!(fs::read_to_string(&lies).unwrap(), text, "written through at once");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
    let mut read = OpenOptions::new().read(true).open(&path).unwrap();
    read.seek(SeekFrom::End(-10)).unwrap();
    let mut tail = String::new();
    read.read_to_string(&mut tail).unwrap();
    assert_eq!(tail, text[text.len() - 10..]);
    assert_eq!(file.metadata().unwrap().ino(), number);
    assert_eq!(fs::metadata(&path).unwrap().ino(), number);
    let threads = fs::read_to_string(mount.path("threads.jsonl")).unwrap();
    assert_eq!(threads.lines().count(), 1);
    assert_eq!(fs::read_link(mount.path("latest")).unwrap(), Path::new(&active(1)));
    let seen = watched.poll();
    let made: Vec<_> = seen
        .iter()
        .filter(|(mask, _)| mask.contains(EventMask::ISDIR))
        .map(|(_, name)| name.as_str())
        .collect();
    assert_eq!(made[0], "sessions");
    assert!(made[1..].iter().all(|name| ["2026", "02", "08"].contains(name)), "{made:?}");
}

#[test]
fn materialising_is_one_rename_that_others_see() {
    if !can_mount() {
        return;
    }
    let mount = Mount::of(|home| fs::create_dir_all(home.join(DAY)).unwrap(), &[]);
    let mut watched = Watched::new(&mount.home().join(DAY));
    let mut file = create(&mount.path(&active(1)));
    file.write_all(meta(1, "").as_bytes()).unwrap();
    assert_eq!(watched.poll(), []);
    file.write_all(user("hello").as_bytes()).unwrap();
    let seen = watched.poll();
    assert_eq!(seen, [(EventMask::MOVED_TO, name(1))]);
    file.write_all(item("z").as_bytes()).unwrap();
    assert_eq!(watched.poll().len(), 2, "an ordinary append");
}

#[test]
fn what_else_materialises() {
    if !can_mount() {
        return;
    }
    let mount = Mount::of(|home| super::with_threads(home, [50]), &[]);
    let table: [(u64, String, String); 4] = [
        (1, meta(1, ",\"source\":{\"subagent\":\"review\"}"), item("first")),
        (2, String::new(), meta(2, ",\"history_base\":{\"thread_id\":\"x\"}")),
        (
            3,
            meta(3, ""),
            line("event_msg", "{\"type\":\"item_completed\",\"item\":{\"type\":\"UserMessage\"}}"),
        ),
        (4, meta(4, "") + &item("x"), user("x")),
    ];
    for (number, before, trigger) in table {
        let mut file = create(&mount.path(&active(number)));
        let lies = mount.home().join(active(number));
        for part in before.split_inclusive('\n') {
            file.write_all(part.as_bytes()).unwrap();
            assert!(!lies.exists(), "{number}: {part}");
        }
        file.write_all(trigger.as_bytes()).unwrap();
        assert_eq!(fs::read_to_string(&lies).unwrap(), before + &trigger, "{number}");
    }
    // A segment of a reverted thread: at once, beside the thread's other file.
    let segment = format!("{DAY}/rollout-2026-02-08T10-00-00-{}_{}.jsonl", id(50), id(51));
    let mut file = create(&mount.path(&segment));
    assert!(mount.home().join(&segment).exists());
    file.write_all(meta(50, "").as_bytes()).unwrap();
    assert_eq!(fs::read_to_string(mount.home().join(&segment)).unwrap(), meta(50, ""));
}

#[test]
fn fsync_or_creation_materialise_where_asked_for() {
    if !can_mount() {
        return;
    }
    for (flag, at_creation) in [("--materialize=fsync", false), ("--materialize=create", true)] {
        let mount = Mount::new(&[flag]);
        make_day(&mount);
        let mut file = create(&mount.path(&active(1)));
        let lies = mount.home().join(active(1));
        assert_eq!(lies.exists(), at_creation, "{flag}");
        file.write_all(meta(1, "").as_bytes()).unwrap();
        assert_eq!(lies.exists(), at_creation, "{flag}");
        file.sync_all().unwrap();
        assert_eq!(fs::read_to_string(&lies).unwrap(), meta(1, ""), "{flag}");
        file.write_all(item("x").as_bytes()).unwrap();
        assert_eq!(fs::read_to_string(&lies).unwrap(), meta(1, "") + &item("x"), "{flag}");
    }
}

#[test]
fn the_control_file_persists() {
    if !can_mount() {
        return;
    }
    let mount = Mount::new(&[]);
    make_day(&mount);
    let mut file = create(&mount.path(&active(1)));
    file.write_all(meta(1, "").as_bytes()).unwrap();
    let control = mount.path(".rolloutfs/control");
    for unknown in ["dance\n", "persist\n", "persist x\n", &format!("persist {} now\n", id(1))] {
        let mut open = OpenOptions::new().write(true).open(&control).unwrap();
        assert_eq!(errno(open.write(unknown.as_bytes())), Some(libc::EINVAL), "{unknown}");
    }
    mount.logged("there is: persist ID, discard ID");
    let mut open = OpenOptions::new().write(true).open(&control).unwrap();
    assert_eq!(errno(open.write(format!("persist {}\n", id(9)).as_bytes())), Some(libc::ENOENT));
    assert!(!mount.home().join("sessions").exists());
    for _ in 0..2 {
        // The second one finds it done.
        mount.ok(&format!("echo persist {} > .rolloutfs/control", id(1)));
        assert_eq!(fs::read_to_string(mount.home().join(active(1))).unwrap(), meta(1, ""));
    }
    file.write_all(item("x").as_bytes()).unwrap();
    assert_eq!(fs::read_to_string(mount.home().join(active(1))).unwrap(), meta(1, "") + &item("x"));
}

#[test]
fn times_and_modes_that_the_writer_set_are_kept() {
    if !can_mount() {
        return;
    }
    let mount = Mount::new(&[]);
    make_day(&mount);
    let (path, lies) = (mount.path(&active(1)), mount.home().join(active(1)));
    let mut file = create(&path);
    file.write_all((meta(1, "") + &item("x")).as_bytes()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    set_mtime(&path, 1_700_000_000);
    assert_eq!(mtime_ns(&path), 1_700_000_000_000_000_000);
    mount.ok(&format!("echo persist {} > .rolloutfs/control", id(1)));
    for path in [&path, &lies] {
        assert_eq!(mtime_ns(path), 1_700_000_000_000_000_000);
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o7777, 0o640);
    }
    // A copying tool sets it behind the write that materialises.
    fs::write(mount.path(&active(2)), thread(2)).unwrap();
    set_mtime(&mount.path(&active(2)), 1_600_000_000);
    fs::set_permissions(mount.path(&active(2)), fs::Permissions::from_mode(0o600)).unwrap();
    for path in [mount.path(&active(2)), mount.home().join(active(2))] {
        assert_eq!(mtime_ns(&path), 1_600_000_000_000_000_000);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    }
}

#[test]
fn pending_threads_outlive_the_mount() {
    if !can_mount() {
        return;
    }
    let mut mount = Mount::new(&[]);
    make_day(&mount);
    let texts: Vec<_> =
        (1..=5).map(|number| meta(number, "") + &item("waiting").repeat(number as usize)).collect();
    for (number, text) in (1..).zip(&texts) {
        fs::write(mount.path(&active(number)), text).unwrap();
    }
    // The times of folders and links follow a little later (10.12).
    std::thread::sleep(std::time::Duration::from_millis(200));
    let before = mount.ok("find sessions by-id -printf '%p %i %s %T@ %l\\n' | sort");
    for kill in [false, true] {
        if kill {
            mount.kill()
        } else {
            mount.unmount()
        }
        mount.start(&[]);
        assert_eq!(mount.ok("find sessions by-id -printf '%p %i %s %T@ %l\\n' | sort"), before);
        for (number, text) in (1..).zip(&texts) {
            assert_eq!(&fs::read_to_string(mount.path(&active(number))).unwrap(), text);
        }
        assert!(!mount.home().join("sessions").exists());
    }
    let mut file = OpenOptions::new().append(true).open(mount.path(&active(3))).unwrap();
    file.write_all(user("go").as_bytes()).unwrap();
    assert_eq!(fs::read_to_string(mount.home().join(active(3))).unwrap(), texts[2].clone() + &user("go"));
    assert_eq!(names(&mount.home().join(DAY)), [name(3)]);
}

#[test]
fn a_place_that_is_taken_leaves_the_thread_pending() {
    if !can_mount() {
        return;
    }
    let mount = Mount::new(&[]);
    make_day(&mount);
    let mut file = create(&mount.path(&active(1)));
    file.write_all(meta(1, "").as_bytes()).unwrap();
    fs::create_dir(mount.home().join("sessions")).unwrap();
    fs::write(mount.home().join("sessions/2026"), "in the way").unwrap();
    // The watcher may see the odd file first or later: neither matters.
    let refused = file.write(user("hello").as_bytes());
    assert_eq!(errno(refused), Some(libc::ENOTDIR), "{}", mount.log());
    assert_eq!(fs::read_to_string(mount.path(&active(1))).unwrap(), meta(1, ""), "nothing of it was taken");
    fs::remove_file(mount.home().join("sessions/2026")).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    file.write_all(user("hello").as_bytes()).unwrap();
    assert_eq!(fs::read_to_string(mount.home().join(active(1))).unwrap(), meta(1, "") + &user("hello"));
    assert_eq!(fs::read_to_string(mount.path(&active(1))).unwrap(), meta(1, "") + &user("hello"));
}
