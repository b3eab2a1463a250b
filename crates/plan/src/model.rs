//! The shape of a model, from which its parameters, FLOPs, memory and traffic follow.

use crate::error::{PlanError, nearest, plain, positive};
use serde::{Deserialize, Serialize};

/// The table that comes with the planner.
const BUILT_IN: &str = include_str!("../data/models.toml");

/// A mixture of experts in the feed-forward part.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Experts {
    /// Experts of a layer.
    pub count: u32,
    /// Experts that a token goes through (top-k).
    pub active: u32,
    /// Inner width of one.
    pub feed_forward: u64,
    /// Inner width of the expert that all tokens go through, 0 where there is none.
    #[serde(default)]
    pub shared_feed_forward: u64,
    /// Every how many layers there are experts.
    #[serde(default = "one")]
    pub every: u32,
    /// Layers at the beginning that have none.
    #[serde(default)]
    pub first_dense: u32,
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

/// The shape of a decoder-only transformer.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ModelShape {
    /// Its name.
    pub name: String,
    /// Other names.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Transformer layers (blocks).
    pub layers: u32,
    /// Width of the residual stream.
    pub hidden: u64,
    /// Query heads.
    pub heads: u64,
    /// Key and value heads.
    pub kv_heads: u64,
    /// Width of a head.
    pub head_size: u64,
    /// Inner width of the dense feed-forward.
    pub feed_forward: u64,
    /// Whether the feed-forward is gated (SwiGLU: three matrices) or plain (two).
    #[serde(default = "yes")]
    pub gated: bool,
    /// Tokens of the vocabulary.
    pub vocabulary: u64,
    /// Whether the output matrix is the embedding.
    #[serde(default)]
    pub tied_embeddings: bool,
    /// Learned position embeddings, 0 where positions are rotary.
    #[serde(default)]
    pub learned_positions: u64,
    /// The longest context, tokens.
    pub context: u64,
    /// Experts, where there are any.
    #[serde(default)]
    pub experts: Option<Experts>,
    /// Parameters of the attention matrices of a layer, where they do not follow from the heads (latent attention).
    #[serde(default)]
    pub attention_parameters: Option<u64>,
    /// Values that a layer caches for a token, where they do not follow from the heads.
    #[serde(default)]
    pub cached_values_per_layer: Option<u64>,
    /// Layers that attend, where not all do.
    #[serde(default)]
    pub attention_layers: Option<u32>,
    /// Tokens that layers of chunked or windowed attention see.
    #[serde(default)]
    pub attention_chunk: Option<u64>,
    /// How many layers attend within a chunk only.
    #[serde(default)]
    pub chunked_layers: u32,
    /// Where the shape is published.
    #[serde(default)]
    pub source: String,
}

impl ModelShape {
    /// Parameters of the matrices of attention in one layer.
    #[must_use]
    pub fn attention_parameters_of_layer(&self) -> f64 {
        let (h, d) = (self.hidden as f64, self.head_size as f64);
        let own = h * d * (2.0 * self.heads as f64 + 2.0 * self.kv_heads as f64);
        self.attention_parameters.map_or(own, |given| given as f64)
    }

    /// Matrices in a feed-forward: three where it is gated.
    #[must_use]
    pub fn feed_forward_matrices(&self) -> f64 {
        if self.gated { 3.0 } else { 2.0 }
    }

    /// Layers with experts.
    #[must_use]
    pub fn expert_layers(&self) -> u32 {
        self.experts.as_ref().map_or(0, |it| self.layers.saturating_sub(it.first_dense) / it.every.max(1))
    }

    /// Layers with a dense feed-forward.
    #[must_use]
    pub fn dense_layers(&self) -> u32 {
        self.layers - self.expert_layers().min(self.layers)
    }

    /// Parameters of the dense feed-forward of a layer.
    #[must_use]
    pub fn dense_feed_forward_parameters(&self) -> f64 {
        // A hybrid's layers between those with experts have a mixer only, counted with the attention.
        let hybrid = self.attention_layers.is_some() && self.experts.is_some();
        let width = if hybrid { 0.0 } else { self.feed_forward as f64 };
        self.feed_forward_matrices() * self.hidden as f64 * width
    }

    /// Parameters of one routed expert.
    #[must_use]
    pub fn expert_parameters(&self) -> f64 {
        let width = self.experts.as_ref().map_or(0, |it| it.feed_forward);
        self.feed_forward_matrices() * self.hidden as f64 * width as f64
    }

    fn shared_expert_parameters(&self) -> f64 {
        let Some(experts) = &self.experts else { return 0.0 };
        let h = self.hidden as f64;
        self.feed_forward_matrices() * h * experts.shared_feed_forward as f64 + h * f64::from(experts.count)
    }

    /// Parameters of the layers that every token goes through: attention, dense feed-forward, shared expert, router,
    /// norms and (where positions are learned, as in GPT) biases.
    #[must_use]
    pub fn dense_parameters_of_layers(&self) -> f64 {
        let norms = 2.0 * self.hidden as f64 + if self.gated { 0.0 } else { 11.0 * self.hidden as f64 };
        f64::from(self.layers) * (self.attention_parameters_of_layer() + norms)
            + f64::from(self.dense_layers()) * self.dense_feed_forward_parameters()
            + f64::from(self.expert_layers()) * self.shared_expert_parameters()
    }

    /// Parameters of all routed experts.
    #[must_use]
    pub fn routed_parameters(&self) -> f64 {
        let count = self.experts.as_ref().map_or(0.0, |it| f64::from(it.count));
        f64::from(self.expert_layers()) * count * self.expert_parameters()
    }

    /// Parameters of embedding, output matrix and positions.
    #[must_use]
    pub fn embedding_parameters(&self) -> f64 {
        let matrices = if self.tied_embeddings { 1.0 } else { 2.0 };
        self.hidden as f64 * (matrices * self.vocabulary as f64 + self.learned_positions as f64)
    }

    /// All parameters.
    #[must_use]
    pub fn parameters(&self) -> f64 {
        self.dense_parameters_of_layers()
            + self.routed_parameters()
            + self.embedding_parameters()
            + self.hidden as f64
    }

    /// Parameters that a token goes through, the embedding lookup not counted twice.
    #[must_use]
    pub fn active_parameters(&self) -> f64 {
        let active = self.experts.as_ref().map_or(0.0, |it| f64::from(it.active));
        self.dense_parameters_of_layers()
            + f64::from(self.expert_layers()) * active * self.expert_parameters()
            + self.embedding_parameters()
            + self.hidden as f64
    }

    /// Parameters in matrix products of a token's forward pass: active ones without the lookup of its embedding.
    #[must_use]
    pub fn matrix_parameters(&self) -> f64 {
        let lookup = if self.tied_embeddings { 0.0 } else { (self.hidden * self.vocabulary) as f64 };
        self.active_parameters() - lookup - (self.hidden * self.learned_positions) as f64
    }

    /// Layers that attend to earlier tokens.
    #[must_use]
    pub fn attending_layers(&self) -> f64 {
        f64::from(self.attention_layers.unwrap_or(self.layers))
    }

    /// Mean number of positions that a token of a sequence attends to, summed over layers, without the causal half.
    #[must_use]
    pub fn attended_positions(&self, sequence: f64) -> f64 {
        let chunked = f64::from(self.chunked_layers).min(self.attending_layers());
        let chunk = self.attention_chunk.map_or(sequence, |chunk| (chunk as f64).min(sequence));
        (self.attending_layers() - chunked) * sequence + chunked * chunk
    }

    /// Positions that the tokens of a sequence of `sequence` attend to, earlier ones only, summed over tokens and layers: the
    /// half of a square in layers that see all, a row of triangles of a chunk's side in layers of chunked attention.
    #[must_use]
    pub fn attended_until(&self, sequence: f64) -> f64 {
        let chunked = f64::from(self.chunked_layers).min(self.attending_layers());
        let triangle = |side: f64| side * side / 2.0;
        let chunk = self.attention_chunk.map_or(sequence.max(1.0), |chunk| chunk as f64);
        let chunks = (sequence / chunk).floor();
        (self.attending_layers() - chunked) * triangle(sequence)
            + chunked * (chunks * triangle(chunk) + triangle(sequence - chunks * chunk))
    }

    /// Mean number of earlier positions that a token of a sequence attends to, summed over layers.
    #[must_use]
    pub fn causal_positions(&self, sequence: f64) -> f64 {
        self.attended_until(sequence) / sequence
    }

    /// FLOPs of a token's forward pass, attention over the whole sequence counted without the causal half, as
    /// Megatron-LM counts (arXiv 2104.04473, appendix): `2 P + 4 a d Σ s`.
    #[must_use]
    pub fn forward_flops(&self, sequence: f64) -> f64 {
        let attention = 4.0 * (self.heads * self.head_size) as f64 * self.attended_positions(sequence);
        2.0 * self.matrix_parameters() + attention
    }

    /// FLOPs of a token's forward pass, attention to earlier tokens only: `2 P + 4 a d Σ s/2`.
    #[must_use]
    pub fn causal_forward_flops(&self, sequence: f64) -> f64 {
        let width = (self.heads * self.head_size) as f64;
        2.0 * self.matrix_parameters() + 4.0 * width * self.causal_positions(sequence)
    }

    /// FLOPs of a token in training, attention to earlier tokens only: forward and twice that backward (arXiv 2001.08361,
    /// section 2.1).
    #[must_use]
    pub fn training_flops(&self, sequence: f64) -> f64 {
        3.0 * self.causal_forward_flops(sequence)
    }

    /// Whether attention caches one latent for all heads (multi-head latent attention, arXiv 2405.04434, section 2.1).
    #[must_use]
    pub fn is_latent(&self) -> bool {
        self.cached_values_per_layer.is_some()
    }

    /// Values of keys and values cached for one token, all layers.
    #[must_use]
    pub fn cached_values(&self) -> f64 {
        let own = 2 * self.kv_heads * self.head_size;
        self.attending_layers() * self.cached_values_per_layer.unwrap_or(own) as f64
    }

    /// A Llama-like dense model of about `parameters` parameters: depth and width grow together as those of Llama 3 do
    /// (width about 128 x layers), heads of 128, feed-forward 3.5 x width, vocabulary of 128,256.
    ///
    /// # Errors
    /// When the number is none.
    pub fn of_parameters(parameters: f64) -> Result<ModelShape, PlanError> {
        let parameters = positive("parameters", parameters)?;
        if !(1e6..=1e15).contains(&parameters) {
            let remedy = format!("the nearest is {:.0e}", parameters.clamp(1e6, 1e15));
            return Err(PlanError::value("parameters", parameters, "no transformer has so many", remedy));
        }
        // Wide models take widths and depths that many ranks and stages divide.
        let (step, depth) = if parameters < 30e9 { (128, 1) } else { (1024, 4) };
        let shape = |width: u64, layers: u32| {
            let heads = (width / 128).max(1);
            let kv_heads = (1..=8).rev().find(|kv| heads.is_multiple_of(*kv)).unwrap_or(1);
            ModelShape {
                name: format!("dense-{}", crate::units::short(parameters)),
                aliases: Vec::new(),
                layers,
                hidden: width,
                heads,
                kv_heads,
                head_size: 128,
                feed_forward: width * 7 / 2,
                gated: true,
                vocabulary: 128_256,
                tied_embeddings: width < 4096,
                learned_positions: 0,
                context: 8192,
                experts: None,
                attention_parameters: None,
                cached_values_per_layer: None,
                attention_layers: None,
                attention_chunk: None,
                chunked_layers: 0,
                source: "derived from a number of parameters".to_owned(),
            }
        };
        let fitted = |width: u64| {
            let (one, two) = (shape(width, 1).parameters(), shape(width, 2).parameters());
            let layers = ((parameters - one) / (two - one) + 1.0) / f64::from(depth);
            shape(width, (layers.round().clamp(1.0, 1e5) as u32).max(1) * depth)
        };
        // The width at which the depth that gives the parameters is nearest to the usual one.
        let distance = |model: &ModelShape| {
            let usual = (128.0 * f64::from(model.layers) / model.hidden as f64).ln().abs();
            usual + 10.0 * (model.parameters() / parameters).ln().abs()
        };
        let widths = (1..=1024).map(|count| fitted(count * step));
        Ok(widths.min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or_else(|| fitted(4096)))
    }

    /// Whether the numbers of a shape go together.
    ///
    /// # Errors
    /// When they do not.
    pub fn check(&self) -> Result<(), PlanError> {
        let of = |field: &str| format!("{field} of model `{}`", self.name);
        let counts = [
            ("layers", u64::from(self.layers), 1_000_000),
            ("hidden", self.hidden, 1 << 24),
            ("heads", self.heads, 1 << 20),
            ("kv_heads", self.kv_heads, self.heads),
            ("head_size", self.head_size, 1 << 16),
            ("feed_forward", self.feed_forward, 1 << 26),
            ("experts' feed_forward", self.experts.as_ref().map_or(1, |it| it.feed_forward), 1 << 26),
            ("attention_chunk", self.attention_chunk.unwrap_or(1), 1 << 40),
            ("vocabulary", self.vocabulary, 1 << 30),
            ("context", self.context, 1 << 40),
        ];
        for (field, value, most) in counts {
            if value == 0 || value > most {
                let remedy = format!("write one from 1 to {most}");
                return Err(PlanError::value(of(field), value, "no model has that", remedy));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let nearest = (1..=self.kv_heads).rev().find(|kv| self.heads.is_multiple_of(*kv)).unwrap_or(1);
            let problem = format!("it must divide the {} heads", self.heads);
            return Err(PlanError::value(of("kv_heads"), self.kv_heads, problem, format!("write {nearest}")));
        }
        if let Some(experts) = &self.experts
            && (experts.active == 0 || experts.active > experts.count || experts.every == 0)
        {
            let problem = format!("of {} experts a token takes {}", experts.count, experts.active);
            let remedy = "let it take at least one and at most all, in every layer or every few";
            return Err(PlanError::value(of("experts"), experts.active, problem, remedy));
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    model: Vec<ModelShape>,
}

/// All models that are known by name.
#[derive(Clone, Debug)]
pub struct ModelCatalogue {
    /// The rows, the newest definition of each name.
    pub models: Vec<ModelShape>,
}

impl ModelCatalogue {
    /// The built-in table.
    #[must_use]
    pub fn built_in() -> ModelCatalogue {
        let mut catalogue = ModelCatalogue { models: Vec::new() };
        catalogue.extend("models.toml", BUILT_IN).expect("a test reads the built-in table");
        catalogue
    }

    /// Adds the rows of a TOML text, which replace those of the same name.
    ///
    /// # Errors
    /// When the text is no such table; `file` is named in the error.
    pub fn extend(&mut self, file: &str, text: &str) -> Result<(), PlanError> {
        let rows: File =
            toml::from_str(text).map_err(|error| PlanError::file(file, error.to_string().trim_end()))?;
        for row in rows.model {
            row.check().map_err(|error| PlanError::file(file, error))?;
            self.models.retain(|old| plain(&old.name) != plain(&row.name));
            self.models.push(row);
        }
        Ok(())
    }

    /// The model of a name or alias, or the dense model of a number of parameters such as `13B`.
    ///
    /// # Errors
    /// When there is none; the error names the nearest.
    pub fn find(&self, name: &str) -> Result<ModelShape, PlanError> {
        let wanted = plain(name);
        let named = |row: &&ModelShape| {
            plain(&row.name) == wanted || row.aliases.iter().any(|alias| plain(alias) == wanted)
        };
        if let Some(found) = self.models.iter().find(named) {
            return Ok(found.clone());
        }
        if let Some(parameters) = crate::units::parse_count(name) {
            return ModelShape::of_parameters(parameters);
        }
        Err(PlanError::Unknown {
            what: "model",
            name: name.to_owned(),
            nearest: nearest(name, self.models.iter().map(|row| row.name.as_str())),
            known: self.models.iter().map(|row| row.name.as_str()).collect::<Vec<_>>().join(" "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parameters in billions as published.
    #[track_caller]
    fn check(name: &str, total: f64, active: f64) {
        let model = ModelCatalogue::built_in().find(name).unwrap();
        let found = (model.parameters() / 1e9, model.active_parameters() / 1e9);
        assert!((found.0 / total - 1.0).abs() < 0.02, "{name}: {} of {total}", found.0);
        assert!((found.1 / active - 1.0).abs() < 0.06, "{name}: {} active of {active}", found.1);
    }

    #[test]
    fn every_shape_says_where_it_is_published() {
        for model in ModelCatalogue::built_in().models {
            let known = ["arXiv", "huggingface.co", "llm-foundry"];
            assert!(known.iter().any(|it| model.source.contains(it)), "{}: {}", model.name, model.source);
        }
    }

    #[test]
    fn parameters_are_those_published() {
        check("Llama-2-7B", 6.74, 6.74);
        check("Llama-3.1-8B", 8.03, 8.03);
        check("Llama-3.1-70B", 70.6, 70.6);
        check("llama 3.1 405b", 405.9, 405.9);
        check("Llama-3.2-1B", 1.236, 1.236);
        check("Llama-3.2-3B", 3.21, 3.21);
        check("Llama-4-Scout", 108.0, 17.0);
        check("Llama-4-Maverick", 400.0, 17.0);
        check("Mixtral-8x7B", 46.7, 12.9);
        check("DeepSeek-V3", 671.0, 37.5);
        check("Qwen3-30B-A3B", 30.5, 3.3);
        check("Qwen3-235B-A22B", 235.0, 22.0);
        check("GPT-OSS-120B", 116.8, 5.7);
        check("GPT-3-175B", 174.6, 174.6);
        check("GPT-529.6B", 529.6, 529.6);
        check("MPT-7b", 6.658, 6.658);
        check("Nemotron-4-340B", 341.0, 341.0);
        check("Nemotron-3-Nano", 31.6, 3.5);
        check("SmolLM2-135M", 0.1345, 0.1345);
    }

    #[test]
    fn chunked_attention_is_counted_within_its_chunks() {
        let scout = ModelCatalogue::built_in().find("Llama-4-Scout").unwrap();
        let chunk = scout.attention_chunk.unwrap() as f64;
        let (all, chunked) = (scout.attending_layers(), f64::from(scout.chunked_layers));
        for chunks in [1.0, 4.0] {
            let expected = (all - chunked) * chunks * chunk / 2.0 + chunked * chunk / 2.0;
            assert!((scout.causal_positions(chunks * chunk) / expected - 1.0).abs() < 1e-12);
        }
        let dense = ModelCatalogue::built_in().find("Llama-3.1-8B").unwrap();
        assert_eq!(dense.causal_positions(8192.0), 32.0 * 4096.0);
    }

    #[test]
    fn a_number_of_parameters_is_a_model() {
        for parameters in [1e9, 8e9, 70e9, 389e9, 405e9, 4e12] {
            let model = ModelShape::of_parameters(parameters).unwrap();
            assert!((model.parameters() / parameters - 1.0).abs() < 0.02, "{}", model.parameters());
            assert!(parameters < 30e9 || model.heads.is_multiple_of(8), "{} heads", model.heads);
            let usual = model.hidden as f64 / 128.0 / f64::from(model.layers);
            assert!((0.8..1.25).contains(&usual), "{} wide, {} layers", model.hidden, model.layers);
            model.check().unwrap();
        }
        assert!(ModelShape::of_parameters(f64::NAN).is_err());
        assert!(ModelShape::of_parameters(5.0).is_err());
        let catalogue = ModelCatalogue::built_in();
        assert!(catalogue.find("13B").is_ok());
        let error = catalogue.find("Llama-3.1-9X").unwrap_err().to_string();
        assert!(error.contains("nearest is `Llama-3"), "{error}");
    }
}
