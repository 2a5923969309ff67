//! What does the log say? At its loudest nothing of what a thread says; in the daemon as much as was asked for.

use std::fs;
use std::process::{Command, Stdio};

use crate::common::{TestHome, thread_id, thread_text};
use crate::harness::{FreedPoint, Mounted, PROGRAM, can_mount, run, text_of, wait_for};

/// In everything that the threads of the test say.
const SECRET: &str = "xyzzysecretxyzzy";
const DAY: &str = "sessions/2026/02/08";

fn name(number: u64) -> String {
    format!("rollout-2026-02-08T10-00-00-{}.jsonl", thread_id(number))
}

/// Threads that are whole, torn, odd and damaged, and all say the secret.
fn home() -> TestHome {
    let home = TestHome::empty();
    let text = |number| thread_text(&thread_id(number), &format!("/srv/{SECRET}"), SECRET);
    let odd = [
        text(1),
        text(2) + &format!("{{\"timestamp\":\"2026-02-08T10:00:00Z\",\"type\":\"{SECRET}"),
        text(3) + &format!("not json {SECRET}\n[\"{SECRET}\"]\n{{\"type\":7,\"payload\":\"{SECRET}\"}}\n"),
        format!("{{\"id\":\"{SECRET}\",\"timestamp\":\"{SECRET}\",\"instructions\":\"{SECRET}\"}}\n"),
        text(5).replace("\"cli\"", &format!("{{\"subagent\":\"{SECRET}\"}}")),
        text(6).replace("0198c0de-0000-7000-8000-000000000006", SECRET),
        String::new(),
    ];
    for (number, text) in (1..).zip(odd) {
        home.write(&format!("{DAY}/{}", name(number)), text);
    }
    let packed = zstd::encode_all(text(8).as_bytes(), 3).unwrap();
    home.write(&format!("{DAY}/{}.zst", name(8)), &packed);
    home.write(&format!("{DAY}/{}.zst", name(9)), [&packed[..packed.len() / 2], SECRET.as_bytes()].concat());
    home.write(
        "session_index.jsonl",
        format!("{{\"id\":\"{}\",\"thread_name\":\"{SECRET}\"\n", thread_id(1)),
    );
    home.write(&format!("{DAY}/notes.txt"), SECRET);
    home
}

#[test]
fn nothing_of_a_thread_is_logged() {
    if !can_mount() {
        return;
    }
    let home = home();
    // Kept apart from the log of warnings.
    let mount = Mounted::start(&home.path(), &home.beside("mnt"), &[], |command| {
        command.env("RUST_LOG", "trace");
    });
    mount.wait_settled();
    mount.find();
    run(Command::new("grep").args(["-r", SECRET, "sessions"]).current_dir(mount.at()));
    let line = format!(
        "{{\"timestamp\":\"2026-02-08T10:00:00Z\",\"type\":\"event_msg\",\"payload\":{{\"type\":\"user_message\",\"message\":\"{SECRET}\"}}}}"
    );
    let day = mount.path(DAY);
    let script = format!(
        "echo '{line}' >> {active}; echo '{SECRET}' > {active}; echo '{SECRET}' >> {pending}; echo '{line}' >> {pending}; \
         echo '{SECRET}' >> {packed}; echo '{SECRET}' >> {damaged}; echo '{SECRET}' > scratch.txt; echo '{SECRET}' >> notes.txt; \
         cat {damaged}; mv {active} ../../../../archived_sessions/; rm {pending}; true",
        active = name(1),
        pending = name(20),
        packed = name(8),
        damaged = name(9),
    );
    run(Command::new("sh").args(["-c", &script]).current_dir(&day));
    fs::write(home.path().join(DAY).join(name(30)), thread_text(&thread_id(30), "/srv", SECRET)).unwrap();
    wait_for("a new thread", std::time::Duration::from_secs(5), || {
        mount.path(format!("by-id/{}.jsonl", thread_id(30))).exists()
    });
    let log = mount.log_text();
    assert!(log.contains("Write") || log.contains("write"), "the log is not loud: {log}");
    assert_silent("the mount", &log);
    mount.unmount();
    let item = format!(
        "{{\"type\":\"response_item\",\"payload\":{{\"type\":\"{SECRET}\",\"text\":\"{SECRET}\"}}}}\n"
    );
    let input = home.write("input", format!("{SECRET}\n{item}[\"{SECRET}\"]\n"));
    let words: [&[&str]; 6] = [
        &["index", "--rebuild"],
        &["list", "--all"],
        &["show", &thread_id(3)],
        &["fork", &thread_id(3)],
        &["record"],
        &["doctor"],
    ];
    for words in words {
        let stdin = fs::File::open(&input).unwrap();
        let output = Command::new(PROGRAM)
            .args(["-vvv"])
            .args(words)
            .env("CODEX_HOME", home.path())
            .stdin(Stdio::from(stdin))
            .output()
            .unwrap();
        assert_silent(words[0], &String::from_utf8_lossy(&output.stderr));
    }
}

fn assert_silent(who: &str, log: &str) {
    let told: Vec<_> = log.lines().filter(|line| line.contains(SECRET)).take(5).collect();
    assert!(told.is_empty(), "{who} logged what a thread says: {told:#?}");
    println!("{who}: {} lines logged", log.lines().count());
}

#[test]
fn the_daemon_logs_as_much_as_was_asked_for() {
    if !can_mount() {
        return;
    }
    for (flags, told) in [(&["-v"][..], true), (&[], false)] {
        let home = TestHome::empty();
        let at = home.beside("mnt");
        fs::create_dir(&at).unwrap();
        let freed = FreedPoint(at.clone());
        let log = home.beside("log");
        let mut mount = Command::new(PROGRAM);
        mount.args(flags).args(["mount", "--log-file"]).args([&log, &home.path(), &at]);
        text_of(mount.env_remove("RUST_LOG"));
        text_of(Command::new(PROGRAM).arg("unmount").arg(&at));
        drop(freed);
        let text = fs::read_to_string(&log).unwrap();
        assert_eq!(text.contains("is mounted at"), told, "{flags:?}: {text}");
    }
}
