"""The process that `deepseek bench` starts to time a cached start: loads, runs once, prints one JSON object."""

from __future__ import annotations

import json
import re
import resource
import sys
import time
from pathlib import Path


def peak_rss_bytes() -> int:
    """Most memory this process had resident."""
    # getrusage would report the parent's peak too: Linux keeps it across exec. VmHWM begins anew.
    status = Path("/proc/self/status")
    match = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(match[1]) * 1024 if match else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Settings come as JSON in the first argument."""
    from deepseek.model import Model

    settings = json.loads(sys.argv[1])
    run = [settings.pop(key) for key in ("prompt_tokens", "new_tokens", "seed")]
    model = Model.from_pretrained(settings.pop("model"), **settings)
    ready = time.monotonic()
    model.benchmark(*run)
    print(json.dumps({"ready": ready, "load_s": model.load_s, "peak_rss_bytes": peak_rss_bytes()}))


if __name__ == "__main__":
    main()
