use egui::{Key, Theme};
use egui_kittest::kittest::Queryable as _;
use ullage_panels::Action;
use ullage_panels::pictures::places::show;
use ullage_panels::view::{Places, UsedFor};

use super::{SMALL, harness, look, samples};

const ROOM: [f32; 2] = [1200.0, 600.0];

#[test]
fn tiles_are_named_with_their_bytes_and_a_press_goes_deeper() {
    let mut shown = harness(show, samples::places(true), Theme::Dark, ROOM);
    shown.get_by_label_contains("token_embd.weight: 28.7 MiB, weights in memory, ");
    shown.get_by_label_contains("layer 10: 2.11 MiB, weights").click();
    shown.run();
    shown.get_by_label_contains("blk.10.ffn_up.weight: 540 KiB, weights in memory");
    assert!(shown.query_by_label_contains("blk.11.").is_none(), "the table and the treemap show what is below");
    shown.get_by_label("9 pieces · 2.11 MiB");
    shown.get_by_label("Everything").click();
    shown.run();
    shown.get_by_label("336 pieces · 138 MiB");
}

#[test]
fn the_keyboard_goes_in_and_comes_back() {
    let mut shown = harness(show, samples::places(false), Theme::Dark, ROOM);
    shown.get_by_label_contains("layer 3: 1.22 MiB, KV cache").focus();
    shown.run();
    shown.key_press(Key::Enter);
    shown.run();
    let piece = shown.get_by_label_contains("kv rows, layer 3: 1.2 MiB");
    piece.focus();
    shown.run();
    shown.key_press(Key::Backspace);
    shown.run();
    shown.get_by_label_contains("kv rows, layer 4: 1.2 MiB");
    assert!(shown.query_by_label_contains("weights in memory").is_none());
}

#[test]
fn the_table_is_searched_sorted_and_lays_out_only_what_is_in_sight() {
    let mut shown = harness(show, samples::places(true), Theme::Dark, ROOM);
    let rows = shown.query_all_by_label_contains("q4_1 (").count();
    assert!(rows < 30, "{rows} rows laid out");
    let search = shown.get_by_label("Search the pieces");
    search.focus();
    search.type_text("ffn_up q4_1");
    shown.run();
    shown.get_by_label("30 pieces · 15.8 MiB");
    shown.get_by_label("Name").click();
    shown.run();
    let y = |name: &str| shown.get_by_label(name).rect().top();
    assert!(
        y("blk.0.ffn_up.weight") < y("blk.2.ffn_up.weight") && y("blk.9.ffn_up.weight") < y("blk.10.ffn_up.weight")
    );
    let search = shown.get_by_label("Search the pieces");
    search.focus();
    search.type_text(" nowhere");
    shown.run();
    shown.get_by_label("No piece has all these words.");
}

#[test]
fn pointing_at_a_tile_or_a_row_tells_the_other_pictures() {
    let mut shown = harness(show, samples::places(true), Theme::Dark, ROOM);
    let at = shown.get_by_label_contains("layer 4: 1.22 MiB, KV cache").rect().center();
    shown.hover_at(at);
    shown.run();
    assert_eq!(shown.state().linked.used_for, Some(UsedFor::KvCache));
    let at = shown.get_by_label("token_embd.weight").rect().center();
    shown.hover_at(at);
    shown.run();
    assert_eq!(shown.state().linked.used_for, Some(UsedFor::Weights));
    shown.remove_cursor();
    shown.run();
    assert_eq!(shown.state().linked.used_for, None);
}

#[test]
fn what_moved_and_what_stands_beside_is_told() {
    let shown = harness(show, samples::places(true), Theme::Light, ROOM);
    for text in ["Moved", "disk read", "12.7 MiB a token", "Beside the account", "−1.25 MiB"] {
        shown.get_by_label(text);
    }
}

#[test]
fn nothing_open_offers_to_open_a_model() {
    let mut shown = harness(show, Places::default(), Theme::Dark, SMALL);
    shown.get_by_label("Open a model…").click();
    shown.run();
    assert_eq!(shown.state().actions, [Action::OpenDialog]);
}

#[test]
fn how_it_looks() {
    let mut results = egui_kittest::SnapshotResults::new();
    look(&mut results, "places_empty", show, &Places::default(), |_| {});
    look(&mut results, "places_predicted", show, &samples::places(false), |_| {});
    look(&mut results, "places_measured", show, &samples::places(true), |_| {});
}
