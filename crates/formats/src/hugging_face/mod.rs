//! Hugging Face checkpoints: safetensors files with a `config.json`
//! (<https://huggingface.co/docs/safetensors>).

mod config;
mod store;
mod write;

pub(crate) use config::{config_json, read_config};
pub(crate) use store::SafetensorsStore;
pub(crate) use write::{SafetensorsPlan, write_safetensors};
