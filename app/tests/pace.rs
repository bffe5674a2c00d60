//! What a run going on costs the window: frames it asks for, and that what was told is not copied with each of them.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests: a panic is the failure")]

mod desk;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use desk::{Desk, LONG};
use egui::{Context, Pos2, RawInput, Rect, vec2};
use ullage::window::files::{Answer, Asker};
use ullage::window::session::{Session, Setup};
use ullage::window::{App, waker};
use ullage_core::ledger::alloc::CountingAlloc;
use ullage_panels::Action;

#[global_allocator]
static ALLOC: CountingAlloc = CountingAlloc;

#[test]
fn a_run_asks_for_one_frame_each_time_it_has_something_to_tell() {
    let room = tempfile::tempdir().unwrap();
    let context = Context::default();
    let due = Arc::new(AtomicBool::new(true));
    let flag = Arc::clone(&due);
    // Only what is due within a frame's time counts; a cursor that blinks asks for later ones.
    context.set_request_repaint_callback(move |info| {
        if info.delay < Duration::from_millis(10) {
            flag.store(true, Ordering::Relaxed);
        }
    });
    let told = Arc::new(AtomicUsize::new(0));
    let (count, wake) = (Arc::clone(&told), waker(&context));
    let ask: Asker = Arc::new(|_| Answer::Cancelled);
    let session = Session::new(Setup {
        data: room.path().join("data"),
        remembered: Default::default(),
        open: None,
        ask,
        wake: Arc::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
            wake();
        }),
        probe: false,
    });
    let mut app = App::new(&context, session, &serde_json::Value::Null);
    let begin = Instant::now();
    let frame = |app: &mut App| {
        while !due.swap(false, Ordering::Relaxed) {
            assert!(begin.elapsed() < Duration::from_secs(120), "nothing is told any more");
            std::thread::sleep(Duration::from_millis(1));
        }
        let input = RawInput {
            screen_rect: Some(Rect::from_min_size(Pos2::ZERO, vec2(1280.0, 800.0))),
            time: Some(begin.elapsed().as_secs_f64()),
            ..RawInput::default()
        };
        let mut output = context.run_ui(input, |ui| {
            app.listen(ui.ctx());
            app.draw(ui);
        });
        output.textures_delta.clear();
    };
    while !app.session().settled() {
        frame(&mut app);
    }
    let sets = LONG.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    app.session().act(Action::Set { what: "a long run".into(), sets, gesture: None });
    context.request_repaint();
    while !(app.session().settled() && app.session().view().status.blocked.is_empty()) {
        frame(&mut app);
    }
    app.session().act(Action::Run);
    context.request_repaint();
    let written = |app: &mut App| app.session().view().text.sequences.first().map_or(0, |s| s.tokens.len() - s.prompt);
    while written(&mut app) == 0 {
        frame(&mut app);
    }
    // A scroll bar that appears or a bar that slides asks for a few frames more, now and then; two frames each time would be more in
    // every stretch.
    let (mut least, mut stretches) = (usize::MAX, 0);
    while least > 9 && app.session().view().status.running {
        let (before, mut frames) = (told.load(Ordering::Relaxed), 0);
        while told.load(Ordering::Relaxed) < before + 8 && app.session().view().status.running {
            frame(&mut app);
            frames += 1;
        }
        if told.load(Ordering::Relaxed) >= before + 8 {
            (least, stretches) = (least.min(frames), stretches + 1);
        }
    }
    assert!(
        stretches > 0 && least <= 9,
        "{least} frames for 8 times that something was told, in {stretches} stretches"
    );
    app.session().act(Action::Stop);
    app.close(None);
}

#[test]
fn what_a_run_tells_is_added_in_place() {
    let mut desk = Desk::new(None);
    desk.ready_after(&LONG);
    desk.writing();
    let view = desk.session.view();
    assert!(view.attention.grid.is_some(), "the first start observes");
    let at = |v: &ullage_panels::view::View| {
        let grid = v.attention.grid.as_ref().map(Arc::as_ptr);
        (Arc::as_ptr(&v.timeline), Arc::as_ptr(&v.text.sequences), Arc::as_ptr(&v.attention.tokens), grid)
    };
    let much = |v: &ullage_panels::view::View| {
        let grid = v.attention.grid.as_ref().map_or(0, |g| g.steps.len());
        [v.timeline.moments.len(), v.text.sequences[0].tokens.len(), v.attention.tokens.len(), grid]
    };
    let (places, sizes) = (at(view), much(view));
    let start = Instant::now();
    loop {
        desk.session.tick();
        let view = desk.session.view();
        if much(view).iter().zip(&sizes).all(|(now, then)| now > then) {
            assert_eq!(at(view), places, "longer, and where it was");
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(120) && view.status.running, "{:?} of {sizes:?}", much(view));
        std::thread::sleep(Duration::from_millis(5));
    }
    // Who holds on to a view keeps it as it was.
    let kept = desk.session.view().clone();
    let then = much(&kept);
    desk.until("more", |v| v.text.sequences[0].tokens.len() > then[1]);
    assert_eq!(much(&kept), then);
    desk.session.act(Action::Stop);
    desk.until("the end", |v| !v.status.running);
}

#[test]
fn the_course_of_a_training_run_grows_in_place() {
    let mut desk = Desk::new(None);
    desk.until("the model", |v| v.top.predicted.is_some());
    desk.session.act(Action::Mode("train".into()));
    desk.ready_after(&[
        ("train.steps", "100000"),
        ("train.batch", "1"),
        ("train.length", "32"),
        ("train.samples", "0"),
        ("budget.device", "unlimited"),
    ]);
    desk.session.act(Action::Run);
    let course = |v: &ullage_panels::view::View| {
        let run = v.learning.as_ref().and_then(|l| l.run.as_ref());
        run.map_or((std::ptr::null(), 0), |r| (Arc::as_ptr(r), r.loss.len()))
    };
    desk.until("steps", |v| course(v).1 > 2);
    let (place, steps) = course(desk.session.view());
    // Watched without holding on to it: a copy of the view would keep what it shows.
    let start = Instant::now();
    while course(desk.session.view()).1 <= steps + 3 {
        desk.session.tick();
        assert!(start.elapsed() < Duration::from_secs(120) && desk.session.view().status.running);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(course(desk.session.view()).0, place, "longer, and where it was");
    desk.session.act(Action::Stop);
    desk.until("the end", |v| !v.status.running);
}
