//! `alti plan` as a person meets it: answers that fit a screen, JSON, pages, and refusals that say what works.

mod common;

use alti_testkit::golden;
use common::User;

/// Rows and columns that a summary may take.
const SCREEN: (usize, usize) = (48, 100);

fn fits_a_screen(text: &str) {
    assert!(text.lines().count() <= SCREEN.0, "{} lines:\n{text}", text.lines().count());
    let widest = text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
    assert!(widest <= SCREEN.1, "{widest} columns:\n{text}");
}

#[test]
fn answers_fit_a_screen_and_say_what_was_asked() {
    let user = User::new();
    let questions: [(&[&str], &[&str]); 11] = [
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
        (&["plan", "roadmap", "--generations", "1", "--rent", "--gpu", "H100"], &["rented", "H100-80GB"]),
        (&["plan", "check", "--rows", "3"], &["training", "layouts:"]),
        (
            &["plan", "train", "--model", "Llama-3.1-405B", "--gpus", "16007", "--tokens", "15.6T", "--own"],
            &["uses 1", "of 16,007", "in use 90 %"],
        ),
        (
            &["plan", "fleet", "--training", "8", "--inference", "4", "--ranking", "0"],
            &["accelerators", "a year"],
        ),
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
    let small = |more: &[&'static str]| with(&[&["64", "--model", "Llama-3.1-8B"][..], more].concat());
    user.fails(&small(&["--cp", "3"]), 2, &["context parallel is 3", "2 or 4"]);
    user.fails(&small(&["--microbatch", "0"]), 2, &["microbatch is 0"]);
    user.fails(&small(&["--batch", "16M"]), 2, &["batch tokens is 16000000", "nearest that works is"]);
    user.fails(&small(&["--tp", "8", "--pp", "16"]), 2, &["GPUs is 64", "at least 128"]);
    user.fails(&small(&["--gpu", "TPU-v5p", "--own"]), 2, &["price_buy of TPU-v5p", "[economics]"]);
    user.fails(&small(&["--precision", "int4"]), 2, &[]);
    user.fails(
        &["plan", "train", "--model", "8B", "--gpus", "8", "--tokens", "1e308"],
        2,
        &["tokens is 1e308"],
    );
    user.fails(&["plan", "roadmap", "--gpu", "nonsense"], 3, &["nearest is"]);
    user.fails(&["plan", "infer", "--model", "8B", "--api-input=-3"], 2, &["api_input_price is -3"]);
    user.write(
        "slow.toml",
        "[[reliability.rates]]\ncomponent = \"all\"\ncategory = \"GPU\"\nper_gpu_hour = 1.0\n",
    );
    user.fails(&small(&["--settings", "slow.toml"]), 2, &["goodput", "restart_seconds"]);
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
    let pages: [(&[&str], usize); 5] = [
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
            5,
        ),
        (&["plan", "roadmap", "--report", "p.html"], 4),
        (&["plan", "infer", "--model", "Llama-3.1-8B", "--report", "p.html"], 2),
        (&["plan", "fleet", "--training", "1000", "--inference", "500", "--report", "p.html"], 1),
        (&["plan", "rank", "--report", "p.html"], 2),
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
fn a_model_is_rehearsed_on_this_machine_and_compared_with_a_run() {
    let user = User::new();
    let model = golden("llama3-gqa").join("config.json");
    let fit = ["plan", "fit", "--model", model.to_str().expect("a path in UTF-8"), "--weights", "Q8_0"];
    let alone = user.run(&fit);
    fits_a_screen(&alone.stdout);
    assert!(alone.stdout.contains("rehearsed Q8_0 with 3 layers"), "{}{}", alone.stdout, alone.stderr);
    let threads = user.json(&[&fit[..], &["--json"]].concat())["machine"]["threads"].clone();
    let run = |batch: u32| {
        format!(
            r#"{{"threads": {threads}, "batch": {batch}, "depth": 0,
                "results": [{{"test": "pp512", "tokens_per_second": [1000.0]}}]}}"#
        )
    };
    user.write("bench.json", run(1));
    let compared = [&fit[..], &["--bench", "bench.json"]].concat();
    let outcomes = user.json(&[&compared[..], &["--json"]].concat())["outcomes"].clone();
    let outcome = &outcomes[0];
    assert_eq!((outcome["test"].as_str(), outcome["measured"].as_f64()), (Some("pp512"), Some(1000.0)));
    assert!(outcome["predicted"].as_f64().is_some_and(|rate| rate > 0.0), "{outcomes}");
    user.fails(&[&fit[..4], &["--bench", "bench.json"]].concat(), 2, &["--weights RECIPE"]);
    user.fails(&["plan", "fit", "--weights", "Q9"], 2, &[]);
    user.write("bench.json", run(8));
    user.fails(&compared, 5, &["bench.json", "8 sequences"]);
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

#[test]
fn short_runs_cost_what_they_take() {
    let user = User::new();
    let days = |tokens: &str| {
        let arguments =
            ["plan", "train", "--model", "Llama-3.1-8B", "--gpus", "8", "--tokens", tokens, "--json"];
        let plan = user.json(&arguments);
        (plan["days"][1].as_f64().unwrap(), plan["reliability"]["goodput"]["median"].as_f64().unwrap())
    };
    let (short, longer) = (days("3B"), days("3.1B"));
    assert!(short.1 > 0.99 && longer.1 > 0.99, "{short:?} {longer:?}");
    assert!((longer.0 / short.0 - 3.1 / 3.0).abs() < 0.01, "{short:?} {longer:?}");
}

#[test]
fn a_budget_of_flops_or_epochs_is_a_run() {
    let user = User::new();
    let train =
        |more: &[&str]| user.json(&[&["plan", "train", "--gpus", "1024", "--json"][..], more].concat());
    let flops = train(&["--flops", "1e24"])["flops"].as_f64().unwrap();
    assert!((flops / 1e24 - 1.0).abs() < 0.3, "6 N D without attention is a little less: {flops}");
    let exact = train(&["--flops", "1e24", "--model", "Llama-3.1-8B"])["flops"].as_f64().unwrap();
    assert!((exact / 1e24 - 1.0).abs() < 1e-6, "{exact}");
    assert!(train(&["--loss", "2.0"])["loss"].as_f64().is_some_and(|it| (it - 2.0).abs() < 0.02));
    let epochs = train(&["--model", "8B", "--unique-tokens", "1T", "--epochs", "4"]);
    let worth = epochs["effective_tokens"].as_f64().unwrap();
    assert!(worth < 4e12 && worth > 3e12, "{worth}");
}

#[test]
fn a_trace_sizes_the_servers() {
    let user = User::new();
    let lines = (0..400).map(|it| format!("2026-01-01T00:00:{:02}.{:03}Z,500,50\n", it / 10, it % 10 * 100));
    let text: String = lines.chain(["2026-01-01T00:00:05Z,900000000,5\n".to_owned()]).collect();
    user.write("trace.csv", text);
    let arguments = ["plan", "infer", "--model", "Llama-3.1-8B", "--trace", "trace.csv"];
    let done = user.run(&arguments);
    assert_eq!(done.code, 0, "{}", done.stderr);
    fits_a_screen(&done.stdout);
    for part in ["a trace of 400 requests", "met by", "1 requests left out"] {
        assert!(done.stdout.contains(part), "{part}: {}", done.stdout);
    }
    user.write("long.csv", "0,900000000,5\n");
    user.fails(&["plan", "infer", "--model", "8B", "--trace", "long.csv"], 2, &["longer than"]);
}

#[test]
fn formulas_are_shown_for_every_question() {
    let user = User::new();
    let questions: [(&[&str], &[&str]); 3] = [
        (
            &["plan", "explain", "--model", "Llama-3.1-8B", "--gpus", "64", "--tokens", "1T", "--own"],
            &["step: products", "cost of capital", "MFU"],
        ),
        (&["plan", "infer", "--model", "Llama-3.1-8B", "--explain"], &["room for keys", "money a day"]),
        (&["plan", "roadmap", "--explain"], &["generation 1: days", "money over all"]),
    ];
    for (arguments, says) in questions {
        let done = user.run(arguments);
        assert_eq!(done.code, 0, "{arguments:?}: {}", done.stderr);
        let widest = done.stdout.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        assert!(widest <= SCREEN.1, "{widest} columns: {}", done.stdout);
        for part in says {
            assert!(done.stdout.contains(part), "{arguments:?} does not say {part}:\n{}", done.stdout);
        }
    }
}

#[test]
fn a_settings_file_does_not_turn_a_roadmap_into_rent() {
    let user = User::new();
    user.write("power.toml", "[economics]\npower_price = 0.05\n");
    let own = |more: &[&str]| user.json(&[&["plan", "roadmap", "--json"][..], more].concat());
    assert!(own(&["--settings", "power.toml"])["own"] == true && own(&[])["own"] == true);
    let rented = own(&["--rent"]);
    assert!(rented["own"] == false && rented["parts"]["machines"] == 0.0);
    assert!(rented["cost"].as_f64().is_some_and(|it| it > 1e6));
}
