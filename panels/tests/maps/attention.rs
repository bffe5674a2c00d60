use std::sync::Arc;

use egui::{Key, Theme, vec2};
use egui_kittest::kittest::{NodeT as _, Queryable as _};
use ullage_panels::pictures::attention::{AttentionState, show};
use ullage_panels::view::{Attention, Grid};
use ullage_panels::{Action, Linked};

use super::{SMALL, harness, look, samples};

const HEADS: &str = "Attention of all heads";
const MAP: &str = "Attention of layer 3, head 2";

/// The first `steps` decoding steps of a longer run.
fn until(data: &Attention, steps: usize) -> Attention {
    let mut grid = Grid::clone(data.grid.as_ref().unwrap());
    grid.steps.truncate(steps);
    grid.rows.truncate(steps);
    grid.values.truncate(steps * samples::LAYERS * samples::HEADS * grid.bins);
    grid.largest.truncate(steps * samples::LAYERS * samples::HEADS);
    let mut map = ullage_panels::view::Map::clone(data.map.as_ref().unwrap());
    let rows = data.prompt + steps;
    map.queries.truncate(rows);
    map.values.truncate(rows * map.columns);
    map.held.truncate(rows * map.columns.div_ceil(8));
    Attention { grid: Some(Arc::new(grid)), map: Some(Arc::new(map)), ..data.clone() }
}

/// A window of its own, whose frames tell what they upload.
struct Window {
    context: egui::Context,
    state: AttentionState,
    linked: Linked,
    now: f64,
}

impl Window {
    fn new(state: AttentionState) -> Self {
        let context = egui::Context::default();
        ullage_panels::theme::install(&context);
        Self { context, state, linked: Linked { head: Some((3, 2)), ..Linked::default() }, now: 0.0 }
    }

    /// Pixels of maps uploaded in a frame.
    fn frame(&mut self, data: &Attention) -> usize {
        self.now += 1.0 / 60.0;
        let input = egui::RawInput {
            screen_rect: Some(egui::Rect::from_min_size(egui::Pos2::ZERO, vec2(900.0, 500.0))),
            time: Some(self.now),
            ..Default::default()
        };
        let mut output = self.context.run_ui(input, |ui| {
            show(ui, data, &mut self.state, &mut self.linked, &mut Vec::new());
        });
        // The hatch is 8 × 8 pixels; text is filtered linearly.
        let deltas = output.textures_delta.set.values().flatten();
        let maps = deltas.filter(|d| d.options.magnification == egui::TextureFilter::Nearest);
        let pixels = maps.map(|d| d.image.size()).filter(|s| *s != [8, 8]).map(|[w, h]| w * h).sum();
        output.textures_delta.clear();
        pixels
    }
}

#[test]
fn nothing_kept_offers_to_keep_it_and_kept_but_not_run_offers_to_run() {
    let empty = Attention { layers: 30, heads: 9, kv_heads: 3, ..Attention::default() };
    let mut shown = harness(show, empty.clone(), Theme::Dark, SMALL);
    shown.get_by_label("Keep attention for display").click();
    shown.run();
    let [Action::Set { sets, .. }] = &shown.state().actions[..] else { panic!("{:?}", shown.state().actions) };
    assert_eq!(sets[..], [("observe.attention".to_owned(), "thumbnails".to_owned())]);
    let mut shown = harness(show, Attention { observed: true, ..empty }, Theme::Dark, SMALL);
    shown.get_by_label("Run").click();
    shown.run();
    assert_eq!(shown.state().actions, [Action::Run]);
    let blocked = "It needs 9 MiB more than the memory limit.";
    let data = Attention { blocked: blocked.into(), ..shown.state().data.clone() };
    let mut shown = harness(show, data, Theme::Dark, SMALL);
    shown.get_by_label(blocked);
    assert!(shown.get_by_label("Run").accesskit_node().is_disabled());
    shown.get_by_label("Run").click();
    shown.run();
    assert_eq!(shown.state().actions, []);
}

#[test]
fn arrows_move_over_heads_and_enter_shows_one_large() {
    let data = Attention { map: None, ..samples::attention(8, 24) };
    let mut shown = harness(show, data, Theme::Light, SMALL);
    shown.get_by_label(HEADS).focus();
    shown.run();
    for key in [Key::ArrowDown, Key::ArrowDown, Key::ArrowRight, Key::ArrowUp] {
        shown.key_press(key);
        shown.run();
    }
    assert_eq!(shown.state().linked.head, Some((1, 1)));
    let said = shown.get_by_label(HEADS).value().unwrap();
    assert!(said.starts_with("Layer 1, head 1 · step 7: largest weight "), "{said}");
    shown.key_press(Key::Enter);
    shown.run();
    assert!(shown.state().state.large);
    shown.get_by_label("Attention of layer 1, head 1");
    shown.get_by_label("Watch this head at full size in the next run").click();
    shown.run();
    assert_eq!(shown.state().actions, [Action::WatchHead(Some((1, 1)))]);
    shown.get_by_label("Attention of layer 1, head 1").focus();
    shown.run();
    shown.key_press(Key::Escape);
    shown.run();
    assert!(!shown.state().state.large);
}

#[test]
fn a_press_on_a_small_map_opens_that_head_and_zooming_keeps_the_pointed_cell() {
    let mut shown = harness(show, samples::attention(16, 40), Theme::Dark, [900.0, 500.0]);
    let grid = shown.get_by_label(HEADS).rect();
    // Row 3 of 30, and the third of three heads in the first of three groups.
    let at = grid.min + vec2(grid.width() * 0.28, grid.height() * 3.5 / 30.0);
    shown.hover_at(at);
    shown.run();
    shown.drag_at(at);
    shown.drop_at(at);
    shown.run();
    assert_eq!((shown.state().linked.head, shown.state().state.large), (Some((3, 2)), true));
    let map = shown.get_by_label(MAP).rect();
    let at = map.min + map.size() * vec2(0.4, 0.8);
    shown.hover_at(at);
    shown.run();
    let said = shown.get_by_label(MAP).value().unwrap();
    assert_eq!(shown.state().linked.token, Some((0.4 * 56.0) as usize));
    for _ in 0..10 {
        shown.event(egui::Event::MouseWheel {
            unit: egui::MouseWheelUnit::Point,
            delta: vec2(0.0, 20.0),
            phase: egui::TouchPhase::Move,
            source: egui::MouseWheelSource::Wheel,
            modifiers: egui::Modifiers::NONE,
        });
        shown.run();
    }
    assert_eq!(shown.get_by_label(MAP).value().unwrap(), said);
}

#[test]
fn a_cell_says_its_weight_and_whether_its_key_was_kept() {
    let data = samples::attention(16, 40);
    let map = data.map.clone().unwrap();
    let gone = *data.evictions.iter().find(|e| e.step == 0).unwrap();
    let mut shown = harness(show, data, Theme::Dark, [900.0, 500.0]);
    shown.state_mut().state = AttentionState::large();
    shown.state_mut().linked.head = Some((3, 2));
    shown.run();
    let said = |shown: &mut egui_kittest::Harness<'static, _>, row: usize, column: usize| {
        let rect = shown.get_by_label(MAP).rect();
        let at = vec2(column as f32 + 0.5, row as f32 + 0.5) / 56.0;
        shown.hover_at(rect.min + rect.size() * at);
        shown.run();
        shown.get_by_label(MAP).value().unwrap()
    };
    let position = gone.position as usize;
    let text = said(&mut shown, 50, position);
    assert!(text.contains(&format!("({position}): weight 0, dropped at step 0")), "{text}");
    assert!(said(&mut shown, 39, position).contains("kept here, dropped at step 0"));
    assert!(said(&mut shown, 10, 20).ends_with("it comes later"));
    let kept = (0..30).find(|&p| map.held(55, p)).unwrap();
    let weight = ullage_panels::words::number(f64::from(map.weight(55, kept)));
    assert!(said(&mut shown, 55, kept).contains(&format!("weight {weight}, ")));
    assert!(said(&mut shown, 55, 0).ends_with(", kept"));
}

#[test]
fn maps_are_uploaded_once_and_new_steps_are_small_additions() {
    let data = samples::attention(24, 40);
    for large in [false, true] {
        let state = if large { AttentionState::large() } else { AttentionState::default() };
        let mut window = Window::new(state);
        let shown = until(&data, 20);
        let first = window.frame(&shown);
        assert!(first > 10_000, "{first}");
        window.frame(&shown);
        for _ in 0..3 {
            assert_eq!(window.frame(&shown), 0, "an unchanged map is not uploaded again");
            // The same content in another place, as after a copy on write.
            assert_eq!(window.frame(&until(&data, 20)), 0);
        }
        for steps in 21..=24 {
            let added = window.frame(&until(&data, steps));
            assert!(added > 0, "step {steps} of {large}");
            assert!(added * 3 < first, "step {steps}: {added} of {first}");
            assert_eq!(window.frame(&until(&data, steps)), 0);
        }
        assert!(window.frame(&Attention { run: "another".into(), ..until(&data, 5) }) > 0);
    }
}

#[test]
fn a_double_click_scrubs_the_timeline_to_the_query() {
    let mut shown = harness(show, samples::attention(16, 40), Theme::Dark, [900.0, 500.0]);
    shown.state_mut().state = AttentionState::large();
    shown.state_mut().linked.head = Some((3, 2));
    shown.run();
    let rect = shown.get_by_label(MAP).rect();
    // Query 49 is that of decoding step 10; two moments a step.
    let at = rect.min + rect.size() * vec2(0.1, 49.5 / 56.0);
    for _ in 0..2 {
        shown.hover_at(at);
        shown.drag_at(at);
        shown.drop_at(at);
        shown.step();
    }
    assert_eq!(shown.state().actions, [Action::ScrubTo(Some(20))]);
}

/// What a PNG in a data URI shows: its size and its colours, row by row.
fn pixels(uri: &str) -> ([usize; 2], Vec<[u8; 4]>) {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let text = uri.strip_prefix("data:image/png;base64,").unwrap().trim_end_matches('=');
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0, 0u32);
    for digit in text.chars() {
        held = held << 6 | DIGITS.find(digit).unwrap() as u32;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
            held &= (1 << bits) - 1;
        }
    }
    let image = image::load_from_memory_with_format(&bytes, image::ImageFormat::Png).unwrap().to_rgba8();
    ([image.width() as usize, image.height() as usize], image.pixels().map(|p| p.0).collect())
}

/// The pictures in an SVG that the menu saves.
fn saved(
    shown: &mut egui_kittest::Harness<'static, super::Shown<Attention, AttentionState>>,
) -> Vec<([usize; 2], Vec<[u8; 4]>)> {
    shown.get_by_label("Copy or save: Which tokens did each head look at, and which are gone?").click();
    shown.run();
    shown.get_by_label("Save picture (SVG)…").click();
    shown.run();
    let Some(Action::SaveFile { name, content }) = shown.state_mut().actions.pop() else { panic!() };
    assert_eq!(name, "attention.svg");
    let svg = roxmltree::Document::parse(&content).unwrap();
    let images = svg.descendants().filter(|n| n.has_tag_name("image"));
    images.map(|n| pixels(n.attribute("href").unwrap())).collect()
}

#[test]
fn a_saved_map_has_the_colours_of_its_weights() {
    use ullage_panels::pictures::attention::color::{Code, Scale, table};
    let data = samples::attention(16, 40);
    let map = data.map.clone().unwrap();
    let mut shown = harness(show, data, Theme::Dark, [900.0, 500.0]);
    shown.state_mut().state = AttentionState::large();
    shown.state_mut().linked.head = Some((3, 2));
    shown.run();
    let images = saved(&mut shown);
    let colors = table(Theme::Dark, Scale::Log, Code::Root { top: 1.0 });
    let (_, cells) = images.iter().find(|(size, _)| *size == [56, 56]).expect("56 queries and keys");
    for query in 0..56 {
        for key in 0..56 {
            let value = if map.held(query, key) { map.values[query * 56 + key].max(1) } else { 0 };
            let expected = colors[usize::from(value)].to_srgba_unmultiplied();
            assert_eq!(cells[query * 56 + key], expected, "query {query}, key {key}");
        }
    }
    assert!(images.iter().any(|(size, _)| *size == [8, 8]), "what left is hatched");
    // All heads: a picture each, and not twice the same.
    shown.state_mut().state.large = false;
    shown.run();
    let images = saved(&mut shown);
    assert_eq!(images.len(), samples::LAYERS * samples::HEADS);
    assert!(images.iter().all(|(_, p)| p.iter().any(|p| p[3] == 255)) && images[0] != images[1]);
}

#[test]
fn a_merged_key_names_its_survivor_and_quantized_keys_say_their_type() {
    let data = samples::folded(16, 40);
    let map = data.map.clone().unwrap();
    let merge = data.merges[0];
    let dropped = *data.evictions.iter().find(|e| e.step == 0).unwrap();
    let mut shown = harness(show, data.clone(), Theme::Dark, [900.0, 500.0]);
    shown.state_mut().linked.head = Some((3, 2));
    shown.run();
    assert!(shown.get_by_label(HEADS).value().unwrap().ends_with("keys q4_0 (4.5 bits), values q8_0 (8.5 bits)"));
    shown.state_mut().state = AttentionState::large();
    shown.run();
    assert!(shown.get_by_label(MAP).value().unwrap().ends_with("keys q4_0 (4.5 bits), values q8_0 (8.5 bits)"));
    let mut said = |row: usize, column: u32| {
        let rect = shown.get_by_label(MAP).rect();
        let at = vec2(column as f32 + 0.5, row as f32 + 0.5) / 56.0;
        shown.hover_at(rect.min + rect.size() * at);
        shown.run();
        shown.get_by_label(MAP).value().unwrap()
    };
    let text = said(55, merge.position);
    let into = format!("({})", merge.survivor);
    assert!(text.contains("merged into “") && text.contains(&into), "{text}");
    assert!(text.ends_with(&format!("at step {}", merge.step)), "{text}");
    assert!(said(55, dropped.position).contains("dropped at step 0"), "not every key that left was merged");
    let kept = (0..40).find(|&p| map.held(55, p)).unwrap() as u32;
    assert!(said(55, kept).ends_with("kept as q4_0, its value as q8_0"));
    // Half-precision keys are nothing to be told of.
    let plain = ullage_panels::view::Kept { name: "f16".into(), bits: 16.0 };
    let data = Attention { formats: Arc::new(vec![[plain.clone(), plain]]), ..data };
    let shown = harness(show, data, Theme::Dark, [900.0, 500.0]);
    assert!(!shown.get_by_label(HEADS).value().unwrap().contains("f16"));
}

#[test]
fn damaged_maps_show_without_harm() {
    let whole = samples::attention(8, 24);
    let cut = |f: &dyn Fn(&mut Attention)| {
        let mut data = whole.clone();
        f(&mut data);
        data
    };
    for data in [
        cut(&|d| Arc::make_mut(d.grid.as_mut().unwrap()).values.truncate(7000)),
        cut(&|d| Arc::make_mut(d.grid.as_mut().unwrap()).rows.clear()),
        cut(&|d| Arc::make_mut(d.grid.as_mut().unwrap()).bins = 0),
        cut(&|d| Arc::make_mut(d.map.as_mut().unwrap()).held.truncate(5)),
        cut(&|d| Arc::make_mut(d.map.as_mut().unwrap()).values.truncate(33)),
        cut(&|d| Arc::make_mut(d.map.as_mut().unwrap()).columns = 0),
        cut(&|d| d.kv_heads = 0),
        cut(&|d| d.kv_heads = 77),
        cut(&|d| d.tokens = Arc::new(vec![])),
        cut(&|d| Arc::make_mut(&mut d.evictions).iter_mut().for_each(|e| (e.position, e.layer) = (u32::MAX, 999))),
    ] {
        for large in [false, true] {
            let mut shown = harness(show, data.clone(), Theme::Light, [300.0, 160.0]);
            if large {
                shown.state_mut().state = AttentionState::large();
            }
            shown.state_mut().linked.moment = Some(3);
            shown.run();
            shown.hover_at(egui::pos2(150.0, 110.0));
            shown.run();
        }
    }
}

#[test]
fn how_it_looks() {
    let mut results = egui_kittest::SnapshotResults::new();
    let empty = Attention { layers: 30, heads: 9, kv_heads: 3, ..Attention::default() };
    look(&mut results, "attention_empty", show, &empty, |_| {});
    let data = samples::attention(24, 40);
    look(&mut results, "attention_heads_live", show, &until(&data, 5), |_| {});
    look(&mut results, "attention_heads", show, &data, |h| h.state_mut().linked.head = Some((7, 4)));
    look(&mut results, "attention_heads_scrubbed", show, &data, |h| h.state_mut().linked.moment = Some(20));
    let large = |h: &mut egui_kittest::Harness<'static, super::Shown<Attention, AttentionState>>| {
        h.state_mut().state = AttentionState::large();
        h.state_mut().linked.head = Some((3, 2));
    };
    look(&mut results, "attention_map", show, &data, large);
    look(&mut results, "attention_map_folded", show, &samples::folded(16, 24), large);
    let folded = |h: &mut egui_kittest::Harness<'static, super::Shown<Attention, AttentionState>>| {
        h.state_mut().linked.head = Some((3, 2));
    };
    look(&mut results, "attention_heads_folded", show, &samples::folded(24, 40), folded);
    look(&mut results, "attention_map_scrubbed", show, &data, |h| {
        large(h);
        h.state_mut().linked.moment = Some(20);
    });
}
