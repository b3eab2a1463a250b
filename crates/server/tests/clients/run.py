"""Runs the official clients against a server and prints which of OpenAI's paths they passed on:
`run.py ADDRESS MODEL [PATHS]`, with ADDRESS without `/v1` and PATHS a copy of OpenAI's description (YAML) to count in.

Python packages: `pip install -r requirements.txt`; npm's: `npm install` in this folder. A path counts as covered if a script
here asked for it and was answered with status 200: the server's own numbers say so."""

import pathlib
import re
import subprocess
import sys
import urllib.request

here = pathlib.Path(__file__).parent
address, model = sys.argv[1].rstrip("/"), sys.argv[2]


def answered():
    """OpenAI's routes and how often each was answered with 200."""
    text = urllib.request.urlopen(f"{address}/metrics").read().decode()
    lines = re.findall(r'alti_http_requests_total\{method="(\w+)",path="([^"]+)",status="200"\} (\d+)', text)
    return {(method, path): int(count) for method, path, count in lines if path.startswith("/v1/")}


scripts = [
    (["check_openai.py", f"{address}/v1", model], sys.executable),
    *(
        ([f"{script}.py", f"{address}/v1", model], sys.executable)
        for script in (
            "chat_completions",
            "files",
            "uploads",
            "conversations",
            "responses",
            "mcp",
            "batches",
            "vector_stores",
            "moderations",
        )
    ),
    (["check_anthropic.py", address, model], sys.executable),
    (["check_ollama.py", address, model], sys.executable),
    (["check_langchain.py", f"{address}/v1", model], sys.executable),
    (["check_openai.mjs", f"{address}/v1", model], "node"),
    (["check_ai.mjs", f"{address}/v1", model], "node"),
]
before, failed = answered(), []
for (script, *arguments), program in scripts:
    print(f"== {script}", flush=True)
    if subprocess.run([program, str(here / script), *arguments]).returncode != 0:
        failed.append(script)
covered = sorted(key for key, count in answered().items() if count > before.get(key, 0))
print("answered:")
for method, path in covered:
    print(f"  {method} {path}")
if len(sys.argv) > 3:
    described = set(re.findall(r"^  (/[^:]*):$", pathlib.Path(sys.argv[3]).read_text(), re.MULTILINE))
    plain = lambda path: re.sub(r"\{[^}]*\}", "{}", path)
    ours = {plain(path.removeprefix("/v1")) for _, path in covered}
    count = sum(plain(path) in ours for path in described)
    print(f"{count} of the {len(described)} paths of OpenAI's description are covered")
sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
