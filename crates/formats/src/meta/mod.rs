//! Meta's own checkpoints: `params.json` and `consolidated.NN.pth`, one file per model-parallel
//! rank, each a zip archive with a pickle that describes tensors and one entry per storage.

mod params;
mod pickle;
mod pth;
mod shards;
mod write;
mod zip;

pub(crate) use params::{params_json, read_config};
pub(crate) use shards::MetaStore;
pub(crate) use write::{MetaPlan, write_pth};
