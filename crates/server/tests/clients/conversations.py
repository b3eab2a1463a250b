"""/v1/conversations with the official client."""

import openai
from common import MODEL, check, client

conversation = client.conversations.create(
    metadata={"topic": "rivers"}, items=[{"type": "message", "role": "user", "content": "My name is Ada."}]
)
check("a conversation is made", conversation.metadata == {"topic": "rivers"}, conversation)
check("it is found again", client.conversations.retrieve(conversation.id).id == conversation.id)
check("it is changed", client.conversations.update(conversation.id, metadata={"topic": "names"}).metadata == {"topic": "names"})

response = client.responses.create(model=MODEL, input="What is my name?", conversation=conversation.id, max_output_tokens=16)
check("a response belongs to it", response.conversation.id == conversation.id)
items = list(client.conversations.items.list(conversation.id, order="asc", limit=1))
check("the response was added, page by page", [item.role for item in items] == ["user", "user", "assistant"], items)

added = client.conversations.items.create(conversation.id, items=[{"role": "user", "content": "Thanks."}])
check("items are added", added.data[0].content[0].text == "Thanks.", added)
item = client.conversations.items.retrieve(added.data[0].id, conversation_id=conversation.id)
check("an item is found", item.id == added.data[0].id)
client.conversations.items.delete(item.id, conversation_id=conversation.id)
check("an item is deleted", len(list(client.conversations.items.list(conversation.id))) == 3)
check("it is deleted", client.conversations.delete(conversation.id).deleted)
try:
    client.conversations.retrieve(conversation.id)
    check("it is gone", False)
except openai.NotFoundError:
    check("it is gone", True)
