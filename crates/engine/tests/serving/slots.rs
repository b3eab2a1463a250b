//! Slots: what was computed last under a number is saved, brought back and given up.

use crate::{engine, eventually, prompt, random, roomy, same, together};
use alti_engine::EngineError;
use alti_engine::serving::{CacheDomain, EngineSettings, Job, SlotAction, SlotName};

fn job(text: Vec<u32>, slot: u32) -> Job {
    Job { logprobs: Some(0), slot: Some(slot), ..Job::new(text, random(1, 10)) }
}

fn slot(slot: u32) -> SlotName {
    SlotName { domain: CacheDomain::default(), slot }
}

fn cached(engine: &alti_engine::serving::Engine, text: Vec<u32>) -> usize {
    together(engine, &[Job { slot: None, ..job(text, 0) }])[0].usage.cached_tokens
}

#[test]
fn a_slot_goes_on_in_another_engine() {
    let folder = tempfile::tempdir().unwrap();
    let (path, again) = (folder.path().join("slot"), folder.path().join("again"));
    let (before, after) = (engine(roomy()), engine(roomy()));
    let expected = together(&before, &[job(prompt(3, 100), 1)]);
    // The prompt and the answer, but for the last token, behind which nothing was computed.
    assert_eq!(before.slot(slot(1), SlotAction::Save(&path, "model")).unwrap(), 109);
    assert_eq!(after.slot(slot(0), SlotAction::Restore(&path, "model")).unwrap(), 109);
    assert_eq!(after.slot(slot(0), SlotAction::Save(&again, "model")).unwrap(), 109);
    assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&again).unwrap());
    let found = together(&after, &[job(prompt(3, 100), 0)]);
    same(&found, &expected);
    assert!(found[0].usage.cached_tokens > 90, "{:?}", found[0].usage);
}

#[test]
fn a_slot_names_what_was_computed_last_for_its_owner() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("slot");
    let ours = engine(roomy());
    let empty = |name: SlotName| {
        matches!(ours.slot(name, SlotAction::Save(&path, "model")), Err(EngineError::EmptySlot { .. }))
    };
    assert!(empty(slot(0)));
    together(&ours, &[job(prompt(1, 100), 0)]);
    together(&ours, &[job(prompt(2, 70), 0)]);
    assert_eq!(ours.slot(slot(0), SlotAction::Save(&path, "model")).unwrap(), 79);
    let other = CacheDomain { tenant: "other".to_owned(), adapter: None };
    assert!(empty(slot(1)) && empty(SlotName { domain: other.clone(), slot: 0 }));
    let refused = |name: SlotName, model: &str| match ours.slot(name, SlotAction::Restore(&path, model)) {
        Err(EngineError::Prefixes { what, .. }) => what,
        found => panic!("it was to be refused: {found:?}"),
    };
    assert!(refused(SlotName { domain: other, slot: 0 }, "model").contains("for somebody else"));
    assert!(refused(slot(0), "another").contains("of another model"));
    ours.save_prefixes(&path, "model").unwrap();
    assert!(refused(slot(0), "model").contains("more than one text"));
    let whole = std::fs::read(&path).unwrap();
    for length in [0, 7, 100, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        refused(slot(0), "model");
    }
    std::fs::remove_file(&path).unwrap();
    refused(slot(0), "model");
    let unknown = CacheDomain { adapter: Some("none".to_owned()), ..CacheDomain::default() };
    assert!(empty(SlotName { domain: unknown.clone(), slot: 0 }));
    assert_eq!(ours.slot(SlotName { domain: unknown, slot: 0 }, SlotAction::Erase).unwrap(), 0);
}

#[test]
fn what_a_slot_alone_held_is_given_up_with_it() {
    let ours = engine(roomy());
    let text = |end: u32| [&prompt(4, 140)[..], &prompt(end, 40)].concat();
    together(&ours, &[job(text(5), 0), job(text(6), 1)]);
    assert_eq!(ours.slot(slot(0), SlotAction::Erase).unwrap(), 189);
    // The pages that both begin with are still there, and all of the other's.
    let status = ours.status();
    assert_eq!((status.used_pages, status.cached_pages), (0, 3));
    assert!(cached(&ours, text(6)) > 170);
    assert_eq!(ours.slot(slot(0), SlotAction::Erase).unwrap(), 0);
    // What another slot names stays until that is erased.
    together(&ours, &[job(text(6), 2)]);
    ours.slot(slot(2), SlotAction::Erase).unwrap();
    assert!(cached(&ours, text(6)) > 170);
    assert_eq!(ours.slot(slot(1), SlotAction::Erase).unwrap(), 189);
    assert_eq!(cached(&ours, text(6)), 0);
}

#[test]
fn a_text_that_comes_back_makes_room_for_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("slot");
    let ours = engine(EngineSettings { kv_tokens: 512, ..roomy() });
    together(&ours, &[job(prompt(50, 200), 0)]);
    ours.slot(slot(0), SlotAction::Save(&path, "model")).unwrap();
    for seed in 0..10 {
        together(&ours, &[Job { slot: None, ..job(prompt(seed, 200), 0) }]);
    }
    assert!(matches!(
        ours.slot(slot(0), SlotAction::Save(&path, "model")),
        Err(EngineError::EmptySlot { .. })
    ));
    assert_eq!(ours.slot(slot(0), SlotAction::Restore(&path, "model")).unwrap(), 209);
    assert!(cached(&ours, prompt(50, 200)) > 190);
    // Nothing is held when nobody works: all pages can be used again.
    eventually("pages are given back", || ours.status().used_pages == 0);
    for seed in 0..10 {
        together(&ours, &[Job { slot: None, ..job(prompt(seed, 200), 0) }]);
    }
    assert_eq!(cached(&ours, prompt(50, 200)), 0);
    let small = engine(EngineSettings { context: 64, kv_tokens: 128, ..roomy() });
    assert_eq!(
        small.slot(slot(0), SlotAction::Restore(&path, "model")).unwrap(),
        128,
        "as much as there is room"
    );
    let off = engine(EngineSettings { prefix_cache: false, ..roomy() });
    together(&off, &[job(prompt(1, 100), 0)]);
    for action in [SlotAction::Save(&path, "model"), SlotAction::Restore(&path, "model")] {
        assert!(off.slot(slot(0), action).is_err(), "nothing is kept where the prefix cache is off");
    }
}
