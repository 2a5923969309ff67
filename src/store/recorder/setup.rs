//! What must be said before a thread is recorded: what it is, and how the recorder works?

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use super::super::policy::Mode;
use super::super::rollout::ThreadId;
use super::clock::{Clock, SystemClock};
use super::disk::{Disk, SystemDisk};

/// How a thread's history is kept (spec 2.9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HistoryMode {
    /// Lines without numbers, messages as events of their own.
    #[default]
    Legacy,
    /// Numbered lines, messages as completed items.
    Paginated,
}

impl HistoryMode {
    /// The rules by which the newest Codex chooses what to write.
    pub fn policy(self) -> Mode {
        match self {
            HistoryMode::Legacy => Mode::Legacy,
            HistoryMode::Paginated => Mode::Paginated,
        }
    }
}

/// What a new thread says of itself.
#[derive(Clone, Debug)]
pub struct NewThread {
    /// Where it works. Git is asked about this folder when the file is made.
    pub cwd: PathBuf,
    /// Name of the client program.
    pub originator: String,
    /// Version of the client program.
    pub cli_version: String,
    /// What kind of client: a word or an object (spec 2.3).
    pub source: Value,
    /// None: the reader's default.
    pub model_provider: Option<String>,
    /// The instructions that every turn begins with.
    pub base_instructions: Option<String>,
    /// Tools of the client; the key is left out when there are none.
    pub dynamic_tools: Vec<Value>,
    /// The thread whose lines this one begins with.
    pub forked_from: Option<ThreadId>,
    /// The thread that spawned this one.
    pub parent: Option<ThreadId>,
    /// Whether lines are numbered.
    pub history_mode: HistoryMode,
    /// `disabled` where no memories may be made of it.
    pub memory_mode: Option<String>,
    /// None: a new one, of version 7. One that is given must not have a rollout yet.
    pub id: Option<ThreadId>,
}

impl NewThread {
    /// A thread of this program in `cwd`, with all else left out.
    pub fn new(cwd: PathBuf) -> NewThread {
        NewThread {
            cwd,
            originator: "rolloutfs".to_owned(),
            cli_version: env!("CARGO_PKG_VERSION").to_owned(),
            source: Value::from("exec"),
            model_provider: None,
            base_instructions: None,
            dynamic_tools: Vec::new(),
            forked_from: None,
            parent: None,
            history_mode: HistoryMode::Legacy,
            memory_mode: None,
            id: None,
        }
    }
}

/// When lines are on the disk, and not only with the system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When the system likes, as Codex has it. A crash of the program loses nothing, one of the machine may.
    #[default]
    System,
    /// When `Recorder::persist`, `Recorder::flush` or `Recorder::shutdown` returns.
    Flush,
}

/// How a recorder works, whatever the thread.
pub struct RecorderOptions {
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where the lines go.
    pub disk: Box<dyn Disk>,
    /// When they are on it.
    pub durability: Durability,
    /// Persist by itself when the user's first message is recorded, as the session does.
    pub persists_on_user_message: bool,
    /// Write items with the times that they were read with, where they have one.
    pub keeps_given_times: bool,
    /// None: the rules of the thread's history mode.
    pub policy: Option<Mode>,
}

impl Default for RecorderOptions {
    fn default() -> Self {
        RecorderOptions {
            clock: Arc::new(SystemClock),
            disk: Box::new(SystemDisk),
            durability: Durability::System,
            persists_on_user_message: true,
            keeps_given_times: false,
            policy: None,
        }
    }
}
