//! How does each event look as a rollout line, in each era? One writer that knows the shapes; the story
//! it is told is the same for all eras. Pure.

use super::clock;
use super::json::{Object, push_string};
use super::plan::{Era, Plan};

/// The lines of one rollout, as they are written.
pub(super) struct Lines {
    /// The bytes so far.
    pub(super) text: String,
    /// The model that `turn_context` names.
    pub(super) turn_model: &'static str,
    era: Era,
    is_paginated: bool,
    has_task_events: bool,
    is_late: bool,
    thread_id: String,
    turn_id: String,
    now_ms: i64,
    is_frozen: bool,
    ordinal: u64,
    item: u64,
    total_tokens: u64,
}

impl Lines {
    /// No lines yet; the first one will have the ordinal `first_ordinal`.
    pub(super) fn new(plan: &Plan, first_ordinal: u64) -> Lines {
        Lines {
            text: String::with_capacity(plan.target_bytes + 4096),
            turn_model: "",
            era: plan.era,
            is_paginated: plan.is_paginated,
            has_task_events: plan.day() >= clock::TASK_EVENTS_DAY,
            is_late: plan.day() >= clock::PAGINATED_DAY,
            thread_id: plan.id.clone(),
            turn_id: String::new(),
            now_ms: plan.start_ms + 80,
            is_frozen: false,
            ordinal: first_ordinal,
            item: 0,
            total_tokens: 0,
        }
    }

    /// All lines get this time, as those have that a fork copies.
    pub(super) fn freeze(&mut self, unix_ms: i64) {
        self.now_ms = unix_ms;
        self.is_frozen = true;
    }

    /// The time of the last line, unix ms.
    pub(super) fn now_ms(&self) -> i64 {
        self.now_ms
    }

    /// The ordinal of the line to come.
    pub(super) fn next_ordinal(&self) -> u64 {
        self.ordinal
    }

    /// Lets time pass, at most to the end of the sample.
    pub(super) fn pause_ms(&mut self, pause_ms: i64) {
        self.move_to(self.now_ms + pause_ms);
    }

    /// Lets time pass up to an instant.
    pub(super) fn move_to(&mut self, unix_ms: i64) {
        if !self.is_frozen && unix_ms > self.now_ms {
            self.now_ms = unix_ms.min(clock::LAST_MS);
        }
    }

    /// Appends a line of this type. The bare era has response items only, without an envelope.
    pub(super) fn line(&mut self, kind: &str, payload: impl FnOnce(&mut Object<'_>)) {
        if self.era == Era::Bare {
            if kind == "response_item" {
                Object::write(&mut self.text, payload);
                self.text.push('\n');
            }
            return;
        }
        self.pause_ms(3);
        let ordinal = self.is_paginated.then_some(self.ordinal);
        self.ordinal += 1;
        let now_ms = self.now_ms;
        Object::write(&mut self.text, |o| {
            o.text("timestamp", &clock::rfc3339(now_ms));
            if let Some(ordinal) = ordinal {
                o.number("ordinal", ordinal);
            }
            o.text("type", kind).object("payload", payload);
        });
        self.text.push('\n');
    }

    /// The first line of the bare era.
    pub(super) fn bare_header(&mut self, fill: impl FnOnce(&mut Object<'_>)) {
        Object::write(&mut self.text, fill);
        self.text.push('\n');
    }

    /// The marker that the bare era strewed in.
    pub(super) fn state_marker(&mut self) {
        if self.era == Era::Bare {
            self.text.push_str("{\"record_type\":\"state\"}\n");
        }
    }

    /// Appends an event with these fields beside its type.
    pub(super) fn event(&mut self, kind: &str, rest: impl FnOnce(&mut Object<'_>)) {
        self.line("event_msg", |o| {
            o.text("type", kind);
            rest(o);
        });
    }

    fn item_completed(&mut self, kind: &str, rest: impl FnOnce(&mut Object<'_>)) {
        let (thread_id, turn_id) = (self.thread_id.clone(), self.turn_id.clone());
        self.item += 1;
        let item_id = format!("item-{}", self.item);
        let now_ms = self.now_ms as u64;
        self.event("item_completed", |o| {
            o.text("thread_id", &thread_id).text("turn_id", &turn_id);
            o.object("item", |o| {
                o.text("type", kind).text("id", &item_id);
                rest(o);
            });
            o.number("completed_at_ms", now_ms);
        });
    }

    /// A message that the model sees.
    pub(super) fn message(&mut self, role: &str, content: &str, text: &str) {
        self.line("response_item", |o| {
            o.text("type", "message").text("role", role);
            o.list_of_one("content", |o| {
                o.text("type", content).text("text", text);
            });
        });
    }

    /// A turn begins.
    pub(super) fn begin_turn(&mut self, turn_id: String) {
        self.turn_id.clone_from(&turn_id);
        if self.has_task_events {
            self.event("task_started", |o| {
                o.text("turn_id", &turn_id).number("model_context_window", 258_400);
                o.text("collaboration_mode_kind", "default");
            });
        }
    }

    /// The settings of the turn. Old lines say `mode` in the sandbox policy, later ones `type`.
    pub(super) fn turn_context(&mut self, folder: &str, is_brief: bool) {
        let (model, turn_id) = (self.turn_model, self.turn_id.clone());
        let is_current = self.era == Era::Current;
        let key = if is_current { "type" } else { "mode" };
        self.line("turn_context", |o| {
            if is_current && !is_brief {
                o.text("turn_id", &turn_id);
            }
            o.text("cwd", folder).text("approval_policy", "on-request");
            o.object("sandbox_policy", |o| {
                o.text(key, "workspace-write");
            });
            o.text("model", model);
            if is_current {
                o.text("effort", "medium");
            }
            o.text("summary", "auto");
        });
        if self.is_late && !is_brief && self.ordinal < 12 {
            let thread_id = self.thread_id.clone();
            self.event("thread_settings_applied", |o| {
                o.text("thread_id", &thread_id);
                o.object("thread_settings", |o| {
                    o.text("model", model).text("approval_policy", "on-request").text("cwd", folder);
                });
            });
        }
    }

    /// What the user typed, or an image without a word.
    pub(super) fn user_said(&mut self, text: &str, has_image: bool) {
        let image = "data:image/png;base64,iVBORw0KGgo=";
        if self.is_paginated {
            self.item_completed("UserMessage", |o| {
                o.list_of_one("content", |o| {
                    if has_image {
                        o.text("type", "image").text("image_url", image);
                    } else {
                        o.text("type", "text").text("text", text).raw("text_elements", "[]");
                    }
                });
            });
            return;
        }
        let era = self.era;
        self.event("user_message", |o| {
            o.text("message", text);
            match (era, has_image) {
                (Era::Enveloped, false) => o.text("kind", "plain"),
                (_, true) => o.raw("images", &format!("[\"{image}\"]")),
                _ => o.raw("images", "null").raw("local_images", "[]").raw("text_elements", "[]"),
            };
        });
    }

    /// The model's answer, as an event and, if wanted, as the item that the model sees again.
    pub(super) fn agent_said(&mut self, text: &str, with_item: bool) {
        if self.is_paginated {
            self.item_completed("AgentMessage", |o| {
                o.list_of_one("content", |o| {
                    o.text("type", "Text").text("text", text);
                });
            });
        } else {
            self.event("agent_message", |o| {
                o.text("message", text);
            });
        }
        if with_item {
            self.message("assistant", "output_text", text);
        }
    }

    /// A turn is over.
    pub(super) fn end_turn(&mut self, answer: &str, is_brief: bool) {
        if self.has_task_events && !is_brief {
            let turn_id = self.turn_id.clone();
            self.event("task_complete", |o| {
                o.text("turn_id", &turn_id).text("last_agent_message", answer);
            });
        }
        self.state_marker();
    }

    /// Tokens used; every eighth line says nothing but rate limits.
    pub(super) fn token_count(&mut self, tokens: u64) {
        self.total_tokens += tokens;
        let (total, is_rate_only) = (self.total_tokens, tokens.is_multiple_of(8));
        let usage = |o: &mut Object<'_>, tokens: u64| {
            o.number("input_tokens", tokens - tokens / 8).number("cached_input_tokens", tokens / 2);
            o.number("output_tokens", tokens / 8).number("reasoning_output_tokens", tokens / 16);
            o.number("total_tokens", tokens);
        };
        self.event("token_count", |o| {
            if is_rate_only {
                o.raw("info", "null");
            } else {
                o.object("info", |o| {
                    o.object("total_token_usage", |o| usage(o, total));
                    o.object("last_token_usage", |o| usage(o, tokens));
                    o.number("model_context_window", 258_400);
                });
            }
            o.raw("rate_limits", "null");
        });
    }

    /// The model thinks.
    pub(super) fn reasoning(&mut self, text: &str, cipher: &str) {
        if self.is_paginated {
            let mut summary = String::from("[");
            push_string(&mut summary, text);
            summary.push(']');
            self.item_completed("Reasoning", |o| {
                o.raw("summary_text", &summary).raw("raw_content", "[]");
            });
        } else {
            self.event("agent_reasoning", |o| {
                o.text("text", text);
            });
        }
        self.line("response_item", |o| {
            o.text("type", "reasoning");
            o.list_of_one("summary", |o| {
                o.text("type", "summary_text").text("text", text);
            });
            o.raw("content", "null").text("encrypted_content", cipher);
        });
    }

    /// A command and what it printed.
    pub(super) fn command(
        &mut self,
        call_id: &str,
        folder: &str,
        command: &str,
        output: &str,
        exit_code: u64,
    ) {
        let is_old = self.era < Era::Current;
        let mut arguments = String::new();
        Object::write(&mut arguments, |o| {
            if is_old {
                let mut argv = String::from("[\"bash\",\"-lc\",");
                push_string(&mut argv, command);
                argv.push(']');
                o.raw("command", &argv);
            } else {
                o.text("cmd", command).number("yield_time_ms", 10_000);
            }
        });
        self.line("response_item", |o| {
            o.text("type", "function_call").text("name", if is_old { "shell" } else { "exec_command" });
            o.text("arguments", &arguments).text("call_id", call_id);
        });
        self.pause_ms(40 + output.len() as i64 / 10);
        if self.is_paginated {
            self.item_completed("CommandExecution", |o| {
                o.text("cwd", folder).text("status", "completed").text("aggregated_output", output);
                o.number("exit_code", exit_code);
            });
        }
        let mut shown = String::new();
        if is_old {
            Object::write(&mut shown, |o| {
                o.text("output", output);
                o.object("metadata", |o| {
                    o.number("exit_code", exit_code).raw("duration_seconds", "0.1");
                });
            });
        } else {
            shown =
                format!("Wall time: 0.1 seconds\nProcess exited with code {exit_code}\nOutput:\n{output}");
        }
        self.line("response_item", |o| {
            o.text("type", "function_call_output").text("call_id", call_id).text("output", &shown);
        });
    }

    /// A file added by a patch; `body` has `+` before each line but its first.
    pub(super) fn patch(&mut self, call_id: &str, folder: &str, file: &str, body: &str) {
        let input = format!("*** Begin Patch\n*** Add File: {file}\n+{body}\n*** End Patch");
        let done = format!("Success. Updated the following files:\nA {file}\n");
        self.line("response_item", |o| {
            o.text("type", "custom_tool_call").text("status", "completed").text("call_id", call_id);
            o.text("name", "apply_patch").text("input", &input);
        });
        if self.is_paginated {
            let path = format!("{folder}/{file}");
            self.item_completed("FileChange", |o| {
                let mut changes = String::from("{");
                push_string(&mut changes, &path);
                changes.push_str(":{\"type\":\"add\"}}");
                o.raw("changes", &changes).text("status", "completed").text("stdout", &done);
            });
        }
        self.line("response_item", |o| {
            o.text("type", "custom_tool_call_output").text("call_id", call_id).text("output", &done);
        });
    }

    /// The history so far is replaced by a summary.
    pub(super) fn compacted(&mut self, summary: &str) {
        let is_current = self.era == Era::Current;
        self.line("compacted", |o| {
            o.text("message", summary);
            if is_current {
                o.list_of_one("replacement_history", |o| {
                    o.text("type", "message").text("role", "user");
                    o.list_of_one("content", |o| {
                        o.text("type", "input_text").text("text", summary);
                    });
                });
            }
        });
        if self.is_paginated {
            self.item_completed("ContextCompaction", |_| ());
        } else {
            self.event("context_compacted", |_| ());
        }
    }

    /// The user set a goal.
    pub(super) fn goal(&mut self, objective: &str) {
        let thread_id = self.thread_id.clone();
        self.event("thread_goal_updated", |o| {
            o.text("thread_id", &thread_id);
            o.object("goal", |o| {
                o.text("objective", objective).text("status", "active");
            });
        });
    }
}
