//! What `alti serve` puts together: its settings, and where the server gets models from.

pub mod loader;
pub mod model_sampling;
pub mod served;
pub mod settings;
