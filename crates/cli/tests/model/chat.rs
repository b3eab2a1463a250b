//! `alti chat` in a terminal (a pseudo-terminal, with a person's keys) and in a pipe.

use crate::common::{Done, User};
use crate::store;
use rexpect::reader::Options;
use rexpect::session::PtySession;
use std::path::Path;
use std::process::Stdio;

/// Flags of a chat that answers quickly and always the same.
const GREEDY: [&str; 7] = ["chat", "--preset", "greedy", "--context", "1024", "--threads", "1"];

/// What the line editor switches on before each prompt, and off after each line.
const PASTE_ON: &str = "\x1b[?2004h";
const PASTE_OFF: &str = "\x1b[?2004l";
const UP: &str = "\x1b[A";

/// A person at a terminal.
struct Terminal {
    session: PtySession,
}

impl Terminal {
    /// Starts a chat and waits for its prompt; also returns what it says first.
    fn start(user: &User, flags: &[&str], variables: &[(&str, &str)]) -> (Terminal, String) {
        let mut command = user.command(&[&GREEDY[..], flags].concat());
        command.env("TERM", "xterm").envs(variables.iter().copied());
        // The terminal is the chat's, not a null device.
        command.stdin(Stdio::inherit());
        let options = Options::new().timeout_ms(Some(120_000));
        let session = rexpect::session::spawn_with_options(command, options).expect("a pseudo-terminal");
        let mut terminal = Terminal { session };
        let greeting = terminal.prompt("> ");
        (terminal, greeting)
    }

    /// Waits for a prompt and returns what came before it.
    #[track_caller]
    fn prompt(&mut self, prompt: &str) -> String {
        let before = self.session.exp_string(PASTE_ON).expect("a prompt");
        self.session.exp_string(prompt).expect("the prompt's text");
        before
    }

    fn keys(&mut self, keys: &str) {
        self.session.send(keys).expect("the terminal takes keys");
        self.session.flush().expect("the terminal takes keys");
    }

    /// Enters a line, without waiting for what comes of it.
    #[track_caller]
    fn enter(&mut self, line: &str) {
        self.keys(line);
        self.keys("\r");
        self.session.exp_string(PASTE_OFF).expect("the line is taken");
    }

    /// Enters a line and returns what is shown until the next prompt.
    #[track_caller]
    fn say(&mut self, line: &str) -> String {
        self.enter(line);
        self.prompt("> ")
    }

    /// Waits for the end of the program and returns its exit code.
    #[track_caller]
    fn end(&mut self) -> i32 {
        self.session.exp_eof().expect("the program ends");
        match self.session.process().wait().expect("the program ends") {
            rexpect::process::WaitStatus::Exited(_, code) => code,
            other => panic!("it was ended: {other:?}"),
        }
    }
}

#[test]
fn lines_are_edited_recalled_and_continued() {
    let user = store::user();
    let (mut terminal, greeting) = Terminal::start(&user, &["--max-tokens", "6"], &[]);
    assert!(greeting.contains("1024 tokens of context"), "{greeting}");
    assert!(greeting.contains("/help"), "{greeting}");
    // Two characters too many are taken back.
    let answer = terminal.say("Name a river.xy\x7f\x7f");
    assert!(answer.contains("(cut: --max-tokens)"), "{answer}");
    // Arrow up brings the line back.
    let again = terminal.say(UP);
    assert!(!again.contains("error"), "{again}");
    terminal.enter("First line\\");
    terminal.prompt("| ");
    terminal.say("second line");
    terminal.enter("\"\"\"One");
    terminal.prompt("| ");
    terminal.enter("two");
    terminal.prompt("| ");
    terminal.say("three\"\"\"");
    let history = terminal.say("/history").replace("\r\n", "\n");
    assert_eq!(history.matches("user: Name a river.\n").count(), 2, "{history}");
    assert!(history.contains("user: First line\nsecond line\n"), "{history}");
    assert!(history.contains("user: One\ntwo\nthree\n"), "{history}");
    assert_eq!(history.matches("assistant: ").count(), 4, "{history}");
    terminal.keys("\x04");
    assert_eq!(terminal.end(), 0, "Ctrl-D");
    // What was typed is there the next time.
    let (mut terminal, _) = Terminal::start(&user, &["--max-tokens", "1"], &[]);
    terminal.keys(UP);
    terminal.session.exp_string("/history").expect("the last line of the other chat");
    terminal.keys("\x15");
    terminal.enter("/quit");
    assert_eq!(terminal.end(), 0, "/quit");
}

#[test]
fn control_c_stops_the_answer_and_not_the_program() {
    let user = store::user();
    let (mut terminal, _) = Terminal::start(&user, &[], &[]);
    for _ in 0..2 {
        terminal.enter("Write a long story about a dragon and a mountain.");
        // The answer has begun.
        terminal.session.exp_regex("[A-Za-z]+ [a-z]+ ").expect("the answer begins");
        terminal.keys("\x03");
        let rest = terminal.prompt("> ");
        assert!(rest.contains("(stopped)"), "{rest}");
    }
    // At the prompt it clears the line, again and again.
    for _ in 0..3 {
        terminal.keys("half a mess\x03");
        let said = terminal.prompt("> ");
        assert!(said.contains("Ctrl-D or /quit"), "{said}");
    }
    // A short answer may be over before a key arrives, so this one is left to end: without the stopped stories before it,
    // which end wherever the key met them, it always does.
    terminal.say("/clear");
    let answer = terminal.say("Name a river.");
    assert!(!answer.contains("error") && !answer.contains("(stopped)"), "{answer}");
    terminal.keys("\x04");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn commands_do_what_help_says() {
    let user = store::user();
    let flags = ["--max-tokens", "4", "--system", "Answer in one word."];
    let (mut terminal, _) = Terminal::start(&user, &flags, &[]);
    let help = terminal.say("/help");
    for command in
        ["/system", "/clear", "/regenerate", "/stats", "/save", "/load", "/history", "/help", "/quit"]
    {
        assert!(help.contains(command), "{command} is not in /help: {help}");
    }
    assert!(terminal.say("/nonsense").contains("error: there is no command /nonsense; /help lists them"));
    assert!(terminal.say("/stats").contains("nothing has been answered yet"));
    assert!(terminal.say("/regenerate").contains("error: there is no answer"));
    assert!(terminal.say("/system").contains("Answer in one word."));
    terminal.say("Name a river.");
    let stats = terminal.say("/stats");
    for word in ["prefill", "answer 4 tokens", "of 1024", "seed"] {
        assert!(stats.contains(word), "{stats}");
    }
    terminal.say("/regenerate");
    let history = terminal.say("/history");
    assert_eq!(history.matches("assistant: ").count(), 1, "the answer is replaced: {history}");
    let cached = terminal.say("/stats");
    assert!(cached.contains("prefill 1 tokens"), "what is in the context is not computed again: {cached}");
    assert!(terminal.say("/save").contains("error: usage: /save FILE"));
    assert!(terminal.say("/save talk.json").contains("saved 3 messages to talk.json"));
    assert!(terminal.say("/save talk.json").contains("saved 3 messages to talk.json"), "its own it replaces");
    user.write("diary.txt", "the only copy");
    assert!(terminal.say("/save diary.txt").contains("error: diary.txt: is there already"));
    assert_eq!(std::fs::read(user.path("diary.txt")).expect("it is there"), b"the only copy");
    terminal.say("/clear");
    let history = terminal.say("/history");
    assert!(history.contains("system: Answer") && !history.contains("user: "), "{history}");
    assert!(terminal.say("/load talk.json").contains("loaded 3 messages from talk.json"));
    assert!(terminal.say("/history").contains("user: Name a river."));
    assert!(terminal.say("/load absent.json").contains("error: absent.json"));
    assert!(terminal.say("/history").contains("user: Name a river."), "a failed /load changes nothing");
    terminal.say("/system Answer in French.");
    let history = terminal.say("/history");
    assert!(history.contains("system: Answer in French.") && !history.contains("user: "), "{history}");
    terminal.enter("/quit");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn no_color_is_heeded() {
    let user = store::user();
    let dimmed = "\x1b[2m";
    let (mut terminal, _) = Terminal::start(&user, &["--max-tokens", "1"], &[]);
    assert!(terminal.say("Hello").contains(dimmed));
    let (mut terminal, _) = Terminal::start(&user, &["--max-tokens", "1"], &[("NO_COLOR", "1")]);
    let answer = terminal.say("Hello");
    assert!(answer.contains("(cut: --max-tokens)") && !answer.contains(dimmed), "{answer:?}");
}

fn piped(user: &User, flags: &[&str], input: &str) -> Done {
    let done = user.run_with(&[&GREEDY[..], &["--max-tokens", "6"], flags].concat(), input);
    assert!(!done.stdout.contains('\x1b') && !done.stderr.contains('\x1b'), "escape codes in a pipe");
    done
}

#[test]
fn in_a_pipe_stdout_is_answers_only() {
    let user = store::user();
    let done = piped(&user, &[], "Name a river.\n\n/stats\n/history\nAnd a \\\nmountain?\n");
    assert_eq!(done.code, 0, "{}", done.stderr);
    let answers: Vec<&str> = done.stdout.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(answers.len(), 2, "{}", done.stdout);
    assert!(done.stderr.contains(&format!("assistant: {}", answers[0])), "{}", done.stderr);
    // As JSON, one line for each answer.
    let done = piped(&user, &["--json"], "Name a river.\nAnd a mountain?\n");
    let lines: Vec<serde_json::Value> =
        done.stdout.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["content"], answers[0]);
    assert_eq!((&lines[0]["role"], &lines[0]["finish_reason"]), (&"assistant".into(), &"length".into()));
}

#[test]
fn in_a_pipe_a_wrong_command_ends_the_chat() {
    let user = store::user();
    let done = piped(&user, &[], "/nonsense\nHello\n");
    assert_eq!((done.code, done.stdout.as_str()), (2, ""));
    assert!(done.stderr.contains("there is no command /nonsense"), "{}", done.stderr);
    let done = piped(&user, &["--load", "absent.json"], "Hello\n");
    assert_eq!(done.code, 3, "{}", done.stderr);
    std::fs::write(user.path("wrong.json"), "{}").expect("the file can be written");
    let done = piped(&user, &["--load", "wrong.json"], "Hello\n");
    assert_eq!(done.code, 5, "{}", done.stderr);
    assert!(done.stderr.contains("wrong.json") && done.stderr.contains("/save"), "{}", done.stderr);
}

#[test]
fn a_conversation_goes_on_from_its_file() {
    let user = store::user();
    let done = piped(&user, &[], "My name is Ada.\n/save talk.json\n");
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(Path::new(&user.path("talk.json")).exists());
    let one = piped(&user, &["--load", "talk.json"], "What is my name?\n");
    let whole = piped(&user, &[], "My name is Ada.\nWhat is my name?\n");
    assert_eq!(whole.stdout, format!("{}{}", done.stdout, one.stdout));
}

#[test]
fn a_chat_longer_than_its_context_goes_on() {
    let user = store::user();
    let question = "Please tell me everything you know about the rivers and mountains of Peru.\n";
    let flags = ["--context", "160", "--max-tokens", "24"];
    let done = user
        .run_with(&[&["chat", "--preset", "greedy", "-t", "1"], &flags[..]].concat(), &question.repeat(5));
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(done.stderr.contains("forgotten"), "{}", done.stderr);
    assert!(done.stdout.lines().filter(|line| !line.is_empty()).count() >= 5, "{}", done.stdout);
}

#[test]
fn a_reader_that_leaves_ends_the_chat() {
    let user = store::user();
    let mut command = user.command(&[&GREEDY[..], &["--max-tokens", "4"]].concat());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut stdin, b"Hello\nHello\n").expect("it reads");
    // Stdin stays open: the chat ends because nobody reads it.
    let output = child.wait_with_output().expect("it ends");
    drop(stdin);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}
