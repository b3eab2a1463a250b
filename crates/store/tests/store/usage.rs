use super::Fixture;
use alti_store::{ClosedPrice, ExactMoney, Group, Money, Summary, Totals, UsageFilter, UsageRecord};
use proptest::prelude::*;
use std::collections::BTreeMap;

const DAY: i64 = 86_400_000_000;

fn record() -> impl Strategy<Value = UsageRecord> {
    let who = (0..4 * DAY, 0..3u8, 0..3u8);
    let tokens = (0..1u64 << 40, 0..1u64 << 40, 0..1u64 << 40);
    let times = (0..1u64 << 42, 0..1u64 << 42, 0..1u64 << 42, 0..1u64 << 42);
    (who, tokens, times, 0..1i64 << 42).prop_map(|((at, key, model), tokens, times, cost)| UsageRecord {
        at_micros: at,
        request: "r".to_owned(),
        key: if key == 0 { String::new() } else { format!("key_{key}") },
        model: format!("model-{model}"),
        route: "/v1/chat/completions".to_owned(),
        outcome: "stop".to_owned(),
        prompt_tokens: tokens.0,
        cached_tokens: tokens.1,
        generated_tokens: tokens.2,
        queue_micros: times.0,
        prefill_micros: times.1,
        decode_micros: times.2,
        cpu_micros: times.3,
        cost: Money::from_nanos(cost),
    })
}

/// The sums, from the rows, by hand.
fn summed(rows: &[UsageRecord], group: Group) -> Vec<Summary> {
    let mut sums: BTreeMap<_, Totals> = BTreeMap::new();
    for row in rows {
        let name = (
            group.day.then_some(row.at_micros / DAY),
            group.key.then(|| row.key.clone()),
            group.model.then(|| row.model.clone()),
        );
        let sum = sums.entry(name).or_default();
        sum.requests += 1;
        sum.prompt_tokens += row.prompt_tokens;
        sum.cached_tokens += row.cached_tokens;
        sum.generated_tokens += row.generated_tokens;
        sum.queue_micros += row.queue_micros;
        sum.prefill_micros += row.prefill_micros;
        sum.decode_micros += row.decode_micros;
        sum.cpu_micros += row.cpu_micros;
        sum.cost = sum.cost + row.cost;
    }
    sums.into_iter().map(|((day, key, model), totals)| Summary { day, key, model, totals }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn summaries_are_exactly_the_sums_of_the_rows(
        rows in prop::collection::vec(record(), 0..40),
        cut in 0..40usize,
        key in prop::option::of("key_[12]"),
        days in (0..4i64, 0..4i64),
    ) {
        let fixture = Fixture::new();
        let usage = fixture.store.usage();
        let (first, second) = rows.split_at(cut.min(rows.len()));
        usage.record(first).expect("recorded");
        second.iter().for_each(|row| usage.record(std::slice::from_ref(row)).expect("recorded"));
        let filter = UsageFilter { from_day: Some(days.0), to_day: Some(days.1), key: key.clone(), model: None };
        let meant: Vec<UsageRecord> = rows
            .iter()
            .filter(|row| key.as_ref().is_none_or(|key| row.key == *key))
            .filter(|row| (days.0..=days.1).contains(&(row.at_micros / DAY)))
            .cloned()
            .collect();
        prop_assert_eq!(usage.rows(&filter, 0, 1000).expect("rows"), meant.clone());
        for bits in 0..8 {
            let group = Group { day: bits & 1 > 0, key: bits & 2 > 0, model: bits & 4 > 0 };
            prop_assert_eq!(usage.summary(&filter, group).expect("summary"), summed(&meant, group));
            for keys in [&["key_1"][..], &["key_1", "key_2", "key_9"], &["", "key_2"], &[]] {
                let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
                let of_keys: Vec<UsageRecord> =
                    meant.iter().filter(|row| keys.contains(&row.key)).cloned().collect();
                let found = usage.summary_of_keys(&filter, &keys, group).expect("summary");
                prop_assert_eq!(found, summed(&of_keys, group));
            }
            let price = ClosedPrice {
                name: "closed".to_owned(),
                input: Money::from_nanos(1_500_007),
                cached_input: Money::from_nanos(499_999),
                output: Money::from_nanos(3),
                updated_at: 0,
            };
            let rows: ExactMoney = summed(&meant, group).iter().map(|row| price.cost(&row.totals)).sum();
            let total = summed(&meant, Group::default());
            prop_assert_eq!(rows, total.iter().map(|row| price.cost(&row.totals)).sum());
        }
        for key in ["", "key_1"] {
            let of_day: Vec<UsageRecord> =
                rows.iter().filter(|row| row.key == key && row.at_micros / DAY == 2).cloned().collect();
            let expected = summed(&of_day, Group::default()).first().map(|row| row.totals).unwrap_or_default();
            prop_assert_eq!(usage.of_key(key, 2).expect("sums"), expected);
        }
    }
}

#[test]
fn a_row_that_cannot_be_summed_is_refused_with_all_that_came_with_it() {
    let fixture = Fixture::new();
    let good = UsageRecord::default();
    for bad in [
        UsageRecord { prompt_tokens: u64::MAX, ..good.clone() },
        UsageRecord { cost: Money::from_nanos(-1), ..good.clone() },
    ] {
        assert!(fixture.store.usage().record(&[good.clone(), bad]).is_err());
    }
    assert_eq!(
        fixture.store.usage().summary(&UsageFilter::default(), Group::default()).expect("summary"),
        []
    );
}

#[test]
fn tokens_are_priced_as_the_owner_said() {
    let fixture = Fixture::new();
    let money = |text| Money::parse(text).expect("an amount");
    let price = ClosedPrice {
        name: "closed-large".to_owned(),
        input: money("2.50"),
        cached_input: money("1.25"),
        output: money("10"),
        updated_at: 0,
    };
    fixture.store.closed_prices().set(price.clone()).expect("set");
    fixture.store.closed_prices().set(ClosedPrice { output: money("12"), ..price }).expect("set again");
    let prices = fixture.store.closed_prices().list().expect("list");
    assert_eq!(prices.len(), 1);
    let totals = Totals {
        prompt_tokens: 3_000_000,
        cached_tokens: 1_000_000,
        generated_tokens: 500_000,
        ..Totals::default()
    };
    assert_eq!(prices[0].cost(&totals), money("12.25").into());
    fixture.store.closed_prices().remove("closed-large").expect("removed");
    assert!(fixture.store.closed_prices().remove("closed-large").is_err());
}
