//! Familiar cards and machines as data: how much they hold and how fast they are, by their makers' figures.
//!
//! The figures are peaks: what a data sheet promises, not what a program gets. Memory is in binary units, as cards have it
//! (a "24 GB" card holds 24 GiB); bandwidths are decimal bytes a second, as makers print them; FLOP/s are f32 without
//! matrix units, which is what a run in f32 can use.

use serde::Serialize;

use super::{Cpu, Gpu, Link, Machine, Memory, Speed};

/// Where a card's memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Its own, beside the RAM of the machine it is in.
    Gpu,
    /// One memory for CPU and GPU; the system and its programs want a share of it.
    Unified,
    /// The RAM of a machine that computes on its CPU.
    Cpu,
}

/// A card or a machine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Card {
    /// lower-case-with-dashes; unique.
    pub id: &'static str,
    /// As its maker calls it, with its memory.
    pub name: &'static str,
    /// Where its memory is.
    pub kind: Kind,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes a second from that memory.
    pub bandwidth: f64,
    /// f32 operations a second.
    pub f32_flops: f64,
    /// Bytes a second between the host's RAM and a GPU, one way; 0 where there is nothing between.
    pub link: f64,
    /// Where the figures are from.
    pub source: &'static str,
}

impl Card {
    /// The card of this id.
    pub fn find(id: &str) -> Option<&'static Self> {
        CARDS.iter().find(|c| c.id == id)
    }
}

/// PCI Express, 16 lanes of generation 3, 4 and 5, and 8 of generation 4: 128b/130b coded.
const X16_3: f64 = 15.75e9;
const X16_4: f64 = 31.5e9;
const X16_5: f64 = 63e9;
const X8_4: f64 = 15.75e9;

const GEFORCE: &str = "NVIDIA GeForce product specifications";
const DATA_CENTER: &str = "NVIDIA data sheet";
const APPLE: &str = "Apple technical specifications; f32 as Apple states it";
const APPLE_CORES: &str =
    "Apple technical specifications; f32 from GPU cores × 128 lanes × 2 × 1.4 GHz, which Apple does not state";
const JEDEC: &str = "JEDEC data rate × 8 B × 2 channels; f32 from 8 cores × 32 a cycle × 4 GHz";

macro_rules! cards {
    ($($kind:ident $id:literal $name:literal: $gib:literal GiB, $gbs:literal GB/s, $tflops:literal TFLOPs, $link:expr, $source:expr;)+) => {
        /// All of them, by maker and then by memory and speed.
        pub static CARDS: &[Card] = &[$(Card {
            id: $id,
            name: $name,
            kind: Kind::$kind,
            memory: $gib << 30,
            bandwidth: $gbs * 1e9,
            f32_flops: $tflops * 1e12,
            link: $link,
            source: $source,
        }),+];
    };
}

cards! {
    Gpu "rtx-3060-12" "GeForce RTX 3060 12 GB": 12 GiB, 360.0 GB/s, 12.7 TFLOPs, X16_4, GEFORCE;
    Gpu "rtx-4070-12" "GeForce RTX 4070 12 GB": 12 GiB, 504.0 GB/s, 29.1 TFLOPs, X16_4, GEFORCE;
    Gpu "rtx-4060-ti-16" "GeForce RTX 4060 Ti 16 GB": 16 GiB, 288.0 GB/s, 22.1 TFLOPs, X8_4, GEFORCE;
    Gpu "rtx-4080-16" "GeForce RTX 4080 16 GB": 16 GiB, 716.8 GB/s, 48.7 TFLOPs, X16_4, GEFORCE;
    Gpu "rtx-5080-16" "GeForce RTX 5080 16 GB": 16 GiB, 960.0 GB/s, 56.3 TFLOPs, X16_5, GEFORCE;
    Gpu "rtx-3090-24" "GeForce RTX 3090 24 GB": 24 GiB, 936.2 GB/s, 35.6 TFLOPs, X16_4, GEFORCE;
    Gpu "rtx-4090-24" "GeForce RTX 4090 24 GB": 24 GiB, 1008.0 GB/s, 82.6 TFLOPs, X16_4, GEFORCE;
    Gpu "rtx-5090-32" "GeForce RTX 5090 32 GB": 32 GiB, 1792.0 GB/s, 104.8 TFLOPs, X16_5, GEFORCE;
    Gpu "t4-16" "NVIDIA T4 16 GB": 16 GiB, 320.0 GB/s, 8.1 TFLOPs, X16_3, DATA_CENTER;
    Gpu "l4-24" "NVIDIA L4 24 GB": 24 GiB, 300.0 GB/s, 30.3 TFLOPs, X16_4, DATA_CENTER;
    Gpu "a100-40" "NVIDIA A100 40 GB": 40 GiB, 1555.0 GB/s, 19.5 TFLOPs, X16_4, DATA_CENTER;
    Gpu "l40s-48" "NVIDIA L40S 48 GB": 48 GiB, 864.0 GB/s, 91.6 TFLOPs, X16_4, DATA_CENTER;
    Gpu "a100-80" "NVIDIA A100 SXM 80 GB": 80 GiB, 2039.0 GB/s, 19.5 TFLOPs, X16_4, DATA_CENTER;
    Gpu "h100-80" "NVIDIA H100 SXM 80 GB": 80 GiB, 3350.0 GB/s, 67.0 TFLOPs, X16_5, DATA_CENTER;
    Gpu "h200-141" "NVIDIA H200 SXM 141 GB": 141 GiB, 4800.0 GB/s, 67.0 TFLOPs, X16_5, DATA_CENTER;
    Gpu "rx-7900-xtx-24" "Radeon RX 7900 XTX 24 GB": 24 GiB, 960.0 GB/s, 61.4 TFLOPs, X16_4, "AMD product specifications";
    Gpu "mi300x-192" "AMD Instinct MI300X 192 GB": 192 GiB, 5300.0 GB/s, 163.4 TFLOPs, X16_5, "AMD Instinct MI300X data sheet";
    Unified "m1-8" "Apple M1, 8 GB": 8 GiB, 68.3 GB/s, 2.6 TFLOPs, 0.0, APPLE;
    Unified "m1-16" "Apple M1, 16 GB": 16 GiB, 68.3 GB/s, 2.6 TFLOPs, 0.0, APPLE;
    Unified "m1-pro-16" "Apple M1 Pro, 16 GB": 16 GiB, 200.0 GB/s, 5.2 TFLOPs, 0.0, APPLE;
    Unified "m1-pro-32" "Apple M1 Pro, 32 GB": 32 GiB, 200.0 GB/s, 5.2 TFLOPs, 0.0, APPLE;
    Unified "m1-max-32" "Apple M1 Max, 32 GB": 32 GiB, 400.0 GB/s, 10.4 TFLOPs, 0.0, APPLE;
    Unified "m1-max-64" "Apple M1 Max, 64 GB": 64 GiB, 400.0 GB/s, 10.4 TFLOPs, 0.0, APPLE;
    Unified "m2-8" "Apple M2, 8 GB": 8 GiB, 100.0 GB/s, 3.6 TFLOPs, 0.0, APPLE;
    Unified "m2-16" "Apple M2, 16 GB": 16 GiB, 100.0 GB/s, 3.6 TFLOPs, 0.0, APPLE;
    Unified "m2-24" "Apple M2, 24 GB": 24 GiB, 100.0 GB/s, 3.6 TFLOPs, 0.0, APPLE;
    Unified "m2-pro-16" "Apple M2 Pro, 16 GB": 16 GiB, 200.0 GB/s, 6.8 TFLOPs, 0.0, APPLE;
    Unified "m2-pro-32" "Apple M2 Pro, 32 GB": 32 GiB, 200.0 GB/s, 6.8 TFLOPs, 0.0, APPLE;
    Unified "m2-max-32" "Apple M2 Max, 32 GB": 32 GiB, 400.0 GB/s, 13.6 TFLOPs, 0.0, APPLE;
    Unified "m2-max-64" "Apple M2 Max, 64 GB": 64 GiB, 400.0 GB/s, 13.6 TFLOPs, 0.0, APPLE;
    Unified "m2-max-96" "Apple M2 Max, 96 GB": 96 GiB, 400.0 GB/s, 13.6 TFLOPs, 0.0, APPLE;
    Unified "m3-8" "Apple M3, 8 GB": 8 GiB, 100.0 GB/s, 3.6 TFLOPs, 0.0, APPLE_CORES;
    Unified "m3-16" "Apple M3, 16 GB": 16 GiB, 100.0 GB/s, 3.6 TFLOPs, 0.0, APPLE_CORES;
    Unified "m3-24" "Apple M3, 24 GB": 24 GiB, 100.0 GB/s, 3.6 TFLOPs, 0.0, APPLE_CORES;
    Unified "m3-pro-18" "Apple M3 Pro, 18 GB": 18 GiB, 150.0 GB/s, 6.5 TFLOPs, 0.0, APPLE_CORES;
    Unified "m3-pro-36" "Apple M3 Pro, 36 GB": 36 GiB, 150.0 GB/s, 6.5 TFLOPs, 0.0, APPLE_CORES;
    Unified "m3-max-36" "Apple M3 Max (30-core GPU), 36 GB": 36 GiB, 300.0 GB/s, 10.8 TFLOPs, 0.0, APPLE_CORES;
    Unified "m3-max-48" "Apple M3 Max (40-core GPU), 48 GB": 48 GiB, 400.0 GB/s, 14.3 TFLOPs, 0.0, APPLE_CORES;
    Unified "m3-max-64" "Apple M3 Max (40-core GPU), 64 GB": 64 GiB, 400.0 GB/s, 14.3 TFLOPs, 0.0, APPLE_CORES;
    Unified "m3-max-128" "Apple M3 Max (40-core GPU), 128 GB": 128 GiB, 400.0 GB/s, 14.3 TFLOPs, 0.0, APPLE_CORES;
    Unified "m4-16" "Apple M4, 16 GB": 16 GiB, 120.0 GB/s, 3.6 TFLOPs, 0.0, APPLE_CORES;
    Unified "m4-24" "Apple M4, 24 GB": 24 GiB, 120.0 GB/s, 3.6 TFLOPs, 0.0, APPLE_CORES;
    Unified "m4-32" "Apple M4, 32 GB": 32 GiB, 120.0 GB/s, 3.6 TFLOPs, 0.0, APPLE_CORES;
    Unified "m4-pro-24" "Apple M4 Pro, 24 GB": 24 GiB, 273.0 GB/s, 7.2 TFLOPs, 0.0, APPLE_CORES;
    Unified "m4-pro-48" "Apple M4 Pro, 48 GB": 48 GiB, 273.0 GB/s, 7.2 TFLOPs, 0.0, APPLE_CORES;
    Unified "m4-pro-64" "Apple M4 Pro, 64 GB": 64 GiB, 273.0 GB/s, 7.2 TFLOPs, 0.0, APPLE_CORES;
    Unified "m4-max-36" "Apple M4 Max (32-core GPU), 36 GB": 36 GiB, 410.0 GB/s, 11.5 TFLOPs, 0.0, APPLE_CORES;
    Unified "m4-max-48" "Apple M4 Max (40-core GPU), 48 GB": 48 GiB, 546.0 GB/s, 14.3 TFLOPs, 0.0, APPLE_CORES;
    Unified "m4-max-64" "Apple M4 Max (40-core GPU), 64 GB": 64 GiB, 546.0 GB/s, 14.3 TFLOPs, 0.0, APPLE_CORES;
    Unified "m4-max-128" "Apple M4 Max (40-core GPU), 128 GB": 128 GiB, 546.0 GB/s, 14.3 TFLOPs, 0.0, APPLE_CORES;
    Cpu "raspberry-pi-5-8" "Raspberry Pi 5, 8 GB": 8 GiB, 17.1 GB/s, 0.154 TFLOPs, 0.0, "Raspberry Pi 5 product brief: LPDDR4X-4267, 32 bits; f32 from 4 cores × 16 a cycle × 2.4 GHz";
    Cpu "ddr4-16" "Computer with DDR4-3200, 16 GB": 16 GiB, 51.2 GB/s, 1.02 TFLOPs, 0.0, JEDEC;
    Cpu "ddr5-32" "Computer with DDR5-5600, 32 GB": 32 GiB, 89.6 GB/s, 1.02 TFLOPs, 0.0, JEDEC;
}

impl Machine {
    /// A machine with the figures of `card`, for plans of what is not here. Speeds are the data sheet's and count as not
    /// probed; what a data sheet does not say (the disk, the host's own RAM beside a GPU) is as on a machine that nobody
    /// has probed. A GPU's figures stand both as its first GPU's and as its CPU's, so that a plan for either has them.
    pub fn like(card: &Card) -> Self {
        let here = Self::default_guess();
        // Between a GPU and its host a byte crosses the link once; inside one memory it is read and written.
        let copy = if card.kind == Kind::Gpu { card.link } else { card.bandwidth / 2.0 };
        let link = Link::flat(10e-6, copy);
        let gpu = Gpu {
            name: card.name.to_owned(),
            memory: card.memory,
            available: card.memory,
            read: card.bandwidth,
            f32_flops: card.f32_flops,
            bf16_flops: card.f32_flops,
            launch_s: super::launch_guess(),
            upload_pinned: link.clone(),
            upload: link.clone(),
            download: link,
        };
        let own = Memory { total: card.memory, available: card.memory, cgroup_limit: None, cgroup_available: None };
        Self {
            cpu: Cpu { model: card.name.to_owned(), ..here.cpu },
            memory: if card.kind == Kind::Gpu { here.memory } else { own },
            speed: Speed { read: [card.bandwidth; 2], copy: [copy; 2], f32_flops: [card.f32_flops; 2], kernels: None },
            gpus: if card.kind == Kind::Gpu { vec![gpu] } else { Vec::new() },
            ..here
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::from_toml;
    use crate::config::Compute;
    use crate::forward::gpu::fuse::pass_launches;
    use crate::forward::step::Batch;
    use crate::plan::plan;
    use crate::plan::tests::{shape, workload};

    #[test]
    fn ids_are_unique_and_figures_plausible() {
        let mut ids = std::collections::BTreeSet::new();
        for card in CARDS {
            assert!(ids.insert(card.id), "{} twice", card.id);
            assert_eq!(Card::find(card.id), Some(card));
            assert!((4 << 30..1 << 40).contains(&card.memory), "{}", card.name);
            assert!((10e9..10e12).contains(&card.bandwidth) && (1e11..1e15).contains(&card.f32_flops), "{}", card.name);
            assert_eq!(card.kind == Kind::Gpu, card.link > 0.0, "{}", card.name);
            // The memory a name states is the memory it has.
            let gib = card.memory >> 30;
            assert!(card.name.contains(&format!("{gib} GB")) && card.id.ends_with(&format!("-{gib}")), "{}", card.name);
            assert!(!card.source.is_empty());
            assert_eq!(Machine::like(card).defect(), None, "{}", card.name);
        }
        assert!(Card::find("abacus").is_none());
    }

    #[test]
    fn a_plan_for_a_card_takes_its_bandwidth() {
        let shape = shape("llama-1b@f16");
        let speed = |id: &str, device: &str| {
            let config = from_toml("", &[("machine.device".into(), device.into())]).unwrap();
            let machine = Machine::like(Card::find(id).unwrap());
            let time = plan(&shape, &workload(&config, 100), &config, &machine).unwrap().time;
            assert!(!time.probed);
            (time.decode_tokens_per_second, time.decode_bytes as f64)
        };
        // Decoding one sequence is bound by reading the weights: a token takes bytes over bandwidth, and on a GPU what
        // launching its kernels takes.
        let step = Batch { rows: 1, sequences: 1, cached: 200.0 };
        let launches = pass_launches(&shape, Compute::Half, step, true);
        let launching = super::super::launch_guess() * launches as f64;
        for (id, bandwidth) in [("rtx-4090-24", 1008e9), ("h100-80", 3350e9)] {
            for (device, beside) in [("cpu", 0.0), ("cuda:0", launching)] {
                let (tokens, bytes) = speed(id, device);
                assert!((tokens * (bytes / bandwidth + beside) - 1.0).abs() < 1e-9, "{id} {device}: {tokens}");
            }
        }
        let (pi, m4) = (speed("raspberry-pi-5-8", "cpu").0, speed("m4-max-64", "cpu").0);
        assert!((m4 / pi - 546.0 / 17.1).abs() < 1e-6, "{m4} {pi}");
    }
}
