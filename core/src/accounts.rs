//! The words that every account is kept in: where bytes live, what they are for, and when they are held.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// All of them, in display order.
            pub const ALL: &[Self] = &[$(Self::$variant),+];
            /// The word used on screen, in TOML and in JSON.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

words! {
    /// Where bytes live.
    Tier {
        /// GPU memory; on a CPU-only machine the part of RAM the budget grants.
        Device = "device",
        /// RAM beside the device.
        Host = "host",
        /// Files.
        Disk = "disk",
    }
}

words! {
    /// What bytes are for.
    Category {
        /// Payload of the model and of adapters.
        Weights = "weights",
        /// Rows, their scales and positions, and the scores a policy needs.
        KvCache = "kv_cache",
        /// Hidden states and what an op leaves for the next.
        Activations = "activations",
        /// Gradients.
        Gradients = "gradients",
        /// Moments and master copies.
        Optimizer = "optimizer",
        /// Output head and loss.
        Logits = "logits",
        /// Scratch: dequantization panels, tiles, repacked copies.
        Workspace = "workspace",
        /// Kept only to be shown; never the reason a run is refused.
        Observation = "observation",
        /// Exemplars, indexes, external memories.
        Store = "store",
    }
}

words! {
    /// When bytes are held.
    Phase {
        /// Reading and converting weights.
        Load = "load",
        /// The prompt.
        Prefill = "prefill",
        /// Token by token.
        Decode = "decode",
        /// Training: forward.
        Forward = "forward",
        /// Training: backward.
        Backward = "backward",
        /// Training: optimizer step.
        Update = "update",
    }
}
