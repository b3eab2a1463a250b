//! `POST /v1/embeddings`.

use crate::error::{ApiError, ApiResult};
use crate::generate::{embed, normalized, with_text};
use crate::llama_cpp::prompts::{Prompt, Prompts};
use crate::models::Lease;
use crate::respond;
use crate::route::Call;
use crate::wire::Described;
use alti_engine::serving::Pooling;
use alti_text::Specials;
use axum::body::Body;
use axum::http::Response;
use base64::Engine;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

crate::wire! {
    /// A request for texts' vectors.
    pub struct EmbeddingRequest {
        required {
            /// One or several texts, or their tokens.
            input: Prompts,
        }
        optional {
            /// The model's name; the server's default model where none is given.
            model: String,
            /// `float` (a list of numbers) or `base64` (little-endian 32-bit floats).
            encoding_format: String,
            /// The first so many values only, of length 1 again.
            dimensions: u32,
            /// How states become one vector: `mean` (as always, if none is given), `last` or `cls`.
            pooling: String,
        }
        ignored {
            /// Who asks.
            user: String,
        }
    }
    /// Vectors.
    pub struct EmbeddingList {
        required {
            /// Always `list`.
            object: String,
            /// The vectors.
            data: Vec<Embedding>,
            /// The model, as it was asked for.
            model: String,
            /// What they took.
            usage: EmbeddingUsage,
        }
    }
    /// One vector, of length 1.
    pub struct Embedding {
        required {
            /// Always `embedding`.
            object: String,
            /// Which input's, from 0.
            index: usize,
            /// The values: a list of numbers, or base64.
            embedding: Vector,
        }
    }
    /// What vectors took.
    pub struct EmbeddingUsage {
        required {
            /// Tokens of the texts.
            prompt_tokens: usize,
            /// The same.
            total_tokens: usize,
        }
    }
}

/// A vector in one of its forms. Numbers stay in single precision: wider, each would be told with digits that mean nothing.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Vector {
    /// A list of numbers.
    Floats(Vec<f32>),
    /// Little-endian 32-bit floats, in base64.
    Base64(String),
}

impl Described for Vector {
    fn schema() -> Value {
        json!({ "oneOf": [Vec::<f32>::schema(), String::schema()] })
    }
}

/// The most texts of a request that OpenAI's API knows.
const MOST_INPUTS: usize = 2048;

/// Reads a way of pooling.
///
/// # Errors
/// When it is none.
pub(crate) fn pooling(name: Option<&str>) -> ApiResult<Pooling> {
    match name {
        None | Some("mean") => Ok(Pooling::Mean),
        Some("last") => Ok(Pooling::Last),
        Some("cls") => Ok(Pooling::Cls),
        Some(_) => Err(ApiError::field("pooling", "`pooling` must be mean, last or cls")),
    }
}

/// The tokens of what is to be embedded.
///
/// # Errors
/// Nothing, too much, or something empty.
pub(crate) fn inputs(call: &Call, model: &Lease, inputs: impl Into<Prompts>) -> ApiResult<Vec<Vec<u32>>> {
    let inputs = inputs.into().into_list();
    let most = call.state.settings().max_inputs;
    if inputs.is_empty() || inputs.len() > most {
        return Err(ApiError::field("input", format!("`input` must have between 1 and {most} texts")));
    }
    let bytes = inputs.iter().map(Prompt::text_bytes).sum();
    let tokens = inputs.iter().enumerate().map(|(index, input)| match input.is_empty() {
        true => Err(ApiError::field(format!("input[{index}]"), format!("input {index} is empty"))),
        false => input.tokens(&model.tokenizer, "input", Specials::AsText),
    });
    with_text(bytes, || tokens.collect())
}

/// Checks how many values of a vector are wanted.
///
/// # Errors
/// None, or more than there are.
pub(crate) fn dimensions(model: &Lease, wanted: Option<u32>) -> ApiResult<Option<usize>> {
    let most = model.inference.embedding_length();
    match wanted {
        Some(wanted) if wanted == 0 || wanted as usize > most => {
            let message = format!("`dimensions` is {wanted}: it must be between 1 and {most} for this model");
            Err(ApiError::field("dimensions", message))
        }
        wanted => Ok(wanted.map(|wanted| wanted as usize)),
    }
}

/// `POST /v1/embeddings`.
pub(super) async fn create(mut call: Call) -> ApiResult<Response<Body>> {
    let (request, _): (EmbeddingRequest, _) = call.json(|_| false).await?;
    let pooling = pooling(request.pooling.as_deref())?;
    let base64 = match request.encoding_format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => {
            return Err(ApiError::field("encoding_format", "`encoding_format` must be float or base64"));
        }
    };
    let count = request.input.count();
    if count > MOST_INPUTS {
        let message = format!("`input` has {count} texts: it may have {MOST_INPUTS} at most");
        return Err(ApiError::field("input", message));
    }
    let model = call.state.models().acquire(request.model.as_deref(), None).await?;
    let dimensions = dimensions(&model, request.dimensions)?;
    let texts = inputs(&call, &model, request.input)?;
    let (vectors, usage) = embed(&call, &model, texts, pooling).await?;
    let data = vectors.into_iter().enumerate().map(|(index, values)| {
        let values = normalized(values, dimensions);
        let embedding = match base64 {
            false => Vector::Floats(values),
            true => {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                Vector::Base64(base64::engine::general_purpose::STANDARD.encode(bytes))
            }
        };
        Embedding { object: "embedding".into(), index, embedding }
    });
    Ok(respond::json(&EmbeddingList {
        object: "list".into(),
        data: data.collect(),
        model: model.requested.clone(),
        usage: EmbeddingUsage { prompt_tokens: usage.prompt_tokens, total_tokens: usage.prompt_tokens },
    }))
}
