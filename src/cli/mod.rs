//! Which commands does the program have, and which exit code does each outcome get?

use std::process::ExitCode;

pub mod home_args;
pub mod latest;
pub mod list;
pub mod sample_home;
pub mod show;
mod text;

/// Runs the program.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
