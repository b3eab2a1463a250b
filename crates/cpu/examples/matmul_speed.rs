//! How fast the matmuls run, next to what the machine can do.
//!
//! `cargo run --release -p alti-cpu --example matmul_speed [OUTPUTSxINPUTS] [FORMAT ...]` prints, for each format, the
//! share of the memory bandwidth that one row of activations reaches (decode) and the rate of
//! multiply-adds with many (prefill), on all cores. Each figure is the best of many runs; the limits
//! are measured in between. The first lines say what the machine's units reach by themselves, and with what a block of
//! codes needs besides its products.

use alti_cpu::kernels::{Epilogue, Matmul, OutputMatrix, PreparedRows, matmul};
use alti_cpu::limits::{BLOCK_UNITS, UNITS, Unit};
use alti_cpu::pool::PoolOptions;
use alti_cpu::{Isa, PackedMatrix, Pool};
use alti_tensor::{DType, WeightData};
use std::borrow::Cow;
use std::time::{Duration, Instant};

/// Outputs and inputs of the matrix unless others are named: large, so that it does not stay in a cache.
const SHAPE: (usize, usize) = (65_536, 2_048);
/// Rows of activations tried.
const BATCHES: [usize; 6] = [1, 4, 8, 16, 32, 128];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let isa = match std::env::var("ALTI_ISA") {
        Ok(name) => Isa::from_name(&name)?,
        Err(_) => Isa::detect(),
    };
    let threads = std::thread::available_parallelism()?.get();
    let mut pool = Pool::new(PoolOptions { threads, pin: true })?;
    println!("{} on {threads} threads", isa.name());
    print_units("multiplying alone", UNITS, threads)?;
    print_units("with a block's scales", BLOCK_UNITS, threads)?;
    let mut names: Vec<String> = std::env::args().skip(1).collect();
    let mut shape = SHAPE;
    if names.first().is_some_and(|first| first.starts_with(|first: char| first.is_ascii_digit())) {
        let (outputs, inputs) = names[0].split_once('x').ok_or("a shape is OUTPUTSxINPUTS")?;
        shape = (outputs.parse()?, inputs.parse()?);
        names.remove(0);
    }
    for row in DType::TABLE {
        if names.is_empty() || names.iter().any(|name| name.eq_ignore_ascii_case(row.name)) {
            measure(&mut pool, isa, row.dtype, shape)?;
        }
    }
    Ok(())
}

/// Prints what units reach.
fn print_units(what: &str, units: &[Unit], threads: usize) -> Result<(), alti_cpu::CpuError> {
    for unit in units {
        if let Some(operations) = unit.peak(threads)? {
            let rate = operations / 2e9;
            println!("{what}: {rate:4.0} G madd/s {}, {}", unit.operand.name(), unit.instruction);
        }
    }
    Ok(())
}

/// Prints the line of a format.
fn measure(
    pool: &mut Pool,
    isa: Isa,
    dtype: DType,
    (outputs, inputs): (usize, usize),
) -> Result<(), Box<dyn std::error::Error>> {
    let outputs = if dtype == DType::F32 { outputs / 2 } else { outputs };
    let weight = random_weight(dtype, outputs, inputs)?;
    let start = Instant::now();
    let packed = PackedMatrix::pack(&weight, 0..outputs, pool.threads())?;
    let packing = start.elapsed();
    drop(weight);
    let most = BATCHES[BATCHES.len() - 1];
    let x: Vec<f32> = (0..most * inputs).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
    let prepared = PreparedRows::new(isa, &packed, &x)?;
    let mut out = vec![0.0; most * outputs];
    print!("{:7} packed in {:4} ms;", dtype.name(), packing.as_millis());
    for batch in BATCHES {
        let (mut best, mut stream) = (Duration::MAX, Duration::MAX);
        for _ in 0..if batch == 1 || outputs < SHAPE.0 / 2 { 20 } else { 3 } {
            best = best.min(time(|| run(pool, isa, &packed, &prepared, batch, &mut out))?);
            if batch == 1 {
                stream = stream.min(time(|| read(pool, &packed))?);
            }
        }
        let seconds = best.as_secs_f64();
        if batch == 1 {
            let rate = packed.bytes() as f64 / seconds / 1e9;
            let share = stream.as_secs_f64() / seconds;
            print!(" 1 row {rate:5.1} GB/s, {share:4.2} of a plain read; G madd/s");
        } else {
            let work = outputs * inputs * batch;
            print!(" {batch}: {:4.0}", work as f64 / seconds / 1e9);
        }
    }
    println!();
    Ok(())
}

fn time(mut job: impl FnMut() -> Result<(), alti_cpu::CpuError>) -> Result<Duration, alti_cpu::CpuError> {
    let start = Instant::now();
    job()?;
    Ok(start.elapsed())
}

/// One product on all threads.
fn run(
    pool: &mut Pool,
    isa: Isa,
    weight: &PackedMatrix,
    x: &PreparedRows,
    batch: usize,
    out: &mut [f32],
) -> Result<(), alti_cpu::CpuError> {
    let columns = weight.rows();
    let out = std::sync::Mutex::new(OutputMatrix::new(out, columns));
    pool.run(|region| {
        // SAFETY: each thread takes panels of its own.
        let mut out = unsafe { out.lock().expect("not poisoned").share() };
        let task = Matmul {
            weight,
            panels: region.share(weight.panels()),
            activations: x.view(),
            rows: 0..batch,
            epilogue: Epilogue::Store,
            next: None,
        };
        matmul(isa, &task, &mut out);
        Ok(())
    })
}

/// Reads the matrix and does nothing with it: the limit of decoding.
fn read(pool: &mut Pool, weight: &PackedMatrix) -> Result<(), alti_cpu::CpuError> {
    pool.run(|region| {
        let mut sums = [0_u64; 32];
        for panel in region.share(weight.panels()) {
            let (lines, _) = weight.panel_contents(panel).as_chunks::<256>();
            for line in lines {
                for (sum, word) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
                    *sum ^= u64::from_le_bytes(*word);
                }
            }
        }
        std::hint::black_box(sums);
        Ok(())
    })
}

/// Bytes that are all the same: what is in them does not change the speed.
fn random_weight(
    dtype: DType,
    rows: usize,
    columns: usize,
) -> Result<WeightData<'static>, alti_tensor::WeightShapeError> {
    let bytes = rows * columns / dtype.block_len() * dtype.block_bytes();
    WeightData::new(dtype, vec![rows, columns], Cow::Owned(vec![0x11; bytes]))
}
