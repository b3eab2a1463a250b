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
    assert client.messages.count_tokens(model=model, messages=messages).input_tokens > 0


def check_errors():
    for expected, request in [
        (anthropic.NotFoundError, {"model": "no-such-model", "max_tokens": 5, "messages": messages}),
        (anthropic.BadRequestError, {"model": model, "max_tokens": 5, "messages": []}),
        (anthropic.BadRequestError, {"model": model, "max_tokens": -5, "messages": messages}),
    ]:
        try:
            client.messages.create(**request)
        except expected as error:
            assert error.body["type"] == "error" and error.body["error"]["message"]
        else:
            raise AssertionError(f"{request} was not refused")


for check in [check_messages, check_tools, check_counting, check_errors]:
    check()
    print("ok", check.__name__)
