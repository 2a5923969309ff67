//! What does a caller get when the disk below refuses, and what is left? Real errors at the daemon's system calls, by
//! `strace`.
//!
//! Each case of the table is done with the fault, then without it. With it the caller gets that errno at that call, and
//! disk and tree are as before; without it the same call succeeds, and the next mount shows the same.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::bench::{
    Bench, DAY, answer, append, await_no_trouble, create, differences, header, name, sync, text, user,
    write_file,
};
use super::common::thread_id;
use super::harness::{Daemon, number_of, reason_to_skip};
use super::strace::{self, Strace};

type Act = Box<dyn Fn() -> io::Result<()>>;

/// A call, the system calls below that fail, and what is there once they do not.
struct Case {
    what: String,
    /// Names of system calls, and for which of them as strace says it.
    calls: &'static str,
    when: String,
    /// Which files they are about; none: any.
    paths: Vec<PathBuf>,
    prepare: Box<dyn Fn()>,
    act: Act,
    /// What is at these paths of the home (or the state folder) in the end; None: nothing.
    result: Vec<(PathBuf, Option<Vec<u8>>)>,
    /// A thread that may be plain afterwards, with the `.zst` beside it or without: its bytes are the same in the mount.
    may_be_plain: Option<PathBuf>,
}

impl Case {
    fn new(what: &str, calls: &'static str, paths: Vec<PathBuf>, act: Act) -> Case {
        Case {
            what: what.to_owned(),
            calls,
            when: String::new(),
            paths,
            prepare: Box::new(|| {}),
            act,
            result: Vec::new(),
            may_be_plain: None,
        }
    }

    fn after(mut self, prepare: impl Fn() + 'static) -> Case {
        self.prepare = Box::new(prepare);
        self
    }

    fn at(mut self, pass: u32) -> Case {
        self.when = pass.to_string();
        self.what += &format!(", pass {pass}");
        self
    }

    fn gives(mut self, path: PathBuf, bytes: impl Into<Option<Vec<u8>>>) -> Case {
        self.result.push((path, bytes.into()));
        self
    }
}

const OPENS: &str = "open,openat,openat2,creat";
const MKDIRS: &str = "mkdir,mkdirat";
const WRITES: &str = "write,writev,pwrite64,pwritev,pwritev2";
const MOVES: &str = "rename,renameat,renameat2,link,linkat";
const SYNCS: &str = "fsync,fdatasync";

/// Creating, and writing to what is pending.
fn cases_of_creation(bench: &mut Bench, cases: &mut Vec<Case>) {
    for (what, calls) in [("create", OPENS), ("create, its mode", "fchmod,fchmodat,chmod")] {
        let (_, path) = bench.free();
        let (above, below) = (bench.mnt(&path), bench.pending(&path));
        let act = Box::new(move || create(&above));
        cases.push(Case::new(what, calls, vec![below.clone()], act).gives(below, vec![]));
    }
    // The day is in the home and not yet in the spool.
    let number = bench.next();
    write_file(
        &bench.home(&format!("sessions/2026/02/09/{}", name(number).replace("-08T", "-09T"))),
        &text(number),
    );
    let path = format!("sessions/2026/02/09/{}", name(bench.next()).replace("-08T", "-09T"));
    let (above, below) = (bench.mnt(&path), bench.pending(&path));
    let folder = vec![below.parent().unwrap().to_owned()];
    let act = Box::new(move || create(&above));
    cases.push(Case::new("create, the folder in the spool", MKDIRS, folder, act).gives(below, vec![]));
    // Materialised at once: a segment.
    let number = bench.next();
    let segment = name(number).replace(".jsonl", &format!("_{}.jsonl", thread_id(900)));
    let path = format!("{DAY}/{segment}");
    let (above, below, home) = (bench.mnt(&path), bench.pending(&path), bench.home(&path));
    let act = Box::new(move || create(&above));
    cases.push(Case::new("create a segment", MOVES, vec![below], act).gives(home, vec![]));

    let above = bench.mnt("sessions/2026/03");
    let act = Box::new(move || fs::create_dir(&above));
    let below = vec![bench.pending("sessions/2026/03")];
    cases.push(Case::new("mkdir", MKDIRS, below, act));

    for (what, calls) in [("write to a pending thread", WRITES), ("write to a pending thread, open", OPENS)] {
        let (number, path) = bench.free();
        let (above, below) = (bench.mnt(&path), bench.pending(&path));
        let first = above.clone();
        let act = Box::new(move || append(&above, &answer(number, 2)));
        let whole = [header(number), answer(number, 2)].concat();
        cases.push(
            Case::new(what, calls, vec![below.clone()], act)
                .after(move || create(&first).and_then(|()| append(&first, &header(number))).unwrap())
                .gives(below, whole),
        );
    }
}

/// A user's message comes to a pending thread.
fn cases_of_materialising(bench: &mut Bench, cases: &mut Vec<Case>) {
    let mut one = |what: &str, calls, day: &str, fails: &dyn Fn(&Bench, &str) -> PathBuf| {
        let number = bench.next();
        let date = day.trim_start_matches("sessions/").replace('/', "-");
        let path = format!("{day}/{}", name(number).replace("2026-02-08", &date));
        let (above, home) = (bench.mnt(&path), bench.home(&path));
        let first = above.clone();
        let act = Box::new(move || append(&above, &user(number)));
        cases.push(
            Case::new(what, calls, vec![fails(bench, &path)], act)
                .after(move || {
                    fs::create_dir_all(first.parent().unwrap()).unwrap();
                    create(&first).and_then(|()| append(&first, &header(number))).unwrap();
                })
                .gives(home, text(number)),
        );
    };
    one("materialise, the rename", MOVES, DAY, &|bench, path| bench.pending(path));
    one("materialise, a month", MKDIRS, "sessions/2026/04/07", &|bench, _| bench.home("sessions/2026/04"));
    one("materialise, a day", MKDIRS, "sessions/2026/05/07", &|bench, _| bench.home("sessions/2026/05/07"));
    one("materialise, the read for the trigger", OPENS, DAY, &|bench, path| bench.pending(path));
}

/// Threads in the home: append, thaw, archive, trash.
fn cases_of_home(bench: &mut Bench, cases: &mut Vec<Case>) {
    for (what, calls) in [("append", WRITES), ("append, the first open", OPENS)] {
        let (number, path) = bench.thread();
        let (above, below) = (bench.mnt(&path), bench.home(&path));
        let act = Box::new(move || append(&above, &answer(number, 3)));
        let whole = [text(number), answer(number, 3)].concat();
        cases.push(Case::new(what, calls, vec![below.clone()], act).gives(below, whole));
    }
    let thaw =
        [("write", 1), ("write", 2), ("fsync", 1), ("fsync", 2), (OPENS, 0), (MOVES, 0), ("fchmod", 0)];
    for (calls, pass) in thaw {
        let number = bench.next();
        let path = format!("{DAY}/{}", name(number));
        let (above, plain) = (bench.mnt(&path), bench.home(&path));
        let zst = plain.with_extension("jsonl.zst");
        write_file(&zst, &zstd::encode_all(&text(number)[..], 3).unwrap());
        let act = Box::new(move || append(&above, &answer(number, 3)));
        // Temporary files have names of chance: any path. What is opened: the compressed file.
        let paths = if calls == OPENS { vec![zst.clone()] } else { Vec::new() };
        let whole = [text(number), answer(number, 3)].concat();
        let case = Case::new("thaw", calls, paths, act).gives(plain.clone(), whole);
        let mut case = if pass == 0 { case } else { case.at(pass) };
        if matches!((calls, pass), ("fsync" | "write", 2)) {
            // The plain one was published. Where its folder was not synced, the `.zst` stays, hidden.
            case.may_be_plain = Some(plain);
        } else {
            case = case.gives(zst, None);
        }
        case.what += &format!(" ({calls})");
        cases.push(case);
    }
    let (number, path) = bench.thread();
    let (from, to) = (bench.mnt(&path), bench.mnt(&format!("archived_sessions/{}", name(number))));
    let (below, archived) = (bench.home(&path), bench.home(&format!("archived_sessions/{}", name(number))));
    let act = Box::new(move || fs::rename(&from, &to));
    let case = Case::new("archive", MOVES, vec![below.clone()], act);
    cases.push(case.gives(below, None).gives(archived, text(number)));
    // Both forms: the second rename fails.
    let (number, path) = bench.thread();
    let (from, to) = (bench.mnt(&path), bench.mnt(&format!("archived_sessions/{}", name(number))));
    let (below, archived) = (bench.home(&path), bench.home(&format!("archived_sessions/{}", name(number))));
    let compressed = zstd::encode_all(&text(number)[..], 3).unwrap();
    write_file(&below.with_extension("jsonl.zst"), &compressed);
    let act = Box::new(move || fs::rename(&from, &to));
    let case =
        Case::new("archive both forms, the second", MOVES, vec![below.clone()], act).gives(below, None);
    let archived_zst = archived.with_extension("jsonl.zst");
    cases.push(case.gives(archived, text(number)).gives(archived_zst, compressed));

    for (what, day) in [("back from the archive", DAY), ("back, the folder", "sessions/2026/06/07")] {
        let number = bench.next();
        let date = day.trim_start_matches("sessions/").replace('/', "-");
        let name = name(number).replace("2026-02-08", &date);
        let archived = bench.home(&format!("archived_sessions/{name}"));
        write_file(&archived, &text(number));
        let (from, to) =
            (bench.mnt(&format!("archived_sessions/{name}")), bench.mnt(&format!("{day}/{name}")));
        let home = bench.home(&format!("{day}/{name}"));
        let folder = to.parent().unwrap().to_owned();
        let (calls, path) =
            if day == DAY { (MOVES, archived.clone()) } else { (MKDIRS, bench.home("sessions/2026/06")) };
        let act = Box::new(move || fs::rename(&from, &to));
        let case = Case::new(what, calls, vec![path], act).gives(archived, None).gives(home, text(number));
        cases.push(case.after(move || fs::create_dir_all(&folder).unwrap()));
    }

    // An item of the trash has a name of the time: every pass of each call, whatever its path.
    let passes = [(MKDIRS, 1), (OPENS, 0), ("write", 1), (MOVES, 0)];
    let trash = passes.into_iter().chain((1..=6).map(|pass| ("fsync", pass)));
    for (calls, pass) in trash {
        let (_, path) = bench.thread();
        let (above, below) = (bench.mnt(&path), bench.home(&path));
        let act = Box::new(move || fs::remove_file(&above));
        let paths = match calls {
            OPENS => vec![bench.state("trash")],
            MOVES => vec![below.clone()],
            _ => Vec::new(),
        };
        let case = Case::new(&format!("rm ({calls})"), calls, paths, act).gives(below, None);
        cases.push(if pass == 0 { case } else { case.at(pass) });
    }
    let (number, path) = bench.free();
    let (above, below) = (bench.mnt(&path), bench.pending(&path));
    let first = above.clone();
    let act = Box::new(move || fs::remove_file(&above));
    let case = Case::new("rm of a pending thread", "write", Vec::new(), act).gives(below, None);
    cases.push(case.after(move || create(&first).and_then(|()| append(&first, &header(number))).unwrap()));
}

/// Scratch files and what they become.
fn cases_of_scratch(bench: &mut Bench, cases: &mut Vec<Case>) {
    let mut temporary = 0;
    let mut one = |bench: &mut Bench,
                   what: &str,
                   calls,
                   number: u64,
                   bytes: Vec<u8>,
                   fails: &dyn Fn(&Bench, &Path) -> PathBuf| {
        temporary += 1;
        let from = format!("{DAY}/.{temporary}.tmp");
        let path = format!("{DAY}/{}", name(number));
        let (above, to) = (bench.mnt(&from), bench.mnt(&path));
        let (first, below) = (above.clone(), bench.scratch(&from));
        let written = bytes.clone();
        let act = Box::new(move || fs::rename(&above, &to));
        Case::new(what, calls, vec![fails(bench, &below)], act)
            .after(move || create(&first).and_then(|()| append(&first, &written)).unwrap())
            .gives(below, None)
    };
    let is_from = |_: &Bench, below: &Path| below.to_owned();
    let number = bench.next();
    let case = one(bench, "rename to a thread", MOVES, number, text(number), &is_from);
    cases.push(case.gives(bench.home(&format!("{DAY}/{}", name(number))), text(number)));
    let number = bench.next();
    let case = one(bench, "rename to a pending thread", MOVES, number, header(number), &is_from);
    cases.push(case.gives(bench.pending(&format!("{DAY}/{}", name(number))), header(number)));
    // Over a thread in the home, which is in the trash meanwhile.
    for calls in [MOVES, OPENS] {
        let (number, path) = bench.thread();
        let new = [text(number), answer(number, 3)].concat();
        let case = one(bench, "rename over a thread", calls, number, new.clone(), &is_from);
        cases.push(case.gives(bench.home(&path), new));
    }
    // Over a pending one.
    let (number, path) = bench.free();
    let case = one(bench, "rename over a pending thread", MOVES, number, text(number), &is_from);
    let (write, old) = (case.prepare, bench.mnt(&path));
    let prepare = move || {
        create(&old).and_then(|()| append(&old, &answer(number, 7))).unwrap();
        write();
    };
    let case = Case { prepare: Box::new(prepare), ..Case { prepare: Box::new(|| {}), ..case } };
    cases.push(case.gives(bench.home(&path), text(number)).gives(bench.pending(&path), None));
    // Codex's compressor.
    let (number, path) = bench.thread();
    let (above, to) =
        (bench.mnt(&format!("{DAY}/rollout-compress-1.tmp")), bench.mnt(&format!("{path}.zst")));
    let below = bench.scratch(&format!("{DAY}/rollout-compress-1.tmp"));
    let bytes = zstd::encode_all(&text(number)[..], 3).unwrap();
    let (first, written) = (above.clone(), bytes.clone());
    let act = Box::new(move || fs::rename(&above, &to));
    cases.push(
        Case::new("rename to a .zst", MOVES, vec![below], act)
            .after(move || create(&first).and_then(|()| append(&first, &written)).unwrap())
            .gives(bench.home(&format!("{path}.zst")), bytes),
    );
}

/// Names.
fn cases_of_names(bench: &mut Bench, cases: &mut Vec<Case>) {
    let names = bench.home("session_index.jsonl");
    let entry = |number: u64, name: &str| {
        let id = thread_id(number);
        format!("{{\"id\":\"{id}\",\"thread_name\":\"{name}\",\"updated_at\":\"2026-02-08T09:15:01Z\"}}\n")
    };
    let mut all = String::new();
    for (what, calls) in [("mv", "write"), ("mv, open", OPENS)] {
        let (number, _) = bench.thread();
        all += &entry(number, &format!("old{number}"));
        let from = bench.mnt(&format!("by-name/old{number}.jsonl"));
        let to = bench.mnt(&format!("by-name/new{number}.jsonl"));
        let act = Box::new(move || fs::rename(&from, &to));
        cases.push(Case::new(&format!("{what} in by-name"), calls, vec![names.clone()], act));
    }
    let (number, path) = bench.thread();
    let at = bench.mnt(&format!("by-name/linked{number}.jsonl"));
    let act = Box::new(move || std::os::unix::fs::symlink(format!("../{path}"), &at));
    cases.push(Case::new("ln -s in by-name", "write", vec![names.clone()], act));
    let temporary = bench.home("session_index.jsonl.tmp");
    for calls in [OPENS, "write", "fsync", "fchmod", MOVES] {
        let (number, _) = bench.thread();
        all += &entry(number, &format!("gone{number}"));
        let at = bench.mnt(&format!("by-name/gone{number}.jsonl"));
        let act = Box::new(move || fs::remove_file(&at));
        cases.push(Case::new(&format!("rm in by-name ({calls})"), calls, vec![temporary.clone()], act));
    }
    let (above, more) = (bench.mnt("session_index.jsonl"), entry(1, "appended"));
    let act = Box::new(move || append(&above, more.as_bytes()));
    cases.push(Case::new("append to session_index.jsonl", WRITES, vec![names.clone()], act));
    let (from, to) = (bench.mnt("session_index.jsonl.tmp"), bench.mnt("session_index.jsonl"));
    let (first, copied) = (from.clone(), to.clone());
    let act = Box::new(move || fs::rename(&from, &to));
    let prepare = move || create(&first).and_then(|()| append(&first, &fs::read(&copied).unwrap())).unwrap();
    let below = vec![bench.scratch("session_index.jsonl.tmp")];
    cases.push(Case::new("replace session_index.jsonl", MOVES, below, act).after(prepare));
    write_file(&names, all.as_bytes());
}

/// fsync of files and folders.
fn cases_of_syncing(bench: &mut Bench, cases: &mut Vec<Case>) {
    for of_folder in [false, true] {
        let (_, path) = bench.thread();
        let above = bench.mnt(&path);
        let below = bench.home(if of_folder { DAY } else { &path });
        let act = Box::new(move || sync(&above));
        let what = if of_folder { "fsync, its folder" } else { "fsync" };
        cases.push(Case::new(what, SYNCS, vec![below], act));
        let (number, path) = bench.free();
        let (above, below) = (bench.mnt(&path), bench.pending(if of_folder { DAY } else { &path }));
        let first = above.clone();
        let act = Box::new(move || sync(&above));
        let case = Case::new(&format!("{what}, pending"), SYNCS, vec![below], act);
        cases
            .push(case.after(move || create(&first).and_then(|()| append(&first, &header(number))).unwrap()));
    }
    let (_, path) = bench.thread();
    let (above, below) = (bench.mnt(&path), bench.home(&path));
    let act = Box::new(move || File::open(&above)?.sync_data());
    cases.push(Case::new("fdatasync", SYNCS, vec![below], act));
    let (above, below) = (bench.mnt(DAY), bench.home(DAY));
    cases.push(Case::new("fsync of a folder", SYNCS, vec![below], Box::new(move || sync(&above))));
}

/// What a writer does besides.
fn cases_of_the_rest(bench: &mut Bench, cases: &mut Vec<Case>) {
    let made =
        |path: PathBuf, bytes: Vec<u8>| move || create(&path).and_then(|()| append(&path, &bytes)).unwrap();
    let write_at = |path: &Path, bytes: &[u8], offset: u64| -> io::Result<()> {
        let file = fs::OpenOptions::new().write(true).open(path)?;
        assert_eq!(file.write_at(bytes, offset)?, bytes.len());
        Ok(())
    };
    // A line that is written over a pending one, and materialises it.
    let (number, path) = bench.free();
    let (above, below, home) = (bench.mnt(&path), bench.pending(&path), bench.home(&path));
    let old = [header(number), vec![b'x'; user(number).len() - 7]].concat();
    let prepare = made(above.clone(), old);
    let offset = header(number).len() as u64;
    let act = Box::new(move || write_at(&above, &user(number), offset));
    let case = Case::new("write over, and materialise", MOVES, vec![below], act);
    cases.push(case.after(prepare).gives(home, text(number)));

    let (number, path) = bench.free();
    let (above, below) = (bench.mnt(&path), bench.pending(&path));
    let prepare = made(above.clone(), header(number));
    let act = Box::new(move || fs::OpenOptions::new().write(true).open(&above)?.set_len(3));
    let case = Case::new("truncate", "ftruncate,truncate", vec![below.clone()], act);
    cases.push(case.after(prepare).gives(below, header(number)[..3].to_vec()));

    let (number, path) = bench.thread();
    let (above, below) = (bench.mnt(&path), bench.home(&path));
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    let act = Box::new(move || File::open(&above)?.set_modified(time));
    let case = Case::new("touch", "utimensat,utime,utimes,futimesat", vec![below.clone()], act);
    cases.push(case.gives(below, text(number)));

    let (number, path) = bench.thread();
    let (above, below) = (bench.mnt(&path), bench.home(&path));
    let act = Box::new(move || fs::set_permissions(&above, fs::Permissions::from_mode(0o640)));
    let case = Case::new("chmod", "chmod,fchmodat,fchmodat2", vec![below.clone()], act);
    cases.push(case.gives(below, text(number)));

    let folder = "sessions/2026/11";
    let (above, below) = (bench.mnt(folder), bench.pending(folder));
    let first = above.clone();
    let act = Box::new(move || fs::remove_dir(&above));
    let case = Case::new("rmdir", "rmdir,unlinkat", vec![below], act);
    cases.push(case.after(move || fs::create_dir(&first).unwrap()));

    let path = format!("{DAY}/.removed.tmp");
    let (above, below) = (bench.mnt(&path), bench.scratch(&path));
    let prepare = made(above.clone(), b"x".to_vec());
    let act = Box::new(move || fs::remove_file(&above));
    let case = Case::new("rm of a scratch file", "unlink,unlinkat", vec![below.clone()], act);
    cases.push(case.after(prepare).gives(below, None));

    let (from, to) = (format!("{DAY}/.from.tmp"), format!("{DAY}/.to.tmp"));
    let (above, other) = (bench.mnt(&from), bench.mnt(&to));
    let prepare = made(above.clone(), b"y".to_vec());
    let act = Box::new(move || fs::rename(&above, &other));
    let case = Case::new("rename of a scratch file", MOVES, vec![bench.scratch(&from)], act);
    cases.push(case.after(prepare).gives(bench.scratch(&to), b"y".to_vec()));

    // The compressor's last step: the plain file goes, as its bytes are in the other.
    let (number, path) = bench.thread();
    let (above, below) = (bench.mnt(&path), bench.home(&path));
    let packed = zstd::encode_all(&text(number)[..], 3).unwrap();
    write_file(&below.with_extension("jsonl.zst"), &packed);
    let act = Box::new(move || fs::remove_file(&above));
    let case = Case::new("rm of a plain file beside its .zst", "unlink,unlinkat", vec![below.clone()], act);
    cases.push(case.gives(below.with_extension("jsonl.zst"), packed).gives(below, None));

    for (verb, calls) in [("persist", MOVES), ("discard", "unlink,unlinkat")] {
        let (number, path) = bench.free();
        let (above, below, home) = (bench.mnt(&path), bench.pending(&path), bench.home(&path));
        let prepare = made(above, header(number));
        let control = bench.mnt(".rolloutfs/control");
        let command = format!("{verb} {}\n", thread_id(number));
        let act = Box::new(move || fs::write(&control, &command));
        let case = Case::new(verb, calls, vec![below.clone()], act).after(prepare).gives(below, None);
        cases.push(case.gives(home, (verb == "persist").then(|| header(number))));
    }
}

/// Moves between two disks, which are copies: of what is materialised, and of what goes to the trash.
fn cases_of_two_disks(bench: &mut Bench, cases: &mut Vec<Case>) {
    const COPIES: &str = "copy_file_range,sendfile,splice,write";
    const TIMES: &str = "utimensat,futimesat";
    let pass_of = |case: Case, pass: u32| if pass == 0 { case } else { case.at(pass) };
    let copying = [(COPIES, 1), (TIMES, 1), ("fchmod", 1), (MOVES, 1), (MOVES, 2), ("unlink,unlinkat", 0)];
    for (calls, pass) in copying.into_iter().chain([("fsync", 1), ("fsync", 2)]) {
        let (number, path) = bench.free();
        let (above, below, home) = (bench.mnt(&path), bench.pending(&path), bench.home(&path));
        let first = above.clone();
        let act = Box::new(move || append(&above, &user(number)));
        let paths = if pass == 0 { vec![below.clone()] } else { Vec::new() };
        let case = Case::new(&format!("materialise on another disk ({calls})"), calls, paths, act)
            .after(move || create(&first).and_then(|()| append(&first, &header(number))).unwrap())
            .gives(home, text(number))
            .gives(below, None);
        cases.push(pass_of(case, pass));
    }
    for (calls, pass) in copying.into_iter().chain((1..=8).map(|pass| ("fsync", pass))) {
        let (_, path) = bench.thread();
        let (above, below) = (bench.mnt(&path), bench.home(&path));
        let act = Box::new(move || fs::remove_file(&above));
        let paths = if pass == 0 { vec![below.clone()] } else { Vec::new() };
        let case = Case::new(&format!("rm to another disk ({calls})"), calls, paths, act).gives(below, None);
        cases.push(pass_of(case, pass));
    }
    // Over a thread, which is in the trash meanwhile: each move is tried as a rename before it is a copy.
    for pass in 1..=4 {
        let (number, path) = bench.thread();
        let from = format!("{DAY}/.{number}.tmp");
        let (above, to, below, home) =
            (bench.mnt(&from), bench.mnt(&path), bench.scratch(&from), bench.home(&path));
        let new = [text(number), answer(number, 3)].concat();
        let (first, written) = (above.clone(), new.clone());
        let act = Box::new(move || fs::rename(&above, &to));
        let case = Case::new("rename over a thread on another disk", MOVES, Vec::new(), act).at(pass);
        let case = case.after(move || create(&first).and_then(|()| append(&first, &written)).unwrap());
        cases.push(case.gives(home, new).gives(below, None));
    }
    for (calls, pass) in [(COPIES, 1), ("fsync", 1), (MOVES, 2)] {
        let (above, names) = (bench.mnt("session_index.jsonl.tmp"), bench.home("session_index.jsonl"));
        let (first, to) = (above.clone(), bench.mnt("session_index.jsonl"));
        let act = Box::new(move || fs::rename(&above, &to));
        let case =
            Case::new(&format!("replace the names from another disk ({calls})"), calls, Vec::new(), act);
        let case = case.at(pass).after(move || create(&first).and_then(|()| append(&first, b"\n")).unwrap());
        cases.push(case.gives(names, b"\n".to_vec()));
    }
}

/// The whole table with one errno.
fn table(errno_name: &str, errno: i32) {
    if let Some(reason) = reason_to_skip().or_else(strace::reason_to_skip) {
        println!("skipped: {reason}");
        return;
    }
    let mut bench = Bench::new();
    let mut cases = Vec::new();
    cases_of_creation(&mut bench, &mut cases);
    cases_of_materialising(&mut bench, &mut cases);
    cases_of_home(&mut bench, &mut cases);
    cases_of_scratch(&mut bench, &mut cases);
    cases_of_names(&mut bench, &mut cases);
    cases_of_syncing(&mut bench, &mut cases);
    cases_of_the_rest(&mut bench, &mut cases);
    all_of(&bench, cases, errno_name, errno);
}

/// The moves between two disks with one errno.
fn table_of_two_disks(errno_name: &str, errno: i32) {
    let state = tempfile::tempdir_in("/dev/shm");
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    let reason = reason_to_skip().or_else(strace::reason_to_skip).or_else(|| match &state {
        Err(error) => Some(format!("/dev/shm: {error}")),
        Ok(dir) if device(dir.path()) == device(&std::env::temp_dir()) => {
            Some("the temporary folder is on /dev/shm".to_owned())
        }
        Ok(_) => None,
    });
    if let Some(reason) = reason {
        println!("skipped: {reason}");
        return;
    }
    let mut bench = Bench::with(state.ok());
    write_file(&bench.home("session_index.jsonl"), b"");
    let mut cases = Vec::new();
    cases_of_two_disks(&mut bench, &mut cases);
    all_of(&bench, cases, errno_name, errno);
}

fn all_of(bench: &Bench, cases: Vec<Case>, errno_name: &str, errno: i32) {
    let daemon = bench.mount();
    let mut wrong = Vec::new();
    for case in &cases {
        (case.prepare)();
        if let Err(said) = one_case(bench, &daemon, case, errno_name, errno) {
            wrong.push(format!("{} with {errno_name}: {said}", case.what));
        }
    }
    println!("{} cases with {errno_name}", cases.len());
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n"),
        daemon.log_text()
    );
    let before = bench.shown();
    daemon.unmount();
    let daemon = bench.mount();
    assert_eq!(differences(&before, &bench.shown()), Vec::<String>::new(), "{errno_name}, mounted again");
    daemon.unmount();
}

fn one_case(bench: &Bench, daemon: &Daemon, case: &Case, errno_name: &str, errno: i32) -> Result<(), String> {
    let (mut disk, shown) = (bench.on_disk(), bench.shown());
    let notes = bench.place.notes().join("strace");
    let strace = Strace::fail(daemon, &notes, case.calls, &case.when, errno_name, &case.paths);
    let refused = (case.act)();
    let noted = strace.end();
    if !noted.contains("(INJECTED)") {
        return Err(format!("no such call was made: {}; {refused:?}", noted.trim()));
    }
    if refused.as_ref().err().and_then(io::Error::raw_os_error) != Some(errno) {
        return Err(format!("the caller got {refused:?}: {}", noted.trim()));
    }
    let mut disk_after = bench.on_disk();
    if let Some(plain) = &case.may_be_plain {
        for path in [plain.clone(), plain.with_extension("jsonl.zst")] {
            disk.remove(&path);
            disk_after.remove(&path);
        }
    }
    let left = differences(&disk, &disk_after);
    if !left.is_empty() {
        return Err(format!("on disk: {left:?}"));
    }
    let left = differences(&shown, &bench.shown());
    if !left.is_empty() {
        return Err(format!("in the mount: {left:?}"));
    }
    (case.act)().map_err(|error| format!("again, without the fault: {error}"))?;
    for (path, wanted) in &case.result {
        let found = fs::read(path).ok();
        if found != *wanted {
            let sizes = (found.map(|it| it.len()), wanted.as_ref().map(Vec::len));
            return Err(format!("in the end, {}: {sizes:?}", path.display()));
        }
    }
    bench.shown();
    Ok(())
}

/// Every system call of an operation that may fail, one after the other: what the table does not think of. The call may
/// also be the indexer's. Refused, nothing is changed on disk; done, all is; and the next mount shows the same.
fn sweep(errno_name: &str, errno: i32, beside: Option<tempfile::TempDir>) {
    // Not writev: by it the daemon answers the kernel.
    let kinds = [
        OPENS,
        MKDIRS,
        "write",
        "pwrite64",
        MOVES,
        SYNCS,
        "unlink,unlinkat",
        "fchmod",
        "utimensat",
        "copy_file_range",
        "sendfile",
    ];
    let mut bench = Bench::with(beside);
    let (mut cases, mut counts) = (Vec::new(), std::collections::BTreeMap::<&str, u32>::new());
    let most = number_of("ROLLOUTFS_FAULT_PASSES", 1) as u32;
    let mut names = String::new();
    for (pass, calls) in (1..=most).flat_map(|pass| kinds.map(|calls| (pass, calls))) {
        let (number, path) = bench.free();
        let (above, below) = (bench.mnt(&path), bench.pending(&path));
        cases.push((
            pass,
            Case::new("create", calls, vec![], Box::new(move || create(&above))).gives(below, vec![]),
        ));

        let (number2, path) = bench.free();
        let (above, home) = (bench.mnt(&path), bench.home(&path));
        let first = above.clone();
        let act = Box::new(move || append(&above, &user(number2)));
        let prepare = move || create(&first).and_then(|()| append(&first, &header(number2))).unwrap();
        cases.push((
            pass,
            Case::new("materialise", calls, vec![], act).after(prepare).gives(home, text(number2)),
        ));

        let (_, path) = bench.thread();
        let (above, below) = (bench.mnt(&path), bench.home(&path));
        cases.push((
            pass,
            Case::new("rm", calls, vec![], Box::new(move || fs::remove_file(&above))).gives(below, None),
        ));

        let (number3, path) = bench.thread();
        let (from, to) = (bench.mnt(&path), bench.mnt(&format!("archived_sessions/{}", name(number3))));
        let archived = bench.home(&format!("archived_sessions/{}", name(number3)));
        let zst = bench.home(&path).with_extension("jsonl.zst");
        write_file(&zst, &zstd::encode_all(&text(number3)[..], 3).unwrap());
        let case = Case::new("archive", calls, vec![], Box::new(move || fs::rename(&from, &to)));
        cases.push((pass, case.gives(archived, text(number3)).gives(zst, None)));

        let (number4, path) = bench.thread();
        let temporary = format!("{DAY}/.{number}.tmp");
        let (above, to, home) = (bench.mnt(&temporary), bench.mnt(&path), bench.home(&path));
        let new = [text(number4), answer(number4, 3)].concat();
        let (first, written) = (above.clone(), new.clone());
        let prepare = move || create(&first).and_then(|()| append(&first, &written)).unwrap();
        let act = Box::new(move || fs::rename(&above, &to));
        cases.push((
            pass,
            Case::new("rename over a thread", calls, vec![], act).after(prepare).gives(home, new),
        ));

        let number5 = bench.next();
        let path = format!("{DAY}/{}", name(number5));
        let (above, plain) = (bench.mnt(&path), bench.home(&path));
        write_file(&plain.with_extension("jsonl.zst"), &zstd::encode_all(&text(number5)[..], 3).unwrap());
        let act = Box::new(move || append(&above, &answer(number5, 3)));
        let whole = [text(number5), answer(number5, 3)].concat();
        let case = Case::new("thaw", calls, vec![], act).gives(plain.clone(), whole);
        cases.push((pass, Case { may_be_plain: Some(plain), ..case }));

        let (number6, _) = bench.thread();
        let id = thread_id(number6);
        let name = format!("gone{number6}");
        names += &format!("{{\"id\":\"{id}\",\"thread_name\":\"{name}\",\"updated_at\":\"unknown\"}}\n");
        let at = bench.mnt(&format!("by-name/{name}.jsonl"));
        cases.push((pass, Case::new("rm in by-name", calls, vec![], Box::new(move || fs::remove_file(&at)))));
    }
    write_file(&bench.home("session_index.jsonl"), names.as_bytes());
    let daemon = bench.mount();
    let mut wrong = Vec::new();
    for (pass, case) in &cases {
        (case.prepare)();
        let mut disk = bench.on_disk();
        let notes = bench.place.notes().join("strace");
        let strace = Strace::fail(&daemon, &notes, case.calls, &pass.to_string(), errno_name, &[]);
        let done = (case.act)();
        let noted = strace.end();
        let mut after = bench.on_disk();
        if let Some(plain) = &case.may_be_plain {
            for path in [plain.clone(), plain.with_extension("jsonl.zst")] {
                disk.remove(&path);
                after.remove(&path);
            }
        }
        let said = done.as_ref().map_or_else(io::Error::raw_os_error, |()| Some(0));
        *counts.entry(if said == Some(0) { "done" } else { "refused" }).or_default() += 1;
        let left = differences(&disk, &after);
        if !matches!(said, Some(said) if [0, errno, libc::EIO].contains(&said))
            || said != Some(0) && !left.is_empty()
        {
            wrong.push(format!(
                "{} ({}), pass {pass}: {done:?}, {left:?}: {}",
                case.what,
                case.calls,
                noted.trim()
            ));
            continue;
        }
        let again = if done.is_ok() { Ok(()) } else { (case.act)() };
        let is_right = case.result.iter().all(|(path, wanted)| fs::read(path).ok() == *wanted);
        if again.is_err() || !is_right {
            wrong.push(format!(
                "{} ({}), pass {pass}: {done:?}, then {again:?}, {is_right}: {}",
                case.what,
                case.calls,
                noted.trim()
            ));
        }
    }
    println!("{counts:?} with {errno_name}");
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert_eq!(counts.len(), 2, "some are done and some refused");
    await_no_trouble(&daemon);
    let before = bench.shown();
    daemon.unmount();
    let daemon = bench.mount();
    assert_eq!(differences(&before, &bench.shown()), Vec::<String>::new(), "{errno_name}, mounted again");
    daemon.unmount();
}

#[test]
fn what_a_full_disk_refuses_is_told_and_leaves_nothing() {
    table("ENOSPC", libc::ENOSPC);
}

#[test]
fn what_a_broken_disk_refuses_is_told_and_leaves_nothing() {
    table("EIO", libc::EIO);
}

#[test]
fn what_a_read_only_disk_refuses_is_told_and_leaves_nothing() {
    table("EROFS", libc::EROFS);
}

#[test]
fn what_a_quota_refuses_is_told_and_leaves_nothing() {
    table("EDQUOT", libc::EDQUOT);
}

#[test]
fn a_copy_to_another_disk_that_is_full_is_taken_back() {
    table_of_two_disks("ENOSPC", libc::ENOSPC);
}

#[test]
fn a_copy_to_another_disk_that_is_broken_is_taken_back() {
    table_of_two_disks("EIO", libc::EIO);
}

#[test]
fn any_call_below_may_fail() {
    if let Some(reason) = reason_to_skip().or_else(strace::reason_to_skip) {
        println!("skipped: {reason}");
        return;
    }
    sweep("ENOSPC", libc::ENOSPC, None);
}

#[test]
fn any_call_below_may_fail_between_two_disks() {
    if let Some(reason) = reason_to_skip().or_else(strace::reason_to_skip) {
        println!("skipped: {reason}");
        return;
    }
    match tempfile::tempdir_in("/dev/shm") {
        Ok(state) => sweep("EIO", libc::EIO, Some(state)),
        Err(error) => println!("skipped: /dev/shm: {error}"),
    }
}

/// A write that the kernel cuts at a page border: its first piece is kept aside until the rest comes, and both land as one.
#[test]
fn a_write_that_was_cut_lands_once_and_whole_when_the_disk_takes_it() {
    if let Some(reason) = reason_to_skip().or_else(strace::reason_to_skip) {
        println!("skipped: {reason}");
        return;
    }
    let mut bench = Bench::new();
    let threads: Vec<_> = (0..4).map(|_| bench.thread()).collect();
    let start = |number| [text(number), vec![b'\n'; 4000 - text(number).len()]].concat();
    threads.iter().for_each(|(number, path)| write_file(&bench.home(path), &start(*number)));
    let daemon = bench.mount();
    for (at, (number, path)) in threads.iter().enumerate() {
        let (above, below) = (bench.mnt(path), bench.home(path));
        let held = bench.state(&format!("held/{:016x}", fs::metadata(&above).unwrap().ino()));
        let errno_name = ["ENOSPC", "EIO"][at % 2];
        let errno = [libc::ENOSPC, libc::EIO][at % 2];
        // Where it lands, and where it is kept.
        let fails = [below.clone(), held][at / 2].clone();
        let line = answer(*number, 3);
        let mut file = fs::OpenOptions::new().append(true).open(&above).unwrap();
        let strace =
            Strace::fail(&daemon, &bench.place.notes().join("strace"), WRITES, "", errno_name, &[fails]);
        // Where it cannot be kept it lands in pieces.
        let is_taken = at / 2 == 1;
        let mut done = 0;
        let refused = loop {
            match file.write(&line[done..]) {
                Ok(count) => done += count,
                Err(error) => break error.raw_os_error(),
            }
            if done == line.len() {
                break None;
            }
        };
        let synced = file.sync_all().err().and_then(|error| error.raw_os_error());
        let noted = strace.end();
        assert!(noted.contains("(INJECTED)"), "{at}: {noted}");
        let expected = Some(errno).filter(|_| !is_taken);
        assert_eq!((refused, synced), (expected, expected), "{at}, {done} bytes: {}", daemon.log_text());
        file.write_all(&line[done..]).unwrap();
        file.sync_all().unwrap();
        let whole = [start(*number), line].concat();
        assert!(fs::read(&below).unwrap() == whole, "{at}: {done} bytes were accepted: {noted}");
        assert!(fs::read(&above).unwrap() == whole, "{at}: in the mount");
    }
    daemon.unmount();
}
