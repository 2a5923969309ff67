//! What ends the daemon from outside? SIGINT, SIGTERM and SIGHUP unmount; the second one exits at once.
//!
//! May depend on signal-hook and libc only.

use std::io;
use std::os::raw::c_int;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Added to the number of a signal for the exit code, as shells do: 130 for SIGINT, 143 for SIGTERM.
const SIGNAL_EXIT_BASE: c_int = 128;

/// Runs `f`, which unmounts, when the first of SIGINT, SIGTERM and SIGHUP arrives; [`serve`] then ends
/// by itself. The second signal exits at once with 128 plus its number, for when files below the mount
/// stay open, or `f` hangs.
///
/// SIGHUP counts like SIGTERM, so that a foreground mount does not outlive its terminal, except when
/// it was ignored from the start (`nohup`). The daemon has no terminal, so nobody sends it one by
/// accident. `f` runs in a thread of its own, `unmount`, and may block; call this before mounting,
/// so that no signal finds a mount without an owner.
///
/// [`serve`]: super::serve
pub fn on_termination(f: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let mut wanted = vec![SIGINT, SIGTERM];
    if !is_ignored(SIGHUP) {
        wanted.push(SIGHUP);
    }
    let mut signals = Signals::new(wanted)?;
    let mut first = Some(f);
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            let Some(f) = first.take() else {
                signal_hook::low_level::exit(SIGNAL_EXIT_BASE + signal);
            };
            log::info!("signal {signal}: unmounting; another one exits at once");
            if let Err(error) = thread::Builder::new().name("unmount".to_owned()).spawn(f) {
                log::error!("cannot start a thread to unmount: {error}");
                signal_hook::low_level::exit(SIGNAL_EXIT_BASE + signal);
            }
        }
    })?;
    Ok(())
}

/// Was `signal` ignored when this process began?
fn is_ignored(signal: c_int) -> bool {
    // SAFETY: a sigaction of zeros is valid, and with a null new action the call only reads.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}
