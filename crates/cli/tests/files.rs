//! Commands over model files: pull, show, tokenize, convert, quantize, list, rm.

mod common;

use alti_formats::gguf::Value;
use alti_testkit::golden;
use common::{Done, END, HELLO, User, text, tokenizer_metadata, write_metadata};
use serde_json::json;
use std::io::Write;
use std::process::Stdio;

/// The golden model as a GGUF file, converted by the binary itself.
fn gguf(user: &User, name: &str) -> String {
    let target = user.path(&format!("{name}.gguf"));
    user.json(&["convert", text(&golden(name)), text(&target), "--to", "gguf", "--json"]);
    text(&target).to_owned()
}

#[test]
fn tokenize_reads_texts_files_and_stdin() {
    let user = User::new();
    let model = user.path("tokenizer.gguf");
    write_metadata(&model, &tokenizer_metadata());
    let model = text(&model);
    let tokenize = |arguments: &[&str]| user.json(&[&["tokenize", "--model", model], arguments].concat());

    let plain = user.run(&["tokenize", "--model", model, "hello!"]);
    assert_eq!(plain.stdout, "      99  \"hello\"\n       0  \"!\"\n");
    user.write("texts.json", r#"["hello", "<|end|>", ""]"#);
    user.write("text.txt", "hellohello");
    let spelled: Vec<u32> = "<|end|>".bytes().map(|byte| u32::from(byte - b'!')).collect();
    assert_eq!(tokenize(&["--json", "texts.json"]), json!([[HELLO], spelled, []]));
    assert_eq!(tokenize(&["--json", "texts.json", "--specials"]), json!([[HELLO], [END], []]));
    assert_eq!(
        tokenize(&["--json", "texts.json", "--bos", "--specials"]),
        json!([[END, HELLO], [END, END], [END]])
    );
    assert_eq!(tokenize(&["--file", "text.txt", "--json"]), json!([HELLO, HELLO]));

    let mut piped = user.command(&["tokenize", "--model", model, "--json", "-"]);
    let mut child = piped.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the binary runs");
    child.stdin.take().expect("stdin").write_all(b"[\"hello\"]").expect("it reads");
    assert_eq!(Done::of(child.wait_with_output().expect("it ends")).stdout, "[[99]]\n");
}

#[test]
fn tokenize_says_what_is_wrong() {
    let user = User::new();
    let model = user.path("tokenizer.gguf");
    write_metadata(&model, &tokenizer_metadata());
    let model = text(&model);
    user.write("texts.json", "{}");
    user.fails(
        &["tokenize", "--model", model, "--json", "texts.json"],
        5,
        &["texts.json", "array of strings"],
    );
    user.fails(&["tokenize", "--model", model, "--file", "absent"], 3, &["absent"]);
    user.fails(&["pull", "absent"], 3, &["the catalogue has no model", "`alti list --catalogue`"]);
    user.fails(&["tokenize", "--model", "absent", "x"], 3, &["no model `absent`"]);
    user.fails(&["tokenize", "--model", text(&golden("llama3-gqa")), "x"], 5, &["no tokenizer"]);
    assert_eq!(user.run(&["tokenize"]).code, 2);
}

#[test]
fn causes_are_told_once_and_the_file_asked_for_is_named() {
    let user = User::new();
    let done = user.run(&["show", "absent-00001-of-00002.gguf"]);
    assert_eq!(done.stderr.matches("os error").count(), 0, "{}", done.stderr);
    std::fs::copy(gguf(&user, "llama3-gqa"), user.path("m-00002-of-00002.gguf")).expect("a copy");
    let done = user.run(&["show", "m-00002-of-00002.gguf"]);
    assert!(done.stderr.matches("os error").count() <= 1, "{}", done.stderr);
    user.write("damaged.gguf", "GGUF");
    let done = user.run(&["show", "damaged.gguf"]);
    assert_eq!(done.stderr.matches("damaged.gguf").count(), 1, "{}", done.stderr);
    user.write("other.json", "{}");
    user.fails(&["tokenize", "--model", "other.json", "x"], 5, &["no tokenizer found in other.json"]);
}

#[test]
fn verify_finds_what_changed_and_unused_files_go() {
    let user = User::new();
    let model = gguf(&user, "llama3-gqa");
    assert_eq!(user.run(&["pull", &model, "--name", "mine"]).code, 0);
    let verified = user.run(&["list", "--verify"]);
    assert_eq!(verified.code, 0, "{}", verified.stderr);
    assert!(verified.stdout.contains("mine") && verified.stdout.contains("intact"), "{}", verified.stdout);
    let path = user.json(&["show", "mine", "--json"])["path"].as_str().expect("a path").to_owned();
    let mut permissions = std::fs::metadata(&path).expect("it is there").permissions();
    #[expect(clippy::permissions_set_readonly_false, reason = "a file that the test alone sees")]
    permissions.set_readonly(false);
    std::fs::set_permissions(&path, permissions).expect("it may be changed");
    let mut bytes = std::fs::read(&path).expect("it can be read");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).expect("it can be written");
    let verified = user.run(&["list", "--verify", "--json"]);
    assert_eq!(verified.code, 5, "{}", verified.stderr);
    assert!(verified.stderr.contains("1 file is not what was pulled"), "{}", verified.stderr);
    let faults: serde_json::Value = serde_json::from_str(&verified.stdout).expect("JSON");
    assert!(faults[0]["fault"].as_str().expect("a fault").len() > 10, "{faults}");

    let size = std::fs::metadata(&model).expect("the original").len();
    let disk = |user: &User| {
        let found = user.json(&["doctor", "--json"]);
        ["store_bytes", "store_unused_bytes"].map(|field| found[field].as_u64().expect("bytes"))
    };
    assert_eq!(disk(&user), [size, 0]);
    assert!(!user.run(&["list"]).stdout.contains("unused"));
    std::fs::write(user.path("store/partial/left-over"), "12345").expect("the store has such a folder");
    assert_eq!(disk(&user), [size + 5, 5]);
    let listed = user.run(&["list"]).stdout;
    let line = |label: &str| listed.lines().find(|line| line.starts_with(label)).unwrap_or_default();
    assert!(line("on disk").contains("iB"), "{listed}");
    assert!(
        line("of this unused").contains("5 B") && line("of this unused").contains("rm --unused"),
        "{listed}"
    );
    assert_eq!(user.json(&["rm", "--unused", "--json"])["freed_bytes"], 5);
    assert_eq!(user.json(&["rm", "--unused", "--json"])["freed_bytes"], 0);
    assert_eq!(user.run(&["rm"]).code, 2);
}

#[test]
fn show_tells_shape_and_need() {
    let user = User::new();
    let shown =
        user.json(&["show", text(&golden("llama31-scaled")), "--json", "--context", "128", "--tensors"]);
    assert_eq!(shown["architecture"], "llama");
    assert_eq!(shown["format"], "Hugging Face");
    assert!(shown["shape"]["rope"].as_str().expect("rope").contains("llama3 scaling by"));
    let weights: u64 =
        shown["dtypes"].as_array().expect("dtypes").iter().filter_map(|d| d["bytes"].as_u64()).sum();
    assert_eq!(shown["memory"]["weights"], weights);
    assert_eq!(shown["memory"]["context"], 128);
    assert_eq!(shown["memory"]["fits"], true);
    assert_eq!(shown["tensors"][0]["name"], "token_embd.weight");
    let bf16 = shown["memory"]["keys_and_values"].as_u64().expect("bytes");
    let f32 = user.json(&[
        "show",
        text(&golden("llama31-scaled")),
        "--json",
        "--context",
        "128",
        "--kv-type",
        "f32",
    ]);
    assert_eq!(f32["memory"]["keys_and_values"], 2 * bf16);

    let moe = user.run(&["show", text(&golden("llama4-scout"))]);
    assert_eq!(moe.code, 0, "{}", moe.stderr);
    for label in ["experts", "chunks", "free memory", "licence        not named", "tokenizer      none"] {
        assert!(moe.stdout.contains(label), "{label}: {}", moe.stdout);
    }
    user.fails(&["show", "no-such-model"], 3, &["no model `no-such-model`"]);
    for path in ["./absent", "folder/absent.gguf", "/absent/model"] {
        user.fails(&["show", path], 3, &[path, "no such file or folder"]);
    }
    user.fails(&["show"], 3, &["smollm2-135m-instruct"]);
}

#[test]
fn convert_there_and_back() {
    let user = User::new();
    let source = golden("llama32-tied");
    let file = gguf(&user, "llama32-tied");
    let shown = user.json(&["show", &file, "--json", "--metadata"]);
    assert_eq!(shown["metadata"]["general.architecture"], "llama");
    let back = user.path("back");
    let done = user.json(&["convert", &file, text(&back), "--to", "hf", "--json"]);
    assert_eq!(done["from"], "GGUF");
    let weights =
        |folder: &std::path::Path| std::fs::read(folder.join("model.safetensors")).expect("weights");
    let (original, back) = (weights(&source), weights(&back));
    let parse = |bytes: &[u8]| safetensors_sum(bytes);
    assert_eq!(parse(&original), parse(&back));

    user.fails(&["convert", &file, text(&user.path("back")), "--to", "hf"], 5, &["not empty"]);
    user.fails(&["convert", &file, "x.gguf", "--to", "gguf", "--split-size", "0"], 2, &["--help"]);
    let whole = std::fs::read(&file).expect("the file");
    let cut = user.write("cut.gguf", &whole[..whole.len() / 2]);
    user.fails(&["convert", text(&cut), "x.gguf", "--to", "gguf"], 5, &["cut.gguf"]);
    assert!(!user.path("x.gguf").exists());
}

#[test]
fn what_is_there_is_replaced_only_by_force() {
    let user = User::new();
    let source = golden("llama32-tied");
    let source = text(&source);
    let says = ["mine.gguf", "is there already", "--force"];
    let mine = user.write("mine.gguf", "the only copy");
    let kept = || std::fs::read(&mine).expect("it is there") == b"the only copy";
    user.fails(&["convert", source, "mine.gguf", "--to", "gguf"], 1, &says);
    user.fails(&["quantize", source, "mine.gguf", "Q8_0"], 1, &says);
    user.fails(&["quantize", source, "--imatrix-from", "absent.txt", "--imatrix-out", "mine.gguf"], 1, &says);
    assert!(kept());
    user.json(&["convert", source, "mine.gguf", "--to", "gguf", "--force", "--json"]);
    let converted = std::fs::metadata(&mine).expect("it is there").len();
    user.json(&["quantize", source, "mine.gguf", "Q8_0", "--force", "--json"]);
    assert!(std::fs::metadata(&mine).expect("it is there").len() < converted);

    // A part of a split set is a file like any other.
    let part = user.write("parts-00002-of-00002.gguf", "the only copy");
    let size = user.json(&["show", source, "--json"])["memory"]["weights"].as_u64().expect("bytes") * 2 / 3;
    let split = ["convert", source, "parts.gguf", "--to", "gguf", "--split-size", &size.to_string()];
    user.fails(&split, 1, &["parts-00002-of-00002.gguf", "--force"]);
    assert_eq!(std::fs::read(&part).expect("it is there"), b"the only copy");
    assert!(!user.path("parts-00001-of-00002.gguf").exists());
    assert_eq!(user.run(&[&split[..], &["--force"]].concat()).code, 0);

    // What `logits` wrote, it writes anew: the name may be a script's.
    user.write("ids.json", "[1, 2, 3]");
    let logits = |out| ["logits", source, "--tokens", "ids.json", "--out", out];
    // An empty file is what `mktemp` leaves.
    user.write("logits.safetensors", "");
    for _ in 0..2 {
        let done = user.run(&logits("logits.safetensors"));
        assert_eq!(done.code, 0, "{}", done.stderr);
    }
    user.write("mine.txt", "the only copy");
    user.fails(&logits("mine.txt"), 1, &["mine.txt", "is there already", "name another"]);
    user.fails(&logits("mine.gguf"), 1, &["mine.gguf"]);
    assert_eq!(std::fs::read(user.path("mine.txt")).expect("it is there"), b"the only copy");

    // A folder that is not there is told before the work, not after it.
    user.fails(
        &["convert", source, "absent/mine.gguf", "--to", "gguf"],
        3,
        &["absent/mine.gguf", "there is no folder absent"],
    );

    user.fails(&["convert", source, "absent/mine", "--to", "hf"], 3, &["there is no folder absent"]);

    // Neither a folder nor a device is a file to replace, whatever is said.
    std::fs::create_dir(user.path("folder")).expect("a folder");
    for more in [&[][..], &["--force"]] {
        user.fails(&[&["quantize", source, "folder", "Q8_0"], more].concat(), 5, &["folder", "is a folder"]);
        let to_device = ["convert", source, "/dev/null", "--to", "gguf"];
        user.fails(&[&to_device[..], more].concat(), 5, &["/dev/null", "not a regular file"]);
        user.write("folder/note.txt", "mine");
        let to_folder = ["convert", source, "folder", "--to", "hf"];
        user.fails(&[&to_folder[..], more].concat(), 5, &["folder", "not empty"]);
        assert!(user.path("folder/note.txt").exists());
    }
    assert!(user.files_named(".alti-partial").is_empty(), "nothing half-written is left");
}

/// Names and bytes of all tensors, in name order.
fn safetensors_sum(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let file = safetensors::SafeTensors::deserialize(bytes).expect("safetensors");
    let mut tensors: Vec<_> =
        file.iter().map(|(name, tensor)| (name.to_owned(), tensor.data().to_vec())).collect();
    tensors.sort();
    tensors
}

#[test]
fn quantize_reports_each_tensor() {
    let user = User::new();
    let source = golden("llama3-gqa");
    for (recipe, most) in [("Q8_0", 0.01), ("Q4_K_M", 0.1), ("bf16", 0.005)] {
        let target = user.path(&format!("{recipe}.gguf"));
        let done = user.json(&["quantize", text(&source), text(&target), recipe, "--json", "--threads", "2"]);
        let error = done["relative_error"].as_f64().expect("an error");
        assert!(error > 0.0 && error < most, "{recipe}: {error}");
        let shown = user.json(&["show", text(&target), "--json", "--tensors"]);
        let written = done["tensors"].as_array().expect("tensors");
        assert_eq!(written.len(), shown["tensors"].as_array().expect("tensors").len());
        for (written, shown) in written.iter().zip(shown["tensors"].as_array().expect("tensors")) {
            assert_eq!((&written["name"], &written["to"]), (&shown["name"], &shown["dtype"]));
        }
    }
    let one = user.path("one.gguf");
    user.json(&["quantize", text(&source), text(&one), "Q4_0", "--json", "--threads", "1"]);
    let three = user.path("three.gguf");
    let done = user.run(&["quantize", text(&source), text(&three), "Q4_0", "--threads", "3"]);
    assert!(done.stderr.contains("blk.0.attn_q.weight"), "{}", done.stderr);
    let bytes = |path| std::fs::read(path).expect("the file");
    assert!(bytes(&one) == bytes(&three), "the file depends on the number of threads");

    user.fails(&["quantize", text(&source), "x.gguf", "Q9"], 2, &["--help"]);
    user.fails(&["quantize", text(&source), "x.gguf", "Q4_0", "--imatrix", text(&one)], 5, &["importance"]);
    assert!(!user.path("x.gguf").exists());
}

#[test]
fn pull_list_show_and_remove_a_local_model() {
    let user = User::new();
    let file = gguf(&user, "llama3-gqa");
    let pulled = user.json(&["pull", &file, "--name", "mine", "--json"]);
    assert_eq!((&pulled["name"], &pulled["already_present"]), (&json!("mine"), &json!(false)));
    let stored = pulled["path"].as_str().expect("a path");
    assert_eq!(std::fs::read(stored).expect("stored"), std::fs::read(&file).expect("original"));
    assert_eq!(user.json(&["list", "--json"])[0]["name"], "mine");
    assert_eq!(user.json(&["show", "mine", "--json"])["source"], file);
    assert_eq!(user.run(&["rm", "mine"]).code, 0);
    user.fails(&["show", "mine"], 3, &["no model `mine`"]);
    user.fails(&["pull", "./absent.gguf"], 3, &["absent.gguf"]);
    user.fails(&["pull", "lama3.2-1b"], 3, &["did you mean", "llama3.2-1b"]);
    user.fails(&["pull", "hf:only-an-owner"], 2, &["only-an-owner"]);
}

#[test]
fn a_licence_with_terms_is_accepted_once() {
    let user = User::new();
    let model = user.path("licensed.gguf");
    let license = ("general.license".to_owned(), Value::String("llama3.2".to_owned()));
    write_metadata(&model, &[tokenizer_metadata(), vec![license]].concat());
    let pull = ["pull", text(&model), "--name", "licensed"];
    let refused = user.run(&pull);
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    for words in ["Built with Llama", "700 million", "--accept-license"] {
        assert!(refused.stderr.contains(words), "{words}: {}", refused.stderr);
    }
    assert_eq!(user.json(&["list", "--json"]), json!([]));
    assert_eq!(user.run(&[&pull[..], &["--accept-license"]].concat()).code, 0);
    assert_eq!(user.run(&["rm", "licensed"]).code, 0);
    assert_eq!(user.run(&pull).code, 0, "the store remembers");
}
