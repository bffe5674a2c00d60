//! `ullage verify`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::json;
use ullage_core::Result;
use ullage_core::bytes::Bytes;
use ullage_core::job::verify::{Spec, Verified, run};
use ullage_core::model::Model;

use crate::args;
use crate::run::on_interrupt;
use crate::source::{self, say, say_json};

pub fn verify(args: &args::Verify) -> Result<u8> {
    let loaded = source::load(&args.source, &[])?;
    let order = source::order(&loaded)?;
    let cancel = Arc::new(AtomicBool::new(false));
    on_interrupt(Arc::clone(&cancel));
    let other = args.against.as_deref().map(|path| Model::open(path, Path::new("."))).transpose()?;
    let spec = Spec { tokens: args.tokens, layers: args.layers, device: args.reference.clone() };
    let models = [&*order.model, other.as_ref().unwrap_or(&order.model)];
    let verified = run(models, &order.config, &spec, &cancel)?;
    if args.json {
        let mut value = json!(verified);
        value["agrees"] = verified.agrees().into();
        say_json(&value)?;
    } else {
        say(&table(&verified));
    }
    Ok(u8::from(!verified.agrees()))
}

/// A number of nats, or that there is none.
fn nats(kl: Option<f64>) -> String {
    kl.map_or("none: not all logits are numbers".into(), |kl| format!("{kl:.3e}"))
}

fn table(v: &Verified) -> String {
    let l = &v.logits;
    let mut out = format!("engine      ullage on {}, full cache in f32: {}\n", v.device, v.model);
    out += &format!("reference   candle on {}, f32, no cache: {}\n", v.reference_device, v.reference);
    out += &format!("positions   {}, {:.2} s and {:.2} s\n\n", l.positions, v.seconds, v.reference_seconds);
    out += &format!("KL mean     {} nats\n", nats(l.kl_mean));
    out += &format!(
        "KL largest  {} nats at position {} (at most {:.0e})\n",
        nats(l.kl_max),
        l.kl_max_position,
        v.tolerance.kl
    );
    out += &format!(
        "difference  {:.3e} of a logit at position {}, token {} (at most {:.3e}; the largest logit is {:.3})\n",
        l.largest.difference,
        l.largest.position,
        l.largest.token,
        v.tolerance.difference * l.scale,
        l.scale
    );
    out += &format!("same token  {} of {}", l.same_token, l.positions);
    out += &match &l.first_other {
        None => "\n".into(),
        Some(o) => format!(
            "; first other at position {}: {} in candle, {} in ullage, {:.3e} apart\n",
            o.position, o.reference, o.engine, o.margin
        ),
    };
    out += &format!(
        "candle      {} ({} B) held at most, {} ({} B) reserved\n",
        Bytes(v.guest_held),
        v.guest_held,
        Bytes(v.guest_reserved),
        v.guest_reserved
    );
    if !v.layers.is_empty() {
        out += &format!("\n{:>5} {:>34}\n", "layer", "residual stream, relative difference");
        for (l, difference) in v.layers.iter().enumerate() {
            out += &format!("{l:>5} {difference:>34.3e}\n");
        }
    }
    out += "\n";
    for line in &v.beyond {
        out += &format!("differs: {line}\n");
    }
    if v.agrees() {
        out += "the two engines agree\n";
    }
    out
}
