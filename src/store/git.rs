//! Which commit, branch and remote does a working directory have? Read for a thread's header (spec 2.3).
//!
//! Git's own files are read, so no configuration of a foreign repository can run anything. Only where refs
//! are kept in tables is the program `git` asked, for [`GIT_TIME_MS_MAX`]. Depends on nothing of the store.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How long the program `git` may take, all questions together.
pub const GIT_TIME_MS_MAX: u64 = 2000;
/// How often it is looked at.
const GIT_POLL: Duration = Duration::from_millis(5);
/// What is read of a small file of git: HEAD, a ref, a pointer to a folder.
const SMALL_BYTES_MAX: u64 = 64 << 10;
/// What is read of a configuration.
const CONFIG_BYTES_MAX: u64 = 4 << 20;
/// What is read of the packed refs.
const PACKED_BYTES_MAX: u64 = 256 << 20;
/// How many refs may point to one another.
const REF_DEPTH_MAX: u32 = 5;
/// What HEAD says where refs are kept in tables.
const IN_TABLES: &str = "refs/heads/.invalid";

/// What is known of a repository. What is not known is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitInfo {
    /// The commit that is checked out, in hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit_hash: Option<String>,
    /// The branch that is checked out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Where the remote `origin` is, without passwords.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository_url: Option<String>,
}

/// What the repository around `cwd` says. None outside of a repository.
pub fn info_of(cwd: &Path) -> Option<GitInfo> {
    let cwd = std::path::absolute(cwd).ok()?;
    let git_dir = cwd.ancestors().find_map(|dir| git_dir_at(&dir.join(".git")))?;
    let head = read_small(&git_dir.join("HEAD"))?;
    let common_dir = match read_small(&git_dir.join("commondir")) {
        Some(path) => git_dir.join(path),
        None => git_dir.clone(),
    };
    let repository_url = origin_url(&common_dir.join("config")).map(|url| without_credentials(&url));
    let (commit_hash, branch) = match head.strip_prefix("ref:").map(str::trim) {
        Some(IN_TABLES) => ask_git(&cwd),
        Some(name) => {
            let branch = name.strip_prefix("refs/heads/").map(str::to_owned);
            (resolve(&git_dir, &common_dir, name, REF_DEPTH_MAX), branch)
        }
        None => (Some(head).filter(|head| is_hash(head)), None),
    };
    Some(GitInfo { commit_hash, branch, repository_url })
}

/// The folder that a `.git` is or names. None where it is neither.
fn git_dir_at(path: &Path) -> Option<PathBuf> {
    if path.is_dir() {
        return path.join("HEAD").symlink_metadata().is_ok().then(|| path.to_owned());
    }
    let text = read_small(path)?;
    let named = text.strip_prefix("gitdir:")?.trim();
    Some(path.parent()?.join(named))
}

/// Opens a regular file. A named pipe must not hang us.
fn open(path: &Path, bytes_max: u64) -> Option<impl Read> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
    file.metadata().ok()?.is_file().then(|| file.take(bytes_max))
}

fn read_text(path: &Path, bytes_max: u64) -> Option<String> {
    let mut bytes = Vec::new();
    open(path, bytes_max)?.read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn read_small(path: &Path) -> Option<String> {
    Some(read_text(path, SMALL_BYTES_MAX)?.trim().to_owned())
}

/// SHA-1 or SHA-256 in hexadecimal digits.
fn is_hash(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The commit that a ref leads to. None for a branch without a commit.
fn resolve(git_dir: &Path, common_dir: &Path, name: &str, depth_left: u32) -> Option<String> {
    // A ref is a path: it must not lead out of the repository.
    let leads_out = name.is_empty() || name.split('/').any(|part| matches!(part, "" | "." | ".."));
    if depth_left == 0 || leads_out {
        return None;
    }
    let loose = [git_dir, common_dir].into_iter().find_map(|dir| read_small(&dir.join(name)));
    match loose {
        Some(text) if is_hash(&text) => Some(text),
        Some(text) => resolve(git_dir, common_dir, text.strip_prefix("ref:")?.trim(), depth_left - 1),
        None => packed(&common_dir.join("packed-refs"), name),
    }
}

fn packed(path: &Path, name: &str) -> Option<String> {
    let mut reader = BufReader::new(open(path, PACKED_BYTES_MAX)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).ok()? == 0 {
            return None;
        }
        // <hash> <name>; other lines are comments and what tags lead to.
        let Ok(text) = std::str::from_utf8(line.trim_ascii_end()) else { continue };
        if let Some((hash, found)) = text.split_once(' ')
            && found == name
            && is_hash(hash)
        {
            return Some(hash.to_owned());
        }
    }
}

/// `url` of `[remote "origin"]`. What is included from other files is not read.
fn origin_url(path: &Path) -> Option<String> {
    let text = read_text(path, CONFIG_BYTES_MAX)?;
    let mut in_origin = false;
    for line in text.lines() {
        let mut line = line.trim();
        if let Some((section, rest)) = line.strip_prefix('[').and_then(|line| line.split_once(']')) {
            let (name, subsection) = section.split_once(' ').unwrap_or((section, ""));
            in_origin = name.eq_ignore_ascii_case("remote") && subsection.trim() == "\"origin\"";
            line = rest.trim();
        }
        if let Some((key, value)) = line.split_once('=')
            && in_origin
            && key.trim().eq_ignore_ascii_case("url")
        {
            return Some(config_value(value)).filter(|value| !value.is_empty());
        }
    }
    None
}

/// A value of a configuration, without quotes, escapes and a comment behind it.
fn config_value(text: &str) -> String {
    let mut value = String::new();
    let mut quoted = false;
    let mut chars = text.trim().chars();
    while let Some(char) = chars.next() {
        match char {
            '"' => quoted = !quoted,
            '\\' => value.extend(chars.next()),
            '#' | ';' if !quoted => break,
            _ => value.push(char),
        }
    }
    value.trim_end().to_owned()
}

/// A remote's address without what may be a password or a token. Of `ssh` addresses the user stays: it says
/// nothing secret, and without it the address leads elsewhere.
pub fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // What follows `?` or `#` is no part of a repository's place, and may be a token.
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let authority = match authority.rsplit_once('@') {
        Some((user, host)) if scheme.to_ascii_lowercase().ends_with("ssh") => {
            format!("{}@{host}", user.split(':').next().unwrap_or_default())
        }
        Some((_, host)) => host.to_owned(),
        None => authority.to_owned(),
    };
    format!("{scheme}://{authority}{path}")
}

/// Commit and branch, as the program says.
fn ask_git(cwd: &Path) -> (Option<String>, Option<String>) {
    let end = Instant::now() + Duration::from_millis(GIT_TIME_MS_MAX);
    let commit = run_git(cwd, &["rev-parse", "--verify", "-q", "HEAD"], end).filter(|text| is_hash(text));
    (commit, run_git(cwd, &["symbolic-ref", "--short", "-q", "HEAD"], end))
}

fn run_git(cwd: &Path, args: &[&str], end: Instant) -> Option<String> {
    let mut command = Command::new("git");
    command.arg("-C").arg(cwd).args(args);
    // The folder decides, not where we were called from.
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        command.env_remove(name);
    }
    output_line(&mut command, end)
}

/// What a program prints, if it is one line. None when it fails, is not there, or is not done at `end`.
fn output_line(command: &mut Command, end: Instant) -> Option<String> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => break,
            Ok(None) if Instant::now() < end => std::thread::sleep(GIT_POLL),
            _ => {
                // Both fail only where it has ended by itself.
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
    // A line of output fits the pipe, so it was not kept waiting for us.
    let mut text = String::new();
    child.stdout.take()?.take(SMALL_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty() && !text.contains('\n'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn made(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            write(&dir.path().join(path), text);
        }
        dir
    }

    fn info(commit: Option<&str>, branch: Option<&str>, url: Option<&str>) -> Option<GitInfo> {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Some(GitInfo { commit_hash: owned(commit), branch: owned(branch), repository_url: owned(url) })
    }

    #[test]
    fn refs_are_found_loose_packed_linked_and_detached() {
        let packed = format!("# pack-refs with: peeled\n{B} refs/heads/main\n^{A}\n{A} refs/heads/other\n");
        type Case<'a> = (&'a [(&'a str, &'a str)], Option<GitInfo>);
        let cases: [Case<'_>; 7] = [
            (
                &[(".git/HEAD", "ref: refs/heads/main\n"), (".git/refs/heads/main", A)],
                info(Some(A), Some("main"), None),
            ),
            (
                &[(".git/HEAD", "ref: refs/heads/main\n"), (".git/packed-refs", &packed)],
                info(Some(B), Some("main"), None),
            ),
            (
                &[
                    (".git/HEAD", "ref: refs/heads/a/b"),
                    (".git/refs/heads/a/b", "ref: refs/heads/other"),
                    (".git/packed-refs", &packed),
                ],
                info(Some(A), Some("a/b"), None),
            ),
            (&[(".git/HEAD", A)], info(Some(A), None, None)),
            (&[(".git/HEAD", "ref: refs/heads/none")], info(None, Some("none"), None)),
            (
                &[(".git/HEAD", "ref: refs/heads/../../../secret"), ("secret", A)],
                info(None, Some("../../../secret"), None),
            ),
            (&[("file", "x")], None),
        ];
        for (files, expected) in cases {
            let dir = made(files);
            fs::create_dir_all(dir.path().join("deep/er")).unwrap();
            assert_eq!(info_of(&dir.path().join("deep/er")), expected, "{files:?}");
        }
        let circle = made(&[(".git/HEAD", "ref: refs/x"), (".git/refs/x", "ref: refs/x")]);
        assert_eq!(info_of(circle.path()), info(None, None, None));
    }

    #[test]
    fn worktrees_share_refs_and_remotes() {
        let dir = made(&[
            ("main/.git/HEAD", "ref: refs/heads/main"),
            (
                "main/.git/config",
                "[core]\n\tbare = false\n[remote \"origin\"]\n\turl = https://ada:pw@example.org/a.git\n",
            ),
            ("main/.git/packed-refs", &format!("{B} refs/heads/topic\n")),
            ("main/.git/worktrees/w/HEAD", "ref: refs/heads/topic\n"),
            ("main/.git/worktrees/w/commondir", "../..\n"),
            ("w/.git", "gitdir: ../main/.git/worktrees/w\n"),
        ]);
        let found = info_of(&dir.path().join("w"));
        assert_eq!(found, info(Some(B), Some("topic"), Some("https://example.org/a.git")));
    }

    #[test]
    fn the_origin_is_found_in_a_configuration() {
        for (text, expected) in [
            ("[remote \"origin\"]\nurl=x", Some("x")),
            ("[Remote \"origin\"] URL = \"a;b\" ; note", Some("a;b")),
            ("[remote \"Origin\"]\nurl = x", None),
            ("[remote \"up\"]\nurl = x\n[remote \"origin\"]\n pushurl = y\n url = z # note", Some("z")),
            ("[remote \"origin\"]\n[core]\nurl = x", None),
            ("url = x", None),
            ("[remote \"origin\"]\nurl =", None),
        ] {
            let dir = made(&[("config", text)]);
            assert_eq!(origin_url(&dir.path().join("config")).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn credentials_stay_out_of_addresses() {
        for (url, shown) in [
            ("https://ada:secret@example.org/a.git", "https://example.org/a.git"),
            ("https://token@example.org:8443/a", "https://example.org:8443/a"),
            ("https://x@y@example.org", "https://example.org"),
            ("https://example.org/a@b?token=secret#x", "https://example.org/a@b"),
            ("ssh://git:secret@example.org:22/a.git", "ssh://git@example.org:22/a.git"),
            ("git+ssh://git@example.org/a", "git+ssh://git@example.org/a"),
            ("git@example.org:a/b.git", "git@example.org:a/b.git"),
            ("/srv/a.git", "/srv/a.git"),
        ] {
            assert_eq!(without_credentials(url), shown);
        }
    }

    /// What git itself makes, in both of its formats where it knows them.
    #[test]
    fn what_git_makes_is_read_as_git_reads_it() {
        let git = |dir: &Path, args: &[&str]| {
            let identity =
                ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"];
            let output = Command::new("git").arg("-C").arg(dir).args(identity).args(args).output().ok()?;
            output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        for format in ["files", "reftable"] {
            let dir = tempfile::tempdir().unwrap();
            let option = format!("--ref-format={format}");
            if git(dir.path(), &["init", "-q", "-b", "trunk", &option]).is_none() {
                continue; // no git here, or one that does not know the format
            }
            assert_eq!(info_of(dir.path()), info(None, Some("trunk"), None), "{format}");
            git(dir.path(), &["commit", "-q", "--allow-empty", "-m", "x"]).unwrap();
            git(dir.path(), &["remote", "add", "origin", "https://u:p@example.org/x.git"]).unwrap();
            let commit = git(dir.path(), &["rev-parse", "HEAD"]).unwrap();
            let expected = info(Some(&commit), Some("trunk"), Some("https://example.org/x.git"));
            assert_eq!(info_of(dir.path()), expected, "{format}");
            git(dir.path(), &["pack-refs", "--all"]).unwrap();
            assert_eq!(info_of(dir.path()), expected, "{format}");
        }
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let start = Instant::now();
        let end = start + Duration::from_millis(50);
        assert_eq!(output_line(Command::new("sleep").arg("60"), end), None);
        assert!(start.elapsed() < Duration::from_secs(30));
        let later = Instant::now() + Duration::from_secs(30);
        assert_eq!(output_line(Command::new("echo").arg("x"), later).as_deref(), Some("x"));
        assert_eq!(output_line(&mut Command::new("false"), later), None);
        assert_eq!(output_line(&mut Command::new("/no/such/program"), later), None);
    }
}
