"""Runs a command and prints how long it took and how much memory was resident at most, as JSON."""

import json
import resource
import subprocess
import sys
import time

started = time.perf_counter()
ended = subprocess.run(
    sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
)
seconds = time.perf_counter() - started
if ended.returncode != 0:
    sys.exit(ended.stderr.decode(errors="replace")[-2000:] or f"it ended with {ended.returncode}")
# Linux counts in KiB, macOS in bytes.
unit = 1 if sys.platform == "darwin" else 1024
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
print(json.dumps({"seconds": seconds, "peak_bytes": peak}))
