//! Does the mount follow the disk? What Codex or anybody does to the home is seen within two seconds.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{TestHome, thread_id};
use crate::harness::{Mounted, can_mount, exists, inode, thread_lines, wait_for};

/// What is promised.
const SEEN_WITHIN: Duration = Duration::from_secs(2);

const STAMP: &str = "2026-02-08T10-00-00";
const DAY: &str = "sessions/2026/02/08";

/// A home with a few threads, mounted and looked at once, so that the kernel has something to forget.
fn watched() -> (TestHome, Mounted) {
    let home = TestHome::empty();
    for number in 1..=20 {
        home.thread(&format!("2026-02-08T09-00-{number:02}"), number, "/srv/demo", "a question");
    }
    fs::create_dir_all(home.path().join("archived_sessions")).unwrap();
    let mount = Mounted::new(&home.path(), &home.beside("mnt"), &[]);
    mount.find();
    let _ = thread_lines(mount.at());
    (home, mount)
}

fn append(path: &Path, text: &str) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn file_name(number: u64) -> String {
    format!("rollout-{STAMP}-{}.jsonl", thread_id(number))
}

/// Waits until the change is seen, and prints how long that took.
fn seen(what: &str, is_true: impl FnMut() -> bool) {
    println!("{what}: seen after {:?}", wait_for(what, SEEN_WITHIN, is_true));
}

/// The target of a link, resolved, below the mount.
fn leads_to(mount: &Mounted, link: &str) -> Option<PathBuf> {
    let there = fs::canonicalize(mount.path(link)).ok()?;
    Some(there.strip_prefix(mount.at()).ok()?.to_owned())
}

fn name_line(number: u64, name: &str) -> String {
    let id = thread_id(number);
    format!("{{\"id\":\"{id}\",\"thread_name\":\"{name}\",\"updated_at\":\"2026-02-08T10:00:00Z\"}}\n")
}

fn line_of(mount: &Mounted, number: u64) -> Option<Value> {
    let id = thread_id(number);
    thread_lines(mount.at()).into_iter().find(|line| line["id"] == id.as_str())
}

#[test]
fn what_is_appended_to_a_thread_is_read_through_the_mount() {
    if !can_mount() {
        return;
    }
    let (home, mount) = watched();
    let path = format!("{DAY}/rollout-2026-02-08T09-00-01-{}.jsonl", thread_id(1));
    let (disk, shown) = (home.path().join(&path), mount.path(&path));
    let open = File::open(&shown).unwrap();
    for round in 0..5 {
        append(
            &disk,
            &format!(
                "{{\"timestamp\":\"2026-02-08T10:00:0{round}Z\",\"type\":\"event_msg\",\"payload\":{{\"type\":\"agent_message\",\"message\":\"more {round}\"}}}}\n"
            ),
        );
        let expected = fs::read(&disk).unwrap();
        seen("an append, by its size", || fs::metadata(&shown).unwrap().len() == expected.len() as u64);
        assert!(fs::read(&shown).unwrap() == expected, "other bytes after the append");
        // Whoever has it open (`tail -f`) gets the new bytes too.
        let mut through_open = String::new();
        (&open).read_to_string(&mut through_open).unwrap();
        assert!(through_open.ends_with(&format!("more {round}\"}}}}\n")), "{through_open}");
        seen("an append, in threads.jsonl", || {
            line_of(&mount, 1).is_some_and(|line| line["bytes"] == expected.len())
        });
    }
    // A line that is written in two pieces.
    append(&disk, "{\"timestamp\":\"2026-02-08T11:00:00Z\",\"type\":\"event_msg\",");
    seen("half a line", || fs::read(&shown).unwrap() == fs::read(&disk).unwrap());
    append(&disk, "\"payload\":{\"type\":\"agent_message\",\"message\":\"done\"}}\n");
    seen("the other half", || fs::read(&shown).unwrap() == fs::read(&disk).unwrap());
    // An unmount waits for who has a file open.
    drop(open);
    mount.unmount();
}

#[test]
fn a_new_thread_appears_everywhere_and_a_deleted_one_nowhere() {
    if !can_mount() {
        return;
    }
    let (home, mount) = watched();
    let path = format!("{DAY}/{}", file_name(77));
    let by_id = format!("by-id/{}.jsonl", thread_id(77));
    let by_cwd = format!("by-cwd/srv/new/{}", file_name(77));
    // Asked before they are there: the kernel keeps these misses.
    for place in [&path, &by_id, &by_cwd] {
        assert!(!exists(&mount.path(place)), "{place}");
    }
    home.thread(STAMP, 77, "/srv/new", "a question");
    seen("a new thread, in its day", || exists(&mount.path(&path)));
    seen("a new thread, by its id", || leads_to(&mount, &by_id).as_deref() == Some(Path::new(&path)));
    seen("a new thread, by its folder", || leads_to(&mount, &by_cwd).as_deref() == Some(Path::new(&path)));
    seen("a new thread, as the latest", || leads_to(&mount, "latest").as_deref() == Some(Path::new(&path)));
    seen("a new thread, in threads.jsonl", || line_of(&mount, 77).is_some());
    seen("a new thread, listed", || {
        crate::harness::names_in(&mount.path("by-id")).contains(&format!("{}.jsonl", thread_id(77)))
    });
    assert_eq!(fs::read(mount.path("latest")).unwrap(), fs::read(home.path().join(&path)).unwrap());

    fs::remove_file(home.path().join(&path)).unwrap();
    for place in [&path, &by_id, &by_cwd] {
        seen("a deleted thread is gone", || !exists(&mount.path(place)));
    }
    seen("a folder of a view without threads is gone", || !exists(&mount.path("by-cwd/srv/new")));
    seen("a deleted thread is not the latest", || {
        leads_to(&mount, "latest").is_some_and(|to| to != Path::new(&path))
    });
    seen("a deleted thread has no line", || line_of(&mount, 77).is_none());
    // A day that is new, with its folders.
    let other = home.thread("2027-03-04T05-06-07", 78, "/srv/new", "a question");
    seen("a thread of a new year", || exists(&mount.path(&other)));
    mount.unmount();
}

#[test]
fn a_name_appears_changes_and_goes_with_its_line() {
    if !can_mount() {
        return;
    }
    let (home, mount) = watched();
    let names = home.write("session_index.jsonl", "");
    let path = |number: u64| {
        PathBuf::from(format!("{DAY}/rollout-2026-02-08T09-00-{number:02}-{}.jsonl", thread_id(number)))
    };
    assert!(!exists(&mount.path("by-name/planb.jsonl")));
    append(&names, &name_line(1, "planb"));
    seen("a name", || leads_to(&mount, "by-name/planb.jsonl") == Some(path(1)));
    seen("a name, in threads.jsonl", || line_of(&mount, 1).is_some_and(|line| line["name"] == "planb"));
    append(&names, &name_line(2, "planb"));
    seen("the same name for another", || leads_to(&mount, "by-name/planb.jsonl") == Some(path(2)));
    let second = format!("by-name/planb~{}.jsonl", &thread_id(1)[28..]);
    seen("the first one with its suffix", || leads_to(&mount, &second) == Some(path(1)));
    append(&names, &name_line(2, "fix: auth/login"));
    seen("another name", || leads_to(&mount, "by-name/fix%3A auth%2Flogin.jsonl") == Some(path(2)));
    seen("the old name is the first one's again", || {
        leads_to(&mount, "by-name/planb.jsonl") == Some(path(1))
    });
    seen("its suffix is not listed any more", || crate::harness::names_in(&mount.path("by-name")).len() == 2);
    seen("the names as Codex has them", || {
        fs::read(mount.path("session_index.jsonl")).unwrap() == fs::read(&names).unwrap()
    });
    fs::write(home.path().join("tmp"), name_line(2, "alone")).unwrap();
    fs::rename(home.path().join("tmp"), &names).unwrap();
    seen("a rewritten file of names", || {
        crate::harness::names_in(&mount.path("by-name")) == ["alone.jsonl"]
            && leads_to(&mount, "by-name/alone.jsonl") == Some(path(2))
    });
    mount.unmount();
}

#[test]
fn an_archived_thread_keeps_its_number_and_its_links_follow() {
    if !can_mount() {
        return;
    }
    let (home, mount) = watched();
    let name = format!("rollout-2026-02-08T09-00-03-{}.jsonl", thread_id(3));
    let (active, archived) = (format!("{DAY}/{name}"), format!("archived_sessions/{name}"));
    let dated = format!("archived/2026/02/08/{name}");
    let by_id = format!("by-id/{}.jsonl", thread_id(3));
    let number = inode(&mount.path(&active));
    let bytes = fs::read(mount.path(&active)).unwrap();
    for (from, to) in [(&active, &archived), (&archived, &active)] {
        fs::rename(home.path().join(from), home.path().join(to)).unwrap();
        seen("a moved thread, at its new place", || exists(&mount.path(to)));
        seen("a moved thread, not at its old place", || !exists(&mount.path(from)));
        seen("a moved thread's link follows", || leads_to(&mount, &by_id).as_deref() == Some(Path::new(to)));
        assert_eq!(inode(&mount.path(to)), number);
        assert_eq!(fs::read(mount.path(&by_id)).unwrap(), bytes);
        let is_archived = to == &archived;
        seen("archived by day", || exists(&mount.path(&dated)) == is_archived);
        seen("a moved thread, in threads.jsonl", || {
            line_of(&mount, 3)
                .is_some_and(|line| line["archived"] == is_archived && line["path"] == to.as_str())
        });
    }
    mount.unmount();
}

#[test]
fn a_thread_that_is_compressed_stays_the_same_file() {
    if !can_mount() {
        return;
    }
    let (home, mount) = watched();
    let path = format!("{DAY}/rollout-2026-02-08T09-00-04-{}.jsonl", thread_id(4));
    let plain = home.path().join(&path);
    let compressed = home.path().join(format!("{path}.zst"));
    let (bytes, number) = (fs::read(&plain).unwrap(), inode(&mount.path(&path)));
    // As Codex does: a temporary, a rename, then the plain file goes; and back.
    let temporary = home.path().join(format!("{DAY}/rollout-compress-aB3x9Z.tmp"));
    fs::write(&temporary, zstd::encode_all(bytes.as_slice(), 3).unwrap()).unwrap();
    fs::rename(&temporary, &compressed).unwrap();
    fs::remove_file(&plain).unwrap();
    let same = |what: &str| {
        assert_eq!(inode(&mount.path(&path)), number, "{what}");
        assert_eq!(fs::metadata(mount.path(&path)).unwrap().len(), bytes.len() as u64, "{what}");
        assert!(fs::read(mount.path(&path)).unwrap() == bytes, "{what}: other bytes");
    };
    same("at once");
    seen("compressed, in threads.jsonl", || {
        line_of(&mount, 4).is_some_and(|line| line["compressed"] == true)
    });
    same("compressed");
    assert!(!exists(&mount.path(format!("{path}.zst"))));
    fs::write(&plain, &bytes).unwrap();
    fs::remove_file(&compressed).unwrap();
    same("plain at once");
    seen("plain, in threads.jsonl", || line_of(&mount, 4).is_some_and(|line| line["compressed"] == false));
    same("plain");
    mount.unmount();
}

#[test]
fn an_open_threads_jsonl_is_one_whole_version_while_threads_come_and_go() {
    if !can_mount() {
        return;
    }
    let (home, mount) = watched();
    let path = mount.path("threads.jsonl");
    let mut early = File::open(&path).unwrap();
    let mut text = vec![0; 100];
    early.read_exact(&mut text).unwrap();
    let size = early.metadata().unwrap().len();

    let over = AtomicBool::new(false);
    let versions = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut versions = std::collections::BTreeSet::new();
            while !over.load(Ordering::Relaxed) {
                let file = File::open(&path).unwrap();
                versions.insert(file.metadata().unwrap().ino());
                whole_lines(file, 512);
            }
            versions.len()
        });
        let began = Instant::now();
        for number in 100..130 {
            home.thread(&format!("2026-02-08T09-01-{:02}", number - 100), number, "/srv/demo", "a question");
            wait_for("a new thread has its line", SEEN_WITHIN, || line_of(&mount, number).is_some());
        }
        println!("30 new threads one after the other: {:?}", began.elapsed());
        over.store(true, Ordering::Relaxed);
        reader.join().unwrap()
    });
    println!("{versions} versions were read");
    assert!(versions > 1, "the reader saw one version only");
    // Opened before all that: still the version it was.
    early.read_to_end(&mut text).unwrap();
    assert_eq!(text.len() as u64, size);
    let lines = text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let lines: Vec<Value> = lines.map(|line| serde_json::from_slice(line).unwrap()).collect();
    assert_eq!(lines.len(), 20);
    assert_eq!(thread_lines(mount.at()).len(), 50);
    drop(early);
    mount.unmount();
}

#[test]
fn a_status_is_whole_whenever_it_is_read() {
    if !can_mount() {
        return;
    }
    let (home, mount) = watched();
    let status = mount.path(".rolloutfs/status.json");
    // Long enough that it is made anew a few times.
    let end = Instant::now() + Duration::from_millis(1800);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while Instant::now() < end {
                    let text = fs::read(&status).unwrap();
                    serde_json::from_slice::<Value>(&text)
                        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&text)));
                }
            });
        }
        // Its numbers grow meanwhile.
        for number in 200..220 {
            home.thread(STAMP, number, "/srv/demo", "a question");
            let _ = fs::read(mount.path("threads.jsonl")).unwrap();
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    mount.unmount();
}

/// Reads a file in small pieces: each of its lines must parse.
fn whole_lines(mut file: File, piece_bytes: usize) {
    let (mut text, mut piece) = (Vec::new(), vec![0; piece_bytes]);
    let size = file.metadata().unwrap().len();
    loop {
        let length = file.read(&mut piece).unwrap();
        if length == 0 {
            break;
        }
        text.extend_from_slice(&piece[..length]);
    }
    assert_eq!(text.len() as u64, size, "the size is not that of the bytes");
    for line in text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        serde_json::from_slice::<Value>(line)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(line)));
    }
}
