//! `alti plan` as a person meets it: answers that fit a screen, JSON, pages, and refusals that say what works.

mod common;

use common::User;

/// Rows and columns that a summary may take.
const SCREEN: (usize, usize) = (45, 230);

fn fits_a_screen(text: &str) {
    assert!(text.lines().count() <= SCREEN.0, "{} lines:\n{text}", text.lines().count());
    let widest = text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
    assert!(widest <= SCREEN.1, "{widest} columns:\n{text}");
}

#[test]
fn answers_fit_a_screen_and_say_what_was_asked() {
    let user = User::new();
    let questions: [(&[&str], &[&str]); 7] = [
        (
            &["plan", "train", "--model", "Llama-3.1-405B", "--gpus", "16384", "--tokens", "15.6T"],
            &["days", "MFU", "TP8", "goodput", "NEXT OF"],
        ),
        (&["plan", "scale", "--flops", "3.8e25"], &["llama3", "chinchilla"]),
        (
            &["plan", "infer", "--model", "Llama-3.1-8B", "--requests", "20"],
            &["servers", "first token", "million"],
        ),
        (&["plan", "rank", "--gpu", "MTIA"], &["candidates/s", "busiest hour"]),
        (
            &["plan", "fleet", "--training", "16000", "--inference", "8000", "--ranking", "12000"],
            &["shared fleet", "at night"],
        ),
        (&["plan", "roadmap"], &["generation 3", "WHAT THE COST DEPENDS ON"]),
        (&["plan", "failures", "--gpus", "16384", "--checkpoint", "60"], &["goodput", "1116 s", "Young"]),
    ];
    for (arguments, says) in questions {
        let done = user.run(arguments);
        assert_eq!(done.code, 0, "{arguments:?}: {}", done.stderr);
        fits_a_screen(&done.stdout);
        for part in says {
            assert!(done.stdout.contains(part), "{arguments:?} does not say {part}:\n{}", done.stdout);
        }
        let answer = user.json(&[arguments, &["--json"]].concat());
        assert!(answer.is_object() || arguments[1] == "scale", "{arguments:?}");
    }
}

#[test]
fn what_cannot_be_is_refused_with_what_works() {
    let user = User::new();
    let train = ["plan", "train", "--tokens", "1T", "--gpus"];
    let with = |more: &[&'static str]| [&train[..], more].concat();
    user.fails(&with(&["8", "--model", "Llama-3.1-405B"]), 6, &["GiB", "needs about"]);
    user.fails(&with(&["64", "--model", "Llama-3.1-8B", "--tp", "5"]), 2, &["tensor parallel is 5", "4"]);
    user.fails(&with(&["64", "--model", "Llama-3.1-9B-X"]), 3, &["nearest is `Llama-3"]);
    user.fails(&with(&["64", "--model", "Llama-3.1-8B", "--gpu", "H1000"]), 3, &["nearest is `H"]);
    user.fails(&with(&["64", "--model", "Llama-2-7B", "--sequence", "8192"]), 2, &["context of 4096"]);
    user.write("bad.toml", "[economics]\npue = 0.5\n");
    user.fails(
        &with(&["64", "--model", "Llama-3.1-8B", "--settings", "bad.toml"]),
        5,
        &["bad.toml", "pue is 0.5", "write 1"],
    );
    user.fails(&["plan", "infer", "--model", "Llama-3.1-405B"], 6, &["fits on 8"]);
    user.write("config.json", "{\"hidden_size\": 64}");
    user.fails(&with(&["64", "--model", "config.json"]), 5, &["config.json", "num_hidden_layers"]);
}

#[test]
fn a_page_opens_without_a_network() {
    let user = User::new();
    let pages: [(&[&str], usize); 2] = [
        (
            &[
                "plan",
                "train",
                "--model",
                "Llama-3.1-8B",
                "--gpus",
                "64",
                "--tokens",
                "1T",
                "--report",
                "p.html",
            ],
            3,
        ),
        (&["plan", "roadmap", "--report", "p.html"], 4),
    ];
    for (arguments, charts) in pages {
        let done = user.run(arguments);
        assert_eq!(done.code, 0, "{}", done.stderr);
        let page = std::fs::read_to_string(user.path("p.html")).expect("the page is there");
        assert_eq!(page.matches("<svg").count(), charts, "{arguments:?}");
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
        let outside = page.replace("http://www.w3.org/2000/svg", "");
        for word in ["http://", "https://", "<script", "<link", "src="] {
            assert!(!outside.contains(word), "{arguments:?}: {word}");
        }
        assert!(!page.contains("NaN") && !page.contains("inf\""));
    }
}

#[test]
fn settings_are_printed_as_they_are_read() {
    let user = User::new();
    let printed = user.run(&["plan", "settings"]).stdout;
    user.write("all.toml", &printed);
    let arguments = ["plan", "failures", "--gpus", "1024"];
    let plain = user.run(&arguments).stdout;
    let same = user.run(&[&arguments[..], &["--settings", "all.toml"]].concat()).stdout;
    assert_eq!(plain, same);
}
