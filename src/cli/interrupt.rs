//! Was the command asked to stop? The first SIGINT or SIGTERM is noted and the command ends in order; the second one
//! ends it at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::error::CliError;
use super::exit_codes::Exit;

/// Added to a signal's number for the exit code, as shells do.
const SIGNAL_EXIT_BASE: i32 = 128;

/// Notes signals from [`Interrupt::catch`] on.
pub(crate) struct Interrupt {
    signal: Arc<AtomicUsize>,
}

impl Interrupt {
    /// Begins to note signals.
    pub(crate) fn catch() -> Result<Interrupt, CliError> {
        let (armed, signal) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        for number in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the shutdown not armed, and then arms it.
            flag::register_conditional_shutdown(number, SIGNAL_EXIT_BASE + number, armed.clone())
                .and_then(|_| flag::register(number, armed.clone()))
                .and_then(|_| flag::register_usize(number, signal.clone(), number as usize))
                .map_err(|error| CliError::failed("catch signals", error))?;
        }
        Ok(Interrupt { signal })
    }

    /// The exit, if a signal came.
    pub(crate) fn exit(&self) -> Option<Exit> {
        match self.signal.load(Ordering::Relaxed) {
            0 => None,
            number if number == SIGINT as usize => Some(Exit::Interrupted),
            _ => Some(Exit::Terminated),
        }
    }
}
