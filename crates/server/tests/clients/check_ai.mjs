// npm's `ai` package with its OpenAI-compatible provider against a server: `node check_ai.mjs BASE_URL MODEL`, BASE_URL
// with `/v1`.
import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateObject, generateText, jsonSchema, streamText, tool } from "ai";

const [baseURL, name] = process.argv.slice(2);
const provider = createOpenAICompatible({ name: "altiplano", baseURL, apiKey: "none", supportsStructuredOutputs: true });
const model = provider.chatModel(name);
const settings = { model, maxRetries: 0, temperature: 0 };

const { text, usage } = await generateText({ ...settings, prompt: "Say hello.", maxOutputTokens: 12 });
assert(text.length > 0 && usage.outputTokens > 0);

let streamed = "";
for await (const part of streamText({ ...settings, prompt: "Say hello.", maxOutputTokens: 12 }).textStream) streamed += part;
assert.equal(streamed, text);

const schema = jsonSchema({
  type: "object",
  properties: { colour: { type: "string", enum: ["red", "blue"] } },
  required: ["colour"],
  additionalProperties: false,
});
const { object } = await generateObject({ ...settings, schema, prompt: "Red or blue?", maxOutputTokens: 60 });
assert(["red", "blue"].includes(object.colour));

const inputSchema = jsonSchema({
  type: "object",
  properties: { state: { type: "string", enum: ["on", "off"] } },
  required: ["state"],
  additionalProperties: false,
});
const { toolCalls } = await generateText({
  ...settings,
  prompt: "Light on.",
  maxOutputTokens: 200,
  toolChoice: "required",
  tools: { set_light: tool({ description: "Switches the light.", inputSchema }) },
});
assert.equal(toolCalls[0].toolName, "set_light");
assert(["on", "off"].includes(toolCalls[0].input.state));

const { embeddings } = await embedMany({ model: provider.textEmbeddingModel(name), values: ["one", "two"], maxRetries: 0 });
assert.equal(embeddings.length, 2);
console.log("ok");
