//! Matrix tiles (Intel AMX): eight registers of up to 16 rows of 64 bytes, and their products.
//!
//! The intrinsics are not stable in Rust, the instructions are plain assembly. Which registers have
//! which shape is a configuration of the thread, which a kernel loads when it begins and releases
//! when it ends; no other code touches them, so nothing is saved.
//!
//! Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, TDPBSSD and TDPBF16PS.

use std::arch::asm;
use std::marker::PhantomData;

/// Proof that the machine has AMX-TILE, AMX-INT8 and AMX-BF16, and that the system lets this process
/// use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tiles(());

/// Bytes of a full row of a tile.
pub(crate) const TILE_ROW: usize = 64;
/// Rows of a full tile.
pub(crate) const TILE_ROWS: usize = 16;

/// The shapes of the eight registers: rows, and bytes of a row.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Tile registers in use by this thread, which alone can release them.
pub(crate) struct Configured(PhantomData<*const ()>);

impl Tiles {
    /// Asks machine and system.
    pub(crate) fn detect() -> Option<Tiles> {
        (machine_has_tiles() && system_permits_tiles()).then_some(Tiles(()))
    }

    /// Gives the registers these shapes, `(rows, bytes of a row)`, until the result is dropped.
    /// Their contents are zero.
    #[inline(always)]
    pub(crate) fn configure(self, shapes: [(usize, usize); 8]) -> Configured {
        let mut configuration =
            Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        for (index, (rows, bytes)) in shapes.into_iter().enumerate() {
            assert!(rows <= TILE_ROWS && bytes <= TILE_ROW && bytes.is_multiple_of(4));
            configuration.rows[index] = rows as u8;
            configuration.row_bytes[index] = if rows == 0 { 0 } else { bytes as u16 };
        }
        // SAFETY: the token proves that the instruction may be used; the 64 bytes are a valid
        // configuration of palette 1.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly)) };
        Configured(PhantomData)
    }
}

impl Drop for Configured {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: tiles were configured, so the instruction may be used.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// CPUID leaf 7: EDX bits 22 (AMX-BF16), 24 (AMX-TILE) and 25 (AMX-INT8).
fn machine_has_tiles() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const WANTED: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & WANTED == WANTED
}

/// Linux grants the registers' state to a process that asks (Documentation/arch/x86/xstate.rst).
#[cfg(target_os = "linux")]
fn system_permits_tiles() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call changes nothing but what this process may use.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn system_permits_tiles() -> bool {
    false
}

/// Loads the register's rows from `$from`, `$stride` bytes apart.
macro_rules! tile_load {
    ($tile:literal, $from:expr, $stride:expr) => {
        std::arch::asm!(
            concat!("tileloadd tmm", $tile, ", [{from} + {stride}*1]"),
            from = in(reg) $from,
            stride = in(reg) $stride,
            options(nostack, readonly)
        )
    };
}

/// Stores the register's rows to `$to`, `$stride` bytes apart.
macro_rules! tile_store {
    ($tile:literal, $to:expr, $stride:expr) => {
        std::arch::asm!(
            concat!("tilestored [{to} + {stride}*1], tmm", $tile),
            to = in(reg) $to,
            stride = in(reg) $stride,
            options(nostack)
        )
    };
}

/// All zeros.
macro_rules! tile_zero {
    ($tile:literal) => {
        std::arch::asm!(concat!("tilezero tmm", $tile), options(nostack, nomem))
    };
}

/// `sum[m][n] += a[m][4k..] . b[k][4n..]` over groups of 4 signed bytes, in i32.
macro_rules! tile_dot_bytes {
    ($sum:literal, $a:literal, $b:literal) => {
        std::arch::asm!(concat!("tdpbssd tmm", $sum, ", tmm", $a, ", tmm", $b), options(nostack, nomem))
    };
}

/// `sum[m][n] += a[m][2k..] . b[k][2n..]` over pairs of bf16, in f32.
macro_rules! tile_dot_brain {
    ($sum:literal, $a:literal, $b:literal) => {
        std::arch::asm!(concat!("tdpbf16ps tmm", $sum, ", tmm", $a, ", tmm", $b), options(nostack, nomem))
    };
}

pub(crate) use {tile_dot_brain, tile_dot_bytes, tile_load, tile_store, tile_zero};
