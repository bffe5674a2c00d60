//! `ullage bench`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ullage_core::Result;
use ullage_core::job::bench::{Spec, run};

use crate::args;
use crate::run::on_interrupt;
use crate::source::{self, say, say_json};

pub fn bench(args: &args::Bench) -> Result<u8> {
    let loaded = source::load(&args.source, &[])?;
    let order = source::order(&loaded)?;
    let cancel = Arc::new(AtomicBool::new(false));
    on_interrupt(Arc::clone(&cancel));
    let spec = Spec { depths: args.depths.clone(), tokens: args.tokens, steps: args.steps, repeats: args.repeats };
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
            let share = p.bandwidth_fraction.map_or("unprobed".into(), |f| format!("{:.0} %", 100.0 * f));
            say(&format!(
                "{:>6} {:>12.1} ± {:<5.1} {:>12.1} ± {:<5.1} {:>14} {:>10} {:>7.3}%\n",
                p.depth,
                p.prefill_tokens_per_second,
                p.prefill_sd,
                p.decode_tokens_per_second,
                p.decode_sd,
                p.decode_bytes,
                share,
                100.0 * p.ledger_share
            ));
        }
    })?;
    if args.json {
        say_json(&points)?;
    }
    Ok(0)
}
