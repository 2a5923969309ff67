//! Does the trash lose nothing, at any point, and give everything back?

use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use tempfile::TempDir;

use super::info::{INFO_NAME, WHY_UNKNOWN, decode_path, write_info};
use super::*;
use crate::store::failpoint::crash;
use crate::store::placement::tests::two_disks;

const ID: &str = "0198c0de-0000-7000-8000-000000000001";
const ACTIVE: &str =
    "sessions/2026/02/08/rollout-2026-02-08T10-15-01-0198c0de-0000-7000-8000-000000000001.jsonl";
const ARCHIVED: &str =
    "archived_sessions/rollout-2026-02-08T10-15-01-0198c0de-0000-7000-8000-000000000001.jsonl";

struct Made {
    dir: TempDir,
    home: Home,
    trash: Trash,
}

impl Made {
    fn with(files: &[&str]) -> Made {
        let dir = TempDir::new().unwrap();
        let made_home = Home::open(dir.path()).unwrap();
        let trash = Trash::of_home(&made_home, None);
        let made = Made { dir, home: made_home, trash };
        fs::create_dir(made.dir.path().join("sessions")).unwrap();
        files.iter().for_each(|path| made.write(path));
        made
    }

    fn write(&self, path: &str) {
        let file = self.dir.path().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, format!("content of {path}")).unwrap();
        let then = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 987_654_321);
        File::options().append(true).open(file).unwrap().set_modified(then).unwrap();
    }

    fn put(&self, path: &str) -> Result<TrashItem> {
        put(&self.home, &self.trash, path)
    }

    /// Files below the roots, with what a move keeps.
    fn files(&self) -> Vec<(String, u64, i64, u32)> {
        let mut dirs: Vec<_> = ROOTS.map(|root| self.dir.path().join(root)).into();
        let mut found = Vec::new();
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let stat = entry.metadata().unwrap();
                if stat.is_dir() {
                    dirs.push(entry.path());
                    continue;
                }
                if is_ours(entry.file_name().as_bytes()) {
                    continue;
                }
                let path = entry.path().strip_prefix(self.dir.path()).unwrap().to_str().unwrap().to_owned();
                assert_eq!(fs::read_to_string(entry.path()).unwrap(), format!("content of {path}"));
                found.push((path, stat.len(), stat.mtime_nsec(), stat.mode()));
            }
        }
        found.sort();
        found
    }

    fn items(&self) -> Vec<TrashItem> {
        self.trash.list().unwrap()
    }
}

fn put(home: &Home, trash: &Trash, path: &str) -> Result<TrashItem> {
    let options = PutOptions {
        name: Some("planb".to_owned()),
        why: "rm in a test".to_owned(),
        ..PutOptions::default()
    };
    trash.put(&companions(home, path.as_bytes(), true), &options)
}

/// Spec 11.8, row 4, but that it can be undone.
#[test]
fn all_four_files_of_a_thread_are_one_item_and_come_back_as_they_were() {
    let zst = [ACTIVE, ARCHIVED].map(|path| format!("{path}.zst"));
    let all = [ACTIVE, ARCHIVED, &zst[0], &zst[1]];
    for count in 1..=4 {
        let made = Made::with(&all[..count]);
        let before = made.files();
        let item = made.put(ACTIVE).unwrap();
        assert_eq!((made.files(), item.present, item.info.files.len()), (vec![], count, count));
        assert_eq!(item.info.files.last().unwrap().path, ACTIVE, "what counts is last");
        assert_eq!(item.info.files[0].mtime_ns, 1_700_000_000_987_654_321);
        assert_eq!(made.items(), std::slice::from_ref(&item));
        assert_eq!(fs::metadata(&item.folder).unwrap().mode() & 0o777, 0o700);
        let restored = made.trash.restore(&item, None).unwrap();
        assert_eq!((restored.len(), made.files()), (count, before));
        assert!(made.items().is_empty() && !item.folder.exists());
    }
    let refused = Made::with(&[]).put(ACTIVE);
    assert!(matches!(refused, Err(StoreError::NotFound { .. })), "{refused:?}");
}

#[test]
fn an_item_says_what_it_is() {
    let made = Made::with(&[ACTIVE]);
    let item = made.put(ACTIVE).unwrap();
    assert!(item.id.ends_with("Z-00000001"), "{}", item.id);
    let info: serde_json::Value =
        serde_json::from_slice(&fs::read(item.folder.join(INFO_NAME)).unwrap()).unwrap();
    assert_eq!(
        (&info["thread_id"], &info["name"], &info["why"]),
        (&ID.into(), &"planb".into(), &"rm in a test".into())
    );
    assert_eq!(info["files"][0]["size_bytes"], format!("content of {ACTIVE}").len());
    assert!(info["removed_at"].as_str().unwrap().ends_with('Z'));
    for text in [item.id.as_str(), ID, "planb", "00000001"] {
        assert_eq!(made.trash.find(text).unwrap(), item, "{text}");
    }
    assert!(matches!(made.trash.find("other"), Err(StoreError::NotFound { .. })));
    // A second item of the same thread within the second; the last is meant.
    made.write(ACTIVE);
    let second = made.put(ACTIVE).unwrap();
    assert_ne!(second.id, item.id);
    assert_eq!(made.trash.find(ID).unwrap().id, second.id);
}

#[test]
fn only_files_of_the_two_roots_are_taken() {
    let made = Made::with(&[ACTIVE]);
    fs::write(made.dir.path().join("auth.json"), "secret").unwrap();
    symlink("../auth.json", made.dir.path().join("sessions/link")).unwrap();
    symlink("..", made.dir.path().join("sessions/up")).unwrap();
    let options = PutOptions::default();
    for path in [
        "auth.json",
        "sessions/../auth.json",
        "sessions",
        "sessions/",
        "sessionsx/a",
        "sessions/link",
        "sessions/up/auth.json",
        "sessions/2026",
    ] {
        let refused = made.trash.put(&[path.as_bytes().to_vec()], &options);
        assert!(matches!(refused, Err(StoreError::Denied { .. })), "{path} {refused:?}");
    }
    assert!(made.items().is_empty());
}

#[test]
fn files_that_are_no_rollouts_and_odd_names_come_back_too() {
    use std::os::unix::ffi::OsStringExt;
    let made = Made::with(&[]);
    for name in [
        b"sessions/info.json".to_vec(),
        b"sessions/50%41 \xff.txt".to_vec(),
        b"sessions/a/deep.jsonl".to_vec(),
    ] {
        let file = made.dir.path().join(std::ffi::OsString::from_vec(name.clone()));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "x").unwrap();
        let item = made.trash.put(&companions(&made.home, &name, true), &PutOptions::default()).unwrap();
        assert!(!file.exists() && item.present == 1);
        made.trash.restore(&item, None).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"x");
    }
    assert_eq!(decode_path("a%4%zz%"), b"a%4%zz%");
}

#[test]
fn a_restored_thread_replaces_nothing_and_its_id_stays_the_only_one() {
    let made = Made::with(&[ACTIVE]);
    let item = made.put(ACTIVE).unwrap();
    let moved = ACTIVE.replace("/08/", "/09/");
    for (in_the_way, restores) in
        [(ACTIVE, false), (ARCHIVED, false), (moved.as_str(), false), ("sessions/other", true)]
    {
        made.write(in_the_way);
        let restored = made.trash.restore(&item, None);
        assert_eq!(restored.is_ok(), restores, "{in_the_way}: {restored:?}");
        if !restores {
            assert!(matches!(restored, Err(StoreError::Exists { .. })));
            assert_eq!((made.files().len(), made.items().len()), (1, 1));
        }
        fs::remove_file(made.dir.path().join(in_the_way)).unwrap();
    }
}

#[test]
fn it_is_restored_to_a_folder_that_was_given() {
    let made = Made::with(&[ACTIVE]);
    let item = made.put(ACTIVE).unwrap();
    for bad in ["", "log", "sessions/..", "sessions//x", ".."] {
        let refused = made.trash.restore(&item, Some(bad.as_bytes()));
        assert!(matches!(refused, Err(StoreError::Denied { .. })), "{bad} {refused:?}");
    }
    let restored = made.trash.restore(&item, Some(b"archived_sessions")).unwrap();
    assert_eq!(restored, [made.home.root().join(ARCHIVED)]);
}

#[test]
fn a_thread_that_is_written_stays_unless_asked() {
    use std::os::fd::AsRawFd;
    let made = Made::with(&[ACTIVE]);
    let locks = made.dir.path().join("thread-writer-locks");
    fs::create_dir(&locks).unwrap();
    let held = File::create(locks.join(format!("{ID}.lock"))).unwrap();
    // SAFETY: flock on a descriptor that `held` owns.
    assert_eq!(unsafe { libc::flock(held.as_raw_fd(), libc::LOCK_EX) }, 0);
    assert!(matches!(made.put(ACTIVE), Err(StoreError::Busy { .. })));
    assert!(made.items().is_empty() && made.files().len() == 1);
    let options = PutOptions { despite_writer: true, ..PutOptions::default() };
    made.trash.put(&[ACTIVE.into()], &options).unwrap();
}

#[test]
fn only_what_is_old_is_destroyed_and_its_name_with_it() {
    let second = ACTIVE.replace("000001", "000002");
    let made = Made::with(&[ACTIVE, &second]);
    let names = made.home.session_index();
    for (id, name) in [(ID, "one"), (&ID.replace("000001", "000002"), "two")] {
        session_index::rename(&names, id.parse().unwrap(), name).unwrap();
    }
    let (one, two) = (made.put(ACTIVE).unwrap(), made.put(&second).unwrap());
    assert!(made.trash.destroy(Duration::from_secs(3600), false).unwrap().gone.is_empty());
    assert_eq!(made.items().len(), 2);
    // The first was removed ten days ago.
    let mut info = one.info.clone();
    let then = OffsetDateTime::now_utc() - Duration::from_secs(10 * 86_400);
    info.removed_at = then.format(&time::format_description::well_known::Rfc3339).unwrap();
    fs::write(one.folder.join(INFO_NAME), serde_json::to_vec(&info).unwrap()).unwrap();
    let gone = made.trash.destroy(Duration::from_secs(9 * 86_400), false).unwrap().gone;
    assert_eq!(gone.iter().map(|item| &item.id).collect::<Vec<_>>(), [&one.id]);
    assert_eq!(made.items(), [two]);
    assert!(!one.folder.exists());
    let text = fs::read_to_string(&names).unwrap();
    assert!(!text.contains("one") && text.contains("two"), "{text}");
    assert_eq!(made.trash.destroy(Duration::ZERO, false).unwrap().gone.len(), 1);
    assert_eq!(fs::read_to_string(&names).unwrap(), "");
}

/// Spec 9.3: without its base a fork cannot be read.
#[test]
fn what_others_go_on_from_is_destroyed_with_force_alone() {
    let id = |number: u64| format!("0198c0de-0000-7000-8000-{number:012}");
    let path = |number: u64| ACTIVE.replace(ID, &id(number));
    let made = Made::with(&[]);
    // 2 goes on from 1, 3 from 2; 4 stands alone.
    for (number, base) in [(1, None), (2, Some(1)), (3, Some(2)), (4, None)] {
        let base = base.map_or(String::new(), |base| {
            format!(
                ",\"history_base\":{{\"thread_id\":\"{}\",\"end_ordinal_exclusive\":1,\"end_byte_offset\":9}}",
                id(base)
            )
        });
        let file = made.home.join(path(number).as_bytes());
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let payload = format!("\"id\":\"{}\",\"timestamp\":\"2026-02-08T09:15:01.002Z\"{base}", id(number));
        fs::write(
            file,
            format!("{{\"timestamp\":\"t\",\"type\":\"session_meta\",\"payload\":{{{payload}}}}}\n"),
        )
        .unwrap();
    }
    let numbers = |items: &[TrashItem]| {
        let mut numbers: Vec<_> = items.iter().map(|item| item.id[item.id.len() - 1..].to_owned()).collect();
        numbers.sort();
        numbers.concat()
    };
    let destroy = |force| {
        let destroyed = made.trash.destroy(Duration::ZERO, force).unwrap();
        let (needed, by): (Vec<_>, Vec<_>) = destroyed.needed.into_iter().unzip();
        (numbers(&destroyed.gone), numbers(&needed), by)
    };
    let put = |number: u64| drop(made.put(&path(number)).unwrap());
    [1, 2, 4].into_iter().for_each(put);
    let (gone, needed, by) = destroy(false);
    assert_eq!((gone.as_str(), needed.as_str()), ("4", "12"), "{by:?}");
    assert!(by.contains(&path(3)), "{by:?}");
    // A base that is in the home as well is not needed from the trash.
    fs::copy(
        made.items()[0].folder.join(path(1).rsplit('/').next().unwrap()),
        made.home.join(path(1).as_bytes()),
    )
    .unwrap();
    assert_eq!(destroy(false).0, "1");
    assert_eq!(destroy(true).0, "2");
    // All of them at once need nobody.
    put(3);
    put(1);
    assert_eq!(destroy(false).0, "13");
    assert!(made.items().is_empty());
}

#[test]
fn many_are_restored_at_once_those_of_last_first() {
    let path = |number: u64| ACTIVE.replace("000001", &format!("{number:06}"));
    let made = Made::with(&[&path(1), &path(2), &path(3)]);
    let before = made.files();
    (1..=3).for_each(|number| drop(made.put(&path(number)).unwrap()));
    // The first was written anew and removed again: there are two of it.
    made.write(&path(1));
    let second = made.put(&path(1)).unwrap();
    let items = made.items();
    assert!(items.iter().all(|item| item.removed_before().is_some_and(|age| age < Duration::from_secs(600))));
    let mut outcomes = Vec::new();
    made.trash
        .restore_all(&items, None, &mut |item, restored| {
            outcomes.push((item.id.clone(), restored.is_ok()));
            Ok(())
        })
        .unwrap();
    assert_eq!(outcomes[0], (second.id, true));
    assert_eq!(outcomes.iter().filter(|(_, restored)| *restored).count(), 3, "{outcomes:?}");
    assert_eq!(made.files(), before);
    assert_eq!(made.items().len(), 1, "the older one stays");
}

#[test]
fn a_pending_thread_never_touches_the_home_on_its_way() {
    let made = Made::with(&[]);
    let file = made.home.areas().join(Area::Pending, ACTIVE.as_bytes());
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, format!("content of {ACTIVE}")).unwrap();
    let options = PutOptions { area: Area::Pending, ..PutOptions::default() };
    let item = made.trash.put(&[ACTIVE.into()], &options).unwrap();
    assert!(!file.exists() && made.items().len() == 1);
    let sessions = fs::read_dir(made.dir.path().join("sessions")).unwrap();
    assert_eq!(sessions.count(), 0, "not even a folder");
    for path in ["auth.json", "sessions/../../auth.json"] {
        let refused = made.trash.put(&[path.into()], &options);
        assert!(matches!(refused, Err(StoreError::Denied { .. })), "{path} {refused:?}");
    }
    assert_eq!(made.trash.restore(&item, None).unwrap(), [made.home.join(ACTIVE.as_bytes())]);
}

#[test]
fn a_name_stays_while_the_thread_has_a_file() {
    let made = Made::with(&[ACTIVE]);
    session_index::rename(&made.home.session_index(), ID.parse().unwrap(), "one").unwrap();
    made.put(ACTIVE).unwrap();
    made.write(ACTIVE);
    made.trash.destroy(Duration::ZERO, false).unwrap();
    assert!(fs::read_to_string(made.home.session_index()).unwrap().contains("one"));
}

#[test]
fn leftovers_are_understood() {
    let zst = format!("{ACTIVE}.zst");
    let made = Made::with(&[ACTIVE, &zst]);
    let before = made.files();
    assert!(
        made.items().is_empty() && made.trash.destroy(Duration::ZERO, false).unwrap().gone.is_empty(),
        "no trash yet"
    );
    let item = made.put(ACTIVE).unwrap();
    for damage in ["", "{", "{\"files\":[{\"stored\":\"../../x\"}]}"] {
        fs::write(item.folder.join(INFO_NAME), damage).unwrap();
        let found = made.items();
        assert_eq!((found.len(), found[0].present), (1, 2), "{damage}");
        assert_eq!(found[0].info.why, WHY_UNKNOWN);
    }
    fs::remove_file(item.folder.join(INFO_NAME)).unwrap();
    let found = made.trash.find(ID).unwrap();
    made.trash.restore(&found, None).unwrap();
    assert_eq!(made.files(), before);
    // An item without files is none, and goes once it is surely no removal that is under way.
    let (_, folder) = made.trash.make_item(OffsetDateTime::now_utc(), None).unwrap();
    write_info(&made.home, &folder, &item.info).unwrap();
    fs::write(made.trash.folder().join("stray"), "x").unwrap();
    assert!(made.items().is_empty() && made.trash.destroy(Duration::ZERO, false).unwrap().gone.is_empty());
    assert!(folder.exists());
    let then = SystemTime::now() - 2 * LEFTOVER_AGE_MIN;
    File::open(&folder).unwrap().set_modified(then).unwrap();
    made.trash.destroy(Duration::ZERO, false).unwrap();
    assert!(!folder.exists());
}

#[test]
fn the_child_of_the_crash_tests() {
    let Some((home, what)) = crash::asked() else { return };
    let state = fs::read_link(home.join("state")).ok();
    let home = Home::open(&home).unwrap();
    let trash = Trash::of_home(&home, state.as_deref());
    match what.as_str() {
        "put" => drop(put(&home, &trash, ACTIVE).unwrap()),
        "restore" => drop(trash.restore(&trash.find(ID).unwrap(), None).unwrap()),
        _ => drop(trash.destroy(Duration::ZERO, false).unwrap()),
    }
}

const TEST: &str = "store::trash::tests::the_child_of_the_crash_tests";

fn whole_places(made: &Made) -> (usize, usize) {
    (made.files().len(), made.items().iter().map(|item| item.present).sum())
}

#[test]
fn a_crash_while_putting_leaves_the_thread_in_one_place_and_the_next_try_succeeds() {
    for point in
        ["trash.folder_made", "trash.info_unsynced", "trash.info_written", "place.moved", "trash.file_moved"]
    {
        let made = Made::with(&[ACTIVE]);
        let before = made.files();
        assert!(crash::child_aborts(TEST, made.dir.path(), "put", point), "{point}");
        let (in_place, in_trash) = whole_places(&made);
        assert_eq!(in_place + in_trash, 1, "{point}");
        if in_place == 1 {
            made.put(ACTIVE).unwrap();
        }
        assert_eq!(whole_places(&made), (0, 1), "{point}");
        made.trash.restore(&made.trash.find(ID).unwrap(), None).unwrap();
        assert_eq!(made.files(), before, "{point}");
    }
}

#[test]
fn a_crash_while_restoring_leaves_the_thread_in_one_place_and_the_next_try_succeeds() {
    let points = [
        "trash.restore_checked",
        "trash.restore_folder_made",
        "place.moved",
        "trash.file_restored",
        "trash.info_removed",
    ];
    for point in points {
        let made = Made::with(&[ACTIVE]);
        let before = made.files();
        made.put(ACTIVE).unwrap();
        assert!(crash::child_aborts(TEST, made.dir.path(), "restore", point), "{point}");
        let (in_place, in_trash) = whole_places(&made);
        assert_eq!(in_place + in_trash, 1, "{point}");
        if in_trash == 1 {
            made.trash.restore(&made.trash.find(ID).unwrap(), None).unwrap();
        }
        assert_eq!((made.files(), made.items()), (before, vec![]), "{point}");
    }
}

#[test]
fn a_crash_between_the_files_of_a_thread_keeps_each_in_one_place() {
    let zst = format!("{ARCHIVED}.zst");
    for pass in 1..=3 {
        let made = Made::with(&[ACTIVE, ARCHIVED, &zst]);
        let before = made.files();
        let point = format!("trash.file_moved:{pass}");
        assert!(crash::child_aborts(TEST, made.dir.path(), "put", &point));
        assert_eq!(whole_places(&made), (3 - pass, pass));
        assert_eq!(made.dir.path().join(ACTIVE).exists(), pass < 3, "what counts goes last");
        if pass < 3 {
            made.put(ACTIVE).unwrap();
        }
        assert_eq!(whole_places(&made), (0, 3));
        // The item with what counts first, then the other.
        while let Some(item) = made.items().pop() {
            let restored = made.trash.restore(&item, None);
            assert!(restored.is_ok(), "{pass} {restored:?}");
        }
        assert_eq!(made.files(), before);

        made.put(ACTIVE).unwrap();
        let point = format!("trash.file_restored:{pass}");
        assert!(crash::child_aborts(TEST, made.dir.path(), "restore", &point));
        assert_eq!(whole_places(&made), (pass, 3 - pass));
        assert!(made.dir.path().join(ACTIVE).exists(), "what counts comes first");
        if pass < 3 {
            made.trash.restore(&made.trash.find(ID).unwrap(), None).unwrap();
        }
        assert_eq!((made.files(), made.items()), (before, vec![]));
    }
}

#[test]
fn a_crash_while_destroying_is_finished_by_the_next() {
    for point in ["trash.file_destroyed", "trash.info_removed"] {
        let made = Made::with(&[ACTIVE]);
        made.put(ACTIVE).unwrap();
        assert!(crash::child_aborts(TEST, made.dir.path(), "destroy", point), "{point}");
        assert_eq!(whole_places(&made), (0, 0), "{point}");
        made.write(ACTIVE);
        made.put(ACTIVE).unwrap();
        assert_eq!(made.trash.destroy(Duration::ZERO, false).unwrap().gone.len(), 1);
    }
}

#[test]
fn a_trash_on_another_disk_loses_nothing_at_any_point() {
    let there = match two_disks() {
        Ok((_, there)) => there,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    for (what, point) in [
        ("put", "place.copied"),
        ("put", "place.copy_placed"),
        ("put", "place.moved"),
        ("restore", "place.copied"),
        ("restore", "place.copy_placed"),
        ("restore", "place.moved"),
    ] {
        let mut made = Made::with(&[ACTIVE]);
        let before = made.files();
        let state = TempDir::new_in(there.path()).unwrap();
        fs::set_permissions(state.path(), fs::Permissions::from_mode(0o700)).unwrap();
        symlink(state.path(), made.dir.path().join("state")).unwrap();
        made.trash = Trash::of_home(&made.home, Some(state.path()));
        if what == "restore" {
            made.put(ACTIVE).unwrap();
        }
        assert!(crash::child_aborts(TEST, made.dir.path(), what, point), "{what} {point}");
        let (in_place, in_trash) = whole_places(&made);
        assert!(in_place + in_trash >= 1, "{what} {point}");
        if what == "put" && in_place == 1 {
            made.put(ACTIVE).unwrap();
        }
        if what == "put" {
            assert_eq!(made.files(), []);
        }
        if made.files().is_empty() || in_trash == 1 {
            made.trash.restore(&made.trash.find(ID).unwrap(), None).unwrap();
        }
        assert_eq!(made.files(), before, "{what} {point}");
    }
}
