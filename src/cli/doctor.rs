//! What is wrong here, and what to do? `rolloutfs doctor` looks at the machine, the home and the index; it never writes.

use std::path::Path;

use super::error::CliError;
use super::exit_codes::Exit;
use super::home_args::HomeArgs;
use super::mounts;
use super::output;
use crate::store::home::Home;

mod disk;
mod home;
mod parity;
mod system;

/// Check this machine, the home and the index, and say what to do
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rolloutfs doctor                     each check: ok, warning or problem, and what to do
  rolloutfs doctor --json | jq '.[] | select(.verdict != \"ok\")'

Changes nothing. Exits with 5 if there is a problem; warnings alone are 0.")]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    home: HomeArgs,
    /// Print an array of objects: check, verdict (ok, warning, problem), found, remedy (null: nothing to do)
    #[arg(long)]
    json: bool,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// As it should be.
    Ok,
    /// It works, but not as well as it could.
    Warning,
    /// Something does not work.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
struct Check {
    /// What was looked at.
    check: &'static str,
    /// How bad it is.
    verdict: Verdict,
    /// What was found.
    found: String,
    /// What to do.
    remedy: Option<String>,
}

impl Check {
    fn ok(check: &'static str, found: impl Into<String>) -> Check {
        Check { check, verdict: Verdict::Ok, found: found.into(), remedy: None }
    }

    fn warning(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Check {
        Check { check, verdict: Verdict::Warning, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn problem(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Check {
        Check { check, verdict: Verdict::Problem, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// Runs the command.
pub(crate) fn run(args: &DoctorArgs) -> Result<Exit, CliError> {
    let mut checks = system::checks();
    match Home::resolve(args.home.home.as_deref()) {
        Err(error) => checks.push(Check::problem("home", error.to_string(), "give it with --home DIR")),
        Ok(home) => checks.extend(of_home(&home, args.home.state_dir.as_deref())),
    }
    checks.push(system::dead_mounts(&mounts::ours()));
    if args.json {
        output::print(&checks, true)?;
    } else {
        output::write(render(&checks).as_bytes())?;
    }
    let unhealthy = checks.iter().any(|check| check.verdict == Verdict::Problem);
    Ok(if unhealthy { Exit::Unhealthy } else { Exit::Ok })
}

fn of_home(home: &Home, state_dir: Option<&Path>) -> Vec<Check> {
    let mounts = mounts::ours();
    let links = home::links(home, &mounts);
    let mut checks = vec![Check::ok("home", home.root().display().to_string())];
    let into_mount = links.iter().any(|check| check.verdict == Verdict::Problem);
    checks.extend(links);
    checks.push(home::state(home, state_dir));
    // Through a mount of ours the files are not where they seem, and a dead one would only repeat itself.
    if !into_mount {
        let disk = disk::walk(home);
        checks.push(home::readable(&disk));
        checks.push(system::watches(disk.folders_count));
        checks.push(parity::check(home, state_dir, &disk));
    }
    checks
}

fn render(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Check { check, verdict, found, remedy } in checks {
        let word = match verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Problem => "problem",
        };
        text.push_str(&format!("{word:<7}  {check:<width$}  {}\n", output::clean(found)));
        if let Some(remedy) = remedy {
            text.push_str(&format!("{:9}{:width$}  do: {}\n", "", "", output::clean(remedy)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_stands_below_what_was_found() {
        let checks = [Check::ok("kernel", "6.1"), Check::problem("home", "none\n", "make one")];
        let expected = "ok       kernel  6.1\nproblem  home    none\\n\n                 do: make one\n";
        assert_eq!(render(&checks), expected);
    }
}
