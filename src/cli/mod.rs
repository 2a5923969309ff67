//! Which commands does the program have, and which exit code does each outcome get?

use std::process::ExitCode;

pub mod daemon;
pub mod sample_home;

/// Runs the program.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
