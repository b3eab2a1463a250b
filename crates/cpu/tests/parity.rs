//! The CPU backend beside the reference and PyTorch's goldens, on every instruction set of this
//! machine, with one thread and with more than there are cores.

use alti_cpu::{Cpu, Isa};
use alti_testkit::{adapters, conformance, hand_over, parity};

/// Backends that must compute the same: the fastest with few and with many threads, and the others.
fn backends() -> impl Iterator<Item = (Isa, usize)> {
    let best = Isa::detect();
    let others = Isa::available().into_iter().filter(move |isa| *isa != best);
    [(best, 1), (best, 3)].into_iter().chain(others.map(|isa| (isa, 2)))
}

fn cpu(isa: Isa, threads: usize) -> Cpu {
    Cpu::new(isa, threads).expect("threads")
}

#[test]
fn the_cpu_reproduces_the_goldens() {
    backends().for_each(|(isa, threads)| parity::check_all(|| cpu(isa, threads)));
}

#[test]
fn rows_keep_their_bits_in_any_encoding_and_company() {
    backends().for_each(|(isa, threads)| parity::check_encodings(|| cpu(isa, threads)));
}

#[test]
fn operations_compute_what_the_reference_does() {
    backends().for_each(|(isa, threads)| conformance::check_operations(|| cpu(isa, threads)));
}

#[test]
fn what_is_handed_to_a_product_has_the_bits_of_what_is_fetched() {
    backends().for_each(|(isa, threads)| {
        hand_over::check_feed_forward(|| cpu(isa, threads));
        hand_over::check_attention(|| cpu(isa, threads));
    });
}

#[test]
fn adapters_compute_what_peft_and_merged_weights_do() {
    backends().for_each(|(isa, threads)| {
        adapters::check_peft(|| cpu(isa, threads));
        adapters::check_merged(|| cpu(isa, threads));
    });
}

#[test]
fn sequences_keep_their_bits_whichever_adapters_others_use() {
    backends().for_each(|(isa, threads)| adapters::check_company(|| cpu(isa, threads)));
}
