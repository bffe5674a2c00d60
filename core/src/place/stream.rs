//! Layer by layer through a small buffer, read ahead by a thread (AirLLM, `lyogavin/airllm`; weights-and-offload.md §5.3).
//!
//! The device holds `1 + prefetch` slots of the largest layer. The head, far larger than a layer, passes through the same
//! slots in pieces, and embedding rows are fetched one by one, so the floor is one layer and not the vocabulary.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Content, Loader, Model, Part, Placement, WeightSource, Whole, rows};
use crate::error::{Error, Result};
use crate::ledger::{Buffer, Category, Ledger, Tag, alloc};
use crate::model::Source;
use crate::ops::ThreadTeam;
use crate::ops::cpu::Mat;
use crate::schema::{About, Candidate, Cost, Default, Entry, Knob, KnobKind, axes};
use crate::shape::{ModelShape, TensorShape};
use crate::weights::units::{LayerView, Unit, UnitLayout};

/// The catalogue entry.
pub static ENTRY: Entry<dyn Placement> = Entry {
    about: About {
        id: "stream",
        title: "Streamed layer by layer",
        common: true,
        paper: "AirLLM (lyogavin/airllm), layer streaming",
        sentence: "Holds a few layers at a time and reads the rest from RAM or disk at every pass.",
        knobs: &[
            Knob {
                id: "from",
                label: "Read from",
                paper_name: "",
                kind: KnobKind::Word { of: &["host", "disk"] },
                default: Default::Text("disk"),
                unit: "",
                sentence: "Where the rest of the model waits.",
            },
            Knob {
                id: "prefetch",
                label: "Read ahead",
                paper_name: "prefetching",
                kind: KnobKind::Int { min: 0, max: 4 },
                default: Default::Int(1),
                unit: "layers",
                sentence: "Layers read ahead while one is computed; each costs a slot.",
            },
        ],
        composes: |config| {
            let from_disk = config.place.weights.knobs.text("from") != Some("host");
            if let Some((key, choice)) = config.weights.changed().filter(|_| from_disk) {
                return Err(format!(
                    "the file holds the original format, so {key} = {} cannot be streamed from it; stream from host, or keep `original`",
                    choice.id
                ));
            }
            Ok(())
        },
        candidates: &[
            Candidate { cost: Cost::Speed, keeps: 0.2, sets: &[], words: "Weights streamed layer by layer" },
            Candidate {
                cost: Cost::Speed,
                keeps: 0.1,
                sets: &[("place.weights.prefetch", "0")],
                words: "Weights streamed, none ahead",
            },
        ],
        ..About::on(&axes::PLACE_WEIGHTS)
    },
    build: |knobs| Ok(Box::new(Stream { host: knobs.text("from") == "host", prefetch: knobs.int("prefetch") })),
};

/// The ledger row of an embedding's row on its way from the disk.
const ROW: Tag = Tag::device(Category::Workspace, "embedding row");

struct Stream {
    host: bool,
    prefetch: usize,
}

fn slot_bytes(shape: &ModelShape) -> usize {
    (0..shape.layers.len()).map(|l| UnitLayout::layer(shape, l).bytes).max().unwrap_or(0).max(shape.head().row_bytes())
}

/// Rows of the head in one slot.
fn head_rows(shape: &ModelShape) -> usize {
    (slot_bytes(shape) / shape.head().row_bytes().max(1)).max(1)
}

impl Placement for Stream {
    fn parts(&self, held: &ModelShape) -> Result<Vec<Part>> {
        let head = held.head();
        if head.ty.block().is_none() {
            return Err(Error::refused(
                "place.weights = stream",
                format!(
                    "{} is held as {}, which cannot be streamed in pieces; hold it in a block type such as q8_0",
                    head.name, head.ty
                ),
            ));
        }
        let mut parts = vec![Part::of(held, rows::NORMS, Content::Small)];
        if self.host {
            parts.extend(Part::whole(held, |_| rows::HOST));
        }
        let passing = |tag, bytes: usize| Part { tag, content: Content::Passing, bytes: bytes as u64 };
        parts.extend((0..=self.prefetch).map(|_| passing(rows::SLOTS, slot_bytes(held))));
        if !self.host {
            parts.push(passing(ROW, held.embedding.row_bytes()));
        }
        Ok(parts)
    }

    fn pass_bytes(&self, model: Model<'_>) -> Vec<(&'static str, u64, u64)> {
        let layers: u64 = model.held.layers.iter().flat_map(|l| l.tensors.all()).map(TensorShape::bytes).sum();
        let link = if self.host { "host" } else { "disk" };
        vec![(link, layers + model.held.head().bytes(), slot_bytes(model.held) as u64)]
    }

    fn load(
        &self,
        source: Arc<Source>,
        model: Model<'_>,
        ledger: &Arc<Ledger>,
        team: &ThreadTeam,
        progress: &mut dyn FnMut(f32),
    ) -> Result<Box<dyn WeightSource>> {
        let parts = self.parts(model.held)?;
        let mut loader = Loader::new(&source, model, ledger, team, progress)?;
        let small = loader.small()?;
        let backing = if self.host {
            Backing::Host(loader.whole(&parts)?)
        } else {
            // Norms of another type than f32 would have to be converted at every pass.
            if let Some(t) = model
                .stored
                .layers
                .iter()
                .flat_map(|l| l.tensors.all())
                .zip(model.held.layers.iter().flat_map(|l| l.tensors.all()))
                .find_map(|(a, b)| (a.ty != b.ty).then_some(a))
            {
                return Err(Error::refused(
                    "place.weights.from = disk",
                    format!("{} is stored as {} and used as f32; stream from host instead", t.name, t.ty),
                ));
            }
            Backing::Disk(Arc::clone(&source))
        };
        drop(loader);
        progress(1.0);
        let shape = Arc::new(model.held.clone());
        let mut free = Vec::new();
        for _ in 0..=self.prefetch {
            free.push(ledger.buffer(rows::SLOTS, slot_bytes(&shape))?);
        }
        let one = shape.embedding.row_bytes();
        let row = if self.host { None } else { Some(ledger.buffer(ROW, one)?) };
        let reader = Reader::start(Arc::new(backing), Arc::clone(&shape), Arc::clone(ledger), free.len())?;
        let offsets = (0..shape.layers.len()).map(|l| UnitLayout::layer(&shape, l).offsets).collect();
        Ok(Box::new(Streamed {
            cancel: Arc::clone(team.cancel_flag()),
            shape,
            small,
            offsets,
            reader,
            free,
            asked: VecDeque::new(),
            current: None,
            row,
            with_head: true,
        }))
    }
}

enum Backing {
    Host(Whole),
    Disk(Arc<Source>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UnitId {
    Layer(usize),
    Head(usize),
}

impl Backing {
    /// Fills a slot with a unit; returns the bytes moved.
    fn read(&self, shape: &ModelShape, unit: UnitId, slot: &mut [u8], stop: &AtomicBool) -> Result<u64> {
        match (self, unit) {
            (Self::Host(whole), UnitId::Layer(l)) => {
                let from = whole.layers[l].as_slice::<u8>();
                slot[..from.len()].copy_from_slice(from);
                Ok(from.len() as u64)
            }
            (Self::Host(whole), UnitId::Head(i)) => {
                let (first, n, row) = head_piece(shape, i);
                slot[..n * row].copy_from_slice(&whole.head()[first * row..(first + n) * row]);
                Ok((n * row) as u64)
            }
            (Self::Disk(source), UnitId::Layer(l)) => {
                let mut moved = 0;
                for (t, at) in shape.layers[l].tensors.all().zip(UnitLayout::layer(shape, l).offsets) {
                    if stop.load(Ordering::Relaxed) {
                        return Err(Error::Cancelled);
                    }
                    source.read_rows(t, 0, t.rows, &mut slot[at..at + t.bytes() as usize])?;
                    moved += t.bytes();
                }
                Ok(moved)
            }
            (Self::Disk(source), UnitId::Head(i)) => {
                let (first, n, row) = head_piece(shape, i);
                source.read_rows(shape.head(), first, n, &mut slot[..n * row])?;
                Ok((n * row) as u64)
            }
        }
    }

    fn link(&self) -> &'static str {
        match self {
            Self::Host(_) => "host to device",
            Self::Disk(_) => "disk read",
        }
    }
}

/// First row, rows, and bytes of a row of piece `i` of the head.
fn head_piece(shape: &ModelShape, i: usize) -> (usize, usize, usize) {
    let (rows, head) = (head_rows(shape), shape.head());
    (i * rows, rows.min(head.rows - i * rows), head.row_bytes())
}

type Filled = (UnitId, Buffer, Result<u64>);

/// The thread that fills slots. Slots travel by value, so a slot being filled cannot be read.
struct Reader {
    requests: Option<SyncSender<(UnitId, Buffer)>>,
    filled: Receiver<Filled>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    backing: Arc<Backing>,
    ledger: Arc<Ledger>,
}

impl Reader {
    fn start(backing: Arc<Backing>, shape: Arc<ModelShape>, ledger: Arc<Ledger>, slots: usize) -> Result<Self> {
        let (requests, inbox) = sync_channel::<(UnitId, Buffer)>(slots);
        let (outbox, filled) = sync_channel::<Filled>(slots);
        let stop = Arc::new(AtomicBool::new(false));
        let (flag, store) = (Arc::clone(&stop), Arc::clone(&backing));
        let thread = std::thread::Builder::new()
            .name("ullage-reader".into())
            .spawn(move || {
                alloc::set_scope(alloc::Scope::Engine);
                for (unit, mut slot) in inbox {
                    let done = store.read(&shape, unit, slot.as_mut_slice(), &flag);
                    if outbox.send((unit, slot, done)).is_err() {
                        break;
                    }
                }
            })
            .map_err(|e| Error::Internal(format!("cannot start the reader thread: {e}")))?;
        Ok(Self { requests: Some(requests), filled, stop, thread: Some(thread), backing, ledger })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.requests = None;
        while self.filled.try_recv().is_ok() {}
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Streamed {
    cancel: Arc<AtomicBool>,
    shape: Arc<ModelShape>,
    small: Unit,
    offsets: Vec<Vec<usize>>,
    reader: Reader,
    free: Vec<Buffer>,
    /// Asked for and not yet taken, in order.
    asked: VecDeque<UnitId>,
    current: Option<(UnitId, Buffer)>,
    /// Where a row of the embedding passes on its way from the disk.
    row: Option<Buffer>,
    with_head: bool,
}

impl Streamed {
    fn after(&self, unit: UnitId) -> UnitId {
        match unit {
            UnitId::Layer(l) if l + 1 < self.shape.layers.len() => UnitId::Layer(l + 1),
            UnitId::Layer(_) if self.with_head => UnitId::Head(0),
            UnitId::Head(i) if i + 1 < self.head_pieces() => UnitId::Head(i + 1),
            _ => UnitId::Layer(0),
        }
    }

    fn ask(&mut self, unit: UnitId) -> Result<()> {
        if let (Some(slot), Some(requests)) = (self.free.pop(), &self.reader.requests) {
            requests.send((unit, slot)).map_err(|_| Error::Internal("the reader thread has ended".into()))?;
            self.asked.push_back(unit);
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<(UnitId, Buffer)> {
        loop {
            match self.reader.filled.recv_timeout(Duration::from_millis(10)) {
                Ok((unit, slot, done)) => {
                    self.asked.pop_front();
                    match done {
                        Ok(bytes) => {
                            self.reader.ledger.moved(self.reader.backing.link(), bytes);
                            return Ok((unit, slot));
                        }
                        Err(e) => {
                            self.free.push(slot);
                            return Err(e);
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) if self.cancel.load(Ordering::Relaxed) => return Err(Error::Cancelled),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::Internal("the reader thread has ended".into()));
                }
            }
        }
    }

    /// Brings `unit` into a slot and reads ahead of it.
    fn bring(&mut self, unit: UnitId) -> Result<&[u8]> {
        if self.current.as_ref().is_none_or(|(here, _)| *here != unit) {
            if let Some((_, slot)) = self.current.take() {
                self.free.push(slot);
            }
            // What was read ahead but is not wanted now gives its slot back.
            while self.asked.front().is_some_and(|first| *first != unit) {
                let (_, slot) = self.receive()?;
                self.free.push(slot);
            }
            if self.asked.is_empty() {
                self.ask(unit)?;
            }
            let mut ahead = self.asked.back().copied().unwrap_or(unit);
            while !self.free.is_empty() {
                ahead = self.after(ahead);
                if ahead == unit {
                    break;
                }
                self.ask(ahead)?;
            }
            self.current = Some(self.receive()?);
        }
        match &self.current {
            Some((_, slot)) => Ok(slot.as_slice()),
            None => Err(Error::Internal("no slot".into())),
        }
    }
}

impl WeightSource for Streamed {
    fn layer(&mut self, l: usize) -> Result<LayerView<'_>> {
        self.bring(UnitId::Layer(l))?;
        let Some((_, slot)) = &self.current else { return Err(Error::Internal("no slot".into())) };
        Ok(LayerView { data: slot.as_slice(), offsets: &self.offsets[l], tensors: &self.shape.layers[l].tensors })
    }

    fn embed(&mut self, ids: &[u32], out: &mut [f32]) -> Result<()> {
        let t = &self.shape.embedding;
        match &*self.reader.backing {
            Backing::Host(whole) => whole.embed(t, ids, out)?,
            Backing::Disk(source) => {
                let Some(one) = &mut self.row else { return Err(Error::Internal("no room for a row".into())) };
                for (id, out) in ids.iter().zip(out.chunks_exact_mut(t.cols)) {
                    if *id as usize >= t.rows {
                        return Err(Error::Internal(format!("token {id} is not in the vocabulary of {}", t.rows)));
                    }
                    source.read_rows(t, *id as usize, 1, one.as_mut_slice())?;
                    Mat::new(t.ty, 1, t.cols, one.as_slice())?.decode(0, 0, out)?;
                }
            }
        }
        let bytes = ids.len() as u64 * t.bytes() / t.rows.max(1) as u64;
        self.reader.ledger.moved(self.reader.backing.link(), bytes);
        Ok(())
    }

    fn output_norm(&self) -> &[f32] {
        self.small.vector(0, &self.shape.output_norm)
    }

    fn rope_freqs(&self) -> Option<&[f32]> {
        self.shape.rope_freqs.as_ref().map(|t| self.small.vector(1, t))
    }

    fn head_pieces(&self) -> usize {
        self.shape.head().rows.div_ceil(head_rows(&self.shape))
    }

    fn head(&mut self, i: usize) -> Result<(usize, Mat<'_>)> {
        let shape = Arc::clone(&self.shape);
        let (first, n, row) = head_piece(&shape, i);
        let (ty, cols) = (shape.head().ty, shape.head().cols);
        let data = self.bring(UnitId::Head(i))?;
        Ok((first, Mat::new(ty, n, cols, &data[..n * row])?))
    }

    fn begin_pass(&mut self, with_head: bool) {
        self.with_head = with_head;
    }
}
