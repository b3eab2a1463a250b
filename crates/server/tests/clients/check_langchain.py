"""LangChain's `ChatOpenAI` and `OpenAIEmbeddings` against a server: `check_langchain.py BASE_URL MODEL`, BASE_URL with
`/v1`."""

import sys
from typing import Literal

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

chat = ChatOpenAI(base_url=sys.argv[1], api_key="none", model=sys.argv[2], max_tokens=200, temperature=0, max_retries=0)


class Thing(BaseModel):
    colour: Literal["red", "blue"]


@tool
def set_light(state: Literal["on", "off"]) -> str:
    """Switches the light."""
    return state


def check_chat():
    short = chat.bind(max_tokens=12)
    answer = short.invoke("Say hello.")
    assert answer.content and answer.usage_metadata["output_tokens"] > 0
    assert "".join(part.content for part in short.stream("Say hello.")) == answer.content


def check_tools():
    answer = chat.bind_tools([set_light], tool_choice="any", parallel_tool_calls=False).invoke("Light on.")
    assert answer.tool_calls[0]["name"] == "set_light" and answer.tool_calls[0]["args"]["state"] in ("on", "off")


def check_structured():
    assert chat.with_structured_output(Thing, method="json_schema").invoke("Red or blue?").colour in ("red", "blue")


def check_embeddings():
    embeddings = OpenAIEmbeddings(base_url=sys.argv[1], api_key="none", model=sys.argv[2], check_embedding_ctx_length=False)
    assert len(embeddings.embed_documents(["one", "two"])) == 2


for check in [check_chat, check_tools, check_structured, check_embeddings]:
    check()
    print("ok", check.__name__)
