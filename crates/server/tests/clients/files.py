"""/v1/files with the official client."""

import openai
from common import check, client

content = ("a line of text\n" * 20000).encode()
file = client.files.create(file=("notes.txt", content), purpose="assistants")
check("a file is uploaded", file.bytes == len(content) and file.filename == "notes.txt", file)
short = client.files.create(
    file=("in.jsonl", b"{}"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
)
check("a file ends when it was said to", short.expires_at == short.created_at + 3600, short)
check("it is found again", client.files.retrieve(file.id).id == file.id)
check("it is read", client.files.content(file.id).read() == content)
check("files are listed", {file.id, short.id} <= {it.id for it in client.files.list()})
check("files are listed by purpose", all(it.purpose == "batch" for it in client.files.list(purpose="batch", limit=1)))
check("it is deleted", client.files.delete(file.id).deleted and client.files.delete(short.id).deleted)
try:
    client.files.content(file.id)
    check("it is gone", False)
except openai.NotFoundError:
    check("it is gone", True)
