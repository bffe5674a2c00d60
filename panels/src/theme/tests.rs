use super::*;

/// Linear red, green, blue of an opaque colour, 0 … 1 (sRGB, IEC 61966-2-1).
fn linear(color: Color32) -> [f64; 3] {
    [color.r(), color.g(), color.b()].map(|v| {
        let v = f64::from(v) / 255.0;
        if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
    })
}

/// Contrast ratio by WCAG 2.2.
fn contrast(a: Color32, b: Color32) -> f64 {
    let [a, b] = [a, b].map(|c| {
        let [r, g, b] = linear(c);
        0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05
    });
    a.max(b) / a.min(b)
}

type Matrix = [[f64; 3]; 3];
const NORMAL: Matrix = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
/// Machado, Oliveira and Fernandes (2009), severity 1.
const PROTANOPIA: Matrix =
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]];
const DEUTERANOPIA: Matrix =
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]];
const TO_XYZ: Matrix = [[0.412456, 0.357576, 0.180437], [0.212673, 0.715152, 0.072175], [0.019334, 0.119192, 0.950304]];

fn times(m: &Matrix, v: [f64; 3]) -> [f64; 3] {
    m.map(|row| row.iter().zip(v).map(|(a, b)| a * b).sum())
}

/// CIELAB (D65) of a colour as these eyes see it.
fn lab(color: Color32, eyes: &Matrix) -> [f64; 3] {
    let [x, y, z] = times(&TO_XYZ, times(eyes, linear(color)).map(|v| v.clamp(0.0, 1.0)));
    let f = |t: f64| if t > 0.008856 { t.cbrt() } else { 7.787 * t + 16.0 / 116.0 };
    let (x, y, z) = (f(x / 0.95047), f(y), f(z / 1.08883));
    [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
}

fn distance(a: Color32, b: Color32, eyes: &Matrix) -> f64 {
    lab(a, eyes).iter().zip(lab(b, eyes)).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn the_yardstick_is_right() {
    assert!((contrast(Color32::BLACK, Color32::WHITE) - 21.0).abs() < 1e-9);
    assert!((contrast(rgb(0x777777), Color32::WHITE) - 4.48).abs() < 0.005);
    assert!((distance(Color32::BLACK, Color32::WHITE, &NORMAL) - 100.0).abs() < 0.01);
    let red_green = |eyes| distance(rgb(0xB00000), rgb(0x706000), eyes);
    assert!(red_green(&NORMAL) > 2.0 * red_green(&DEUTERANOPIA));
}

#[test]
fn text_is_legible_on_every_surface() {
    for palette in [DARK, LIGHT] {
        for surface in [palette.background, palette.raised] {
            for text in [palette.text, palette.weak_text, palette.accent, palette.alarm] {
                assert!(contrast(text, surface) >= 4.5, "{text:?} on {surface:?}: {:.2}", contrast(text, surface));
            }
        }
        assert!(contrast(palette.background, palette.accent) >= 4.5, "selected text");
    }
}

#[test]
fn categories_stand_out_and_apart() {
    for palette in [DARK, LIGHT] {
        for (i, a) in UsedFor::ALL.into_iter().enumerate() {
            let color = palette.used_for(a);
            assert!(contrast(color, palette.background) >= 3.0, "{a:?}: {:.2}", contrast(color, palette.background));
            for b in &UsedFor::ALL[..i] {
                for (eyes, least) in [(&NORMAL, 20.0), (&PROTANOPIA, 10.0), (&DEUTERANOPIA, 10.0)] {
                    let apart = distance(color, palette.used_for(*b), eyes);
                    assert!(apart >= least, "{a:?} and {b:?}: {apart:.1} of {least}");
                }
            }
        }
    }
}

#[test]
fn egui_gets_both_themes() {
    let context = Context::default();
    install(&context);
    for theme in [Theme::Dark, Theme::Light] {
        let (style, palette) = (context.style_of(theme), Palette::of(theme));
        assert_eq!(style.visuals.dark_mode, theme == Theme::Dark);
        assert_eq!((style.visuals.panel_fill, style.visuals.text_color()), (palette.background, palette.text));
        let mut sizes: Vec<f32> = style.text_styles.values().map(|font| font.size).collect();
        sizes.sort_by(f32::total_cmp);
        sizes.dedup();
        assert_eq!(sizes, TEXT);
        for distance in [style.spacing.item_spacing, style.spacing.button_padding, style.spacing.interact_size] {
            assert_eq!((distance.x % GRID, distance.y % GRID), (0.0, 0.0));
        }
    }
}
