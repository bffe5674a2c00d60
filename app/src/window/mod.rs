//! The window: the session's view drawn by the panels, their actions carried out, and what only a window can do.

pub mod bars;
pub mod clock;
pub mod course;
pub mod document;
#[allow(missing_docs, reason = "fields of requests say what they are")]
pub mod files;
pub mod history;
pub mod live;
pub mod message;
pub mod opened;
pub mod opener;
pub mod planner;
pub mod previewer;
pub mod rates;
pub mod runner;
#[allow(missing_docs, reason = "fields of effects say what they are")]
pub mod session;
pub mod show;
pub mod state;
pub mod store;
pub mod words;
pub mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use eframe::egui;
use ullage_core::config::Config;
use ullage_panels::{Action, Workbench, theme};

use session::{Effect, Session, Setup};

/// What a window opens.
#[derive(Clone, Debug)]
pub enum Start {
    /// Whatever lies at a path.
    Path(String),
    /// A configuration.
    Config(Box<Config>),
}

/// How often what is remembered is looked at.
const REMEMBER: Duration = Duration::from_secs(3);

/// The application that eframe runs.
pub struct App {
    session: Session,
    workbench: Workbench,
    looked: Instant,
    /// When the frame began.
    began: Instant,
}

impl App {
    /// An application over a session.
    pub fn new(context: &egui::Context, session: Session, layout: &serde_json::Value) -> Self {
        theme::install(context);
        // A layout of another version is no layout.
        let workbench = serde_json::from_value(layout.clone()).unwrap_or_default();
        Self { session, workbench, looked: Instant::now(), began: Instant::now() }
    }

    /// The session, for tests.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Hears the workers and the window. What they tell is drawn in the frame that this begins; only what a run going on tells needs
    /// no further frame to settle.
    pub fn listen(&mut self, context: &egui::Context) {
        self.began = Instant::now();
        if self.session.tick() {
            context.request_repaint();
        }
        let path = |f: &Arc<dyn egui::DroppedFile + Send + Sync>| f.path().display().to_string();
        let dropped: Vec<String> = context.input(|input| input.raw.dropped_files.iter().map(path).collect());
        for path in dropped {
            self.session.act(Action::Open(path));
            context.request_repaint();
        }
    }

    /// Draws, and carries out what was asked for.
    pub fn draw(&mut self, ui: &mut egui::Ui) {
        // Another run has other moments.
        if self.session.moment().is_none() {
            self.workbench.linked.moment = None;
        }
        let actions = self.workbench.show(ui, self.session.view());
        if !actions.is_empty() {
            actions.into_iter().for_each(|action| self.session.act(action));
            ui.ctx().request_repaint();
        }
        for effect in self.session.effects() {
            match effect {
                Effect::Copy(text) => ui.ctx().copy_text(text),
                Effect::Shoot { name, rect } => {
                    let (take, scale) = (self.session.shutter(), ui.ctx().pixels_per_point());
                    ui.ctx().request_screenshot(move |image| {
                        let part = image.region(&rect, Some(scale));
                        take(name, part.size, part.as_raw().to_vec());
                    });
                    ui.ctx().request_repaint();
                }
            }
        }
        self.session.frame_took(self.began.elapsed());
        if self.looked.elapsed() >= REMEMBER {
            self.remember(ui.ctx());
        }
    }

    fn remember(&mut self, context: &egui::Context) {
        self.looked = Instant::now();
        let (size, position) = context.input(|input| {
            let view = input.viewport();
            // A full screen is not a size to come back to.
            let plain = !view.maximized.unwrap_or(false) && !view.fullscreen.unwrap_or(false);
            let size = view.inner_rect.filter(|_| plain).map(|r| [r.width(), r.height()]);
            (size, view.outer_rect.filter(|_| plain).map(|r| [r.min.x, r.min.y]))
        });
        let layout = serde_json::to_value(&self.workbench).unwrap_or_default();
        self.session.remember(size, position, layout);
    }

    /// Closes, where that was `asked`, as soon as a run has left what it did on the disk; until then frames go on and say so.
    pub fn leave(&mut self, context: &egui::Context, asked: bool) {
        if asked {
            self.remember(context);
            if !self.session.leave() {
                context.send_viewport_cmd(egui::ViewportCommand::CancelClose);
            }
        } else if self.session.left() {
            context.send_viewport_cmd(egui::ViewportCommand::Close);
        } else if self.session.leaving() {
            context.request_repaint_after(Duration::from_millis(100));
        }
    }

    /// Keeps what is to be kept, ends what goes on.
    pub fn close(&mut self, context: Option<&egui::Context>) {
        if let Some(context) = context {
            self.remember(context);
        }
        self.session.close();
    }
}

impl eframe::App for App {
    fn logic(&mut self, context: &egui::Context, _: &mut eframe::Frame) {
        self.listen(context);
        let asked = context.input(|i| i.viewport().close_requested());
        self.leave(context, asked);
    }

    fn ui(&mut self, ui: &mut egui::Ui, _: &mut eframe::Frame) {
        self.draw(ui);
    }

    fn on_exit(&mut self) {
        self.close(None);
    }

    fn persist_egui_memory(&self) -> bool {
        false
    }

    fn clear_color(&self, visuals: &egui::Visuals) -> [f32; 4] {
        visuals.panel_fill.to_normalized_gamma_f32()
    }
}

/// Asks for one frame. A request without delay would be two: the window asks for the second itself where there is something to settle.
pub fn waker(context: &egui::Context) -> worker::Wake {
    let context = context.clone();
    Arc::new(move || context.request_repaint_after(Duration::from_millis(1)))
}

/// Why there is no window here, when that is known without trying.
pub fn no_display() -> Option<&'static str> {
    let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    let wanted = cfg!(all(unix, not(any(target_os = "macos", target_os = "ios", target_os = "android"))));
    (wanted && !set("DISPLAY") && !set("WAYLAND_DISPLAY") && !set("WAYLAND_SOCKET"))
        .then_some("there is no display (neither DISPLAY nor WAYLAND_DISPLAY is set)")
}

/// Runs the window to its end, with `open` opened in it.
///
/// # Errors
/// Why there can be no window: no display, no graphics adapter. One that was there and failed is exit code 1.
pub fn run(open: Option<Start>) -> Result<u8, String> {
    if let Some(why) = no_display() {
        return Err(why.into());
    }
    let data = store::data_dir();
    let remembered = store::load(&store::file(&data));
    let layout = remembered.0.layout.clone();
    let size = remembered.0.size.unwrap_or([1280.0, 800.0]).map(|v| v.clamp(320.0, 16_384.0));
    let mut viewport = egui::ViewportBuilder::default()
        .with_title("Ullage")
        .with_app_id("ullage")
        .with_inner_size(size)
        .with_min_inner_size([720.0, 480.0]);
    if let Some([x, y]) = remembered.0.position.filter(|p| p.iter().all(|v| v.is_finite() && v.abs() < 32_768.0)) {
        viewport = viewport.with_position([x, y]);
    }
    let options = eframe::NativeOptions { viewport, persist_window: false, ..eframe::NativeOptions::default() };
    let opened = Arc::new(AtomicBool::new(false));
    let there = Arc::clone(&opened);
    let create: eframe::AppCreator<'_> = Box::new(move |creation| {
        there.store(true, Ordering::Relaxed);
        let wake = waker(&creation.egui_ctx);
        let session = Session::new(Setup { data, remembered, open, ask: files::system_dialogs(), wake, probe: true });
        Ok(Box::new(App::new(&creation.egui_ctx, session, &layout)))
    });
    // A library that gives up by panicking must not take the program's own way out with it.
    let run = std::panic::AssertUnwindSafe(|| eframe::run_native("ullage", options, create));
    let why = match std::panic::catch_unwind(run) {
        Ok(Ok(())) => return Ok(0),
        Ok(Err(e)) => e.to_string(),
        Err(panic) => worker::panic_text(&*panic),
    };
    if opened.load(Ordering::Relaxed) {
        eprintln!("error: the window ended: {why}");
        return Ok(1);
    }
    Err(why)
}
