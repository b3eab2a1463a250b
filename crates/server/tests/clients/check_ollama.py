"""The official `ollama` package against a server: `check_ollama.py BASE_URL MODEL`, with BASE_URL without `/v1`."""

import json
import sys

import ollama

client = ollama.Client(host=sys.argv[1])
model = sys.argv[2]
messages = [{"role": "user", "content": "Say hello."}]
options = {"num_predict": 12, "temperature": 0}
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": ["red", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}


def check_models():
    assert model in [entry.model for entry in client.list().models]
    assert client.show(model).details.family
    client.generate(model=model, prompt="x", options=options)
    assert client.ps().models[0].context_length > 0


def check_chat():
    answer = client.chat(model=model, messages=messages, options=options)
    assert answer.done and answer.message.role == "assistant" and answer.eval_count > 0
    stream = client.chat(model=model, messages=messages, options=options, stream=True)
    assert "".join(part.message.content for part in stream) == answer.message.content
    obeyed = client.chat(model=model, messages=messages, format=SCHEMA, options={"num_predict": 60})
    assert json.loads(obeyed.message.content)["colour"] in ("red", "blue")


def check_tools():
    def set_light(state: str) -> str:
        """Switches the light.

        Args:
            state: on or off
        """
        return state

    answer = client.chat(model=model, messages=messages, tools=[set_light], options=options)
    assert answer.done


def check_generate():
    answer = client.generate(model=model, prompt="Say hello.", options=options)
    assert answer.done and answer.context
    stream = client.generate(model=model, prompt="Say hello.", options=options, stream=True)
    assert "".join(part.response for part in stream) == answer.response


def check_embeddings():
    assert len(client.embed(model=model, input=["hello", "world"]).embeddings) == 2
    assert client.embeddings(model=model, prompt="hello").embedding


def check_names():
    client.create(model="brief-one", from_=model, system="Be brief.", parameters={"temperature": 0.1})
    assert "brief-one" in [entry.model for entry in client.list().models]
    client.copy("brief-one", "brief-two")
    client.chat(model="brief-two", messages=messages, options=options)
    client.delete("brief-one")
    client.delete("brief-two")


def check_errors():
    try:
        client.chat(model="no-such-model", messages=messages)
    except ollama.ResponseError as error:
        assert error.status_code == 404 and error.error
    else:
        raise AssertionError("a model that is not there answers")


for check in [check_models, check_chat, check_tools, check_generate, check_embeddings, check_names, check_errors]:
    check()
    print("ok", check.__name__)
