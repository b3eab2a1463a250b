//! The span of an answer, and those of its phases, in the names of OpenTelemetry's conventions for generative AI
//! (<https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans>). They are made of what the engine tells when an
//! answer is over: it is not asked for anything, and knows nothing of traces.

use super::{Exporting, Telemetry, seconds, time_of_day, under};
use crate::auth::UsageRow;
use alti_engine::serving::Usage;
use opentelemetry::trace::{Span as _, SpanBuilder, SpanContext, SpanKind, Status, Tracer};
use opentelemetry::{Array, KeyValue, StringValue, Value};
use opentelemetry_sdk::trace::Span;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// Spans of phases that one request may have: a request of thousands of texts is told by its sums.
const MOST_PHASES: u32 = 64;

/// What a request has a model do, in the conventions' words where they have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// A conversation is gone on with.
    Chat,
    /// A text is gone on with.
    TextCompletion,
    /// Texts become vectors.
    Embeddings,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Operation::Chat => "chat",
            Operation::TextCompletion => "text_completion",
            Operation::Embeddings => "embeddings",
        }
    }
}

/// The span of what one request has a model do.
pub(crate) struct AnswerSpan {
    exporting: Arc<Exporting>,
    span: Span,
    model: String,
    phases_left: u32,
}

impl Telemetry {
    /// The span of what a request has `model` do, as part of the request's own.
    pub(crate) fn answer(
        &self,
        request: Option<&SpanContext>,
        began: Instant,
        operation: Operation,
        model: &str,
    ) -> Option<AnswerSpan> {
        let exporting = self.exporting.clone()?;
        let attributes = [
            KeyValue::new("gen_ai.operation.name", operation.name()),
            KeyValue::new("gen_ai.provider.name", "altiplano"),
            KeyValue::new("gen_ai.request.model", model.to_owned()),
            KeyValue::new("gen_ai.response.model", model.to_owned()),
        ];
        let builder = SpanBuilder::from_name(format!("{} {model}", operation.name()))
            .with_kind(SpanKind::Internal)
            .with_start_time(time_of_day(began))
            .with_attributes(attributes);
        let span = exporting.tracer.build_with_context(builder, &under(request));
        Some(AnswerSpan { exporting, span, model: model.to_owned(), phases_left: MOST_PHASES })
    }
}

impl AnswerSpan {
    /// The phases of a job's choice, which was submitted at a time and took what it says. Waiting and reading the prompt are
    /// the job's; writing is each choice's.
    pub(crate) fn phases(&mut self, submitted: Instant, choice: u32, usage: &Usage) {
        let began = time_of_day(submitted);
        let prefill = began + seconds(usage.queue_seconds);
        let decode = prefill + seconds(usage.prefill_seconds);
        let count = |name: &'static str, tokens: usize| KeyValue::new(name, tokens as i64);
        if choice == 0 {
            self.phase("queue", began, prefill, Vec::new());
            let tokens = vec![
                count("gen_ai.usage.input_tokens", usage.prompt_tokens),
                count("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens),
            ];
            self.phase("prefill", prefill, decode, tokens);
        }
        if usage.generated_tokens > 0 {
            let tokens = vec![
                count("gen_ai.usage.output_tokens", usage.generated_tokens),
                count("alti.draft.proposed_tokens", usage.drafted_tokens),
                count("alti.draft.accepted_tokens", usage.accepted_tokens),
                KeyValue::new("alti.choice", i64::from(choice)),
            ];
            self.phase("decode", decode, decode + seconds(usage.decode_seconds), tokens);
        }
    }

    fn phase(
        &mut self,
        name: &'static str,
        began: SystemTime,
        ended: SystemTime,
        mut attributes: Vec<KeyValue>,
    ) {
        let Some(left) = self.phases_left.checked_sub(1) else { return };
        self.phases_left = left;
        attributes.push(KeyValue::new("gen_ai.request.model", self.model.clone()));
        let builder = SpanBuilder::from_name(name)
            .with_kind(SpanKind::Internal)
            .with_start_time(began)
            .with_attributes(attributes);
        let mut span =
            self.exporting.tracer.build_with_context(builder, &under(Some(self.span.span_context())));
        span.end_with_timestamp(ended);
    }

    /// Ends it with what all of it took.
    pub(crate) fn end(mut self, row: &UsageRow) {
        let count =
            |name: &'static str, tokens: u64| KeyValue::new(name, i64::try_from(tokens).unwrap_or(i64::MAX));
        self.span.set_attributes([
            count("gen_ai.usage.input_tokens", row.prompt_tokens),
            count("gen_ai.usage.cache_read.input_tokens", row.cached_tokens),
            count("gen_ai.usage.output_tokens", row.generated_tokens),
            KeyValue::new("alti.cpu_seconds", row.cpu_seconds),
        ]);
        match row.outcome {
            "failed" | "refused" => {
                self.span.set_attribute(KeyValue::new("error.type", row.outcome));
                self.span.set_status(Status::error(""));
            }
            outcome => {
                let reasons = Value::Array(Array::String(vec![StringValue::from(outcome)]));
                self.span.set_attribute(KeyValue::new("gen_ai.response.finish_reasons", reasons));
            }
        }
        self.span.end();
    }
}
