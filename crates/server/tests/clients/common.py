"""What the scripts share: the client, the model, a way to wait, and a way to say what was checked."""

import sys
import time

from openai import OpenAI

BASE = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080/v1"
client = OpenAI(base_url=BASE, api_key="none", max_retries=0, timeout=300)
MODEL = sys.argv[2] if len(sys.argv) > 2 else client.models.list().data[0].id


def check(what, holds, found=None):
    """Says what was checked, and ends the script if it does not hold."""
    if not holds:
        raise SystemExit(f"FAILED: {what}: {found!r}")
    print(f"ok: {what}", flush=True)


def until(what, ask, wished, seconds=240):
    """Asks until the answer is as wished."""
    end = time.time() + seconds
    while True:
        answer = ask()
        if wished(answer):
            check(what, True)
            return answer
        if time.time() > end:
            check(what, False, answer)
        time.sleep(0.2)
