//! Spec 11.5 and the rows of 11.4 about listing, on made homes: each asked of the files and of a kept index.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use tempfile::TempDir;

use super::source::open_settled_after;
use super::*;
use crate::store::error::StoreError;
use crate::store::home::INDEX_NAME;
use crate::store::placing::{FILES, Place, Placing, ViewCode};
use crate::store::row::{FileRow, Row, RowKind};
use crate::store::{Store, StoreOptions};

/// Files at their own paths, and nothing else.
struct OnlyFiles;

impl Placing for OnlyFiles {
    fn places(&self, row: &Row, places: &mut Vec<Place>) {
        let (dir, name) = (row.file.dir_path().to_vec(), row.file.file_name().to_vec());
        if row.file.kind != RowKind::Missing {
            places.push(Place { view: FILES, index: 0, dir, name });
        }
    }
    fn entry_name(&self, _: ViewCode, row: &FileRow) -> Vec<u8> {
        row.file_name().to_vec()
    }
    fn second_name(&self, name: &str, suffix: &str) -> String {
        format!("{name}~{suffix}")
    }
    fn first_name(&self, name: &str, _: &str) -> String {
        name.to_owned()
    }
    fn name_key(&self, first_name: &str) -> String {
        first_name.to_lowercase()
    }
    fn line(&self, _: &Row) -> Option<Vec<u8>> {
        None
    }
    fn roots(&self) -> Vec<Vec<u8>> {
        ["sessions", "archived_sessions"].map(|root| root.as_bytes().to_vec()).to_vec()
    }
    fn version(&self) -> u32 {
        7
    }
}

/// A home that a test makes.
pub(super) struct Made {
    _dir: TempDir,
    pub(super) home: Home,
}

pub(super) fn id(number: u64) -> String {
    format!("0198c0de-0000-7000-8000-{number:012x}")
}

fn line(kind: &str, payload: &str) -> String {
    format!("{{\"timestamp\":\"2026-02-08T09:15:02.417Z\",\"type\":\"{kind}\",\"payload\":{payload}}}\n")
}

fn user(text: &str) -> String {
    line("event_msg", &format!("{{\"type\":\"user_message\",\"message\":\"{text}\",\"images\":null}}"))
}

fn goal(text: &str) -> String {
    let goal = format!("{{\"objective\":\"{text}\",\"status\":\"active\"}}");
    line(
        "event_msg",
        &format!("{{\"type\":\"thread_goal_updated\",\"thread_id\":\"{}\",\"goal\":{goal}}}", id(1)),
    )
}

/// A header with the fields of `more` (`,"source":"cli"`).
fn header(number: u64, created: &str, cwd: &str, more: &str) -> String {
    let id = id(number);
    line("session_meta", &format!("{{\"id\":\"{id}\",\"timestamp\":\"{created}\",\"cwd\":\"{cwd}\"{more}}}"))
}

impl Made {
    pub(super) fn new() -> Made {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sessions")).unwrap();
        let home = Home::open(dir.path()).unwrap();
        Made { _dir: dir, home }
    }

    /// Writes a file with this mtime, seconds since 1970. Returns its path below the home.
    fn put(&self, path: &str, content: &str, mtime_seconds: u64) -> String {
        let file = self.home.join(path.as_bytes());
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, content).unwrap();
        self.touch(path, mtime_seconds);
        path.to_owned()
    }

    fn touch(&self, path: &str, mtime_seconds: u64) {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(mtime_seconds);
        let file = fs::File::options().write(true).open(self.home.join(path.as_bytes())).unwrap();
        file.set_modified(time).unwrap();
    }

    /// An active rollout of thread `number`; its mtime is `number` minutes after 2026.
    fn rollout(&self, number: u64, created: &str, content: &str) -> String {
        let (date, stamp) = (&created[..10], created[..19].replace(':', "-"));
        let path = format!("sessions/{}/rollout-{stamp}-{}.jsonl", date.replace('-', "/"), id(number));
        self.put(&path, content, 1_767_225_600 + number * 60)
    }

    /// An active thread that began at `created` (`2026-02-08T09:15:01Z`) with these first words.
    pub(super) fn active(&self, number: u64, created: &str, cwd: &str, words: &str, more: &str) -> String {
        let head = header(number, created, cwd, ",\"source\":\"cli\",\"model_provider\":\"openai\"");
        self.rollout(number, created, &[head, user(words), more.to_owned()].concat())
    }

    fn archive(&self, path: &str) -> String {
        let to = format!("archived_sessions/{}", path.rsplit('/').next().unwrap());
        fs::create_dir_all(self.home.root().join("archived_sessions")).unwrap();
        fs::rename(self.home.join(path.as_bytes()), self.home.join(to.as_bytes())).unwrap();
        to
    }

    fn name(&self, number: u64, name: &str) {
        let entry = crate::store::session_index::NameEntry {
            id: id(number).parse().unwrap(),
            thread_name: name.to_owned(),
            updated_at: "2026-02-08T09:20:00Z".to_owned(),
        };
        crate::store::session_index::append(&self.home.session_index(), &entry).unwrap();
    }

    /// Keeps an index, as a mount does.
    fn keep(&self) -> Store {
        let options = StoreOptions { readers: 1, ..StoreOptions::default() };
        let store = Store::open(self.home.clone(), &options, Arc::new(OnlyFiles)).unwrap();
        store.flush();
        store
    }

    fn source(&self) -> Source {
        open_settled_after(&self.home, None, Duration::ZERO)
    }

    /// Asks the files alone, a kept index, and the files beside an index that nobody keeps any more.
    fn each_way(&self, check: impl Fn(&Source)) {
        let without = self.source();
        assert!(!without.is_index());
        check(&without);
        let store = self.keep();
        let kept = self.source();
        assert!(kept.is_index(), "a writer lives and all is read");
        check(&kept);
        store.close();
        drop(store);
        let beside = self.source();
        assert!(!beside.is_index());
        check(&beside);
    }
}

fn created_first() -> ListQuery {
    ListQuery { sort: SortKey::Created, ..ListQuery::default() }
}

fn numbers(page: &Page) -> Vec<u64> {
    page.items.iter().map(|item| u64::from_str_radix(&item.id.to_string()[24..], 16).unwrap()).collect()
}

/// All pages of a query; none repeats, each but the last has a cursor, which is taken through its text.
fn pages(source: &Source, query: &ListQuery) -> Vec<Page> {
    let mut query = query.clone();
    let mut pages = Vec::new();
    loop {
        let page = source.page(&query).unwrap();
        let next = page.next_cursor.clone();
        pages.push(page);
        let Some(next) = next else { return pages };
        query.cursor = Some(next.to_string().parse().unwrap());
        assert!(pages.len() < 1000);
    }
}

fn all(source: &Source, query: &ListQuery) -> Vec<u64> {
    pages(source, query).iter().flat_map(numbers).collect()
}

fn five() -> Made {
    let made = Made::new();
    for number in 1..=5 {
        made.active(number, &format!("2026-02-0{number}T09:15:01Z"), "/srv/demo", "hello", "");
    }
    made
}

#[test]
fn spec_11_5_1_files_on_three_days_latest_first() {
    let made = Made::new();
    for (number, day) in [(1, "2026-01-31"), (2, "2025-12-31"), (3, "2026-02-01")] {
        made.active(number, &format!("{day}T10:00:00Z"), "/a", "x", "");
    }
    made.each_way(|source| {
        assert_eq!(all(source, &created_first()), [3, 1, 2]);
        assert_eq!(all(source, &ListQuery { descending: false, ..created_first() }), [2, 1, 3]);
    });
}

/// Ours counts the rollouts looked at for each page, from its cursor on: 3, 3, 1 and not 3, 5, 5.
#[test]
fn spec_11_5_2_five_files_in_pages_of_two() {
    five().each_way(|source| {
        let query = ListQuery { limit: 2, ..created_first() };
        let found = pages(source, &query);
        assert_eq!(found.iter().map(numbers).collect::<Vec<_>>(), [vec![5, 4], vec![3, 2], vec![1]]);
        assert_eq!(found.iter().map(|page| page.scanned).collect::<Vec<_>>(), [3, 3, 1]);
        let cursor = Some("2026-02-04T09-15-01".parse().unwrap());
        assert_eq!(numbers(&source.page(&ListQuery { cursor, ..query }).unwrap()), [3, 2]);
    });
}

#[test]
fn spec_11_5_3_many_headers_before_the_user_event() {
    let made = Made::new();
    let heads = header(1, "2026-02-08T09:15:01Z", "/a", "").repeat(12);
    made.rollout(1, "2026-02-08T09:15:01Z", &(heads + &user("at last")));
    made.each_way(|source| assert_eq!(source.page(&created_first()).unwrap().items[0].title, "at last"));
}

/// Codex hides the first of these; here nothing is hidden, not even an empty file or one that is no JSON.
#[test]
fn spec_11_5_4_without_a_user_event_it_is_listed_all_the_same() {
    let made = Made::new();
    let head = |number| header(number, "2026-02-08T09:15:01Z", "/a", "");
    made.rollout(1, "2026-02-08T09:15:01Z", &head(1));
    made.rollout(2, "2026-02-08T09:15:02Z", &(head(2) + &goal("win")));
    made.rollout(3, "2026-02-08T09:15:03Z", "");
    made.rollout(4, "2026-02-08T09:15:04Z", "garbage\n");
    made.put("sessions/2026/02/08/notes.txt", "no rollout", 0);
    made.each_way(|source| {
        let page = source.page(&ListQuery::default()).unwrap();
        assert_eq!(numbers(&page), [4, 3, 2, 1]);
        let labels: Vec<_> = page.items.iter().map(ListItem::label).collect();
        let none = |number: u64| format!("(no message) {number:08x}");
        assert_eq!(labels, [none(4), none(3), "win".to_owned(), none(1)]);
        assert_eq!(page.items[0].parse_errors, 1);
    });
}

#[test]
fn spec_11_5_5_goal_first_and_user_message_later() {
    let made = Made::new();
    let content = header(1, "2026-02-08T09:15:01Z", "/a", "") + &goal("win") + &user("do this");
    made.rollout(1, "2026-02-08T09:15:01Z", &content);
    made.each_way(|source| {
        let item = source.page(&created_first()).unwrap().items.remove(0);
        assert_eq!((item.preview.as_str(), item.title.as_str()), ("win", "do this"));
    });
}

#[test]
fn spec_11_5_6_record_type_lines_are_tolerated() {
    let made = Made::new();
    let content = header(1, "2026-02-08T09:15:01Z", "/a", "") + "{\"record_type\":\"state\"}\n" + &user("hi");
    made.rollout(1, "2026-02-08T09:15:01Z", &content);
    made.each_way(|source| {
        let item = source.page(&created_first()).unwrap().items.remove(0);
        assert_eq!((item.title.as_str(), item.parse_errors), ("hi", 0));
    });
}

/// A listing does not carry the instructions: whichever form they have, the thread is listed.
#[test]
fn spec_11_5_7_every_form_of_base_instructions() {
    let made = Made::new();
    for (number, more) in
        [(1, ",\"base_instructions\":null"), (2, ",\"base_instructions\":{\"text\":\"be kind\"}"), (3, "")]
    {
        made.rollout(number, "2026-02-08T09:15:01Z", &header(number, "2026-02-08T09:15:01Z", "/a", more));
    }
    made.each_way(|source| assert_eq!(all(source, &created_first()), [3, 2, 1]));
}

#[test]
fn spec_11_5_8_and_9_both_orders_and_ties_by_id() {
    let made = five();
    let path = "sessions/2026/02/01/rollout-2026-02-01T09-15-01-0198c0de-0000-7000-8000-000000000001.jsonl";
    made.touch(path, 1_900_000_000);
    for number in [2, 3, 4] {
        let path =
            format!("sessions/2026/02/0{number}/rollout-2026-02-0{number}T09-15-01-{}.jsonl", id(number));
        made.touch(&path, 1_800_000_000);
    }
    made.each_way(|source| {
        let by_creation = source.page(&created_first()).unwrap();
        assert_eq!(numbers(&by_creation), [5, 4, 3, 2, 1]);
        let last = &by_creation.items[4];
        assert_eq!(last.updated_at, "2030-03-17T17:46:40.000Z");
        assert_eq!(last.created_at, "2026-02-01T09:15:01.000Z");
        assert_eq!(all(source, &ListQuery::default()), [1, 4, 3, 2, 5]);
        assert_eq!(all(source, &ListQuery { descending: false, ..ListQuery::default() }), [5, 2, 3, 4, 1]);
    });
}

/// The cursor of later versions would skip the rest of the second; ours carries id and path, and does not.
#[test]
fn spec_11_5_10_files_of_one_second_go_on_by_id() {
    let made = Made::new();
    for number in 1..=3 {
        let path = made.active(number, "2026-02-08T09:15:01Z", "/a", "x", "");
        made.touch(&path, 1_800_000_000);
    }
    made.each_way(|source| {
        for sort in [SortKey::Created, SortKey::Updated] {
            let query = ListQuery { sort, limit: 1, ..ListQuery::default() };
            assert_eq!(all(source, &query), [3, 2, 1]);
            assert_eq!(all(source, &ListQuery { descending: false, ..query }), [1, 2, 3]);
        }
        // The form of February 2026.
        let cursor = Some(format!("2026-02-08T09:15:01Z|{}", id(2)).parse().unwrap());
        assert_eq!(numbers(&source.page(&ListQuery { cursor, ..created_first() }).unwrap()), [1]);
    });
}

/// Two files of one thread with one time are told apart by their paths.
#[test]
fn spec_11_5_10_two_rollouts_of_one_thread_go_on_by_path() {
    let made = Made::new();
    let first = made.active(1, "2026-02-08T09:15:01Z", "/a", "x", "");
    let content = fs::read_to_string(made.home.join(first.as_bytes())).unwrap();
    let second = first.replace(".jsonl", &format!("_{}.jsonl", id(2)));
    for path in [&first, &second] {
        made.put(path, &content, 1_800_000_000);
    }
    made.each_way(|source| {
        for sort in [SortKey::Created, SortKey::Updated] {
            let found = pages(source, &ListQuery { sort, limit: 1, ..ListQuery::default() });
            let paths: Vec<_> = found.iter().map(|page| page.items[0].path.clone()).collect();
            assert_eq!(paths, [second.clone(), first.clone()]);
            assert_eq!(found.iter().map(|page| page.items[0].current).collect::<Vec<_>>(), [true, false]);
        }
        assert_eq!(source.by_id(&id(1), None).unwrap().unwrap().path, second);
        assert_eq!(source.by_id(&id(2), None).unwrap().unwrap().path, second);
        assert_eq!(source.find(&first).unwrap().path, first);
    });
}

fn of_sources() -> Made {
    let made = Made::new();
    let more = [
        ",\"source\":\"cli\",\"model_provider\":\"openai\"",
        ",\"source\":\"exec\",\"model_provider\":\"other\"",
        ",\"source\":{\"subagent\":\"review\"}",
        ",\"model_provider\":null",
    ];
    for (number, more) in (1..).zip(more) {
        made.rollout(number, "2026-02-08T09:15:01Z", &header(number, "2026-02-08T09:15:01Z", "/a", more));
    }
    made
}

#[test]
fn spec_11_5_12_sources() {
    of_sources().each_way(|source| {
        for (sources, wanted) in [
            (vec!["cli"], vec![1]),
            (vec!["cli", "exec"], vec![2, 1]),
            (vec![], vec![4, 3, 2, 1]),
            (vec!["vscode"], vec![4]),
            (vec!["subagent"], vec![3]),
            (vec!["{\"subagent\":\"review\"}"], vec![3]),
            (vec!["mcp"], vec![]),
        ] {
            let sources = sources.into_iter().map(str::to_owned).collect();
            assert_eq!(all(source, &ListQuery { sources, ..created_first() }), wanted);
        }
    });
}

#[test]
fn spec_11_5_13_and_14_providers_and_the_default() {
    of_sources().each_way(|source| {
        for (providers, default_provider, wanted) in [
            (vec!["openai"], "openai", vec![4, 3, 1]),
            (vec!["other"], "openai", vec![2]),
            (vec!["other"], "other", vec![4, 3, 2]),
            (vec![], "openai", vec![4, 3, 2, 1]),
        ] {
            let providers = providers.into_iter().map(str::to_owned).collect();
            let query = ListQuery { providers, default_provider: default_provider.into(), ..created_first() };
            assert_eq!(all(source, &query), wanted);
        }
    });
}

#[test]
fn spec_11_5_15_a_page_ends_at_the_scan_cap_with_a_cursor() {
    let made = five();
    made.rollout(9, "2026-01-01T00:00:00Z", &(header(9, "2026-01-01T00:00:00Z", "/z", "") + &user("rare")));
    made.each_way(|source| {
        let query = ListQuery { text: Some("rare".into()), scan_max: 2, ..created_first() };
        let found = pages(source, &query);
        let shape: Vec<_> =
            found.iter().map(|page| (page.items.len(), page.scanned, page.reached_scan_cap)).collect();
        assert_eq!(shape, [(0, 2, true), (0, 2, true), (1, 2, false)]);
    });
}

fn doctored(made: &Made, sql: &str) -> (Store, Source) {
    let store = made.keep();
    let other = rusqlite::Connection::open(store.state_dir().join(INDEX_NAME)).unwrap();
    other.execute_batch(sql).unwrap();
    (store, made.source())
}

/// Rows are repaired by the index's writer; a command only answers rightly.
#[test]
fn spec_11_5_16_and_11_4_14_a_row_with_a_path_that_is_gone_is_found_by_scan() {
    let made = five();
    let (_store, source) = doctored(
        &made,
        "UPDATE rollouts SET path = CAST(replace(CAST(path AS TEXT), '/02/03/', '/02/13/') AS BLOB)",
    );
    assert!(source.is_index());
    let item = source.by_id(&id(3), None).unwrap().unwrap();
    assert!(item.path.starts_with("sessions/2026/02/03/") && item.file.is_file());
    assert_eq!(source.find(&id(3)[28..]).unwrap().path, item.path);
}

#[test]
fn spec_11_5_17_a_row_with_the_path_of_another_thread_is_not_believed() {
    let made = five();
    let sql = format!(
        "UPDATE rollouts SET path = CAST(replace(CAST(path AS TEXT), '{}', 'x') AS BLOB) WHERE instr(CAST(path AS TEXT), '/02/02/');
         UPDATE rollouts SET thread_id = (SELECT thread_id FROM rollouts WHERE instr(CAST(path AS TEXT), '/02/02/'))
         WHERE instr(CAST(path AS TEXT), '/02/04/')",
        id(2)
    );
    let (_store, source) = doctored(&made, &sql);
    let item = source.by_id(&id(2), None).unwrap().unwrap();
    assert_eq!((item.id.to_string(), &item.path[..19]), (id(2), "sessions/2026/02/02"));
}

#[test]
fn spec_11_5_18_without_a_row_it_is_found_by_scan() {
    let made = five();
    let (_store, source) = doctored(&made, "DELETE FROM rollouts");
    assert_eq!(source.by_id(&id(4), None).unwrap().unwrap().id.to_string(), id(4));
    assert_eq!(source.by_id(&id(4), Some(true)).unwrap(), None);
    assert_eq!(source.by_id(&id(6), None).unwrap(), None);
}

/// The index has no rollouts with unusual names; a file with a legal name and without a header is taken by its name.
#[test]
fn spec_11_5_19_a_header_that_cannot_be_read_is_no_obstacle() {
    let made = Made::new();
    let path = made.rollout(1, "2026-02-08T09:15:01Z", "\u{0}\u{0}broken");
    made.each_way(|source| assert_eq!(source.by_id(&id(1), None).unwrap().unwrap().path, path));
}

#[test]
fn spec_11_5_20_text_that_is_no_uuid_has_no_thread() {
    five().each_way(|source| {
        for text in ["", "planb", "0198c0de", &id(1).replace('-', ""), "../x", "\u{0}"] {
            assert_eq!(source.by_id(text, None).unwrap(), None, "{text}");
        }
    });
}

#[test]
fn spec_11_5_21_an_ignored_folder_is_still_looked_at() {
    let made = five();
    for dir in ["sessions", "sessions/2026/02/03"] {
        fs::write(made.home.root().join(dir).join(".gitignore"), "*\n").unwrap();
    }
    made.each_way(|source| {
        assert!(source.by_id(&id(3), Some(false)).unwrap().is_some());
        assert_eq!(all(source, &created_first()), [5, 4, 3, 2, 1]);
    });
}

#[test]
fn spec_11_5_23_one_item_more_decides_on_a_cursor() {
    five().each_way(|source| {
        for (limit, has_cursor, scanned) in [(4, true, 5), (5, false, 5), (6, false, 5), (0, true, 2)] {
            let page = source.page(&ListQuery { limit, ..created_first() }).unwrap();
            assert_eq!((page.next_cursor.is_some(), page.scanned), (has_cursor, scanned), "{limit}");
        }
    });
}

#[test]
fn spec_11_5_24_an_empty_home_has_an_empty_page() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::open(dir.path()).unwrap();
    let source = open_for_reading(&home, None);
    assert_eq!(source.page(&ListQuery::default()).unwrap(), Page::default());
    assert_eq!(list_from_files(&home, &ListQuery::default()).unwrap(), Page::default());
    assert_eq!(source.newest(None).unwrap(), None);
    let error = source.find("x").unwrap_err();
    assert!(matches!(error, StoreError::NotFound { .. }));
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none(), "nothing is made");
}

#[test]
fn spec_11_5_25_active_and_archived_are_apart_and_together() {
    let made = five();
    for number in [2, 4] {
        let path =
            format!("sessions/2026/02/0{number}/rollout-2026-02-0{number}T09-15-01-{}.jsonl", id(number));
        made.archive(&path);
    }
    made.each_way(|source| {
        for (archived, wanted) in
            [(Some(false), vec![5, 3, 1]), (Some(true), vec![4, 2]), (None, vec![5, 4, 3, 2, 1])]
        {
            for limit in [1, 2, 50] {
                let query = ListQuery { archived, limit, ..created_first() };
                assert_eq!(all(source, &query), wanted);
                let wanted: Vec<_> = wanted.iter().rev().copied().collect();
                assert_eq!(all(source, &ListQuery { descending: false, ..query }), wanted);
            }
        }
        assert_eq!(source.by_id(&id(2), Some(false)).unwrap(), None);
        assert!(source.by_id(&id(2), Some(true)).unwrap().unwrap().archived);
    });
}

/// Spec 11.5.26 and 11.4.15, and the thread that is gone on with in a folder (spec 8.8).
#[test]
fn spec_11_5_26_and_11_4_15_by_working_directory() {
    let made = Made::new();
    let places = tempfile::tempdir().unwrap();
    let (real, link) = (places.path().join("real"), places.path().join("link"));
    fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let turn =
        |cwd: &Path| line("turn_context", &format!("{{\"cwd\":\"{}\",\"model\":\"m\"}}", cwd.display()));
    made.active(1, "2026-02-01T09:15:01Z", link.to_str().unwrap(), "x", "");
    made.active(2, "2026-02-02T09:15:01Z", "/elsewhere", "x", &turn(&real));
    made.active(3, "2026-02-03T09:15:01Z", "/gone/away/.", "x", "");
    made.active(4, "2026-02-04T09:15:01Z", "", "x", "");
    made.each_way(|source| {
        let by = |cwd: &Path| all(source, &ListQuery { cwds: vec![cwd.to_owned()], ..created_first() });
        assert_eq!((by(&real), by(&link)), (vec![2, 1], vec![2, 1]));
        assert_eq!((by(Path::new("/elsewhere")), by(Path::new("/gone/away/"))), (vec![2], vec![3]));
        assert_eq!((by(Path::new("/nowhere")), by(places.path())), (vec![], vec![]));
        let newest = |cwd: Option<&Path>| source.newest(cwd).unwrap().map(|item| item.id.to_string());
        assert_eq!((newest(None), newest(Some(&link))), (Some(id(4)), Some(id(2))));
        assert_eq!(newest(Some(Path::new("/nowhere"))), None);
    });
}

/// Spec 11.4.12, from the files alone.
#[test]
fn spec_11_4_12_two_pages_from_files_do_not_overlap() {
    let made = five();
    let query = ListQuery { limit: 3, ..created_first() };
    let first = list_from_files(&made.home, &query).unwrap();
    assert_eq!(numbers(&first), [5, 4, 3]);
    let second = list_from_files(&made.home, &ListQuery { cursor: first.next_cursor, ..query }).unwrap();
    assert_eq!((numbers(&second), second.next_cursor), (vec![2, 1], None));
}

/// Spec 11.4.13, as far as a reader goes.
#[test]
fn spec_11_4_13_a_row_whose_file_is_gone_is_dropped_from_the_page() {
    let made = five();
    let (_store, source) = doctored(
        &made,
        "UPDATE rollouts SET path = CAST(replace(CAST(path AS TEXT), '/02/03/', '/02/13/') AS BLOB)",
    );
    assert_eq!(numbers(&source.page(&created_first()).unwrap()), [5, 4, 2, 1]);
}

#[test]
fn text_is_found_in_name_title_and_preview_and_its_case_counts() {
    let made = Made::new();
    made.active(1, "2026-02-01T09:15:01Z", "/a", "Fix the parser", "");
    made.active(2, "2026-02-02T09:15:01Z", "/a", "x", "");
    made.name(2, "The parser of b\u{e4}rs");
    made.rollout(
        3,
        "2026-02-03T09:15:01Z",
        &(header(3, "2026-02-03T09:15:01Z", "/a", "") + &goal("parse") + &user("y")),
    );
    made.each_way(|source| {
        for (text, wanted) in
            [("pars", vec![3, 2, 1]), ("Pars", vec![]), ("b\u{e4}", vec![2]), ("", vec![3, 2, 1])]
        {
            assert_eq!(
                all(source, &ListQuery { text: Some(text.into()), ..created_first() }),
                wanted,
                "{text}"
            );
        }
    });
}

#[test]
fn names_lead_to_threads() {
    let made = five();
    for (number, name) in
        [(1, "plan"), (2, "plan"), (1, "Other"), (3, "Case"), (4, "bare"), (9, "plan"), (4, " ")]
    {
        made.name(number, name);
    }
    made.each_way(|source| {
        for (name, any_case, wanted) in [
            ("plan", false, Some(2)),
            ("Other", false, Some(1)),
            ("other", false, None),
            ("other", true, Some(1)),
            ("CASE", true, Some(3)),
            ("bare", false, None),
            ("", false, None),
        ] {
            let item = source.by_name(name, any_case).unwrap();
            assert_eq!(item.map(|item| item.id.to_string()), wanted.map(id), "{name}");
        }
    });
    made.name(5, "CASE");
    made.each_way(|source| {
        let error = source.by_name("case", true).unwrap_err().to_string();
        assert!(error.contains(&id(3)) && error.contains(&id(5)), "{error}");
        assert_eq!(source.find("CASE").unwrap().id.to_string(), id(5));
    });
}

#[test]
fn a_person_finds_a_thread_by_each_of_its_handles() {
    let made = five();
    let odd = "aaaa1111-0000-4000-8000-0000cafebabe";
    made.put(&format!("archived_sessions/rollout-2026-01-01T00-00-00-{odd}.jsonl"), "", 1);
    made.name(2, "cafebabe of names");
    let elsewhere = tempfile::tempdir().unwrap();
    let path3 = format!("sessions/2026/02/03/rollout-2026-02-03T09-15-01-{}.jsonl", id(3));
    let link = elsewhere.path().join("by-name.jsonl");
    std::os::unix::fs::symlink(made.home.join(path3.as_bytes()), &link).unwrap();
    // As in a mount, where the ids in the name are what counts.
    let copy = elsewhere.path().join(path3.rsplit('/').next().unwrap());
    fs::write(&copy, "").unwrap();
    let by_id = elsewhere.path().join(format!("{}.jsonl", id(3)));
    fs::write(&by_id, "").unwrap();
    let on_disk = made.home.join(path3.as_bytes());
    let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
    made.each_way(|source| {
        let found = |what: &str| source.find(what).unwrap().id.to_string();
        assert_eq!(found(&id(1)), id(1));
        assert_eq!(found(&id(1).to_uppercase()), id(1));
        for what in
            [text(&link), text(&copy), text(&by_id), text(&on_disk), path3.clone(), format!("{path3}.zst")]
        {
            assert_eq!(found(&what), id(3), "{what}");
        }
        assert_eq!(
            (found("aaaa"), found("CAFEBABE"), found("aaaa1111-0000")),
            (odd.into(), odd.into(), odd.into())
        );
        assert_eq!((found("00000004"), found("Cafebabe of NAMES")), (id(4), id(2)));
        let several = source.find("0198c0de").unwrap_err().to_string();
        assert!((1..=5).all(|number| several.contains(&id(number))), "{several}");
        let none = source.find("nothing\u{1b}[1m/such").unwrap_err().to_string();
        assert!(none.contains("a path, a name") && !none.contains('\u{1b}'), "{none}");
        assert!(source.find("9999").unwrap_err().to_string().contains("beginning"));
    });
}

#[test]
fn a_name_in_the_rollout_itself_counts_where_no_names_file_is() {
    let made = Made::new();
    let named = line(
        "event_msg",
        &format!("{{\"type\":\"thread_name_updated\",\"thread_id\":\"{}\",\"thread_name\":\"old\"}}", id(1)),
    );
    made.active(1, "2026-02-01T09:15:01Z", "/a", "x", &named);
    made.each_way(|source| assert_eq!(source.find("old").unwrap().name.as_deref(), Some("old")));
}

#[test]
fn what_changed_since_the_index_was_kept_is_not_missed() {
    let made = five();
    drop(made.keep());
    let path = |number| {
        format!("sessions/2026/02/0{number}/rollout-2026-02-0{number}T09-15-01-{}.jsonl", id(number))
    };
    fs::remove_file(made.home.join(path(2).as_bytes())).unwrap();
    made.active(6, "2026-02-06T09:15:01Z", "/new", "new", "");
    made.put(&path(3), &(header(3, "2026-02-03T09:15:01Z", "/a", "") + &user("changed")), 1_900_000_000);
    let source = made.source();
    assert!(!source.is_index());
    let page = source.page(&ListQuery::default()).unwrap();
    assert_eq!(numbers(&page), [3, 6, 5, 4, 1]);
    assert_eq!((page.items[0].title.as_str(), page.items[1].cwd.as_str()), ("changed", "/new"));
    // A damaged one is no obstacle either.
    let index = made.home.root().join(".rolloutfs").join(INDEX_NAME);
    fs::write(&index, "no database at all, and long enough to have a header of one hundred bytes".repeat(9))
        .unwrap();
    assert_eq!(numbers(&made.source().page(&ListQuery::default()).unwrap()), [3, 6, 5, 4, 1]);
}

#[test]
fn what_an_unkept_index_read_is_not_read_again_and_nothing_is_written() {
    let made = five();
    drop(made.keep());
    let path = format!("sessions/2026/02/03/rollout-2026-02-03T09-15-01-{}.jsonl", id(3));
    // The same size and time: by all that a cheap look tells, the file that was read.
    let content = fs::read_to_string(made.home.join(path.as_bytes())).unwrap();
    let before = fs::metadata(made.home.join(path.as_bytes())).unwrap().modified().unwrap();
    let file = fs::OpenOptions::new().write(true).open(made.home.join(path.as_bytes())).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, content.replace("hello", "HELLO").as_bytes(), 0).unwrap();
    file.set_modified(before).unwrap();
    let state = made.home.root().join(".rolloutfs");
    let listing = || {
        let mut names: Vec<_> =
            fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        (names, fs::read(state.join(INDEX_NAME)).unwrap())
    };
    let state_before = listing();
    let page = made.source().page(&created_first()).unwrap();
    assert_eq!(page.items[2].title, "hello", "taken from the index");
    assert_eq!(listing(), state_before);
    // With what may not have been in the database when its writer was killed, it is not believed.
    fs::write(state.join(format!("{INDEX_NAME}-wal")), "x").unwrap();
    assert_eq!(made.source().page(&created_first()).unwrap().items[2].title, "HELLO");
}

#[test]
fn a_writer_that_just_began_is_not_believed_yet() {
    let made = five();
    let _store = made.keep();
    assert!(!open_for_reading(&made.home, None).is_index());
    assert!(made.source().is_index());
    assert!(!open_settled_after(&made.home, Some(Path::new("/nowhere")), Duration::ZERO).is_index());
}

#[test]
fn compressed_rollouts_are_listed_by_their_plain_path() {
    let made = five();
    let path = format!("sessions/2026/02/03/rollout-2026-02-03T09-15-01-{}.jsonl", id(3));
    let file = made.home.join(path.as_bytes());
    let packed = zstd::encode_all(fs::File::open(&file).unwrap(), 3).unwrap();
    fs::write(file.with_extension("jsonl.zst"), packed).unwrap();
    fs::remove_file(&file).unwrap();
    made.each_way(|source| {
        let item = source.page(&created_first()).unwrap().items.remove(2);
        assert_eq!((item.path, item.encoding, item.title.as_str()), (path.clone(), "zstd", "hello"));
        assert!(item.file.is_file() && item.size_bytes > Some(item.disk_bytes));
    });
}

/// Every way of asking gives the same pages of the same home, item by item.
#[test]
fn index_and_files_give_the_same_pages() {
    let made = of_sources();
    for number in 10..40 {
        let created = format!("2026-02-{:02}T09:15:{:02}Z", 1 + number % 3, number % 7);
        let path = made.active(
            number,
            &created,
            "/srv",
            &format!("words {number}"),
            if number % 5 == 0 { "cut" } else { "" },
        );
        made.touch(&path, 1_800_000_000 + number % 4);
        if number % 4 == 0 {
            let archived = made.archive(&path);
            if number % 8 == 0 {
                // The same id in both folders.
                made.put(
                    &path,
                    &fs::read_to_string(made.home.join(archived.as_bytes())).unwrap(),
                    1_800_000_000,
                );
            }
        }
        if number % 6 == 0 {
            made.name(number, &format!("name {}", number % 4));
        }
    }
    let mut queries = Vec::new();
    for sort in [SortKey::Created, SortKey::Updated] {
        for descending in [true, false] {
            for archived in [None, Some(false), Some(true)] {
                for limit in [1, 7, 100] {
                    queries.push(ListQuery { sort, descending, archived, limit, ..ListQuery::default() });
                }
            }
        }
    }
    let answers = |source: &Source| queries.iter().map(|query| pages(source, query)).collect::<Vec<_>>();
    let expected = answers(&made.source());
    assert_eq!(expected[2][0].items.len(), 34 + 3);
    made.each_way(|source| assert!(answers(source) == expected));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Rows that come between two pages are not in the way: every old row appears once, in order.
    #[test]
    fn pages_neither_repeat_nor_skip_when_rows_are_inserted(
        old in proptest::collection::btree_map(0u64..1000, (0i64..6, any::<bool>()), 1..30),
        new in proptest::collection::vec((1000u64..2000, 0i64..6, any::<bool>()), 0..30),
        limit in 1usize..7,
        descending: bool,
        created: bool,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(INDEX_NAME);
        let connection = crate::store::schema::open_writer(&path, 7).unwrap();
        let insert = |number: u64, time: i64, archived: bool| {
            let root = if archived { "archived_sessions" } else { "sessions" };
            let thread: crate::store::rollout::ThreadId = id(number).parse().unwrap();
            let sql = "INSERT OR IGNORE INTO rollouts(number, kind, area, path, thread_id, stamp, archived, current, secondary, duplicate, \
                encoding, size_bytes, mtime_ns, device, inode, state, torn, bare, parse_errors, line_bytes, name_position, \
                created_at_ms, source, provider, cwd, indexed_bytes, lines) VALUES (?1, 0, 0, ?2, ?3, 0, ?4, 1, 0, 0, \
                0, 1, ?5, 0, 0, 1, 0, 0, 0, 0, -1, ?5, '', '', '', 0, 1)";
            let path = format!("{root}/{number}").into_bytes();
            connection.execute(sql, rusqlite::params![number as i64, path, &thread.as_bytes()[..], archived, time]).unwrap();
            fs::create_dir_all(dir.path().join(root)).unwrap();
            fs::write(dir.path().join(format!("{root}/{number}")), "").unwrap();
        };
        for (number, (time, archived)) in &old {
            insert(*number, *time, *archived);
        }
        let home = Home::open(dir.path()).unwrap();
        let sort = if created { SortKey::Created } else { SortKey::Updated };
        let mut query = ListQuery { sort, descending, limit, ..ListQuery::default() };
        let mut new = new.into_iter();
        let mut seen = Vec::new();
        loop {
            let page = super::source::page_of_index(&home, &connection, &query).unwrap();
            seen.extend(numbers(&page).into_iter().filter(|number| *number < 1000));
            for (number, time, archived) in new.by_ref().take(3) {
                insert(number, time, archived);
            }
            match page.next_cursor {
                Some(cursor) => query.cursor = Some(cursor.to_string().parse().unwrap()),
                None => break,
            }
        }
        let mut expected: Vec<_> = old.iter().map(|(number, (time, _))| (*time, *number)).collect();
        expected.sort_unstable();
        if descending {
            expected.reverse();
        }
        prop_assert_eq!(seen, expected.into_iter().map(|(_, number)| number).collect::<Vec<_>>());
    }
}
