//! The models on the CPU backend, against PyTorch's goldens: on every instruction set of this
//! machine, with one thread and with more than there are cores.

use alti_cpu::{Cpu, Isa};

#[test]
fn the_cpu_reproduces_the_goldens() {
    for isa in Isa::available() {
        for threads in [1, 2, 5] {
            alti_testkit::parity::check_all(|| Cpu::new(isa, threads).expect("threads"));
        }
    }
}
