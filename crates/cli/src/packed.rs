//! Weights as the CPU backend has packed them, kept in the store's folder `packed` from one start to the next: a model
//! that was loaded before is mapped into memory instead of being packed again. A file there is of one state of a
//! model's files, whose sizes and times of change it names; those of models that are gone are removed.

use crate::environment::Environment;
use crate::model_files::{digest, files_of};
use alti_cpu::{CpuWeight, pack};
use alti_formats::{Checkpoint, FormatError, PackedFile, WeightInfo};
use alti_models::Llama;
use indicatif::ProgressBar;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Smaller models are packed faster than a file is worth.
const FEWEST_BYTES: u64 = 32 << 20;

/// Nobody writes a file for longer.
const LONGEST_WRITE: Duration = Duration::from_hours(24);

/// How packed files end.
const ENDING: &str = "packed";

/// Where a model's packed weights are kept.
pub struct Packed {
    path: PathBuf,
    /// The path of the model, and which state of it.
    of: String,
    /// Bytes of its weights.
    bytes: u64,
    file: Option<PackedFile>,
}

impl Packed {
    /// Those of this model, if they are to be kept.
    pub fn of(environment: &Environment, checkpoint: &Checkpoint) -> Option<Packed> {
        let bytes = checkpoint.weights().iter().map(bytes_of).sum();
        if !environment.packed_weights || bytes < FEWEST_BYTES {
            return None;
        }
        let model = checkpoint.path().canonicalize().ok()?;
        let of = format!("{}\n{} {:?}", model.display(), pack::LAYOUT_VERSION, files_of(&model));
        let name = digest(&model.display().to_string());
        let path = folder(environment).join(format!("{name}.{ENDING}"));
        // A damaged file is written anew.
        let file = PackedFile::open(&path, &of).unwrap_or_else(|error| {
            tracing::debug!(%error, "packed weights are not used");
            None
        });
        Some(Packed { path, of, bytes, file })
    }

    /// A weight that was packed before.
    pub fn weight(&self, info: &WeightInfo) -> Option<CpuWeight> {
        let bytes = self.file.as_ref()?.weight(&info.name.gguf())?;
        CpuWeight::from_packed(info.dtype, &info.shape, bytes).ok()
    }

    /// Keeps the weights of a model that was just loaded, if they are not kept yet. What goes wrong costs nothing but
    /// time at the next start, so it is only noted.
    pub fn keep(&self, model: &Llama<CpuWeight>, bar: &ProgressBar) {
        if self.file.is_none()
            && let Err(error) = self.write(model, bar)
        {
            tracing::debug!(%error, "packed weights are not kept");
        }
    }

    /// Whether they are not kept yet.
    pub fn is_missing(&self) -> bool {
        self.file.is_none()
    }

    /// About how many bytes they take.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn write(&self, model: &Llama<CpuWeight>, bar: &ProgressBar) -> anyhow::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        remove_stale(folder);
        // It must not be what fills a disk.
        if fs4::available_space(folder)? < 2 * self.bytes {
            anyhow::bail!("{}: too little space is free", folder.display());
        }
        let weights = model.weights();
        let packed = weights.iter().map(|(name, weight)| (name.gguf(), weight.packed()));
        let packed: Vec<_> = packed.filter(|(_, pieces)| !pieces.is_empty()).collect();
        PackedFile::write(&self.path, &self.of, &packed, |written| bar.set_position(written))?;
        Ok(())
    }
}

fn bytes_of(info: &WeightInfo) -> u64 {
    info.dtype.bytes_for(info.shape.iter().product()).unwrap_or(0) as u64
}

fn folder(environment: &Environment) -> PathBuf {
    environment.home.join("packed")
}

/// Of how many models there are packed weights, and the bytes that they take.
pub fn kept(environment: &Environment) -> (usize, u64) {
    let sizes = files(&folder(environment)).filter_map(|path| Some(path.metadata().ok()?.len()));
    sizes.fold((0, 0), |(count, sum), size| (count + 1, sum + size))
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path()))
}

fn files(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    entries(folder).filter(|path| path.extension().is_some_and(|ending| ending == ENDING))
}

/// Whether a file was begun so long ago that whoever began it did not come to its end.
fn is_left_over(path: &Path) -> bool {
    let age = path.metadata().and_then(|found| found.modified()).ok().and_then(|time| time.elapsed().ok());
    path.extension().is_none_or(|ending| ending != ENDING) && age.is_some_and(|age| age > LONGEST_WRITE)
}

/// Removes those of models that are gone, what cannot be read, and what was left unfinished.
pub fn remove_stale_in(environment: &Environment) {
    remove_stale(&folder(environment));
}

fn remove_stale(folder: &Path) {
    let is_of_a_model = |of: Result<String, FormatError>| {
        of.is_ok_and(|of| of.lines().next().is_some_and(|model| Path::new(model).exists()))
    };
    let gone = files(folder).filter(|path| !is_of_a_model(PackedFile::subject(path)));
    for path in gone.chain(entries(folder).filter(|path| is_left_over(path))) {
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::debug!(%error, "{} is not removed", path.display());
        }
    }
}
