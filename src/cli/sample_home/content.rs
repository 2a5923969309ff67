//! What stands in a thread's rollout? Turns of a made-up conversation, in the lines of its era.
//! Pure: the bytes follow from the plan. The lines' shapes are in `lines`, the header's in `header`.

use super::Size;
use super::clock::{self, DAY_MS};
use super::header::{self, HistoryBase};
use super::lines::Lines;
use super::plan::{Era, Kind, Layout, Plan};
use super::prng::{Prng, Purpose, thread_id};
use super::text;

/// Turns of one thread, so that a large target ends.
const TURNS_MAX: u64 = 2000;
/// The longest output of a command.
const OUTPUT_BYTES_MAX: usize = 400_000;

/// A rollout's bytes, before any damage.
pub(super) struct Rollout {
    /// The lines, each with its newline.
    pub(super) text: String,
    /// The time of the last line, unix ms.
    pub(super) last_ms: i64,
    /// The place after the first turn, where a fork may begin.
    pub(super) fork_point: HistoryBase,
}

/// The rollout of a thread, with its parent's lines where it copies them.
pub(super) fn rollout(layout: &Layout, plan: &Plan, parent: Option<&Plan>) -> Rollout {
    let base = match (plan.kind, parent) {
        (Kind::ReferenceFork, Some(parent)) => Some(rollout(layout, parent, None).fork_point),
        _ => None,
    };
    let mut script = Script::new(layout, plan, base.as_ref());
    header::push(&mut script.lines, layout, plan, parent, base.as_ref());
    if let (Kind::CopyFork, Some(parent)) = (plan.kind, parent) {
        let mut copied = Script::new(layout, parent, None);
        copied.lines.freeze(plan.start_ms);
        header::push(&mut copied.lines, layout, parent, None, None);
        copied.converse();
        script.lines.text.push_str(&copied.lines.text);
    } else {
        script.context();
    }
    script.converse();
    script.finish()
}

/// The second file of a reverted thread: a header that names a place in the first one, and a turn.
/// It begins at `start_ms`.
pub(super) fn segment(layout: &Layout, plan: &Plan, base: &HistoryBase, start_ms: i64) -> Rollout {
    let later = Plan { start_ms, target_bytes: 0, resumed_ms: None, ..plan.clone() };
    let mut script = Script::new(layout, &later, Some(base));
    header::push(&mut script.lines, layout, &later, None, Some(base));
    script.converse();
    script.finish()
}

struct Script<'a> {
    plan: &'a Plan,
    size: Size,
    folder: String,
    prng: Prng,
    lines: Lines,
    own_turns: u64,
    fork_point: Option<HistoryBase>,
}

impl<'a> Script<'a> {
    fn new(layout: &Layout, plan: &'a Plan, base: Option<&HistoryBase>) -> Script<'a> {
        let mut prng = Prng::new(layout.seed, plan.number, Purpose::Content);
        let project = plan.project(layout.seed);
        let mut lines = Lines::new(plan, base.map_or(0, |base| base.end_ordinal_exclusive));
        lines.turn_model = header::model(plan, &mut prng);
        Script {
            plan,
            size: layout.size,
            folder: project.folder,
            prng,
            lines,
            own_turns: 0,
            fork_point: None,
        }
    }

    /// What Codex tells the model before the user says anything.
    fn context(&mut self) {
        let text = format!(
            "<environment_context>\n  <cwd>{}</cwd>\n  <approval_policy>on-request</approval_policy>\n  \
             <shell>bash</shell>\n</environment_context>",
            self.folder
        );
        if self.size == Size::Tiny && self.plan.era > Era::Bare {
            return;
        }
        if self.plan.era == Era::Current {
            let rules =
                "<permissions instructions>\nWrites stay in this folder.\n</permissions instructions>";
            self.lines.message("developer", "input_text", rules);
        }
        self.lines.message("user", "input_text", &text);
        self.lines.state_marker();
    }

    /// Turns until the file is as large as planned, and a later one if the thread was resumed.
    fn converse(&mut self) {
        self.turn();
        self.fork_point = Some(HistoryBase {
            rollout_id: self.plan.id.clone(),
            end_ordinal_exclusive: self.lines.next_ordinal(),
            end_byte_offset: self.lines.text.len() as u64,
        });
        while self.lines.text.len() < self.plan.target_bytes && self.own_turns < TURNS_MAX {
            self.lines.pause_ms(self.prng.below(600_000) as i64);
            self.turn();
            if self.size == Size::Realistic && self.prng.per_mille(25) || self.prng.per_mille(8) {
                let summary_bytes = if self.size == Size::Realistic { 6000 } else { 300 };
                self.lines.compacted(&text::prose(&mut self.prng, summary_bytes));
            }
        }
        if let Some(resumed_ms) = self.plan.resumed_ms {
            self.lines.move_to(resumed_ms);
            self.turn();
        }
        self.afterthoughts();
    }

    fn is_full(&self) -> bool {
        self.lines.text.len() >= self.plan.target_bytes
    }

    fn user_text(&mut self) -> String {
        let mut said = text::request(&mut self.prng).to_owned();
        if self.own_turns == 0 {
            said.push_str(" (");
            said.push_str(&text::own_word(self.plan.number));
            said.push(')');
            if self.plan.has_needle() {
                said.push_str(" Look for the ");
                said.push_str(text::NEEDLE);
                said.push('.');
            }
            if self.prng.per_mille(50) && self.plan.source == Some(r#""vscode""#) {
                said = format!(
                    "# Context from my editor:\n- open: src/main.rs\n\n## My request for Codex:\n{said}"
                );
            }
        }
        said
    }

    fn turn(&mut self) {
        let said = self.user_text();
        let turn_id = thread_id(&mut self.prng, self.plan.start_ms + self.own_turns as i64 * 60_000, true);
        self.lines.begin_turn(turn_id);
        let has_image = self.own_turns > 0 && self.prng.per_mille(10);
        // A turn may run elsewhere than the session began.
        let elsewhere = self.prng.per_mille(30).then(|| format!("{}/web", self.folder));
        let is_tiny = self.size == Size::Tiny;
        if !is_tiny || self.plan.era == Era::Bare {
            self.lines.message("user", "input_text", &said);
        }
        if self.plan.era == Era::Current || !is_tiny && !self.plan.number.is_multiple_of(3) {
            self.lines.turn_context(elsewhere.as_deref().unwrap_or(&self.folder), is_tiny);
        }
        self.lines.user_said(if has_image { "" } else { &said }, has_image);
        self.own_turns += 1;
        if !is_tiny {
            let steps = self.prng.below(4);
            for _ in 0..steps {
                if !self.is_full() {
                    self.step();
                }
            }
        }
        let words = if is_tiny { 8 } else { 8 + self.prng.below(40) };
        let mut answer = String::new();
        text::push_sentence(&mut answer, &mut self.prng, words);
        self.lines.pause_ms(500 + self.prng.below(20_000) as i64);
        self.lines.agent_said(&answer, !is_tiny || self.plan.era == Era::Bare);
        if !is_tiny {
            let tokens = 300 + self.prng.below(9000);
            self.lines.token_count(tokens);
        }
        self.lines.end_turn(&answer, is_tiny);
    }

    /// The model thinks, then runs a command or changes a file.
    fn step(&mut self) {
        let is_realistic = self.size == Size::Realistic;
        self.lines.pause_ms(200 + self.prng.below(15_000) as i64);
        if self.prng.per_mille(600) {
            let thought = text::prose(&mut self.prng, 60);
            let cipher_bytes = if is_realistic { 400 + self.prng.below(3000) } else { 80 };
            let cipher = text::cipher_text(&mut self.prng, cipher_bytes as usize);
            self.lines.reasoning(&format!("**Next step**\n\n{thought}"), &cipher);
        }
        let call_id = format!("call_{:016x}", self.prng.next());
        let patch_bytes = if is_realistic { 1200 } else { 100 };
        if self.prng.per_mille(200) && self.plan.era > Era::Bare {
            let body = text::prose(&mut self.prng, patch_bytes).trim_end().replace('\n', "\n+");
            let file = format!("notes-{}.txt", self.prng.below(100));
            self.lines.patch(&call_id, &self.folder, &file, &body);
            return;
        }
        let left = self.plan.target_bytes.saturating_sub(self.lines.text.len());
        let most =
            if is_realistic { (left / 3).clamp(500, OUTPUT_BYTES_MAX) } else { (left / 3).clamp(80, 1500) };
        let output_bytes = 60 + self.prng.below(most as u64) as usize;
        let output = text::command_output(&mut self.prng, output_bytes);
        let command = self.prng.pick(&[
            "ls -l",
            "cargo test --quiet",
            "grep -rn \"todo\" src | head -50",
            "git log --oneline -20",
            "sed -n '1,80p' README.md",
        ]);
        let exit_code = u64::from(self.prng.per_mille(80));
        self.lines.command(&call_id, &self.folder, command, &output, exit_code);
        let tokens = 200 + self.prng.below(4000);
        self.lines.token_count(tokens);
    }

    /// Rarer lines near the end: rollbacks, goals, and a second header with what changed.
    fn afterthoughts(&mut self) {
        if self.plan.era < Era::Current || self.plan.role.is_some() || self.size == Size::Tiny {
            return;
        }
        match self.prng.below(100) {
            0 | 1 => self.lines.event("thread_rolled_back", |o| {
                o.number("num_turns", 1);
            }),
            2 | 3 => self.lines.goal("Make the whole suite pass"),
            4 => self.lines.event("turn_aborted", |o| {
                o.text("reason", "interrupted");
            }),
            5..=7 => header::push_change(&mut self.lines, self.plan, &self.folder, "polluted"),
            _ => {}
        }
    }

    fn finish(self) -> Rollout {
        let last_ms = self.lines.now_ms();
        // `converse` has set it in every script that comes here; an empty base is the honest other answer.
        let fork_point = self.fork_point.unwrap_or_default();
        Rollout { text: self.lines.text, last_ms, fork_point }
    }
}

/// When a reverted thread went on: the day after, or at the end of the sample.
pub(super) fn reverted_ms(last_ms: i64) -> i64 {
    (last_ms + DAY_MS).min(clock::LAST_MS - 1000)
}
