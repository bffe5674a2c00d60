//! A scatter of accuracy against bytes as SVG.

use std::fmt::Write as _;

/// A labelled point; `y` in its own unit, `x` in bytes.
#[derive(Clone, Debug)]
pub struct Dot {
    /// Bytes.
    pub x: f64,
    /// The figure of merit.
    pub y: f64,
    /// Which line it is on; empty for none.
    pub series: String,
    /// What it is.
    pub label: String,
}

/// Colours that colour-blind eyes tell apart (Okabe and Ito 2008).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Round steps that cut `low..high` into about `n` parts.
fn ticks(low: f64, high: f64, n: usize) -> Vec<f64> {
    let span = (high - low).max(f64::MIN_POSITIVE);
    let raw = span / n as f64;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= raw).unwrap_or(power);
    let first = (low / step).ceil() as i64;
    (first..).map(|i| i as f64 * step).take_while(|v| *v <= high + step * 1e-9).collect()
}

/// A tick's number without the zeros that say nothing.
fn plain(v: f64) -> String {
    let text = format!("{v:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The picture: `x` in MiB, linear axes from their smallest to their largest value.
pub fn scatter(title: &str, y_name: &str, dots: &[Dot]) -> String {
    let (w, h, left, right, top, bottom) = (760.0, 460.0, 80.0, 24.0, 44.0, 56.0);
    let mib = |v: f64| v / f64::from(1 << 20);
    let range = |f: &dyn Fn(&Dot) -> f64| {
        let low = dots.iter().map(f).fold(f64::INFINITY, f64::min);
        let high = dots.iter().map(f).fold(f64::NEG_INFINITY, f64::max);
        let pad = ((high - low) * 0.06).max(high.abs().max(1e-9) * 0.01);
        (low - pad, high + pad)
    };
    let ((x0, x1), (y0, y1)) = (range(&|d| mib(d.x)), range(&|d| d.y));
    let px = |x: f64| left + (x - x0) / (x1 - x0) * (w - left - right);
    let py = |y: f64| h - bottom - (y - y0) / (y1 - y0) * (h - top - bottom);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w} {h}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{w}\" height=\"{h}\" fill=\"#ffffff\"/>\n<text x=\"{left}\" y=\"24\" font-size=\"15\" fill=\"#1d232b\">{}</text>\n",
        escape(title)
    );
    for x in ticks(x0, x1, 6) {
        let at = px(x);
        let _ = writeln!(
            out,
            "<path d=\"M{at:.1} {top}V{:.1}\" stroke=\"#e3e6ea\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#4a5560\">{}</text>",
            h - bottom,
            h - bottom + 18.0,
            plain(x)
        );
    }
    for y in ticks(y0, y1, 6) {
        let at = py(y);
        let text = if y.abs() < 1e-2 && y != 0.0 { format!("{y:.1e}") } else { plain(y) };
        let _ = writeln!(
            out,
            "<path d=\"M{left} {at:.1}H{:.1}\" stroke=\"#e3e6ea\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#4a5560\">{text}</text>",
            w - right,
            left - 8.0,
            at + 4.0
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#1d232b\">measured peak, MiB</text>",
        (left + w - right) / 2.0,
        h - 14.0
    );
    let _ = writeln!(
        out,
        "<text transform=\"translate(18 {:.1}) rotate(-90)\" text-anchor=\"middle\" fill=\"#1d232b\">{}</text>",
        h / 2.0,
        escape(y_name)
    );
    let mut series: Vec<&str> = Vec::new();
    for d in dots {
        if !series.contains(&d.series.as_str()) {
            series.push(&d.series);
        }
    }
    // Where a label already stands, another is left to the tooltip.
    let mut taken: Vec<(f64, f64)> = Vec::new();
    for (i, name) in series.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let mut own: Vec<&Dot> = dots.iter().filter(|d| d.series == *name).collect();
        own.sort_by(|a, b| a.x.total_cmp(&b.x));
        if !name.is_empty() {
            let path: Vec<_> = own.iter().map(|d| format!("{:.1} {:.1}", px(mib(d.x)), py(d.y))).collect();
            let _ =
                writeln!(out, "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>", path.join("L"));
            let y = top + 16.0 + 18.0 * i as f64;
            let _ = writeln!(
                out,
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"10\" height=\"10\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{y:.1}\" fill=\"#1d232b\">{}</text>",
                left + 12.0,
                y - 9.0,
                left + 28.0,
                escape(name)
            );
        }
        for d in own {
            let (x, y) = (px(mib(d.x)), py(d.y));
            let label = escape(&d.label);
            let whole = if name.is_empty() { label.clone() } else { format!("{} {label}", escape(name)) };
            let _ = writeln!(
                out,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"><title>{whole}: {:.2} MiB, {}</title></circle>",
                mib(d.x),
                d.y
            );
            let wide = 6.0 * d.label.chars().count() as f64 + 8.0;
            if taken.iter().all(|(tx, ty)| (tx - x).abs() > wide || (ty - y).abs() > 11.0) {
                taken.push((x, y));
                let (anchor, by) = if x > w * 0.7 { ("end", -8.0) } else { ("start", 8.0) };
                let _ = writeln!(
                    out,
                    "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\" font-size=\"10\" fill=\"#4a5560\">{label}</text>",
                    x + by,
                    y - 6.0
                );
            }
        }
    }
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_drawn_inside_and_labels_are_escaped() {
        let dots = [
            Dot { x: 1e6, y: 0.5, series: "s&1".into(), label: "a<b".into() },
            Dot { x: 5e6, y: 0.9, series: "s&1".into(), label: "q&a".into() },
            Dot { x: 5e6, y: 0.9, series: "two".into(), label: "same".into() },
        ];
        let svg = scatter("t", "accuracy", &dots);
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(
            svg.contains("a&lt;b") && svg.contains("q&amp;a") && svg.contains(">s&amp;1<") && !svg.contains("NaN"),
            "{svg}"
        );
        assert!(!scatter("t", "y", &dots[..1]).contains("NaN"), "one point has no span");
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 10.0, 5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert!(ticks(0.13, 0.27, 5).iter().all(|t| (0.13..=0.27).contains(t)));
    }
}
