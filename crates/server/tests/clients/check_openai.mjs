// npm's `openai` package against a server: `node check_openai.mjs BASE_URL MODEL`, BASE_URL with `/v1`.
import assert from "node:assert/strict";
import OpenAI from "openai";

const [baseURL, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "Say hello." }];
const tool = {
  type: "function",
  function: {
    name: "set_light",
    parameters: {
      type: "object",
      properties: { state: { type: "string", enum: ["on", "off"] } },
      required: ["state"],
      additionalProperties: false,
    },
  },
};

const list = await client.models.list();
assert(list.data.some((entry) => entry.id === model));

const answer = await client.chat.completions.create({ model, messages, max_tokens: 12, temperature: 0 });
assert.equal(typeof answer.choices[0].message.content, "string");
let text = "";
const stream = await client.chat.completions.create({ model, messages, max_tokens: 12, temperature: 0, stream: true });
for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
assert.equal(text, answer.choices[0].message.content);

const runner = client.chat.completions.stream({
  model, messages, max_tokens: 200, tools: [tool], tool_choice: "required", parallel_tool_calls: false,
});
const final = await runner.finalChatCompletion();
const call = final.choices[0].message.tool_calls[0];
assert.equal(call.function.name, "set_light");
assert(["on", "off"].includes(JSON.parse(call.function.arguments).state));

const completion = await client.completions.create({ model, prompt: "Once", max_tokens: 4 });
assert.equal(typeof completion.choices[0].text, "string");
const vectors = await client.embeddings.create({ model, input: ["one", "two"] });
assert.equal(vectors.data.length, 2);
assert(vectors.data[0].embedding.length > 0);

await assert.rejects(client.chat.completions.create({ model: "no-such-model", messages }), OpenAI.NotFoundError);
await assert.rejects(client.chat.completions.create({ model, messages: [] }), OpenAI.BadRequestError);

const hangUp = await client.chat.completions.create({ model, messages, max_tokens: 200, stream: true });
for await (const _ of hangUp) break;
console.log("ok");
