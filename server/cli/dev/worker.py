"""One of the instances of `parley dev --instances N`: a process that serves, and logs as a single one does.

Its settings come from the environment alone, where its parent has put them. It says by the protocol of service managers
that it is ready.
"""

import os
from functools import partial

from server.cli.errors import report_errors
from server.process.spared_imports import lean_imports, not_configured

LEVEL = "warning"  # unless PARLEY_LOG_LEVEL says otherwise


def configure_logs() -> None:
    """As text, for the terminal: also what `parley dev` itself logs."""
    from server.observability import logs  # noqa: PLC0415

    logs.configure("console", os.environ.get("PARLEY_LOG_LEVEL", LEVEL))


def main() -> None:
    with lean_imports():
        import trio  # noqa: PLC0415

        from server.config.loading import load  # noqa: PLC0415

        configure_logs()
    with report_errors():
        settings = load(os.environ)
        with lean_imports(), not_configured(settings):
            from server import app  # noqa: PLC0415
        trio.run(partial(app.serve, settings, is_for_development=True))


if __name__ == "__main__":
    main()
