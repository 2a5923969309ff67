//! What does an operation cost? Requests counted by the daemon itself, over programs that people use.

use std::process::Command;

use serde_json::Value;

use crate::common::TestHome;
use crate::harness::{Mounted, can_mount, run, text_of};

const THREADS: u64 = 300;
/// Requests a node that a first pass may send: its folder's entry, its attributes, its bytes, and some for the folder.
const FIRST_PER_NODE_MAX: f64 = 2.0;
/// Requests that a pass over an unchanged tree may send, whatever its size: what is asked once a second.
const AGAIN_MAX: u64 = 8;

/// An old home: what was written just now is asked for again each second.
fn old_home() -> TestHome {
    let home = TestHome::sample(THREADS, 31);
    text_of(Command::new("find").arg(home.path()).args(["-exec", "touch", "-hd", "2025-01-02", "{}", "+"]));
    home
}

/// Requests of each kind that a command sends; reading the status is taken off.
fn cost_of(mount: &Mounted, line: &str) -> (u64, String) {
    let (idle_from, _) = mount.requests();
    let (idle_to, _) = mount.requests();
    let (from, before) = mount.requests();
    run(Command::new("sh").args(["-c", line]).current_dir(mount.at()).stdout(std::process::Stdio::null()));
    let (to, after) = mount.requests();
    let more = |(kind, count): (&String, &Value)| {
        let more = count.as_u64().unwrap() - before[kind].as_u64().unwrap();
        (more > 0).then(|| format!("{kind} {more}"))
    };
    let kinds: Vec<_> = after.as_object().unwrap().iter().filter_map(more).collect();
    ((to - from).saturating_sub(idle_to - idle_from), kinds.join(", "))
}

#[test]
fn a_second_look_at_an_unchanged_tree_asks_for_next_to_nothing() {
    if !can_mount() {
        return;
    }
    let kinds: [&[&str]; 2] = [&["--read-only"], &[]];
    for (line, options) in
        ["ls -lR", "grep -r needle ."].into_iter().flat_map(|line| kinds.map(|kind| (line, kind)))
    {
        let home = old_home();
        let mount = Mounted::new(&home.path(), &home.beside("mnt"), options);
        let (first, first_kinds) = cost_of(&mount, line);
        if options.is_empty() {
            // What can be written has a time of its last reading: after a reading the kernel asks for it once.
            let (once, once_kinds) = cost_of(&mount, line);
            println!("{line}, writable: {once} requests once more ({once_kinds})");
            assert!(once <= first, "{line}: {once} requests once more: {once_kinds}");
        }
        let (second, second_kinds) = cost_of(&mount, line);
        let nodes = mount.find().len() as u64;
        println!(
            "{line} {options:?}: {nodes} nodes; first {first} requests ({first_kinds}), second {second} ({second_kinds})"
        );
        assert!(
            first as f64 <= nodes as f64 * FIRST_PER_NODE_MAX,
            "{line}: the first pass sent {first} requests for {nodes} nodes: {first_kinds}"
        );
        // Where names can be given, the kernel does not keep them: they are right when mv returns.
        let named = if options.is_empty() {
            std::fs::read_dir(mount.path("by-name")).unwrap().count() as u64
        } else {
            0
        };
        assert!(
            second <= AGAIN_MAX + nodes / 100 + 2 * named,
            "{line}: the second pass sent {second} requests for {nodes} nodes: {second_kinds}"
        );
        mount.unmount();
    }
}
