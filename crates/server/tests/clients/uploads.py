"""/v1/uploads with the official client."""

import hashlib
import io

import openai
from common import check, client

content = ("a line of a long text\n" * 20000).encode()
upload = client.uploads.create(filename="long.txt", bytes=len(content), purpose="assistants", mime_type="text/plain")
check("an upload is announced", upload.status == "pending" and upload.bytes == len(content), upload)
half = len(content) // 2
second = client.uploads.parts.create(upload.id, data=content[half:])
first = client.uploads.parts.create(upload.id, data=content[:half])
check("parts are added", {first.upload_id, second.upload_id} == {upload.id}, first)
done = client.uploads.complete(upload.id, part_ids=[first.id, second.id], md5=hashlib.md5(content).hexdigest())
check("the file is made", done.status == "completed" and done.file.filename == "long.txt", done)
check("it is read", client.files.content(done.file.id).read() == content)
client.files.delete(done.file.id)

whole = client.uploads.upload_file_chunked(
    file=content, filename="chunked.txt", bytes=len(content), mime_type="text/plain", purpose="user_data", part_size=100_000
)
check("the client cuts a file into parts itself", client.files.content(whole.file.id).read() == content, whole)
client.files.delete(whole.file.id)

given_up = client.uploads.create(filename="x", bytes=1, purpose="batch", mime_type="text/plain")
check("an upload is given up", client.uploads.cancel(given_up.id).status == "cancelled")
try:
    client.uploads.parts.create(given_up.id, data=io.BytesIO(b"x"))
    check("nothing is added then", False)
except openai.BadRequestError:
    check("nothing is added then", True)
