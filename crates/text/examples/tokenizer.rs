//! Loads a model's tokenizer and chat template, says how long that took, and shows what they do to a text:
//! `cargo run --release -p alti-text --example tokenizer -- MODEL [TEXT]`.

use std::path::Path;
use std::time::Instant;

use alti_formats::Checkpoint;
use alti_text::{ChatTemplate, Conversation, Message, Specials, Tokenizer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().ok_or("usage: tokenizer MODEL [TEXT]")?;
    let text = arguments.next().unwrap_or_else(|| "Hello, World! It's 2025.".into());

    let started = Instant::now();
    let checkpoint = Checkpoint::open(Path::new(&model))?;
    println!("checkpoint opened in {:.1?}", started.elapsed());
    let started = Instant::now();
    let tokenizer = Tokenizer::for_checkpoint(&checkpoint)?;
    println!("{tokenizer:?} loaded in {:.1?}", started.elapsed());
    let started = Instant::now();
    let tokens = tokenizer.encode(&text, Specials::AsText);
    println!("encoded in {:.1?}: {tokens:?}", started.elapsed());
    println!("decoded: {:?}", tokenizer.decode(&tokens));

    let started = Instant::now();
    let template = ChatTemplate::for_checkpoint(&checkpoint, &tokenizer)?;
    let prompt = template.render(&Conversation::new(vec![Message::text("user", text)]))?;
    println!("prompt rendered in {:.1?}: {:?}", started.elapsed(), prompt.text());
    println!("its tokens: {:?}", prompt.tokens(&tokenizer));
    Ok(())
}
