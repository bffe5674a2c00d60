use super::*;
use egui::epaint::{BandPoint, BandShape, CircleShape, CubicBezierShape, EllipseShape, Mesh, QuadraticBezierShape};
use egui::{ColorImage, FontId, TextureId, pos2, vec2};
use std::sync::Arc;

const SEEN: Rect = Rect { min: pos2(10.0, 20.0), max: pos2(210.0, 120.0) };

fn clipped(shape: Shape) -> ClippedShape {
    ClippedShape { clip_rect: Rect::EVERYTHING, shape, transform_after_tessellation: Default::default() }
}

fn svg(shapes: Vec<Shape>) -> String {
    let shapes: Vec<_> = shapes.into_iter().map(clipped).collect();
    document(&shapes, SEEN, Color32::BLACK, "Which <one> & why?", &Pixels::default())
}

fn count(document: &roxmltree::Document<'_>, tag: &str) -> usize {
    let defs = |n: &roxmltree::Node<'_, '_>| n.ancestors().any(|a| a.has_tag_name("defs"));
    document.descendants().filter(|n| n.tag_name().name() == tag && !defs(n)).count()
}

fn galley(text: &str) -> Arc<egui::Galley> {
    let context = egui::Context::default();
    let mut galley = None;
    let output = context.run_ui(egui::RawInput::default(), |ui| {
        galley = Some(ui.painter().layout_no_wrap(text.to_owned(), FontId::monospace(14.0), Color32::PLACEHOLDER));
    });
    output.drop_without_applying_deltas();
    galley.unwrap()
}

#[test]
fn each_shape_has_its_element() {
    let line = Stroke::new(2.0, Color32::RED);
    let at = |x: f32, y: f32| pos2(10.0 + x, 20.0 + y);
    let rect = Rect::from_min_size(at(5.0, 5.0), vec2(20.0, 10.0));
    let mut mesh = Mesh::default();
    mesh.add_colored_rect(rect, Color32::GREEN);
    mesh.add_colored_rect(rect.translate(vec2(20.0, 0.0)), Color32::GREEN);
    mesh.add_colored_rect(rect.translate(vec2(40.0, 0.0)), Color32::BLUE);
    let points = vec![BandPoint::new(20.0, 30.0..=40.0), BandPoint::new(60.0, 35.0..=50.0)];
    let shapes = vec![
        Shape::Noop,
        Shape::rect_filled(rect, 3.0, Color32::from_rgba_unmultiplied(255, 0, 0, 128)),
        Shape::rect_filled(rect, CornerRadius { nw: 4, ne: 0, sw: 0, se: 2 }, Color32::RED),
        Shape::Circle(CircleShape::filled(at(30.0, 30.0), 5.0, Color32::RED)),
        Shape::Ellipse(EllipseShape::filled(at(30.0, 30.0), vec2(5.0, 3.0), Color32::RED)),
        Shape::Vec(vec![Shape::hline(20.0..=50.0, 60.0, line), Shape::vline(20.0, 30.0..=70.0, line)]),
        Shape::line(vec![at(1.0, 1.0), at(9.0, 9.0), at(3.0, 4.0)], line),
        Shape::Band(BandShape::filled(points, Color32::RED)),
        Shape::QuadraticBezier(QuadraticBezierShape::from_points_stroke(
            [at(1.0, 1.0), at(5.0, 9.0), at(9.0, 1.0)],
            false,
            Color32::TRANSPARENT,
            line,
        )),
        Shape::CubicBezier(CubicBezierShape::from_points_stroke(
            [at(1.0, 1.0), at(5.0, 9.0), at(9.0, 1.0), at(9.0, 9.0)],
            true,
            Color32::RED,
            line,
        )),
        Shape::mesh(mesh),
        Shape::galley(at(5.0, 50.0), galley("a < b & \"c\"\nd"), Color32::from_rgb(1, 2, 3)),
    ];
    let text = svg(shapes);
    let document = roxmltree::Document::parse(&text).unwrap();
    let counts = ["rect", "circle", "ellipse", "line", "path", "text"].map(|tag| count(&document, tag));
    // The background is one rectangle; paths: uneven corners, line, band, two curves, a mesh of two colours.
    assert_eq!(counts, [2, 1, 1, 2, 7, 2], "{text}");
    let texts: Vec<_> = document.descendants().filter(|n| n.has_tag_name("text")).collect();
    let all = |name| document.descendants().find(|n| n.tag_name().name() == name).unwrap();
    assert_eq!(texts.iter().filter_map(|n| n.text()).collect::<Vec<_>>(), ["a < b & \"c\"", "d"]);
    assert_eq!((texts[0].attribute("font-size"), texts[0].attribute("font-family")), (Some("14"), Some("monospace")));
    assert_eq!((texts[0].attribute("fill"), texts[0].attribute("x")), (Some("#010203"), Some("5")));
    assert_eq!(all("title").text(), Some("Which <one> & why?"));
    assert_eq!((all("circle").attribute("cx"), all("circle").attribute("cy")), (Some("30"), Some("30")));
    let green = document.descendants().find(|n| n.attribute("fill") == Some("#00ff00")).unwrap();
    assert_eq!(green.attribute("d"), Some("M5 5h20v10h-20ZM25 5h20v10h-20Z"), "rectangles of a mesh are rectangles");
}

#[test]
fn what_is_outside_is_left_out_and_clips_are_kept() {
    let rect = Rect::from_min_size(pos2(300.0, 300.0), vec2(9.0, 9.0));
    let clip = Rect::from_min_size(pos2(30.0, 40.0), vec2(20.0, 20.0));
    let inside = Shape::rect_filled(SEEN, 0.0, Color32::RED);
    let shapes = [
        clipped(Shape::rect_filled(rect, 0.0, Color32::RED)),
        ClippedShape { clip_rect: clip, ..clipped(inside.clone()) },
        ClippedShape { clip_rect: clip, ..clipped(inside.clone()) },
        clipped(inside),
    ];
    let text = document(&shapes, SEEN, Color32::BLACK, "", &Pixels::default());
    let document = roxmltree::Document::parse(&text).unwrap();
    assert_eq!((count(&document, "rect"), count(&document, "g")), (4, 2), "{text}");
    let clips: Vec<_> = document.descendants().filter(|n| n.has_tag_name("clipPath")).collect();
    assert_eq!(clips.len(), 2);
    let first = clips[0].first_element_child().unwrap();
    assert_eq!(
        ["x", "y", "width", "height"].map(|a| first.attribute(a)),
        [Some("20"), Some("20"), Some("20"), Some("20")]
    );
    for n in document.descendants().filter(|n| n.has_tag_name("g")) {
        let id = n.attribute("clip-path").unwrap().trim_start_matches("url(#").trim_end_matches(')');
        assert!(clips.iter().any(|c| c.attribute("id") == Some(id)));
    }
}

#[test]
fn a_texture_that_is_remembered_is_in_the_file() {
    let image = ColorImage::filled([4, 2], Color32::from_rgb(9, 8, 7));
    let uv = Rect::from_min_max(pos2(0.0, 0.0), pos2(1.0, 1.0));
    let rect = Rect::from_min_size(pos2(20.0, 30.0), vec2(40.0, 20.0));
    let shape = Shape::image(TextureId::Managed(7), rect, uv, Color32::WHITE);
    let context = egui::Context::default();
    remember(&context, TextureId::Managed(7), Some(Arc::new(image)));
    let known = image::all(&context);
    let with = document(&[clipped(shape.clone())], SEEN, Color32::BLACK, "", &known);
    let without = document(&[clipped(shape)], SEEN, Color32::BLACK, "", &Pixels::default());
    let parsed = roxmltree::Document::parse(&with).unwrap();
    let node = parsed.descendants().find(|n| n.has_tag_name("image")).unwrap();
    let data = node.attribute("href").unwrap().strip_prefix("data:image/png;base64,").unwrap();
    assert!(data.starts_with("iVBORw0KGg"), "a PNG begins with its signature");
    assert_eq!(node.attribute("width"), Some("40"));
    assert_eq!(
        roxmltree::Document::parse(&without).unwrap().descendants().filter(|n| n.has_tag_name("image")).count(),
        0
    );
    remember(&context, TextureId::Managed(7), None);
    assert!(image::all(&context).is_empty());
}

#[test]
fn nothing_that_xml_forbids_gets_in() {
    assert_eq!(escape("a\u{0}\u{8}<\u{FFFF}\t"), "a\u{FFFD}\u{FFFD}&lt;\u{FFFD}\t");
    assert_eq!([num(-0.001), num(f32::NAN), num(1.50), num(100.0)], ["0", "0", "1.5", "100"]);
    assert_eq!(fill(Color32::TRANSPARENT), " fill=\"none\"");
    assert_eq!(fill(Color32::from_rgba_unmultiplied(255, 0, 0, 51)), " fill=\"#ff0000\" fill-opacity=\"0.2\"");
}
