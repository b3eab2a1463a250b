//! GGUF models split over several files, `name-00001-of-00003.gguf` and so on: the first has the
//! metadata, each has some of the tensors.

use super::metadata::GgufMetadata;
use super::read::{GgufFile, GgufTensor};
use crate::FormatError;
use crate::error::shown;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A GGUF model, whole or in several files, with its tensors by name.
#[derive(Debug)]
pub(crate) struct SplitGguf {
    files: Vec<GgufFile>,
    index: HashMap<String, (usize, usize)>,
}

impl SplitGguf {
    /// Opens `path` and, where it is one of a split set, all the others.
    pub(crate) fn open(path: &Path) -> Result<Self, FormatError> {
        let opened = GgufFile::open(path)?;
        let files = match opened.metadata().unsigned("split.count")? {
            None | Some(0 | 1) => vec![opened],
            Some(count) => open_set(path, count)?,
        };
        let mut index = HashMap::new();
        for (file, opened) in files.iter().enumerate() {
            for (tensor, header) in opened.tensors().iter().enumerate() {
                if index.insert(header.name.clone(), (file, tensor)).is_some() {
                    let problem = "is in two files of the split set";
                    return Err(FormatError::tensor(opened.path(), &header.name, problem));
                }
            }
        }
        let set = Self { files, index };
        set.check_count()?;
        Ok(set)
    }

    /// The file, if there is only one.
    pub(crate) fn only_file(&self) -> Option<&Path> {
        match &self.files[..] {
            [file] => Some(file.path()),
            _ => None,
        }
    }

    fn check_count(&self) -> Result<(), FormatError> {
        const KEY: &str = "split.tensors.count";
        let found = self.index.len() as u64;
        match self.metadata().unsigned(KEY)? {
            Some(expected) if expected != found => {
                let problem = format!("is {expected}, but the files have {found} tensors");
                Err(FormatError::field(self.metadata().path(), KEY, problem))
            }
            _ => Ok(()),
        }
    }

    /// The metadata of the first file.
    pub(crate) fn metadata(&self) -> &GgufMetadata {
        self.files[0].metadata()
    }

    /// Gives back the memory of a tensor.
    pub(crate) fn release(&self, name: &str) {
        if let (Some(&(file, _)), Some((_, bytes))) = (self.index.get(name), self.tensor(name)) {
            self.files[file].release(bytes);
        }
    }

    /// Tensor headers of all files.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &GgufTensor> {
        self.files.iter().flat_map(|file| file.tensors())
    }

    /// A tensor's header and data.
    pub(crate) fn tensor(&self, name: &str) -> Option<(&GgufTensor, &[u8])> {
        let &(file, tensor) = self.index.get(name)?;
        let file = &self.files[file];
        let tensor = &file.tensors()[tensor];
        Some((tensor, file.data(tensor)))
    }
}

/// The path of file `number` (from 1) of `count`, given any of the set.
fn sibling(path: &Path, number: u64, count: u64) -> Option<PathBuf> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let prefix = stem.strip_suffix(&format!("-of-{count:05}"))?;
    let (prefix, digits) = prefix.rsplit_once('-')?;
    let numbered = digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit());
    numbered.then(|| path.with_file_name(split_name(prefix, number, count)))
}

/// The name of file `number` (from 1) of `count`.
pub(crate) fn split_name(prefix: &str, number: u64, count: u64) -> String {
    format!("{prefix}-{number:05}-of-{count:05}.gguf")
}

fn open_set(path: &Path, count: u64) -> Result<Vec<GgufFile>, FormatError> {
    if count > 99_999 {
        return Err(FormatError::field(path, "split.count", format!("is {count}, more than five digits")));
    }
    let mut files = Vec::new();
    for number in 1..=count {
        let Some(part) = sibling(path, number, count) else {
            let name = path.file_name().map(|name| shown(&name.to_string_lossy())).unwrap_or_default();
            let problem = format!(
                "is one of {count} files of a split model, but its name, {name}, does not end in -00001-of-{count:05}.gguf"
            );
            return Err(FormatError::unsupported(path, problem));
        };
        let file = GgufFile::open(&part)?;
        let declared = file.metadata().unsigned("split.no")?;
        let declared_count = file.metadata().unsigned("split.count")?;
        if declared != Some(number - 1) || declared_count != Some(count) {
            let problem = format!("does not say that it is file {number} of {count}");
            return Err(FormatError::field(&part, "split.no", problem));
        }
        files.push(file);
    }
    Ok(files)
}
