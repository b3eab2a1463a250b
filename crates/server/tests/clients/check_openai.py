"""The official `openai` package against a server: `check_openai.py BASE_URL [MODEL]`, with BASE_URL as apps have it
(`http://127.0.0.1:8080/v1`). Prints what was checked; an assertion that fails ends it."""

import json
import sys

import openai
from openai import OpenAI

base_url = sys.argv[1]
client = OpenAI(base_url=base_url, api_key="none", max_retries=0)
model = sys.argv[2] if len(sys.argv) > 2 else client.models.list().data[0].id
messages = [{"role": "user", "content": "Say hello."}]
TOOL = {
    "type": "function",
    "function": {
        "name": "set_light",
        "description": "Switches the light.",
        "parameters": {
            "type": "object",
            "properties": {"state": {"type": "string", "enum": ["on", "off"]}},
            "required": ["state"],
            "additionalProperties": False,
        },
    },
}


def check_models():
    assert model in [entry.id for entry in client.models.list()]
    assert client.models.retrieve(model).object == "model"
    # A second name, made by another API, can be taken away.
    copy = {"source": model, "destination": "a-second-name"}
    client.with_options(base_url=base_url.removesuffix("/v1")).post("/api/copy", cast_to=object, body=copy)
    assert client.models.delete("a-second-name").deleted
    assert "a-second-name" not in [entry.id for entry in client.models.list()]


def check_chat():
    answer = client.chat.completions.create(model=model, messages=messages, max_completion_tokens=12, temperature=0)
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and isinstance(choice.message.content, str)
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    stream = client.chat.completions.create(
        model=model, messages=messages, max_tokens=12, temperature=0, stream=True,
        stream_options={"include_usage": True},
    )
    text, usage, finish = "", None, None
    for chunk in stream:
        if chunk.usage:
            usage = chunk.usage
        for part in chunk.choices:
            text += part.delta.content or ""
            finish = part.finish_reason or finish
    assert text == choice.message.content and finish == choice.finish_reason
    assert usage.completion_tokens == answer.usage.completion_tokens


def check_parameters():
    answer = client.chat.completions.create(
        model=model, messages=messages, n=2, seed=7, temperature=1.0, top_p=0.9, max_tokens=8, logprobs=True,
        top_logprobs=3, presence_penalty=0.1, frequency_penalty=0.1, logit_bias={"5": -100}, stop=["\n\n\n"],
        user="somebody", metadata={"a": "b"}, store=False, extra_body={"top_k": 20, "min_p": 0.01},
    )
    assert len(answer.choices) == 2
    for token in answer.choices[0].logprobs.content:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
    again = client.chat.completions.create(model=model, messages=messages, seed=7, temperature=1.0, max_tokens=8)
    same = client.chat.completions.create(model=model, messages=messages, seed=7, temperature=1.0, max_tokens=8)
    assert again.choices[0].message.content == same.choices[0].message.content


def check_schema():
    schema = {
        "type": "object",
        "properties": {"colour": {"type": "string", "enum": ["red", "blue"]}, "count": {"type": "integer", "maximum": 9, "minimum": 0}},
        "required": ["colour", "count"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=model, messages=messages, max_tokens=100, temperature=1.0,
        response_format={"type": "json_schema", "json_schema": {"name": "thing", "schema": schema, "strict": True}},
    )
    value = json.loads(answer.choices[0].message.content)
    assert value["colour"] in ("red", "blue") and 0 <= value["count"] <= 9


def check_tools():
    answer = client.chat.completions.create(
        model=model, messages=messages, tools=[TOOL], tool_choice="required", max_tokens=200, parallel_tool_calls=False,
    )
    call = answer.choices[0].message.tool_calls[0]
    assert call.function.name == "set_light" and json.loads(call.function.arguments)["state"] in ("on", "off")
    assert answer.choices[0].finish_reason == "tool_calls"
    stream = client.chat.completions.create(
        model=model, messages=messages, tools=[TOOL], max_tokens=200, stream=True, parallel_tool_calls=False,
        tool_choice={"type": "function", "function": {"name": "set_light"}},
    )
    name, arguments = "", ""
    for chunk in stream:
        for delta in chunk.choices[0].delta.tool_calls or []:
            name += delta.function.name or ""
            arguments += delta.function.arguments or ""
    assert name == "set_light" and json.loads(arguments)["state"] in ("on", "off")
    history = messages + [
        answer.choices[0].message,
        {"role": "tool", "tool_call_id": call.id, "content": "done"},
    ]
    final = client.chat.completions.create(model=model, messages=history, tools=[TOOL], tool_choice="none", max_tokens=8)
    assert final.choices[0].message.tool_calls is None


def check_completions():
    answer = client.completions.create(model=model, prompt="Once upon a time", max_tokens=6, echo=True, logprobs=2)
    assert answer.choices[0].text.startswith("Once upon a time")
    assert len(answer.choices[0].logprobs.tokens) == len(answer.choices[0].logprobs.token_logprobs)
    stream = client.completions.create(model=model, prompt=["Once", "Twice"], max_tokens=4, stream=True)
    assert {choice.index for chunk in stream for choice in chunk.choices} == {0, 1}


def check_embeddings():
    # The client asks for base64 by itself and decodes it.
    answer = client.embeddings.create(model=model, input=["hello", "world"])
    assert len(answer.data) == 2 and abs(sum(value * value for value in answer.data[0].embedding) - 1) < 1e-3
    floats = client.embeddings.create(model=model, input="hello", encoding_format="float", dimensions=8)
    assert len(floats.data[0].embedding) == 8


def check_errors():
    for expected, request in [
        (openai.NotFoundError, {"model": "no-such-model", "messages": messages}),
        (openai.BadRequestError, {"model": model, "messages": []}),
        (openai.BadRequestError, {"model": model, "messages": messages, "temperature": 9}),
        (openai.BadRequestError, {"model": model, "messages": messages, "max_tokens": -3}),
    ]:
        try:
            client.chat.completions.create(**request)
        except expected as error:
            assert error.body["message"] and error.body["type"] == "invalid_request_error"
        else:
            raise AssertionError(f"{request} was not refused")
    with client.chat.completions.create(model=model, messages=messages, max_tokens=100, stream=True) as stream:
        next(iter(stream))  # and hang up


for check in [check_models, check_chat, check_parameters, check_schema, check_tools, check_completions, check_embeddings, check_errors]:
    check()
    print("ok", check.__name__)
