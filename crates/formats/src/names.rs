//! What every weight is called. The three formats spell the same tensor in three ways; [`PARTS`]
//! is the one table of those spellings, and a [`WeightName`] is what the rest of the program says.

use std::fmt;

/// The role of a weight in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Token embedding, `[vocabulary, dim]`; also the output matrix when embeddings are tied.
    TokenEmbedding,
    /// Gain of the RMSNorm before attention, `[dim]`.
    AttentionNorm,
    /// Query projection, `[heads * head_dim, dim]`, rows in interleaved-pair order.
    AttentionQuery,
    /// Key projection, `[kv_heads * head_dim, dim]`, rows in interleaved-pair order.
    AttentionKey,
    /// Value projection, `[kv_heads * head_dim, dim]`.
    AttentionValue,
    /// Output projection of attention, `[dim, heads * head_dim]`.
    AttentionOutput,
    /// Gain of the RMSNorm before the feed-forward block, `[dim]`.
    FeedForwardNorm,
    /// Gate of a dense SwiGLU (Meta's w1), `[hidden, dim]`.
    Gate,
    /// Up projection of a dense SwiGLU (Meta's w3), `[hidden, dim]`.
    Up,
    /// Down projection of a dense SwiGLU (Meta's w2), `[dim, hidden]`.
    Down,
    /// Router of a mixture of experts, `[experts, dim]`.
    Router,
    /// Gates of the routed experts, `[experts, hidden, dim]`.
    ExpertsGate,
    /// Up projections of the routed experts, `[experts, hidden, dim]`.
    ExpertsUp,
    /// Down projections of the routed experts, `[experts, dim, hidden]`.
    ExpertsDown,
    /// Gate of the shared expert, `[hidden, dim]`.
    SharedGate,
    /// Up projection of the shared expert, `[hidden, dim]`.
    SharedUp,
    /// Down projection of the shared expert, `[dim, hidden]`.
    SharedDown,
    /// Gain of the final RMSNorm, `[dim]`.
    OutputNorm,
    /// Output matrix, `[vocabulary, dim]`; absent when embeddings are tied.
    Output,
}

/// One row of [`PARTS`]: spellings without the layer's prefix (`blk.N.`, `model.layers.N.`,
/// `layers.N.`).
#[derive(Clone, Copy, Debug)]
pub struct PartNames {
    /// The role.
    pub part: Part,
    /// Whether there is one in each layer.
    pub per_layer: bool,
    /// In GGUF.
    pub gguf: &'static str,
    /// In Hugging Face checkpoints of Llama 2 and 3.
    pub hugging_face: &'static str,
    /// In Hugging Face checkpoints of Llama 4. Gate and up of the experts share one fused tensor.
    pub hugging_face_llama4: &'static str,
    /// In Meta's checkpoints, as its model code names the parameter.
    pub meta: &'static str,
    /// In Meta's released Llama 4 files, where fused or renamed there.
    pub meta_fused: &'static [&'static str],
}

macro_rules! parts {
    ($($part:ident $per_layer:literal $gguf:literal $hf:literal $hf4:literal $meta:literal $fused:tt;)*) => {
        /// Every role with its spellings, in model order.
        pub const PARTS: &[PartNames] = &[$(PartNames {
            part: Part::$part,
            per_layer: $per_layer,
            gguf: $gguf,
            hugging_face: $hf,
            hugging_face_llama4: $hf4,
            meta: $meta,
            meta_fused: &$fused,
        }),*];
    };
}

#[rustfmt::skip]
parts! {
    TokenEmbedding false "token_embd.weight" "embed_tokens.weight" "embed_tokens.weight" "tok_embeddings.weight" [];
    AttentionNorm true "attn_norm.weight" "input_layernorm.weight" "input_layernorm.weight" "attention_norm.weight" ["attention.wqkv.layer_norm_weight"];
    AttentionQuery true "attn_q.weight" "self_attn.q_proj.weight" "self_attn.q_proj.weight" "attention.wq.weight" ["attention.wqkv.weight"];
    AttentionKey true "attn_k.weight" "self_attn.k_proj.weight" "self_attn.k_proj.weight" "attention.wk.weight" ["attention.wqkv.weight"];
    AttentionValue true "attn_v.weight" "self_attn.v_proj.weight" "self_attn.v_proj.weight" "attention.wv.weight" ["attention.wqkv.weight"];
    AttentionOutput true "attn_output.weight" "self_attn.o_proj.weight" "self_attn.o_proj.weight" "attention.wo.weight" [];
    FeedForwardNorm true "ffn_norm.weight" "post_attention_layernorm.weight" "post_attention_layernorm.weight" "ffn_norm.weight" ["feed_forward.norm.weight", "feed_forward.mlp.layer_norm_weight"];
    Gate true "ffn_gate.weight" "mlp.gate_proj.weight" "feed_forward.gate_proj.weight" "feed_forward.w1.weight" ["feed_forward.mlp.fc1_weight"];
    Up true "ffn_up.weight" "mlp.up_proj.weight" "feed_forward.up_proj.weight" "feed_forward.w3.weight" ["feed_forward.mlp.fc1_weight"];
    Down true "ffn_down.weight" "mlp.down_proj.weight" "feed_forward.down_proj.weight" "feed_forward.w2.weight" ["feed_forward.mlp.fc2_weight"];
    Router true "ffn_gate_inp.weight" "feed_forward.router.weight" "feed_forward.router.weight" "feed_forward.router_DE" [];
    ExpertsGate true "ffn_gate_exps.weight" "feed_forward.experts.gate_up_proj" "feed_forward.experts.gate_up_proj" "feed_forward.experts.w1" ["feed_forward.experts.moe_w_in_eD_F"];
    ExpertsUp true "ffn_up_exps.weight" "feed_forward.experts.gate_up_proj" "feed_forward.experts.gate_up_proj" "feed_forward.experts.w3" ["feed_forward.experts.moe_w_swiglu_eD_F"];
    ExpertsDown true "ffn_down_exps.weight" "feed_forward.experts.down_proj" "feed_forward.experts.down_proj" "feed_forward.experts.w2" ["feed_forward.experts.moe_w_out_eF_D"];
    SharedGate true "ffn_gate_shexp.weight" "feed_forward.shared_expert.gate_proj.weight" "feed_forward.shared_expert.gate_proj.weight" "feed_forward.shared_expert.w1.weight" ["feed_forward.w_in_shared_FD.weight"];
    SharedUp true "ffn_up_shexp.weight" "feed_forward.shared_expert.up_proj.weight" "feed_forward.shared_expert.up_proj.weight" "feed_forward.shared_expert.w3.weight" ["feed_forward.w_swiglu_FD.weight"];
    SharedDown true "ffn_down_shexp.weight" "feed_forward.shared_expert.down_proj.weight" "feed_forward.shared_expert.down_proj.weight" "feed_forward.shared_expert.w2.weight" ["feed_forward.w_out_shared_DF.weight"];
    OutputNorm false "output_norm.weight" "norm.weight" "norm.weight" "norm.weight" [];
    Output false "output.weight" "lm_head.weight" "lm_head.weight" "output.weight" [];
}

impl Part {
    /// This role's row of [`PARTS`].
    pub fn names(self) -> &'static PartNames {
        &PARTS[self as usize]
    }
}

/// One weight of a model: its role, and its layer where there is one per layer. Displays as in
/// GGUF, `blk.3.attn_q.weight`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightName {
    /// The layer, from 0; `None` for the embedding, the final norm and the output.
    pub layer: Option<usize>,
    /// The role.
    pub part: Part,
}

impl WeightName {
    /// A weight outside the layers.
    pub const fn global(part: Part) -> Self {
        Self { layer: None, part }
    }

    /// A weight of layer `layer`.
    pub const fn in_layer(layer: usize, part: Part) -> Self {
        Self { layer: Some(layer), part }
    }

    /// Reads GGUF's spelling: `token_embd.weight`, `blk.3.attn_q.weight`.
    pub fn from_gguf(name: &str) -> Option<Self> {
        Self::parse(name, "blk.", |row, name| row.gguf == name)
    }

    /// Reads Hugging Face's spelling, of Llama 2 and 3 or of Llama 4, with or without `model.`. A
    /// fused experts tensor is read as its first half, [`Part::ExpertsGate`].
    pub fn from_hugging_face(name: &str) -> Option<Self> {
        let name = name.strip_prefix("model.").unwrap_or(name);
        Self::parse(name, "layers.", |row, name| [row.hugging_face, row.hugging_face_llama4].contains(&name))
    }

    /// Reads Meta's spelling, of the model code or of the fused files; a fused tensor is read as
    /// its first part.
    pub fn from_meta(name: &str) -> Option<Self> {
        Self::parse(name, "layers.", |row, name| row.meta == name || row.meta_fused.contains(&name))
    }

    fn parse(name: &str, layers: &str, is_spelled: impl Fn(&PartNames, &str) -> bool) -> Option<Self> {
        let (layer, rest) = match name.strip_prefix(layers) {
            Some(numbered) => {
                let (number, rest) = numbered.split_once('.')?;
                let canonical = number == "0" || !number.starts_with('0');
                if !canonical || !number.bytes().all(|b| b.is_ascii_digit()) {
                    return None;
                }
                (Some(number.parse().ok()?), rest)
            }
            None => (None, name),
        };
        let row = PARTS.iter().find(|row| row.per_layer == layer.is_some() && is_spelled(row, rest))?;
        Some(Self { layer, part: row.part })
    }

    /// GGUF's spelling.
    pub fn gguf(&self) -> String {
        self.spelled("blk.", self.part.names().gguf)
    }

    /// Hugging Face's spelling, of Llama 4 where `llama4` says so. Gate and up projections of Llama
    /// 4's experts have one name, as they are one tensor there.
    pub fn hugging_face(&self, llama4: bool) -> String {
        let row = self.part.names();
        let name = if llama4 { row.hugging_face_llama4 } else { row.hugging_face };
        match self.part {
            Part::Output => name.to_owned(),
            _ => format!("model.{}", self.spelled("layers.", name)),
        }
    }

    /// Meta's spelling, as its model code names the parameter.
    pub fn meta(&self) -> String {
        self.spelled("layers.", self.part.names().meta)
    }

    /// The spellings in Meta's released Llama 4 files, where the tensor is fused or renamed there.
    pub fn meta_fused(&self) -> impl Iterator<Item = String> {
        self.part.names().meta_fused.iter().map(|name| self.spelled("layers.", name))
    }

    fn spelled(&self, layers: &str, name: &str) -> String {
        match self.layer {
            Some(layer) => format!("{layers}{layer}.{name}"),
            None => name.to_owned(),
        }
    }
}

impl fmt::Display for WeightName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.gguf())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_read_back() {
        for (index, row) in PARTS.iter().enumerate() {
            assert_eq!(row.part as usize, index, "table is in enum order");
            let name = WeightName { layer: row.per_layer.then_some(17), part: row.part };
            assert_eq!(WeightName::from_gguf(&name.gguf()), Some(name));
            assert_eq!(WeightName::from_meta(&name.meta()), Some(name));
            let fused = matches!(row.part, Part::ExpertsUp);
            let read = if fused { Part::ExpertsGate } else { row.part };
            for llama4 in [false, true] {
                let spelled = name.hugging_face(llama4);
                assert_eq!(WeightName::from_hugging_face(&spelled).map(|n| n.part), Some(read), "{spelled}");
            }
        }
    }

    #[test]
    fn strange_layer_numbers_are_no_names() {
        for name in
            ["blk.+1.attn_q.weight", "blk.01.attn_q.weight", "blk..attn_q.weight", "blk.1.output.weight"]
        {
            assert_eq!(WeightName::from_gguf(name), None, "{name}");
        }
    }
}
