//! A conversation: what was said is part of the configuration.

use ullage_core::config::{Role, Turn};

use super::super::live::SeriesLabel;
use super::Session;

impl Session {
    /// Changes what is said and answers it.
    pub(super) fn converse(&mut self, what: &str, prompt: &str, turns: Vec<Turn>) {
        let mut config = self.state.document.config().clone();
        config.run.turns = turns;
        prompt.clone_into(&mut config.run.prompt);
        if let Err(e) = ullage_core::catalog::check(&config) {
            self.notice(&format!("{what}: not changed"), &e.to_string(), true);
            return;
        }
        self.state.document.replace(what, config, None);
        self.changed();
        self.run(SeriesLabel::default());
    }

    pub(super) fn say(&mut self, text: &str) {
        let run = &self.state.document.config().run;
        let mut turns = run.turns.clone();
        if run.chat
            && let Some(answer) = self.state.answer()
        {
            turns.push(Turn { role: Role::User, content: run.prompt.clone() });
            turns.push(Turn { role: Role::Assistant, content: answer });
        }
        self.converse("Say", text, turns);
    }

    /// Answers the newest message once more; with chance in it, by another seed.
    pub(super) fn regenerate(&mut self) {
        let mut config = self.state.document.config().clone();
        if config.run.sampling.temperature > 0.0 {
            config.run.seed = config.run.seed.wrapping_add(1) & i64::MAX as u64;
            self.state.document.replace("Answer again", config, None);
            self.changed();
        }
        self.run(SeriesLabel::default());
    }

    /// Message `at` says something else, and what came after it is forgotten.
    pub(super) fn edit(&mut self, at: usize, content: &str) {
        let run = &self.state.document.config().run;
        let mut turns = run.turns.clone();
        match turns.get(at).map(|t| t.role) {
            Some(Role::Assistant) => {
                // The question that followed it is asked again.
                let next = turns.get(at + 1).map_or_else(|| run.prompt.clone(), |t| t.content.clone());
                turns.truncate(at);
                turns.push(Turn { role: Role::Assistant, content: content.to_owned() });
                self.converse("Change an answer", &next, turns);
            }
            // The newest answer: nothing is asked yet after it.
            None if at > turns.len() => {
                turns.push(Turn { role: Role::User, content: run.prompt.clone() });
                turns.push(Turn { role: Role::Assistant, content: content.to_owned() });
                let mut config = self.state.document.config().clone();
                (config.run.turns, config.run.prompt) = (turns, String::new());
                self.state.document.replace("Change an answer", config, None);
                self.changed();
            }
            _ => {
                turns.truncate(at);
                self.converse("Change a message", content, turns);
            }
        }
    }

    pub(super) fn clear_chat(&mut self) {
        let sets = [("run.turns".to_owned(), String::new()), ("run.prompt".to_owned(), "\"\"".to_owned())];
        self.set("Start the conversation again", &sets, None);
        if !self.state.running {
            self.state.live = None;
            self.state.replayed = None;
        }
    }
}
