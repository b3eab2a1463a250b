"""The official `anthropic` package against a server: `check_anthropic.py BASE_URL MODEL`, with BASE_URL without `/v1`."""

import sys

import anthropic

client = anthropic.Anthropic(base_url=sys.argv[1], api_key="none", max_retries=0)
model = sys.argv[2]
messages = [{"role": "user", "content": "Say hello."}]
TOOL = {
    "name": "set_light",
    "description": "Switches the light.",
    "input_schema": {
        "type": "object",
        "properties": {"state": {"type": "string", "enum": ["on", "off"]}},
        "required": ["state"],
        "additionalProperties": False,
    },
}


def check_messages():
    answer = client.messages.create(model=model, max_tokens=12, messages=messages, system="Be brief.", extra_body={"temperature": 0})
    assert answer.type == "message" and answer.content[0].type == "text"
    assert answer.stop_reason in ("end_turn", "max_tokens") and answer.usage.output_tokens > 0
    with client.messages.stream(model=model, max_tokens=12, messages=messages, system="Be brief.", extra_body={"temperature": 0}) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == answer.content[0].text and final.stop_reason == answer.stop_reason
    assert final.usage.output_tokens == answer.usage.output_tokens


def check_tools():
    answer = client.messages.create(model=model, max_tokens=200, messages=messages, tools=[TOOL], tool_choice={"type": "any", "disable_parallel_tool_use": True})
    call = next(block for block in answer.content if block.type == "tool_use")
    assert call.name == "set_light" and call.input["state"] in ("on", "off") and answer.stop_reason == "tool_use"
    with client.messages.stream(
        model=model, max_tokens=200, messages=messages, tools=[TOOL], tool_choice={"type": "tool", "name": "set_light"},
    ) as stream:
        final = stream.get_final_message()
    assert final.content[0].type == "tool_use" and final.content[0].input["state"] in ("on", "off")
    history = messages + [
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "done"}]},
    ]
    assert client.messages.create(model=model, max_tokens=8, messages=history, tools=[TOOL]).usage.input_tokens >= 0


def check_counting():
    counted = client.messages.count_tokens(model=model, messages=messages).input_tokens
    for _ in range(2):
        usage = client.messages.create(model=model, max_tokens=2, messages=messages).usage
        assert usage.input_tokens == counted and usage.cache_read_input_tokens == 0
    with client.messages.stream(model=model, max_tokens=2, messages=messages) as stream:
        assert stream.get_final_message().usage.input_tokens == counted


def check_documents():
    source = {"type": "text", "media_type": "text/plain", "data": "The moon is round."}
    found = {
        "type": "search_result",
        "source": "https://a.example",
        "title": "Sun",
        "content": [{"type": "text", "text": "The sun shines."}],
    }
    content = [{"type": "document", "title": "Moon", "source": source}, found, {"type": "text", "text": "Why?"}]
    turns = [*messages, {"role": "user", "content": content}]
    assert client.messages.create(model=model, max_tokens=4, messages=turns).content


def check_models():
    names = [entry.id for entry in client.models.list(limit=1)]
    assert model in names and len(names) == len(set(names))


def check_errors():
    for expected, request in [
        (anthropic.NotFoundError, {"model": "no-such-model", "max_tokens": 5, "messages": messages}),
        (anthropic.BadRequestError, {"model": "", "max_tokens": 5, "messages": messages}),
        (anthropic.BadRequestError, {"model": model, "max_tokens": 5, "messages": []}),
        (anthropic.BadRequestError, {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": ""}]}),
        (anthropic.BadRequestError, {"model": model, "max_tokens": -5, "messages": messages}),
    ]:
        try:
            client.messages.create(**request)
        except expected as error:
            assert error.body["type"] == "error" and error.body["error"]["message"]
        else:
            raise AssertionError(f"{request} was not refused")


for check in [check_messages, check_tools, check_counting, check_documents, check_models, check_errors]:
    check()
    print("ok", check.__name__)
