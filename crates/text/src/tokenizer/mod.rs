//! Tokenizers: text to token ids and back. One engine serves every source (GGUF metadata, `tokenizer.json`, Meta's
//! `tokenizer.model`); the sources differ only in how they describe the same few parts ([`Definition`]).

pub(crate) mod added;
pub(crate) mod detokenizer;
mod long_runs;
pub(crate) mod merge;
pub(crate) mod pre_split;
pub(crate) mod unicode;
pub(crate) mod vocabulary;

use std::ops::Range;
use std::sync::Arc;

use added::{AddedToken, AddedTokens, Part};
use detokenizer::Detokenizer;
use merge::{MergeRules, NO_TOKEN, Scratch, Symbol, merge_symbols};
use pre_split::pre_tokenize;
use vocabulary::Vocabulary;

use alti_formats::tokenizer::{END_TOKENS, PreTokenizer, TokenKind};

use crate::error::{Result, TextError};

/// What to do with the spelling of a control token (`<|eot_id|>`) in a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Specials {
    /// It is ordinary text: for everything a user, a file or a tool wrote.
    #[default]
    AsText,
    /// It is the token: for text whose author may steer the model.
    Parse,
}

/// A stretch of a prompt and how far its author is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The text.
    pub text: String,
    /// Whether it may contain control tokens.
    pub specials: Specials,
}

/// Where SentencePiece puts a space in front of text (Llama 2's "dummy prefix").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpacePrefix {
    Never,
    /// Where the text begins and after every added token.
    EveryText,
    /// As [`SpacePrefix::EveryText`], but not in front of a space that is there.
    EveryTextUnlessSpaced,
    /// Only where a text begins that does not begin with a space.
    FirstTextUnlessSpaced,
}

/// What comes before a stretch of ordinary text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Position {
    Start,
    AfterToken,
    AfterText,
}

impl SpacePrefix {
    fn applies(self, position: Position, text: &str) -> bool {
        let every = position != Position::AfterText;
        let unspaced = !text.starts_with([' ', '▁']);
        match self {
            Self::Never => false,
            Self::EveryText => every,
            Self::EveryTextUnlessSpaced => every && unspaced,
            Self::FirstTextUnlessSpaced => position == Position::Start && unspaced,
        }
    }
}

/// How ordinary text becomes tokens.
#[derive(Clone)]
pub(crate) enum Model {
    /// Bytes merge inside the pieces of a pre-tokenizer. `whole_pieces`: a piece that is a token is emitted whole,
    /// even where merging would not reach it (tiktoken; Hugging Face's `ignore_merges`).
    ByteLevel { pre_tokenizer: PreTokenizer, whole_pieces: bool },
    /// Characters merge across the whole text; a character without a token becomes its bytes, or unknown.
    SentencePiece { space_prefix: SpacePrefix },
}

/// Token ids with a role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Roles {
    pub(crate) bos: Option<u32>,
    pub(crate) adds_bos: bool,
    pub(crate) eos: Option<u32>,
    pub(crate) unknown: Option<u32>,
    pub(crate) padding: Option<u32>,
    /// Further tokens that end an answer, as a file names them.
    pub(crate) stops: Vec<u32>,
}

/// Everything a source says about a tokenizer.
pub(crate) struct Definition {
    pub(crate) vocabulary: Vocabulary,
    pub(crate) model: Model,
    pub(crate) rules: MergeRules,
    pub(crate) added: Vec<AddedToken>,
    pub(crate) roles: Roles,
    /// Whether text is cut as Meta's reference cuts it, see [`long_runs`].
    pub(crate) cuts_long_runs: bool,
}

/// A tokenizer. Cloning is cheap: clones share one vocabulary.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

struct Inner {
    vocabulary: Vocabulary,
    model: Model,
    rules: MergeRules,
    added: AddedTokens,
    /// The token of each single byte, or [`NO_TOKEN`].
    byte_tokens: [u32; 256],
    roles: Roles,
    cuts_long_runs: bool,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Tokenizer({} tokens)", self.vocabulary_size())
    }
}

impl Tokenizer {
    pub(crate) fn new(definition: Definition) -> Result<Self> {
        let Definition { vocabulary, model, rules, added, mut roles, cuts_long_runs } = definition;
        if vocabulary.len() == 0 {
            return Err(TextError::invalid("vocabulary", "it is empty"));
        }
        let size = vocabulary.len() as u32;
        for role in [&mut roles.bos, &mut roles.eos, &mut roles.unknown, &mut roles.padding] {
            *role = role.filter(|id| *id < size);
        }
        roles.adds_bos &= roles.bos.is_some();
        let spelled = END_TOKENS.iter().filter_map(|spelling| vocabulary.find(spelling.as_bytes()));
        let spelled = spelled.filter(|&id| vocabulary.kind(id) != TokenKind::Normal);
        roles.stops =
            roles.eos.into_iter().chain(roles.stops).chain(spelled).filter(|id| *id < size).collect();
        roles.stops.sort_unstable();
        roles.stops.dedup();
        let byte_tokens = byte_tokens(&vocabulary, &model);
        let added = AddedTokens::new(added);
        Ok(Self {
            inner: Arc::new(Inner { vocabulary, model, rules, added, byte_tokens, roles, cuts_long_runs }),
        })
    }

    /// The tokens of `text`, without the begin-of-sequence token (see [`Tokenizer::adds_bos`]).
    pub fn encode(&self, text: &str, specials: Specials) -> Vec<u32> {
        let whole = 0..text.len();
        match specials {
            Specials::AsText => self.inner.encode(text, &[whole]),
            Specials::Parse => self.inner.encode(text, &[]),
        }
    }

    /// The tokens of a prompt put together from trusted and untrusted parts. The parts are one text: tokens may
    /// merge across their borders as if there were none, but a control token is found only inside trusted text.
    pub fn encode_segments(&self, segments: &[Segment]) -> Vec<u32> {
        let mut text = String::with_capacity(segments.iter().map(|segment| segment.text.len()).sum());
        let mut untrusted: Vec<Range<usize>> = Vec::new();
        for segment in segments {
            let start = text.len();
            text.push_str(&segment.text);
            if segment.specials == Specials::AsText && start < text.len() {
                untrusted.push(start..text.len());
            }
        }
        self.inner.encode(&text, &untrusted)
    }

    /// The text of `tokens`; control tokens are left out, bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        self.decode_with(tokens, self.detokenizer())
    }

    /// As [`Tokenizer::decode`], with control tokens spelled out.
    pub fn decode_spelling_specials(&self, tokens: &[u32]) -> String {
        self.decode_with(tokens, self.detokenizer().spelling_specials())
    }

    fn decode_with(&self, tokens: &[u32], mut detokenizer: Detokenizer) -> String {
        let mut text = String::new();
        for &token in tokens {
            text.push_str(&detokenizer.push(token));
        }
        text.push_str(&detokenizer.finish());
        text
    }

    /// A detokenizer for a stream of tokens.
    pub fn detokenizer(&self) -> Detokenizer {
        Detokenizer::new(self.clone())
    }

    /// Number of tokens. The output head of a model may have more rows (padding).
    pub fn vocabulary_size(&self) -> usize {
        self.inner.vocabulary.len()
    }

    /// The bytes `token` stands for: part of a character, perhaps; the spelling, for a special token; nothing, for
    /// an id outside the vocabulary.
    pub fn token_bytes(&self, token: u32) -> &[u8] {
        self.inner.vocabulary.bytes(token)
    }

    /// The bytes of `token` as text to show; what is not UTF-8 on its own becomes U+FFFD.
    pub fn token_text(&self, token: u32) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.token_bytes(token))
    }

    /// What `token` is for.
    pub fn kind(&self, token: u32) -> TokenKind {
        self.inner.vocabulary.kind(token)
    }

    /// Whether `token` is not text: a control token, the unknown token, or one that is never produced.
    pub fn is_special(&self, token: u32) -> bool {
        matches!(self.kind(token), TokenKind::Control | TokenKind::Unknown | TokenKind::Unused)
    }

    /// The token that stands for exactly this text, special or not.
    pub fn id_of(&self, text: &str) -> Option<u32> {
        self.inner.vocabulary.find(text.as_bytes())
    }

    /// Begin of sequence.
    pub fn bos(&self) -> Option<u32> {
        self.inner.roles.bos
    }

    /// Whether the model expects [`Tokenizer::bos`] in front of every sequence. (Chat templates write it themselves.)
    pub fn adds_bos(&self) -> bool {
        self.inner.roles.adds_bos
    }

    /// End of sequence, as the file names it.
    pub fn eos(&self) -> Option<u32> {
        self.inner.roles.eos
    }

    /// The token for padding, where the file names one.
    pub fn padding(&self) -> Option<u32> {
        self.inner.roles.padding
    }

    /// All tokens that end an answer, ascending: end of sequence, of turn and of message.
    pub fn stop_ids(&self) -> &[u32] {
        &self.inner.roles.stops
    }

    /// Spellings of the control tokens: what must not be parsed out of untrusted text.
    pub fn control_spellings(&self) -> impl Iterator<Item = &str> {
        self.inner.added.iter().filter(|token| token.control).map(|token| token.text.as_str())
    }

    /// Whether the first text of a sequence carries a space that its writer did not write.
    pub(crate) fn prefixes_space(&self) -> bool {
        match self.inner.model {
            Model::SentencePiece { space_prefix } => space_prefix != SpacePrefix::Never,
            Model::ByteLevel { .. } => false,
        }
    }
}

fn byte_tokens(vocabulary: &Vocabulary, model: &Model) -> [u32; 256] {
    let mut tokens = [NO_TOKEN; 256];
    match model {
        Model::ByteLevel { .. } => {
            for (byte, token) in tokens.iter_mut().enumerate() {
                *token = vocabulary.find_text(&[byte as u8]).unwrap_or(NO_TOKEN);
            }
        }
        Model::SentencePiece { .. } => {
            for id in (0..vocabulary.len() as u32).rev() {
                if let (TokenKind::Byte, [byte]) = (vocabulary.kind(id), vocabulary.bytes(id)) {
                    tokens[usize::from(*byte)] = id;
                }
            }
        }
    }
    tokens
}

/// What one call of `encode` needs over and over.
#[derive(Default)]
struct Workspace {
    symbols: Vec<Symbol>,
    scratch: Scratch,
}

impl Inner {
    fn encode(&self, text: &str, untrusted: &[Range<usize>]) -> Vec<u32> {
        let mut tokens = Vec::with_capacity(text.len() / 3);
        if !self.cuts_long_runs {
            self.encode_cut(text, untrusted, &mut tokens);
            return tokens;
        }
        for cut in long_runs::cuts(text) {
            let inside = untrusted.iter().filter(|range| range.end > cut.start && range.start < cut.end);
            let inside = inside
                .map(|range| range.start.max(cut.start) - cut.start..range.end.min(cut.end) - cut.start);
            self.encode_cut(&text[cut.clone()], &inside.collect::<Vec<_>>(), &mut tokens);
        }
        tokens
    }

    fn encode_cut(&self, text: &str, untrusted: &[Range<usize>], tokens: &mut Vec<u32>) {
        let mut workspace = Workspace::default();
        let mut position = Position::Start;
        self.added.split(text, untrusted, |part| match part {
            Part::Token(id) => {
                tokens.push(id);
                position = Position::AfterToken;
            }
            Part::Text(text) => {
                match self.model {
                    Model::ByteLevel { pre_tokenizer, whole_pieces } => {
                        pre_tokenize(pre_tokenizer, text, |piece| {
                            self.encode_bytes(piece.as_bytes(), whole_pieces, &mut workspace, tokens);
                        })
                    }
                    Model::SentencePiece { space_prefix } => {
                        let spaced = space_prefix.applies(position, text);
                        self.encode_characters(text, spaced, &mut workspace, tokens);
                    }
                }
                position = Position::AfterText;
            }
        });
    }

    /// Byte-level BPE of one piece. Bytes that have no token vanish, as in the reference implementation.
    fn encode_bytes(
        &self,
        piece: &[u8],
        whole_pieces: bool,
        workspace: &mut Workspace,
        tokens: &mut Vec<u32>,
    ) {
        if whole_pieces && let Some(id) = self.vocabulary.find_text(piece) {
            tokens.push(id);
            return;
        }
        let Workspace { symbols, scratch } = workspace;
        symbols.clear();
        symbols.extend(piece.iter().enumerate().map(|(at, &byte)| Symbol {
            start: at as u32,
            end: at as u32 + 1,
            id: self.byte_tokens[usize::from(byte)],
        }));
        symbols.retain(|symbol| symbol.id != NO_TOKEN);
        merge_symbols(&self.rules, &self.vocabulary, piece, symbols, scratch);
        tokens.extend(symbols.iter().map(|symbol| symbol.id));
    }

    /// SentencePiece BPE of one text. The vocabulary is kept with spaces for SentencePiece's "▁", which therefore
    /// stands for a space in text, too, as it does there.
    fn encode_characters(&self, text: &str, spaced: bool, workspace: &mut Workspace, tokens: &mut Vec<u32>) {
        let mut normalized = String::with_capacity(text.len() + 1);
        if spaced {
            normalized.push(' ');
        }
        normalized.extend(text.chars().map(|c| if c == '▁' { ' ' } else { c }));
        let Workspace { symbols, scratch } = workspace;
        symbols.clear();
        let bytes = normalized.as_bytes();
        symbols.extend(normalized.char_indices().map(|(at, c)| {
            let end = at + c.len_utf8();
            let id = self.vocabulary.find_text(&bytes[at..end]).unwrap_or(NO_TOKEN);
            Symbol { start: at as u32, end: end as u32, id }
        }));
        merge_symbols(&self.rules, &self.vocabulary, bytes, symbols, scratch);
        let mut after_unknown = false;
        for symbol in symbols.iter() {
            let spelled = &bytes[symbol.start as usize..symbol.end as usize];
            let has_bytes = || spelled.iter().all(|&byte| self.byte_tokens[usize::from(byte)] != NO_TOKEN);
            let unknown = symbol.id == NO_TOKEN && !has_bytes();
            if symbol.id != NO_TOKEN {
                tokens.push(symbol.id);
            } else if !unknown {
                tokens.extend(spelled.iter().map(|&byte| self.byte_tokens[usize::from(byte)]));
            } else if !after_unknown {
                // A run of unknown characters is one unknown token.
                tokens.extend(self.roles.unknown);
            }
            after_unknown = unknown;
        }
    }
}
