//! Quantisation recipes: which format each tensor of a model gets when a person asks for `Q4_K_M`.
//!
//! The names, and what they stand for, are the community's: a `Q4_K_M` file made here has the tensor
//! types of one made by llama.cpp's `llama-quantize`, so that sizes and qualities compare. The rules
//! are those of `llama_tensor_get_type` in llama.cpp's `llama-quant.cpp` for the Llama
//! architectures, written as one pure function of a tensor's GGUF name and shape.

use crate::ModelConfig;
use alti_tensor::DType;

/// A named mix of formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// The community's name.
    pub name: &'static str,
    /// The format of all tensors that no rule singles out.
    pub base: DType,
    /// The number that stands for the recipe in a GGUF file's `general.file_type`.
    pub file_type: u32,
    size: Size,
}

/// How many sensitive tensors get a better format than the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    /// The output matrix only.
    Plain,
    /// The first layers as well: the recipes `_S`.
    Small,
    /// Half of all layers, and by more: the recipes `_M`.
    Medium,
}

const fn recipe(name: &'static str, base: DType, file_type: u32, size: Size) -> Recipe {
    Recipe { name, base, file_type, size }
}

/// Every recipe: plain floats, then the families of quantised formats, most bits first.
pub const RECIPES: [Recipe; 13] = [
    recipe("F32", DType::F32, 0, Size::Plain),
    recipe("F16", DType::F16, 1, Size::Plain),
    recipe("BF16", DType::BF16, 32, Size::Plain),
    recipe("Q8_0", DType::Q8_0, 7, Size::Plain),
    recipe("Q6_K", DType::Q6_K, 18, Size::Plain),
    recipe("Q5_K_M", DType::Q5_K, 17, Size::Medium),
    recipe("Q5_K_S", DType::Q5_K, 16, Size::Small),
    recipe("Q4_K_M", DType::Q4_K, 15, Size::Medium),
    recipe("Q4_K_S", DType::Q4_K, 14, Size::Small),
    recipe("Q5_1", DType::Q5_1, 9, Size::Plain),
    recipe("Q5_0", DType::Q5_0, 8, Size::Plain),
    recipe("Q4_1", DType::Q4_1, 3, Size::Plain),
    recipe("Q4_0", DType::Q4_0, 2, Size::Plain),
];

/// What the rules ask about the model and the person's wishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecipeContext {
    /// Number of layers.
    pub layers: usize,
    /// Query heads of a layer.
    pub heads: usize,
    /// Key/value heads of a layer.
    pub kv_heads: usize,
    /// Routed experts of a layer; 0 in a dense model.
    pub experts: usize,
    /// Whether the token embedding is the output matrix too (there is no `output.weight`).
    pub tied_embeddings: bool,
    /// Whether an importance matrix guides the rounding.
    pub importance: bool,
    /// Whether every matrix gets the base format, with no tensor singled out.
    pub pure: bool,
}

impl RecipeContext {
    /// Of a model, for the recipe as it is: without an importance matrix.
    pub fn of(config: &ModelConfig) -> Self {
        Self {
            layers: config.layers,
            heads: config.heads,
            kv_heads: config.kv_heads,
            experts: config.experts.as_ref().map_or(0, |experts| experts.count),
            tied_embeddings: config.tied_embeddings,
            importance: false,
            pure: false,
        }
    }
}

/// The tensors that the rules know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Output,
    TokenEmbedding,
    AttentionValue,
    AttentionKey,
    AttentionOutput,
    Down,
    Other,
}

impl Role {
    fn of(name: &str) -> Self {
        match name {
            "output.weight" => Self::Output,
            "token_embd.weight" => Self::TokenEmbedding,
            _ if name.contains("attn_v.weight") => Self::AttentionValue,
            _ if name.contains("attn_k.weight") => Self::AttentionKey,
            _ if name.contains("attn_output.weight") => Self::AttentionOutput,
            _ if name.contains("ffn_down") => Self::Down,
            _ => Self::Other,
        }
    }
}

impl Recipe {
    /// The recipe of this name, in any case; `Q4_K` and `Q5_K` mean their `_M`.
    pub fn by_name(name: &str) -> Option<&'static Recipe> {
        let found = |name: &str| RECIPES.iter().find(|recipe| recipe.name.eq_ignore_ascii_case(name));
        found(name).or_else(|| found(&format!("{name}_M")))
    }

    /// The format for a tensor, given its GGUF name (`blk.3.ffn_down.weight`) and shape, outermost
    /// dimension first.
    ///
    /// Vectors, gains of norms and routers are `F32`. Where the rows are not whole blocks of the
    /// format, the nearest one of 32-weight blocks takes its place, and `F16` where those do not fit.
    pub fn dtype_for(&self, context: &RecipeContext, name: &str, shape: &[usize]) -> DType {
        if !is_quantised(name, shape) {
            return DType::F32;
        }
        if !self.base.is_quantised() {
            return self.base;
        }
        let columns = shape.last().copied().unwrap_or(0);
        let wanted = if context.pure { self.base } else { self.mixed(context, name, columns) };
        fitting(wanted, columns)
    }

    fn mixed(&self, context: &RecipeContext, name: &str, columns: usize) -> DType {
        let layer = layer_of(name).unwrap_or(0);
        match Role::of(name) {
            Role::Output => self.output(columns),
            Role::TokenEmbedding if context.tied_embeddings => self.output(columns),
            Role::AttentionValue => self.attention_value(context, layer),
            Role::AttentionKey if context.experts == 8 => DType::Q8_0,
            Role::AttentionOutput if context.experts == 8 && self.base == DType::Q4_K => DType::Q5_K,
            Role::Down => self.down(context, layer),
            _ => self.base,
        }
    }

    /// Every token's scores pass through this matrix.
    fn output(&self, columns: usize) -> DType {
        if self.base == DType::Q8_0 || !columns.is_multiple_of(self.base.block_len()) {
            DType::Q8_0
        } else {
            DType::Q6_K
        }
    }

    /// Small where heads share it (GQA), and most sensitive: cheap to give more bits.
    fn attention_value(&self, context: &RecipeContext, layer: usize) -> DType {
        let is_llama_70b = context.layers == 80 && context.heads != context.kv_heads;
        match (self.base, self.size) {
            _ if context.experts == 8 => DType::Q8_0,
            (_, Size::Medium) if wants_more_bits(layer, context.layers) => DType::Q6_K,
            (DType::Q4_K, Size::Small) if layer < 4 => DType::Q5_K,
            (DType::Q4_K, _) if is_llama_70b => DType::Q5_K,
            _ => self.base,
        }
    }

    fn down(&self, context: &RecipeContext, layer: usize) -> DType {
        let is_early = layer < context.layers / 8;
        match (self.base, self.size) {
            (_, Size::Medium) if wants_more_bits(layer, context.layers) => DType::Q6_K,
            (DType::Q4_K, Size::Small) if is_early => DType::Q5_K,
            (DType::Q4_0, _) if is_early && context.importance => DType::Q4_1,
            (DType::Q5_0, _) if is_early && context.importance => DType::Q5_1,
            _ => self.base,
        }
    }
}

/// The first eighth, the last eighth, and every third layer between.
fn wants_more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

/// Whether a tensor is a matrix that is multiplied with, and not a gain, a bias or a router.
fn is_quantised(name: &str, shape: &[usize]) -> bool {
    let dimensions = shape.iter().skip_while(|&&size| size == 1).count();
    dimensions >= 2
        && name.ends_with("weight")
        && !name.contains("_norm.weight")
        && !name.contains("ffn_gate_inp.weight")
}

/// The layer in `blk.N.…`.
fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// `wanted`, or what stands in for it where rows of `columns` are not whole blocks.
fn fitting(wanted: DType, columns: usize) -> DType {
    let fits = |dtype: DType| columns.is_multiple_of(dtype.block_len());
    let substitute = match wanted {
        DType::Q4_K => DType::Q5_0,
        DType::Q5_K => DType::Q5_1,
        DType::Q6_K => DType::Q8_0,
        other => other,
    };
    [wanted, substitute].into_iter().find(|&dtype| fits(dtype)).unwrap_or(DType::F16)
}
