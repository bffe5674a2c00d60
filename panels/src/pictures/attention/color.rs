//! The colours of weights: one ramp for each theme, from near the background to its opposite, in equal steps for the eye.

use egui::{Color32, Theme};

/// How a weight becomes a place on the ramp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Equal ratios are equal steps: small weights stay visible beside an attention sink.
    #[default]
    Log,
    /// Equal differences are equal steps.
    Linear,
}

/// What a stored byte stands for; 0 is always "not in the cache".
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Code {
    /// The square root of a weight, 255 for 1; the linear scale ends at `top`.
    Root {
        /// Where the linear scale ends.
        top: f32,
    },
    /// A share of the head's largest weight in that step.
    Share,
}

/// Ends of the colour scale, as weights or shares.
pub fn ends(scale: Scale, code: Code) -> (f32, f32) {
    match (scale, code) {
        (Scale::Log, Code::Root { .. }) => (1e-4, 1.0),
        (Scale::Log, Code::Share) => (0.005, 1.0),
        (Scale::Linear, Code::Root { top }) => (0.0, top),
        (Scale::Linear, Code::Share) => (0.0, 1.0),
    }
}

/// Where on the ramp, 0 … 1, a weight lies.
pub fn place(weight: f32, scale: Scale, ends: (f32, f32)) -> f32 {
    let at = match scale {
        Scale::Linear => (weight - ends.0) / (ends.1 - ends.0),
        Scale::Log => (weight.max(ends.0) / ends.0).ln() / (ends.1 / ends.0).ln(),
    };
    if at.is_finite() { at.clamp(0.0, 1.0) } else { 0.0 }
}

/// The smallest of 1, 0.5, 0.2, 0.1, … that is not below the largest weight: a scale that rarely changes while a map grows.
pub fn round_up(largest: f32) -> f32 {
    let mut top = 1.0_f32;
    for step in [0.5, 0.2, 0.1, 0.05, 0.02, 0.01] {
        if largest > step {
            break;
        }
        top = step;
    }
    top
}

/// How much of the background lies over the cells of keys that are kept in so many bits: none over 16, more the fewer they are. Even
/// those of few bits stay to be read.
pub fn dim(bits: f64) -> f32 {
    if bits.is_finite() { 0.6 * (1.0 - (bits / 16.0).clamp(0.0, 1.0)) as f32 } else { 0.0 }
}

/// Colours of the 256 stored bytes.
pub fn table(theme: Theme, scale: Scale, code: Code) -> [Color32; 256] {
    let (ramp, ends) = (ramp(theme), ends(scale, code));
    let mut colors = [Color32::TRANSPARENT; 256];
    for (v, color) in colors.iter_mut().enumerate().skip(1) {
        let v = v as f32 / 255.0;
        let weight = if code == Code::Share { v } else { v * v };
        *color = ramp[(place(weight, scale, ends) * 255.0).round() as usize];
    }
    colors
}

/// The ramp in 256 equal steps of OKLab (Ottosson 2020): lightness does the work, the hue turns a little from blue to green,
/// so that it reads the same for colour-blind eyes and in grey.
pub fn ramp(theme: Theme) -> [Color32; 256] {
    let (from, to) = match theme {
        Theme::Dark => (0.27, 0.96),
        Theme::Light => (0.965, 0.25),
    };
    let point = |t: f64| {
        let lightness = from + (to - from) * t;
        let bright = (lightness - 0.25) / 0.71;
        let chroma = 0.018 + 0.115 * (std::f64::consts::PI * bright.clamp(0.0, 1.0)).sin();
        let hue = (268.0 - 70.0 * bright).to_radians();
        [lightness, chroma * hue.cos(), chroma * hue.sin()]
    };
    const FINE: usize = 2048;
    let points: Vec<[f64; 3]> = (0..=FINE).map(|i| point(i as f64 / FINE as f64)).collect();
    let mut along = vec![0.0; FINE + 1];
    for i in 1..=FINE {
        let step: f64 = (0..3).map(|c| (points[i][c] - points[i - 1][c]).powi(2)).sum::<f64>().sqrt();
        along[i] = along[i - 1] + step;
    }
    let mut colors = [Color32::BLACK; 256];
    for (k, color) in colors.iter_mut().enumerate() {
        let goal = along[FINE] * k as f64 / 255.0;
        *color = srgb(points[along.partition_point(|&a| a < goal).min(FINE)]);
    }
    colors
}

fn srgb([lightness, a, b]: [f64; 3]) -> Color32 {
    let l = (lightness + 0.396_337_777_4 * a + 0.215_803_757_3 * b).powi(3);
    let m = (lightness - 0.105_561_345_8 * a - 0.063_854_172_8 * b).powi(3);
    let s = (lightness - 0.089_484_177_5 * a - 1.291_485_548 * b).powi(3);
    let [r, g, b] = [
        4.076_741_662_1 * l - 3.307_711_591_3 * m + 0.230_969_929_2 * s,
        -1.268_438_004_6 * l + 2.609_757_401_1 * m - 0.341_319_396_5 * s,
        -0.004_196_086_3 * l - 0.703_418_614_7 * m + 1.707_614_701 * s,
    ]
    .map(|v| {
        let v = v.clamp(0.0, 1.0);
        let v = if v <= 0.003_130_8 { 12.92 * v } else { 1.055 * v.powf(1.0 / 2.4) - 0.055 };
        (v * 255.0).round() as u8
    });
    Color32::from_rgb(r, g, b)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Luminance of sRGB (IEC 61966-2-1), an independent measure of what the ramp is for.
    fn luminance(c: Color32) -> f64 {
        let [r, g, b] = [c.r(), c.g(), c.b()].map(|v| {
            let v = f64::from(v) / 255.0;
            if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
        });
        0.2126 * r + 0.7152 * g + 0.0722 * b
    }

    /// CIE lightness, 0 … 100.
    fn lightness(c: Color32) -> f64 {
        let y = luminance(c);
        if y > 0.008856 { 116.0 * y.cbrt() - 16.0 } else { 903.3 * y }
    }

    #[test]
    fn a_larger_weight_is_always_further_from_the_background_in_equal_steps() {
        for (theme, sign) in [(Theme::Dark, 1.0), (Theme::Light, -1.0)] {
            let ramp = ramp(theme);
            let at: Vec<f64> = (0..=16).map(|i| sign * lightness(ramp[i * 255 / 16])).collect();
            let mean = (at[16] - at[0]) / 16.0;
            assert!(mean * 16.0 > 65.0, "{theme:?}: the ramp spans {:.0} of lightness", mean * 16.0);
            for pair in at.windows(2) {
                let step = pair[1] - pair[0];
                assert!((0.5 * mean..1.6 * mean).contains(&step), "{theme:?}: step {step:.2}, mean {mean:.2}");
            }
            let background = crate::theme::Palette::of(theme).background;
            assert!((lightness(ramp[0]) - lightness(background)).abs() < 10.0);
        }
    }

    #[test]
    fn bytes_map_to_the_scale_they_stand_for() {
        let root = Code::Root { top: 1.0 };
        for theme in [Theme::Dark, Theme::Light] {
            let ramp = ramp(theme);
            for (scale, code) in
                [(Scale::Log, root), (Scale::Linear, root), (Scale::Log, Code::Share), (Scale::Linear, Code::Share)]
            {
                let table = table(theme, scale, code);
                assert_eq!(table[0], Color32::TRANSPARENT);
                assert_eq!((table[255], table[1]), (ramp[255], table[1]));
                let places: Vec<usize> = table[1..].iter().map(|c| ramp.iter().position(|r| r == c).unwrap()).collect();
                assert!(places.is_sorted());
            }
        }
        let ends = ends(Scale::Log, root);
        assert!((place(1e-2, Scale::Log, ends) - 0.5).abs() < 1e-6);
        assert_eq!(place(0.0, Scale::Log, ends), 0.0);
        assert_eq!(place(f32::NAN, Scale::Linear, (0.0, 1.0)), 0.0);
        for (largest, top) in [(0.9, 1.0), (0.5, 0.5), (0.3, 0.5), (0.0, 0.01), (0.011, 0.02)] {
            assert_eq!(round_up(largest), top);
        }
    }
}
