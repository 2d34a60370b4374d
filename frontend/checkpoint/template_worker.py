"""Renders chat templates; run as a script by `chat_template.py`, in a process of its own with limits.

One request per line on stdin, one reply per line on stdout, both JSON: {"template", "variables"} to {"text"} or
{"error"}. Templates come from checkpoints and are not trusted: they run in jinja2's sandbox, and a process can be
bounded in time and memory, which an expression such as 'a' * 10**10 cannot. A request that takes too long ends the
process by SIGPROF.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

CPU_SECONDS = 2.0
_MEMORY_BYTES = 512 << 20
_LONGEST_TEXT = 16 << 20
_OLDEST_JINJA2 = (3, 1, 6)  # older ones have known ways out of the sandbox


def main() -> None:
    """Answers requests until stdin ends. Arguments: folders to search for packages."""
    sys.path.extend(sys.argv[1:])
    import jinja2

    version = tuple(int(part) for part in jinja2.__version__.split(".")[:3] if part.isdigit())
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        if version < _OLDEST_JINJA2:
            reply = {"error": f"jinja2 is {jinja2.__version__}, expected 3.1.6 or newer: pip install -U jinja2"}
        else:
            signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
            reply = answer(json.loads(line))
            signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


def answer(request: dict[str, Any]) -> dict[str, str]:
    """The reply to one request; whatever a template does wrong is an error reply."""
    try:
        text = _compile(request["template"]).render(request["variables"])
        if len(text) > _LONGEST_TEXT:
            return {"error": f"it makes {len(text)} characters, expected at most {_LONGEST_TEXT}"}
        return {"text": text}
    except MemoryError:
        return {"error": f"it needs more than {_MEMORY_BYTES >> 20} MiB of memory"}
    except RecursionError:
        return {"error": "it recurses too deeply"}
    except Exception as error:  # templates can raise anything that Python can
        return {"error": f"{error}"[:500] or type(error).__name__}


@lru_cache(maxsize=8)
def _compile(template: str) -> Any:
    """The template with the settings and helpers of transformers (chat_template_utils.py), which templates expect."""
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %} ... {% endgeneration %} marks the assistant's tokens for training; here it is transparent."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    def raise_exception(message: str) -> NoReturn:
        raise TemplateError(message)

    def tojson(
        x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)


if __name__ == "__main__":
    main()
