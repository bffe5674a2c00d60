//! `ullage bench`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::Serialize;
use ullage_core::blocks::BlockType;
use ullage_core::job::bench::{Point, Spec, run};
use ullage_core::model::random::TYPES;
use ullage_core::ops::gpu::KernelTime;
use ullage_core::{Error, Result};

use crate::against::Other;
use crate::args;
use crate::run::on_interrupt;
use crate::source::{self, Loaded, say, say_json};

pub fn bench(args: &args::Bench) -> Result<u8> {
    let loaded = source::load(&args.source, &[])?;
    let cancel = Arc::new(AtomicBool::new(false));
    on_interrupt(Arc::clone(&cancel));
    let pick = |given: Option<usize>, alone, types| given.unwrap_or(if args.types { types } else { alone });
    let spec = Spec {
        depths: args.depths.clone().unwrap_or(if args.types { vec![0] } else { vec![0, 512, 4096] }),
        tokens: pick(args.tokens, 512, 128),
        steps: pick(args.steps, 128, 16),
        repeats: args.repeats,
    };
    if args.types {
        return types(loaded, &spec, &cancel, args.json);
    }
    // Before anything is measured: a file that cannot be read is told at once.
    let other = args.against.as_deref().map(Other::read).transpose()?;
    let order = source::order(&loaded)?;
    let mut headed = false;
    let mut head = || {
        if !std::mem::replace(&mut headed, true) {
            say(&format!(
                "{:>6} {:>20} {:>20} {:>14} {:>10} {:>8}\n",
                "depth", "prefill tok/s", "decode tok/s", "bytes/token", "bandwidth", "ledger"
            ));
        }
    };
    let points = run(&order.model, &order.config, &order.machine, &spec, &cancel, &mut |p| {
        if !args.json {
            head();
            say(&format!(
                "{:>6} {:>12.1} ± {:<5.1} {:>12.1} ± {:<5.1} {:>14} {:>10} {:>7.3}%\n",
                p.depth,
                p.prefill_tokens_per_second,
                p.prefill_sd,
                p.decode_tokens_per_second,
                p.decode_sd,
                p.decode_bytes,
                share(p),
                100.0 * p.ledger_share
            ));
            if args.kernels {
                for (what, kernels) in [("decode", &p.decode_kernels), ("prefill", &p.prefill_kernels)] {
                    kernels.iter().for_each(|k| say(&kernel(what, k)));
                }
            }
        }
    })?;
    if let Some(other) = other {
        say(&other.table(&points));
    }
    if args.json {
        say_json(&points)?;
    }
    Ok(0)
}

/// A line of what a kernel took.
fn kernel(what: &str, k: &KernelTime) -> String {
    let each = 1e6 * k.seconds / k.calls.max(1) as f64;
    format!("{what:>14} {:24} {:>6} times {each:>9.1} us {:>9.0} us\n", k.name, k.calls, 1e6 * k.seconds)
}

/// The share of the probed bandwidth that decoding took.
fn share(p: &Point) -> String {
    p.bandwidth_fraction.map_or("unprobed".into(), |f| format!("{:.0} %", 100.0 * f))
}

/// A block type in the table of all.
#[derive(Serialize)]
struct Row {
    #[serde(rename = "type")]
    ty: BlockType,
    /// Bits an element costs, scales included.
    bits: f64,
    /// The figures at each depth; none where it was not measured.
    points: Vec<Point>,
    /// Prefill and decode at the first depth, over those of q8_0.
    of_q8_0: Option<[f64; 2]>,
    /// Why it was not measured.
    refused: Option<String>,
}

/// The shape of the model of `loaded` with random weights of every type in turn, q8_0 first, for the others stand beside it.
fn types(mut loaded: Loaded, spec: &Spec, cancel: &Arc<AtomicBool>, json: bool) -> Result<u8> {
    let path = loaded.config.model.path.clone();
    // What stands between `random:` and the type or the seed, or a file that lends its shape.
    let shape = path.strip_prefix("random:").unwrap_or(&path);
    let shape =
        shape.rsplit_once('@').filter(|(_, ty)| !ty.contains(['/', '\\', '.'])).map_or(shape, |(shape, _)| shape);
    let mut all = TYPES.to_vec();
    all.sort_by_key(|ty| (*ty != BlockType::Q8_0, -(ty.bits() * 1000.0) as i64));
    if !json {
        say(&format!(
            "{:8} {:>6} {:>7} {:>20} {:>20} {:>10} {:>8} {:>8}\n",
            "type", "bits", "depth", "prefill tok/s", "decode tok/s", "bandwidth", "prefill", "decode"
        ));
        say(&format!("{:>97}\n", "of q8_0's"));
    }
    let (mut rows, mut beside) = (Vec::new(), None);
    for ty in all {
        loaded.config.model.path = format!("random:{shape}@{ty}");
        let measured = source::order(&loaded)
            .and_then(|order| run(&order.model, &order.config, &order.machine, spec, cancel, &mut |_| ()));
        let (points, refused) = match measured {
            Ok(points) => (points, None),
            // Rows that are not whole blocks of the type, or no room for it: the others are measured all the same.
            Err(e @ (Error::Refused { .. } | Error::OverBudget(_))) if ty != BlockType::Q8_0 => {
                (vec![], Some(e.to_string()))
            }
            Err(e) => return Err(e),
        };
        let speeds = points.first().map(|p| [p.prefill_tokens_per_second, p.decode_tokens_per_second]);
        beside = beside.or(speeds);
        let of_q8_0 = speeds.zip(beside).map(|([p, d], [p8, d8])| [p / p8, d / d8]);
        let row = Row { ty, bits: ty.bits(), points, of_q8_0, refused };
        if !json {
            tell(&row);
        }
        rows.push(row);
    }
    if json {
        say_json(&rows)?;
    }
    Ok(0)
}

fn tell(row: &Row) {
    let name = format!("{:8} {:>6.2}", row.ty.as_str(), row.bits);
    if let Some(why) = &row.refused {
        say(&format!("{name} {}\n", why.lines().next().unwrap_or_default()));
    }
    for (i, p) in row.points.iter().enumerate() {
        let [prefill, decode] =
            row.of_q8_0.filter(|_| i == 0).map_or(["".into(), "".into()], |of| of.map(|r| format!("{r:.2}×")));
        say(&format!(
            "{name} {:>7} {:>12.1} ± {:<5.1} {:>12.1} ± {:<5.1} {:>10} {prefill:>8} {decode:>8}\n",
            p.depth,
            p.prefill_tokens_per_second,
            p.prefill_sd,
            p.decode_tokens_per_second,
            p.decode_sd,
            share(p),
        ));
    }
}
