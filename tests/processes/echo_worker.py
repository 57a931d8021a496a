"""A process for the tests of Worker: it echoes, sleeps, dies, prints or raises as it is told."""

from __future__ import annotations

import os
import time
from typing import Any

from diffpo.processes.worker import serve


def obey(request: Any) -> Any:
    match request:
        case ["sleep", seconds]:
            time.sleep(seconds)
        case ["die"]:
            os._exit(0)
        case ["exit"]:
            raise SystemExit
        case ["raise"]:
            raise KeyError("no")
        case ["print", text]:
            print(text, flush=True)
        case ["allocate", size]:
            return len(bytearray(size))
    return request


if __name__ == "__main__":
    serve(obey, memory_limit=2**30)
