//! What does each filesystem call answer? `Fs` over made homes, without a kernel.

mod common;

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;

use common::{TestHome, thread_id, thread_text, try_walk, wait_until};
use rolloutfs::fs::attr::{Attr, NodeKind};
use rolloutfs::fs::error::FsError;
use rolloutfs::fs::{Fs, FsOptions, Listed, ViewsAs};
use rolloutfs::store::node::NodeNumber;
use rolloutfs::store::{StoreOptions, error::StoreError};

const DAY: &str = "2026-02-08";

fn stamp(second: usize) -> String {
    format!("{DAY}T09-{:02}-{:02}", second / 60, second % 60)
}

/// A path from the root, each component looked up.
fn find(fs: &Fs, path: &str) -> Option<Attr> {
    let mut attr = fs.getattr(NodeNumber::ROOT).unwrap().value;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        attr = fs.lookup(attr.number, name.as_bytes()).unwrap().ok()?.attr;
    }
    Some(attr)
}

fn at(fs: &Fs, path: &str) -> Attr {
    find(fs, path).unwrap_or_else(|| panic!("{path} is not there"))
}

fn read_all(fs: &Fs, number: NodeNumber, chunk: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let piece = fs.read(number, bytes.len() as u64, chunk).unwrap();
        if piece.is_empty() {
            return bytes;
        }
        assert!(piece.len() <= chunk);
        bytes.extend(piece);
    }
}

fn text(fs: &Fs, path: &str) -> String {
    String::from_utf8(read_all(fs, at(fs, path).number, 1 << 16)).unwrap()
}

/// Up to `count` entries after a cookie.
fn piece(fs: &Fs, dir: NodeNumber, after: i64, count: usize) -> Vec<Listed> {
    let mut entries = Vec::new();
    fs.readdir(dir, after, true, &mut |entry| {
        // As a kernel buffer that is full: the entry that finds no room comes again.
        if entries.len() == count {
            return false;
        }
        entries.push(entry);
        true
    })
    .unwrap();
    entries
}

fn names_file(home: &TestHome, names: &[(u64, &str)]) {
    let line = |(number, name): &(u64, &str)| {
        let name = serde_json::to_string(name).unwrap();
        format!(
            "{{\"id\":\"{}\",\"thread_name\":{name},\"updated_at\":\"2026-02-08T09:20:00Z\"}}\n",
            thread_id(*number)
        )
    };
    home.write("session_index.jsonl", names.iter().map(line).collect::<String>());
}

#[test]
fn lookups_are_exact_first_and_liberal_then() {
    let home = TestHome::empty();
    let cwds = ["/srv/demo", "/home/u/.config", "C:\\work\\x", "/tmp/caf\u{e9}", "/srv/a b: c"];
    for (number, cwd) in cwds.into_iter().enumerate() {
        home.thread(&stamp(number), number as u64, cwd, "hello");
    }
    names_file(&home, &[(0, "plan"), (1, "Plan"), (2, "caf\u{e9}"), (3, "fix: a/b"), (4, "x.jsonl")]);
    let fs = home.tree();
    let file = |number: usize| format!("rollout-{}-{}.jsonl", stamp(number), thread_id(number as u64));
    // Spelling, and the thread it leads to.
    let table = [
        ("by-name/Plan.jsonl".to_owned(), Some(1)),
        ("by-name/Plan".to_owned(), Some(1)),
        ("by-name/plan~00000000.jsonl".to_owned(), Some(0)),
        ("by-name/plan~00000000".to_owned(), Some(0)),
        ("by-name/Plan~00000001.jsonl".to_owned(), Some(1)),
        ("by-name/cafe\u{301}.jsonl".to_owned(), Some(2)),
        ("by-name/cafe\u{301}".to_owned(), Some(2)),
        ("by-name/caf\u{e9}~00000002".to_owned(), Some(2)),
        ("by-name/fix%3A a%2Fb.jsonl".to_owned(), Some(3)),
        ("by-name/fix%3a a%2fb".to_owned(), Some(3)),
        ("by-name/fix: a%2Fb".to_owned(), Some(3)),
        ("by-name/x.jsonl.jsonl".to_owned(), Some(4)),
        ("by-name/x.jsonl".to_owned(), Some(4)),
        ("by-name/Plan~00000009".to_owned(), None),
        ("by-name/other".to_owned(), None),
        (format!("by-id/{}.jsonl", thread_id(3)), Some(3)),
        (format!("by-id/{}", thread_id(3)), Some(3)),
        (format!("by-id/{}", thread_id(33)), None),
        (format!("by-cwd/home/u/.config/{}", file(1)), Some(1)),
        (format!("by-cwd/home/u/%2Econfig/{}", file(1)), Some(1)),
        (format!("by-cwd/C:/work/x/{}", file(2)), Some(2)),
        (format!("by-cwd/tmp/cafe\u{301}/{}", file(3)), Some(3)),
        (format!("by-cwd/srv/a b: c/{}", file(4)), Some(4)),
        (format!("by-cwd/srv/A B/{}", file(4)), None),
        // The home's own folders are exact.
        (format!("sessions/2026/02/08/{}", file(0)), Some(0)),
        (format!("sessions/2026/02/08/{}", file(0).trim_end_matches(".jsonl")), None),
        (format!("sessions/2026/02/08/{}.zst", file(0)), None),
        ("n".repeat(5000), None),
        ("by-name/".to_owned() + &"n".repeat(5000), None),
    ];
    for (spelling, expected) in table {
        let found = find(&fs, &spelling);
        assert_eq!(found.is_some(), expected.is_some(), "{spelling}: {found:?}");
        let (Some(attr), Some(expected)) = (found, expected) else { continue };
        let leads_to = match attr.kind {
            NodeKind::Link => String::from_utf8(fs.readlink(attr.number).unwrap()).unwrap(),
            _ => spelling.clone(),
        };
        assert!(leads_to.ends_with(&file(expected)), "{spelling} -> {leads_to}");
    }
}

#[test]
fn dots_lead_up_by_number_and_misses_say_how_long_they_hold() {
    let home = TestHome::empty();
    home.thread(&stamp(0), 0, "/srv/demo", "hello");
    names_file(&home, &[(0, "plan")]);
    let fs = home.tree();
    let dirs = ["", "sessions", "sessions/2026/02/08", "by-cwd/srv/demo", "by-name", ".rolloutfs"];
    for dir in dirs {
        let number = at(&fs, dir).number;
        assert_eq!(fs.lookup(number, b".").unwrap().unwrap().attr.number, number, "{dir}");
        let up = dir.rsplit_once('/').map_or("", |(up, _)| up);
        assert_eq!(fs.lookup(number, b"..").unwrap().unwrap().attr.number, at(&fs, up).number, "{dir}");
        let listed: Vec<_> = piece(&fs, number, 0, 2).into_iter().map(|entry| entry.number).collect();
        assert_eq!(listed, [number, at(&fs, up).number], "{dir}");
    }
    let file = at(&fs, "by-name/plan.jsonl").number;
    assert_eq!(fs.lookup(file, b".").unwrap().unwrap().attr.number, file, "a share asks for a number so");
    for dir in dirs {
        assert!(fs.lookup(at(&fs, dir).number, b"no such name").unwrap().is_err(), "{dir}");
    }
    for hidden in ["auth.json", "config.toml", "state_5.sqlite", ".ignore", ".git", "sessions/..x"] {
        home.write(hidden.trim_start_matches("sessions/"), "secret");
        assert!(find(&fs, hidden).is_none(), "{hidden}");
    }
}

#[test]
fn numbers_that_mean_nothing_are_refused_in_kind() {
    let home = TestHome::empty();
    let path = home.thread(&stamp(0), 0, "/srv/demo", "hello");
    names_file(&home, &[(0, "plan")]);
    let fs = home.tree();
    let (file, dir, link) =
        (at(&fs, &path).number, at(&fs, "by-cwd/srv").number, at(&fs, "by-name/plan").number);
    assert!(matches!(fs.readlink(file), Err(FsError::NotALink(_))));
    assert!(matches!(fs.read(dir, 0, 10), Err(FsError::IsADirectory(_))));
    assert!(matches!(fs.readdir(file, 0, false, &mut |_| true), Err(FsError::NotADirectory(_))));
    assert!(matches!(fs.lookup(file, b"x"), Err(FsError::NotADirectory(_))));
    assert!(matches!(fs.lookup(link, b"x"), Err(FsError::NotADirectory(_))));
    // Every number: an answer or an error, never a panic.
    for class in 0..64u64 {
        for low in [0, 1, 2, 7, 0xffff_ffff_ffff, file.0 & 0xffff_ffff_ffff] {
            for slot in [0, 0x3ff, 0x200] {
                let number = NodeNumber(class << 58 | slot << 48 | low);
                let _ =
                    (fs.getattr(number).is_ok(), fs.readlink(number).is_ok(), fs.read(number, 3, 5).is_ok());
                let _ = fs.lookup(number, b"..").is_ok();
            }
        }
    }
    // A file that is gone, and the links to it; an archived one keeps its number, but its links are others.
    let archived = home.path().join("archived_sessions").join(path.rsplit('/').next().unwrap());
    fs::create_dir_all(archived.parent().unwrap()).unwrap();
    fs::rename(home.path().join(&path), &archived).unwrap();
    wait_until("the link is another", || match fs.readlink(link) {
        Err(FsError::Stale(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // The folder that it left may be looked at before the new one: until both are, it may be in neither.
    let in_archive = format!("archived_sessions/{}", path.rsplit('/').next().unwrap());
    wait_until("the archived file has its number", || match find(&fs, &in_archive) {
        Some(attr) if attr.number == file => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_ne!(at(&fs, "by-name/plan").number, link);
    fs::remove_file(archived).unwrap();
    wait_until("the file is gone", || {
        match (fs.getattr(file), fs.getattr(at(&fs, "by-id").number).map(|attr| attr.value.mtime_ns)) {
            (Err(FsError::Stale(_)), Ok(_)) if find(&fs, "by-cwd/srv").is_none() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert!(matches!(fs.getattr(dir), Err(FsError::Stale(_))));
    assert!(matches!(fs.read(file, 0, 10), Err(FsError::Stale(_))));
    assert!(find(&fs, &format!("health/missing/{}.json", thread_id(0))).is_some());
}

/// Entries that stay are listed once each, whatever comes and goes between the pieces.
#[test]
fn a_listing_in_pieces_misses_and_repeats_nothing() {
    let home = TestHome::empty();
    let staying: BTreeSet<String> =
        (0..400).map(|number| home.thread(&stamp(number * 2), number as u64, "/srv/demo", "hello")).collect();
    let fs = home.tree();
    let mut coming = 1000;
    for dir in ["sessions/2026/02/08", "by-cwd/srv/demo"] {
        let number = at(&fs, dir).number;
        let mut seen = Vec::new();
        let mut after = 0;
        let mut fleeting: Vec<String> = Vec::new();
        loop {
            let entries = piece(&fs, number, after, 37);
            let Some(last) = entries.last() else { break };
            after = last.cookie;
            seen.extend(entries.iter().map(|entry| String::from_utf8(entry.name.clone()).unwrap()));
            // One comes before the cookie and one behind it, and what came before goes, the cookie's own entry too.
            for path in fleeting.drain(..) {
                fs::remove_file(home.path().join(path)).unwrap();
            }
            for second in [1, 799] {
                fleeting.push(home.thread(&stamp(second), coming, "/srv/demo", "fleeting"));
                coming += 1;
            }
            let last_name = String::from_utf8(last.name.clone()).unwrap();
            let own = format!("sessions/2026/02/08/{last_name}");
            let gone = !staying.contains(&own) && home.path().join(&own).exists();
            if gone {
                fs::remove_file(home.path().join(&own)).unwrap();
                fleeting.retain(|path| *path != own);
            }
            fs.store().flush();
        }
        let unique: BTreeSet<_> = seen.iter().collect();
        assert_eq!(unique.len(), seen.len(), "{dir}: something came twice");
        for path in &staying {
            let name = path.rsplit('/').next().unwrap().to_owned();
            assert!(unique.contains(&name), "{dir}: {name} is missing");
        }
        for path in fleeting {
            fs::remove_file(home.path().join(path)).unwrap();
        }
    }
}

/// A listing goes on where it was though the entry of its cookie, and those around it, are gone.
#[test]
fn a_listing_goes_on_after_an_entry_that_is_gone() {
    let home = TestHome::empty();
    let paths: Vec<_> =
        (0..20).map(|number| home.thread(&stamp(number), number as u64, "/srv/demo", "x")).collect();
    let fs = home.tree();
    let dir = at(&fs, "sessions/2026/02/08").number;
    let first = piece(&fs, dir, 2, 10);
    for path in &paths[8..12] {
        fs::remove_file(home.path().join(path)).unwrap();
    }
    wait_until("they are gone", || {
        let left = piece(&fs, dir, 2, 100).len();
        if left == 16 { Ok(()) } else { Err(format!("{left} left")) }
    });
    let rest: Vec<_> = piece(&fs, dir, first[9].cookie, 100).into_iter().map(|entry| entry.name).collect();
    let expected: Vec<_> =
        paths[12..].iter().map(|path| path.rsplit('/').next().unwrap().as_bytes().to_vec()).collect();
    assert_eq!(rest, expected);
    // The root, one by one.
    let whole = piece(&fs, NodeNumber::ROOT, 0, 100);
    let mut after = 0;
    let mut again = Vec::new();
    while let Some(entry) = piece(&fs, NodeNumber::ROOT, after, 1).pop() {
        after = entry.cookie;
        again.push(entry.name);
    }
    assert_eq!(again, whole.into_iter().map(|entry| entry.name).collect::<Vec<_>>());
}

#[test]
fn threads_jsonl_is_whole_exact_and_one_line_a_rollout() {
    let home = TestHome::sample(120, 9);
    let fs = home.tree();
    let attr = at(&fs, "threads.jsonl");
    let whole = read_all(&fs, attr.number, 1 << 22);
    assert_eq!(whole.len() as u64, attr.size_bytes);
    for chunk in [511, 4096, 65_537] {
        assert!(read_all(&fs, attr.number, chunk) == whole, "in pieces of {chunk}");
    }
    for offset in [1, 1000, attr.size_bytes - 1, attr.size_bytes, attr.size_bytes + 5, u64::MAX] {
        let start = usize::try_from(offset).unwrap().min(whole.len());
        assert!(
            fs.read(attr.number, offset, 700).unwrap()
                == whole[start..whole.len().min(start.saturating_add(700))]
        );
    }
    let mut paths = BTreeSet::new();
    for line in whole.split_inclusive(|&byte| byte == b'\n') {
        let value: serde_json::Value = serde_json::from_slice(line).unwrap();
        let path = value["path"].as_str().unwrap().to_owned();
        let file = at(&fs, &path);
        assert!(value["bytes"].as_u64().is_none_or(|bytes| bytes == file.size_bytes), "{path}");
        assert!(paths.insert(path), "a line twice");
    }
    let counts = fs.store().index().read(|reader| reader.queries().counts()).unwrap();
    assert_eq!(paths.len() as u64, counts.rollouts);
}

#[test]
fn an_old_version_of_threads_jsonl_is_read_to_its_end() {
    let home = TestHome::empty();
    for number in 0..30 {
        home.thread(&stamp(number), number as u64, "/srv/demo", "hello");
    }
    let fs = home.tree();
    let old = at(&fs, "threads.jsonl");
    let before = read_all(&fs, old.number, 1 << 20);
    let mut pieces = fs.read(old.number, 0, 1000).unwrap();
    for round in 0..4 {
        home.thread(&stamp(100 + round), 100 + round as u64, "/new", "new");
        fs::remove_file(home.path().join(format!(
            "sessions/2026/02/08/rollout-{}-{}.jsonl",
            stamp(round),
            thread_id(round as u64)
        )))
        .unwrap();
        wait_until("the newest is another", || {
            fs.store().flush();
            let new = text(&fs, "threads.jsonl");
            let there =
                new.contains(&thread_id(100 + round as u64)) && !new.contains(&thread_id(round as u64));
            if there { Ok(()) } else { Err(new) }
        });
        pieces.extend(fs.read(old.number, pieces.len() as u64, 1000).unwrap());
    }
    assert_eq!(fs.getattr(old.number).unwrap().value.size_bytes, old.size_bytes);
    pieces.extend(fs.read(old.number, pieces.len() as u64, 1 << 20).unwrap());
    assert!(pieces == before);
    assert_ne!(at(&fs, "threads.jsonl").number, old.number);
}

#[test]
fn the_made_files_are_as_long_as_they_say() {
    let home = TestHome::sample(40, 2);
    for views_as in [ViewsAs::Symlinks, ViewsAs::Files] {
        let fs = home.tree_as(views_as);
        let readme = text(&fs, "README.md");
        assert_eq!(readme.len() as u64, at(&fs, "README.md").size_bytes);
        assert!(readme.contains("by-name") && readme.contains("threads.jsonl"));
        let number = at(&fs, ".rolloutfs/status.json").number;
        let mut status = Vec::new();
        wait_until("size and bytes of one status", || {
            let size = fs.getattr(number).unwrap().value.size_bytes;
            status = fs.read(number, 0, 1 << 20).unwrap();
            if status.len() as u64 == size { Ok(()) } else { Err(format!("{size}")) }
        });
        let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
        assert_eq!(status["progress"]["settled"], true);
        assert!(status["threads"]["rollouts"].as_u64().unwrap() >= 40);
        assert_eq!(find(&fs, ".ignore").is_some(), views_as == ViewsAs::Files);
    }
}

/// Spec 11.6, cases 1, 2, 4, 5, 6 and 13, as a reader of the tree sees them.
#[test]
fn compressed_rollouts_read_as_plain_ones() {
    use std::os::unix::fs::PermissionsExt;
    let home = TestHome::empty();
    let day = "sessions/2026/02/08";
    let name = |number: u64| format!("rollout-{}-{}.jsonl", stamp(number as usize), thread_id(number));
    let content = thread_text(&thread_id(1), "/srv/demo", &"hello ".repeat(5000)).into_bytes();
    // 1: with its size stated, without, in two frames; 2: both.
    let halves = content.split_at(content.len() / 2);
    let frames = [zstd::encode_all(halves.0, 3).unwrap(), zstd::encode_all(halves.1, 3).unwrap()].concat();
    home.write(&format!("{day}/{}.zst", name(1)), zstd::bulk::compress(&content, 3).unwrap());
    home.write(&format!("{day}/{}.zst", name(2)), zstd::encode_all(&content[..], 3).unwrap());
    home.write(&format!("{day}/{}.zst", name(3)), frames);
    home.write(&format!("{day}/{}", name(4)), &content);
    home.write(&format!("{day}/{}.zst", name(4)), "half a swap");
    // 5 and 6: temporaries, and names that are none.
    home.write(&format!("{day}/rollout-compress-aB3.tmp"), "x");
    home.write(&format!("{day}/{}.zst.compress.77.0.tmp", name(5)), "x");
    home.write(&format!("{day}/{}.decompress.77.0.tmp", name(5)), "x");
    home.write(&format!("{day}/rollout-x.jsonl.zst"), "x");
    let private = home.path().join(format!("{day}/{}.zst", name(2)));
    fs::set_permissions(&private, fs::Permissions::from_mode(0o400)).unwrap();
    let fs = home.tree();
    for number in 1..=4 {
        let attr = at(&fs, &format!("{day}/{}", name(number)));
        assert_eq!(attr.size_bytes, content.len() as u64, "{number}");
        assert!(read_all(&fs, attr.number, 10_000) == content, "{number}");
        assert_eq!(attr.number, at(&fs, &format!("{day}/{}", name(number))).number);
        assert!(find(&fs, &format!("{day}/{}.zst", name(number))).is_none(), "the .zst is hidden");
    }
    // 4: permissions and mtime are those of the file below.
    let attr = at(&fs, &format!("{day}/{}", name(2)));
    assert_eq!(attr.mode, 0o400);
    let modified = fs::metadata(&private).unwrap().modified().unwrap();
    let modified = modified.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
    assert_eq!(attr.mtime_ns, modified);
    let names: Vec<_> = piece(&fs, at(&fs, day).number, 2, 100)
        .into_iter()
        .map(|entry| String::from_utf8(entry.name).unwrap())
        .collect();
    assert_eq!(names, [name(1), name(2), name(3), name(4), "rollout-x.jsonl.zst".to_owned()]);
    assert!(find(&fs, &format!("by-id/{}", thread_id(5))).is_none());
    assert!(find(&fs, "health/stray").is_some());
}

/// A size that only decoding tells is exact when it is asked for before anything was indexed.
#[test]
fn the_size_of_a_compressed_file_is_exact_from_the_first_look_on() {
    let home = TestHome::empty();
    let content = thread_text(&thread_id(1), "/srv/demo", &"hello ".repeat(5000)).into_bytes();
    let path = format!("sessions/2026/02/08/rollout-{}-{}.jsonl", stamp(1), thread_id(1));
    let file = home.write(&format!("{path}.zst"), zstd::encode_all(&content[..], 3).unwrap());
    let fs = Fs::new(
        home.store_with(StoreOptions { watch: false, ..StoreOptions::default() }),
        FsOptions::default(),
    );
    let fs = fs.unwrap();
    assert_eq!(at(&fs, &path).size_bytes, content.len() as u64);
    fs.store().flush();
    assert_eq!(at(&fs, &path).size_bytes, content.len() as u64);
    // Changed behind our back, and no watch to tell: still what is there now.
    let longer = [&content[..], b"{\"more\":1}\n"].concat();
    let beside = home.write("sessions/2026/02/08/new", zstd::encode_all(&longer[..], 3).unwrap());
    fs::rename(beside, &file).unwrap();
    wait_until("the new size", || match at(&fs, &path).size_bytes {
        size if size == longer.len() as u64 => Ok(()),
        size => Err(format!("{size}")),
    });
    // Without a mount nobody forgets the open file on news: it is trusted for a second.
    wait_until("the new bytes", || match read_all(&fs, at(&fs, &path).number, 1 << 20) {
        bytes if bytes == longer => Ok(()),
        bytes => Err(format!("{} bytes", bytes.len())),
    });
    // Damaged: it is there, with no bytes, and reading says so.
    fs::write(&file, "damaged").unwrap();
    wait_until("an error", || match fs.read(at(&fs, &path).number, 0, 10) {
        Err(FsError::Store(StoreError::Damaged { .. })) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// Spec 11.6.3 and 1.5: the swap between plain and compressed, seen by a reader at work.
#[test]
fn a_reader_survives_the_swap_and_appends_are_seen_at_once() {
    let home = TestHome::empty();
    let path = home.thread(&stamp(1), 1, "/srv/demo", "hello");
    let file = home.path().join(&path);
    let packed = home.path().join(format!("{path}.zst"));
    let fs = home.tree();
    let number = at(&fs, &path).number;
    let mut content = fs::read(&file).unwrap();
    for round in 0..5 {
        // The bytes that getattr promises are there to be read, and no append waits for the index.
        OpenOptions::new().append(true).open(&file).unwrap().write_all(b"{\"a\":1}\n").unwrap();
        content.extend(b"{\"a\":1}\n");
        assert_eq!(fs.getattr(number).unwrap().value.size_bytes, content.len() as u64, "round {round}");
        wait_until("the bytes", || match read_all(&fs, number, 100) {
            bytes if bytes == content => Ok(()),
            bytes => Err(format!("round {round}: {} bytes", bytes.len())),
        });
        let half = fs.read(number, 0, content.len() / 2).unwrap();
        fs::write(&packed, zstd::encode_all(&content[..], 3).unwrap()).unwrap();
        fs::remove_file(&file).unwrap();
        let rest = fs.read(number, half.len() as u64, 1 << 20).unwrap();
        assert!([half, rest].concat() == content, "round {round}");
        wait_until("the size", || match fs.getattr(number).unwrap().value.size_bytes {
            size if size == content.len() as u64 => Ok(()),
            size => Err(format!("{size}")),
        });
        fs::write(&file, &content).unwrap();
        fs::remove_file(&packed).unwrap();
    }
    wait_until("it is listed", || {
        let tree = try_walk(&fs)?;
        let listed = tree.iter().any(|line| line.starts_with("/sessions/2026/02/08/rollout-"));
        if listed { Ok(()) } else { Err(format!("{tree:#?}")) }
    });
}

/// The size of a file that was compressed just now, of which a plain descriptor is still open.
#[test]
fn a_swap_never_shows_an_empty_file() {
    let home = TestHome::empty();
    let path = home.thread(&stamp(1), 1, "/srv/demo", "hello");
    let file = home.path().join(&path);
    let fs = home.tree();
    let number = at(&fs, &path).number;
    let content = read_all(&fs, number, 1 << 16);
    fs::write(home.path().join(format!("{path}.zst")), zstd::encode_all(&content[..], 3).unwrap()).unwrap();
    fs::remove_file(&file).unwrap();
    assert_eq!(fs.getattr(number).unwrap().value.size_bytes, content.len() as u64);
}

/// A file that was replaced just now, of which the old one is still open.
#[test]
fn the_bytes_are_those_that_getattr_promised() {
    let home = TestHome::empty();
    let path = home.thread(&stamp(1), 1, "/srv/demo", "hello");
    let fs = home.tree();
    let number = at(&fs, &path).number;
    let old = read_all(&fs, number, 1 << 16);
    let beside = home.write("sessions/2026/02/08/new", [&old[..], b"{\"more\":1}\n"].concat());
    fs::rename(beside, home.path().join(&path)).unwrap();
    let size_bytes = fs.getattr(number).unwrap().value.size_bytes;
    assert_eq!(read_all(&fs, number, 1 << 16).len() as u64, size_bytes);
}

/// A cold index answers a listing at once: the folder asked for is listed first.
#[test]
fn a_listing_does_not_wait_for_the_whole_index() {
    let home = TestHome::sample(200, 4);
    let path = home.thread(&stamp(1), 1, "/srv/demo", "hello");
    let fs = Fs::new(home.store(), FsOptions::default()).unwrap();
    assert!(find(&fs, &path).is_some(), "before anything was waited for");
    let dir = path.rsplit_once('/').unwrap().0;
    let names: Vec<_> =
        piece(&fs, at(&fs, dir).number, 2, 1000).into_iter().map(|entry| entry.name).collect();
    assert!(names.contains(&path.rsplit('/').next().unwrap().as_bytes().to_vec()));
}

/// What a thread that is made and filled costs: a commit for each call that changes the tree, and one for what is written
/// to it between and afterwards. The watcher's news of the calls' own changes costs none.
#[test]
fn a_thread_that_is_made_and_filled_is_four_commits() {
    const THREADS: u64 = 20;
    let home = TestHome::empty();
    home.thread(&stamp(0), 100, "/srv/before", "x");
    let live = home.tree();
    let count = || live.store().news().count();
    let day = at(&live, "sessions/2026/02/08").number;
    let begin = count();
    for thread in 1..=THREADS {
        let mut before = count();
        let mut costs = |what: &str, commits: u64| {
            assert_eq!(count() - before, commits, "thread {thread}: {what}");
            before = count();
        };
        let id = thread_id(thread);
        let name = format!("rollout-{}-{id}.jsonl", stamp(thread as usize));
        let number = live.mknod(day, name.as_bytes(), 0o600).unwrap().attr.number;
        costs("made", 1);
        let cwd = format!("/srv/{thread}");
        let text = thread_text(&id, &cwd, "hello");
        let (header, said) = text.split_at(text.find('\n').unwrap() + 1);
        let mut end = 0;
        let mut append = |line: &str| {
            assert_eq!(live.write(number, end, line.as_bytes(), true).unwrap(), line.len());
            end += line.len() as u64;
        };
        append(header);
        live.store().flush();
        costs("its header was followed", 1);
        append(said);
        costs("it got its place", 1);
        assert!(find(&live, &format!("by-cwd/srv/{thread}/{name}")).is_some());
        live.store().flush();
        costs("it was looked at again", 0);
        append(said);
        wait_until("the line is followed", || if count() > before { Ok(()) } else { Err("not yet".into()) });
        live.store().flush();
    }
    // Whatever the watcher has still to tell of.
    std::thread::sleep(std::time::Duration::from_millis(200));
    live.store().flush();
    assert_eq!(count() - begin, 4 * THREADS);
}

/// Pieces that are written one soon after the other are looked at together.
#[test]
fn what_is_written_in_pieces_is_followed_once() {
    let home = TestHome::empty();
    home.thread(&stamp(0), 100, "/srv/before", "x");
    let live = home.tree();
    let day = at(&live, "sessions/2026/02/08").number;
    let name = format!("rollout-{}-{}.jsonl", stamp(1), thread_id(1));
    let number = live.mknod(day, name.as_bytes(), 0o600).unwrap().attr.number;
    let text = thread_text(&thread_id(1), "/srv", "hello");
    let header = &text.as_bytes()[..text.find('\n').unwrap() + 1];
    let (before, started) = (live.store().news().count(), std::time::Instant::now());
    for (offset, byte) in header.iter().enumerate() {
        live.write(number, offset as u64, &[*byte], true).unwrap();
    }
    live.store().flush();
    let commits = live.store().news().count() - before;
    // One each 5 ms, and the last.
    let most = 1 + started.elapsed().as_millis() as u64 / 5;
    assert!((1..=most).contains(&commits), "{commits} commits in {:?}", started.elapsed());
    assert_eq!(at(&live, &format!("sessions/2026/02/08/{name}")).size_bytes, header.len() as u64);
}
