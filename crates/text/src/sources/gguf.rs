//! Tokenizers described by GGUF metadata (`tokenizer.ggml.*`): byte-level BPE ("gpt2") and SentencePiece ("llama").
//! Defaults for absent keys are llama.cpp's, since the files in circulation were tested with it.

use alti_formats::gguf::GgufMetadata;

use crate::error::{Result, TextError};
use crate::sources::merges::MergeList;
use crate::sources::score_ranks;
use crate::tokenizer::added::AddedToken;
use crate::tokenizer::vocabulary::Vocabulary;
use crate::tokenizer::{Definition, Model, Roles, SpacePrefix, Tokenizer};
use alti_formats::tokenizer::{PreTokenizer, TokenKind, byte_level};

/// The `tokenizer.ggml.*` fields of a GGUF file, as they are there.
#[derive(Clone, Debug, Default)]
pub struct GgufTokenizer<'a> {
    /// `tokenizer.ggml.model`: `gpt2` or `llama`.
    pub model: &'a str,
    /// `tokenizer.ggml.pre`: the name of the pre-tokenizer.
    pub pre_tokenizer: Option<&'a str>,
    /// `tokenizer.ggml.tokens`.
    pub tokens: Vec<&'a [u8]>,
    /// `tokenizer.ggml.token_type`: empty, or one per token.
    pub kinds: Vec<i32>,
    /// `tokenizer.ggml.scores`: one per token for SentencePiece.
    pub scores: Vec<f32>,
    /// `tokenizer.ggml.merges`: "left right" for byte-level BPE, strongest first.
    pub merges: Vec<&'a [u8]>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`.
    pub unknown: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`.
    pub padding: Option<u32>,
    /// `tokenizer.ggml.eot_token_id` and `eom_token_id`, where given.
    pub stops: Vec<u32>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`.
    pub add_space_prefix: Option<bool>,
}

impl<'a> GgufTokenizer<'a> {
    /// The fields of an opened file; `None` when it carries no tokenizer.
    ///
    /// # Errors
    /// A field of the wrong type.
    pub fn read(metadata: &'a GgufMetadata) -> Result<Option<Self>> {
        let Some(model) = metadata.string("tokenizer.ggml.model")? else { return Ok(None) };
        let strings = |key: &str| -> Result<Vec<&'a [u8]>> {
            Ok(metadata.array(key)?.map(|array| array.byte_strings().collect()).unwrap_or_default())
        };
        let id = |key: &str| -> Result<Option<u32>> {
            Ok(metadata.unsigned(key)?.and_then(|id| u32::try_from(id).ok()))
        };
        let kinds = metadata.array("tokenizer.ggml.token_type")?;
        let scores = metadata.array("tokenizer.ggml.scores")?;
        Ok(Some(Self {
            model,
            pre_tokenizer: metadata.string("tokenizer.ggml.pre")?,
            tokens: strings("tokenizer.ggml.tokens")?,
            kinds: kinds.map(|array| array.integers().map(|kind| kind as i32).collect()).unwrap_or_default(),
            scores: scores.map(|array| array.floats().collect()).unwrap_or_default(),
            merges: strings("tokenizer.ggml.merges")?,
            bos: id("tokenizer.ggml.bos_token_id")?,
            eos: id("tokenizer.ggml.eos_token_id")?,
            unknown: id("tokenizer.ggml.unknown_token_id")?,
            padding: id("tokenizer.ggml.padding_token_id")?,
            stops: [id("tokenizer.ggml.eot_token_id")?, id("tokenizer.ggml.eom_token_id")?]
                .into_iter()
                .flatten()
                .collect(),
            add_bos: metadata.boolean("tokenizer.ggml.add_bos_token")?,
            add_space_prefix: metadata.boolean("tokenizer.ggml.add_space_prefix")?,
        }))
    }

    /// The tokenizer these fields describe.
    ///
    /// # Errors
    /// An unknown `model` or `pre_tokenizer`, lists whose lengths disagree, a merge of unknown tokens, limits.
    pub fn build(&self) -> Result<Tokenizer> {
        Tokenizer::new(self.definition()?)
    }

    pub(crate) fn definition(&self) -> Result<Definition> {
        if !self.kinds.is_empty() && self.kinds.len() < self.tokens.len() {
            let problem = format!("{} entries for {} tokens", self.kinds.len(), self.tokens.len());
            return Err(TextError::invalid("tokenizer.ggml.token_type", problem));
        }
        match self.model {
            "gpt2" => self.byte_level(),
            "llama" => self.sentence_piece(),
            other => Err(TextError::Unsupported {
                place: "tokenizer.ggml.model".into(),
                found: other.into(),
                supported: "gpt2, llama",
            }),
        }
    }

    fn byte_level(&self) -> Result<Definition> {
        let name = self.pre_tokenizer.unwrap_or_default();
        let pre_tokenizer = PreTokenizer::from_gguf_name(name).ok_or_else(|| TextError::Unsupported {
            place: "tokenizer.ggml.pre".into(),
            found: name.into(),
            supported: "llama-bpe, llama4, smollm, gpt-2 and their aliases",
        })?;
        let vocabulary = self.vocabulary(|kind, token, bytes| {
            if kind == TokenKind::Normal {
                byte_level::decode_into(token, bytes);
            } else {
                bytes.extend_from_slice(token);
            }
        })?;
        let mut merges = MergeList::new(&vocabulary, self.merges.len());
        for (at, merge) in self.merges.iter().enumerate() {
            let space = merge.iter().skip(1).position(|&byte| byte == b' ').ok_or_else(|| {
                TextError::invalid(format!("tokenizer.ggml.merges[{at}]"), "no space between two tokens")
            })?;
            let (left, right) = (&merge[..space + 1], &merge[space + 2..]);
            merges.push(|b| byte_level::decode_into(left, b), |b| byte_level::decode_into(right, b))?;
        }
        let rules = merges.into_rules();
        let whole_pieces = pre_tokenizer.takes_whole_pieces();
        let adds_bos = self.add_bos.unwrap_or(pre_tokenizer == PreTokenizer::Llama3);
        let roles = Roles { adds_bos, ..self.roles() };
        let added = added_tokens(&vocabulary);
        let model = Model::ByteLevel { pre_tokenizer, whole_pieces };
        Ok(Definition { vocabulary, model, rules, added, roles, cuts_long_runs: false })
    }

    fn sentence_piece(&self) -> Result<Definition> {
        if self.scores.len() < self.tokens.len() {
            let problem = format!("{} entries for {} tokens", self.scores.len(), self.tokens.len());
            return Err(TextError::invalid("tokenizer.ggml.scores", problem));
        }
        let vocabulary = self.vocabulary(crate::sources::sentence_piece_bytes)?;
        let rules = score_ranks(&self.scores[..vocabulary.len()])?;
        let space_prefix =
            if self.add_space_prefix.unwrap_or(true) { SpacePrefix::EveryText } else { SpacePrefix::Never };
        let defaults = self.roles();
        let roles = Roles {
            adds_bos: self.add_bos.unwrap_or(true),
            bos: defaults.bos.or(Some(1)),
            eos: defaults.eos.or(Some(2)),
            unknown: defaults.unknown.or(Some(0)),
            ..defaults
        };
        let added = added_tokens(&vocabulary);
        let model = Model::SentencePiece { space_prefix };
        Ok(Definition { vocabulary, model, rules, added, roles, cuts_long_runs: false })
    }

    fn vocabulary(&self, write: impl Fn(TokenKind, &[u8], &mut Vec<u8>)) -> Result<Vocabulary> {
        let mut vocabulary = Vocabulary::with_capacity(self.tokens.len());
        for (id, token) in self.tokens.iter().enumerate() {
            let kind = self.kinds.get(id).map_or(TokenKind::Normal, |&number| {
                TokenKind::from_number(number.into()).unwrap_or(TokenKind::Normal)
            });
            vocabulary.push(kind, |bytes| write(kind, token, bytes))?;
        }
        Ok(vocabulary)
    }

    fn roles(&self) -> Roles {
        Roles {
            bos: self.bos,
            adds_bos: self.add_bos.unwrap_or(false),
            eos: self.eos,
            unknown: self.unknown,
            padding: self.padding,
            stops: self.stops.clone(),
        }
    }
}

/// The tokens a vocabulary says are found by their spelling.
pub(crate) fn added_tokens(vocabulary: &Vocabulary) -> Vec<AddedToken> {
    (0..vocabulary.len() as u32)
        .filter_map(|id| {
            let control = match vocabulary.kind(id) {
                TokenKind::Control | TokenKind::Unknown => true,
                TokenKind::UserDefined => false,
                TokenKind::Normal | TokenKind::Unused | TokenKind::Byte => return None,
            };
            let text = std::str::from_utf8(vocabulary.bytes(id)).ok()?;
            Some(AddedToken::plain(id, text, control))
        })
        .collect()
}
