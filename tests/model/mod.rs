//! What may happen to a home behind a store's back, and what must hold afterwards? Random changes, and the truth.
#![allow(unreachable_pub, reason = "a module of tests")]

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use rolloutfs::fs::{Fs, FsOptions, ViewsAs};
use rolloutfs::store::change::Change;
use rolloutfs::store::index::{EntryNode, SECONDS_PER_DAY};
use rolloutfs::store::node::{NodeNumber, cookie_of};
use rolloutfs::store::placing::{Placing, entry_number};
use rolloutfs::store::row::{Row, RowKind};
use rolloutfs::store::{Store, StoreOptions};
use rolloutfs::views::Views;
use xxhash_rust::xxh3::xxh3_64;

use super::common::{TestHome, difference, files_below, thread_id, try_walk, wait_until, walk};

/// A small generator (splitmix64): one seed, one series.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

/// Threads that there may be: few, so that ids meet.
const THREADS: usize = 12;
const DAYS: [&str; 4] = ["2026/02/08", "2026/02/09", "2026/01/31", "2025/12/31"];
const NAMES: [&str; 8] = ["plan", "Plan", "fix: a/b", "caf\u{e9}", "cafe\u{301}", " ", "..", "\u{202e}x"];
const CWDS: [&str; 6] = ["/srv/demo", "/srv/demo/sub", "C:\\work\\x", "/", "", "/tmp/caf\u{e9}"];
const SOURCES: [&str; 4] = [
    "\"cli\"",
    "\"exec\"",
    "{\"subagent\":\"review\"}",
    "{\"subagent\":{\"thread_spawn\":{\"parent_thread_id\":\"0198c0de-0000-7000-8000-000000000001\",\"depth\":1}}}",
];

/// A home, a store that follows it, and a source of trouble.
pub struct Model {
    home: TestHome,
    fs: Option<Fs>,
    /// News since the last time all was at rest, and the tree then.
    news: Arc<Mutex<Vec<Change>>>,
    rest: Vec<String>,
    random: Random,
    views_as: ViewsAs,
    /// How the store follows the home.
    following: StoreOptions,
    fresh_count: usize,
}

impl Model {
    /// A home with some threads, followed as `following` says.
    pub fn new(seed: u64, views_as: ViewsAs, following: StoreOptions) -> Model {
        let home = TestHome::empty();
        let mut model = Model {
            home,
            fs: None,
            news: Arc::default(),
            rest: Vec::new(),
            random: Random(seed),
            views_as,
            following,
            fresh_count: 0,
        };
        for _ in 0..8 {
            model.create();
        }
        model.open();
        model
    }

    fn open(&mut self) {
        self.fs = None;
        let options = StoreOptions { state_dir: Some(self.home.beside("state")), ..self.following.clone() };
        let fs = self.tree(options);
        self.news = Arc::default();
        self.rest = Vec::new();
        fs.store().news().subscribe();
        let (news, kept) = (fs.store().news().clone(), self.news.clone());
        // It ends with the store.
        std::thread::spawn(move || {
            while let Some(changes) = news.take() {
                kept.lock().unwrap().extend(changes);
            }
        });
        self.fs = Some(fs);
    }

    fn tree(&self, options: StoreOptions) -> Fs {
        let options_fs = FsOptions { views_as: self.views_as, ..FsOptions::default() };
        let fs = Fs::new(self.home.store_with(options), options_fs).unwrap();
        fs.store().flush();
        fs
    }

    /// Some changes, now and then with the store closed meanwhile. Says what was done.
    pub fn burst(&mut self) -> Vec<String> {
        let offline = self.random.one_in(6);
        let mut done = Vec::new();
        if offline {
            self.fs = None;
            done.push("(the store was closed)".to_owned());
        }
        for _ in 0..=self.random.below(6) {
            done.push(self.change());
        }
        if offline {
            self.open();
        }
        done
    }

    /// The live tree becomes that of an index made anew.
    pub fn assert_followed(&mut self, what: &str) {
        let state_dir = self.home.beside(&format!("fresh-{}", self.fresh_count));
        self.fresh_count += 1;
        let options = StoreOptions { state_dir: Some(state_dir.clone()), watch: false, ..Default::default() };
        let fresh = self.tree(options);
        let expected = walk(&fresh);
        Truth::of(fresh.store()).assert_kept(&format!("fresh index, {what}"));
        drop(fresh);
        fs::remove_dir_all(&state_dir).unwrap();
        let Some(live) = &self.fs else { unreachable!("a burst leaves the store open") };
        wait_until(what, || {
            live.store().flush();
            match difference(&try_walk(live)?, &expected) {
                (extra, missing) if extra.is_empty() && missing.is_empty() => Ok(()),
                (extra, missing) => Err(format!("extra {extra:#?}, missing {missing:#?}")),
            }
        });
        Truth::of(live.store()).assert_kept(what);
        if !self.rest.is_empty() {
            wait_until(&format!("news of {what}"), || {
                let news = self.news.lock().unwrap();
                let untold = untold(&self.rest, &expected, &news);
                if untold.is_empty() { Ok(()) } else { Err(format!("untold: {untold:#?}")) }
            });
        }
        self.news.lock().unwrap().clear();
        self.rest = expected;
    }

    // ---- what may happen -----------------------------------------------------------------------

    fn change(&mut self) -> String {
        type Change = fn(&mut Model) -> Option<String>;
        let changes: [(&str, Change); 30] = [
            ("create", Model::create),
            ("create", Model::create),
            ("append", Model::append),
            ("append", Model::append),
            ("append", Model::append),
            ("archive", Model::archive),
            ("unarchive", Model::unarchive),
            ("delete", Model::delete),
            ("delete", Model::delete),
            ("replace", Model::replace),
            ("rewrite in place", Model::rewrite),
            ("delete and make again", Model::make_again),
            ("compress", Model::compress),
            ("compress", Model::compress),
            ("decompress", Model::decompress),
            ("damage", Model::damage),
            ("name", Model::name),
            ("name", Model::name),
            ("rewrite names", Model::rewrite_names),
            ("remove names", Model::remove_names),
            ("make a folder", Model::make_dir),
            ("remove a folder", Model::remove_dir),
            ("rename a folder", Model::rename_dir),
            ("stray", Model::stray),
            ("remove a stray", Model::remove_stray),
            ("rename a stray", Model::rename_stray),
            ("link or folder in a file's place", Model::other_kind),
            ("touch", Model::touch),
            ("another stamp", Model::restamp),
            ("replace a root", Model::replace_root),
        ];
        let (what, change) = changes[self.random.below(changes.len())];
        format!("{what}: {}", change(self).unwrap_or_else(|| "(nothing to do it to)".to_owned()))
    }

    fn root(&self) -> PathBuf {
        self.home.path()
    }

    /// Files below the roots that `wanted` likes, as absolute paths.
    fn files(&self, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        let below = |root: &str| {
            let dir = self.root().join(root);
            let files = if dir.is_dir() { files_below(&dir) } else { Vec::new() };
            files.into_iter().map(move |file| dir.join(file))
        };
        below("sessions")
            .chain(below("archived_sessions"))
            .filter(|file| wanted(file.file_name().unwrap().to_str().unwrap()))
            .collect()
    }

    fn pick_file(&mut self, wanted: impl Fn(&str) -> bool) -> Option<PathBuf> {
        let files = self.files(wanted);
        (!files.is_empty()).then(|| files[self.random.below(files.len())].clone())
    }

    fn show(&self, path: &Path) -> Option<String> {
        Some(path.strip_prefix(self.root()).unwrap().display().to_string())
    }

    fn id(&mut self) -> String {
        thread_id(self.random.below(THREADS) as u64)
    }

    fn new_path(&mut self) -> PathBuf {
        let day = self.random.pick(&DAYS);
        let stamp = format!("{}T09-15-0{}", day.replace('/', "-"), self.random.below(3));
        let mut name = format!("rollout-{stamp}-{}", self.id());
        if self.random.one_in(5) {
            name += &format!("_{}", thread_id(100 + self.random.below(2) as u64));
        }
        let dir = match self.random.below(8) {
            0..=1 => "archived_sessions".to_owned(),
            2 => "archived_sessions/old".to_owned(),
            3 => "sessions".to_owned(),
            _ => format!("sessions/{day}"),
        };
        let path = self.root().join(dir).join(name + ".jsonl");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    /// Text of a rollout; mostly its own.
    fn text(&mut self, path: &Path) -> Vec<u8> {
        if self.random.one_in(12) {
            return Vec::new();
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        let own = name.get(28..64).unwrap_or("").to_owned();
        let id = if self.random.one_in(8) { self.id() } else { own };
        let mut text = self.header(&id).into_bytes();
        if self.random.one_in(4) {
            // Large enough that reading goes on where it ended.
            let line = "{\"timestamp\":\"2026-02-08T09:16:00.000Z\",\"type\":\"event_msg\",\"payload\":{\"type\":\"agent_message\",\"message\":\"";
            text.extend(format!("{line}{}\"}}}}\n", "x".repeat(140_000)).bytes());
        }
        for _ in 0..self.random.below(5) {
            text.extend(self.line(&id));
        }
        text
    }

    fn header(&mut self, id: &str) -> String {
        let cwd = serde_json::to_string(self.random.pick(&CWDS)).unwrap();
        let source = self.random.pick(&SOURCES);
        let forked = match self.random.one_in(5) {
            true => format!(",\"forked_from_id\":\"{}\"", self.id()),
            false => String::new(),
        };
        let git = match self.random.below(3) {
            0 => {
                ",\"git\":{\"commit_hash\":\"abc\",\"branch\":\"feature/x\",\"repository_url\":\"https://u:p@example.org/o/r.git\"}"
            }
            1 => ",\"git\":{\"branch\":\"main\"}",
            _ => "",
        };
        format!(
            "{{\"timestamp\":\"2026-02-08T09:15:02.401Z\",\"type\":\"session_meta\",\"payload\":{{\"id\":\"{id}\",\
             \"timestamp\":\"2026-02-08T09:15:0{}.002Z\",\"cwd\":{cwd},\"originator\":\"codex_cli_rs\",\
             \"cli_version\":\"0.99.0\",\"source\":{source},\"model_provider\":\"openai\"{forked}{git}}}}}\n",
            self.random.below(10)
        )
    }

    fn line(&mut self, id: &str) -> Vec<u8> {
        let event = |payload: String| {
            format!(
                "{{\"timestamp\":\"2026-02-08T09:16:00.000Z\",\"type\":\"event_msg\",\"payload\":{payload}}}\n"
            )
        };
        let number = self.random.below(1000);
        let text = match self.random.below(9) {
            0 | 1 => {
                event(format!("{{\"type\":\"user_message\",\"message\":\"say {number}\",\"images\":null}}"))
            }
            2 => event(format!(
                "{{\"type\":\"token_count\",\"info\":{{\"total_token_usage\":{{\"total_tokens\":{number}}}}}}}"
            )),
            3 => {
                let name = serde_json::to_string(self.random.pick(&NAMES)).unwrap();
                event(format!(
                    "{{\"type\":\"thread_name_updated\",\"thread_id\":\"{id}\",\"thread_name\":{name}}}"
                ))
            }
            4 => {
                let cwd = serde_json::to_string(self.random.pick(&CWDS)).unwrap();
                format!(
                    "{{\"timestamp\":\"2026-02-08T09:16:00.000Z\",\"type\":\"turn_context\",\"payload\":{{\"cwd\":{cwd},\
                     \"model\":\"gpt-{}\",\"effort\":\"high\",\"approval_policy\":\"never\",\"sandbox_policy\":{{\"type\":\"read-only\"}},\"summary\":\"auto\"}}}}\n",
                    number % 3
                )
            }
            5 => "this is not JSON\n".to_owned(),
            6 => "\n".to_owned(),
            7 => format!(
                "{{\"id\":\"{id}\",\"timestamp\":\"2025-06-01T10:00:00.000Z\",\"instructions\":null}}\n"
            ),
            _ => self.header(id),
        };
        text.into_bytes()
    }

    fn create(&mut self) -> Option<String> {
        let path = self.new_path();
        if path.exists() {
            return None;
        }
        let text = self.text(&path);
        fs::write(&path, text).ok()?;
        self.show(&path)
    }

    fn append(&mut self) -> Option<String> {
        let path = self.pick_file(is_plain)?;
        let name = path.file_name()?.to_str()?.to_owned();
        let mut line = self.line(name.get(28..64).unwrap_or(""));
        if self.random.one_in(3) {
            line.truncate(self.random.below(line.len() + 1));
        }
        let mut file = OpenOptions::new().append(true).open(&path).ok()?;
        file.write_all(&line).unwrap();
        Some(format!("{} {} bytes", self.show(&path)?, line.len()))
    }

    fn archive(&mut self) -> Option<String> {
        let from = self.pick_file(is_rollout)?;
        let to = self.root().join("archived_sessions").join(from.file_name()?);
        fs::create_dir_all(to.parent()?).ok()?;
        fs::rename(&from, &to).ok()?;
        Some(format!("{} -> {}", self.show(&from)?, self.show(&to)?))
    }

    fn unarchive(&mut self) -> Option<String> {
        let from = self.pick_file(is_rollout)?;
        let name = from.file_name()?.to_str()?;
        let to = self.root().join("sessions").join(name.get(8..18)?.replace('-', "/")).join(name);
        fs::create_dir_all(to.parent()?).ok()?;
        fs::rename(&from, &to).ok()?;
        if self.random.one_in(2) {
            let _ = OpenOptions::new().append(true).open(&to).and_then(|file| file.set_modified(self.time()));
        }
        Some(format!("{} -> {}", self.show(&from)?, self.show(&to)?))
    }

    fn delete(&mut self) -> Option<String> {
        let path = self.pick_file(is_rollout)?;
        fs::remove_file(&path).ok()?;
        self.show(&path)
    }

    fn replace(&mut self) -> Option<String> {
        let path = self.pick_file(is_plain)?;
        let beside = path.with_extension("new");
        let text = self.text(&path);
        fs::write(&beside, text).ok()?;
        fs::rename(&beside, &path).ok()?;
        self.show(&path)
    }

    /// As an editor may: the same inode, other bytes, shorter or longer.
    fn rewrite(&mut self) -> Option<String> {
        let path = self.pick_file(is_plain)?;
        let text = self.text(&path);
        fs::write(&path, text).ok()?;
        self.show(&path)
    }

    /// Many filesystems give the new file the inode number of the old.
    fn make_again(&mut self) -> Option<String> {
        let path = self.pick_file(is_plain)?;
        fs::remove_file(&path).ok()?;
        let mut text = self.text(&path);
        text.extend(self.line(&thread_id(1)));
        fs::write(&path, text).ok()?;
        self.show(&path)
    }

    fn compress(&mut self) -> Option<String> {
        let path = self.pick_file(is_plain)?;
        let text = fs::read(&path).ok()?;
        let stated = self.random.one_in(2);
        let packed =
            if stated { zstd::bulk::compress(&text, 3) } else { zstd::encode_all(&text[..], 3) }.ok()?;
        let name = path.file_name()?.to_str()?;
        let temporary = path.with_file_name(format!("{name}.zst.compress.77.0.tmp"));
        fs::write(&temporary, packed).ok()?;
        let modified = fs::metadata(&path).ok()?.modified().ok()?;
        OpenOptions::new().append(true).open(&temporary).ok()?.set_modified(modified).ok()?;
        fs::rename(&temporary, path.with_file_name(format!("{name}.zst"))).ok()?;
        let keep = self.random.one_in(5);
        if !keep {
            fs::remove_file(&path).ok()?;
        }
        Some(format!("{} size stated: {stated}, plain kept: {keep}", self.show(&path)?))
    }

    fn decompress(&mut self) -> Option<String> {
        let packed = self.pick_file(|name| name.ends_with(".zst"))?;
        let text = zstd::decode_all(&fs::read(&packed).ok()?[..]).ok()?;
        let plain = packed.with_extension("");
        fs::write(&plain, text).ok()?;
        if self.random.one_in(4) {
            return Some(format!("{} and kept", self.show(&packed)?));
        }
        fs::remove_file(&packed).ok()?;
        self.show(&packed)
    }

    fn damage(&mut self) -> Option<String> {
        let packed = self.pick_file(|name| name.ends_with(".zst"))?;
        let bytes = fs::read(&packed).ok()?;
        let beside = packed.with_extension("new");
        fs::write(&beside, &bytes[..bytes.len() * 2 / 3]).ok()?;
        fs::rename(&beside, &packed).ok()?;
        self.show(&packed)
    }

    fn name_line(&mut self) -> String {
        let name = serde_json::to_string(self.random.pick(&NAMES)).unwrap();
        format!(
            "{{\"id\":\"{}\",\"thread_name\":{name},\"updated_at\":\"2026-02-08T09:2{}:00Z\"}}\n",
            self.id(),
            self.random.below(10)
        )
    }

    fn names_path(&self) -> PathBuf {
        self.root().join("session_index.jsonl")
    }

    fn name(&mut self) -> Option<String> {
        let mut line = self.name_line();
        match self.random.below(6) {
            0 => line.truncate(line.len() - 1),
            1 => line.truncate(line.len() / 2),
            2 => line = "broken\n".to_owned(),
            _ => {}
        }
        let mut file = OpenOptions::new().append(true).create(true).open(self.names_path()).ok()?;
        file.write_all(line.as_bytes()).ok()?;
        Some(line)
    }

    fn rewrite_names(&mut self) -> Option<String> {
        let text = fs::read_to_string(self.names_path()).ok()?;
        let id = self.id();
        let kept: String = text.split_inclusive('\n').filter(|line| !line.contains(&id)).collect();
        if self.random.one_in(2) {
            fs::write(self.names_path(), kept).ok()?;
            return Some(format!("without {id}, in place"));
        }
        let temporary = self.root().join("session_index.jsonl.tmp");
        fs::write(&temporary, kept).ok()?;
        fs::rename(&temporary, self.names_path()).ok()?;
        Some(format!("without {id}, renamed over"))
    }

    fn remove_names(&mut self) -> Option<String> {
        if !self.random.one_in(3) {
            return None;
        }
        fs::remove_file(self.names_path()).ok()?;
        Some("session_index.jsonl".to_owned())
    }

    /// Folders below the roots, the roots not among them.
    fn dirs(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut next: Vec<PathBuf> =
            ["sessions", "archived_sessions"].map(|root| self.root().join(root)).into();
        while let Some(dir) = next.pop() {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    found.push(entry.path());
                    next.push(entry.path());
                }
            }
        }
        found.sort();
        found
    }

    fn pick_dir(&mut self) -> Option<PathBuf> {
        let dirs = self.dirs();
        (!dirs.is_empty()).then(|| dirs[self.random.below(dirs.len())].clone())
    }

    fn make_dir(&mut self) -> Option<String> {
        let name = self.random.pick(&[
            "sessions/2027",
            "sessions/2026/02/10",
            "archived_sessions/x/y",
            "sessions/a b",
        ]);
        let dir = self.root().join(name);
        if dir.is_dir() {
            fs::remove_dir_all(&dir).ok()?;
            return Some(format!("{name} removed"));
        }
        fs::create_dir_all(&dir).ok()?;
        Some(name.to_owned())
    }

    fn remove_dir(&mut self) -> Option<String> {
        let dir = self.pick_dir()?;
        if !self.random.one_in(2) {
            // A tool that empties a folder leaves it.
            for file in files_below(&dir) {
                fs::remove_file(dir.join(file)).ok()?;
            }
            return Some(format!("{} emptied", self.show(&dir)?));
        }
        fs::remove_dir_all(&dir).ok()?;
        self.show(&dir)
    }

    fn rename_dir(&mut self) -> Option<String> {
        let from = self.pick_dir()?;
        let to = match self.random.below(3) {
            0 => self.root().join("archived_sessions/moved"),
            1 => from.with_file_name("28"),
            _ => self.root().join("sessions").join(self.random.pick(&["2024", "2026/02/11", "2026/02/08"])),
        };
        fs::create_dir_all(to.parent()?).ok()?;
        fs::rename(&from, &to).ok()?;
        Some(format!("{} -> {}", self.show(&from)?, self.show(&to)?))
    }

    fn any_dir(&mut self) -> PathBuf {
        let dir = self.pick_dir().filter(|_| true).unwrap_or_else(|| self.root().join("sessions"));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn stray(&mut self) -> Option<String> {
        let names = [
            "notes.txt",
            "notes.txt.zst",
            ".DS_Store",
            "rollout-x.jsonl",
            "rollout-compress-aB.tmp",
            "._x",
            "a\u{301} b",
        ];
        let path = self.any_dir().join(self.random.pick(&names));
        fs::write(&path, "x".repeat(self.random.below(5))).ok()?;
        self.show(&path)
    }

    fn pick_stray(&mut self) -> Option<PathBuf> {
        self.pick_file(|name| !is_rollout(name))
    }

    fn remove_stray(&mut self) -> Option<String> {
        let path = self.pick_stray()?;
        fs::remove_file(&path).ok()?;
        self.show(&path)
    }

    /// A stray may become a rollout, or a rollout a stray.
    fn rename_stray(&mut self) -> Option<String> {
        let (from, to) = match self.random.one_in(2) {
            true => (self.pick_stray()?, self.new_path()),
            false => {
                let from = self.pick_file(is_plain)?;
                let to = from.with_extension("jsonl.bak");
                (from, to)
            }
        };
        fs::rename(&from, &to).ok()?;
        Some(format!("{} -> {}", self.show(&from)?, self.show(&to)?))
    }

    fn other_kind(&mut self) -> Option<String> {
        let path = match self.random.one_in(2) {
            true => self.new_path(),
            false => self.pick_file(is_rollout)?,
        };
        if path.is_dir() {
            fs::remove_dir_all(&path).ok()?;
            let text = self.text(&path);
            fs::write(&path, text).ok()?;
            return Some(format!("{}: a file again", self.show(&path)?));
        }
        let _ = fs::remove_file(&path);
        if self.random.one_in(2) {
            std::os::unix::fs::symlink("/dev/null", &path).ok()?;
            return Some(format!("{}: a link", self.show(&path)?));
        }
        fs::create_dir(&path).ok()?;
        if self.random.one_in(2) {
            fs::write(path.join("inside.txt"), "x").ok()?;
        }
        Some(format!("{}: a folder", self.show(&path)?))
    }

    fn time(&mut self) -> std::time::SystemTime {
        match self.random.below(6) {
            0 => UNIX_EPOCH - Duration::from_millis(1_500),
            1 => UNIX_EPOCH + Duration::from_secs(4_000_000_000),
            _ => UNIX_EPOCH + Duration::from_secs(1_770_000_000 + self.random.below(5) as u64),
        }
    }

    fn touch(&mut self) -> Option<String> {
        let path = match self.random.one_in(4) {
            true => self.pick_dir()?,
            false => self.pick_file(|_| true)?,
        };
        let time = self.time();
        fs::File::open(&path).ok()?.set_modified(time).ok()?;
        self.show(&path)
    }

    fn restamp(&mut self) -> Option<String> {
        let from = self.pick_file(is_rollout)?;
        let name = from.file_name()?.to_str()?;
        let second = self.random.below(10);
        let to = from.with_file_name(format!("{}{second}{}", name.get(..26)?, name.get(27..)?));
        if to == from {
            return None;
        }
        fs::rename(&from, &to).ok()?;
        Some(format!("{} -> {}", self.show(&from)?, self.show(&to)?))
    }

    fn replace_root(&mut self) -> Option<String> {
        if !self.random.one_in(3) {
            return None;
        }
        let root = self.root().join(self.random.pick(&["sessions", "archived_sessions"]));
        let aside = self.root().join("aside");
        if aside.exists() {
            let _ = fs::remove_dir_all(&root);
            fs::rename(&aside, &root).ok()?;
            return Some(format!("aside -> {}", self.show(&root)?));
        }
        fs::rename(&root, &aside).ok()?;
        if self.random.one_in(2) {
            fs::create_dir(&root).ok()?;
        }
        Some(format!("{} -> aside", self.show(&root)?))
    }
}

fn is_rollout(name: &str) -> bool {
    rolloutfs::store::rollout::RolloutName::parse(name.as_bytes()).is_some()
}

fn is_plain(name: &str) -> bool {
    is_rollout(name) && name.ends_with(".jsonl")
}

/// One line of a walk: number, and what a kernel may keep of it.
struct Seen<'l> {
    number: u64,
    attributes: &'l str,
}

fn parse(line: &str) -> (&str, Seen<'_>) {
    let at =
        [" Dir 0x", " File 0x", " Link 0x"].iter().find_map(|kind| Some((line.rfind(kind)?, kind.len())));
    let (end, length) = at.unwrap();
    let (number, attributes) = line[end + length..].split_once(' ').unwrap();
    (&line[..end], Seen { number: u64::from_str_radix(number, 16).unwrap(), attributes })
}

/// What changed between two walks without news of it: a kernel that kept the old answer would keep it for long.
fn untold(before: &[String], after: &[String], news: &[Change]) -> Vec<String> {
    let (old, new): (BTreeMap<_, _>, BTreeMap<_, _>) =
        (before.iter().map(|line| parse(line)).collect(), after.iter().map(|line| parse(line)).collect());
    let number_of = |path: &str| match path {
        "" => Some(NodeNumber::ROOT),
        _ => old.get(path).map(|seen| NodeNumber(seen.number)),
    };
    // A dropped name drops all that is known below it.
    let entry_told = |path: &str| {
        path.match_indices('/').map(|(at, _)| at).chain([path.len()]).skip(1).any(|end| {
            let (dir, name) = path[..end].rsplit_once('/').unwrap();
            number_of(dir)
                .is_none_or(|dir| news.contains(&Change::Entry { dir, name: name.as_bytes().to_vec() }))
        })
    };
    let mut untold = Vec::new();
    for path in old.keys().chain(new.keys().filter(|path| !old.contains_key(*path))) {
        // The names file has news of its own.
        if *path == "/session_index.jsonl" {
            continue;
        }
        // These show the root's time, which tells nothing of what is in them.
        let shows_root = ["/README.md", "/.ignore", "/threads.jsonl"].contains(path);
        let told = match (old.get(path), new.get(path)) {
            (Some(old), Some(new)) if old.number == new.number => {
                old.attributes == new.attributes
                    || shows_root
                    || news.contains(&Change::Node { number: NodeNumber(old.number) })
                    || entry_told(path)
            }
            _ => entry_told(path),
        };
        if !told {
            let attributes =
                |seen: Option<&Seen<'_>>| seen.map(|seen| format!("{:#x} {}", seen.number, seen.attributes));
            untold.push(format!(
                "{path}: {:?} -> {:?}",
                attributes(old.get(path)),
                attributes(new.get(path))
            ));
        }
    }
    untold
}

/// What the index's bookkeeping must be, counted again from its rows.
pub struct Truth {
    problems: Vec<String>,
}

struct StoredDir {
    path: Vec<u8>,
    parent: i64,
    mtime_ns: i64,
    entries: i64,
    subdirs: i64,
    kept: bool,
    disk_mtime_ns: Option<i64>,
    digest: i64,
}

#[derive(Default)]
struct Counted {
    entries: i64,
    subdirs: i64,
    digest: i64,
    newest_ns: Option<i64>,
}

impl Truth {
    /// Counts everything again.
    pub fn of(store: &Store) -> Truth {
        let mut truth = Truth { problems: Vec::new() };
        let answer = store.index().read(|reader| {
            // One transaction: what is compared belongs together.
            reader.execute_batch("BEGIN")?;
            let counted = truth.count(reader);
            reader.execute_batch("ROLLBACK")?;
            counted
        });
        answer.unwrap();
        truth
    }

    /// Panics if anything was counted differently.
    pub fn assert_kept(&self, what: &str) {
        assert!(self.problems.is_empty(), "{:#?}\n{what}", self.problems);
    }

    fn count(&mut self, reader: &rolloutfs::store::index::Reader) -> rusqlite::Result<()> {
        let (views, queries) = (Views::new(), reader.queries());
        let dirs = stored_dirs(reader)?;
        let by_path: HashMap<&[u8], i64> =
            dirs.iter().map(|(number, dir)| (&dir.path[..], *number)).collect();
        let mut counted: BTreeMap<i64, Counted> = BTreeMap::new();
        let mut expected = Vec::new();
        let mut days: BTreeMap<i64, (i64, i64, i64)> = BTreeMap::new();
        let mut ids = reader.prepare("SELECT row FROM rollouts")?;
        let ids: Vec<i64> = ids.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        for id in ids {
            let row = queries.row_by_id(id)?.unwrap();
            let mut places = Vec::new();
            views.places(&row, &mut places);
            for place in places {
                let Some(&dir) = by_path.get(&place.dir[..]) else {
                    self.problems.push(format!("{}: no directory for it", shown(&place.dir)));
                    continue;
                };
                let number = entry_number(place.view, place.index, &place.dir, &row.file);
                counted.entry(dir).or_default().add(&place.name, number, row.file.disk.mtime_ns);
                let slot = i64::from(place.view.0) * 8 + i64::from(place.index);
                expected.push((dir, slot, id));
                assert_eq!(views.entry_name(place.view, &row.file), place.name);
            }
            count_line(&views, &row, &mut days);
        }
        self.compare_entries(reader, &views, expected)?;
        self.compare_dirs(&dirs, counted);
        self.compare_days(reader, days)
    }

    fn compare_entries(
        &mut self,
        reader: &rolloutfs::store::index::Reader,
        views: &Views,
        mut expected: Vec<(i64, i64, i64)>,
    ) -> rusqlite::Result<()> {
        let mut statement = reader.prepare("SELECT dir, slot, row FROM entries")?;
        let mut stored: Vec<(i64, i64, i64)> = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<Result<_, _>>()?;
        stored.sort_unstable();
        expected.sort_unstable();
        if stored != expected {
            self.problems.push(format!("entries: stored {stored:?}, places {expected:?}"));
        }
        let mut dirs = reader.prepare("SELECT number FROM dirs")?;
        let dirs: Vec<i64> = dirs.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        for dir in dirs {
            let dir_row = reader.queries().dir(NodeNumber::from_sql(dir))?.expect("a number of `dirs`");
            for entry in reader.queries().page(&dir_row, 0, 100_000)? {
                let name = match entry.node {
                    EntryNode::Dir(dir) => dir.name,
                    EntryNode::File { view, file, .. } => views.entry_name(view, &file),
                };
                if !(0..64).contains(&(entry.cookie - cookie_of(&name))) {
                    self.problems.push(format!(
                        "{}: cookie {} is not near its own",
                        shown(&name),
                        entry.cookie
                    ));
                }
            }
        }
        Ok(())
    }

    fn compare_dirs(&mut self, dirs: &BTreeMap<i64, StoredDir>, mut counted: BTreeMap<i64, Counted>) {
        // Deepest first: a directory's newest counts for the one that holds it.
        let mut order: Vec<_> = dirs.iter().collect();
        order.sort_by_key(|(_, dir)| {
            std::cmp::Reverse((!dir.path.is_empty(), dir.path.iter().filter(|&&byte| byte == b'/').count()))
        });
        for (number, dir) in order {
            let own = counted.remove(number).unwrap_or_default();
            let empty = own.entries + own.subdirs == 0;
            let mtime_ns = match own.newest_ns {
                Some(newest_ns) if !empty => newest_ns,
                _ => dir.disk_mtime_ns.unwrap_or(0),
            };
            let (stored, again) = (
                (dir.entries, dir.subdirs, dir.digest, dir.mtime_ns),
                (own.entries, own.subdirs, own.digest, mtime_ns),
            );
            if stored != again {
                self.problems.push(format!("{}: stored {stored:?}, counted {again:?}", shown(&dir.path)));
            }
            if empty && !dir.kept {
                self.problems.push(format!("{}: empty, and no view's root nor on disk", shown(&dir.path)));
            }
            if !dir.path.is_empty() {
                let name = dir.path.rsplit(|&byte| byte == b'/').next().unwrap();
                let holder = counted.entry(dir.parent).or_default();
                holder.add(name, NodeNumber::from_sql(*number), mtime_ns);
                holder.entries -= 1;
                holder.subdirs += 1;
            }
        }
        for (number, _) in counted {
            self.problems.push(format!("{number:#x}: holds something and is not there"));
        }
    }

    fn compare_days(
        &mut self,
        reader: &rolloutfs::store::index::Reader,
        days: BTreeMap<i64, (i64, i64, i64)>,
    ) -> rusqlite::Result<()> {
        let mut statement = reader.prepare("SELECT day, bytes, lines, digest FROM days WHERE lines > 0")?;
        let stored: BTreeMap<i64, (i64, i64, i64)> = statement
            .query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?, row.get(3)?))))?
            .collect::<Result<_, _>>()?;
        if stored != days {
            self.problems.push(format!("days: stored {stored:?}, counted {days:?}"));
        }
        Ok(())
    }
}

impl Counted {
    fn add(&mut self, name: &[u8], number: NodeNumber, mtime_ns: i64) {
        self.entries += 1;
        self.digest = self.digest.wrapping_add((xxh3_64(name) ^ number.0.rotate_left(31)) as i64);
        self.newest_ns = self.newest_ns.max(Some(mtime_ns));
    }
}

fn stored_dirs(reader: &rolloutfs::store::index::Reader) -> rusqlite::Result<BTreeMap<i64, StoredDir>> {
    let mut statement = reader.prepare(
        "SELECT number, path, parent, mtime_ns, entries, subdirs, kept, disk_mtime_ns, digest FROM dirs",
    )?;
    let rows = statement.query_map([], |row| {
        Ok((
            row.get(0)?,
            StoredDir {
                path: row.get(1)?,
                parent: row.get(2)?,
                mtime_ns: row.get(3)?,
                entries: row.get(4)?,
                subdirs: row.get(5)?,
                kept: row.get(6)?,
                disk_mtime_ns: row.get(7)?,
                digest: row.get(8)?,
            },
        ))
    })?;
    rows.collect()
}

fn count_line(views: &Views, row: &Row, days: &mut BTreeMap<i64, (i64, i64, i64)>) {
    if row.file.kind != RowKind::Rollout {
        return;
    }
    let line = views.line(row).unwrap();
    let day = days.entry(row.file.stamp_seconds.div_euclid(SECONDS_PER_DAY)).or_default();
    *day = (day.0 + line.len() as i64, day.1 + 1, day.2.wrapping_add(xxh3_64(&line) as i64));
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
