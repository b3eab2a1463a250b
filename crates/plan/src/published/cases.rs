//! Reading the published rows: which model, which framework, which layout a row means.

use super::Row;
use crate::error::plain;
use crate::layout::{Layout, Recompute, Sharding};
use crate::model::{ModelCatalogue, ModelShape};
use crate::stack::Stack;

/// Who publishes, by a part of the source's text, and the framework they ran.
const FRAMEWORKS: [(&str, &str); 9] = [
    ("vTrain", "megatron-deepspeed"),
    ("SC21", "megatron-2021"),
    ("sc21", "megatron-2021"),
    ("2205.05198", "megatron-2022"),
    ("llm-foundry", "fsdp-2023"),
    ("model_table", "megatron-core"),
    ("torchtitan", "torchtitan"),
    ("Llama 3 Herd", "meta-2024"),
    ("NeMo", "nemo"),
];

/// The framework that a row was measured with, if the source says.
pub fn framework(row: &Row) -> Option<&'static Stack> {
    let source = row.text("source");
    let (_, name) = FRAMEWORKS.iter().find(|(part, _)| source.contains(part))?;
    let note = row.text("note");
    let name = match *name {
        "megatron-2021" if note.contains("ZeRO-3") => "deepspeed-2021",
        // Full recomputation is that paper's base line, without sequence parallelism.
        "megatron-2022" if row.text("model").contains("full recompute") => "megatron-2021",
        "torchtitan" if note.contains("compile") || note.contains("Float8") || note.contains("4D") => {
            "torchtitan-compile"
        }
        name => name,
    };
    Stack::find(name).ok()
}

/// The model that a row means: by its printed shape, by its name, or by its number of parameters.
pub fn model(catalogue: &ModelCatalogue, row: &Row) -> Option<ModelShape> {
    if let (Some(heads), Some(hidden), Some(layers)) =
        (row.noted("heads"), row.noted("hidden"), row.noted("layers"))
    {
        let h100_table = row.text("source").contains("model_table");
        // The H100 scaling table says: a vocabulary of 131,072; the older one's is 51,200, tied.
        let vocabulary = if h100_table { 131_072 } else { 51_200 };
        return Some(gpt(row.text("model"), layers, hidden, heads, vocabulary, !h100_table));
    }
    let name = plain(row.text("model"));
    let known = |it: &&ModelShape| {
        let names = std::iter::once(&it.name).chain(&it.aliases);
        names.map(|known| plain(known)).any(|known| known.len() > 1 && name.starts_with(&known))
    };
    // The longest name that fits, so that Llama-3.1-8B is not taken for a Llama-3.
    let best = catalogue.models.iter().filter(known).max_by_key(|it| {
        let names = std::iter::once(&it.name).chain(&it.aliases);
        names
            .map(|known| plain(known))
            .filter(|known| name.starts_with(known.as_str()))
            .map(|it| it.len())
            .max()
    });
    let mut found = match best {
        Some(found) => found.clone(),
        None => {
            let short = name.strip_prefix("llama3").map(|rest| format!("llama31{rest}"));
            let found = short.and_then(|short| catalogue.models.iter().find(|it| plain(&it.name) == short));
            match found {
                Some(found) => found.clone(),
                None => ModelShape::of_parameters(row.number("params_total")?).ok()?,
            }
        }
    };
    if found.learned_positions > 0
        && let Some(sequence) = row.number("seq_len")
    {
        found.learned_positions = sequence as u64;
    }
    Some(found)
}

/// A GPT of a printed shape.
pub fn gpt(name: &str, layers: f64, hidden: f64, heads: f64, vocabulary: u64, tied: bool) -> ModelShape {
    ModelShape {
        name: name.to_owned(),
        aliases: Vec::new(),
        layers: layers as u32,
        hidden: hidden as u64,
        heads: heads as u64,
        kv_heads: heads as u64,
        head_size: (hidden / heads) as u64,
        feed_forward: 4 * hidden as u64,
        gated: false,
        vocabulary,
        tied_embeddings: tied,
        learned_positions: 0,
        context: 2048,
        experts: None,
        attention_parameters: None,
        cached_values_per_layer: None,
        attention_layers: None,
        attention_chunk: None,
        chunked_layers: 0,
        source: String::new(),
    }
}

/// What a row says about recomputation.
pub fn recompute(row: &Row) -> Recompute {
    let (source, note) = (row.text("source"), row.text("note"));
    let text = format!("{} {} {note}", row.text("model"), row.text("recompute"));
    if text.contains("full recompute") || text.contains("full AC") || text.contains("4D") {
        return Recompute::Full;
    }
    if text.contains("act_ckpt=True") || source.contains("vTrain") || source.contains("SC21") {
        return Recompute::Full;
    }
    if text.contains("act_ckpt=False") {
        return Recompute::None;
    }
    if text.contains("selective") && !source.contains("torchtitan") {
        return Recompute::Selective;
    }
    if source.contains("torchtitan") {
        return Recompute::EveryOther;
    }
    match source.contains("sc2") {
        true => Recompute::Full,
        false => Recompute::None,
    }
}

/// What a row says about sharding.
pub fn sharding(row: &Row) -> Sharding {
    let (source, note) = (row.text("source"), row.text("note"));
    if note.contains("ZeRO-3") || note.contains("FULL_SHARD") || source.contains("torchtitan") {
        Sharding::Weights
    } else if note.contains("SHARD_GRAD_OP") || source.contains("Llama 3 Herd") {
        // "FSDP shards optimizer states and gradients; for model shards we do not reshard after forward computation"
        // (arXiv 2407.21783, section 3.3.2).
        Sharding::Gradients
    } else if source.contains("NeMo") || source.contains("model_table") {
        Sharding::Optimizer
    } else {
        Sharding::None
    }
}

/// Sequences of a microbatch where a row says so.
fn microbatch(row: &Row) -> Option<u32> {
    if let Some(local) = row.noted("local batch") {
        // torchtitan of 2024 cuts a rank's batch into as many microbatches as there are pipeline stages
        // (`pipeline_parallel_microbatches`, its default).
        return Some((local / row.number_or("pp", 1.0)).max(1.0) as u32);
    }
    if let Some(batch) =
        row.noted("batch").filter(|_| row.number_or("dp", 0.0) == 1.0 && row.number_or("pp", 0.0) == 1.0)
    {
        return Some(batch as u32);
    }
    row.noted("microbatch").or_else(|| row.number("microbatch")).map(|it| it as u32)
}

/// The layout that a row was measured in: what it prints, and what its source prints elsewhere. Where no microbatch is
/// printed, all that are usual.
pub fn layouts(row: &Row, gpus: f64, sequences: f64) -> Vec<Layout> {
    let count = |column: &str| row.number_or(column, 1.0).max(1.0) as u32;
    let (tensor, context, pipeline) = (count("tp"), count("cp"), count("pp"));
    let rest = gpus / f64::from(tensor * context * pipeline);
    let data = row.number("dp").unwrap_or(rest).max(1.0) as u32;
    // Interleaving of the 175B and 530B models: arXiv 2205.05198, Table 3.
    let paper =
        row.text("source").contains("2205.05198") && pipeline > 1 && !row.text("model").starts_with("1T");
    let interleave = row.noted("VP").map_or(if paper { 3 } else { 1 }, |it| it as u32).max(1);
    // Those runs interleaved and do not print how far: any that divides a stage's layers may have been.
    let free =
        ["model_table", "Llama 3 Herd"].iter().any(|it| row.text("source").contains(it)) && pipeline > 1;
    let chunks: &[u32] = if free { &[1, 2, 3, 4, 6, 8] } else { &[interleave] };
    let base = Layout {
        tensor,
        context,
        pipeline,
        data,
        expert: count("ep"),
        microbatch: 1,
        interleave,
        recompute: recompute(row),
        sharding: sharding(row),
    };
    let microbatches = match microbatch(row) {
        Some(microbatch) => vec![microbatch.max(1)],
        None => {
            let whole = |it: &u32| (sequences / f64::from(data) / f64::from(*it)).fract() == 0.0;
            [1, 2, 4].into_iter().filter(whole).collect()
        }
    };
    // NVIDIA's tables do not print what is computed again: as little as lets the run fit.
    let unsaid = row.text("source").contains("NeMo");
    let usual = [Recompute::None, Recompute::Activation, Recompute::EveryOther, Recompute::Full];
    let again: &[Recompute] = if unsaid { &usual } else { &[base.recompute] };
    let mut found = Vec::new();
    for &recompute in again {
        for &interleave in chunks {
            found.extend(microbatches.iter().map(|&microbatch| Layout {
                microbatch,
                interleave,
                recompute,
                ..base
            }));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::published::built_in;

    #[test]
    fn rows_are_read_as_they_were_run() {
        let rows = built_in("planner_truth.csv");
        let find = |source: &str, model: &str, note: &str| {
            let found = rows.iter().find(|row| {
                let of = |column: &str, part: &str| row.text(column).contains(part);
                of("source", source) && of("model", model) && of("note", note)
            });
            found.unwrap_or_else(|| panic!("{source} {model} {note}"))
        };
        // 32 sequences of a rank over 8 stages are 8 microbatches of 4.
        let row = find("torchtitan", "405B", "1F1B");
        assert_eq!(layouts(row, 512.0, 256.0)[0].microbatch, 4);
        let herd = find("Llama 3 Herd", "8K", "");
        assert!(layouts(herd, 16_384.0, 2048.0).iter().all(|it| it.sharding == Sharding::Gradients));
        assert_eq!(framework(find("NeMo", "GPT3", "")).unwrap().gradient_bytes, 2.0);
        assert_eq!(framework(find("llm-foundry", "MPT", "")).unwrap().logit_bytes, 4.0);
    }
}
