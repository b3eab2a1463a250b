"""/v1/responses with the official client."""

import openai
from common import MODEL, check, client, until

short = {"model": MODEL, "max_output_tokens": 24, "temperature": 0}

first = client.responses.create(input="Name a river of Peru.", instructions="Be brief.", **short)
check("a response is made", first.status in ("completed", "incomplete") and first.output_text, first)
check("its tokens are counted", first.usage.total_tokens == first.usage.input_tokens + first.usage.output_tokens)

again = client.responses.retrieve(first.id)
check("it is found again", again.output_text == first.output_text, again)

items = client.responses.input_items.list(first.id)
check("its input is listed", items.data[0].content[0].text == "Name a river of Peru.", items)

second = client.responses.create(input="And another one.", previous_response_id=first.id, **short)
check("it is continued", second.previous_response_id == first.id)
check("what was said is read again", second.usage.input_tokens > first.usage.output_tokens)

kinds, text, numbers, final = [], "", [], None
for event in client.responses.create(input="Name a river of Peru.", instructions="Be brief.", stream=True, **short):
    kinds.append(event.type)
    numbers.append(event.sequence_number)
    if event.type == "response.output_text.delta":
        text += event.delta
    if event.type in ("response.completed", "response.incomplete"):
        final = event.response
check("events are numbered from 0", numbers == list(range(len(numbers))), numbers)
check("the stream begins as it must", kinds[:4] == ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"], kinds[:4])
check("the stream ends as it must", kinds[-4:-1] == ["response.output_text.done", "response.content_part.done", "response.output_item.done"], kinds[-4:])
check("the deltas are the text", text == final.output_text, (text, final.output_text))
check("streamed is the same as not streamed", text == first.output_text, (text, first.output_text))

replayed = list(client.responses.retrieve(final.id, stream=True, starting_after=3))
check("events are replayed from a number on", [event.sequence_number for event in replayed] == numbers[4:])

with client.responses.stream(input="Say hello.", **short) as stream:
    helped = stream.get_final_response() if any(True for _ in stream) else None
check("the client's own helper reads the stream", helped is not None and helped.output_text, helped)

background = client.responses.create(input="Tell a long story.", model=MODEL, max_output_tokens=400, background=True)
check("one goes to the background", background.status in ("queued", "in_progress"), background.status)
until("it is in progress", lambda: client.responses.retrieve(background.id), lambda it: it.status != "queued")
cancelled = client.responses.cancel(background.id)
check("it is cancelled", cancelled.status in ("cancelled", "completed", "incomplete"), cancelled.status)

done = client.responses.create(input="Say hello.", background=True, **short)
until("one in the background ends", lambda: client.responses.retrieve(done.id), lambda it: it.status in ("completed", "incomplete"))

schema = {
    "type": "object",
    "properties": {"river": {"type": "string", "enum": ["Amazon", "Ucayali"]}},
    "required": ["river"],
    "additionalProperties": False,
}
formatted = client.responses.create(
    input="Name a river of Peru in JSON.",
    text={"format": {"type": "json_schema", "name": "river", "schema": schema, "strict": True}},
    model=MODEL,
    max_output_tokens=60,
)
if formatted.status == "completed":
    import json

    check("it obeys a schema", json.loads(formatted.output_text)["river"] in ("Amazon", "Ucayali"), formatted.output_text)

weather = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Lima", "Cusco"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
calling = {"input": "What is the weather in Lima?", "tools": [weather], "tool_choice": "required", "parallel_tool_calls": False}
called = client.responses.create(**calling, model=MODEL, max_output_tokens=80, temperature=0)
check("a function is called, and nothing is said", [item.type for item in called.output] == ["function_call"], called.output)
with client.responses.stream(**calling, model=MODEL, max_output_tokens=80, temperature=0) as stream:
    pieces = "".join(event.delta for event in stream if event.type == "response.function_call_arguments.delta")
    streamed = stream.get_final_response()
check("the deltas are the arguments", pieces == streamed.output[0].arguments, (pieces, streamed.output))
check("streamed is the same call", pieces == called.output[0].arguments, (pieces, called.output))
results = [{"role": "user", "content": calling["input"]}, {"type": "item_reference", "id": called.output[0].id}]
results.append({"type": "function_call_output", "call_id": called.output[0].call_id, "output": "fog"})
answered = client.responses.create(input=results, **short)
check("a call is referred to, and its output read", answered.output_text != "", answered)

count = client.responses.input_tokens.count(model=MODEL, input="Name a river of Peru.")
check("tokens are counted without an answer", count.input_tokens > 4, count)

compacted = client.responses.compact(model=MODEL, previous_response_id=first.id)
kinds = [item.type for item in compacted.output]
check("a conversation is made short", kinds[-1] == "compaction" and set(kinds[:-1]) == {"message"}, compacted)
check("what that took is told", compacted.usage.output_tokens > 0, compacted.usage)
going_on = [item.model_dump() for item in compacted.output] + [{"role": "user", "content": "And another one?"}]
check("it goes on from there", client.responses.create(input=going_on, **short).output_text != "")

client.responses.delete(first.id)
try:
    client.responses.retrieve(first.id)
    check("it is deleted", False)
except openai.NotFoundError:
    check("it is deleted", True)
try:
    client.responses.create(input="x", model="no-such-model")
    check("a model that is not there is told", False)
except openai.NotFoundError as error:
    check("a model that is not there is told", error.code == "model_not_found", error)
