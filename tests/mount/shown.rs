//! Who sees what? Views chosen and shown as files, owners and modes, other users, and no writes at all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{TestHome, files_below, thread_id, thread_text};
use crate::harness::{
    Mounted, NOBODY, as_user, can_be_root, can_mount, can_mount_with, names_in, open_folder, run,
    sorted_lines, text_of,
};
use crate::reference::{Reference, readable_home, rollout_of};

/// What no option hides.
const ALWAYS: [&str; 6] =
    ["README.md", "archived_sessions", "latest", "session_index.jsonl", "sessions", "threads.jsonl"];

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

#[test]
fn only_the_views_asked_for_are_shown() {
    if !can_mount() {
        return;
    }
    let home = readable_home(60, 41);
    let all = Mounted::new(&home.path(), &home.beside("all"), &[]);
    let every_view = names_in(all.at());
    for view in
        ["by-id", "by-name", "by-cwd", "by-repo", "by-branch", "by-source", "by-model", "by-parent", "health"]
    {
        assert!(every_view.iter().any(|name| name == view), "{view}");
    }
    all.unmount();
    for words in [["--views", "by-id,health"], ["-o", "views=by-id:health"]] {
        let mount = Mounted::new(&home.path(), &home.beside("some"), &words);
        let expected = sorted(
            [&ALWAYS[..], &["by-id", "health"]].concat().iter().map(|name| (*name).to_owned()).collect(),
        );
        assert_eq!(sorted(names_in(mount.at())), expected, "{words:?}");
        assert!(fs::symlink_metadata(mount.path("by-name")).is_err(), "{words:?}");
        let readme = fs::read_to_string(mount.path("README.md")).unwrap();
        assert!(readme.contains("`by-id/`") && !readme.contains("`by-model/`"), "{readme}");
        mount.unmount();
    }
    let output = run(&mut crate::harness::mount_command(
        &home.path(),
        &home.beside("none"),
        &["-f", "--views", "by-sun"],
    ));
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("by-sun") && text.contains("by-cwd"), "{text}");
}

#[test]
fn views_as_files_are_the_same_files_at_several_places() {
    if !can_mount_with(&["tar", "rsync", "rg"]) {
        return;
    }
    let home = readable_home(200, 42);
    let id = thread_id(7);
    let line = "{\"timestamp\":\"2026-02-08T10:00:01Z\",\"type\":\"event_msg\",\"payload\":{\"type\":\"agent_message\",\"message\":\"xylograph\"}}\n";
    let path = format!("sessions/2026/02/08/rollout-2026-02-08T10-00-00-{id}.jsonl");
    home.write(&path, thread_text(&id, "/srv/demo", "a question") + line);
    let mount = Mounted::new(&home.path(), &home.beside("mnt"), &["--views-as=files"]);
    assert_eq!(text_of(Command::new("find").arg(mount.at()).args(["-type", "l"])), "", "no links");

    let mut places: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
    for below in files_below(mount.at()) {
        places.entry(fs::metadata(mount.path(&below)).unwrap().ino()).or_default().push(below);
    }
    for (number, paths) in &places {
        for path in paths {
            let nlink = fs::metadata(mount.path(path)).unwrap().nlink();
            assert_eq!(nlink, paths.len() as u64, "{number:#x}: {paths:?}");
        }
        let homes =
            paths.iter().filter(|path| path.starts_with("sessions") || path.starts_with("archived_sessions"));
        assert!(paths.len() == 1 || homes.count() == 1, "{paths:?}");
    }
    let of_thread = &places[&fs::metadata(mount.path(&path)).unwrap().ino()];
    for place in [
        PathBuf::from(format!("by-id/{id}.jsonl")),
        Path::new("by-cwd/srv/demo").join(Path::new(&path).file_name().unwrap()),
    ] {
        assert!(of_thread.contains(&place), "{of_thread:?}");
    }

    let hits = text_of(Command::new("rg").args(["-l", "xylograph", "."]).current_dir(mount.at()));
    assert_eq!(hits.trim(), format!("./{path}"), "the views are hidden from rg");
    let hits = text_of(Command::new("rg").args(["-l", "xylograph", "by-id"]).current_dir(mount.at()));
    assert_eq!(hits.trim(), format!("by-id/{id}.jsonl"), "a view that is named is searched");

    let (tar, rsync) = (home.beside("tar"), home.beside("rsync"));
    fs::create_dir_all(&tar).unwrap();
    text_of(Command::new("sh").args(["-c", "tar cf - by-id | tar xf - -C ../tar"]).current_dir(mount.at()));
    text_of(Command::new("rsync").args(["-rt", "by-id", "../rsync/"]).current_dir(mount.at()));
    let reference = Reference::of(&home.path());
    for rollout in reference.rollouts() {
        let id = rollout_of(rollout).unwrap().thread_id();
        let shown = fs::read(mount.path(format!("by-id/{id}.jsonl"))).unwrap();
        for copy in [&tar, &rsync] {
            let copied = fs::read(copy.join(format!("by-id/{id}.jsonl"))).unwrap();
            assert!(copied == shown, "{id} in {}", copy.display());
        }
    }
    assert!(fs::read(rsync.join(format!("by-id/{id}.jsonl"))).unwrap().ends_with(line.as_bytes()));
    mount.unmount();
}

#[test]
fn owners_and_modes_are_those_of_the_disk_unless_told() {
    if !can_mount() {
        return;
    }
    let home = TestHome::empty();
    let path = home.thread("2026-02-08T10-00-00", 1, "/srv/demo", "a question");
    fs::set_permissions(home.path().join(&path), Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(home.path(), Permissions::from_mode(0o750)).unwrap();
    let of = |mount: &Mounted, path: &str| {
        let metadata = fs::symlink_metadata(mount.path(path)).unwrap();
        (metadata.mode() & 0o7777, metadata.uid(), metadata.gid())
    };
    let disk = fs::metadata(home.path().join(&path)).unwrap();
    let own = (disk.uid(), disk.gid());
    let mount = Mounted::new(&home.path(), &home.beside("mnt"), &[]);
    assert_eq!(of(&mount, &path), (0o644, own.0, own.1));
    assert_eq!(of(&mount, "README.md"), (0o440, own.0, own.1));
    assert_eq!(of(&mount, "by-id"), (0o550, own.0, own.1));
    mount.unmount();
    for words in
        [&["--uid", "1234", "--gid", "5678", "--umask", "077"][..], &["-o", "ro,uid=1234,gid=5678,umask=077"]]
    {
        let mount = Mounted::new(&home.path(), &home.beside("mnt"), words);
        assert_eq!(of(&mount, &path), (0o600, 1234, 5678), "{words:?}");
        assert_eq!(of(&mount, "README.md"), (0o400, 1234, 5678), "{words:?}");
        assert_eq!(of(&mount, "by-id"), (0o500, 1234, 5678), "{words:?}");
        assert_eq!(of(&mount, "latest"), (0o777, 1234, 5678), "{words:?}");
        mount.unmount();
    }
}

#[test]
fn another_user_is_let_in_as_far_as_the_home_lets_them() {
    if !can_mount() || !can_be_root() {
        return;
    }
    for (home_mode, words, list, read) in [
        (0o755, &["--allow-other"][..], true, true),
        (0o755, &["-o", "ro,allow_other"], true, true),
        (0o755, &["--allow-other", "--umask", "077"], false, false),
        (0o700, &["--allow-other"], false, false),
        (0o755, &[], false, false),
    ] {
        let home = TestHome::empty();
        let path = home.thread("2026-02-08T10-00-00", 1, "/srv/demo", "a question");
        open_folder(home.path().parent().unwrap());
        fs::set_permissions(home.path(), Permissions::from_mode(home_mode)).unwrap();
        let mount = Mounted::new(&home.path(), &home.beside("mnt"), words);
        let listed = run(as_user(NOBODY, "ls").arg(mount.at())).status.success();
        let got = run(as_user(NOBODY, "cat").arg(mount.path(&path))).status.success();
        assert_eq!((listed, got), (list, read), "{home_mode:o} {words:?}");
        assert!(fs::read_dir(mount.at()).is_ok() && fs::read(mount.path(&path)).is_ok(), "root");
        mount.unmount();
    }
}

#[test]
fn every_write_is_refused_as_on_a_read_only_disk() {
    if !can_mount() {
        return;
    }
    let home = readable_home(60, 43);
    let thread = home.thread("2026-02-08T10-00-00", 1, "/srv/demo", "a question");
    let mount = Mounted::new(&home.path(), &home.beside("mnt"), &["--read-only"]);
    let before = (
        mount.find(),
        sorted_lines(&text_of(Command::new("find").arg(home.path().join("sessions")).arg("-ls"))),
    );
    let at = |path: &str| mount.path(path);
    let file = at(&thread);
    let append = |path: &Path| {
        OpenOptions::new().append(true).open(path).and_then(|mut file| file.write_all(b"{}\n")).unwrap_err()
    };
    let named = at("by-name").join(&names_in(&at("by-name"))[0]);
    let tries = [
        ("create", fs::write(at("sessions/2026/02/08/new.jsonl"), "x").unwrap_err()),
        ("create in a view", fs::write(at("by-name/new.jsonl"), "x").unwrap_err()),
        ("create at the root", fs::write(at("new"), "x").unwrap_err()),
        ("mkdir", fs::create_dir(at("sessions/2027")).unwrap_err()),
        ("rm", fs::remove_file(&file).unwrap_err()),
        ("rm a link", fs::remove_file(&named).unwrap_err()),
        ("rmdir", fs::remove_dir(at("sessions/2026/02/08")).unwrap_err()),
        ("mv", fs::rename(&file, at("archived_sessions/x.jsonl")).unwrap_err()),
        ("mv a name", fs::rename(&named, at("by-name/other.jsonl")).unwrap_err()),
        ("ln -s", symlink("../x", at("by-name/x.jsonl")).unwrap_err()),
        ("ln", fs::hard_link(&file, at("sessions/x.jsonl")).unwrap_err()),
        ("chmod", fs::set_permissions(&file, Permissions::from_mode(0o777)).unwrap_err()),
        ("truncate", OpenOptions::new().write(true).truncate(true).open(&file).unwrap_err()),
        ("append", append(&file)),
        ("append to names", append(&at("session_index.jsonl"))),
        ("write the read-me", append(&at("README.md"))),
        ("write the lines", append(&at("threads.jsonl"))),
    ];
    for (what, error) in tries {
        assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{what}: {error}");
    }
    for line in [
        "touch README.md",
        "touch \"$F\"",
        "touch new",
        "echo x >> \"$F\"",
        "truncate -s 0 \"$F\"",
        "mkdir by-id/x",
        "chown 1:1 \"$F\"",
    ] {
        let output = run(Command::new("sh")
            .args(["-c", line])
            .env("F", &thread)
            .env("LC_ALL", "C")
            .current_dir(mount.at()));
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains("Read-only file system"), "{line}: {text}");
    }
    let after = (
        mount.find(),
        sorted_lines(&text_of(Command::new("find").arg(home.path().join("sessions")).arg("-ls"))),
    );
    assert!(before == after, "something changed");
    let distinct: BTreeSet<_> = after.0.iter().collect();
    assert_eq!(distinct.len(), after.0.len());
    mount.unmount();
}
