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


def tagged(name):
    """The name as Ollama lists it."""
    return name if ":" in name.rsplit("/")[-1] else f"{name}:latest"


def listed():
    return [entry.model for entry in client.list().models]


def check_models():
    assert tagged(model) in listed()
    shown = client.show(model)
    assert shown.details.family and "completion" in shown.capabilities and "embedding" not in shown.capabilities
    client.generate(model=model, prompt="x", options=options)
    running = client.ps().models
    assert tagged(model) in [entry.model for entry in running] and running[0].context_length > 0


def check_chat():
    answer = client.chat(model=model, messages=messages, options=options)
    assert answer.done and answer.message.role == "assistant" and answer.eval_count > 0
    stream = client.chat(model=model, messages=messages, options=options, stream=True)
    assert "".join(part.message.content for part in stream) == answer.message.content
    obeyed = client.chat(model=model, messages=messages, format=SCHEMA, options={"num_predict": 60})
    assert json.loads(obeyed.message.content)["colour"] in ("red", "blue")


def check_probabilities():
    asked = {"model": model, "messages": messages, "options": options, "logprobs": True, "top_logprobs": 2}
    answer = client._request_raw("POST", "/api/chat", json={**asked, "stream": False}).json()
    assert all(len(token["top_logprobs"]) == 2 and token["logprob"] <= 0 for token in answer["logprobs"])


def check_long_chats():
    context = next(entry.context_length for entry in client.ps().models if entry.model == tagged(model))
    turns = [{"role": "user", "content": "word " * context}, {"role": "assistant", "content": "Yes."}]
    answer = client.chat(model=model, messages=turns + messages, options=options)
    assert answer.done and answer.prompt_eval_count < context


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
    assert tagged("brief-one") in listed()
    assert client.show("brief-one:latest").parameters.split() == ["temperature", "0.1"]
    client.copy("brief-one", "brief-two:latest")
    client.delete("brief-one:latest")
    assert client.chat(model="brief-two", messages=messages, options=options).model == "brief-two"
    assert tagged("brief-two") in [entry.model for entry in client.ps().models]
    client.delete("brief-two")


def check_errors():
    try:
        client.chat(model="no-such-model", messages=messages)
    except ollama.ResponseError as error:
        assert error.status_code == 404 and error.error
    else:
        raise AssertionError("a model that is not there answers")


for check in [
    check_models,
    check_chat,
    check_probabilities,
    check_tools,
    check_generate,
    check_embeddings,
    check_names,
    check_errors,
    check_long_chats,
]:
    check()
    print("ok", check.__name__)
