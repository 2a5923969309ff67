//! What if the home is odd? Everything is shown; what cannot be read is an error for who reads it, and for nobody else.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::{TestHome, thread_id, thread_text};
use crate::harness::{
    Mounted, WAIT_MAX, can_mount, exists, is_root, names_in, rerun_as_nobody, thread_lines, wait_for,
};

const DAY_FILES: u64 = 10_000;
/// A listing of a full day: long before all its files are read.
const LISTED_WITHIN: Duration = Duration::from_secs(30);

#[test]
fn a_day_with_ten_thousand_threads_is_listed_before_they_are_read() {
    if !can_mount() {
        return;
    }
    let home = TestHome::empty();
    let day = home.path().join("sessions/2026/02/08");
    fs::create_dir_all(&day).unwrap();
    let mut expected = Vec::new();
    for number in 0..DAY_FILES {
        let name = format!(
            "rollout-2026-02-08T{:02}-{:02}-{:02}-{}.jsonl",
            number / 3600,
            number / 60 % 60,
            number % 60,
            thread_id(number)
        );
        fs::write(day.join(&name), thread_text(&thread_id(number), "/srv/demo", "a question")).unwrap();
        expected.push(name);
    }
    let mount = Mounted::unsettled(&home.path(), &home.beside("mnt"), &[]);
    let began = Instant::now();
    let listed = names_in(&mount.path("sessions/2026/02/08"));
    let took = began.elapsed();
    println!("{DAY_FILES} entries were listed in {took:?}");
    // In the order of time, too.
    assert!(listed == expected, "{} entries", listed.len());
    assert!(took < LISTED_WITHIN, "{took:?}");
    mount.unmount();
}

#[test]
fn a_file_that_may_not_be_read_is_listed_and_its_read_is_refused() {
    if !can_mount() {
        return;
    }
    if is_root() {
        return rerun_as_nobody("odd::a_file_that_may_not_be_read_is_listed_and_its_read_is_refused");
    }
    let home = TestHome::empty();
    let closed = home.thread("2026-02-08T10-00-00", 1, "/srv/demo", "a question");
    home.thread("2026-02-08T11-00-00", 2, "/srv/demo", "a question");
    let packed = format!("sessions/2026/02/08/rollout-2026-02-08T12-00-00-{}.jsonl", thread_id(3));
    let bytes =
        zstd::encode_all(thread_text(&thread_id(3), "/srv/demo", "a question").as_bytes(), 3).unwrap();
    let packed_on_disk = home.write(&format!("{packed}.zst"), bytes);
    for file in [&home.path().join(&closed), &packed_on_disk] {
        fs::set_permissions(file, Permissions::from_mode(0o000)).unwrap();
    }
    let mount = Mounted::new(&home.path(), &home.beside("mnt"), &[]);
    assert_eq!(names_in(&mount.path("sessions/2026/02/08")).len(), 3);
    for path in [&closed, &packed] {
        assert!(fs::symlink_metadata(mount.path(path)).unwrap().is_file(), "{path}");
        let error = fs::read(mount.path(path)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{path}: {error}");
        let name = Path::new(path).file_name().unwrap();
        assert!(exists(&mount.path("health/unreadable").join(name)), "{path}");
    }
    assert_eq!(thread_lines(mount.at()).len(), 3);
    // Opened to the daemon, it is read.
    for file in [&home.path().join(&closed), &packed_on_disk] {
        fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
    }
    for path in [&closed, &packed] {
        wait_for("a file that may be read now is read", WAIT_MAX, || fs::read(mount.path(path)).is_ok());
    }
    for path in [&closed, &packed] {
        let complaint = mount.path("health/unreadable").join(Path::new(path).file_name().unwrap());
        wait_for("health has no complaint", WAIT_MAX, || !exists(&complaint));
    }
    mount.unmount();
}

#[test]
fn a_truncated_compressed_thread_is_an_error_for_who_reads_it_alone() {
    if !can_mount() {
        return;
    }
    let home = TestHome::empty();
    let good = home.thread("2026-02-08T09-00-00", 1, "/srv/demo", "a question");
    let text = thread_text(&thread_id(2), "/srv/demo", "a question") + &"{\"type\":\"x\"}\n".repeat(5000);
    // One whose frame states its size, one without; both cut, and one that is empty.
    let stated = zstd::bulk::compress(text.as_bytes(), 3).unwrap();
    let streamed = zstd::encode_all(text.as_bytes(), 3).unwrap();
    let mut paths = Vec::new();
    for (number, bytes) in
        [(2, &stated[..stated.len() / 2]), (3, &streamed[..streamed.len() / 2]), (4, &stated[..7])]
    {
        let path = format!("sessions/2026/02/08/rollout-2026-02-08T10-00-00-{}.jsonl", thread_id(number));
        home.write(&format!("{path}.zst"), bytes);
        paths.push(path);
    }
    let mount = Mounted::new(&home.path(), &home.beside("mnt"), &[]);
    for round in 0..2 {
        assert_eq!(names_in(&mount.path("sessions/2026/02/08")).len(), 4);
        for path in &paths {
            assert!(fs::metadata(mount.path(path)).unwrap().is_file());
            let error = fs::read(mount.path(path)).expect_err(path);
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "{path}, round {round}: {error}");
            let name = Path::new(path).file_name().unwrap();
            assert!(exists(&mount.path("health/unreadable").join(name)), "{path}");
        }
        assert!(fs::read(mount.path(&good)).unwrap() == fs::read(home.path().join(&good)).unwrap());
    }
    assert_eq!(thread_lines(mount.at()).len(), 4);
    // Repaired, it is read.
    home.write(&format!("{}.zst", paths[0]), &stated);
    wait_for("a repaired file is read", WAIT_MAX, || {
        fs::read(mount.path(&paths[0])).is_ok_and(|bytes| bytes == text.as_bytes())
    });
    mount.unmount();
}
