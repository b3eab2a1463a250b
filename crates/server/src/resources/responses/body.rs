//! The response object, as clients see it.

use super::plan::Plan;
use super::tools::echoed;
use crate::generate::told;
use alti_engine::serving::Usage;
use serde_json::{Value, json};

/// The object of a response that has not begun.
pub(super) fn body(plan: &Plan) -> Value {
    let request = &plan.request;
    let conversation = plan.conversation.as_ref().map(|id| json!({ "id": id }));
    let mut text = request.text.clone().unwrap_or_default();
    text.entry("format").or_insert_with(|| json!({ "type": "text" }));
    let settings = told(&plan.options.sampling);
    json!({
        "id": plan.id,
        "object": "response",
        "created_at": plan.created_at,
        "completed_at": null,
        "status": if plan.background { "queued" } else { "in_progress" },
        "background": plan.background,
        "error": null,
        "incomplete_details": null,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "model": plan.model,
        "output": [],
        "parallel_tool_calls": request.parallel_tool_calls.unwrap_or(true),
        "previous_response_id": request.previous_response_id,
        "conversation": conversation,
        "reasoning": { "effort": null, "summary": null },
        "service_tier": "default",
        "store": plan.store,
        "temperature": settings["temperature"],
        "top_p": settings["top_p"],
        "presence_penalty": settings["presence_penalty"],
        "frequency_penalty": settings["frequency_penalty"],
        "text": text,
        "tool_choice": request.tool_choice.clone().unwrap_or_else(|| json!("auto")),
        "tools": echoed(request.tools.as_deref().unwrap_or_default()),
        "top_logprobs": request.top_logprobs.unwrap_or(0),
        "truncation": request.truncation.as_deref().unwrap_or("disabled"),
        "usage": null,
        "user": request.user,
        "safety_identifier": request.safety_identifier,
        "prompt_cache_key": request.prompt_cache_key,
        "metadata": request.metadata.clone().unwrap_or_else(|| json!({})),
    })
}

/// What a response took.
pub(super) fn usage(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.prompt_tokens,
        // Nothing is written to a cache for its own sake: there is no price on it.
        "input_tokens_details": { "cached_tokens": usage.cached_tokens, "cache_write_tokens": 0 },
        "output_tokens": usage.generated_tokens,
        "output_tokens_details": { "reasoning_tokens": 0 },
        "total_tokens": usage.prompt_tokens + usage.generated_tokens,
    })
}
