//! Keys, usage, backups: the commands that look into the server's database.

mod common;

use alti_store::{Money, Store, StoreSettings, UsageRecord};
use common::User;
use serde_json::Value;

fn store(user: &User) -> Store {
    Store::open(&user.path("store/alti.db"), StoreSettings::default()).expect("the database opens")
}

fn json(user: &User, arguments: &[&str]) -> Value {
    let done = user.run(&[arguments, &["--json"]].concat());
    assert_eq!(done.code, 0, "{arguments:?}: {}", done.stderr);
    serde_json::from_str(&done.stdout).expect("JSON")
}

#[test]
fn a_key_is_shown_once_listed_and_taken_back() {
    let user = User::new();
    assert!(user.run(&["keys", "list"]).stdout.contains("no keys"));
    let made = user.run(&[
        "keys",
        "create",
        "shop",
        "--tokens-per-day",
        "1000",
        "--cost-per-day",
        "0.50",
        "--expires-days",
        "2",
    ]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    let secret = made.stdout.trim();
    assert!(
        secret.starts_with("sk-alti-") && !secret.contains(char::is_whitespace),
        "stdout is the key alone"
    );
    let key = store(&user).keys().find(secret).expect("find").expect("the key");
    assert_eq!((key.name.as_str(), key.tenant.as_str()), ("shop", "shop"));
    assert_eq!(key.scopes, ["data", "inference", "models"]);
    assert_eq!(key.quotas.cost_per_day, Some(Money::parse("0.5").expect("an amount")));
    let listed = user.run(&["keys", "list"]).stdout;
    assert!(listed.contains("active") && listed.contains("1000 tokens/d, 0.50/d"), "{listed}");
    assert!(!listed.contains(secret), "a key is never shown again");
    assert_eq!(json(&user, &["keys", "list"])[0]["id"], key.id.as_str());
    assert_eq!(user.run(&["keys", "revoke", "shop"]).code, 0);
    assert!(user.run(&["keys", "list"]).stdout.contains("revoked"));
    let again = user.run(&["keys", "revoke", "shop"]);
    assert_eq!(again.code, 3);
    assert!(again.stderr.contains("no active key `shop`"), "{}", again.stderr);
}

#[test]
fn keys_that_make_no_sense_are_refused() {
    let user = User::new();
    assert_eq!(user.run(&["keys", "create", "x", "--scope", "everything"]).code, 2);
    assert_eq!(user.run(&["keys", "create", "x", "--cost-per-day", "-1"]).code, 2);
    assert_eq!(user.run(&["keys", "create", " "]).code, 2);
    json(&user, &["keys", "create", "twice"]);
    json(&user, &["keys", "create", "twice"]);
    let revoked = user.run(&["keys", "revoke", "twice"]);
    assert_eq!(revoked.code, 2);
    assert!(revoked.stderr.contains("name one by its id"), "{}", revoked.stderr);
}

#[test]
fn usage_is_shown_beside_what_closed_apis_would_have_charged() {
    let user = User::new();
    let key = json(&user, &["keys", "create", "shop"])["key"]["id"].as_str().expect("an id").to_owned();
    let row = |day: i64, model: &str, prompt: u64, nanos: i64| UsageRecord {
        at_micros: day * 86_400_000_000,
        key: key.clone(),
        model: model.to_owned(),
        prompt_tokens: prompt,
        generated_tokens: 1000,
        cost: Money::from_nanos(nanos),
        ..UsageRecord::default()
    };
    let rows = [row(20_000, "a", 1_000_000, 3), row(20_001, "a", 500_000, 4), row(20_001, "b", 1, 5)];
    store(&user).usage().record(&rows).expect("recorded");
    let price = ["usage", "set-price", "closed", "--input", "2", "--output", "10"];
    assert_eq!(user.run(&price).code, 0);
    let all = json(&user, &["usage", "--by", "model"]);
    assert_eq!(all["rows"].as_array().expect("rows").len(), 2);
    assert_eq!(all["total"]["requests"], 3);
    assert_eq!(all["total"]["cost"], "0.000000012");
    assert_eq!(all["total"]["closed_apis"][0]["cost"], "3.030002");
    let some = json(&user, &["usage", "--from", "2024-10-05", "--to", "2024-10-05", "--key", "shop"]);
    assert_eq!(
        (some["rows"][0]["day"].as_str(), some["total"]["requests"].as_u64()),
        (Some("2024-10-05"), Some(2))
    );
    assert_eq!(some["rows"][0]["key_name"], "shop");
    let table = user.run(&["usage"]).stdout;
    assert!(
        table.contains("2024-10-04  shop  a") && table.contains("closed") && table.contains("total"),
        "{table}"
    );
    assert!(user.run(&["usage", "prices"]).stdout.contains("2.00"));
    assert_eq!(user.run(&["usage", "remove-price", "closed"]).code, 0);
    assert_eq!(user.run(&["usage", "remove-price", "closed"]).code, 3);
}

#[test]
fn a_name_stands_for_all_keys_that_had_it_and_none_is_an_error() {
    let user = User::new();
    let create = || json(&user, &["keys", "create", "shop"])["key"]["id"].as_str().expect("an id").to_owned();
    let first = create();
    assert_eq!(user.run(&["keys", "revoke", "shop"]).code, 0);
    let second = create();
    let other = json(&user, &["keys", "create", "other"])["key"]["id"].as_str().expect("an id").to_owned();
    let row = |key: &str, tokens: u64| UsageRecord {
        key: key.to_owned(),
        model: "a".to_owned(),
        generated_tokens: tokens,
        ..UsageRecord::default()
    };
    let rows = [row(&first, 1), row(&second, 20), row(&other, 300), row("", 4000)];
    store(&user).usage().record(&rows).expect("recorded");
    let tokens = |arguments: &[&str]| {
        let usage = json(&user, &[&["usage"], arguments].concat());
        let rows: u64 = usage["rows"].as_array().expect("rows").iter().map(generated).sum();
        assert_eq!(rows, generated(&usage["total"]), "{arguments:?}");
        rows
    };
    assert_eq!(tokens(&["--key", "shop"]), 21);
    assert_eq!(tokens(&["--key", "shop", "--by", "model"]), 21);
    assert_eq!((tokens(&["--key", &first]), tokens(&["--key", &second])), (1, 20));
    assert_eq!((tokens(&["--key", "other"]), tokens(&[])), (300, 4321));
    user.fails(&["usage", "--key", "shopp"], 3, &["no key `shopp`", "alti keys list"]);
}

fn generated(row: &Value) -> u64 {
    row["generated_tokens"].as_u64().expect("a number of tokens")
}

#[test]
fn what_closed_apis_would_have_charged_adds_up() {
    let user = User::new();
    let row = |model: &str| UsageRecord {
        model: model.to_owned(),
        prompt_tokens: 1,
        generated_tokens: 1,
        ..UsageRecord::default()
    };
    // A token is less than a billionth, of which rows and their sum were rounded apart.
    let price = ["usage", "set-price", "closed", "--input", "0.0005", "--output", "0.000000001"];
    assert_eq!(user.run(&price).code, 0);
    store(&user).usage().record(&[row("a"), row("b"), row("c")]).expect("recorded");
    let usage = json(&user, &["usage", "--by", "model"]);
    let cost = |row: &Value| row["closed_apis"][0]["cost"].as_str().expect("a cost").to_owned();
    let costs: Vec<String> = usage["rows"].as_array().expect("rows").iter().map(cost).collect();
    assert_eq!(costs, ["0.000000000500001"; 3]);
    assert_eq!(cost(&usage["total"]), "0.000000001500003");
}

#[test]
fn one_server_has_a_database_and_other_commands_look_into_it() {
    let user = User::new();
    json(&user, &["keys", "create", "shop"]);
    let store = store(&user);
    let lock = store.lock_for_serving().expect("nobody serves it");
    let refused = user.run(&["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    for word in ["alti.db: another `alti serve`", "alti.db.serving", "--database"] {
        assert!(refused.stderr.contains(word), "{word}: {}", refused.stderr);
    }
    for command in [&["keys", "list"][..], &["usage"], &["backup", "monday"]] {
        json(&user, command);
    }
    drop(lock);
    // Nothing but the lock was in its way.
    let next = user.run(&["serve", "--listen", "127.0.0.1:0", "no-such-model"]);
    assert!(!next.stderr.contains("alti.db"), "{}", next.stderr);
}

#[test]
fn a_backup_comes_back() {
    let user = User::new();
    assert_eq!(user.run(&["backup", "monday"]).code, 3, "there is nothing to back up");
    json(&user, &["keys", "create", "kept"]);
    assert_eq!(json(&user, &["backup", "monday"])["contents"], 0);
    assert_eq!(user.run(&["backup", "monday"]).code, 2, "a backup is not written over");
    json(&user, &["keys", "create", "lost"]);
    let careless = user.run(&["restore", "monday"]);
    assert_eq!(careless.code, 2);
    assert!(careless.stderr.contains("--replace"), "{}", careless.stderr);
    assert_eq!(json(&user, &["keys", "list"]).as_array().map(Vec::len), Some(2));
    let restored = user.run(&["restore", "monday", "--replace"]);
    assert_eq!(restored.code, 0, "{}", restored.stderr);
    assert_eq!(json(&user, &["keys", "list"]).as_array().map(Vec::len), Some(1));
    assert_eq!(user.run(&["restore", "tuesday", "--replace"]).code, 3);
    // The log of a database that is not closed would mend it.
    for log in ["store/alti.db-wal", "store/alti.db-shm"] {
        let _ = std::fs::remove_file(user.path(log));
    }
    user.write(
        "store/alti.db",
        "something else, which is long enough to be looked at as a database file, perhaps",
    );
    assert_eq!(user.run(&["keys", "list"]).code, 5);
}
