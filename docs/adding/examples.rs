//! The pages of this folder, so that `cargo test --doc` compiles and runs their examples.

macro_rules! pages {
    ($($name:ident $file:literal)+) => {
        $(#[doc = include_str!($file)] pub struct $name;)+
    };
}

pages! {
    KvSelect "kv-select.md"
    KvSplit "kv-split.md"
    KvMerge "kv-merge.md"
    KvChannels "kv-channels.md"
    KvFormat "kv-format.md"
    KvRead "kv-read.md"
    KvAlloc "kv-alloc.md"
    WeightsFormat "weights-format.md"
    PlaceWeights "place-weights.md"
    PlaceKv "place-kv.md"
    TrainParams "train-params.md"
    TrainGradient "train-gradient.md"
    TrainOptimizer "train-optimizer.md"
    TrainActivations "train-activations.md"
    TrainLoss "train-loss.md"
    TrainOrder "train-order.md"
    Eval "eval.md"
    Architecture "architecture.md"
    Picture "picture.md"
    Operation "operation.md"
    Readme "README.md"
}
