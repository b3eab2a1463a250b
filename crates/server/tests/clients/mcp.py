"""Tools of MCP servers, and approvals of their calls, with the official client. The server needs `../mcp/server.sh` as its
MCP server `tiny` (`server.mcp_servers` of its settings); without one this is passed over."""

import sys

import openai
from common import MODEL, check, client

tool = {"type": "mcp", "server_label": "tiny", "allowed_tools": ["greet"]}
call = '<tool_call>{"name": "greet", "arguments": {"who": "Ada"}}</tool_call>'
asking = {
    "model": MODEL,
    "input": f"say {call}",
    "tools": [tool],
    "tool_choice": {"type": "mcp", "server_label": "tiny", "name": "greet"},
    "max_output_tokens": 200,
    "temperature": 0,
}

try:
    first = client.responses.create(**asking)
except openai.BadRequestError as error:
    if "no MCP server `tiny`" not in str(error):
        raise
    sys.exit(print("passed over: no MCP server `tiny` is set up"))
request = first.output[-1]
check("a call waits for its approval", first.status == "completed" and request.type == "mcp_approval_request", first)
check("it says what would be called", (request.server_label, request.name) == ("tiny", "greet"), request)
check("it is found again", client.responses.retrieve(first.id).output[-1] == request)

with client.responses.stream(**asking) as stream:
    events = [event for event in stream if getattr(getattr(event, "item", None), "type", "") == "mcp_approval_request"]
    final = stream.get_final_response()
kinds = [event.type for event in events]
check("it is told in two events", kinds == ["response.output_item.added", "response.output_item.done"], kinds)
check("the client's own helper has it", final.output[-1] == events[-1].item, final)

going_on = {
    "model": MODEL,
    "previous_response_id": first.id,
    "tools": [tool],
    "max_output_tokens": 24,
    "max_tool_calls": 1,
    "temperature": 0,
}
decision = {"type": "mcp_approval_response", "approval_request_id": request.id, "approve": True}
second = client.responses.create(input=[decision], **going_on)
made = [item for item in second.output if item.type == "mcp_call"]
check("it is made when it is approved", len(made) == 1 and made[0].output.startswith("hello, "), second)
check("it says which approval it had", made[0].approval_request_id == request.id, made)
kept = client.responses.input_items.list(second.id).data[0]
check("the approval is kept", (kept.type, kept.approve) == ("mcp_approval_response", True), kept)

stream = client.responses.create(input=[decision], stream=True, **going_on)
kinds = [event.type for event in stream if event.type.startswith("response.mcp_call")]
steps = [".in_progress", "_arguments.delta", "_arguments.done", ".completed"]
check("the call is told as it must be", kinds == [f"response.mcp_call{step}" for step in steps], kinds)

refusal = {**decision, "approve": False, "reason": "not today"}
third = client.responses.create(input=[refusal], **{**going_on, "tool_choice": "none"})
check("a call that is refused is not made", all(item.type != "mcp_call" for item in third.output), third)
check("and the model goes on", third.output_text != "", third)
try:
    client.responses.create(input=[{**decision, "approval_request_id": "mcpr_none"}], **going_on)
    check("an approval of nothing is refused", False)
except openai.BadRequestError as error:
    check("an approval of nothing is refused", error.param == "input[0].approval_request_id", error)
