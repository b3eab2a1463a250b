//! `alti logits`, `perplexity` and `bench`: what comparisons with other implementations stand on.

use crate::common::User;
use crate::store::{self, repository};
use alti_testkit::parity::{Golden, assert_close};
use alti_testkit::{GOLDENS, golden};
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::path::Path;

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn read(file: &Path) -> Tensors {
    let bytes = std::fs::read(file).expect("the file was written");
    let tensors = SafeTensors::deserialize(&bytes).expect("it is safetensors");
    let floats = |data: &[u8]| data.as_chunks::<4>().0.iter().map(|&x| f32::from_le_bytes(x)).collect();
    let tensor = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        (name, (view.shape().to_vec(), floats(view.data())))
    };
    tensors.tensors().into_iter().map(tensor).collect()
}

/// What `alti logits` writes for a golden model's input.
fn logits(user: &User, name: &str, flags: &[&str]) -> Tensors {
    let ids = serde_json::to_vec(&Golden::read(name).sequences()).expect("JSON");
    std::fs::write(user.path("ids.json"), ids).expect("the file can be written");
    let folder = golden(name);
    let model = folder.to_str().expect("the path is UTF-8");
    let arguments = ["logits", model, "--tokens", "ids.json", "--out", "out.safetensors"];
    let done = user.run(&[&arguments[..], flags].concat());
    assert_eq!(done.code, 0, "{name}: {}", done.stderr);
    read(&user.path("out.safetensors"))
}

fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let difference: f64 =
        found.iter().zip(expected).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
    let size: f64 = expected.iter().map(|&x| square(f64::from(x))).sum();
    (difference / size.max(f64::MIN_POSITIVE)).sqrt()
}

#[test]
fn logits_writes_what_pytorch_computes() {
    let user = store::user();
    for name in GOLDENS {
        let golden = Golden::read(name);
        let found = logits(&user, name, &["--backend", "reference", "--hidden", "--grad"]);
        let mut expected = golden.names();
        expected.retain(|name| {
            ["logits", "loss"].contains(&name.as_str())
                || name.starts_with("hidden.")
                || name.starts_with("grad.")
        });
        expected.sort();
        let names: Vec<&String> = found.keys().collect();
        assert_eq!(names, expected.iter().collect::<Vec<_>>(), "{name}");
        for (tensor, (shape, values)) in &found {
            let what = format!("{name}: {tensor}");
            let recorded = golden.floats(tensor);
            assert_eq!(values.len(), recorded.len(), "{what}");
            assert_eq!(shape.iter().product::<usize>(), values.len(), "{what}");
            match tensor.starts_with("grad.") || tensor == "loss" {
                true => {
                    let error = relative_error(values, &recorded);
                    assert!(error <= 5e-5, "{what}: off by {error:.1e}");
                }
                false => assert_close(values, &recorded, golden.noise_floor, &what),
            }
        }
    }
}

#[test]
fn gradients_do_not_depend_on_what_computes_the_logits() {
    let user = store::user();
    let found = logits(&user, "llama32-tied", &["--grad"]);
    let exact = logits(&user, "llama32-tied", &["--backend", "reference", "--grad"]);
    assert!(found.keys().eq(exact.keys()) && found.keys().any(|name| name.starts_with("grad.")));
    for (name, values) in found.iter().filter(|(name, _)| name.as_str() != "logits") {
        assert!(*values == exact[name], "{name}");
    }
}

#[test]
fn the_cpu_writes_the_same_logits_however_they_are_cut() {
    let user = store::user();
    for name in GOLDENS {
        let golden = Golden::read(name);
        let whole = logits(&user, name, &["--hidden", "-t", "1"]);
        assert_close(&whole["logits"].1, &golden.floats("logits"), golden.noise_floor, name);
        let cut = logits(&user, name, &["--hidden", "-t", "2", "--prefill-chunk", "5"]);
        for (tensor, (shape, values)) in &whole {
            let (cut_shape, cut_values) = &cut[tensor];
            let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!((shape, bits(values)), (cut_shape, bits(cut_values)), "{name}: {tensor}");
        }
    }
}

#[test]
fn what_cannot_be_computed_is_refused_and_writes_nothing() {
    let user = store::user();
    let folder = golden("llama2-mha");
    let model = folder.to_str().expect("the path is UTF-8");
    let arguments =
        ["logits", model, "--tokens", "ids.json", "--out", "out.safetensors", "--backend", "reference"];
    user.fails(&arguments, 3, &["ids.json"]);
    for (ids, code, says) in [
        ("[1, 2, 99999]", 2, &["99999", "vocabulary"][..]),
        ("[[1, 2], [3]]", 5, &["ids.json", "different lengths"]),
        ("[]", 5, &["ids.json", "no tokens"]),
        ("[[]]", 5, &["ids.json", "no tokens"]),
        ("[-1]", 5, &["ids.json", "token ids"]),
        ("{}", 5, &["ids.json", "token ids"]),
        ("[1, 2", 5, &["ids.json"]),
    ] {
        std::fs::write(user.path("ids.json"), ids).expect("the file can be written");
        user.fails(&arguments, code, says);
    }
    std::fs::write(user.path("ids.json"), "[1]").expect("the file can be written");
    let gradients = [&arguments[..], &["--grad"]].concat();
    user.fails(&gradients, 2, &["two tokens"]);
    assert!(!user.path("out.safetensors").exists());
    let nowhere = ["logits", model, "--tokens", "ids.json", "--out", "no/such/folder.safetensors"];
    user.fails(&nowhere, 3, &["no/such/folder.safetensors"]);
}

#[test]
fn rotary_overrides_change_what_they_should_and_nothing_else() {
    let user = store::user();
    let with = |flags: &[&str]| logits(&user, "llama3-gqa", flags)["logits"].1.clone();
    let plain = with(&[]);
    // Extension by a factor of one is none.
    for scaling in ["none", "linear", "yarn"] {
        assert!(
            with(&["--rope-scaling", scaling]) == plain,
            "{scaling} by a factor of one changes something"
        );
    }
    let yarn = ["--rope-scaling", "yarn", "--rope-factor", "4", "--yarn-original-context", "8192"];
    let linear = with(&["--rope-scaling", "linear", "--rope-factor", "4"]);
    let extended = with(&yarn);
    assert!(linear != plain, "linear scaling changes nothing");
    assert!(extended != plain, "YaRN changes nothing");
    assert!(extended != linear, "YaRN is not linear scaling");
    assert!(with(&["--rope-theta", "10000"]) != plain, "--rope-theta changes nothing");
    assert!(with(&yarn[..4]) != extended, "--yarn-original-context changes nothing");
    for flag in ["--yarn-beta-fast", "--yarn-beta-slow", "--yarn-attention-factor"] {
        assert!(with(&[&yarn[..], &[flag, "3"]].concat()) != extended, "{flag} changes nothing");
    }
    for bad in ["0", "-1", "inf", "nan", "many"] {
        let factor = format!("--rope-factor={bad}");
        let done = user.run(&["bench", factor.as_str()]);
        assert_eq!(done.code, 2, "{}", done.stderr);
        assert!(done.stderr.contains("positive number"), "{}", done.stderr);
    }
}

/// Fewer chunks differ by more than half a percent for no better reason than which tokens they have.
const CHUNKS: usize = 24;

fn perplexity(user: &User, flags: &[&str]) -> f64 {
    let text = repository().join("benches/texts/eighty-days.txt");
    let text = text.to_str().expect("the path is UTF-8");
    let chunks = CHUNKS.to_string();
    let common = ["perplexity", "--file", text, "--context", "256", "--chunks", &chunks, "--json"];
    let result = user.json(&[&common[..], flags].concat());
    assert_eq!((&result["chunks"], &result["context"]), (&CHUNKS.into(), &256.into()));
    assert_eq!(result["tokens"], CHUNKS * 127, "the second half of each chunk but for its first token");
    assert!(result["error"].as_f64().is_some_and(|error| error > 0.0));
    result["perplexity"].as_f64().expect("a number")
}

#[test]
fn perplexity_does_not_suffer_from_the_kernels_or_the_cache() {
    let user = store::user();
    let quantised = perplexity(&user, &[]);
    assert!((5.0..60.0).contains(&quantised), "{quantised} is not what a model of English has");
    let close = |other: f64, bound: f64, what: &str| {
        let ratio = other / quantised;
        assert!((ratio - 1.0).abs() <= bound, "{what}: {other:.4} against {quantised:.4}");
    };
    for dtype in ["f32", "q8_0"] {
        close(perplexity(&user, &["--kv-type", dtype]), 0.005, dtype);
    }
    close(perplexity(&user, &["--prefill-chunk", "100", "-t", "1"]), 0.0, "chunks of 100 on one thread");
    let model = store::default_model().to_str().expect("the path is UTF-8");
    let done = user.run(&["convert", model, "f32.gguf", "--to", "gguf", "--dtype", "f32"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    close(perplexity(&user, &["f32.gguf"]), 0.005, "the same weights in F32");
}

#[test]
fn perplexity_says_when_the_text_is_too_short() {
    let user = store::user();
    std::fs::write(user.path("short.txt"), "Not much.").expect("the file can be written");
    user.fails(&["perplexity", "--file", "short.txt"], 2, &["tokens", "512", "--context"]);
    user.fails(&["perplexity", "--file", "absent.txt"], 3, &["absent.txt"]);
}

#[test]
fn bench_tells_every_round() {
    let user = store::user();
    let model = golden("llama3-gqa");
    let model = model.to_str().expect("the path is UTF-8");
    let bench = |more: &[&str]| {
        let common = ["bench", model, "-n", "4", "-r", "3", "-t", "2", "--json"];
        user.json(&[&common[..], more].concat())
    };
    let result = bench(&["-p", "16"]);
    let keys: Vec<&String> = result.as_object().expect("an object").keys().collect();
    assert_eq!(keys, ["model", "backend", "isa", "threads", "batch", "depth", "results"]);
    assert_eq!((result["model"].as_str(), result["backend"].as_str()), (Some(model), Some("cpu")));
    assert_eq!((&result["threads"], &result["batch"], &result["depth"]), (&2.into(), &1.into(), &0.into()));
    let names = |result: &serde_json::Value| {
        let rows = result["results"].as_array().expect("rows").clone();
        for row in &rows {
            let rounds = row["tokens_per_second"].as_array().expect("rounds");
            assert_eq!(rounds.len(), 3, "the first round is not counted");
            assert!(rounds.iter().all(|rate| rate.as_f64().is_some_and(|rate| rate > 0.0)), "{row}");
        }
        rows.iter().map(|row| row["test"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&result), ["pp16", "tg4"]);
    assert_eq!(names(&bench(&["-p", "16", "--depth", "8", "--batch", "3"])), ["pp16@d8", "tg4@d8"]);
    assert_eq!(names(&bench(&["--prefill", "0"])), ["tg4"]);
    assert!(bench(&["-p", "16", "--backend", "reference"])["isa"].is_null());
}

#[test]
fn a_profile_shows_where_the_time_of_a_round_goes() {
    let user = User::new();
    let model = golden("llama3-gqa");
    let model = model.to_str().expect("the path is UTF-8");
    let short = ["bench", model, "-p", "16", "-n", "4", "-r", "1", "-t", "2", "--profile"];
    let result = user.json(&[&short[..], &["--json"]].concat());
    for (test, steps) in [("pp16", 1), ("tg4", 4)] {
        let rows = result["results"].as_array().expect("rows");
        let profile = &rows.iter().find(|row| row["test"] == test).expect("the test")["profile"];
        assert_eq!(profile["steps"], steps, "{test}");
        let operations = profile["operations"].as_array().expect("operations");
        let seconds = |field: &str| operations.iter().filter_map(|it| it[field].as_f64()).sum::<f64>();
        let inside = seconds("running_seconds") + seconds("waiting_seconds");
        assert!(
            inside > 0.0 && profile["seconds"].as_f64().is_some_and(|whole| inside <= whole),
            "{profile}"
        );
        let named = |start: &str| {
            operations.iter().find(|it| it["operation"].as_str().is_some_and(|name| name.starts_with(start)))
        };
        assert_eq!(named("matmul").expect("products")["product"], true);
        assert_eq!(named("attention").expect("attention")["product"], false);
    }
    let shown = user.run(&short).stdout;
    for part in ["tg4: a step takes", "OPERATION", "attention", "recording the step"] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
    user.fails(&[&short[..], &["--backend", "reference"]].concat(), 2, &["--profile", "--backend cpu"]);
}
