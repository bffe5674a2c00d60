//! The inference job: plan, load, generate, evaluate, report.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::account::Baseline;
#[cfg(feature = "cuda")]
use super::backend::Cuda;
use super::backend::{Backend, Cpu};
use super::broken::{self, FirstBroken};
use super::{EventSender, Order, candle, dump, reference};
use crate::catalog;
use crate::config::{self, Config};
use crate::error::{Diverged, Error, Result};
use crate::eval;
use crate::forward::cpu::{Forward, HeadRows, PassObserver, Sequence};
use crate::forward::runner::Runner;
use crate::job::dump::{Dump, LOGITS};
use crate::ledger::alloc::{self, Scope};
use crate::ledger::files::Written;
use crate::ledger::{Ledger, Phase, Tag};
use crate::model::Model;
use crate::model::sampling::Sampler;
use crate::model::text::{StopFilter, Words, too_long};
use crate::model::tokenizer::Decoder;
use crate::ops::ThreadTeam;
use crate::plan::{self, Pass, REFERENCE, Resolved, Workload};
use crate::report::folder;
use crate::report::protocol::{Command, Event, ModelCard, Speed, Stop};

/// Least seconds between two snapshots of one kind.
pub(super) const SNAPSHOT: Duration = Duration::from_millis(50);

/// What an order comes to before anything is computed: its tokens, cases and workload.
pub struct Prepared {
    /// The model's words.
    pub words: Words,
    /// The prompt.
    pub prompt: Vec<u32>,
    /// Evaluations with their cases.
    pub tasks: Vec<eval::Prepared>,
    /// What the plan is for.
    pub workload: Workload,
    /// The configuration resolved for the model: what is planned and then runs.
    pub resolved: Resolved,
}

/// Tokenizes the prompt and the evaluations of `config`, and says what there is to compute.
///
/// # Errors
/// A prompt that does not fit, a damaged tokenizer, a missing text file.
pub fn prepare(model: &Model, config: &Config, base: &Path) -> Result<Prepared> {
    let words = Words::of(model)?;
    let Work { prompt, tasks, workload, resolved } = work(model, &words, config, base)?;
    Ok(Prepared { words, prompt, tasks, workload, resolved })
}

/// As [`Prepared`], for one who has the model's words at hand.
pub struct Work {
    /// The prompt.
    pub prompt: Vec<u32>,
    /// Evaluations with their cases.
    pub tasks: Vec<eval::Prepared>,
    /// What the plan is for.
    pub workload: Workload,
    /// The configuration resolved for the model: what is planned and then runs.
    pub resolved: Resolved,
}

/// As [`prepare`], with the model's words at hand: reading them from the header takes longer than all the rest.
///
/// # Errors
/// As [`prepare`].
pub fn work(model: &Model, words: &Words, config: &Config, base: &Path) -> Result<Work> {
    catalog::check(config)?;
    if config.model.adapter.is_some() != model.adapter.is_some() {
        return Err(Error::Internal("the model was opened without its adapter, or with one too many".into()));
    }
    let resolved = Resolved::new(config, &model.shape)?;
    let prompt = words.prompt(config)?;
    let context = config.run.context;
    if prompt.is_empty() {
        let why = match config.run.chat && words.tokenizer.is_some() {
            true => {
                "the model's chat template writes nothing for this conversation; set run.chat=false to complete a text"
            }
            false => "the prompt has no token; write something to complete",
        };
        return Err(Error::config("run.prompt", why));
    }
    if prompt.len() > context {
        return Err(too_long(prompt.len(), context));
    }
    let mut workload = Workload::generate(config, prompt.len(), resolved.endless(prompt.len()));
    let tasks = eval::prepare(config, words, base)?;
    // One pass for each length of prompt, with the most that any case of it decodes.
    let mut passes: BTreeMap<usize, usize> = BTreeMap::new();
    for case in tasks.iter().flat_map(|t| &t.cases) {
        if case.read() > context {
            return Err(Error::config(
                "run.context",
                format!(
                    "an evaluation needs {} tokens, run.context is {context}; raise it or lower the evaluation's lengths",
                    case.read()
                ),
            ));
        }
        let most = passes.entry(case.prompt.len()).or_default();
        *most = (*most).max(case.forced.len().saturating_sub(1));
    }
    workload.passes.extend(passes.into_iter().map(|(prompt, decode)| Pass { prompt, decode, sequences: 1 }));
    workload.reference = tasks.iter().any(|t| t.reference.is_some());
    let missing = tasks.iter().map(|task| reference::missing(task, model, config));
    workload.files = missing.filter_map(Result::transpose).collect::<Result<_>>()?;
    Ok(Work { prompt, tasks, workload, resolved })
}

/// What an order writes beside what its evaluations compare with: its dump, and the folder of its run.
fn outputs(order: &Order, tasks: &[eval::Prepared], workload: &Workload) -> Vec<Written> {
    let vocab = order.model.shape.vocab;
    // The logits after the prompt, and after each token that is fed.
    let generated = workload.passes.first().map_or(0, |pass| pass.decode + 1);
    let forced = tasks.iter().map(|task| task.cases.iter().map(|case| case.forced.len()).sum());
    let dumped = std::iter::once(generated).chain(forced).map(|rows| dump::written(rows, vocab));
    let dumped = dumped.filter(|_| order.dump.is_some());
    dumped.chain(order.folder.iter().map(|_| folder::written())).collect()
}

/// Runs an order to its end, on the device that it names.
pub(super) fn run(
    order: &Order,
    ledger: &Arc<Ledger>,
    inbox: &Receiver<Command>,
    tell: &mut EventSender,
    cancel: &Arc<AtomicBool>,
) -> Result<()> {
    let config = &order.config;
    if config.run.engine == config::Engine::Candle {
        return run_on(|workload| candle::Backend::new(config, workload, cancel), order, ledger, inbox, tell, cancel);
    }
    match config.gpu() {
        None => run_on(|_| Ok(Cpu), order, ledger, inbox, tell, cancel),
        #[cfg(feature = "cuda")]
        Some(gpu) => run_on(|_| Cuda::open(gpu, config), order, ledger, inbox, tell, cancel),
        #[cfg(not(feature = "cuda"))]
        Some(_) => Err(Error::refused(
            format!("machine.device = {}", config.machine.device),
            "this build computes on the CPU; build with `--features cuda` for a GPU",
        )),
    }
}

/// The files of logits in `dir`.
fn dumped(order: &Order, dir: &Path) -> Result<Dump> {
    let tasks = order.config.eval.keys().map(String::as_str);
    alloc::scoped(Scope::Program, || Dump::new(dir, order.model.shape.vocab, tasks, &order.care()))
}

/// Ends a run: what was measured, after what it wrote is whole.
fn finish<R: Runner>(engine: Engine<'_, R>, baseline: &Baseline, speed: Speed) -> Result<()> {
    let Engine { runner, ledger, dump, tell, .. } = engine;
    if let Some(dump) = dump {
        dump.finish()?;
    }
    let mut measured = ledger.measured();
    measured.rows.extend(runner.beside()?.into_iter().map(|(name, bytes)| (format!("beside.{name}"), bytes)));
    let program = baseline.program();
    drop(runner);
    tell.event(Event::Finished { measured: Box::new(measured), speed, program, extra: BTreeMap::new() });
    Ok(())
}

/// Runs an order on what `open` opens.
fn run_on<B: Backend>(
    open: impl FnOnce(&Workload) -> Result<B>,
    order: &Order,
    ledger: &Arc<Ledger>,
    inbox: &Receiver<Command>,
    tell: &mut EventSender,
    cancel: &Arc<AtomicBool>,
) -> Result<()> {
    let Order { config, model, machine, base, dump, .. } = order;
    let dump = dump.as_deref().map(|dir| dumped(order, dir)).transpose()?;
    // Words are the program's, not the job's.
    let Prepared { words, prompt, mut tasks, mut workload, resolved } =
        alloc::scoped(Scope::Program, || prepare(model, config, base))?;
    words.readable(config)?;
    workload.files.extend(outputs(order, &tasks, &workload));
    let mut planned = resolved.plan(config, &model.shape, &workload, machine)?;
    if let Some(over) = &mut planned.over {
        over.hint = plan::hint(over, &model.shape, &workload, config, machine);
    }
    planned.notes = [config.without_effect(), words.notes()].concat();
    let over = planned.over.clone();
    let team = ThreadTeam::with_cancel(resolved.threads, Arc::clone(cancel))?;
    let backend = open(&workload)?;
    alloc::scoped(Scope::Program, || {
        tell.event(Event::Started {
            config: Box::new(config.clone()),
            plan: Box::new(planned),
            model: card(model),
            machine: backend.card(machine, &team),
        });
    });
    if let Some(over) = over {
        return Err(Error::OverBudget(Box::new(over)));
    }
    reference::ensure(order, &mut tasks, &team, tell)?;
    let baseline = Baseline::here();
    let ledger = Arc::clone(ledger).heeding(cancel);
    super::fault::watch(&config.run.prompt, &ledger);
    tell.event(Event::Phase { phase: Phase::Load });
    let start = Instant::now();
    let mut last = start;
    let runner = backend.load(model, resolved, &ledger, &team, &mut |done| {
        if last.elapsed() >= SNAPSHOT {
            last = Instant::now();
            let left = start.elapsed().as_secs_f64() * f64::from((1.0 - done) / done.max(1e-6));
            let (done, total) = ((done * 1000.0) as u64, 1000);
            tell.snapshot(Event::Progress { done, total, seconds_left: left, what: "loading weights".into() });
            tell.snapshot(Event::Memory { step: 0, held: ledger.now() });
        }
    })?;
    tell.snapshot(Event::Memory { step: 0, held: ledger.now() });
    let mut engine = Engine {
        order,
        runner,
        ledger,
        team,
        tell,
        inbox,
        cancel,
        words: &words,
        paused: false,
        step_once: false,
        dump,
        shown: Shown::of(config),
        broken: FirstBroken::default(),
    };
    engine.runner.observe(config.observe.as_ref().and_then(|o| o.head));
    let speed = engine.generate(&prompt)?;
    engine.shown = None;
    engine.runner.observe(None);
    for task in &mut tasks {
        engine.evaluate(task)?;
    }
    finish(engine, &baseline, speed)
}

/// The model as a report names it.
pub fn card(model: &Model) -> ModelCard {
    ModelCard {
        path: model.path.clone(),
        name: model.shape.name.clone(),
        arch: model.shape.arch.clone(),
        parameters: model.shape.parameters(),
        bytes: model.shape.bytes(),
        hash: model.hash.clone(),
        vocab: model.shape.vocab as u64,
    }
}

/// What of the attention is still to be shown.
struct Shown {
    bins: usize,
    /// Bytes of thumbnails that may still be told.
    left: u64,
    /// Layer and query head that is told at full size.
    head: [usize; 2],
    /// Bytes of its map that may still be told.
    map_left: u64,
}

impl Shown {
    fn of(config: &Config) -> Option<Self> {
        let observe = config.observe.as_ref()?;
        let thumbnails = observe.attention != config::Attention::None;
        let limit = |shown: bool| if shown { observe.limit.0 } else { 0 };
        Some(Self {
            bins: observe.bins,
            left: limit(thumbnails),
            head: observe.head.unwrap_or_default(),
            map_left: limit(observe.head.is_some()),
        })
    }
}

/// Positions as runs: the first, and how many follow one by one.
fn runs(positions: impl Iterator<Item = u32>) -> Vec<(u32, u32)> {
    let mut out: Vec<(u32, u32)> = Vec::new();
    for p in positions {
        match out.last_mut() {
            Some((first, n)) if first.checked_add(*n) == Some(p) => *n += 1,
            _ => out.push((p, 1)),
        }
    }
    out
}

/// Each bin is the largest of the `row` weights that fall to it, as a byte of the largest of all: a single heavy token stays
/// visible however long the row is.
fn pool(row: &[f32], bins: usize) -> Vec<u8> {
    let bins = bins.min(row.len()).max(1);
    let most = row.iter().copied().fold(0.0, f32::max);
    let scale = if most > 0.0 { 255.0 / most } else { 0.0 };
    let edge = |i: usize| i * row.len() / bins;
    (0..bins).map(|i| (row[edge(i)..edge(i + 1)].iter().copied().fold(0.0, f32::max) * scale).round() as u8).collect()
}

/// Most rows of an [`Event::Evicted`] or [`Event::Merged`] that are told by name: an event stays small whatever the model's size.
const NAMED: usize = 4096;

/// Rows that one sequence lost in a pass, and those of them that others took up.
#[derive(Default)]
struct Lost {
    count: u64,
    rows: Vec<(u16, u16, u32)>,
    merged: u64,
    into: Vec<(u16, u16, u32, u32)>,
}

/// Collects what a pass tells and passes it on at the step's end.
struct Watcher<'a> {
    tell: &'a mut EventSender,
    what: &'static str,
    start: Instant,
    last: Instant,
    /// Passes made before, passes wanted, and the seconds of those that are made; none for a pass that is told by its own layers.
    made: Option<(usize, usize, f64)>,
    /// Identity and step of each sequence of the pass.
    writing: &'a [(usize, usize)],
    lost: BTreeMap<usize, Lost>,
    shown: Option<&'a mut Shown>,
    broken: FirstBroken,
}

impl<'a> Watcher<'a> {
    fn new(
        tell: &'a mut EventSender,
        what: &'static str,
        writing: &'a [(usize, usize)],
        shown: Option<&'a mut Shown>,
        hidden: usize,
    ) -> Self {
        let now = Instant::now();
        let (lost, broken) = (BTreeMap::new(), FirstBroken::new(hidden));
        Self { tell, what, start: now, last: now, made: None, writing, lost, shown, broken }
    }

    /// The same for one of many passes: `made` of `wanted` are over and took `seconds`.
    fn after(self, made: usize, wanted: usize, seconds: f64) -> Self {
        Self { made: Some((made, wanted, seconds)), ..self }
    }

    /// Tells what is left to tell; where the pass gave what is no number.
    fn flush(self) -> FirstBroken {
        for (i, Lost { count, rows, merged, into }) in self.lost {
            let (sequence, step) = self.writing[i];
            if merged > 0 {
                self.tell.event(Event::Merged { sequence, step, count: merged, rows: into });
            }
            if count > 0 {
                self.tell.event(Event::Evicted { sequence, step, count, rows });
            }
        }
        self.broken
    }
}

/// What is done, of what, and the seconds left, `done` layers of `total` into a pass that began `took` seconds ago: in layers, or
/// in passes where it is one of many.
fn stand(made: Option<(usize, usize, f64)>, done: usize, total: usize, took: f64) -> (u64, u64, f64) {
    match made {
        None => (done as u64, total as u64, took / done.max(1) as f64 * total.saturating_sub(done) as f64),
        Some((made, wanted, seconds)) => {
            let now = made as f64 + done as f64 / total.max(1) as f64;
            let left = (seconds + took) / now.max(1e-9) * (wanted as f64 - now).max(0.0);
            (made as u64, wanted as u64, left)
        }
    }
}

impl PassObserver for Watcher<'_> {
    fn progress(&mut self, done: usize, total: usize) {
        if self.last.elapsed() >= SNAPSHOT {
            self.last = Instant::now();
            let (done, total, left) = stand(self.made, done, total, self.start.elapsed().as_secs_f64());
            self.tell.snapshot(Event::Progress { done, total, seconds_left: left, what: self.what.into() });
        }
    }

    fn residual(&mut self, layer: usize, x: &[f32]) {
        self.broken.residual(layer, x);
    }

    fn evicted(&mut self, sequence: usize, layer: usize, head: usize, positions: &[u32], count: usize) {
        let lost = self.lost.entry(sequence).or_default();
        lost.count += count as u64;
        let workspace = NAMED.saturating_sub(lost.rows.len());
        lost.rows.extend(positions.iter().take(workspace).map(|p| (layer as u16, head as u16, *p)));
    }

    fn merged(&mut self, sequence: usize, layer: usize, head: usize, pairs: &[(u32, u32)], count: usize) {
        let lost = self.lost.entry(sequence).or_default();
        lost.merged += count as u64;
        let workspace = NAMED.saturating_sub(lost.into.len());
        lost.into.extend(pairs.iter().take(workspace).map(|(p, into)| (layer as u16, head as u16, *p, *into)));
    }

    fn attention(&mut self, sequence: usize, layer: usize, seen: &[f32], rows: usize) {
        let Some(shown) = &mut self.shown else { return };
        let bytes = (seen.len() / rows * shown.bins.min(rows)) as u64;
        if bytes > shown.left {
            return;
        }
        shown.left -= bytes;
        let (sequence, step) = self.writing[sequence];
        let bins = seen.chunks_exact(rows).map(|head| pool(head, shown.bins)).collect();
        self.tell.event(Event::Attention { sequence, step, layer, rows, bins });
    }

    fn map(&mut self, sequence: usize, map: HeadRows<'_>) {
        let Some(shown) = &mut self.shown else { return };
        let (id, [layer, head]) = (self.writing[sequence].0, shown.head);
        for (i, weights) in map.weights.chunks_exact(map.stride.max(1)).take(map.queries).enumerate() {
            let rows = (map.rows + 1 + i).saturating_sub(map.queries);
            // What is told belongs to whoever reads it.
            let event = alloc::scoped(Scope::Program, || {
                let runs = runs((0..rows).map(|row| (map.position)(row)));
                let bytes = (rows + 8 * runs.len()) as u64;
                shown.map_left = shown.map_left.checked_sub(bytes)?;
                let (query, weights) = (map.first + i, weights[..rows].to_vec());
                Some(Event::HeadMap { sequence: id, layer, head, query, runs, weights })
            });
            match event {
                Some(event) => self.tell.event(event),
                // A row less in the middle would look like a token that no one looked at: what is told ends here.
                None => {
                    shown.map_left = 0;
                    return;
                }
            }
        }
    }
}

struct Engine<'a, R> {
    order: &'a Order,
    runner: R,
    ledger: Arc<Ledger>,
    team: ThreadTeam,
    tell: &'a mut EventSender,
    inbox: &'a Receiver<Command>,
    cancel: &'a Arc<AtomicBool>,
    words: &'a Words,
    paused: bool,
    step_once: bool,
    dump: Option<Dump>,
    shown: Option<Shown>,
    /// Where the last pass gave what is no number.
    broken: FirstBroken,
}

/// A sequence while it is generated.
struct Writing {
    id: usize,
    step: usize,
    next: u32,
    decoder: Option<Decoder>,
    filter: StopFilter,
    /// The logits of the next token are no distribution: it is none.
    diverged: Option<Diverged>,
}

/// Sequences decoded side by side, and how it went so far.
struct Decoding<R: Runner> {
    seqs: Vec<Sequence<R::Layer>>,
    workspace: R::Workspace,
    /// Steps at most.
    total: usize,
    steps: usize,
    seconds: f64,
    /// Of all sequences.
    tokens: usize,
    /// When memory was last told.
    last: Instant,
}

impl<R: Runner> Engine<'_, R> {
    /// At a step's edge: takes commands, waits while paused.
    fn await_command(&mut self) -> Result<()> {
        super::fault::check(&self.order.config.run.prompt)?;
        if std::mem::take(&mut self.step_once) {
            self.paused = true;
            self.tell.event(Event::Paused);
        }
        loop {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            let command = if self.paused {
                match self.inbox.recv_timeout(Duration::from_millis(20)) {
                    Ok(command) => Some(command),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return Err(Error::Cancelled),
                }
            } else {
                self.inbox.try_recv().ok()
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
                    self.paused = false;
                    self.step_once = true;
                    return Ok(());
                }
                Some(Command::Cancel) => return Err(Error::Cancelled),
                Some(_) => {}
                None if self.paused => {}
                None => return Ok(()),
            }
        }
    }

    /// A fresh sequence with `prompt` read into it; its last logits are left in the workspace. Seconds are those of reading, as
    /// those of decoding are: buffers that are there before the first token are not in them.
    fn read(&mut self, prompt: &[u32]) -> Result<(Sequence<R::Layer>, R::Workspace, f64)> {
        self.ledger.enter(Phase::Prefill);
        let r = &mut self.runner;
        let config = &self.order.config;
        let extent = Forward::prefill_shape(r.pipeline(), prompt.len(), config.run.batch);
        let mut workspace = r.workspace(&self.team, extent.with(config, self.shown.is_some()))?;
        let mut seq = r.sequence(prompt.len())?;
        let hidden = r.shape().hidden;
        let mut watch = Watcher::new(self.tell, "reading the prompt", &[(0, 0)], self.shown.as_mut(), hidden);
        let start = Instant::now();
        r.prefill(&mut seq, prompt, &mut workspace, &self.team, &mut watch)?;
        let seconds = start.elapsed().as_secs_f64();
        self.broken = watch.flush();
        Ok((seq, workspace, seconds))
    }

    fn decode_workspace(&mut self, prompt: usize, seen: usize, sequences: usize) -> Result<R::Workspace> {
        let r = &self.runner;
        let extent = Forward::decode_shape(r.pipeline(), r.shape(), prompt, seen, sequences);
        r.workspace(&self.team, extent.with(&self.order.config, self.shown.is_some()))
    }

    fn generate(&mut self, prompt: &[u32]) -> Result<Speed> {
        let config = &self.order.config;
        let (run, vocab) = (&config.run, self.runner.shape().vocab);
        let (max_tokens, sequences) = (run.max_tokens, run.sequences);
        let pass = Workload::generate(config, prompt.len(), self.endless(prompt.len())).passes[0];
        let mut sampler = Sampler::new(&run.sampling, run.seed, vocab, config.cpu_tier(), &self.ledger)?;
        let (seq, workspace, mut speed) = self.prefill(prompt)?;
        if max_tokens == 0 {
            return Ok(speed);
        }
        // Text that is being put together is the program's, as what it is told in is.
        let mut writing: Vec<Writing> = alloc::scoped(Scope::Program, || Vec::with_capacity(sequences));
        writing.extend((0..sequences).map(|id| {
            let logits = self.runner.logits(&workspace, 0);
            let diverged = broken::at(logits, 0, self.broken.first);
            let next = sampler.choose(logits, id, 0);
            let decoder = self.words.tokenizer.as_ref().map(|_| Decoder::new());
            Writing { id, step: 0, next, decoder, filter: StopFilter::default(), diverged }
        }));
        drop(workspace);
        let mut decoding = match pass.decode {
            0 => None,
            n => Some(self.decoding(seq, prompt.len(), n, sequences)?),
        };
        loop {
            // Tell the chosen tokens; sequences that end leave the batch.
            let mut i = 0;
            while i < writing.len() {
                let Some((stop, text)) = self.emit(&mut writing[i], prompt.len()) else {
                    i += 1;
                    continue;
                };
                if let Some(decoding) = &mut decoding {
                    decoding.seqs.remove(i);
                }
                let done = writing.remove(i);
                self.tell.event(Event::Ended { sequence: done.id, stop, text, diverged: done.diverged });
            }
            let Some(decoding) = decoding.as_mut().filter(|_| !writing.is_empty()) else { break };
            self.step(decoding, &mut writing, &mut sampler)?;
        }
        if let Some(Decoding { steps, seconds, tokens, .. }) = decoding.filter(|d| d.steps > 0) {
            speed.decode_tokens_per_second = tokens as f64 / seconds;
            speed.step_seconds = seconds / steps as f64;
            speed.steps = steps;
        }
        Ok(speed)
    }

    /// Reads the prompt that is generated from: its sequence, the workspace with the logits after it, and how long it took.
    fn prefill(&mut self, prompt: &[u32]) -> Result<(Sequence<R::Layer>, R::Workspace, Speed)> {
        self.await_command()?;
        self.tell.event(Event::Phase { phase: Phase::Prefill });
        let load_seconds = self.tell.seconds();
        let (seq, workspace, prefill) = self.read(prompt)?;
        let speed = Speed {
            load_seconds,
            prefill_tokens_per_second: prompt.len() as f64 / prefill,
            prompt_tokens: prompt.len(),
            ..Speed::default()
        };
        self.tell.snapshot(Event::Memory { step: 0, held: self.ledger.now() });
        if let Some(dump) = &mut self.dump {
            dump.row(LOGITS, self.runner.logits(&workspace, 0))?;
        }
        Ok((seq, workspace, speed))
    }

    /// Copies the prompt's sequence into as many as are wanted, and makes room for `total` decoding steps.
    fn decoding(
        &mut self,
        seq: Sequence<R::Layer>,
        prompt: usize,
        total: usize,
        sequences: usize,
    ) -> Result<Decoding<R>> {
        self.ledger.enter(Phase::Decode);
        self.tell.event(Event::Phase { phase: Phase::Decode });
        let mut seqs = vec![seq];
        for _ in 1..sequences {
            seqs.push(self.runner.sequence(prompt)?);
        }
        self.runner.fork(&mut seqs)?;
        let workspace = self.decode_workspace(prompt, prompt + total, sequences)?;
        Ok(Decoding { seqs, workspace, total, steps: 0, seconds: 0.0, tokens: 0, last: Instant::now() })
    }

    /// Feeds each sequence its chosen token and chooses the next.
    fn step(&mut self, d: &mut Decoding<R>, writing: &mut [Writing], sampler: &mut Sampler) -> Result<()> {
        self.await_command()?;
        let ids: Vec<u32> = writing.iter().map(|w| w.next).collect();
        let begin = Instant::now();
        let names: Vec<_> = writing.iter().map(|w| (w.id, w.step + 1)).collect();
        let hidden = self.runner.shape().hidden;
        let mut watch =
            Watcher::new(self.tell, "decoding", &names, self.shown.as_mut(), hidden).after(d.steps, d.total, d.seconds);
        self.runner.decode(&mut d.seqs, &ids, &mut d.workspace, &self.team, &mut watch)?;
        self.broken = watch.flush();
        for (i, w) in writing.iter_mut().enumerate() {
            w.step += 1;
            let logits = self.runner.logits(&d.workspace, i);
            w.diverged = broken::at(logits, w.step, self.broken.of_row(i));
            w.next = sampler.choose(logits, w.id, w.step);
        }
        d.seconds += begin.elapsed().as_secs_f64();
        d.steps += 1;
        d.tokens += writing.len();
        if let Some(dump) = &mut self.dump {
            dump.row(LOGITS, self.runner.logits(&d.workspace, 0))?;
        }
        if d.last.elapsed() >= SNAPSHOT {
            d.last = Instant::now();
            self.tell.snapshot(Event::Memory { step: d.steps, held: self.ledger.now() });
            let (done, total) = (d.steps as u64, d.total as u64);
            let left = d.seconds / d.steps as f64 * (d.total - d.steps.min(d.total)) as f64;
            self.tell.snapshot(Event::Progress { done, total, seconds_left: left, what: "decoding".into() });
        }
        Ok(())
    }

    fn endless(&self, prompt: usize) -> bool {
        self.runner.pipeline().endless(prompt)
    }

    /// Tells the token chosen for a sequence after a prompt of `prompt` tokens; returns why and with which text it ends, if it does.
    fn emit(&mut self, w: &mut Writing, prompt: usize) -> Option<(Stop, String)> {
        let run = &self.order.config.run;
        let ends = !run.ignore_eos && self.words.ends(w.next);
        if ends || w.diverged.is_some() {
            let text = w.decoder.as_mut().and_then(Decoder::finish).unwrap_or_default();
            let (mut text, _) = w.filter.push(&text, &run.stop);
            text.push_str(&w.filter.finish());
            let stop = if w.diverged.is_some() { Stop::Diverged } else { Stop::End };
            return Some((stop, text));
        }
        let whole = match (&mut w.decoder, &self.words.tokenizer) {
            (Some(decoder), Some(t)) => decoder.push(t, w.next).unwrap_or_default(),
            _ => String::new(),
        };
        let (text, met) = w.filter.push(&whole, &run.stop);
        self.tell.event(Event::Token { sequence: w.id, step: w.step, id: w.next, text });
        let stop = if met {
            Some(Stop::Text)
        } else if w.step + 1 >= run.max_tokens {
            Some(Stop::Length)
        } else if prompt + w.step >= run.context && !self.endless(prompt) {
            Some(Stop::Context)
        } else {
            None
        };
        stop.map(|stop| {
            let rest =
                if met { String::new() } else { w.decoder.as_mut().and_then(Decoder::finish).unwrap_or_default() };
            let mut text = w.filter.push(&rest, &run.stop).0;
            text.push_str(&w.filter.finish());
            (stop, text)
        })
    }

    /// Runs every case of a task: reads its prompt, then forces its tokens one by one and scores each.
    fn evaluate(&mut self, task: &mut eval::Prepared) -> Result<()> {
        let vocab = self.runner.shape().vocab;
        let mut row = match &task.reference {
            Some(_) => Some(self.ledger.buffer(Tag { tier: self.order.config.cpu_tier(), ..REFERENCE }, 4 * vocab)?),
            None => None,
        };
        let total: usize = task.cases.iter().map(eval::Case::tokens).sum();
        let (start, mut done, mut last, mut position) = (Instant::now(), 0, Instant::now(), 0);
        let cases = std::mem::take(&mut task.cases);
        for (i, case) in cases.iter().enumerate() {
            if task.diverged.is_some() {
                break;
            }
            let (seq, workspace, _) = self.read(&case.prompt)?;
            let mut seqs = [seq];
            let mut decode: Option<R::Workspace> = None;
            let mut prefill = Some(workspace);
            for (step, target) in case.forced.iter().copied().enumerate() {
                if task.diverged.is_some() {
                    break;
                }
                self.await_command()?;
                if step > 0 {
                    if decode.is_none() {
                        prefill = None;
                        self.ledger.enter(Phase::Decode);
                        decode = Some(self.decode_workspace(case.prompt.len(), case.read(), 1)?);
                    }
                    if let Some(workspace) = &mut decode {
                        // Rows that an evaluation drops are no part of the generation's story.
                        let forced = &case.forced[step - 1..step];
                        let mut first = FirstBroken::new(self.runner.shape().hidden);
                        self.runner.decode(&mut seqs, forced, workspace, &self.team, &mut first)?;
                        self.broken = first;
                    }
                }
                let Some(workspace) = decode.as_ref().or(prefill.as_ref()) else { continue };
                let logits = self.runner.logits(workspace, 0);
                let reference = match (&mut row, &mut task.reference) {
                    (Some(row), Some(file)) => {
                        file.read(position, row.as_mut_slice())?;
                        Some(row.as_slice::<f32>())
                    }
                    _ => None,
                };
                task.score((i, step), logits, target, reference, self.broken.first);
                if let Some(dump) = &mut self.dump {
                    dump.row(&task.id, logits)?;
                }
                position += 1;
                if last.elapsed() >= SNAPSHOT {
                    last = Instant::now();
                    let now = done + case.prompt.len() + step;
                    let left = start.elapsed().as_secs_f64() / now.max(1) as f64 * (total - now.min(total)) as f64;
                    let (done, total) = (now as u64, total as u64);
                    self.tell.snapshot(Event::Progress {
                        done,
                        total,
                        seconds_left: left,
                        what: format!("eval.{}", task.id),
                    });
                }
            }
            done += case.tokens();
        }
        task.cases = cases;
        let result = alloc::scoped(Scope::Program, || task.finish());
        self.tell.event(Event::Eval { task: task.id.clone(), result });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_token_tells_how_many_there_are_and_a_prompt_how_many_layers() {
        assert_eq!(stand(None, 10, 30, 2.0), (10, 30, 4.0));
        // Three of nine tokens took 3 s; half of the fourth took half a second more: five and a half are left.
        let (done, total, left) = stand(Some((3, 9, 3.0)), 15, 30, 0.5);
        assert_eq!((done, total), (3, 9));
        assert!((left - 5.5).abs() < 1e-9, "{left}");
        assert!(stand(Some((0, 9, 0.0)), 1, 30, 0.1).2 > 0.0);
    }
}
