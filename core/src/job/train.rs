//! The training job: plan, load, resume, steps with validations and saves, report.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::account::Baseline;
use super::infer::{SNAPSHOT, card};
use super::train_place::Place;
use super::train_show::{Samples, progress};
use super::{EventSender, Order};
use crate::catalog;
use crate::config::train::{Decay, Hold, Train};
use crate::error::{Diverged, Error, Result};
use crate::ledger::alloc::{self, Scope};
use crate::ledger::files::{self, Output, Written};
use crate::ledger::{Ledger, Phase};
use crate::model::text::Words;
use crate::ops::ThreadTeam;
use crate::output::Claim;
use crate::plan::{self, Plan, Workload};
use crate::report::folder;
use crate::report::protocol::{Command, Event, MachineCard, Speed};
use crate::train::batch::{Batch, Rows};
use crate::train::broken::{GRADIENT, LOSS};
use crate::train::data::{self, Asked};
use crate::train::engine::{Progress, Setup, Stepped, Techniques, Trainer};
use crate::train::export::{self, export};
use crate::train::plan::{check, section};
use crate::train::say::{Right, say};
use crate::train::state::{self, Saved, Standing};
use crate::train::written::written;

/// Steps of which every layer's memory is told, so that one step can be looked at from within; later ones are thinned out.
const SHOWN: u64 = 2;

/// Runs an order with a `[train]` section to its end.
pub(super) fn run(
    order: &Order,
    ledger: &Arc<Ledger>,
    inbox: &Receiver<Command>,
    tell: &mut EventSender,
    cancel: &Arc<AtomicBool>,
) -> Result<()> {
    let Order { config, model, machine, base, .. } = order;
    let train = chosen(order)?;
    // Hours of work are not begun for what cannot be written.
    let mut out = alloc::scoped(Scope::Program, || Out::claim(order, train))?;
    // Nor is anything read, planned or loaded for a state that is another run's: what it learns from is compared once it is known.
    let saved = out.as_mut().and_then(|out| out.saved.take());
    let same = |data: &str| -> Result<Standing> {
        let now = Standing::beginning(order, train, data)?;
        let state = out.as_ref().map(Out::state).zip(saved.as_ref());
        state.map_or(Ok(()), |(path, saved)| saved.standing.matches(&now, &path)).map(|()| now)
    };
    saved.as_ref().map_or(Ok(()), |saved| same(&saved.standing.data).map(drop))?;
    // Data and words are the program's, not the job's.
    let (rows, samples, unread) = alloc::scoped(Scope::Program, || {
        let words = Arc::new(Words::of(model)?);
        let (seed, threads) = (config.run.seed, config.threads());
        let parse_special = config.run.parse_special.in_text();
        let rows = data::open(&Asked { train, words: &words, base, seed, parse_special, threads })?;
        something_to_learn(&*rows, cancel)?;
        let unread = words.notes();
        let samples = Samples::of(train, &*rows, words);
        Ok::<_, Error>((rows, samples, unread))
    })?;
    let standing = same(&rows.fingerprint())?;
    let mut planned = planned(order)?;
    planned.notes = [config.without_effect(), unread].concat();
    planned.notes.extend(rows.remarks());
    let threads = config.threads();
    let team = Arc::new(ThreadTeam::with_cancel(threads, Arc::clone(cancel))?);
    let place = Place::open(config)?;
    let step_seconds = planned.time.train_step_seconds;
    let baseline = begin(order, planned, place.card(config, machine, threads), tell)?;
    super::fault::watch(&config.run.prompt, ledger);
    let trainer = load(order, train, place, ledger, &team, tell)?;
    let load_seconds = tell.seconds();
    let mut run = Run {
        order,
        train,
        techniques: Techniques::new(train)?,
        trainer,
        ledger: Arc::clone(ledger),
        baseline,
        rows,
        samples,
        tell,
        inbox,
        cancel,
        standing,
        saved: 0,
        shown: false,
        out,
        step_seconds,
        paused: false,
        step_once: false,
        last: Instant::now(),
    };
    if let Some(saved) = saved {
        run.resume(saved)?;
    }
    // Each step makes the buffers of the last one anew.
    let stepped = {
        let _keeping = alloc::keep_freed();
        run.steps(load_seconds)
    };
    match stepped {
        Ok(speed) => run.finish(speed),
        Err(Error::Cancelled) => {
            run.keep()?;
            Err(Error::Cancelled)
        }
        Err(e) => Err(e),
    }
}

impl Standing {
    /// Where a run of `order` begins, on data of this fingerprint.
    fn beginning(order: &Order, train: &Train, data: &str) -> Result<Self> {
        let (seed, model) = (order.config.run.seed, order.model.content()?.to_owned());
        Ok(Self { step: 0, cursor: 0, seed, data: data.to_owned(), model, choices: choices(train)? })
    }
}

/// Refuses data of which no row has a target: every step would learn nothing.
fn something_to_learn(rows: &dyn Rows, cancel: &AtomicBool) -> Result<()> {
    // The first row nearly always has one; all are looked at only where there is nothing to learn.
    for row in 0..rows.rows() {
        if cancel.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        if rows.batch(&[row])?.counted() > 0 {
            return Ok(());
        }
    }
    Err(Error::config(
        "train.data",
        format!(
            "none of its {} rows has a token to learn; choose other data, set train.loss_on=all, or make train.length longer",
            rows.rows()
        ),
    ))
}

/// What to train, after every check that needs no data.
fn chosen(order: &Order) -> Result<&Train> {
    let Order { config, model, .. } = order;
    catalog::check(config)?;
    let train = section(config)?;
    check(config, &model.shape)?;
    if model.adapter.is_some() {
        return Err(Error::refused(
            "model.adapter with a [train] section",
            "training begins from the weights alone; merge the adapter first (`ullage merge`), or go on with train.resume",
        ));
    }
    Ok(train)
}

/// The plan, with the cheapest change that fits where it is over budget.
fn planned(order: &Order) -> Result<Plan> {
    let Order { config, model, machine, .. } = order;
    let workload = alloc::scoped(Scope::Program, || workload(order))?;
    let mut planned = plan::plan(&model.shape, &workload, config, machine)?;
    if let Some(over) = &mut planned.over {
        over.hint = plan::hint(over, &model.shape, &workload, config, machine);
    }
    Ok(planned)
}

/// The folder that what is learned goes to; `None` where nothing is kept.
fn kept(order: &Order, train: &Train) -> Option<PathBuf> {
    if train.out.is_empty() { order.keep.clone() } else { Some(order.base.join(&train.out)) }
}

/// What an order to train computes, which is in its section, and writes.
///
/// # Errors
/// No section; a choice that the model's shape forbids.
pub fn workload(order: &Order) -> Result<Workload> {
    let train = section(&order.config)?;
    let mut files: Vec<Written> = order.folder.iter().map(|_| folder::written()).collect();
    if let Some(dir) = kept(order, train) {
        let goes_on = train.resume && dir.join(state::FILE).is_file();
        files.extend(written(&order.config, &order.model, goes_on)?);
    }
    Ok(Workload { files, ..Workload::default() })
}

/// Tells what begins, and refuses what is over budget. What is measured counts from here.
fn begin(order: &Order, planned: Plan, machine: MachineCard, tell: &mut EventSender) -> Result<Baseline> {
    let over = planned.over.clone();
    alloc::scoped(Scope::Program, || {
        tell.event(Event::Started {
            config: Box::new(order.config.clone()),
            plan: Box::new(planned),
            model: card(&order.model),
            machine,
        });
    });
    if let Some(over) = over {
        return Err(Error::OverBudget(Box::new(over)));
    }
    Ok(Baseline::here())
}

/// Loads the model onto its device, and tells now and then how far that is.
fn load(
    order: &Order,
    train: &Train,
    place: Place,
    ledger: &Arc<Ledger>,
    team: &Arc<ThreadTeam>,
    tell: &mut EventSender,
) -> Result<Trainer> {
    let Order { config, model, .. } = order;
    tell.event(Event::Phase { phase: Phase::Load });
    let techniques = Techniques::of(config)?;
    let sizes = techniques.sizes(train, &model.shape, config.threads());
    let device = place.device(train, ledger, team, &sizes)?;
    let setup = Setup { shape: &model.shape, source: Some(&model.source), plan: false, train, seed: config.run.seed };
    let (start, whole, mut last, mut done) = (Instant::now(), model.shape.bytes().max(1), Instant::now(), 0u64);
    Trainer::new(device, ledger, &setup, techniques, sizes.load, &mut |bytes| {
        done += bytes;
        if last.elapsed() >= SNAPSHOT {
            last = Instant::now();
            let share = done as f64 / whole as f64;
            let left = start.elapsed().as_secs_f64() * (1.0 - share) / share.max(1e-6);
            let what = "loading weights".into();
            tell.snapshot(Event::Progress { done: (share * 1000.0) as u64, total: 1000, seconds_left: left, what });
        }
    })
}

/// The folder that what is learned goes to.
struct Out {
    dir: PathBuf,
    claim: Claim,
    /// The training state in it that is to be gone on from, opened once.
    saved: Option<Saved>,
}

impl Out {
    /// Claims it; `None` where nothing is kept.
    fn claim(order: &Order, train: &Train) -> Result<Option<Self>> {
        let Some(dir) = kept(order, train) else { return Ok(None) };
        export::check(&order.model, train)?;
        let path = dir.join(state::FILE);
        let care = order.care();
        // A state is known for one by its content; one that is damaged is an error only where it is wanted.
        let saved = match Saved::open(&path) {
            Err(e) if train.resume => return Err(e),
            opened => opened.ok().flatten(),
        };
        if let Some(saved) = saved.as_ref().filter(|_| !train.resume && !care.force) {
            return Err(Error::refused(
                format!("writing the training into {}", dir.display()),
                format!(
                    "{} is there, the state of a training after step {}; set train.resume=true to go on from it, name another train.out, or replace it with --force",
                    path.display(),
                    saved.standing.step
                ),
            ));
        }
        let known = if saved.is_some() { &[state::FILE][..] } else { &[] };
        let names: Vec<&str> = std::iter::once(state::FILE).chain(export::outputs(train).iter().copied()).collect();
        let claim = Claim::new(&dir, "training", &names, known, &care)?;
        Ok(Some(Self { dir, claim, saved: saved.filter(|_| train.resume) }))
    }

    fn state(&self) -> PathBuf {
        self.dir.join(state::FILE)
    }
}

/// The choices that the next losses depend on: what only changes memory, or is told and written, may differ when a run goes
/// on, and so may the number of steps where no decay counts towards it.
fn choices(train: &Train) -> Result<String> {
    let plain = Train::default();
    let mut same = Train {
        activations: plain.activations,
        grad_hold: Hold::All,
        validate_every: 0,
        validate_rows: 0,
        samples: plain.samples,
        sample_tokens: plain.sample_tokens,
        save_every: 0,
        out: String::new(),
        resume: false,
        ..train.clone()
    };
    if train.decay == Decay::Constant {
        same.steps = plain.steps.max(same.warmup);
    }
    toml::to_string(&same).map_err(|e| Error::Internal(format!("writing the choices of a training: {e}")))
}

struct Run<'a> {
    order: &'a Order,
    train: &'a Train,
    /// Order and gradient; the rest is in the trainer.
    techniques: Techniques,
    trainer: Trainer,
    ledger: Arc<Ledger>,
    baseline: Baseline,
    rows: Box<dyn Rows>,
    samples: Samples,
    tell: &'a mut EventSender,
    inbox: &'a Receiver<Command>,
    cancel: &'a Arc<AtomicBool>,
    standing: Standing,
    /// The step of the state that is on the disk.
    saved: u64,
    /// Whether a step with a target has been made since: its loss shows what that state is worth.
    shown: bool,
    out: Option<Out>,
    /// Predicted, then measured.
    step_seconds: f64,
    paused: bool,
    step_once: bool,
    /// Of the last snapshot.
    last: Instant,
}

impl Run<'_> {
    /// Takes up a training state that was held against this run.
    fn resume(&mut self, mut saved: Saved) -> Result<()> {
        if let Some(out) = &self.out {
            files::adopted(&out.state(), Output::State)?;
        }
        saved.restore(&mut self.trainer)?;
        self.standing = saved.standing;
        self.saved = self.standing.step;
        Ok(())
    }

    /// At a step's edge: takes commands, waits while paused.
    fn await_command(&mut self) -> Result<()> {
        if std::mem::take(&mut self.step_once) {
            self.paused = true;
            self.tell.event(Event::Paused);
        }
        loop {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            let command = match self.paused {
                true => match self.inbox.recv_timeout(Duration::from_millis(20)) {
                    Ok(command) => Some(command),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return Err(Error::Cancelled),
                },
                false => self.inbox.try_recv().ok(),
            };
            match command {
                Some(Command::Pause) if !self.paused => {
                    self.paused = true;
                    self.tell.event(Event::Paused);
                }
                Some(Command::Resume) if self.paused => {
                    self.paused = false;
                    self.tell.event(Event::Resumed);
                }
                Some(Command::Step) => {
                    (self.paused, self.step_once) = (false, true);
                    return Ok(());
                }
                Some(Command::Cancel) => return Err(Error::Cancelled),
                Some(_) => {}
                None if self.paused => {}
                None => return Ok(()),
            }
        }
    }

    /// The micro-batches of the next step, and the rows that are drawn once it is made.
    fn draw(&mut self) -> Result<(Vec<Batch>, u64)> {
        let (train, rows, seed) = (self.train, self.rows.rows(), self.order.config.run.seed);
        let mut cursor = self.standing.cursor;
        let batches = (0..train.accumulate)
            .map(|_| {
                let which: Vec<usize> =
                    (0..train.batch as u64).map(|i| self.techniques.order.row(cursor + i, rows, seed)).collect();
                cursor += train.batch as u64;
                alloc::scoped(Scope::Program, || self.rows.batch(&which))
            })
            .collect::<Result<_>>()?;
        Ok((batches, cursor))
    }

    /// Every step that is left.
    fn steps(&mut self, load_seconds: f64) -> Result<Speed> {
        let (train, steps) = (self.train, self.train.steps as u64);
        // Steps that had nothing to learn from took no time worth telling.
        let (mut seconds, mut made, mut learned) = (0.0, 0usize, 0usize);
        let mut validated = None;
        if self.standing.step < steps {
            self.tell.event(Event::Phase { phase: Phase::Forward });
        }
        if self.standing.step < steps {
            self.ask()?;
            if train.validate_every > 0 {
                self.validate()?;
            }
        }
        while self.standing.step < steps {
            self.await_command()?;
            let step = self.standing.step + 1;
            let lr = train.lr * train.share(step);
            let (batches, cursor) = self.draw()?;
            let begin = Instant::now();
            let stepped = {
                let Self { tell, ledger, last, step_seconds, trainer, techniques, .. } = self;
                let mut watch = |here: Progress| {
                    let memory = || Event::Memory { step: step as usize, held: ledger.now() };
                    if made < SHOWN as usize {
                        tell.event(memory());
                    }
                    if last.elapsed() >= SNAPSHOT {
                        *last = Instant::now();
                        if made >= SHOWN as usize {
                            tell.snapshot(memory());
                        }
                        // In thousandths of a step, so that long steps move too.
                        let share = here.done as f64 / here.total.max(1) as f64;
                        let left = *step_seconds * ((steps - step) as f64 + 1.0 - share);
                        let done = (step - 1) * 1000 + (share * 1000.0) as u64;
                        let what = "training".into();
                        tell.snapshot(Event::Progress { done, total: steps * 1000, seconds_left: left, what });
                    }
                };
                techniques.gradient.step(trainer, &batches, step, lr as f32, &mut watch)
            };
            let stepped = self.good(stepped)?;
            let took = begin.elapsed().as_secs_f64();
            made += 1;
            (self.standing.step, self.standing.cursor) = (step, cursor);
            let Stepped { loss, grad_norm, tokens, computed, counted, .. } = stepped;
            if counted > 0 {
                (seconds, learned) = (seconds + took, learned + 1);
                self.step_seconds = seconds / learned as f64;
            }
            let loss = (counted > 0).then_some(loss);
            self.tell.event(Event::TrainStep { step, loss, lr, grad_norm, tokens, computed, seconds: took });
            if train.validate_every > 0 && step.is_multiple_of(train.validate_every as u64) {
                self.validate()?;
                validated = Some(step);
            }
            if train.save_every > 0 && step.is_multiple_of(train.save_every as u64) {
                self.save()?;
            }
        }
        if validated != Some(self.standing.step) {
            self.validate()?;
        }
        if made > 0 {
            self.ask()?;
        }
        if self.saved != self.standing.step || made == 0 {
            self.save()?;
        }
        if let Some(Out { dir, claim, .. }) = &self.out {
            state::proven(&dir.join(state::FILE));
            for path in export(&self.trainer, &self.order.model, train, dir, claim)? {
                self.tell.event(Event::Saved { step: self.standing.step, path: path.display().to_string() });
            }
        }
        Ok(Speed { load_seconds, step_seconds: self.step_seconds, steps: made, ..Speed::default() })
    }

    /// What a step did, and with it that the state it began from is good. A step that ends as diverged leaves the last good
    /// state in the folder: the model's own where only a gradient was no number and nothing has learned from it; otherwise
    /// the one saved before this step, or, where that is the one the step began from, the one before it.
    fn good(&mut self, stepped: Result<Stepped>) -> Result<Stepped> {
        let held = self.train.grad_hold == Hold::All;
        let untouched = |place: &Diverged| held && place.of.starts_with(GRADIENT);
        let path = self.out.as_ref().map(Out::state);
        let (Some(path), made) = (path, self.standing.step) else { return stepped };
        let just_saved = made > 0 && self.saved > 0 && !self.shown;
        let learned = stepped.as_ref().is_ok_and(|s| s.counted > 0);
        self.shown |= learned;
        match &stepped {
            Ok(_) if just_saved && learned => state::proven(&path),
            Err(Error::Diverged { place, .. }) if place.of == LOSS => {
                // Where there is none before it, the one that was saved stays, with finite values.
                let _ = just_saved && state::take_back(&path);
            }
            // The loss was a number: what was saved last is good.
            Err(Error::Diverged { .. }) if just_saved => state::proven(&path),
            Err(Error::Diverged { place, .. }) if made > 0 && untouched(place) => {
                // The rows of this step are still to be learned from. What fails here is less than what is told anyway.
                let _ = self.save();
                state::proven(&path);
            }
            _ => {}
        }
        stepped
    }

    /// Asks the model the held-out questions in words.
    fn ask(&mut self) -> Result<()> {
        let (start, passes) = (Instant::now(), self.train.sample_tokens);
        let rounds = self.samples.prompts.len().div_ceil(self.train.batch);
        let said = {
            let Self { trainer, samples, tell, last, cancel, .. } = self;
            let mut gate = |done: usize| {
                if let Some(event) = progress(last, start, "asking held-out questions", done, rounds * passes) {
                    tell.snapshot(event);
                }
                if cancel.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
            };
            say(trainer, &samples.prompts, passes, &|id| samples.words.ends(id), &mut gate)?
        };
        for (i, ids) in said.iter().enumerate() {
            self.tell.event(self.samples.event(i, self.standing.step, ids));
        }
        Ok(())
    }

    /// The mean loss of the held-out rows, and how much of what is asked there is right.
    fn validate(&mut self) -> Result<()> {
        let held = self.rows.held_out();
        let n = if self.train.validate_rows == 0 { held } else { held.min(self.train.validate_rows) };
        if n == 0 {
            return Ok(());
        }
        let (mut loss, mut tokens, mut right, mut best) = (0.0, 0, Right::default(), Vec::new());
        let end = self.samples.words.end();
        let start = Instant::now();
        for first in (0..n).step_by(self.train.batch) {
            self.await_command()?;
            let which: Vec<usize> = (first..n.min(first + self.train.batch)).collect();
            let batch = alloc::scoped(Scope::Program, || self.rows.held_out_batch(&which))?;
            let (sum, counted) = self.trainer.answer(&batch, &mut best)?;
            right.add(&batch, &best, end);
            (loss, tokens) = (loss + sum, tokens + counted);
            if let Some(event) = progress(&mut self.last, start, "validation", first + which.len(), n) {
                self.tell.snapshot(event);
            }
        }
        if tokens == 0 {
            // Rows without a target ask nothing.
            return Ok(());
        }
        let (step, loss) = (self.standing.step, loss / tokens as f64);
        if !loss.is_finite() {
            let place = Diverged { step: Some(step), ..Diverged::new("the loss on what was held out", loss) };
            return Err(Error::diverged(place, "the last update broke the model; lower train.lr"));
        }
        let (accuracy, answers) = if self.rows.answers() { (right.share(), right.asked) } else { (None, 0) };
        let token_accuracy = (tokens > 0).then(|| right.tokens as f64 / tokens as f64);
        self.tell.event(Event::Validation { step, loss, tokens, token_accuracy, accuracy, answers });
        Ok(())
    }

    /// Tells the end, with what was measured while everything is still held.
    fn finish(self, speed: Speed) -> Result<()> {
        let Self { trainer, ledger, tell, baseline, .. } = self;
        let (mut measured, program) = (ledger.measured(), baseline.program());
        let beside = trainer.device().beside()?;
        measured.rows.extend(beside.into_iter().map(|(name, bytes)| (format!("beside.{name}"), bytes)));
        drop(trainer);
        tell.event(Event::Finished { measured: Box::new(measured), speed, program, extra: BTreeMap::new() });
        Ok(())
    }

    /// Leaves the state of the last step that was made, for a run that was cancelled.
    fn keep(&mut self) -> Result<()> {
        // A step is cancelled before its first update or not at all, so what learns stands where that step left it.
        if self.standing.step > self.saved { self.save() } else { Ok(()) }
    }

    /// Writes the training state, whole or not at all, cancelled or not.
    fn save(&mut self) -> Result<()> {
        let Some(path) = self.out.as_ref().map(Out::state) else { return Ok(()) };
        state::keep_before(&path);
        let _whole = self.trainer.device().meter().undisturbed();
        state::save(&self.trainer, &self.standing, &path)?;
        (self.saved, self.shown) = (self.standing.step, false);
        self.tell.event(Event::Saved { step: self.standing.step, path: path.display().to_string() });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::train::batch::NO_LOSS;

    /// Three rows, of which one may have a target.
    struct Three(Option<usize>);

    impl Rows for Three {
        fn rows(&self) -> usize {
            3
        }

        fn length(&self) -> usize {
            2
        }

        fn batch(&self, which: &[usize]) -> Result<Batch> {
            let targets = which.iter().flat_map(|row| [NO_LOSS, if self.0 == Some(*row) { 1 } else { NO_LOSS }]);
            let (tokens, targets) = (vec![0; 2 * which.len()], targets.collect());
            Ok(Batch { tokens, targets, ..Batch::sized(which.len(), 2) })
        }

        fn fingerprint(&self) -> String {
            "three".into()
        }
    }

    #[test]
    fn data_without_any_target_is_refused_by_its_key() {
        let go = AtomicBool::new(false);
        for row in 0..3 {
            something_to_learn(&Three(Some(row)), &go).unwrap();
        }
        let error = something_to_learn(&Three(None), &go).unwrap_err();
        assert!(error.kind() == "config" && error.to_string().contains("train.data"), "{error}");
        assert!(error.to_string().contains("none of its 3 rows"), "{error}");
        go.store(true, Ordering::Relaxed);
        assert!(matches!(something_to_learn(&Three(None), &go), Err(Error::Cancelled)));
    }
}
