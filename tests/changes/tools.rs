//! What ordinary tools get, and what is on disk after: a table, printed.

use std::fs;

use super::mount::{Mount, can_mount};
use super::{DAY, active, id, name, thread, with_threads};

/// A command, whether it must succeed, and what must be true after it (a line of shell, in the mount, home as `$H`).
struct Case {
    line: String,
    succeeds: bool,
    after: String,
    says: &'static str,
}

fn case(line: impl Into<String>, succeeds: bool, after: impl Into<String>, says: &'static str) -> Case {
    Case { line: line.into(), succeeds, after: after.into(), says }
}

/// Threads 10 to 60 are files beside the home, 1 to 9 are in it.
fn cases() -> Vec<Case> {
    let there = |number: u64| format!("$H/{}", active(number));
    let same = |number: u64| format!("cmp $S/{0} $M/{1} && cmp $S/{0} $H/{1}", name(number), active(number));
    let untouched =
        |number: u64| format!("cmp $S/{0} $H/{1} && cmp $S/{0} $M/{1}", name(number), active(number));
    let times = |number: u64| {
        format!("{} && [ $(stat -c %Y.%a $H/{}) = 1700000000.640 ]", same(number), active(number))
    };
    let src = |number: u64| format!("$S/{}", name(number));
    let one = active(1);
    vec![
        case(format!("cp {} {DAY}/", src(10)), true, same(10), "a thread, in the home"),
        case(format!("cp -p {} {DAY}/", src(11)), true, times(11), "the same, with time and mode"),
        case(
            format!("cp -p {} archived_sessions/ && mv archived_sessions/{} {DAY}/", src(12), name(12)),
            true,
            times(12),
            "archived, and moved",
        ),
        case(format!("rsync -a {} {DAY}/", src(13)), true, times(13), "by a temporary name"),
        case(format!("rsync -a --inplace {} {DAY}/", src(14)), true, times(14), "written in place"),
        case(format!("rsync -a {} {DAY}/", src(13)), true, times(13), "nothing to do"),
        case(
            format!("tar -C $S -cf - {} | tar -C {DAY} -xpf -", name(15)),
            true,
            times(15),
            "with time and mode",
        ),
        case(format!("install -m 640 -p {} {DAY}/", src(16)), true, times(16), ""),
        case(
            format!("cp {} {DAY}/; cat $S/more >> {DAY}/{}", src(17), name(17)),
            true,
            format!("cat {} $S/more | cmp - {}", src(17), there(17)),
            "appended",
        ),
        case(
            format!("tee -a {one} < $S/more > /dev/null"),
            true,
            format!("cat {} $S/more | cmp - {}", src(1), there(1)),
            "appended",
        ),
        case(
            format!("dd if=$S/more of={} oflag=append conv=notrunc,fsync status=none", active(2)),
            true,
            format!("cat {} $S/more | cmp - {}", src(2), there(2)),
            "appended, synced",
        ),
        case(
            format!("dd if=$S/more of={} conv=notrunc,fsync status=none", active(3)),
            false,
            untouched(3),
            "no overwriting",
        ),
        case(format!("echo x > {}", active(3)), false, untouched(3), "no overwriting"),
        case(format!("truncate -s 10 {}", active(3)), false, untouched(3), "no cutting"),
        case(format!("truncate -s +10 {}", active(3)), false, untouched(3), "no holes"),
        case(format!("cp {} {}", src(10), active(3)), false, untouched(3), "no overwriting"),
        case(
            format!("printf x | dd of={} bs=1 seek=1 conv=notrunc status=none", active(3)),
            false,
            untouched(3),
            "no overwriting",
        ),
        case(
            format!("touch -d @1600000000 {}", active(3)),
            true,
            format!("{} && [ $(stat -c %Y {}) = 1600000000 ]", untouched(3), there(3)),
            "the time",
        ),
        case(
            format!("touch {}", active(3)),
            true,
            format!("{} && [ $(stat -c %Y {}) -gt 1700000000 ]", untouched(3), there(3)),
            "now",
        ),
        case(
            format!("chmod 600 {}", active(3)),
            true,
            format!("[ $(stat -c %a {}) = 600 ]", there(3)),
            "the mode",
        ),
        case(format!("chown 12345 {}", active(3)), false, untouched(3), "no owners"),
        case(
            format!("ln {} {DAY}/second", active(3)),
            false,
            format!("[ ! -e {DAY}/second ]"),
            "no hard links",
        ),
        case(
            format!("touch {DAY}/notes && truncate -s 100 {DAY}/notes && printf hello > {DAY}/notes"),
            true,
            format!("[ \"$(cat {DAY}/notes)\" = hello ] && [ ! -e $H/{DAY}/notes ]"),
            "scratch, not in the home",
        ),
        case(
            format!("sed -i s/hello/bye/ {DAY}/notes"),
            true,
            format!("[ \"$(cat {DAY}/notes)\" = bye ] && [ $(ls {DAY} | grep -c sed) = 0 ]"),
            "scratch",
        ),
        case(
            format!("sed -i s/question/answer/ {}", active(4)),
            true,
            format!(
                "sed s/question/answer/ {} | cmp - {} && [ $(ls $H/.rolloutfs/trash | wc -l) = 1 ] && cmp {} $H/.rolloutfs/trash/*/{}",
                src(4),
                there(4),
                src(4),
                name(4)
            ),
            "replaced; the old one is in the trash",
        ),
        case(
            format!("vim -es -u NONE -i NONE -c 'call setline(1, \"x\")' -c 'w!' -c 'q!' {DAY}/vim.txt"),
            true,
            format!("[ \"$(cat {DAY}/vim.txt)\" = x ] && [ ! -e $H/{DAY}/vim.txt ]"),
            "a new scratch file",
        ),
        case(
            format!("vim -es -u NONE -i NONE -c 'call setline(1, \"y\")' -c 'w!' -c 'q!' {DAY}/vim.txt"),
            true,
            format!("[ \"$(cat {DAY}/vim.txt)\" = y ]"),
            "a scratch file again",
        ),
        case(
            format!("vim -es -u NONE -i NONE -c 'r {}' -c 'w!' -c 'q!' {DAY}/{}", src(18), name(18)),
            true,
            same(18),
            "a new thread",
        ),
        case(
            format!("vim -es -u NONE -i NONE -c '%d' -c 'w!' -c 'q!' {}", active(5)),
            true,
            untouched(5),
            "an existing thread: refused (vim -es does not tell)",
        ),
        case(
            format!("rm {DAY}/notes {DAY}/vim.txt"),
            true,
            format!("[ ! -e {DAY}/notes ] && [ $(ls $H/.rolloutfs/trash | wc -l) = 1 ]"),
            "scratch, for good",
        ),
        case(
            format!("mv {} archived_sessions/", active(6)),
            true,
            format!("cmp {} $H/archived_sessions/{} && [ ! -e $H/{} ]", src(6), name(6), active(6)),
            "archived",
        ),
        case(format!("mv archived_sessions/{} {DAY}/", name(6)), true, untouched(6), "and back"),
        case(format!("mv {} {DAY}/other.jsonl", active(6)), false, untouched(6), "a thread keeps its name"),
        case(
            format!("mv {} /tmp/", active(7)),
            true,
            format!(
                "cmp {} /tmp/{} && rm /tmp/{} && [ ! -e $H/{} ] && [ $(ls $H/.rolloutfs/trash | wc -l) = 2 ]",
                src(7),
                name(7),
                name(7),
                active(7)
            ),
            "copied out; the old one is in the trash",
        ),
        case(
            format!("ln -s ../{} by-name/foo.jsonl", active(8)),
            true,
            format!("grep -q foo $H/session_index.jsonl && cmp {} by-name/foo.jsonl", src(8)),
            "named",
        ),
        case(
            "mv by-name/foo.jsonl by-name/bar.jsonl",
            true,
            format!("[ ! -e by-name/foo.jsonl ] && cmp {} by-name/bar.jsonl", src(8)),
            "named",
        ),
        case(
            "rm by-name/bar.jsonl",
            true,
            format!("[ ! -e by-name/bar.jsonl ] && [ ! -s $H/session_index.jsonl ] && {}", untouched(8)),
            "the name alone",
        ),
        case(
            format!("rm {}", active(8)),
            true,
            format!(
                "[ ! -e $H/{} ] && [ ! -e by-id/{}.jsonl ] && cmp {} $H/.rolloutfs/trash/*/{}",
                active(8),
                id(8),
                src(8),
                name(8)
            ),
            "to the trash",
        ),
        case(
            "mkdir -p sessions/2026/03/01",
            true,
            "[ -d sessions/2026/03/01 ] && [ ! -e $H/sessions/2026/03 ]",
            "not in the home yet",
        ),
        case("rmdir sessions/2026/03/01 sessions/2026/03", true, "[ ! -e sessions/2026/03 ]", ""),
        case(format!("rmdir {DAY}"), false, untouched(9), "not empty"),
        case("mkdir sessions/x", false, "[ ! -e sessions/x ]", "no other folders"),
        case(
            "rm -r sessions/2026",
            true,
            "[ ! -e sessions/2026 ] && [ -z \"$(find $H/sessions -type f)\" ] && [ $(ls $H/.rolloutfs/trash | wc -l) -gt 10 ]",
            "all to the trash",
        ),
    ]
}

#[test]
fn ordinary_tools() {
    if !can_mount() {
        return;
    }
    let mount = Mount::of(|home| with_threads(home, 1..=9), &[]);
    let source = mount.beside("source");
    fs::create_dir(&source).unwrap();
    for number in 1..=20 {
        fs::write(source.join(name(number)), thread(number)).unwrap();
    }
    fs::write(source.join("more"), super::item("more")).unwrap();
    let prepare = "chmod 640 $S/* && touch -d @1700000000 $S/*";
    let set = format!("export S={}; ", source.display());
    mount.ok(&(set.clone() + prepare));
    let mut wrong = Vec::new();
    for case in cases() {
        let output = mount.sh(&(set.clone() + &case.line));
        let error = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        let after = mount.sh(&(set.clone() + &case.after));
        let shown = case.line.replace(DAY, "DAY").replace("0198c0de-0000-7000-8000-", "");
        let result = output.status.code().map_or("killed".into(), |code| code.to_string());
        let holds = after.status.success();
        println!("{shown:<90} | {result:>3} | {} | {error}", if holds { case.says } else { "WRONG" });
        if output.status.success() != case.succeeds || !holds {
            wrong.push(format!("{}\n  {output:?}\n  after: {after:?}", case.line));
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), mount.log());
}
