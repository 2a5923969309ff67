//! What do people and models say in the sample? Pools of words, requests, projects and settings.
//! Depends on the generator only. Texts in other scripts stand as they are read.

use super::prng::{Prng, Purpose};

/// How many projects a home has; the first few have most of the threads.
pub(super) const PROJECTS: u64 = 200;
/// The word that stands in about one thread of [`NEEDLE_EVERY`], and nowhere else.
pub(super) const NEEDLE: &str = "needle";
/// See [`NEEDLE`].
pub(super) const NEEDLE_EVERY: u64 = 50;
/// Bytes of a `base_instructions` text in a realistic sample.
const LONG_INSTRUCTIONS_BYTES: usize = 9000;

const WORDS: &[&str] = &[
    "the", "a", "of", "to", "and", "with", "for", "from", "into", "after", "before", "each", "every",
    "first", "last", "parser", "buffer", "cache", "index", "reader", "writer", "queue", "socket", "thread",
    "worker", "record", "table", "column", "request", "response", "header", "token", "cursor", "window",
    "module", "test", "build", "branch", "commit", "merge", "config", "option", "default", "limit", "error",
    "warning", "retry", "timeout", "latency", "memory", "file", "folder", "path", "name", "link", "date",
    "zone", "locale", "string", "number", "empty", "broken", "stale", "slow", "fast", "small", "large",
    "local", "remote", "shared", "locked", "checks", "reads", "writes", "moves", "keeps", "drops", "splits",
    "joins", "fails", "passes", "returns", "loads", "stores", "prints", "counts",
];

const REQUESTS: &[&str] = &[
    "Why does the nightly import stop halfway?",
    "Rename the settings page and keep the old links working.",
    "Add a dry run to the cleanup script",
    "The date picker is off by one day in Auckland, please look",
    "write a test for the retry loop, then make it pass",
    "Explain what this macro expands to.",
    "Can we drop the second database query here?",
    "fix the typo in the footer",
    "Move the parser into a crate of its own; nothing else may change.",
    "Run the linter and repair what it finds",
    "Die Rechnung zeigt die falsche W\u{e4}hrung, bitte pr\u{fc}fen.",
    "Bitte die Gr\u{f6}\u{df}e der Warteschlange begrenzen",
    "Le bouton \u{ab} Envoyer \u{bb} ne r\u{e9}pond plus apr\u{e8}s la mise \u{e0} jour.",
    "A\u{f1}ade paginaci\u{f3}n a la lista de pedidos, por favor",
    "Corrige o c\u{e1}lculo do frete para as ilhas",
    "Napraw b\u{142}\u{105}d przy zapisie pliku z d\u{142}ug\u{105} nazw\u{105}",
    "Почему тест падает только по понедельникам?",
    "登录页面在窄屏上错位了,请修一下",
    "検索結果の並び順を更新日時に変えてください",
    "로그에 요청 번호를 남겨 주세요",
    "أضف رسالة خطأ أوضح عند فقدان الملف",
    "कृपया रिपोर्ट में कुल जोड़ दिखाएँ",
    "Ship it \u{1f680} but check the migration first \u{1f914}",
    "# Notes\n- keep the API\n- no new dependency\n\nThen do the rest.",
];

const SPECIAL_FOLDERS: &[&str] = &[
    "/home/ana/My Projects/web shop",
    "/srv/\u{30d7}\u{30ed}\u{30b8}\u{30a7}\u{30af}\u{30c8}/\u{691c}\u{7d22}",
    "C:\\Users\\Ana\\source\\repos\\desk",
    "/home/ana/.dotfiles",
    "/home/ana/work/../work/api",
    "/home/ana/work/api/.",
    "/",
    "/tmp/launch-\u{1f680}",
    "/home/ana/work/trailing. ",
    "\\\\server\\share\\docs",
    "/home/ana/what? a:b*c|d",
    "/home/ana/deep/a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p",
    "/home/ana/100% done",
    "/home/ana/con/nul.txt",
    "C:\\Users\\..\\Public\\shared work",
    "/home/ana/M\u{fc}ller & S\u{f6}hne",
];

const BRANCHES: &[&str] = &[
    "main",
    "main",
    "main",
    "main",
    "master",
    "develop",
    "feature/login",
    "feature/login-form",
    "release/1.x",
    "ana/wip-#12",
    "\u{fc}bung/gr\u{f6}\u{df}e",
    "hotfix/2026.03",
    "dependabot/npm_and_yarn/web/left-pad-2.0.1",
];

/// A project: where its threads run, and its repository.
#[derive(Clone, Debug)]
pub(super) struct Project {
    /// The working directory, as Codex wrote it down.
    pub(super) folder: String,
    /// The remote, if the folder is in a repository. Some carry credentials, as real ones do.
    pub(super) repository_url: Option<String>,
}

/// The user part of some remotes. It may stand in rollout bytes, but in no name of a view.
pub const URL_SECRET: &str = "url-secret-of-the-sample";

impl Project {
    /// The project of this number, below [`PROJECTS`].
    pub(super) fn new(seed: u64, number: u64) -> Project {
        let mut prng = Prng::new(seed, number, Purpose::Project);
        let (first, second) = (WORDS[15 + prng.below(25) as usize], WORDS[15 + prng.below(45) as usize]);
        let special = (number % 9 == 4).then(|| SPECIAL_FOLDERS.get(number as usize / 9)).flatten();
        let parent = prng.pick(&["work", "work", "src", "oss", "clients/acme", "clients/globex"]);
        let folder = match special {
            Some(folder) => (*folder).to_owned(),
            None => format!("/home/ana/{parent}/{first}-{second}"),
        };
        let repository = format!("{first}-{second}");
        let owner = prng.pick(&["ana", "acme", "globex", "Initech"]);
        let repository_url = match if number == 1 { 10 } else { prng.below(16) } {
            0 | 1 => None,
            2..=6 => Some(format!("https://github.com/{owner}/{repository}.git")),
            7 | 8 => Some(format!("git@github.com:{owner}/{repository}.git")),
            9 => Some(format!("ssh://git@git.example.org:2222/{owner}/team/{repository}.git")),
            10 => Some(format!("https://ana:{URL_SECRET}@github.com/{owner}/{repository}.git")),
            11 => Some(format!("https://{URL_SECRET}@git.example.org/{owner}/{repository}")),
            12 => Some(format!("https://dev.example.com/{owner}/team%20one/_git/{repository}")),
            13 => Some(format!("/srv/git/{repository}.git")),
            14 => Some(format!("https://GitHub.com/{owner}/{repository}/")),
            _ => Some(format!("git://git.example.org/{owner}/{repository}.git")),
        };
        Project { folder, repository_url }
    }
}

/// A branch name.
pub(super) fn branch(prng: &mut Prng) -> &'static str {
    BRANCHES[prng.skewed(BRANCHES.len() as u64) as usize]
}

/// What a user asks for, in one of several languages.
pub(super) fn request(prng: &mut Prng) -> &'static str {
    REQUESTS[prng.below(REQUESTS.len() as u64) as usize]
}

/// The word that only this thread (and copies of it) has: consonants and vowels that spell its number.
pub(super) fn own_word(thread: u64) -> String {
    let mut word = String::from("qu");
    let mut rest = thread;
    for _ in 0..5 {
        word.push(char::from(b"bcdfghjklmnprstvwxyz"[(rest % 20) as usize]));
        word.push(char::from(b"aeiou"[(rest / 20 % 5) as usize]));
        rest /= 100;
    }
    word
}

/// Appends a sentence of `words` words.
pub(super) fn push_sentence(out: &mut String, prng: &mut Prng, words: u64) {
    for at in 0..words {
        if at > 0 {
            out.push(' ');
        }
        out.push_str(WORDS[prng.below(WORDS.len() as u64) as usize]);
    }
    out.push('.');
}

/// Paragraphs of at least `bytes` bytes.
pub(super) fn prose(prng: &mut Prng, bytes: usize) -> String {
    let mut out = String::with_capacity(bytes + 100);
    while out.len() < bytes {
        let words = 6 + prng.below(10);
        push_sentence(&mut out, prng, words);
        out.push(if prng.per_mille(200) { '\n' } else { ' ' });
    }
    out
}

/// What a command prints: listings, test results and log lines, at least `bytes` bytes.
pub(super) fn command_output(prng: &mut Prng, bytes: usize) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(bytes + 200);
    let style = prng.below(4);
    while out.len() < bytes {
        let word = WORDS[15 + prng.below(60) as usize];
        let other = WORDS[15 + prng.below(60) as usize];
        let number = prng.below(100_000);
        // Writing to a String cannot fail.
        let _ = match style {
            0 => writeln!(out, "-rw-r--r-- 1 ana ana {number:>8} {word}_{other}.rs"),
            1 => writeln!(
                out,
                "test {word}::{other}_{number} ... {}",
                if number.is_multiple_of(50) { "FAILED" } else { "ok" }
            ),
            2 => {
                writeln!(out, "src/{word}/{other}.rs:{}:\tlet {word} = \"{other}\\n{number}\";", number % 900)
            }
            _ => writeln!(out, "\u{1b}[32mINFO\u{1b}[0m {word} {other} took {number} us"),
        };
    }
    out
}

/// Text that looks like an encrypted blob.
pub(super) fn cipher_text(prng: &mut Prng, bytes: usize) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::with_capacity(bytes + 16);
    out.push_str("gAAAAA");
    while out.len() < bytes {
        let bits = prng.next();
        for at in 0..10 {
            out.push(char::from(ALPHABET[(bits >> (6 * at) & 63) as usize]));
        }
    }
    out
}

/// The instructions that each thread of a month repeats.
pub(super) fn base_instructions(month: u64, is_long: bool) -> String {
    let mut out =
        format!("You help with code in this folder. Rules of month {month}: be brief, change little.");
    if is_long {
        let mut prng = Prng::new(0, month, Purpose::Content);
        out.push('\n');
        out.push_str(&prose(&mut prng, LONG_INSTRUCTIONS_BYTES));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn own_words_are_their_own() {
        let words: HashSet<String> = (0..20_000).map(own_word).collect();
        assert_eq!(words.len(), 20_000);
    }

    #[test]
    fn the_needle_is_in_no_pool() {
        let mut prng = Prng::new(1, 1, Purpose::Content);
        let all = [REQUESTS.join(" "), WORDS.join(" "), BRANCHES.join(" "), prose(&mut prng, 5000)].concat();
        assert!(!all.contains(NEEDLE));
    }

    #[test]
    fn every_special_folder_is_a_project() {
        let folders: HashSet<String> = (0..PROJECTS).map(|number| Project::new(1, number).folder).collect();
        for special in SPECIAL_FOLDERS {
            assert!(folders.contains(*special), "{special}");
        }
        let with_secret = (0..PROJECTS).filter_map(|number| Project::new(1, number).repository_url);
        assert!(with_secret.filter(|url| url.contains(URL_SECRET)).count() > 2);
    }
}
