//! Packed weights that are kept from one start to the next.

use crate::common::User;
use crate::store;
use std::fs;
use std::path::PathBuf;

/// A user whose model lies in a folder of their own, and who keeps packed weights.
fn user() -> (User, PathBuf) {
    let user = User::new();
    let model = user.path("model.gguf");
    fs::copy(store::default_model(), &model).expect("there is room for a copy");
    // The store's files cannot be written, and so can their copies not.
    let mut permissions = fs::metadata(&model).expect("it is there").permissions();
    #[expect(clippy::permissions_set_readonly_false, reason = "in a folder of the test's own")]
    permissions.set_readonly(false);
    fs::set_permissions(&model, permissions).expect("it is ours");
    (user, model)
}

/// What the model says first.
fn answer(user: &User, packed: &str) -> String {
    let arguments = ["run", "--raw", "The capital of France is", "--preset", "greedy", "--max-tokens", "6"];
    let mut command = user.command(&[&arguments[..], &["--model", "model.gguf"]].concat());
    let output = command.env("ALTI_PACKED", packed).output().expect("the binary runs");
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

/// The packed weights of this user.
fn kept(user: &User) -> Vec<PathBuf> {
    let entries = fs::read_dir(user.path("store/packed")).into_iter().flatten();
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| !path.ends_with(".lock")).collect()
}

#[test]
fn a_model_is_packed_once() {
    let (user, model) = user();
    let expected = answer(&user, "off");
    assert!(kept(&user).is_empty(), "nothing is kept");
    assert_eq!(answer(&user, "on"), expected);
    let [file] = &kept(&user)[..] else { panic!("one file is kept") };
    let whole = fs::read(file).expect("it can be read");
    let told = user.run(&["doctor"]);
    assert!(told.stdout.contains("ALTI_PACKED=off"), "what it takes is told: {}", told.stdout);
    assert_eq!(answer(&user, "on"), expected);

    // Other weights in the file give another answer: it is what is used.
    let mut zeros = whole.clone();
    let middle = zeros.len() / 2;
    zeros[middle..].fill(0);
    fs::write(file, zeros).expect("it is ours");
    assert_ne!(answer(&user, "on"), expected);
    assert_eq!(answer(&user, "off"), expected);

    // A damaged one is not used, and written anew.
    fs::write(file, &whole[..middle]).expect("it is ours");
    assert_eq!(answer(&user, "on"), expected);
    assert!(fs::read(file).expect("it can be read") == whole);

    // So is that of a model that has changed since, be it a copy of the same size and time.
    let copy = user.path("copy.gguf");
    fs::copy(&model, &copy).expect("there is room");
    let time = fs::metadata(&model).and_then(|model| model.modified()).expect("it has one");
    fs::File::options()
        .append(true)
        .open(&copy)
        .and_then(|copy| copy.set_modified(time))
        .expect("it is ours");
    fs::rename(&copy, &model).expect("it is ours");
    assert_eq!(answer(&user, "on"), expected);
    assert!(fs::read(file).expect("it can be read") != whole, "it says of what it is");

    // With the model goes what was kept of it, and what somebody who was killed had begun.
    fs::write(user.path("store/packed/.alti-partial-1"), "begun").expect("it is ours");
    fs::write(user.path("store/packed/letters.packed"), "not ours").expect("it is the user's");
    fs::remove_file(model).expect("it is ours");
    assert_eq!(user.run(&["rm", "--unused"]).code, 0);
    assert_eq!(kept(&user), [user.path("store/packed/letters.packed")], "nothing else is touched");
}

#[test]
fn the_setting_is_on_or_off() {
    let (user, _) = user();
    let output = user.command(&["doctor"]).env("ALTI_PACKED", "sometimes").output().expect("the binary runs");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && told.contains("ALTI_PACKED") && told.contains("on or off"), "{told}");
}
