//! The server as apps see it: requests through the whole router, over a tiny model on the reference backend and over
//! one that says what a test wants.

mod anthropic;
mod conduct;
mod hostile;
mod llama_cpp;
mod ollama;
mod openai;
mod pool;
mod support;
mod telemetry;
mod tools;
