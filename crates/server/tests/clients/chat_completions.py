"""Stored answers of /v1/chat/completions with the official client."""

import time

import openai
from common import MODEL, check, client

topic = f"rivers {time.time()}"
question = {"role": "user", "content": [{"type": "text", "text": "Name a river."}]}
wanted = dict(model=MODEL, messages=[question], max_completion_tokens=8, store=True, metadata={"topic": topic})
answer = client.chat.completions.create(**wanted)
kept = client.chat.completions.retrieve(answer.id)
check("an answer is kept", kept.choices == answer.choices and kept.usage == answer.usage, kept)
check("with its metadata", kept.metadata == {"topic": topic}, kept)

chunks = list(client.chat.completions.create(**wanted, stream=True))
text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
streamed = client.chat.completions.retrieve(chunks[0].id)
check("one that was streamed is kept", streamed.choices[0].message.content == text, streamed)

listed = list(client.chat.completions.list(metadata={"topic": topic}, limit=1))
check("answers are listed, page by page", [it.id for it in listed] == [answer.id, streamed.id], listed)
check("answers are listed by model", answer.id in {it.id for it in client.chat.completions.list(model=MODEL, order="desc")})
turns = list(client.chat.completions.messages.list(answer.id))
check("the turns are listed", [it.content for it in turns] == ["Name a river."], turns)
changed = client.chat.completions.update(answer.id, metadata={"topic": "lakes"})
check("the metadata are changed", changed.metadata == {"topic": "lakes"}, changed)
for it in (answer, streamed):
    check("it is deleted", client.chat.completions.delete(it.id).deleted)
try:
    client.chat.completions.retrieve(answer.id)
    check("it is gone", False)
except openai.NotFoundError:
    check("it is gone", True)
