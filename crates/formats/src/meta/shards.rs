//! The weights of a Meta checkpoint: `consolidated.NN.pth` of every model-parallel rank put
//! together. Column-parallel matrices are cut by rows, row-parallel ones by columns, gains and
//! routers are in every file; fused tensors are fused per rank.

use super::pth::{PthFile, PthTensor};
use crate::FormatError;
use crate::config::ModelConfig;
use crate::layout::meta_placement;
use crate::names::{Part, WeightName};
use crate::placement::{Placement, gather_bytes};
use alti_tensor::DType;
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// The opened files, by rank.
#[derive(Debug)]
pub(crate) struct MetaStore {
    folder: PathBuf,
    files: Vec<PthFile>,
}

/// One rank's piece of a weight: the tensor it is in, and its canonical shape and place there.
struct Piece<'a> {
    tensor: &'a PthTensor,
    shape: Vec<usize>,
    placement: Placement,
    /// How many neighbouring ranks hold the same piece (duplicated key and value heads).
    copies: usize,
    /// The canonical axis that ranks share; `None` where each has all.
    axis: Option<usize>,
}

impl MetaStore {
    /// Opens every `consolidated.NN.pth` in `folder`.
    pub(crate) fn open(folder: &Path) -> Result<Self, FormatError> {
        let mut files = Vec::new();
        loop {
            let path = folder.join(format!("consolidated.{:02}.pth", files.len()));
            if !path.is_file() {
                break;
            }
            files.push(PthFile::open(&path)?);
        }
        if files.is_empty() {
            return Err(FormatError::unsupported(folder, "has a params.json but no consolidated.00.pth"));
        }
        let store = Self { folder: folder.to_owned(), files };
        store.check_ranks()?;
        Ok(store)
    }

    /// Every rank has the same tensors, of the same shapes; so the first stands for all.
    fn check_ranks(&self) -> Result<(), FormatError> {
        let first = &self.files[0];
        for file in &self.files[1..] {
            for name in first.names() {
                let expected = first.tensor(name).map(|t| (t.shape(), t.dtype()));
                if file.tensor(name).map(|t| (t.shape(), t.dtype())) != expected {
                    let problem = format!("is missing or differs from {}'s", first.path().display());
                    return Err(FormatError::tensor(file.path(), name, problem));
                }
            }
        }
        Ok(())
    }

    /// Tensors of one rank.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.files[0].names()
    }

    /// Model-parallel ranks.
    pub(crate) fn ranks(&self) -> usize {
        self.files.len()
    }

    /// The shape of one rank's tensor.
    pub(crate) fn local_shape(&self, name: &str) -> Option<&[usize]> {
        self.files[0].tensor(name).map(PthTensor::shape)
    }

    /// Whether there is an output matrix that is not the embedding's own storage.
    pub(crate) fn has_own_output(&self) -> bool {
        let [output, embedding] =
            [Part::Output, Part::TokenEmbedding].map(|part| self.spelled(&WeightName::global(part)));
        match (output, embedding) {
            (Some((_, output)), Some((_, embedding))) => !output.is_same_as(embedding),
            (output, _) => output.is_some(),
        }
    }

    /// How often each key head is repeated over neighbouring ranks, where each has just one (as
    /// releases for more ranks than heads do): found by comparing the first layer's.
    pub(crate) fn repeated_heads(&self, kv_heads: usize) -> usize {
        let name = WeightName::in_layer(0, Part::AttentionKey).meta();
        if self.ranks() < 2 || kv_heads != self.ranks() {
            return 1;
        }
        let data: Option<Vec<_>> =
            self.files.iter().map(|file| Some(file.data(file.tensor(&name)?))).collect();
        let Some(data) = data else { return 1 };
        let all_equal = |group: &[Cow<'_, [u8]>]| group.windows(2).all(|pair| pair[0] == pair[1]);
        let candidates = (1..=kv_heads).rev().filter(|repeats| kv_heads.is_multiple_of(*repeats));
        candidates.into_iter().find(|&repeats| data.chunks(repeats).all(all_equal)).unwrap_or(1)
    }

    /// The tensor of the first rank that a weight is in, under either of its spellings.
    fn spelled(&self, name: &WeightName) -> Option<(String, &PthTensor)> {
        std::iter::once(name.meta()).chain(name.meta_fused()).find_map(|spelling| {
            let tensor = self.files[0].tensor(&spelling)?;
            Some((spelling, tensor))
        })
    }

    fn fail<T>(&self, name: &WeightName, problem: impl Into<String>) -> Result<T, FormatError> {
        let spelling = self.spelled(name).map_or_else(|| name.meta(), |(spelling, _)| spelling);
        Err(FormatError::tensor(&self.folder, &spelling, problem))
    }

    /// Where the weight of canonical shape `shape` is.
    fn piece(
        &self,
        config: &ModelConfig,
        name: &WeightName,
        shape: &[usize],
    ) -> Result<Piece<'_>, FormatError> {
        let Some((spelling, tensor)) = self.spelled(name) else { return self.fail(name, "is missing") };
        let found = tensor.shape();
        let ranks = self.ranks();
        let fused = spelling != name.meta();
        let axis = split_axis(name.part, found, config).filter(|_| ranks > 1);
        let mut local = shape.to_vec();
        let mut copies = 1;
        if let Some(axis) = axis {
            if matches!(name.part, Part::AttentionKey | Part::AttentionValue) && !fused {
                let rows = found.first().copied().unwrap_or(0);
                copies = (rows * ranks / shape[0].max(1)).max(1);
            }
            if !(shape[axis] * copies).is_multiple_of(ranks) {
                return self.fail(name, format!("cannot be cut into {ranks} equal parts"));
            }
            local[axis] = shape[axis] * copies / ranks;
        }
        let placement = match (fused, name.part) {
            (true, Part::AttentionQuery) => Placement::Rows { first: 0 },
            (true, Part::AttentionKey) => Placement::Rows { first: config.heads * config.head_dim / ranks },
            (true, Part::AttentionValue) => {
                Placement::Rows { first: (config.heads + config.kv_heads) * config.head_dim / ranks }
            }
            (true, Part::Gate) => Placement::Rows { first: 0 },
            (true, Part::Up) => Placement::Rows { first: local[0] },
            (_, part) => meta_placement(part, &local),
        };
        let expected = expected_shape(config, name.part, fused, &local, ranks);
        // Fused experts are flattened to matrices of the same order.
        let same = found == expected
            || (fused
                && found.len() == 2
                && expected.len() == 3
                && found == [expected[0] * expected[1], expected[2]]);
        if !same {
            return self.fail(name, format!("has shape {found:?}, the configuration says {expected:?}"));
        }
        Ok(Piece { tensor, shape: local, placement, copies, axis })
    }

    /// Checks that a weight is there in the right shape; gives its type.
    pub(crate) fn check(
        &self,
        config: &ModelConfig,
        name: &WeightName,
        shape: &[usize],
    ) -> Result<DType, FormatError> {
        let piece = self.piece(config, name, shape)?;
        match piece.tensor.dtype() {
            Some(dtype) => Ok(dtype),
            None => self
                .fail(name, format!("is a {}; float, half and bfloat16 are read", piece.tensor.dtype_name())),
        }
    }

    /// A weight in the canonical layout, put together from all ranks.
    pub(crate) fn load(
        &self,
        config: &ModelConfig,
        name: &WeightName,
        shape: &[usize],
    ) -> Result<Cow<'_, [u8]>, FormatError> {
        let piece = self.piece(config, name, shape)?;
        let dtype = self.check(config, name, shape)?;
        let Some(axis) = piece.axis else { return self.local(0, name, &piece, dtype) };
        let mut parts = Vec::with_capacity(self.ranks() / piece.copies);
        for rank in (0..self.ranks()).step_by(piece.copies) {
            let part = self.local(rank, name, &piece, dtype)?;
            for copy in 1..piece.copies {
                if self.local(rank + copy, name, &piece, dtype)? != part {
                    return self.fail(name, format!("differs between ranks {rank} and {}", rank + copy));
                }
            }
            parts.push(part);
        }
        let run = piece.shape[axis..].iter().product::<usize>() * dtype.block_bytes();
        let outer: usize = piece.shape[..axis].iter().product();
        let mut merged = Vec::with_capacity(run * outer * parts.len());
        for index in 0..outer {
            for part in &parts {
                merged.extend_from_slice(&part[index * run..][..run]);
            }
        }
        Ok(Cow::Owned(merged))
    }

    /// One rank's piece, canonical.
    fn local(
        &self,
        rank: usize,
        name: &WeightName,
        piece: &Piece<'_>,
        dtype: DType,
    ) -> Result<Cow<'_, [u8]>, FormatError> {
        let file = &self.files[rank];
        let spelling = self.spelled(name).map(|(spelling, _)| spelling).unwrap_or_default();
        let Some(tensor) = file.tensor(&spelling) else { return self.fail(name, "is missing") };
        Ok(match file.data(tensor) {
            Cow::Borrowed(bytes) => gather_bytes(&piece.placement, &piece.shape, dtype, bytes),
            Cow::Owned(bytes) => {
                Cow::Owned(gather_bytes(&piece.placement, &piece.shape, dtype, &bytes).into_owned())
            }
        })
    }
}

/// The canonical axis along which ranks share a weight.
fn split_axis(part: Part, found: &[usize], config: &ModelConfig) -> Option<usize> {
    match part {
        Part::AttentionNorm | Part::FeedForwardNorm | Part::OutputNorm | Part::Router => None,
        Part::AttentionOutput | Part::Down | Part::SharedDown => Some(1),
        Part::ExpertsGate | Part::ExpertsUp => Some(1),
        Part::ExpertsDown => Some(2),
        // Llama 2 cuts the embedding by columns, later models by vocabulary.
        Part::TokenEmbedding if found.get(1) != Some(&config.embedding_length) => Some(1),
        _ => Some(0),
    }
}

/// The shape that one rank's tensor must have, for a piece of canonical shape `local`.
fn expected_shape(
    config: &ModelConfig,
    part: Part,
    fused: bool,
    local: &[usize],
    ranks: usize,
) -> Vec<usize> {
    match part {
        Part::AttentionQuery | Part::AttentionKey | Part::AttentionValue if fused => {
            vec![(config.heads + 2 * config.kv_heads) * config.head_dim / ranks, local[1]]
        }
        Part::Gate | Part::Up if fused => vec![2 * local[0], local[1]],
        Part::Router => vec![local[1], local[0]],
        Part::ExpertsGate | Part::ExpertsUp | Part::ExpertsDown => vec![local[0], local[2], local[1]],
        _ => local.to_vec(),
    }
}
