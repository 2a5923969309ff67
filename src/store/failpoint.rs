//! Where can a crash test stop the program? Every step that changes the home passes a named point.
//!
//! `ROLLOUTFS_FAILPOINT=name` aborts the process at the first pass of that point, `name:3` at the third. The variable
//! is read once; without it a pass costs one relaxed load. Depends on nothing.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The variable of the environment that names the point to abort at.
pub const VARIABLE: &str = "ROLLOUTFS_FAILPOINT";

/// What the variable asks for, and the passes that are left.
struct Armed {
    name: String,
    passes_left: AtomicU64,
}

/// True once the variable was looked at and asks for nothing.
static IS_OFF: AtomicBool = AtomicBool::new(false);
static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

/// Passes the point `name`: the process ends here, without unwinding, if it was asked to.
pub fn hit(name: &str) {
    if !IS_OFF.load(Ordering::Relaxed) {
        look(name);
    }
}

#[cold]
fn look(name: &str) {
    let armed = ARMED.get_or_init(|| std::env::var(VARIABLE).ok().and_then(|text| parse(&text)));
    match armed {
        None => IS_OFF.store(true, Ordering::Relaxed),
        Some(armed) if armed.name == name => {
            if armed.passes_left.fetch_sub(1, Ordering::Relaxed) == 1 {
                std::process::abort();
            }
        }
        Some(_) => {}
    }
}

/// `name` or `name:n`; None for an empty name and for a count that is none.
fn parse(text: &str) -> Option<Armed> {
    let (name, passes) = match text.rsplit_once(':') {
        Some((name, count)) => (name, count.parse().ok().filter(|&count| count > 0)?),
        None => (text, 1),
    };
    (!name.is_empty()).then(|| Armed { name: name.to_owned(), passes_left: AtomicU64::new(passes) })
}

/// Runs operations in a child of the test program that aborts at a point.
#[cfg(test)]
pub(crate) mod crash {
    use std::os::unix::process::ExitStatusExt;
    use std::path::Path;
    use std::process::{Command, Stdio};

    const HOME: &str = "ROLLOUTFS_TEST_CHILD_HOME";
    const WHAT: &str = "ROLLOUTFS_TEST_CHILD_WHAT";

    /// In a child: the folder it works on and what it is to do. None in the ordinary run of the tests.
    pub(crate) fn asked() -> Option<(std::path::PathBuf, String)> {
        Some((std::env::var_os(HOME)?.into(), std::env::var(WHAT).ok()?))
    }

    /// Runs the test `test` (its whole path) as a child that does `what` to `home`. True if it aborted at `point`,
    /// false if it came to its end without passing there.
    pub(crate) fn child_aborts(test: &str, home: &Path, what: &str, point: &str) -> bool {
        // A core of a test program is large and says nothing new.
        let script = "ulimit -c 0; exec \"$0\" \"$@\"";
        let output = Command::new("sh")
            .args(["-c", script])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(HOME, home)
            .env(WHAT, what)
            .env(super::VARIABLE, point)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        if output.status.signal() == Some(6) {
            return true;
        }
        assert!(
            output.status.success(),
            "{what} at {point}: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(said.contains("1 passed"), "the child runs one test: {said}");
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_names_a_point_and_a_pass() {
        for (text, expected) in [
            ("archive.moved", Some(("archive.moved", 1))),
            ("archive.moved:3", Some(("archive.moved", 3))),
            ("", None),
            (":2", None),
            ("a:0", None),
            ("a:x", None),
        ] {
            let armed = parse(text);
            let got =
                armed.as_ref().map(|armed| (armed.name.as_str(), armed.passes_left.load(Ordering::Relaxed)));
            assert_eq!(got, expected, "{text}");
        }
    }

    #[test]
    fn the_child_of_the_pass_test() {
        let Some((_, count)) = crash::asked() else { return };
        for _ in 0..count.parse().unwrap() {
            hit("test.pass");
        }
    }

    #[test]
    fn the_process_ends_at_the_pass_that_was_named() {
        let test = "store::failpoint::tests::the_child_of_the_pass_test";
        let home = std::path::Path::new("/");
        for (count, point, aborts) in [
            ("1", "test.pass", true),
            ("2", "test.pass:3", false),
            ("3", "test.pass:3", true),
            ("9", "test.other", false),
        ] {
            assert_eq!(crash::child_aborts(test, home, count, point), aborts, "{count} {point}");
        }
    }
}
