//! What does the tree's own `README.md` say? How to use the tree, for a person or an agent that finds it.

use super::Views;

/// The text, for the views that are shown.
pub fn text(views: &Views, is_shown: impl Fn(&str) -> bool) -> String {
    let mut table = String::new();
    for view in views.iter().filter(|view| is_shown(view.root())) {
        table.push_str(&format!("- `{}/`: {}\n", view.root(), view.about()));
    }
    format!(
        "# Codex threads\n\n\
         This folder is a Codex home, mounted by rolloutfs. Every thread is one file of JSON lines, exactly once, below\n\
         `sessions/` or `archived_sessions/`; the other folders hold links to these files. So `grep -r` here counts a hit once.\n\n\
         {table}\
         - `latest`: the active thread that was written last\n\
         - `threads.jsonl`: one line of facts about every file: `jq -r '[.updated_at, .name // .title, .path] | @tsv' threads.jsonl`\n\
         - `session_index.jsonl`: the names, as Codex has them\n\n\
         Try:\n\n\
         ```sh\n\
         ls by-name\n\
         ls by-cwd$PWD\n\
         grep -rl 'word' sessions\n\
         jq -r 'select(.type == \"event_msg\" and .payload.type == \"user_message\") | .payload.message' latest\n\
         jq -r 'select(.cwd == \"/srv/demo\") | .path' threads.jsonl\n\
         ```\n\n\
         Compressed threads (`.jsonl.zst` on disk) appear as plain `.jsonl`. Names are spelled so that every system can\n\
         hold them: `/` is `%2F`, `:` is `%3A` and so on; the true name stands in `threads.jsonl`.\n\n\
         Change it, unless it is mounted read-only:\n\n\
         ```sh\n\
         ln -s ../latest by-name/planb.jsonl    # name a thread; mv gives it another name, rm takes it away\n\
         mv sessions/2026/02/08/rollout-... archived_sessions/    # archive it, and back\n\
         rm sessions/2026/02/08/rollout-...     # to the trash: rolloutfs trash list\n\
         ```\n\n\
         Threads are append-only. A new thread file has its place in the home once a user's message is in it.\n"
    )
}
