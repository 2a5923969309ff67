//! Does the tree hold what the disk holds, once, and nothing else?

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rolloutfs::cli::sample_home::{HOME_SECRET, URL_SECRET};

use crate::common::{files_below, thread_id, thread_text};
use crate::harness::{
    Mounted, assert_same_lines, can_mount, can_mount_with, is_root, read_json, rerun_as_nobody, run, skipped,
    sorted_lines, text_of, thread_lines,
};
use crate::reference::{ROOTS, Reference, dirs_below, readable_home, rich_home, rollout_of};

const THREADS: u64 = 300;

/// Everything below a folder.
#[derive(Default)]
struct Tree {
    files: Vec<PathBuf>,
    links: BTreeMap<PathBuf, PathBuf>,
    names: BTreeSet<Vec<u8>>,
}

fn tree_of(root: &Path) -> Tree {
    let mut tree = Tree::default();
    for dir in dirs_below(root) {
        for entry in fs::read_dir(root.join(&dir)).unwrap().map(Result::unwrap) {
            let path = dir.join(entry.file_name());
            tree.names.insert(entry.file_name().as_bytes().to_vec());
            let kind = entry.file_type().unwrap();
            if kind.is_file() {
                tree.files.push(path);
            } else if kind.is_symlink() {
                let target = fs::read_link(entry.path()).unwrap();
                tree.links.insert(path, target);
            }
        }
    }
    tree.files.sort();
    tree
}

fn texts(paths: &[PathBuf]) -> Vec<String> {
    paths.iter().map(|path| path.display().to_string()).collect()
}

fn contains(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|window| window == part.as_bytes())
}

#[test]
fn every_byte_name_and_line_is_that_of_the_disk() {
    if !can_mount() {
        return;
    }
    let home = rich_home(THREADS, 11);
    let mount = Mounted::new(&home.path(), &home.beside("mnt"), &[]);
    let reference = Reference::of(&home.path());
    let tree = tree_of(mount.at());
    check_files(&reference, &mount, &home.path());
    check_links(&reference, &mount, &tree);
    check_names(&reference, &mount, &home.path());
    check_lines(&reference, &mount);
    check_secrets(&mount, &tree);
    mount.unmount();
}

#[test]
fn every_byte_name_and_line_is_that_of_the_disk_for_an_ordinary_user() {
    if !can_mount() {
        return;
    }
    match is_root() {
        true => rerun_as_nobody("contents::every_byte_name_and_line_is_that_of_the_disk"),
        false => skipped("not root: the other tests run as an ordinary user already"),
    }
}

/// Each file with its bytes, length and time; each folder.
fn check_files(reference: &Reference, mount: &Mounted, home: &Path) {
    for root in ROOTS {
        assert_same_lines(
            &texts(&dirs_below(&mount.path(root))),
            &texts(&dirs_below(&home.join(root))),
            root,
        );
        let shown: Vec<_> =
            files_below(&mount.path(root)).iter().map(|file| Path::new(root).join(file)).collect();
        let expected: Vec<_> =
            reference.files.keys().filter(|path| path.starts_with(root)).cloned().collect();
        assert_same_lines(&texts(&shown), &texts(&expected), root);
    }
    assert_eq!(reference.unreadable().len(), 1, "the sample has one broken file");
    for (path, bytes) in &reference.files {
        let shown = mount.path(path);
        let metadata = fs::metadata(&shown).unwrap();
        let mtime_ns = metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec();
        assert_eq!(mtime_ns, reference.mtimes_ns[path], "{}", path.display());
        match (bytes, fs::read(&shown)) {
            (Some(bytes), Ok(read)) => {
                assert_eq!(metadata.len(), bytes.len() as u64, "{}", path.display());
                assert!(&read == bytes, "{}: other bytes", path.display());
            }
            (None, read) => {
                assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::EIO), "{}", path.display())
            }
            (Some(_), Err(error)) => panic!("{}: {error}", path.display()),
        }
    }
    let names = "session_index.jsonl";
    assert_eq!(fs::read(mount.path(names)).unwrap(), fs::read(home.join(names)).unwrap());
}

/// No link leads nowhere; every file of the tree is there once; every thread is found by its id.
fn check_links(reference: &Reference, mount: &Mounted, tree: &Tree) {
    assert!(tree.links.len() > reference.files.len(), "{} links", tree.links.len());
    for (path, target) in &tree.links {
        assert!(target.is_relative(), "{}", path.display());
        let there =
            fs::canonicalize(mount.path(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let below = there.strip_prefix(mount.at()).unwrap_or_else(|_| panic!("{}", there.display()));
        assert!(reference.files.contains_key(below), "{} leads to {}", path.display(), below.display());
    }
    let threads: Vec<_> =
        tree.files.iter().filter(|path| ROOTS.iter().any(|root| path.starts_with(root))).collect();
    assert_eq!(threads.len(), reference.files.len());
    let rest: Vec<_> =
        tree.files.iter().filter(|path| !ROOTS.iter().any(|root| path.starts_with(root))).collect();
    for path in rest {
        let known =
            ["README.md", "threads.jsonl", "session_index.jsonl"].map(Path::new).contains(&path.as_path());
        assert!(known || path.starts_with("health/missing"), "{} is a file", path.display());
    }
    let ids: BTreeSet<_> = reference.rollouts().map(|path| rollout_of(path).unwrap().thread_id()).collect();
    assert_eq!(fs::read_dir(mount.path("by-id")).unwrap().count(), ids.len());
    for id in ids {
        let target = fs::canonicalize(mount.path(format!("by-id/{id}.jsonl"))).unwrap();
        assert_eq!(rollout_of(&target).unwrap().thread_id(), id);
    }
}

/// Every named thread is in `by-name`, or in `health/missing`.
fn check_names(reference: &Reference, mount: &Mounted, home: &Path) {
    let mut names = BTreeMap::new();
    for line in fs::read_to_string(home.join("session_index.jsonl")).unwrap().lines() {
        let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        if let (Some(id), Some(name)) = (line["id"].as_str(), line["thread_name"].as_str()) {
            names.insert(id.to_lowercase(), name.trim().to_owned());
        }
    }
    names.retain(|_, name| !name.is_empty());
    let by_name: BTreeSet<_> = fs::read_dir(mount.path("by-name"))
        .unwrap()
        .map(|entry| fs::canonicalize(entry.unwrap().path()).unwrap())
        .map(|target| rollout_of(&target).unwrap().thread_id().to_string())
        .collect();
    let all: BTreeSet<_> =
        reference.rollouts().map(|path| rollout_of(path).unwrap().thread_id().to_string()).collect();
    let named: BTreeSet<_> = names.keys().filter(|id| all.contains(*id)).cloned().collect();
    assert!(named.len() > 10, "{}", named.len());
    assert_eq!(by_name, named);
    let missing = names.keys().filter(|id| !all.contains(*id)).count();
    let shown = fs::read_dir(mount.path("health/missing")).map_or(0, Iterator::count);
    assert_eq!(shown, missing, "named threads without a rollout");
}

/// One line of `threads.jsonl` for each rollout, with its true length.
fn check_lines(reference: &Reference, mount: &Mounted) {
    let lines = thread_lines(mount.at());
    let paths: Vec<_> = lines.iter().map(|line| line["path"].as_str().unwrap().to_owned()).collect();
    let expected = reference.rollouts().map(|path| path.to_str().unwrap().to_owned());
    assert_same_lines(&sorted_lines(&paths.join("\n")), &expected.collect::<Vec<_>>(), "threads.jsonl");
    for line in &lines {
        let path = Path::new(line["path"].as_str().unwrap());
        if let Some(bytes) = &reference.files[path] {
            assert_eq!(line["bytes"], bytes.len(), "{line}");
            assert_eq!(line["archived"], path.starts_with("archived_sessions"), "{line}");
        }
    }
    let size = fs::metadata(mount.path("threads.jsonl")).unwrap().len();
    assert_eq!(fs::read(mount.path("threads.jsonl")).unwrap().len() as u64, size);
}

/// What is private in the home is nowhere; a password in an address is in no name and no line.
fn check_secrets(mount: &Mounted, tree: &Tree) {
    assert!(contains(&fs::read(mount.home().join("auth.json")).unwrap(), HOME_SECRET));
    for name in
        tree.names.iter().map(Vec::as_slice).chain(tree.links.values().map(|t| t.as_os_str().as_bytes()))
    {
        for secret in [HOME_SECRET, URL_SECRET] {
            assert!(!contains(name, secret), "{}", String::from_utf8_lossy(name));
        }
    }
    for path in &tree.files {
        let Ok(bytes) = fs::read(mount.path(path)) else { continue };
        assert!(!contains(&bytes, HOME_SECRET), "{}", path.display());
    }
    assert!(!contains(&fs::read(mount.path("threads.jsonl")).unwrap(), URL_SECRET));
    assert!(!contains(&fs::read(mount.path(".rolloutfs/status.json")).unwrap(), HOME_SECRET));
    for hidden in ["auth.json", "config.toml", "history.jsonl", "log", ".rolloutfs/index.sqlite"] {
        let found = fs::symlink_metadata(mount.path(hidden));
        assert_eq!(found.unwrap_err().kind(), std::io::ErrorKind::NotFound, "{hidden}");
    }
    assert!(read_json(&mount.path(".rolloutfs/status.json")).is_some());
}

/// Runs a shell line in a folder; its lines, sorted. `$OUT` is a new folder.
fn lines_of(dir: &Path, line: &str, out: &Path) -> Vec<String> {
    fs::create_dir_all(out).unwrap();
    sorted_lines(&text_of(Command::new("sh").args(["-c", line]).current_dir(dir).env("OUT", out)))
}

#[test]
fn tools_say_the_same_of_the_mount_and_of_a_decoded_copy() {
    if !can_mount_with(&["rg", "rsync", "tar"]) {
        return;
    }
    let home = readable_home(THREADS, 12);
    let reference = Reference::of(&home.path());
    let copy = home.beside("copy");
    reference.write(&home.path(), &copy);
    let mount = Mounted::new(&home.path(), &home.beside("mnt"), &[]);
    let roots = "sessions archived_sessions";
    for (number, line) in [
        format!("grep -rc needle {roots}"),
        format!("grep -rho '\"type\":\"[a-z_]*\"' {roots} | sort | uniq -c"),
        format!("rg -c needle {roots}"),
        format!("rg --no-ignore --hidden -a -c . {roots}"),
        format!("find {roots} -type f -printf '%p %s %T@\\n'"),
        format!("find {roots} -type d"),
        format!("find {roots} -type f -exec du -b {{}} +"),
        format!("find {roots} -type f -exec wc -c {{}} +"),
        format!("find {roots} -type f -exec cksum {{}} +"),
        format!("tar cf - {roots} | tar xf - -C $OUT && cd $OUT && find . -type f -exec cksum {{}} +"),
        format!("rsync -a {roots} $OUT/ && cd $OUT && find . -type f -printf '%p %s %T@\\n'"),
        format!("cp -r {roots} $OUT/ && cd $OUT && find . -type f -exec cksum {{}} +"),
    ]
    .iter()
    .enumerate()
    {
        let shown = lines_of(mount.at(), line, &home.beside(&format!("shown-{number}")));
        let expected = lines_of(&copy, line, &home.beside(&format!("expected-{number}")));
        assert!(!shown.is_empty(), "{line}");
        assert_same_lines(&shown, &expected, line);
    }
    for root in ROOTS {
        let diff = run(Command::new("diff")
            .args(["-r", "--no-dereference"])
            .arg(copy.join(root))
            .arg(mount.path(root)));
        assert!(diff.status.success(), "{}", String::from_utf8_lossy(&diff.stdout));
    }
    mount.unmount();
}

#[test]
fn a_word_that_stands_once_is_found_once_in_the_whole_mount() {
    if !can_mount_with(&["rg"]) {
        return;
    }
    let home = readable_home(60, 13);
    let id = thread_id(7);
    let path = format!("sessions/2026/02/08/rollout-2026-02-08T10-00-00-{id}.jsonl");
    let line = "{\"timestamp\":\"2026-02-08T10:00:01Z\",\"type\":\"event_msg\",\"payload\":{\"type\":\"agent_message\",\"message\":\"xylograph\"}}\n";
    home.write(&path, thread_text(&id, "/srv/demo", "a question") + line);
    let mount = Mounted::new(&home.path(), &home.beside("mnt"), &[]);
    for line in ["grep -r xylograph .", "rg xylograph .", "find . -type f -exec grep -H xylograph {} +"] {
        let output = run(Command::new("sh").args(["-c", line]).current_dir(mount.at()));
        let hits = sorted_lines(&String::from_utf8_lossy(&output.stdout));
        assert_eq!(hits.len(), 1, "{line}: {hits:?}");
        assert!(hits[0].contains(&path), "{line}: {hits:?}");
    }
    // The whole tree takes as much room as the files do.
    let roots: u64 =
        Reference::of(&home.path()).files.values().flatten().map(|bytes| bytes.len() as u64).sum();
    let made_up: u64 = ["README.md", "threads.jsonl", "session_index.jsonl"]
        .map(|name| fs::metadata(mount.path(name)).unwrap().len())
        .iter()
        .sum::<u64>()
        + files_below(&mount.path("health"))
            .iter()
            .map(|path| fs::metadata(mount.path("health").join(path)).unwrap().len())
            .sum::<u64>();
    let total = text_of(
        Command::new("sh")
            .args(["-c", "find . -type f -printf '%s\\n' | awk '{s += $1} END {print s}'"])
            .current_dir(mount.at()),
    );
    assert_eq!(total.trim().parse::<u64>().unwrap(), roots + made_up);
    mount.unmount();
}
