//! Which tree does a home make? A small fixed home with every oddity, and its whole tree as text.
//!
//! `UPDATE_GOLDEN=1 cargo test --test views_golden` writes the files below `tests/golden` anew; read the difference.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use common::{TestHome, thread_id};
use rolloutfs::fs::attr::NodeKind;
use rolloutfs::fs::{Fs, FsOptions, ViewsAs};
use rolloutfs::store::node::NodeNumber;

/// Writes a rollout of lines, with an mtime of that many minutes after a fixed time.
struct Maker<'h> {
    home: &'h TestHome,
    minute: u64,
}

impl Maker<'_> {
    fn file(&mut self, path: &str, content: impl AsRef<[u8]>) {
        let file = self.home.write(path, content);
        self.minute += 1;
        let modified = UNIX_EPOCH + Duration::from_secs(1_770_000_000 + 60 * self.minute);
        File::options().append(true).open(file).unwrap().set_modified(modified).unwrap();
    }

    fn rollout(&mut self, dir: &str, stamp: &str, ids: &str, lines: &[String]) {
        self.file(&format!("{dir}/rollout-{stamp}-{ids}.jsonl"), lines.concat());
    }
}

fn line(kind: &str, payload: &str) -> String {
    format!("{{\"timestamp\":\"2026-02-08T09:15:02.401Z\",\"type\":\"{kind}\",\"payload\":{payload}}}\n")
}

/// A header; `more` is put among its fields.
fn header(number: u64, cwd: &str, source: &str, more: &str) -> String {
    let (id, cwd) = (thread_id(number), serde_json::to_string(cwd).unwrap());
    line(
        "session_meta",
        &format!(
            "{{\"id\":\"{id}\",\"timestamp\":\"2026-02-08T09:15:01.002Z\",\"cwd\":{cwd},\"originator\":\"codex_cli_rs\",\
             \"cli_version\":\"0.99.0\",\"source\":{source}{more}}}"
        ),
    )
}

fn said(text: &str) -> String {
    line("event_msg", &format!("{{\"type\":\"user_message\",\"message\":\"{text}\",\"images\":null}}"))
}

fn turn(cwd: &str, model: &str) -> String {
    line(
        "turn_context",
        &format!(
            "{{\"cwd\":\"{cwd}\",\"model\":\"{model}\",\"approval_policy\":\"never\",\"summary\":\"auto\"}}"
        ),
    )
}

/// The fixed home.
fn made_home() -> TestHome {
    let home = TestHome::empty();
    let mut maker = Maker { home: &home, minute: 0 };
    plain_threads(&mut maker);
    odd_threads(&mut maker);
    let name = |number, name: &str| {
        let (id, name) = (thread_id(number), serde_json::to_string(name).unwrap());
        format!("{{\"id\":\"{id}\",\"thread_name\":{name},\"updated_at\":\"2026-02-08T09:20:00Z\"}}\n")
    };
    let names = [
        name(1, "planb"),
        name(2, "fix: auth/login (v2)"),
        "not a name\n".to_owned(),
        name(3, "Planb"),
        name(4, "\u{4fee}\u{590d} \u{767b}\u{5f55}/\u{6ce8}\u{518c}"),
        name(5, &"long ".repeat(900)),
        name(6, "cafe\u{301}"),
        name(7, "old name"),
        name(7, ".."),
        name(77, "lost"),
    ];
    maker.file("session_index.jsonl", names.concat());
    // An empty folder shows its own time.
    let empty = home.path().join("sessions/2026/03");
    fs::create_dir_all(&empty).unwrap();
    File::open(&empty).unwrap().set_modified(UNIX_EPOCH + Duration::from_secs(1_760_000_000)).unwrap();
    home
}

fn plain_threads(maker: &mut Maker<'_>) {
    let day = "sessions/2026/02/08";
    let git = ",\"model_provider\":\"openai\",\"git\":{\"commit_hash\":\"abc\",\"branch\":\"feature/x\",\
               \"repository_url\":\"https://user:token@GitHub.com/o/r.git\"}";
    maker.rollout(
        day,
        "2026-02-08T10-15-01",
        &thread_id(1),
        &[header(1, "/srv/demo", "\"cli\"", git), turn("/srv/demo", "gpt-5"), said("hello")],
    );
    let local = ",\"model_provider\":\"my/own\",\"git\":{\"branch\":\"main\",\"repository_url\":\"git@host:group/sub/r.git\"}";
    maker.rollout(
        day,
        "2026-02-08T10-16-00",
        &thread_id(2),
        &[header(2, "C:\\work\\x", "\"vscode\"", local), turn("/srv/other", "o3"), said("elsewhere")],
    );
    let spawn = format!(
        "{{\"subagent\":{{\"thread_spawn\":{{\"parent_thread_id\":\"{}\",\"depth\":1}}}}}}",
        thread_id(1)
    );
    maker.rollout(
        day,
        "2026-02-08T10-17-00",
        &thread_id(3),
        &[header(3, "/srv/demo", &spawn, ""), said("sub")],
    );
    let forked = format!(",\"forked_from_id\":\"{}\"", thread_id(1));
    maker.rollout(
        "sessions/2026/01/31",
        "2026-01-31T23-59-59",
        &thread_id(4),
        &[header(4, "/home/u/.config", "\"exec\"", &forked), said("fork")],
    );
    maker.rollout(
        "archived_sessions",
        "2026-01-30T08-00-00",
        &thread_id(5),
        &[header(5, "/", "\"cli\"", ""), said("archived")],
    );
    let packed = zstd::bulk::compress(
        &[header(6, "/srv/demo", "\"cli\"", ""), said("packed")].concat().into_bytes(),
        3,
    );
    let path = format!("archived_sessions/rollout-2026-01-02T08-00-00-{}.jsonl.zst", thread_id(6));
    maker.file(&path, packed.unwrap());
}

fn odd_threads(maker: &mut Maker<'_>) {
    let day = "sessions/2026/02/09";
    // Before the envelope.
    let bare = format!(
        "{{\"id\":\"{}\",\"timestamp\":\"2025-06-01T10:00:00.000Z\",\"instructions\":null}}\n{{\"record_type\":\"state\"}}\n",
        thread_id(7)
    );
    maker.rollout("sessions/2025/06/01", "2025-06-01T10-00-00", &thread_id(7), &[bare]);
    // Cut in its last line, and with a line that is none.
    let cut = [header(8, "/srv/demo", "\"cli\"", ""), "not JSON\n".to_owned(), said("cut")[..40].to_owned()];
    maker.rollout(day, "2026-02-09T00-00-08", &thread_id(8), &cut);
    // Empty.
    maker.rollout(day, "2026-02-09T00-00-09", &thread_id(9), &[]);
    // Two files of a reverted thread.
    let two = format!("{}_{}", thread_id(10), thread_id(110));
    maker.rollout(
        day,
        "2026-02-09T00-00-10",
        &thread_id(10),
        &[header(10, "/a", "\"cli\"", ""), said("before")],
    );
    maker.rollout(day, "2026-02-09T00-00-11", &two, &[header(10, "/a", "\"cli\"", ""), said("after")]);
    // One id in both roots, and another thread's header.
    let twice = [header(11, "/b", "\"cli\"", ""), said("twice")];
    maker.rollout(day, "2026-02-09T00-00-12", &thread_id(11), &twice);
    maker.rollout("archived_sessions", "2026-02-09T00-00-12", &thread_id(11), &twice);
    maker.rollout(
        day,
        "2026-02-09T00-00-13",
        &thread_id(12),
        &[header(13, "/c", "\"mcp\"", ""), said("not mine")],
    );
    // Damaged.
    maker.file(&format!("{day}/rollout-2026-02-09T00-00-14-{}.jsonl.zst", thread_id(14)), "no frame");
    // No rollouts.
    maker.file(&format!("{day}/notes: a.txt"), "stray\n");
    maker.file(&format!("{day}/.DS_Store"), "never shown");
    maker.file(&format!("{day}/rollout-compress-aB3.tmp"), "never shown");
    maker.file("auth.json", "never shown");
    symlink("/dev/null", maker.home.path().join(day).join("link.jsonl")).unwrap();
    // A folder with a rollout's name, and an empty one.
    let folder = format!("sessions/2026/02/10/rollout-2026-02-10T00-00-00-{}.jsonl", thread_id(15));
    maker.file(&format!("{folder}/inside.txt"), "in a folder");
}

/// Path, kind, size, seconds of the mtime, target: what does not depend on hashes.
fn text_of(fs: &Fs) -> String {
    let mut lines = Vec::new();
    collect(fs, NodeNumber::ROOT, "", &mut lines);
    lines.join("\n") + "\n"
}

fn collect(fs: &Fs, dir: NodeNumber, path: &str, lines: &mut Vec<String>) {
    let mut entries = Vec::new();
    fs.readdir(dir, 2, true, &mut |entry| {
        entries.push(entry);
        true
    })
    .unwrap();
    for entry in entries {
        let child = format!("{path}/{}", String::from_utf8(entry.name.clone()).unwrap());
        let attr = fs.lookup(dir, &entry.name).unwrap().unwrap().attr;
        let seconds = attr.mtime_ns.div_euclid(1_000_000_000);
        // In the order of the listing: it is part of the promise.
        match attr.kind {
            NodeKind::Dir => {
                lines.push(format!("{child}/ nlink {} mtime {seconds}", attr.nlink));
                collect(fs, entry.number, &child, lines);
            }
            NodeKind::Link => {
                let target = String::from_utf8(fs.readlink(entry.number).unwrap()).unwrap();
                let folder = child.rsplit_once('/').unwrap().0;
                assert_leads_to_a_file(fs, &format!("{folder}/{target}"));
                lines.push(format!("{child} -> {target}"));
            }
            NodeKind::File => {
                let content = fs.read(entry.number, 0, 1 << 20);
                match content {
                    Ok(content) => assert_eq!(content.len() as u64, attr.size_bytes, "{child}"),
                    // A size above 0, or nobody would ask for the bytes and be told.
                    Err(_) => assert!(attr.size_bytes > 0, "{child}"),
                }
                lines.push(format!("{child} {} bytes nlink {} mtime {seconds}", attr.size_bytes, attr.nlink));
            }
        }
    }
}

/// Walks a path with `..` in it from the root.
fn assert_leads_to_a_file(fs: &Fs, path: &str) {
    let mut number = NodeNumber::ROOT;
    let mut kind = NodeKind::Dir;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let found =
            fs.lookup(number, name.as_bytes()).unwrap().unwrap_or_else(|_| panic!("{path}: no {name}"));
        (number, kind) = (found.attr.number, found.attr.kind);
    }
    assert_eq!(kind, NodeKind::File, "{path}");
}

fn assert_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        return;
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (extra, missing) = common::difference(&lines(text), &lines(&golden));
    assert!(
        golden == text,
        "{} is another tree: extra {extra:#?}, missing {missing:#?}; UPDATE_GOLDEN=1 writes it anew",
        path.display()
    );
}

fn tree_of(home: &TestHome, options: FsOptions) -> Fs {
    let fs = Fs::new(home.store(), options).unwrap();
    fs.store().flush();
    fs
}

#[test]
fn every_view_of_a_made_home() {
    assert_golden("tree.txt", &text_of(&made_home().tree()));
}

#[test]
fn the_views_as_files() {
    assert_golden("tree-as-files.txt", &text_of(&made_home().tree_as(ViewsAs::Files)));
}

#[test]
fn a_selection_of_views() {
    let views = Some(vec!["by-name".to_owned(), "by-cwd".to_owned()]);
    let options = FsOptions { views: views.clone(), ..FsOptions::default() };
    assert_golden("tree-selected.txt", &text_of(&tree_of(&made_home(), options)));
    let options = FsOptions { views, views_as: ViewsAs::Files, ..FsOptions::default() };
    assert_golden("tree-selected-as-files.txt", &text_of(&tree_of(&made_home(), options)));
}

/// The lines of `threads.jsonl` and the two texts are promises too.
#[test]
fn the_made_files() {
    let home = made_home();
    let fs = home.tree();
    let read = |name: &str| {
        let number = fs.lookup(NodeNumber::ROOT, name.as_bytes()).unwrap().unwrap().attr.number;
        String::from_utf8(fs.read(number, 0, 1 << 20).unwrap()).unwrap()
    };
    assert_golden("threads.jsonl", &read("threads.jsonl"));
    assert_golden("README.md", &read("README.md"));
}
