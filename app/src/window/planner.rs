//! Plans on every change, away from the window: the newest question alone is answered.
//!
//! The bars come first; what costs many plans (prices of every variant, what else would fit) follows, unless a newer question waits.

use std::path::Path;
use std::sync::Arc;

use ullage_core::catalog;
use ullage_core::config::Config;
use ullage_core::job::infer::{self, Work};
use ullage_core::ledger::Tier;
use ullage_core::machine::Machine;
use ullage_core::plan::{
    self, Combination, Inverse, Plan, Resolved, TrainInverse, Workload, combinations, formula, pieces, plan, ways_back,
};
use ullage_core::report::ByteReport;
use ullage_core::shape::ModelShape;
use ullage_core::{Error, Result, train};
use ullage_panels::view::{Bars, Fit, Piece, Price, Sets, WayBack};

use super::document::with;
use super::history::{self, RunSummary};
use super::message::{Message, Planned, Priced};
use super::opened::OpenModel;
use super::rates::tokens_per_second;
use super::show::cards;
use super::worker::{Outbox, Slot, panic_text};
use super::{bars, words};

/// What is to be planned.
#[derive(Clone)]
pub struct PlanRequest {
    /// Answers carry it; an answer to an older one is outdated.
    pub number: u64,
    /// The configuration to be planned and priced.
    pub config: Config,
    /// For which model.
    pub opened: Arc<OpenModel>,
    /// On which machine.
    pub machine: Arc<Machine>,
    /// Runs that say what accuracy a choice has.
    pub runs: Arc<Vec<RunSummary>>,
    /// Points of a sweep still to be run.
    pub points: Vec<Config>,
}

/// The planner's thread.
pub struct Planner {
    slot: Slot<PlanRequest>,
}

impl Planner {
    /// Starts it.
    pub fn start(outbox: Outbox<Message>) -> Self {
        let slot: Slot<PlanRequest> = Slot::default();
        let mine = slot.clone();
        let run = move || {
            let mut kept = None;
            while let Some(question) = mine.take() {
                let mut answer = || answer(&question, &mut kept, &mine, &outbox);
                if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&mut answer)) {
                    kept = None;
                    let detail = panic_text(&*panic);
                    let planned = Planned {
                        number: question.number,
                        plan: Err(detail),
                        bars: None,
                        sections: Vec::new(),
                        prompt: 0,
                        notes: Vec::new(),
                    };
                    outbox.send(Message::Plan(Box::new(planned)));
                }
            }
        };
        // Without a thread there is no prediction, and the top says so.
        let _ = std::thread::Builder::new().name("ullage-planner".into()).spawn(run);
        Self { slot }
    }

    /// Asks; what was asked before and not begun is forgotten.
    pub fn ask(&self, question: PlanRequest) {
        self.slot.put(question);
    }
}

impl Drop for Planner {
    fn drop(&mut self) {
        self.slot.close();
    }
}

/// The workload of the last question: tokenizing takes longer than planning, and a slider changes neither.
pub struct Kept {
    model: Arc<OpenModel>,
    config: Config,
    prompt: usize,
    workload: Workload,
}

/// The workload of a configuration, from what is kept where it is the same.
fn workload<'a>(q: &PlanRequest, kept: &'a mut Option<Kept>) -> Result<&'a Kept> {
    let mut config = q.config.clone();
    config.budget = Default::default();
    config.observe = None;
    let same = kept.as_ref().is_some_and(|k| Arc::ptr_eq(&k.model, &q.opened) && k.config == config);
    if !same {
        *kept = None;
        let (prompt, workload) = work(q, &q.config)?;
        *kept = Some(Kept { model: Arc::clone(&q.opened), config, prompt, workload });
    }
    kept.as_ref().ok_or_else(|| Error::Internal("the workload is not kept".into()))
}

/// Tokens of the prompt and what there is to compute; fine-tuning has its workload in its section.
fn work(q: &PlanRequest, config: &Config) -> Result<(usize, Workload)> {
    if config.train.is_some() {
        ullage_core::catalog::check(config)?;
        train::plan::check(config, &q.opened.model.shape)?;
        return Ok((0, Workload::default()));
    }
    let Work { prompt, workload, .. } = infer::work(&q.opened.model, &q.opened.words, config, Path::new("."))?;
    Ok((prompt.len(), workload))
}

/// `workload` as another choice of techniques would have it: the same passes, generation as long as that choice allows.
fn generated(workload: &Workload, shape: &ModelShape, config: &Config, prompt: usize) -> Result<Workload> {
    let endless = Resolved::new(config, shape)?.endless(prompt);
    let mut out = workload.clone();
    if let (Some(first), Some(new)) =
        (out.passes.first_mut(), Workload::generate(config, prompt, endless).passes.first())
    {
        *first = *new;
    }
    Ok(out)
}

fn answer(q: &PlanRequest, kept: &mut Option<Kept>, slot: &Slot<PlanRequest>, outbox: &Outbox<Message>) {
    let entries: Vec<_> = catalog::entries().collect();
    let mut sections = cards::sections(&q.config, &entries);
    let shape = &q.opened.model.shape;
    let (workload, prompt) = match workload(q, kept) {
        Ok(kept) => (kept.workload.clone(), kept.prompt),
        Err(e) => {
            let (plan, notes) = (Err(e.to_string()), Vec::new());
            let planned = Planned { number: q.number, plan, bars: None, sections, prompt: 0, notes };
            outbox.send(Message::Plan(Box::new(planned)));
            return;
        }
    };
    let planned = plan(shape, &workload, &q.config, &q.machine);
    let shown =
        planned.as_ref().ok().map(|p| bars::of(&ByteReport::from(&p.bytes), &q.config, false, &bars::unexplained));
    outbox.send(Message::Plan(Box::new(Planned {
        number: q.number,
        plan: planned.clone().map(Box::new).map_err(|e| e.to_string()),
        bars: shown,
        sections: sections.clone(),
        prompt,
        notes: notes(q),
    })));
    let Ok(before) = planned else { return };
    let hash = &q.opened.model.hash;
    for variant in sections.iter_mut().flat_map(|s| &mut s.cards).flat_map(|c| &mut c.variants) {
        if slot.waiting() {
            return;
        }
        let config = match with(&q.config, &variant.sets) {
            Ok(config) => config,
            Err(e) => {
                variant.refused = reason(&e);
                continue;
            }
        };
        variant.accuracy = history::measured(&q.runs, hash, &config);
        let after = match variant.chosen {
            true => Ok(before.clone()),
            false => of_variant(q, &workload, &config, prompt),
        };
        match after {
            Ok(after) => variant.price = Some(price((&before, &q.config), (&after, &config))),
            Err(e) => variant.refused = reason(&e),
        }
    }
    let over = before.over.is_some();
    let way_back = over.then(|| way_back(q, &workload, &before)).flatten();
    let training = q.config.train.is_some();
    let train_inverse = (training && !slot.waiting()).then(|| TrainInverse::of(shape, &q.config, &q.machine));
    let fits = if training { what_fits(q, slot) } else { Vec::new() };
    let inverse = (!training && !slot.waiting()).then(|| Inverse::of(shape, &workload, &q.config, &q.machine));
    let points =
        q.points.iter().map(|config| of_variant(q, &workload, config, prompt).ok().map(|p| p.peak(Tier::Device)));
    let points = points.collect();
    if slot.waiting() {
        return;
    }
    let bars = explained(q, &workload, &before);
    let mut pieces: Vec<_> =
        pieces(shape, &workload, &q.config, None).unwrap_or_default().into_iter().map(piece).collect();
    pieces.sort_by_key(|p| std::cmp::Reverse(p.bytes));
    let priced = Priced { number: q.number, sections, inverse, train_inverse, fits, way_back, points, bars, pieces };
    outbox.send(Message::Prices(Box::new(priced)));
}

/// What the command line says before a plan's figures: its cautions, and choices that have no effect.
fn notes(q: &PlanRequest) -> Vec<String> {
    let mut notes = plan::cautions(&q.config, &q.opened.model.shape, &q.machine);
    notes.extend(q.config.without_effect());
    notes
}

/// Every combination of fine-tuning's choices, planned.
fn what_fits(q: &PlanRequest, slot: &Slot<PlanRequest>) -> Vec<Fit> {
    let all = combinations(&q.opened.model.shape, &q.config, &q.machine, &|| slot.waiting());
    let fit = |c: Combination| {
        let plan = c.plan.as_ref();
        Fit {
            choices: c.entries.map(|e| e.title.to_owned()),
            peak: plan.ok().map(|p| p.peak(Tier::Device)),
            refused: plan.err().map(reason).unwrap_or_default(),
            fits: plan.is_ok_and(|p| p.over.is_none()),
            step_seconds: plan.ok().map(|p| p.time.train_step_seconds).filter(|s| *s > 0.0),
            chosen: c.sets.is_empty(),
            sets: c.sets,
        }
    };
    all.into_iter().map(fit).collect()
}

/// The plan of another configuration of the same run; one that evaluates something else is counted anew.
fn of_variant(q: &PlanRequest, workload: &Workload, config: &Config, prompt: usize) -> Result<Plan> {
    let shape = &q.opened.model.shape;
    let workload = if config.train.is_some() || config.eval != q.config.eval || config.run != q.config.run {
        work(q, config)?.1
    } else {
        generated(workload, shape, config, prompt)?
    };
    plan(shape, &workload, config, &q.machine)
}

/// Why a choice cannot be made, without naming the choice once more.
fn reason(e: &Error) -> String {
    match e {
        Error::Refused { reason, .. } => reason.clone(),
        Error::Config { message, .. } => message.clone(),
        e => e.to_string(),
    }
}

fn price((before, old): (&Plan, &Config), (after, new): (&Plan, &Config)) -> Price {
    let moved = |tier| after.peak(tier) as i64 - before.peak(tier) as i64;
    Price {
        before: before.peak(Tier::Device),
        after: after.peak(Tier::Device),
        elsewhere: (moved(Tier::Host), moved(Tier::Disk)),
        speed: (tokens_per_second(before, old), tokens_per_second(after, new)),
        fits: after.over.is_none(),
    }
}

fn way_back(q: &PlanRequest, workload: &Workload, before: &Plan) -> Option<WayBack> {
    let found = ways_back(&q.opened.model.shape, workload, &q.config, &q.machine, 1).pop()?;
    let config = with(&q.config, &found.change.sets).ok()?;
    Some(WayBack {
        words: found.change.words,
        change: found.plan.peak(Tier::Device) as i64 - before.peak(Tier::Device) as i64,
        accuracy: history::measured(&q.runs, &q.opened.model.hash, &config),
        sets: found.change.sets,
    })
}

/// The bars of a plan with their formulas.
fn explained(q: &PlanRequest, workload: &Workload, plan: &Plan) -> Bars {
    let shape = &q.opened.model.shape;
    bars::of(&ByteReport::from(&plan.bytes), &q.config, false, &|phase, tier, category| {
        formula(shape, workload, &q.config, phase, tier, category).map(|f| f.text).unwrap_or_default()
    })
}

fn piece(p: plan::Piece) -> Piece {
    let plan::Piece { name, group, detail, category, tier, bytes } = p;
    Piece { name, group, detail, used_for: words::used_for(category), tier: words::tier(tier), bytes }
}

/// The keys and values of `--set` arguments.
pub fn arguments(text: &str) -> Sets {
    let set = |part: &str| {
        let (key, value) = part.trim().split_once('=')?;
        Some((key.trim().to_owned(), value.trim().trim_matches('\'').to_owned()))
    };
    text.split("--set ").filter_map(set).collect()
}

/// A change as people say it: `Precision q8_0`.
pub fn in_words(sets: &[(String, String)]) -> String {
    let said = |(key, value): &(String, String)| {
        let axis = ullage_core::config::axes::all().find(|a| a.key == key);
        match (axis, key.as_str()) {
            (Some(axis), _) => {
                let entry = catalog::variants(axis).find(|e| e.id == value);
                format!("{} {}", axis.name(), entry.map_or(value.as_str(), |e| e.title))
            }
            (None, "run.context") => format!("Context {value}"),
            (None, "run.sequences") => format!("Sequences {value}"),
            (None, "run.batch") => format!("Prompt piece {value}"),
            (None, "kv.budget.ratio") => format!("Keep {value} of the context"),
            (None, "budget.device") => format!(
                "Memory limit {}",
                value.parse::<ullage_core::Bytes>().map_or(value.clone(), |b| ullage_panels::words::bytes(b.0))
            ),
            (None, key) => format!("{} {value}", words::plain(key.rsplit('.').next().unwrap_or(key))),
        }
    };
    sets.iter().map(said).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::time::Duration;

    use super::super::opener;
    use super::*;

    fn question(number: u64, mib: u64) -> PlanRequest {
        let mut config = Config::default();
        config.run.context = 1024;
        config.budget.device = ullage_core::Bytes::mib(mib);
        PlanRequest {
            number,
            config,
            opened: Arc::new(opener::model("bundled:recall").unwrap()),
            machine: Arc::new(Machine::default_guess()),
            runs: Arc::default(),
            points: Vec::new(),
        }
    }

    #[test]
    fn the_newest_question_is_answered_whole_and_its_way_back_fits() {
        let (outbox, inbox) = Outbox::new(Arc::new(|| ()));
        let planner = Planner::start(outbox);
        let first = question(1, 8);
        for number in 1..=20 {
            planner.ask(PlanRequest { number, ..first.clone() });
        }
        let (mut firsts, mut priced) = (0, None);
        while priced.is_none() {
            match inbox.recv_timeout(Duration::from_secs(60)).unwrap() {
                Message::Plan(_) => firsts += 1,
                Message::Prices(p) if p.number == 20 => priced = Some(p),
                Message::Prices(_) => {}
                _ => panic!("a planner plans"),
            }
        }
        assert!(firsts <= 20);
        let priced = priced.unwrap();
        let back = priced.way_back.as_ref().expect("8 MiB is too little for a full cache");
        assert!(back.change < 0 && !back.words.is_empty(), "{back:?}");
        // Done, it fits: the plan of the changed configuration says so, and so does the card's price.
        let mut then = question(1, 8);
        then.config = with(&then.config, &back.sets).unwrap();
        let work = infer::work(&then.opened.model, &then.opened.words, &then.config, Path::new(".")).unwrap();
        let after = plan(&then.opened.model.shape, &work.workload, &then.config, &then.machine).unwrap();
        assert!(after.over.is_none());
        for v in priced.sections.iter().flat_map(|s| &s.cards).flat_map(|c| &c.variants) {
            assert!(v.price.is_some() || !v.refused.is_empty(), "{}: neither a price nor a reason", v.id);
            if let Some(price) = v.price {
                let config = with(&first.config, &v.sets).unwrap();
                let work = infer::work(&first.opened.model, &first.opened.words, &config, Path::new(".")).unwrap();
                let plan = plan(&first.opened.model.shape, &work.workload, &config, &first.machine).unwrap();
                assert_eq!(price.after, plan.peak(Tier::Device), "{} {}", v.id, v.title);
                assert_eq!(price.fits, plan.over.is_none(), "{}", v.id);
            }
        }
    }

    #[test]
    fn a_change_is_read_and_said() {
        let sets = arguments("--set kv.select=h2o --set kv.budget.ratio=0.2 --set budget.device='1048576 B'");
        assert_eq!(sets.len(), 3);
        assert_eq!(sets[2], ("budget.device".into(), "1048576 B".into()));
        let words = in_words(&sets);
        assert!(words.contains("Tokens to keep Heavy hitters") && words.contains("1 MiB"), "{words}");
    }
}
