//! Writing safetensors files: one, or several with an index. Tensors are streamed one by one.

use crate::FormatError;
use crate::files::{AtomicFile, write_whole};
use crate::progress::Progress;
use alti_tensor::DType;
use serde_json::{Map, Value, json};
use std::ops::Range;
use std::path::Path;

/// A tensor to be written; a plain float type.
#[derive(Clone, Debug)]
pub(crate) struct SafetensorsPlan {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
}

impl SafetensorsPlan {
    fn bytes(&self) -> u64 {
        (self.shape.iter().product::<usize>() * self.dtype.block_bytes()) as u64
    }
}

/// Writes `model.safetensors` into `folder`, or several files of at most `shard` bytes and their
/// index; `data` gives tensor `i`'s bytes when its turn comes.
pub(crate) fn write_safetensors(
    folder: &Path,
    tensors: &[SafetensorsPlan],
    shard: u64,
    mut data: impl FnMut(usize) -> Result<Vec<u8>, FormatError>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), FormatError> {
    let total: u64 = tensors.iter().map(SafetensorsPlan::bytes).sum();
    let groups = shards(tensors, shard);
    let mut weight_map = Map::new();
    let mut done = 0;
    for (number, group) in groups.iter().enumerate() {
        let name = match groups.len() {
            1 => "model.safetensors".to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
        };
        let mut file = AtomicFile::create(&folder.join(&name), false)?;
        file.write(&header(&tensors[group.clone()]))?;
        for index in group.clone() {
            let tensor = &tensors[index];
            progress(Progress { done, total, tensor: &tensor.name });
            file.write(&data(index)?)?;
            weight_map.insert(tensor.name.clone(), json!(name));
            done += tensor.bytes();
        }
        file.commit()?;
    }
    progress(Progress { done, total, tensor: "" });
    if groups.len() > 1 {
        let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
        write_whole(&folder.join("model.safetensors.index.json"), format!("{index:#}\n").as_bytes())?;
    }
    Ok(())
}

fn shards(tensors: &[SafetensorsPlan], most: u64) -> Vec<Range<usize>> {
    let mut groups = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, tensor) in tensors.iter().enumerate() {
        if index > start && bytes + tensor.bytes() > most {
            groups.push(start..index);
            (start, bytes) = (index, 0);
        }
        bytes += tensor.bytes();
    }
    groups.push(start..tensors.len());
    groups
}

/// The header with its length, padded with spaces so that the data is aligned to 8 bytes.
fn header(tensors: &[SafetensorsPlan]) -> Vec<u8> {
    let mut entries = Map::new();
    entries.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut offset = 0u64;
    for tensor in tensors {
        let end = offset + tensor.bytes();
        let entry: Value =
            json!({"dtype": tensor.dtype.name(), "shape": tensor.shape, "data_offsets": [offset, end]});
        entries.insert(tensor.name.clone(), entry);
        offset = end;
    }
    let mut json = Value::Object(entries).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend(json);
    header
}
