//! Hugging Face checkpoints: safetensors files with a `config.json`
//! (<https://huggingface.co/docs/safetensors>).

mod config;
mod store;

pub(crate) use config::read_config;
pub(crate) use store::SafetensorsStore;
