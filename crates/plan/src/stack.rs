//! Training software: what of the published frameworks matters for time and memory. One row a framework and era, facts of
//! its documentation, nothing fitted.

use crate::error::{PlanError, nearest};

/// A training framework of some year.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stack {
    /// Its name.
    pub name: &'static str,
    /// What it stands for.
    pub description: &'static str,
    /// Attention computed tile by tile (FlashAttention), scores never stored.
    pub flash: bool,
    /// Speed of its fused attention over FlashAttention-2's (cuDNN's and FlashAttention-3 on Hopper: arXiv 2407.08608).
    pub attention_speed: f64,
    /// Element-wise operations fused into few kernels.
    pub fused: bool,
    /// Its host launches slowly: Python between many small kernels.
    pub slow_host: bool,
    /// ZeRO-3 gathers each parameter by itself, over one link of a node at a time.
    pub one_link: bool,
    /// What was gathered along the sequence is gathered again in the backward pass, not stored.
    pub gathers_again: bool,
    /// Gradient traffic overlaps the backward pass.
    pub data_overlap: bool,
    /// Tensor-parallel traffic overlaps products.
    pub tensor_overlap: bool,
    /// Norms and residuals are split along the sequence (arXiv 2205.05198).
    pub sequence_parallel: bool,
    /// Bytes of a gradient in memory and on the wire.
    pub gradient_bytes: f64,
    /// Bytes of a weight as kept between steps (FSDP keeps its shard in FP32).
    pub weight_bytes: f64,
    /// Bytes of optimiser state of a parameter: AdamW's two moments, and the FP32 master where weights are BF16.
    pub optimizer_bytes: f64,
    /// Bytes of a logit in the loss, all copies that live at the peak together.
    pub logit_bytes: f64,
    /// Dropout masks are stored.
    pub dropout: bool,
    /// Context parallelism passes keys and values around a ring, hidden behind attention in pieces; otherwise all are gathered
    /// before it, which nothing hides, and attention stays whole.
    pub ring: bool,
    /// In FP8, inputs of products are stored in FP8 (Transformer Engine), and not cast again from BF16.
    pub stores_fp8: bool,
}

const MEGATRON: Stack = Stack {
    name: "megatron-2021",
    description: "Megatron-LM as of SC21 (arXiv 2104.04473): scores stored, nothing overlapped",
    flash: false,
    attention_speed: 1.0,
    fused: true,
    slow_host: true,
    one_link: false,
    gathers_again: true,
    data_overlap: false,
    tensor_overlap: false,
    sequence_parallel: false,
    gradient_bytes: 4.0,
    weight_bytes: 2.0,
    optimizer_bytes: 12.0,
    logit_bytes: 10.0,
    dropout: true,
    ring: true,
    stores_fp8: false,
};

const MEGATRON_CORE: Stack = Stack {
    name: "megatron-core",
    description: "Megatron Core of 2024 and later: fused attention, overlap of all traffic, sequence parallel",
    flash: true,
    attention_speed: 2.5,
    slow_host: false,
    data_overlap: true,
    tensor_overlap: true,
    sequence_parallel: true,
    dropout: false,
    stores_fp8: true,
    ..MEGATRON
};

/// All frameworks that are known.
pub const STACKS: [Stack; 10] = [
    MEGATRON_CORE,
    Stack {
        name: "meta-2024",
        description: "Meta's own of Llama 3 (arXiv 2407.21783): as Megatron Core, keys and values gathered for context parallelism",
        ring: false,
        ..MEGATRON_CORE
    },
    Stack {
        name: "nemo",
        description: "NeMo and Megatron Bridge: Megatron Core with gradients in the precision of the weights, BF16",
        gradient_bytes: 2.0,
        ..MEGATRON_CORE
    },
    Stack {
        name: "megatron-2022",
        description: "Megatron-LM of arXiv 2205.05198: sequence parallel, selective recomputation, scores stored",
        sequence_parallel: true,
        ..MEGATRON
    },
    MEGATRON,
    Stack {
        name: "megatron-deepspeed",
        description: "Megatron-DeepSpeed of 2022 (vTrain's measurements, arXiv 2312.12391): eager, scores stored",
        gradient_bytes: 2.0,
        ..MEGATRON
    },
    Stack {
        name: "deepspeed-2021",
        description: "DeepSpeed ZeRO-3 as SC21 compares with: parameters gathered one by one, overlapped",
        one_link: true,
        data_overlap: true,
        gradient_bytes: 2.0,
        ..MEGATRON
    },
    Stack {
        name: "fsdp-2023",
        description: "PyTorch FSDP with FlashAttention (llm-foundry): every layer gathered and reduced each microbatch",
        flash: true,
        fused: false,
        gathers_again: false,
        data_overlap: true,
        gradient_bytes: 4.0,
        weight_bytes: 4.0,
        optimizer_bytes: 8.0,
        // Its fused cross-entropy keeps logits and their gradient in BF16 (`loss_fn: fused_crossentropy`).
        logit_bytes: 4.0,
        dropout: false,
        ..MEGATRON
    },
    Stack {
        name: "torchtitan",
        description: "torchtitan of 2024, eager: FSDP2, tensor, pipeline and context parallel",
        flash: true,
        attention_speed: 2.0,
        fused: false,
        gathers_again: false,
        data_overlap: true,
        sequence_parallel: true,
        weight_bytes: 4.0,
        optimizer_bytes: 8.0,
        logit_bytes: 16.0,
        dropout: false,
        ..MEGATRON
    },
    Stack {
        name: "torchtitan-compile",
        description: "torchtitan of 2024 with torch.compile",
        flash: true,
        attention_speed: 2.0,
        slow_host: false,
        gathers_again: false,
        data_overlap: true,
        sequence_parallel: true,
        weight_bytes: 4.0,
        optimizer_bytes: 8.0,
        logit_bytes: 14.0,
        dropout: false,
        ..MEGATRON
    },
];

impl Stack {
    /// The framework that a plan is made for where none is named.
    pub const DEFAULT: &'static str = "megatron-core";

    /// The framework of a name.
    ///
    /// # Errors
    /// When there is none; the error names the nearest.
    pub fn find(name: &str) -> Result<&'static Stack, PlanError> {
        STACKS.iter().find(|stack| stack.name == name).ok_or_else(|| PlanError::Unknown {
            what: "stack",
            name: name.to_owned(),
            nearest: nearest(name, STACKS.iter().map(|stack| stack.name)),
            known: STACKS.map(|stack| stack.name).join(" "),
        })
    }
}
