"""/v1/batches with the official client."""

import json

import openai
from common import MODEL, check, client, until


def batch(endpoint, bodies):
    lines = [
        json.dumps({"custom_id": f"line-{number}", "method": "POST", "url": endpoint, "body": body})
        for number, body in enumerate(bodies)
    ]
    file = client.files.create(file=("in.jsonl", "\n".join(lines).encode()), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h", metadata={"job": "test"}
    )


chat = [
    {"model": MODEL, "messages": [{"role": "user", "content": f"Count to {number}."}], "max_tokens": 8}
    for number in range(6)
]
made = batch("/v1/chat/completions", chat + [{"model": "no-such-model", "messages": []}])
check("a batch is made", made.status == "validating" and made.metadata == {"job": "test"}, made)
done = until("it is completed", lambda: client.batches.retrieve(made.id), lambda it: it.status == "completed")
counts = done.request_counts
check("its lines are counted", (counts.total, counts.completed, counts.failed) == (7, 6, 1), counts)
answers = [json.loads(line) for line in client.files.content(done.output_file_id).text.splitlines()]
check("answers are in order", [it["custom_id"] for it in answers] == [f"line-{number}" for number in range(6)])
check("answers are what the route gives", all(it["response"]["body"]["choices"] for it in answers))
errors = [json.loads(line) for line in client.files.content(done.error_file_id).text.splitlines()]
check("errors are what the route gives", errors[0]["response"]["body"]["error"]["code"] == "model_not_found", errors)

vectors = batch("/v1/embeddings", [{"model": MODEL, "input": "salt"}])
until("embeddings can be lines", lambda: client.batches.retrieve(vectors.id), lambda it: it.status == "completed" and it.request_counts.completed == 1)

broken = client.files.create(file=("in.jsonl", b"nonsense"), purpose="batch")
broken = client.batches.create(input_file_id=broken.id, endpoint="/v1/chat/completions", completion_window="24h")
failed = until("nonsense fails", lambda: client.batches.retrieve(broken.id), lambda it: it.status == "failed")
check("with the line", failed.errors.data[0].line == 1, failed.errors)

long = [{"model": MODEL, "messages": [{"role": "user", "content": "Tell a story."}], "max_tokens": 200} for _ in range(200)]
endless = batch("/v1/chat/completions", long)
until("a long one is in progress", lambda: client.batches.retrieve(endless.id), lambda it: it.status == "in_progress")
check("it is cancelled", client.batches.cancel(endless.id).status in ("cancelling", "cancelled"))
over = until("and ends", lambda: client.batches.retrieve(endless.id), lambda it: it.status == "cancelled")
check("every line has an outcome", over.request_counts.completed + over.request_counts.failed == 200, over.request_counts)
check("batches are listed, page by page", len(list(client.batches.list(limit=2))) >= 4)
try:
    client.batches.cancel(done.id)
    check("one that is over cannot be cancelled", False)
except openai.ConflictError:
    check("one that is over cannot be cancelled", True)
