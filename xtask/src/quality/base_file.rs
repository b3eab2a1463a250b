//! The file in which `llama-perplexity --kl-divergence-base` keeps a model's distributions.
//!
//! Layout (tools/perplexity/perplexity.cpp of llama.cpp), little endian: `_logits_`; context length u32; vocabulary
//! i32; chunks i32; the tokens, i32, context x chunks; then for every scored position (of a chunk of n tokens, those
//! from n/2 up to and without the last) two f32, `step` and `lowest`, and one u16 `code` per token of the vocabulary,
//! rounded up to an even number: log p = lowest + step x code, clipped 16 below the most probable token's.

use anyhow::{Context as _, Result, ensure};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

/// Probabilities that are clipped count as zero, as llama.cpp counts them: natural logarithm.
pub(super) const NEGLIGIBLE: f32 = -16.0;

/// Most chunks and tokens of a vocabulary that are believed.
const MOST: usize = 1 << 20;

/// A reader of the file, chunk after chunk.
pub(super) struct BaseFile<R> {
    source: R,
    /// Tokens of a chunk.
    pub context: usize,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// The tokens of every chunk, as in the text: the beginning-of-text token is not put in.
    pub chunks: Vec<Vec<i32>>,
}

/// The log-probabilities after one token.
pub(super) struct Distribution {
    /// One per token of the vocabulary.
    pub log_probabilities: Vec<f32>,
}

impl BaseFile<BufReader<File>> {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Self::read(BufReader::new(file)).with_context(|| format!("{} is damaged", path.display()))
    }
}

impl<R: Read> BaseFile<R> {
    fn read(mut source: R) -> Result<Self> {
        let mut magic = [0; 8];
        source.read_exact(&mut magic)?;
        ensure!(&magic == b"_logits_", "it does not start with `_logits_`");
        let [context, vocabulary, count] = [count(&mut source)?, count(&mut source)?, count(&mut source)?];
        ensure!(context >= 4, "a context of {context} tokens scores nothing");
        let mut chunks = Vec::new();
        for _ in 0..count {
            chunks.push(
                (0..context)
                    .map(|_| Ok(i32::from_le_bytes(bytes(&mut source)?)))
                    .collect::<Result<Vec<_>>>()?,
            );
        }
        Ok(Self { source, context, vocabulary, chunks })
    }

    /// The first scored position of a chunk; the last is `context - 2`, which predicts the chunk's last token.
    pub(super) fn first_scored(&self) -> usize {
        self.context / 2
    }

    /// The distribution at the next scored position, in order of chunks and positions.
    pub(super) fn next(&mut self) -> Result<Distribution> {
        let step = f32::from_le_bytes(bytes(&mut self.source)?);
        let lowest = f32::from_le_bytes(bytes(&mut self.source)?);
        let mut codes = vec![0; 2 * self.vocabulary.next_multiple_of(2)];
        self.source.read_exact(&mut codes).context("it ends within a distribution")?;
        let codes =
            codes.chunks_exact(2).take(self.vocabulary).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        Ok(Distribution { log_probabilities: codes.map(|code| lowest + step * f32::from(code)).collect() })
    }
}

fn bytes<const N: usize>(source: &mut impl Read) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    source.read_exact(&mut bytes).context("it ends early")?;
    Ok(bytes)
}

fn count(source: &mut impl Read) -> Result<usize> {
    let number = usize::try_from(i32::from_le_bytes(bytes(source)?)).context("a count is negative")?;
    ensure!(number <= MOST, "a count of {number} is not to be believed");
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of one chunk of 4 tokens over a vocabulary of 3, as llama.cpp lays it out.
    fn example() -> Vec<u8> {
        let mut file = b"_logits_".to_vec();
        for number in [4i32, 3, 1, 10, 11, 12, 13] {
            file.extend(number.to_le_bytes());
        }
        file.extend(0.5f32.to_le_bytes());
        file.extend((-4f32).to_le_bytes());
        for code in [0u16, 2, 8, 0] {
            file.extend(code.to_le_bytes());
        }
        file
    }

    #[test]
    fn distributions_are_read_back() {
        let bytes = example();
        let mut file = BaseFile::read(bytes.as_slice()).unwrap();
        assert_eq!((file.context, file.vocabulary, file.first_scored()), (4, 3, 2));
        assert_eq!(file.chunks, [[10, 11, 12, 13]]);
        assert_eq!(file.next().unwrap().log_probabilities, [-4.0, -3.0, 0.0]);
        assert!(file.next().is_err(), "one chunk of four tokens scores one position");
    }

    #[test]
    fn damaged_files_are_refused() {
        let bytes = example();
        for length in 0..bytes.len() - 16 {
            assert!(BaseFile::read(&bytes[..length]).is_err(), "{length} bytes");
        }
        let mut absurd = example();
        absurd[8..12].copy_from_slice(&i32::MAX.to_le_bytes());
        assert!(BaseFile::read(absurd.as_slice()).is_err());
    }
}
