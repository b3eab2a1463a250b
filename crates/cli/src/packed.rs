//! Weights as the CPU backend has packed them, kept in the store's folder `packed` from one start to the next: a model
//! that was loaded before is mapped into memory instead of being packed again. Kept are those of models that are one
//! GGUF file. A packed file says of which state of which file it is; those of models that are gone are removed.

use crate::environment::Environment;
use crate::model_files::digest;
use alti_cpu::{CpuWeight, pack};
use alti_formats::{AtomicFile, Checkpoint, FormatError, PackedFile, WeightInfo};
use alti_models::Llama;
use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};

/// Smaller models are packed faster than a file is worth.
const FEWEST_BYTES: u64 = 32 << 20;

/// How packed files end, behind 64 hexadecimal digits.
const ENDING: &str = ".packed";

/// Whoever writes here, or removes anything, has a lock on this file.
const LOCK: &str = ".lock";

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
        let model = checkpoint.only_file()?.canonicalize().ok()?;
        let state = state_of(&model.metadata().ok()?)?;
        let arrangement = (env!("CARGO_PKG_VERSION"), pack::LAYOUT_VERSION);
        let of = format!("{}\n{arrangement:?} {state}", model.display());
        let path = folder(environment).join(digest(&model.display().to_string()) + ENDING);
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

    /// Whether they are not kept yet.
    pub fn is_missing(&self) -> bool {
        self.file.is_none()
    }

    /// About how many bytes they take.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Keeps the weights of a model that was just loaded, unless somebody else is at it. `progress` is told how many bytes
    /// are written, and may say that it is enough: then nothing is kept. What goes wrong costs nothing but time at the next
    /// start, so it is only noted.
    pub fn keep(&self, model: &Llama<CpuWeight>, progress: impl FnMut(u64) -> bool) {
        if let Err(error) = self.write(model, progress) {
            tracing::debug!(%error, "packed weights are not kept");
        }
    }

    fn write(&self, model: &Llama<CpuWeight>, progress: impl FnMut(u64) -> bool) -> anyhow::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        let _lock = lock(folder)?;
        remove_stale(folder);
        // It must not be what fills a disk.
        if fs4::available_space(folder)? < 2 * self.bytes {
            anyhow::bail!("{}: too little space is free", folder.display());
        }
        let weights = model.weights();
        let packed = weights.iter().map(|(name, weight)| (name.gguf(), weight.packed()));
        let packed: Vec<_> = packed.filter(|(_, pieces)| !pieces.is_empty()).collect();
        PackedFile::write(&self.path, &self.of, &packed, progress)?;
        Ok(())
    }
}

fn bytes_of(info: &WeightInfo) -> u64 {
    info.dtype.bytes_for(info.shape.iter().product()).unwrap_or(0) as u64
}

/// What tells a file from another in its place, without reading it: a copy may have the size and the time of its original.
fn state_of(file: &Metadata) -> Option<String> {
    #[cfg(unix)]
    let own = {
        use std::os::unix::fs::MetadataExt;
        (file.dev(), file.ino(), file.ctime(), file.ctime_nsec())
    };
    #[cfg(not(unix))]
    let own = file.created().ok();
    Some(format!("{} {:?} {own:?}", file.len(), file.modified().ok()?))
}

fn folder(environment: &Environment) -> PathBuf {
    environment.home.join("packed")
}

/// Of how many models there are packed weights, and the bytes that they take.
pub fn kept(environment: &Environment) -> (usize, u64) {
    let sizes = files(&folder(environment)).filter_map(|path| Some(path.metadata().ok()?.len()));
    sizes.fold((0, 0), |(count, sum), size| (count + 1, sum + size))
}

/// Removes those of models that are gone, and what was left unfinished, unless somebody is writing.
pub fn clean(environment: &Environment) {
    let folder = folder(environment);
    if folder.is_dir()
        && let Ok(_lock) = lock(&folder)
    {
        remove_stale(&folder);
    }
}

fn lock(folder: &Path) -> std::io::Result<File> {
    let file = File::options().create(true).append(true).open(folder.join(LOCK))?;
    file.try_lock()?;
    Ok(file)
}

fn entries(folder: &Path) -> impl Iterator<Item = (PathBuf, String)> + use<> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.path(), entry.file_name().into_string().ok()?)))
}

/// The packed files, and nothing that somebody else may have put there.
fn files(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let is_ours = |name: &str| {
        let digits = name.strip_suffix(ENDING);
        digits.is_some_and(|it| it.len() == 64 && it.bytes().all(|digit| digit.is_ascii_hexdigit()))
    };
    entries(folder).filter(move |(_, name)| is_ours(name)).map(|(path, _)| path)
}

/// Wants the lock.
fn remove_stale(folder: &Path) {
    let is_stale = |path: &PathBuf| match PackedFile::subject(path) {
        Ok(of) => of.lines().next().is_none_or(|model| !Path::new(model).exists()),
        // What cannot be opened now may be good.
        Err(error) => !matches!(error, FormatError::Io { .. }),
    };
    let unfinished =
        entries(folder).filter(|(_, name)| AtomicFile::is_unfinished(name)).map(|(path, _)| path);
    for path in files(folder).filter(is_stale).chain(unfinished) {
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::debug!(%error, "{} is not removed", path.display());
        }
    }
}
