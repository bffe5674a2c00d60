//! Whether this machine can draw what snapshots are compared with.

#[path = "../../../tests/src/skip.rs"]
mod skip;

use std::sync::OnceLock;

/// True when there is a device that draws, a software one too; passes the test over that asks when there is none.
pub fn draws() -> bool {
    static DRAWS: OnceLock<bool> = OnceLock::new();
    let draws = *DRAWS.get_or_init(|| {
        let drawn = std::panic::catch_unwind(|| egui_kittest::Harness::new_ui(|_| {}).render().is_ok());
        drawn.unwrap_or(false)
    });
    if !draws {
        skip::pass_over("snapshots need a Vulkan device (a software one: apt-get install mesa-vulkan-drivers)");
    }
    draws
}
