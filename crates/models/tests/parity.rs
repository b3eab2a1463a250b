//! The models on the reference backend, against PyTorch's goldens.

use alti_tensor::Reference;

#[test]
fn the_reference_reproduces_the_goldens() {
    alti_testkit::parity::check_all(Reference::<f32>::new);
}
