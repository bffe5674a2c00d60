//! What was read and written, token by token.

use std::sync::Arc;

/// The text picture.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Text {
    /// The prompt as it stands in the configuration.
    pub prompt: String,
    /// The system message of a chat.
    pub system: String,
    /// Speaking through the chat template.
    pub chat: bool,
    /// The model has a chat template.
    pub chats: bool,
    /// The conversation so far, when chatting; the prompt is the newest message of the user.
    pub turns: Chat,
    /// What each sequence read and wrote; shared, because it is long while the rest changes with every token.
    pub sequences: Arc<Vec<Written>>,
    /// A run is going on.
    pub running: bool,
    /// It is a run from the disk or from before the configuration changed: said above the text.
    pub of_run: Option<String>,
    /// Speed and how it went, in words, once done.
    pub summary: String,
    /// The decoding step scrubbed to: of what was written, only the first `step` tokens are shown; `None` for all.
    pub step: Option<usize>,
    /// Why it cannot be run now; empty when it can.
    pub blocked: String,
    /// What a model in training says to held-out questions, shown in place of all of this; `None` while generating.
    pub samples: Option<super::Samples>,
    /// The adapter that can be switched on and off; `None` when none is known for this model.
    pub adapter: Option<Adapter>,
}

/// An adapter that was learned or chosen for the model that is open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adapter {
    /// How it is used now.
    pub now: AdapterUse,
    /// What it is: its path.
    pub name: String,
    /// It is being merged: nothing can be switched.
    pub merging: bool,
}

/// How an adapter is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdapterUse {
    /// Beside the weights.
    On,
    /// Not at all.
    #[default]
    Off,
    /// In the weights: a model file of its own.
    Merged,
}

/// A conversation.
pub type Chat = Vec<Turn>;

/// Who speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// The person.
    #[default]
    User,
    /// The model answers.
    Assistant,
}

/// One message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Who said it.
    pub role: Role,
    /// The message, without the template's tokens.
    pub content: String,
}

/// One sequence.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Written {
    /// Its tokens: the prompt's first. A token's index is its position.
    pub tokens: Vec<Token>,
    /// How many of them are the prompt's.
    pub prompt: usize,
    /// Why it ended, in words; empty while it goes on.
    pub stop: String,
    /// Share of (layer, head) caches that still hold each position, 0 … 1, at the end or where it is scrubbed to; empty when
    /// nothing was dropped or the policy does not say.
    pub kept: Vec<f32>,
}

/// One token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The text it stands for: of a character spread over several tokens, all with the last of them.
    pub text: String,
}
