//! The models on the reference backend, against PyTorch's goldens.

use alti_tensor::Reference;

#[test]
fn the_reference_reproduces_the_goldens() {
    alti_testkit::parity::check_all(Reference::<f32>::new);
}

#[test]
fn adapters_compute_what_peft_and_merged_weights_do() {
    alti_testkit::adapters::check_peft(Reference::<f32>::new);
    alti_testkit::adapters::check_merged(Reference::<f32>::new);
}

#[test]
fn sequences_keep_their_bits_whichever_adapters_others_use() {
    alti_testkit::adapters::check_company(Reference::<f32>::new);
}
