//! `alti chat`: a conversation in the terminal.

use crate::commands::run::now;
use crate::environment::Environment;
use crate::exit::{Exit, Failure, message_of};
use crate::model::{Loaded, Task, Wants, name_or_default, with_model};
use crate::options::{RunOptions, SamplingOptions};
use crate::{input, interrupt};
use alti_engine::sampling::SamplerSettings;
use alti_engine::stop::FinishReason;
use alti_engine::{Answer, Event, Request, Session, WhenFull, generate};
use alti_tensor::Backend;
use alti_text::{ChatTemplate, Content, Conversation, Message, Tokenizer};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, Editor};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// Talk to a model
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  alti chat
  alti chat llama3.2-1b-instruct --system \"Answer in one sentence.\"
  alti chat model.gguf --temperature 0.2 --context 16384

In a chat, /help lists what can be typed besides messages. Ctrl-C stops an answer, Ctrl-D ends
the chat.")]
pub struct ChatCommand {
    /// Model: a name in the store or a path
    model: Option<String>,
    /// LoRA adapter for the model: a PEFT folder or a GGUF file
    #[arg(long, value_name = "PATH")]
    adapter: Option<PathBuf>,
    /// Instructions for the model, before the conversation
    #[arg(long)]
    system: Option<String>,
    /// Conversation to continue, a file that /save wrote
    #[arg(long, value_name = "FILE")]
    load: Option<PathBuf>,
    /// End an answer when the context is full, instead of forgetting the oldest turns
    #[arg(long)]
    no_context_shift: bool,
    #[command(flatten)]
    run: RunOptions,
    #[command(flatten)]
    sampling: SamplingOptions,
}

/// A conversation as /save writes it.
#[derive(Serialize, Deserialize)]
struct Saved {
    messages: Vec<Message>,
}

/// What can be typed besides messages: name, argument, meaning.
const COMMANDS: [(&str, &str, &str); 9] = [
    ("/help", "", "this list"),
    ("/system", "[TEXT]", "show or set the instructions, and start anew"),
    ("/clear", "", "start anew, with the same instructions"),
    ("/regenerate", "", "answer the last message again"),
    ("/stats", "", "how fast the last answer was, and how full the context is"),
    ("/save", "FILE", "write the conversation to a file"),
    ("/load", "FILE", "continue a conversation from a file"),
    ("/history", "", "show the conversation"),
    ("/quit", "", "end the chat (Ctrl-D does, too)"),
];

impl ChatCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the model cannot be loaded, or a step fails.
    pub fn run(&self, environment: &Environment, json: bool) -> anyhow::Result<()> {
        let name = name_or_default(environment, self.model.as_deref()).to_owned();
        with_model(environment, &name, &self.run, ChatTask { command: self, environment, name: &name, json })
    }
}

struct ChatTask<'a> {
    command: &'a ChatCommand,
    environment: &'a Environment,
    name: &'a str,
    json: bool,
}

impl Task for ChatTask<'_> {
    type Output = ();

    fn keeps_packed(&self) -> bool {
        true
    }

    fn wants(&self) -> Wants {
        Wants::Chat
    }

    fn run<B: Backend<Element = f32>>(self, loaded: Loaded<B>) -> anyhow::Result<()> {
        let tokenizer = loaded.tokenizer()?;
        let template = loaded.template(&tokenizer)?;
        let system = self.command.system.iter().map(|text| Message::text("system", text)).collect();
        let mut chat = Chat {
            tokenizer,
            template,
            session: loaded.session(&self.command.run, self.command.adapter.as_deref())?,
            sampling: self.command.sampling.settings.clone(),
            shift: !self.command.no_context_shift,
            messages: system,
            forgotten: 0,
            last: None,
            color: self.environment.color && !self.json,
            json: self.json,
        };
        if let Some(file) = &self.command.load {
            chat.load(file)?;
        }
        let mut input = Input::new(self.environment)?;
        if input.is_terminal() {
            eprintln!("{} · {} tokens of context · /help lists commands", self.name, chat.session.context());
        }
        while let Some(entered) = input.read()? {
            // Ctrl-C stops what was entered from here on, also when the answer has not begun.
            interrupt::flag().store(false, Ordering::SeqCst);
            let done = match &entered {
                Entered::Line(line) if line.trim().is_empty() => continue,
                Entered::Line(line) if line.starts_with('/') => chat.command(line.trim()),
                Entered::Line(text) | Entered::Block(text) => chat.say(text).map(|()| true),
            };
            match done {
                Ok(true) => (),
                Ok(false) => break,
                // In a conversation an error is told and the conversation goes on.
                Err(error) if input.is_terminal() => eprintln!("error: {}", message_of(&error)),
                Err(error) => return Err(error),
            }
        }
        input.save();
        Ok(())
    }
}

/// A conversation and the model that it is with.
struct Chat<B: Backend> {
    tokenizer: Tokenizer,
    template: ChatTemplate,
    session: Session<B>,
    sampling: SamplerSettings,
    shift: bool,
    messages: Vec<Message>,
    /// Turns at the beginning that the model is not told of any more.
    forgotten: usize,
    last: Option<Answer>,
    color: bool,
    json: bool,
}

impl<B: Backend<Element = f32>> Chat<B> {
    /// Sends a message and shows the answer.
    fn say(&mut self, text: &str) -> anyhow::Result<()> {
        let forgotten = self.forgotten;
        self.messages.push(Message::text("user", text));
        self.answer().inspect_err(|_| {
            // The message was not answered: it is as if it had not been said.
            self.messages.pop();
            self.forgotten = forgotten;
        })
    }

    /// Answers the last message.
    fn answer(&mut self) -> anyhow::Result<()> {
        let prompt = self.prompt()?;
        let keep = self.kept()?;
        let when_full = if self.shift { WhenFull::Shift { keep } } else { WhenFull::Stop };
        let sampling = self.sampling.clone();
        let request = Request { prompt, sampling, when_full, ignore_end: false };
        let cancel = interrupt::flag();
        let mut out = std::io::stdout().lock();
        let (json, mut written) = (self.json, Ok(()));
        let answer = generate(&mut self.session, &self.tokenizer, &request, &cancel, |event| {
            if let (Event::Text(text), false, Ok(())) = (event, json, &written) {
                written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
                if written.is_err() {
                    cancel.store(true, Ordering::SeqCst);
                }
            }
        })?;
        written?;
        cancel.store(false, Ordering::SeqCst);
        if json {
            let line = json!({
                "role": "assistant", "content": answer.text, "finish_reason": answer.finish.name(),
                "seed": answer.seed, "timings": answer.timings,
            });
            writeln!(out, "{line}")?;
        } else {
            writeln!(out)?;
            out.flush()?;
            if let Some(note) = note(&answer.finish) {
                eprintln!("{}", self.dim(note));
            }
        }
        self.messages.push(Message::text("assistant", &answer.text));
        self.last = Some(answer);
        Ok(())
    }

    /// The conversation as tokens. Of one that leaves little room for an answer the oldest turns are
    /// left out, so many that half of the context is free again.
    fn prompt(&mut self) -> anyhow::Result<Vec<u32>> {
        let context = self.session.context();
        let mut prompt = self.render()?;
        if !self.shift || prompt.len() + context / 8 <= context {
            return Ok(prompt);
        }
        let forgotten = self.forgotten;
        while prompt.len() > context / 2 && self.forget_turn() {
            prompt = self.render()?;
        }
        if self.forgotten > forgotten {
            eprintln!("{}", self.dim("(the oldest turns are forgotten: the context was full)"));
        }
        Ok(prompt)
    }

    fn render(&self) -> anyhow::Result<Vec<u32>> {
        let (system, turns): (Vec<_>, Vec<_>) = self.messages.iter().cloned().partition(is_system);
        let messages = system.into_iter().chain(turns.into_iter().skip(self.forgotten)).collect();
        let conversation = Conversation { now: Some(now()), ..Conversation::new(messages) };
        Ok(self.template.render(&conversation)?.tokens(&self.tokenizer))
    }

    /// Leaves out one more turn, up to the next message of the user; false when it is the last.
    fn forget_turn(&mut self) -> bool {
        let turns = self.messages.iter().filter(|message| !is_system(message)).skip(self.forgotten + 1);
        let next = turns.enumerate().find(|(_, message)| message.role == "user");
        self.forgotten += next.as_ref().map_or(0, |(index, _)| index + 1);
        next.is_some()
    }

    /// Tokens at the beginning that a context shift must keep: what the template puts before the
    /// first message of the user, whatever that is.
    fn kept(&self) -> anyhow::Result<usize> {
        let system: Vec<Message> =
            self.messages.iter().filter(|message| is_system(message)).cloned().collect();
        let beginning = |text: &str| {
            let messages = system.iter().cloned().chain([Message::text("user", text)]).collect();
            let conversation = Conversation { now: Some(now()), ..Conversation::new(messages) };
            anyhow::Ok(self.template.render(&conversation)?.tokens(&self.tokenizer))
        };
        let (one, other) = (beginning("1")?, beginning("a")?);
        let kept = one.iter().zip(&other).take_while(|(a, b)| a == b).count();
        Ok(kept.min(self.session.context() / 2))
    }

    /// Runs a command; false when it ends the chat.
    fn command(&mut self, line: &str) -> anyhow::Result<bool> {
        let (name, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let argument = argument.trim();
        match name {
            "/help" => {
                for (name, argument, meaning) in COMMANDS {
                    eprintln!("  {:20} {meaning}", format!("{name} {argument}"));
                }
                eprintln!("  A line that ends in \\ goes on; \"\"\" begins and ends several lines.");
            }
            "/system" if argument.is_empty() => eprintln!("{}", self.system().unwrap_or("(none)")),
            "/system" => self.restart(vec![Message::text("system", argument)]),
            "/clear" => {
                self.restart(self.messages.iter().filter(|message| is_system(message)).cloned().collect())
            }
            "/regenerate" => self.regenerate()?,
            "/stats" => self.stats(),
            "/save" => self.save(Path::new(required(argument, "/save FILE")?))?,
            "/load" => self.load(Path::new(required(argument, "/load FILE")?))?,
            "/history" => {
                self.messages.iter().for_each(|message| eprintln!("{}: {}", message.role, text_of(message)))
            }
            "/quit" | "/exit" | "/bye" => return Ok(false),
            _ => {
                let message = format!("there is no command {name}; /help lists them");
                return Err(Exit::new(Failure::Usage, message).into());
            }
        }
        Ok(true)
    }

    fn restart(&mut self, messages: Vec<Message>) {
        self.messages = messages;
        self.forgotten = 0;
    }

    fn system(&self) -> Option<&str> {
        self.messages.iter().find(|message| is_system(message)).map(text_of)
    }

    fn regenerate(&mut self) -> anyhow::Result<()> {
        let Some(previous) = self.messages.pop_if(|message| message.role == "assistant") else {
            return Err(Exit::new(Failure::Usage, "there is no answer to give again").into());
        };
        self.answer().inspect_err(|_| self.messages.push(previous))
    }

    fn stats(&self) {
        let Some(answer) = &self.last else {
            eprintln!("nothing has been answered yet");
            return;
        };
        let timings = &answer.timings;
        eprintln!(
            "prefill {} tokens, {:.0} a second ({} were in the context already); answer {} tokens, {:.0} a second; \
             context {} of {}; seed {}",
            timings.prefill_tokens,
            timings.prefill_rate(),
            timings.cached_tokens,
            answer.tokens.len(),
            timings.decode_rate(),
            self.session.tokens().len(),
            self.session.context(),
            answer.seed,
        );
    }

    /// Replaces what /save wrote, and nothing else.
    fn save(&self, file: &Path) -> anyhow::Result<()> {
        alti_formats::check_target(file, true)?;
        if let Ok(there) = std::fs::File::open(file)
            && serde_json::from_reader::<_, Saved>(std::io::BufReader::new(there)).is_err()
        {
            let message = format!(
                "{}: is there already and holds no conversation, so it stays; name another file",
                file.display()
            );
            return Err(Exit::new(Failure::Failed, message).into());
        }
        let text = serde_json::to_string_pretty(&Saved { messages: self.messages.clone() })?;
        alti_formats::write_whole(file, text.as_bytes())?;
        eprintln!("saved {} messages to {}", self.messages.len(), file.display());
        Ok(())
    }

    fn load(&mut self, file: &Path) -> anyhow::Result<()> {
        let failure = |failure, what: &dyn std::fmt::Display| {
            Exit::new(failure, format!("{}: {what}; /save writes such files", file.display()))
        };
        let text = input::file(file)?;
        let saved: Saved = serde_json::from_str(&text).map_err(|error| failure(Failure::BadFile, &error))?;
        self.restart(saved.messages);
        eprintln!("loaded {} messages from {}", self.messages.len(), file.display());
        Ok(())
    }

    fn dim(&self, text: &str) -> String {
        if self.color { format!("\x1b[2m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn is_system(message: &Message) -> bool {
    message.role == "system"
}

fn required<'a>(argument: &'a str, usage: &str) -> anyhow::Result<&'a str> {
    match argument.is_empty() {
        true => Err(Exit::new(Failure::Usage, format!("usage: {usage}")).into()),
        false => Ok(argument),
    }
}

fn text_of(message: &Message) -> &str {
    match &message.content {
        Some(Content::Text(text)) => text,
        Some(Content::Parts(_)) => "(several parts)",
        None => "",
    }
}

/// What is worth saying about the end of an answer.
fn note(finish: &FinishReason) -> Option<&'static str> {
    match finish {
        FinishReason::StopToken(_) | FinishReason::StopString(_) | FinishReason::GrammarEnd => None,
        FinishReason::TimedOut => Some("(cut: out of time)"),
        FinishReason::Length => Some("(cut: --max-tokens)"),
        FinishReason::ContextFull => Some("(cut: the context is full; /clear starts anew)"),
        FinishReason::Cancelled => Some("(stopped)"),
    }
}

/// What came of asking for a line.
enum Typed {
    Line(String),
    Abandoned,
    End,
}

/// What a user has entered: only a line can be a command.
enum Entered {
    Line(String),
    Block(String),
}

/// Where messages come from: a terminal with line editing, or a pipe.
enum Input {
    Terminal { editor: Box<Editor<(), FileHistory>>, history: PathBuf },
    Pipe(std::io::Lines<std::io::StdinLock<'static>>),
}

impl Input {
    fn new(environment: &Environment) -> anyhow::Result<Input> {
        if !std::io::stdin().is_terminal() {
            return Ok(Input::Pipe(std::io::stdin().lines()));
        }
        let config = Config::builder().auto_add_history(true).max_history_size(1000)?.build();
        let mut editor = Editor::with_config(config)?;
        let history = environment.home.join("chat-history");
        // There is none the first time.
        let _ = editor.load_history(&history);
        Ok(Input::Terminal { editor: Box::new(editor), history })
    }

    fn is_terminal(&self) -> bool {
        matches!(self, Input::Terminal { .. })
    }

    /// What is entered next, several lines where it says so. `None` at the end of the input.
    fn read(&mut self) -> anyhow::Result<Option<Entered>> {
        loop {
            match self.line("> ")? {
                Typed::End => return Ok(None),
                Typed::Abandoned => eprintln!("(Ctrl-D or /quit ends the chat)"),
                Typed::Line(line) => {
                    if let Some(entered) = self.rest_of(line)? {
                        return Ok(Some(entered));
                    }
                }
            }
        }
    }

    /// The whole of what begins with this line; `None` when it is abandoned.
    fn rest_of(&mut self, first: String) -> anyhow::Result<Option<Entered>> {
        const FENCE: &str = "\"\"\"";
        let fenced = first.trim_start().strip_prefix(FENCE).map(str::to_owned);
        let is_fenced = fenced.is_some();
        let mut text = fenced.unwrap_or(first);
        while if is_fenced { !text.trim_end().ends_with(FENCE) } else { text.ends_with('\\') } {
            if !is_fenced {
                text.pop();
            }
            match self.line("| ")? {
                Typed::Line(line) => {
                    text.push('\n');
                    text.push_str(&line);
                }
                Typed::Abandoned => return Ok(None),
                Typed::End => break,
            }
        }
        if is_fenced {
            let end = text.trim_end().strip_suffix(FENCE).map_or(text.len(), str::len);
            text.truncate(end);
        }
        let several = is_fenced || text.contains('\n');
        Ok(Some(if several { Entered::Block(text) } else { Entered::Line(text) }))
    }

    fn line(&mut self, prompt: &str) -> anyhow::Result<Typed> {
        match self {
            Input::Pipe(lines) => Ok(lines.next().transpose()?.map_or(Typed::End, Typed::Line)),
            Input::Terminal { editor, .. } => match editor.readline(prompt) {
                Ok(line) => Ok(Typed::Line(line)),
                // Ctrl-C abandons what is being typed.
                Err(ReadlineError::Interrupted) => Ok(Typed::Abandoned),
                Err(ReadlineError::Eof) => Ok(Typed::End),
                Err(error) => Err(error.into()),
            },
        }
    }

    /// Keeps the line history for the next time; not being able to is no reason to fail.
    fn save(&mut self) {
        if let Input::Terminal { editor, history } = self {
            // There is no such folder while no model was ever pulled.
            let _ = history.parent().map(std::fs::create_dir_all);
            let _ = editor.save_history(history);
        }
    }
}
