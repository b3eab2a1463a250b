//! Each primitive and each composite.

use crate::check::{activations, check, loss_of, one_span, random};
use alti_tensor::{AttentionShape, Backend, Experts, LowRank, RowPlan, Span};

const EPSILON: f32 = 1e-2;

#[test]
fn linear() {
    for [rows, inputs, outputs] in [[1, 3, 2], [5, 6, 4], [4, 1, 7]] {
        check("linear", &[&[rows, inputs], &[outputs, inputs]], |tape, w| {
            let x = activations(tape, &w[0], rows);
            let y = tape.linear(&x, &w[1], &one_span(rows));
            loss_of(tape, &y, rows)
        });
    }
}

#[test]
fn embed_adds_over_equal_tokens() {
    check("embed", &[&[3, 4]], |tape, w| {
        let x = tape.embed(&w[0], &[2, 0, 2, 1, 2]);
        loss_of(tape, &x, 5)
    });
}

#[test]
fn rms_norm() {
    for [rows, columns] in [[1, 4], [6, 5]] {
        check("rms_norm", &[&[rows, columns], &[columns]], |tape, w| {
            let x = activations(tape, &w[0], rows);
            let y = tape.rms_norm(&x, &w[1], EPSILON);
            loss_of(tape, &y, rows)
        });
    }
}

#[test]
fn head_norm() {
    for head_dim in [3, 4, 12] {
        check("head_norm", &[&[4, 12]], |tape, w| {
            let x = activations(tape, &w[0], 4);
            let y = tape.head_norm(x, head_dim, EPSILON);
            loss_of(tape, &y, 4)
        });
    }
}

#[test]
fn rope_with_any_cos_and_sin() {
    for heads in [1, 3] {
        check("rope", &[&[5, heads * 6]], |tape, w| {
            let x = activations(tape, &w[0], 5);
            let rotation = tape.input(&random(7, 5 * 6), 6);
            let y = tape.rope(x, &rotation);
            loss_of(tape, &y, 5)
        });
    }
}

#[test]
fn scale_rows() {
    check("scale_rows", &[&[5, 3]], |tape, w| {
        let x = activations(tape, &w[0], 5);
        let factors = tape.input(&random(7, 5), 1);
        let y = tape.scale_rows(x, &factors);
        loss_of(tape, &y, 5)
    });
}

fn check_attention(heads: usize, kv_heads: usize, chunk: Option<usize>, plan: &RowPlan) {
    let head_dim = 3;
    let shape = AttentionShape { heads, kv_heads, head_dim, scale: 1.3, chunk };
    let rows = plan.len();
    let (q, kv) = (heads * head_dim, kv_heads * head_dim);
    let name = format!("attention {heads}/{kv_heads} heads, chunk {chunk:?}, {:?}", plan.spans());
    check(&name, &[&[rows, q], &[rows, kv], &[rows, kv]], |tape, w| {
        let [q, k, v] = [0, 1, 2].map(|i| activations(tape, &w[i], rows));
        let y = tape.attention(&q, &k, &v, &shape, None, plan);
        loss_of(tape, &y, rows)
    });
}

#[test]
fn attention_of_grouped_queries() {
    for (heads, kv_heads) in [(1, 1), (4, 4), (6, 2), (3, 1)] {
        check_attention(heads, kv_heads, None, &one_span(5));
    }
}

#[test]
fn attention_of_several_sequences_and_chunks() {
    let later = Span { first_position: 2, rows: 5, ..Span::default() };
    let fresh = Span { rows: 7, ..Span::default() };
    let plans = [RowPlan::fresh(&[4, 1, 3]), RowPlan::new(vec![fresh, later])];
    for plan in &plans {
        for chunk in [None, Some(2), Some(3)] {
            check_attention(4, 2, chunk, plan);
        }
    }
}

#[test]
fn swiglu() {
    check("swiglu", &[&[4, 5], &[4, 5]], |tape, w| {
        let [gate, up] = [0, 1].map(|i| activations(tape, &w[i], 4));
        let y = tape.swiglu(&gate, &up);
        loss_of(tape, &y, 4)
    });
}

#[test]
fn experts() {
    let (rows, dim, hidden, experts) = (8, 4, 3, 3);
    for used in [1, 2, 3] {
        let shapes: [&[usize]; 5] = [
            &[rows, dim],
            &[experts, dim],
            &[experts, hidden, dim],
            &[experts, hidden, dim],
            &[experts, dim, hidden],
        ];
        check(&format!("{used} experts"), &shapes, |tape, w| {
            let x = activations(tape, &w[0], rows);
            let [router, gate, up, down] = [1, 2, 3, 4].map(|i| w[i].clone());
            let y = tape.experts(&x, &Experts { router, gate, up, down, used }, &one_span(rows));
            loss_of(tape, &y, rows)
        });
    }
}

#[test]
fn add_of_a_value_to_itself_and_to_another() {
    check("add", &[&[3, 4], &[3, 4]], |tape, w| {
        let [x, y] = [0, 1].map(|i| activations(tape, &w[i], 3));
        let sum = tape.add(x.clone(), &x);
        let sum = tape.add(sum, &y);
        loss_of(tape, &sum, 3)
    });
}

#[test]
fn select_rows_twice_and_in_any_order() {
    check("select_rows", &[&[4, 3]], |tape, w| {
        let x = activations(tape, &w[0], 4);
        let y = tape.select_rows(&x, &[3, 0, 3]);
        loss_of(tape, &y, 3)
    });
}

#[test]
fn tied_embeddings_receive_the_sum_of_both_uses() {
    check("tied embeddings", &[&[5, 4], &[4, 4]], |tape, w| {
        let x = tape.embed(&w[0], &[4, 1, 1]);
        let x = tape.linear(&x, &w[1], &one_span(3));
        let logits = tape.linear(&x, &w[0], &one_span(3));
        loss_of(tape, &logits, 3)
    });
}

#[test]
fn norm_linear() {
    check("norm_linear", &[&[3, 4], &[4], &[5, 4], &[5, 4]], |tape, w| {
        let x = activations(tape, &w[0], 3);
        let [a, b] = tape.norm_linear(&x, &w[1], EPSILON, [&w[2], &w[3]], &one_span(3));
        let y = tape.swiglu(&a, &b);
        loss_of(tape, &y, 3)
    });
}

#[test]
fn linear_swiglu_and_norm_swiglu() {
    check("linear_swiglu", &[&[3, 4], &[5, 4], &[5, 4]], |tape, w| {
        let x = activations(tape, &w[0], 3);
        let y = tape.linear_swiglu(&x, &w[1], &w[2], &one_span(3));
        loss_of(tape, &y, 3)
    });
    check("norm_swiglu", &[&[3, 4], &[4], &[5, 4], &[5, 4]], |tape, w| {
        let x = activations(tape, &w[0], 3);
        let y = tape.norm_swiglu(&x, &w[1], EPSILON, &w[2], &w[3], &one_span(3));
        loss_of(tape, &y, 3)
    });
}

#[test]
fn linear_add() {
    check("linear_add", &[&[3, 4], &[3, 5], &[4, 5]], |tape, w| {
        let [residual, x] = [0, 1].map(|i| activations(tape, &w[i], 3));
        let y = tape.linear_add(residual, &x, &w[2], &one_span(3));
        loss_of(tape, &y, 3)
    });
}

#[test]
fn add_rows() {
    check("add_rows", &[&[5, 3], &[2, 3]], |tape, w| {
        let [x, y] = [(0, 5), (1, 2)].map(|(i, rows)| activations(tape, &w[i], rows));
        let sum = tape.add_rows(x, &y, &[3, 1]);
        loss_of(tape, &sum, 5)
    });
}

#[test]
fn low_rank_updates_of_two_adapters_and_none() {
    let span = |rows, adapter| Span { rows, adapter, ..Span::default() };
    let plan = RowPlan::new(vec![span(2, Some(1)), span(1, None), span(2, Some(0)), span(1, Some(1))]);
    let (rows, inputs, outputs) = (plan.len(), 4, 3);
    let shapes: [&[usize]; 6] =
        [&[rows, inputs], &[rows, outputs], &[2, inputs], &[outputs, 2], &[1, inputs], &[outputs, 1]];
    check("low_rank_add", &shapes, |tape, w| {
        let [x, product] = [0, 1].map(|i| activations(tape, &w[i], rows));
        let update = |i: usize, scale| LowRank { down: w[i].clone(), up: w[i + 1].clone(), scale };
        let [first, second] = [update(2, 0.7), update(4, -1.5)];
        let updates = [vec![Some(&first), Some(&second)]];
        let [y] = tape.low_rank_add([product], &x, &updates, &plan);
        loss_of(tape, &y, rows)
    });
}
