//! What does the `rolloutfs` program do? Parse, run, print the chain of causes, choose the exit code.
use std::process::ExitCode;

fn main() -> ExitCode {
    rolloutfs::cli::main()
}
