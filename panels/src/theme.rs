//! The design tokens: colours of the dark and the light theme, spacing, text sizes; and how egui is given them.

use std::sync::Arc;

use egui::{
    Color32, Context, CornerRadius, FontData, FontDefinitions, FontFamily, FontId, Stroke, Style, TextStyle, Theme,
    Visuals, vec2,
};

use crate::view::UsedFor;

/// The grid: every distance is a multiple of it, in points.
pub const GRID: f32 = 4.0;
/// Corners, in points.
pub const CORNER: u8 = 6;
/// The four text sizes in points: small, body, heading, title.
pub const TEXT: [f32; 4] = [12.0, 14.0, 17.0, 24.0];

/// The name of the largest text style.
pub fn title() -> TextStyle {
    TextStyle::Name("title".into())
}

/// The colours of one theme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Palette {
    /// Behind everything.
    pub background: Color32,
    /// Buttons, fields, cards under the pointer.
    pub raised: Color32,
    /// Lines between things.
    pub line: Color32,
    /// Text.
    pub text: Color32,
    /// Text of less weight.
    pub weak_text: Color32,
    /// The one neutral accent: what is selected, focused, linked.
    pub accent: Color32,
    /// Over the memory limit, and failure; nothing else.
    pub alarm: Color32,
    used_for: [Color32; 9],
}

const fn rgb(hex: u32) -> Color32 {
    Color32::from_rgb((hex >> 16) as u8, (hex >> 8) as u8, hex as u8)
}

/// The colours of Okabe and Ito, moved as little as gives 3:1 against the background and keeps all pairs apart for
/// colour-blind eyes too (the tests say how far).
pub const DARK: Palette = Palette {
    background: rgb(0x1B1D21),
    raised: rgb(0x2A2D33),
    line: rgb(0x41454D),
    text: rgb(0xE6E8EB),
    weak_text: rgb(0xA9AEB7),
    accent: rgb(0x9DB4D0),
    alarm: rgb(0xFF6B6B),
    used_for: [
        rgb(0x0978BB),
        rgb(0xEBA30F),
        rgb(0x039E73),
        rgb(0xCC79A8),
        rgb(0xC85500),
        rgb(0x56B4E9),
        rgb(0x858486),
        rgb(0xB09500),
        rgb(0x815A9B),
    ],
};

/// The light theme; see [`DARK`].
pub const LIGHT: Palette = Palette {
    background: rgb(0xFAFAF8),
    raised: rgb(0xECECE8),
    line: rgb(0xCFCFC9),
    text: rgb(0x1D2025),
    weak_text: rgb(0x5A5F68),
    accent: rgb(0x38557A),
    alarm: rgb(0xB3121D),
    used_for: [
        rgb(0x0574B5),
        rgb(0xC18200),
        rgb(0x019D72),
        rgb(0xBC6FA2),
        rgb(0xC14B00),
        rgb(0x3498C3),
        rgb(0x8B8B8C),
        rgb(0x887A20),
        rgb(0x6E5097),
    ],
};

impl Palette {
    /// The palette of egui's theme.
    pub fn of(theme: Theme) -> &'static Self {
        match theme {
            Theme::Dark => &DARK,
            Theme::Light => &LIGHT,
        }
    }

    /// The colour of what bytes are used for, the same in every picture.
    pub fn used_for(&self, what: UsedFor) -> Color32 {
        self.used_for[what as usize]
    }

    fn style(&self, theme: Theme) -> Style {
        let mut style = theme.default_style();
        style.text_styles = [
            (TextStyle::Small, FontId::new(TEXT[0], FontFamily::Proportional)),
            (TextStyle::Body, FontId::new(TEXT[1], FontFamily::Proportional)),
            (TextStyle::Button, FontId::new(TEXT[1], FontFamily::Proportional)),
            (TextStyle::Monospace, FontId::new(TEXT[1], FontFamily::Monospace)),
            (TextStyle::Heading, FontId::new(TEXT[2], FontFamily::Proportional)),
            (title(), FontId::new(TEXT[3], FontFamily::Proportional)),
        ]
        .into();
        style.spacing.item_spacing = vec2(2.0 * GRID, 2.0 * GRID);
        style.spacing.button_padding = vec2(3.0 * GRID, GRID);
        style.spacing.interact_size = vec2(8.0 * GRID, 7.0 * GRID);
        self.paint(&mut style.visuals);
        style
    }

    fn paint(&self, visuals: &mut Visuals) {
        (visuals.panel_fill, visuals.window_fill) = (self.background, self.background);
        (visuals.extreme_bg_color, visuals.code_bg_color, visuals.faint_bg_color) =
            (self.background, self.raised, self.raised);
        visuals.window_stroke = Stroke::new(1.0, self.line);
        (visuals.window_corner_radius, visuals.menu_corner_radius) =
            (CornerRadius::same(CORNER), CornerRadius::same(CORNER));
        (visuals.hyperlink_color, visuals.error_fg_color) = (self.accent, self.alarm);
        visuals.weak_text_color = Some(self.weak_text);
        visuals.selection.bg_fill = self.accent;
        visuals.selection.stroke = Stroke::new(1.0, self.background);
        let widgets = &mut visuals.widgets;
        for (state, fill, stroke) in [
            (&mut widgets.noninteractive, self.background, self.line),
            (&mut widgets.inactive, self.raised, self.raised),
            (&mut widgets.hovered, self.raised, self.weak_text),
            (&mut widgets.active, self.raised, self.accent),
            (&mut widgets.open, self.raised, self.line),
        ] {
            (state.bg_fill, state.weak_bg_fill, state.corner_radius) = (fill, fill, CornerRadius::same(CORNER));
            (state.bg_stroke, state.fg_stroke) = (Stroke::new(1.0, stroke), Stroke::new(1.0, self.text));
            state.expansion = 0.0;
        }
    }
}

/// The two families: Inter for words, JetBrains Mono for figures and code. What they do not have, such as other scripts, comes
/// from egui's own fonts.
fn fonts() -> FontDefinitions {
    const INTER: &[u8] = include_bytes!("../../assets/fonts/inter.otf");
    const MONO: &[u8] = include_bytes!("../../assets/fonts/jetbrains-mono.ttf");
    let mut fonts = FontDefinitions::default();
    for (name, data, family) in
        [("Inter", INTER, FontFamily::Proportional), ("JetBrains Mono", MONO, FontFamily::Monospace)]
    {
        fonts.font_data.insert(name.to_owned(), Arc::new(FontData::from_static(data)));
        fonts.families.entry(family).or_default().insert(0, name.to_owned());
    }
    fonts
}

/// Gives egui the fonts and both themes; which theme shows stays the user's or the system's choice.
pub fn install(context: &Context) {
    context.set_fonts(fonts());
    for theme in [Theme::Dark, Theme::Light] {
        context.set_style_of(theme, Palette::of(theme).style(theme));
    }
}

#[cfg(test)]
mod tests;
