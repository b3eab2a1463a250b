//! How near predictions must be to what was published. The bounds are those that the planner promises; where a row set is
//! split, the held half is judged, which no constant was fitted to.

use alti_plan::calibration::{Calibration, STEP_ERRORS};
use alti_plan::published::{
    Comparison, Half, TrainingCase, built_in, carbon_rows, constant_mfu, days_rows, layout_choices,
    memory_rows, serving_rows, step_error_quantiles, summary, training_cases,
};

fn held(comparisons: &[Comparison]) -> alti_plan::published::Summary {
    summary(comparisons.iter().filter(|it| it.half == Half::Held))
}

#[test]
fn memory_is_within_a_tenth_on_nine_rows_of_ten() {
    let rows = memory_rows(&built_in("memory_truth.csv"));
    let all = summary(rows.iter());
    assert!(all.rows >= 17 && all.within_tenth >= 0.9, "{all:?}");
}

#[test]
fn step_times_of_held_rows_are_within_fifteen_per_cent_and_a_third_of_a_constant_mfu() {
    let cases = training_cases();
    let calibration = Calibration::default();
    let (single, other): (Vec<&TrainingCase>, Vec<_>) =
        cases.iter().partition(|case| case.source.contains("single node"));
    for (what, cases) in [("one node", single), ("published", other)] {
        let rows: Vec<Comparison> = cases.iter().map(|case| case.compare(&calibration)).collect();
        let found = held(&rows);
        assert!(found.rows > 80 && found.mean_absolute_error <= 0.10, "{what}: {found:?}");
    }
    let rows: Vec<Comparison> = cases.iter().map(|case| case.compare(&calibration)).collect();
    let (error, baseline) = (held(&rows).mean_absolute_error, constant_mfu(&cases, Half::Held));
    assert!(error <= baseline / 3.0, "{error} of {baseline}");
}

#[test]
fn days_and_emissions_follow_from_their_formulas() {
    let rows = built_in("planner_truth.csv");
    let days = days_rows(&rows);
    assert!(days.len() >= 10 && days.iter().all(|it| it.error().abs() <= 0.035), "{days:?}");
    let carbon = carbon_rows(&rows);
    assert!(carbon.len() >= 10 && carbon.iter().all(|it| it.error().abs() <= 0.02), "{carbon:?}");
}

#[test]
fn the_first_choice_is_near_the_best_measured_layout() {
    let cases = training_cases();
    let choices = layout_choices(&cases, &Calibration::default(), 4);
    let good = choices.iter().filter(|it| it.1 <= 1.05).count() as f64 / choices.len() as f64;
    assert!(choices.len() > 80 && good >= 0.8, "{good}: {choices:?}");
}

#[test]
fn serving_of_held_rows_is_within_a_fifth() {
    let found = held(&serving_rows(&built_in("inference_truth.csv")));
    assert!(found.rows > 15 && found.mean_absolute_error <= 0.2, "{found:?}");
}

#[test]
fn the_error_that_plans_draw_is_that_of_held_rows() {
    let found = step_error_quantiles(&training_cases(), &Calibration::default());
    let near = found.iter().zip(STEP_ERRORS).all(|(found, kept)| (found / kept - 1.0).abs() < 0.005);
    assert!(near, "{found:.3?} for {STEP_ERRORS:?}");
}
