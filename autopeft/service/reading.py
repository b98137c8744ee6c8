"""Reads one data file and writes what is in it, as JSON; run as a process of its own by `uploads`."""

from __future__ import annotations

import json
import resource
import sys

from autopeft import pipeline
from autopeft.errors import AutopeftError
from autopeft.request import Request
from autopeft.workload.media import LARGEST_FILE


def main() -> int:
    """Read a file; arguments: bytes and seconds to take at most, the file; stdin: `task` and `columns`."""
    most_bytes, most_seconds, file = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_AS, (int(most_bytes), int(most_bytes)))
    resource.setrlimit(resource.RLIMIT_CPU, (int(most_seconds), int(most_seconds)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
    try:
        facts = pipeline.inspect(Request.build(data=file, **json.load(sys.stdin)))
    except AutopeftError as error:
        sys.stderr.write(f"{' '.join(str(error).split())}\n")
        return 2
    sys.stdout.write(facts.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
