//! Writing `consolidated.00.pth`: an archive as `torch.save` makes it, with a pickle of a
//! dictionary of tensors that `torch.load(weights_only=True)` accepts. Tensors are streamed, so
//! each entry's checksum follows its data.

use crate::FormatError;
use crate::files::AtomicFile;
use crate::progress::Progress;
use alti_tensor::DType;
use std::path::Path;

/// A tensor to be written, of a plain float type.
#[derive(Clone, Debug)]
pub(crate) struct MetaPlan {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
    /// The earlier tensor whose storage this is (tied embeddings), instead of one of its own.
    pub(crate) same_as: Option<usize>,
}

impl MetaPlan {
    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    fn bytes(&self) -> u64 {
        (self.elements() * self.dtype.block_bytes()) as u64
    }

    fn storage_class(&self) -> &'static str {
        match self.dtype {
            DType::F16 => "HalfStorage",
            DType::BF16 => "BFloat16Storage",
            _ => "FloatStorage",
        }
    }
}

/// Folder of all entries in the archive; torch takes any name.
const FOLDER: &str = "consolidated";
/// torch aligns storages so that they can be mapped.
const ALIGNMENT: u64 = 64;

/// Writes the archive; `data` gives tensor `i`'s bytes when its turn comes.
pub(crate) fn write_pth(
    path: &Path,
    tensors: &[MetaPlan],
    mut data: impl FnMut(usize) -> Result<Vec<u8>, FormatError>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), FormatError> {
    let own = || tensors.iter().enumerate().filter(|(_, tensor)| tensor.same_as.is_none());
    let total: u64 = own().map(|(_, tensor)| tensor.bytes()).sum();
    let mut done = 0;
    let mut archive =
        ArchiveWriter { file: AtomicFile::create(path, false)?, directory: Vec::new(), entries: 0 };
    archive.add("data.pkl", &pickle(tensors))?;
    archive.add("byteorder", b"little")?;
    for (index, tensor) in own() {
        progress(Progress { done, total, tensor: &tensor.name });
        archive.add(&format!("data/{index}"), &data(index)?)?;
        done += tensor.bytes();
    }
    archive.add("version", b"3\n")?;
    progress(Progress { done, total, tensor: "" });
    archive.finish()
}

/// The program that makes the dictionary; instructions as in Python's `pickletools`, protocol 2.
fn pickle(tensors: &[MetaPlan]) -> Vec<u8> {
    let mut out = b"\x80\x02}(".to_vec();
    for (index, tensor) in tensors.iter().enumerate() {
        push_text(&mut out, &tensor.name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        push_text(&mut out, "storage");
        out.extend(format!("ctorch\n{}\n", tensor.storage_class()).bytes());
        push_text(&mut out, &tensor.same_as.unwrap_or(index).to_string());
        push_text(&mut out, "cpu");
        push_number(&mut out, tensor.elements());
        out.extend(b"tQ");
        push_number(&mut out, 0);
        push_tuple(&mut out, &tensor.shape);
        let strides: Vec<usize> =
            (1..=tensor.shape.len()).map(|from| tensor.shape[from..].iter().product()).collect();
        push_tuple(&mut out, &strides);
        out.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    out.extend(b"u.");
    out
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

/// BININT where the number fits, else LONG1.
fn push_number(out: &mut Vec<u8>, value: usize) {
    match i32::try_from(value) {
        Ok(small) => {
            out.push(b'J');
            out.extend(small.to_le_bytes());
        }
        Err(_) => {
            out.extend([0x8a, 8]);
            out.extend((value as u64).to_le_bytes());
        }
    }
}

fn push_tuple(out: &mut Vec<u8>, values: &[usize]) {
    out.push(b'(');
    values.iter().for_each(|&value| push_number(out, value));
    out.push(b't');
}

/// A zip archive of stored entries, with 64-bit sizes throughout.
struct ArchiveWriter {
    file: AtomicFile,
    directory: Vec<u8>,
    entries: u64,
}

/// Version 4.5: zip64.
const NEEDED: u16 = 45;

impl ArchiveWriter {
    fn add(&mut self, name: &str, bytes: &[u8]) -> Result<(), FormatError> {
        let name = format!("{FOLDER}/{name}");
        let offset = self.file.written();
        let (size, checksum) = (bytes.len() as u64, crc32fast::hash(bytes));
        // The extra field: zip64 sizes, then padding that aligns the data.
        let mut extra = Vec::new();
        extra.extend([1u8, 0, 16, 0]);
        extra.extend(size.to_le_bytes());
        extra.extend(size.to_le_bytes());
        let data = offset + 30 + (name.len() + extra.len()) as u64 + 4;
        let padding = data.next_multiple_of(ALIGNMENT) - data;
        extra.extend(*b"FB");
        extra.extend((padding as u16).to_le_bytes());
        extra.resize(extra.len() + padding as usize, b'Z');
        let mut local = b"PK\x03\x04".to_vec();
        push_common(&mut local, checksum, name.len(), extra.len());
        local.extend(name.as_bytes());
        local.extend(&extra);
        self.file.write(&local)?;
        self.file.write(bytes)?;
        self.list(&name, offset, size, checksum);
        Ok(())
    }

    fn list(&mut self, name: &str, offset: u64, size: u64, checksum: u32) {
        let mut extra = vec![1u8, 0, 24, 0];
        for value in [size, size, offset] {
            extra.extend(value.to_le_bytes());
        }
        self.directory.extend(b"PK\x01\x02");
        self.directory.extend(NEEDED.to_le_bytes());
        push_common(&mut self.directory, checksum, name.len(), extra.len());
        // Comment length, disk, attributes (2 + 4 bytes); the offset is in the extra field.
        self.directory.extend([0; 10]);
        self.directory.extend(u32::MAX.to_le_bytes());
        self.directory.extend(name.as_bytes());
        self.directory.extend(extra);
        self.entries += 1;
    }

    fn finish(mut self) -> Result<(), FormatError> {
        let start = self.file.written();
        let size = self.directory.len() as u64;
        self.file.write(&self.directory)?;
        let mut end = b"PK\x06\x06".to_vec();
        end.extend(44u64.to_le_bytes());
        end.extend(NEEDED.to_le_bytes());
        end.extend(NEEDED.to_le_bytes());
        end.extend([0; 8]);
        for value in [self.entries, self.entries, size, start] {
            end.extend(value.to_le_bytes());
        }
        end.extend(b"PK\x06\x07");
        end.extend([0; 4]);
        end.extend((start + size).to_le_bytes());
        end.extend(1u32.to_le_bytes());
        end.extend(b"PK\x05\x06");
        end.extend([0; 4]);
        end.extend([0xff; 12]);
        end.extend([0; 2]);
        self.file.write(&end)?;
        self.file.commit()
    }
}

/// The fields that local and central headers share: version to extra length, sizes in the extra
/// field.
fn push_common(out: &mut Vec<u8>, checksum: u32, name: usize, extra: usize) {
    out.extend(NEEDED.to_le_bytes());
    // Flags, method (stored), time; date 1 January 1980.
    out.extend([0, 0, 0, 0, 0, 0, 0x21, 0]);
    out.extend(checksum.to_le_bytes());
    out.extend([0xff; 8]);
    out.extend((name as u16).to_le_bytes());
    out.extend((extra as u16).to_le_bytes());
}
