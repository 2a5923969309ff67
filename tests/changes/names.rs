//! Names of threads, given and taken in `by-name` and by the names file. Every view agrees when the call returns.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::mount::{Mount, can_mount, errno, names};
use super::{active, archived, id, name, with_threads};

/// The end of a thread's id, with which `by-name` tells threads of one name apart.
fn last8(number: u64) -> String {
    let id = id(number).replace('-', "");
    id[id.len() - 8..].to_owned()
}

/// Asserts that `by-name` has these links and no others, by listing and by lookup, and that `threads.jsonl` has the
/// names. At once.
fn assert_names(mount: &Mount, expected: &[(&str, u64)], absent: &[&str]) {
    let mut wanted: Vec<_> = expected.iter().map(|(name, _)| format!("{name}.jsonl")).collect();
    wanted.sort();
    assert_eq!(names(&mount.path("by-name")), wanted);
    for (name, number) in expected {
        let target = fs::read_link(mount.path(&format!("by-name/{name}.jsonl"))).unwrap();
        assert!(target.to_str().unwrap().contains(&id(*number)), "{name} -> {}", target.display());
        let line = format!("by-name/{name}.jsonl");
        assert!(fs::read_to_string(mount.path(&line)).unwrap().contains(&id(*number)), "{line}");
    }
    for name in absent {
        let gone = fs::symlink_metadata(mount.path(&format!("by-name/{name}.jsonl")));
        assert_eq!(errno(gone), Some(libc::ENOENT), "{name}");
    }
    let text = fs::read_to_string(mount.path("threads.jsonl")).unwrap();
    for (name, number) in expected {
        let line = text.lines().find(|line| line.contains(&id(*number))).unwrap();
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let bare = name.split_once('~').map_or(*name, |(bare, _)| bare);
        assert_eq!(line["name"], bare, "{line}");
    }
}

fn named(number: u64, name: &str) -> String {
    format!(
        "{{\"id\":\"{}\",\"thread_name\":\"{name}\",\"updated_at\":\"2026-02-08T10:00:00Z\"}}\n",
        id(number)
    )
}

#[test]
fn names_are_given_moved_and_dropped() {
    if !can_mount() {
        return;
    }
    let mount = Mount::of(|home| with_threads(home, 1..=3), &[]);
    let by_name = |name: &str| mount.path(&format!("by-name/{name}.jsonl"));
    let index = || fs::read_to_string(mount.home().join("session_index.jsonl")).unwrap();
    // Asked for before, so that the kernel knows that they are not there.
    for name in ["a", "b", &format!("b~{}", last8(2))] {
        assert!(fs::symlink_metadata(by_name(name)).is_err());
    }
    assert_names(&mount, &[], &[]);
    symlink(format!("../{}", active(1)), by_name("a")).unwrap();
    assert_names(&mount, &[("a", 1)], &["b"]);
    symlink(format!("../by-id/{}.jsonl", id(2)), by_name("b")).unwrap();
    assert_names(&mount, &[("a", 1), ("b", 2)], &[]);
    fs::rename(by_name("a"), by_name("b")).unwrap();
    let second = format!("b~{}", last8(2));
    assert_names(&mount, &[("b", 1), (&second, 2)], &["a"]);
    fs::remove_file(by_name("b")).unwrap();
    assert_names(&mount, &[("b", 2)], &["a"]);
    // An absolute link, a name with characters that are encoded, a name of another case.
    symlink(mount.path(&active(3)), by_name("B")).unwrap();
    assert_names(&mount, &[("B", 3), (&second, 2)], &[]);
    fs::rename(by_name("B"), by_name("fix%3A auth%2Flogin (v2)")).unwrap();
    let line = index().lines().last().unwrap().to_owned();
    assert!(line.contains("\"thread_name\":\"fix: auth/login (v2)\""), "{line}");
    let text = fs::read_to_string(mount.path("threads.jsonl")).unwrap();
    assert!(text.contains("\"fix: auth/login (v2)\""));
    assert!(names(&mount.path("by-name")).contains(&"b.jsonl".to_owned()));
    mount.ok(&format!(
        "ln -sf ../{} by-name/forced.jsonl && ln -sf ../{} by-name/forced.jsonl",
        active(1),
        active(2)
    ));
    let first = format!("forced~{}", last8(1));
    let third = "fix%3A auth%2Flogin (v2)";
    let target = fs::read_link(by_name(third)).unwrap();
    assert!(target.to_str().unwrap().contains(&id(3)));
    assert_eq!(names(&mount.path("by-name")).len(), 3);
    for (name, number) in [("forced", 2), (first.as_str(), 1)] {
        assert!(fs::read_link(by_name(name)).unwrap().to_str().unwrap().contains(&id(number)));
    }
}

#[test]
fn a_dropped_name_leaves_all_other_lines() {
    if !can_mount() {
        return;
    }
    let lines = ["not json\n", "\r\n", "{\"id\":\"half\n"].concat();
    let mount = Mount::of(
        |home| {
            with_threads(home, 1..=2);
            let text = named(1, "x") + &lines + &named(2, "y") + &named(1, "z");
            fs::write(home.join("session_index.jsonl"), text).unwrap();
        },
        &[],
    );
    assert_names(&mount, &[("z", 1), ("y", 2)], &["x"]);
    fs::remove_file(mount.path("by-name/z.jsonl")).unwrap();
    assert_names(&mount, &[("y", 2)], &["x", "z"]);
    let expected = lines + &named(2, "y");
    assert_eq!(fs::read_to_string(mount.home().join("session_index.jsonl")).unwrap(), expected);
    assert_eq!(fs::read_to_string(mount.path("session_index.jsonl")).unwrap(), expected);
    // What was dropped is kept, as lines that give the names again.
    fs::remove_file(mount.path("by-name/y.jsonl")).unwrap();
    assert_names(&mount, &[], &["x", "y", "z"]);
    mount.ok("cat $H/.rolloutfs/trash/session_index.jsonl >> session_index.jsonl");
    assert_names(&mount, &[("z", 1), ("y", 2)], &["x"]);
    let mut empty = std::process::Command::new(env!("CARGO_BIN_EXE_rolloutfs"));
    let emptied = empty.args(["trash", "empty", "--all", "--home"]).arg(mount.home()).output().unwrap();
    assert!(emptied.status.success(), "{emptied:?}");
    assert!(!mount.home().join(".rolloutfs/trash/session_index.jsonl").exists());
}

#[test]
fn the_names_file_is_appended_to_and_replaced() {
    if !can_mount() {
        return;
    }
    let mount = Mount::of(|home| with_threads(home, 1..=3), &[]);
    let path = mount.path("session_index.jsonl");
    assert!(!path.exists());
    let mut file = OpenOptions::new().append(true).create(true).open(&path).unwrap();
    file.write_all(named(1, "one").as_bytes()).unwrap();
    assert_names(&mount, &[("one", 1)], &[]);
    let whole = named(2, "two");
    let (half, rest) = whole.split_at(30);
    file.write_all(half.as_bytes()).unwrap();
    assert_names(&mount, &[("one", 1)], &["two"]);
    file.write_all(rest.as_bytes()).unwrap();
    assert_names(&mount, &[("one", 1), ("two", 2)], &[]);
    assert_eq!(fs::read_to_string(&path).unwrap(), named(1, "one") + &whole);
    for temporary in ["session_index.jsonl.tmp", "session-index-XhG81a"] {
        let number = 3;
        fs::write(mount.path(temporary), named(number, temporary)).unwrap();
        assert!(names(&mount.path("")).contains(&temporary.to_owned()));
        assert!(!mount.home().join(temporary).exists());
        fs::rename(mount.path(temporary), &path).unwrap();
        assert_names(&mount, &[(temporary, 3)], &["one", "two"]);
        assert_eq!(fs::read_to_string(&path).unwrap(), named(3, temporary));
        assert_eq!(
            fs::read_to_string(mount.home().join("session_index.jsonl")).unwrap(),
            named(3, temporary)
        );
        assert!(!mount.path(temporary).exists());
        assert!(!names(&mount.path("")).contains(&temporary.to_owned()));
    }
    // Overwriting and cutting it is refused.
    assert_eq!(errno(fs::write(&path, "x")), Some(libc::EPERM));
    let mut open = OpenOptions::new().write(true).open(&path).unwrap();
    assert_eq!(errno(open.write(b"x")), Some(libc::EPERM));
    assert_eq!(fs::read_to_string(&path).unwrap(), named(3, "session-index-XhG81a"));
}

#[test]
fn every_view_follows_a_call_at_once() {
    if !can_mount() {
        return;
    }
    let mount = Mount::of(
        |home| {
            with_threads(home, 1..=3);
            fs::write(home.join("session_index.jsonl"), named(2, "two")).unwrap();
        },
        &[],
    );
    let dated = format!("archived/2026/02/08/{}", name(2));
    let by_cwd = format!("by-cwd/src/app/{}", name(2));
    let links = ["by-name/two.jsonl".to_owned(), format!("by-id/{}.jsonl", id(2)), by_cwd];
    // All is known to the kernel.
    let warm = || mount.ok("find . -printf '%p %y %i %s %l\\n' > /dev/null");
    for round in 0..20 {
        warm();
        assert!(!mount.path(&dated).exists(), "{round}");
        assert!(!mount.path(&archived(2)).exists(), "{round}");
        fs::rename(mount.path(&active(2)), mount.path(&archived(2))).unwrap();
        assert!(mount.path(&dated).exists(), "{round}");
        assert_eq!(fs::read_link(mount.path(&dated)).unwrap(), Path::new("../../../..").join(archived(2)));
        for link in &links {
            let target = fs::read_link(mount.path(link)).unwrap();
            assert!(
                target.to_str().unwrap().ends_with(&archived(2)),
                "{round}: {link} -> {}",
                target.display()
            );
            assert!(mount.path(link).exists(), "{round}");
        }
        assert!(names(&mount.path("archived/2026/02/08")).contains(&name(2)));
        assert!(!names(&mount.path(super::DAY)).contains(&name(2)));
        let text = fs::read_to_string(mount.path("threads.jsonl")).unwrap();
        assert_eq!(text.matches("\"archived\":true").count(), 1, "{text}");
        warm();
        fs::rename(mount.path(&archived(2)), mount.path(&active(2))).unwrap();
        assert!(!mount.path(&dated).exists());
        assert!(!mount.path("archived/2026").exists());
        for link in &links {
            let target = fs::read_link(mount.path(link)).unwrap();
            assert!(
                target.to_str().unwrap().ends_with(&active(2)),
                "{round}: {link} -> {}",
                target.display()
            );
        }
        let text = fs::read_to_string(mount.path("threads.jsonl")).unwrap();
        assert_eq!(text.matches("\"archived\":true").count(), 0);
    }
    warm();
    // A new thread is the latest, has its folder, and goes again.
    let text = super::thread(9).replace("/src/app", "/else/where");
    fs::write(mount.path(&active(9)), text).unwrap();
    assert_eq!(fs::read_link(mount.path("latest")).unwrap(), Path::new(&active(9)));
    assert!(mount.path(&format!("by-cwd/else/where/{}", name(9))).exists());
    warm();
    fs::remove_file(mount.path(&active(9))).unwrap();
    assert_ne!(fs::read_link(mount.path("latest")).unwrap(), Path::new(&active(9)));
    assert!(!mount.path("by-cwd/else").exists());
    assert!(!names(&mount.path("by-cwd")).contains(&"else".to_owned()));
    assert!(!mount.path(&format!("by-id/{}.jsonl", id(9))).exists());
}

#[test]
fn the_homes_own_files_are_not_shown_by_a_change_in_the_root() {
    if !can_mount() {
        return;
    }
    let mut mount = Mount::of(
        |home| {
            with_threads(home, [1]);
            fs::create_dir(home.join("skills")).unwrap();
            fs::write(home.join("auth.json"), "secret").unwrap();
        },
        &[],
    );
    let before = names(&mount.path(""));
    fs::write(mount.path("x.tmp"), "x").unwrap();
    fs::write(mount.path("auth.json"), "mine").unwrap();
    assert_eq!(fs::read_to_string(mount.path("auth.json")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(mount.home().join("auth.json")).unwrap(), "secret");
    let mut with = [before.clone(), vec!["auth.json".into(), "x.tmp".into()]].concat();
    with.sort();
    assert_eq!(names(&mount.path("")), with);
    mount.unmount();
    mount.start(&[]);
    assert_eq!(names(&mount.path("")), with, "scratch files are there again");
    assert_eq!(fs::read_to_string(mount.path("x.tmp")).unwrap(), "x");
    fs::remove_file(mount.path("x.tmp")).unwrap();
    fs::remove_file(mount.path("auth.json")).unwrap();
    assert_eq!(names(&mount.path("")), before);
    assert_eq!(fs::read_to_string(mount.home().join("auth.json")).unwrap(), "secret");
}

/// Many calls at a time, in the same folders: each finds what it changed, at once, and none waits for another's wait.
#[test]
fn calls_that_change_the_same_folders_at_a_time_are_seen_at_once() {
    if !can_mount() {
        return;
    }
    const WRITERS: u64 = 4;
    const ROUNDS: u64 = 15;
    let mount = Mount::of(|home| with_threads(home, 1..=WRITERS), &[]);
    std::thread::scope(|scope| {
        for number in 1..=WRITERS {
            let mount = &mount;
            scope.spawn(move || {
                let by_id = mount.path(&format!("by-id/{}.jsonl", id(number)));
                let dated = mount.path(&format!("archived/2026/02/08/{}", name(number)));
                symlink(format!("../{}", active(number)), mount.path(&format!("by-name/t{number}-0.jsonl")))
                    .unwrap();
                for round in 1..=ROUNDS {
                    fs::rename(mount.path(&active(number)), mount.path(&archived(number))).unwrap();
                    assert!(fs::read_link(&by_id).unwrap().ends_with(archived(number)), "{number} {round}");
                    assert!(dated.exists(), "{number} {round}");
                    assert!(names(&mount.path("archived_sessions")).contains(&name(number)));
                    let (old, new) =
                        (format!("t{number}-{}.jsonl", round - 1), format!("t{number}-{round}.jsonl"));
                    fs::rename(mount.path("by-name").join(&old), mount.path("by-name").join(&new)).unwrap();
                    let target = fs::read_link(mount.path("by-name").join(&new)).unwrap();
                    assert!(target.ends_with(archived(number)), "{number} {round}");
                    assert!(!names(&mount.path("by-name")).contains(&old), "{number} {round}");
                    let text = fs::read_to_string(mount.path("threads.jsonl")).unwrap();
                    assert!(text.contains(&format!("\"t{number}-{round}\"")), "{number} {round}");
                    fs::rename(mount.path(&archived(number)), mount.path(&active(number))).unwrap();
                    assert!(fs::read_link(&by_id).unwrap().ends_with(active(number)), "{number} {round}");
                    assert!(fs::symlink_metadata(&dated).is_err(), "{number} {round}");
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..10 {
                mount.ok("find . -printf '%p %i %s %l\\n' > $M/../listing 2>&1 || true");
            }
        });
    });
    let early = mount.log().matches("answered before the kernel is told").count();
    if early > 0 {
        println!("{early} calls were answered early");
    }
    assert_eq!(names(&mount.path("by-name")).len() as u64, WRITERS);
}

#[test]
fn a_thread_is_named_by_a_link_where_views_are_files_too() {
    if !can_mount() {
        return;
    }
    let mount = Mount::of(|home| with_threads(home, 1..=2), &["--views-as=files"]);
    for (number, given) in [(1, "a"), (2, "b"), (2, "c")] {
        let at = mount.path(&format!("by-name/{given}.jsonl"));
        mount.ok(&format!("ln -s ../{} by-name/{given}.jsonl", active(number)));
        // The thread itself, at once.
        let found = fs::symlink_metadata(&at).unwrap();
        assert!(found.is_file(), "{given}: {found:?}");
        assert_eq!(fs::read_to_string(&at).unwrap(), super::thread(number));
        assert!(names(&mount.path("by-name")).contains(&format!("{given}.jsonl")));
    }
    assert_eq!(names(&mount.path("by-name")), ["a.jsonl", "c.jsonl"]);
    let there = symlink(format!("../{}", active(1)), mount.path("by-name/c.jsonl"));
    assert_eq!(errno(there), Some(libc::EEXIST));
}
