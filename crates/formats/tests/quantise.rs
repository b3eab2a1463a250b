//! Quantised files hold what the recipe says, and importance spends precision where it counts.

use alti_formats::{Checkpoint, Importance, QuantiseOptions, Recipe, WeightName, quantise};
use alti_tensor::quant::dequantize;
use alti_testkit::{GOLDENS, golden};
use std::path::Path;

fn options<'a>(recipe: &str, importance: Option<&'a Importance>) -> QuantiseOptions<'a> {
    let recipe = Recipe::by_name(recipe).expect("a recipe");
    QuantiseOptions { recipe, importance, pure: false, threads: 2, replace: false }
}

fn values(checkpoint: &Checkpoint, name: &WeightName) -> Vec<f32> {
    let weight = checkpoint.load(name).expect("the weight");
    let mut values = vec![0.0; weight.shape.iter().product()];
    dequantize(weight.dtype, &weight.bytes, &mut values).expect("it decodes");
    values
}

#[test]
fn the_reported_error_is_the_files() {
    for name in GOLDENS {
        let source = Checkpoint::open(&golden(name)).expect("the golden model opens");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("q.gguf");
        let mut told = Vec::new();
        let done = quantise(&source, &path, &options("Q8_0", None), |tensor| told.push(tensor.clone()))
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(told, done.tensors);
        let written = Checkpoint::open(&path).expect("the quantised model opens");
        assert_eq!(written.config(), source.config(), "{name}");
        let file_type = written.gguf().expect("GGUF").unsigned("general.file_type");
        assert_eq!(file_type.expect("a number"), Some(7));
        for tensor in &done.tensors {
            assert_eq!(written.info(&tensor.name).expect("it is there").dtype, tensor.to);
            let (before, after) = (values(&source, &tensor.name), values(&written, &tensor.name));
            let square = |sum: f64, x: f64| sum + x * x;
            let error =
                before.iter().zip(&after).map(|(&a, &b)| f64::from(b) - f64::from(a)).fold(0.0, square);
            let total = before.iter().map(|&x| f64::from(x)).fold(0.0, square);
            let expected = (error / total).sqrt();
            assert!((tensor.relative_error - expected).abs() <= 1e-9, "{name} {}", tensor.name);
        }
    }
}

/// Importance of a tenth of the columns only: their error falls.
#[test]
fn importance_moves_the_error_to_where_it_does_not_matter() {
    let source = Checkpoint::open(&golden("llama3-gqa")).expect("the golden model opens");
    let name = WeightName::from_gguf("blk.0.attn_q.weight").expect("a name");
    let columns = source.info(&name).expect("it is there").shape[1];
    let matters = |column: usize| column.is_multiple_of(10);
    let row: Vec<f32> = (0..columns).map(|column| if matters(column) { 10.0 } else { 0.1 }).collect();
    let mut importance = Importance::default();
    importance.add(&name.gguf(), [0, 1], columns, &row);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let error = |file: &str, importance: Option<&Importance>| {
        let path = folder.path().join(file);
        quantise(&source, &path, &options("Q4_0", importance), |_| ()).expect("it quantises");
        let written = Checkpoint::open(&path).expect("the quantised model opens");
        let (before, after) = (values(&source, &name), values(&written, &name));
        let pairs = before.iter().zip(&after).enumerate().filter(|(index, _)| matters(index % columns));
        pairs.map(|(_, (&a, &b))| f64::from(b - a).powi(2)).sum::<f64>()
    };
    let (without, with) = (error("without.gguf", None), error("with.gguf", Some(&importance)));
    assert!(with < 0.8 * without, "{with} instead of {without}");
}

#[test]
fn importance_of_another_model_is_refused() {
    let source = Checkpoint::open(&golden("llama3-gqa")).expect("the golden model opens");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut importance = Importance::default();
    importance.add("blk.0.attn_q.weight", [0, 1], 5, &[1.0; 5]);
    let path = folder.path().join("q.gguf");
    let error = quantise(&source, &path, &options("Q4_0", Some(&importance)), |_| ()).expect_err("refused");
    assert!(error.to_string().contains("another model"), "{error}");
    assert!(!path.exists());
}

fn check_refused(folder: &Path, bytes: &[u8], says: &str) {
    let path = folder.join("matrix");
    std::fs::write(&path, bytes).expect("the file can be written");
    let message = Importance::read(&path).expect_err("refused").to_string();
    assert!(message.contains(says) && message.contains("matrix"), "{message}");
}

#[test]
fn importance_files_of_both_kinds_are_read() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut importance = Importance::default();
    importance.datasets.push("text".to_owned());
    importance.chunks = 3;
    importance.chunk_size = 512;
    importance.add("blk.0.attn_q.weight", [0, 1], 2, &[1.0, 2.0, 3.0, 4.0]);
    importance.add("blk.0.ffn_up_exps.weight", [1, 2], 2, &[1.0, 2.0]);
    let path = folder.path().join("importance.gguf");
    importance.write(&path, false).expect("it is written");
    let read = Importance::read(&path).expect("it is read");
    assert_eq!(read, importance);
    assert_eq!(read.means("blk.0.attn_q.weight", 1, 2), Ok(Some(vec![5.0, 10.0])));
    // The first expert met nothing.
    assert_eq!(read.means("blk.0.ffn_up_exps.weight", 2, 2), Ok(Some(vec![1.0, 1.0, 1.0, 4.0])));

    let mut legacy = Vec::new();
    let number = |legacy: &mut Vec<u8>, number: i32| legacy.extend(number.to_le_bytes());
    number(&mut legacy, 1);
    number(&mut legacy, 1);
    legacy.push(b'w');
    number(&mut legacy, 4);
    number(&mut legacy, 2);
    legacy.extend([8f32, 2.0].map(f32::to_le_bytes).concat());
    let path = folder.path().join("importance.dat");
    std::fs::write(&path, &legacy).expect("the file can be written");
    let read = Importance::read(&path).expect("it is read");
    assert_eq!(read.means("w", 1, 2), Ok(Some(vec![2.0, 0.5])));

    for cut in 1..legacy.len() {
        check_refused(folder.path(), &legacy[..cut], "");
    }
    check_refused(folder.path(), &[0xff; 64], "cannot be a length or count");
    check_refused(folder.path(), &[0; 4], "no entries");
}
