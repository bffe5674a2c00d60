//! Whether this machine can draw what snapshots are compared with.

use std::sync::OnceLock;

/// True when there is a device that draws, a software one too; says why snapshots are passed over when there is none.
pub fn draws() -> bool {
    static DRAWS: OnceLock<bool> = OnceLock::new();
    *DRAWS.get_or_init(|| {
        let drawn = std::panic::catch_unwind(|| egui_kittest::Harness::new_ui(|_| {}).render().is_ok());
        let drawn = drawn.unwrap_or(false);
        if !drawn {
            eprintln!("skipped: snapshots need a Vulkan device (a software one: apt-get install mesa-vulkan-drivers)");
        }
        drawn
    })
}
