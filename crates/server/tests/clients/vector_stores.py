"""/v1/vector_stores and the tool file_search with the official client."""

import openai
from common import MODEL, check, client, until

SALT = b"The salt flats of Uyuni lie at 3656 metres above the sea.\n\nThey are white and very dry."
LLAMA = b"Llamas carry loads across high mountain passes.\n\nTheir wool is warm."

store = client.vector_stores.create(name="library", expires_after={"anchor": "last_active_at", "days": 7})
check("a vector store is made", store.name == "library" and store.expires_after.days == 7, store)
salt = client.vector_stores.files.upload_and_poll(vector_store_id=store.id, file=("salt.txt", SALT))
check("a file is made searchable", salt.status == "completed", salt)
llama = client.files.create(file=("llama.txt", LLAMA), purpose="assistants")
batch = client.vector_stores.file_batches.create_and_poll(
    vector_store_id=store.id, files=[{"file_id": llama.id, "attributes": {"kind": "animal"}}]
)
check("files are added together", batch.file_counts.completed == 1, batch)
check("files of a batch are listed", [it.id for it in client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id)] == [llama.id])

found = client.vector_stores.search(store.id, query="How high are the salt flats?", max_num_results=2)
check("the right chunk is first", found.data[0].file_id == salt.id and "3656" in found.data[0].content[0].text, found)
animals = client.vector_stores.search(store.id, query="salt", filters={"type": "eq", "key": "kind", "value": "animal"})
check("filters hold", all(it.file_id == llama.id for it in animals.data), animals)
check("chunks are shown", "Uyuni" in list(client.vector_stores.files.content(salt.id, vector_store_id=store.id))[0].text)

response = client.responses.create(
    model=MODEL,
    input="How high do the salt flats of Uyuni lie?",
    tools=[{"type": "file_search", "vector_store_ids": [store.id]}],
    include=["file_search_call.results"],
    max_output_tokens=60,
    temperature=0,
)
call = response.output[0]
check("an answer searches first", call.type == "file_search_call" and call.status == "completed", call)
check("and tells what it found", any(it.file_id == salt.id for it in call.results), call)
print("answer:", response.output_text)
print("annotations:", response.output[-1].content[0].annotations)

noted = client.vector_stores.files.update(salt.id, vector_store_id=store.id, attributes={"year": 2024})
check("attributes are changed", noted.attributes == {"year": 2024}, noted)
check("it is changed", client.vector_stores.update(store.id, name="shelf").name == "shelf")
check("stores are listed", store.id in {it.id for it in client.vector_stores.list()})
check("a file is taken out", client.vector_stores.files.delete(salt.id, vector_store_id=store.id).deleted)
until("files are counted", lambda: client.vector_stores.retrieve(store.id), lambda it: it.file_counts.total == 1)
check("it is deleted", client.vector_stores.delete(store.id).deleted)
try:
    client.vector_stores.retrieve(store.id)
    check("it is gone", False)
except openai.NotFoundError:
    check("it is gone", True)
