"""Options that several commands have, and what they are for: the configuration, the directory of a `parley dev`.

Owns how a command reads its settings: from the environment and the file that `--config` names.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from server.config.loading import Places
    from server.config.settings import Settings

DEFAULT_DATA = Path(".parley")
DEFAULT_URL = "http://127.0.0.1:5000"  # of a `parley dev` without options
DATA_TYPE = click.Path(file_okay=False, path_type=Path)

config_option = click.option(
    "--config", "config", type=click.Path(dir_okay=False, path_type=Path), help="TOML file; the environment wins."
)
data_option = click.option("--data", type=DATA_TYPE, help="Of the `parley dev` in this directory.")


def load_settings(config: Path | None, **overrides: Any) -> "Settings":
    from server.config.loading import load  # noqa: PLC0415

    return load(os.environ, config, **overrides)


def find_settings(config: Path | None, data: Path | None) -> "Settings":
    """Return the settings of an installation; with `data` those of the `parley dev` in it. Raises ConfigError."""
    from server.cli.dev.run import dev_settings  # noqa: PLC0415

    return load_settings(config) if data is None else dev_settings(data)


def locate_settings(config: Path | None) -> "Places":
    """Return where the settings come from."""
    from server.config.loading import locate  # noqa: PLC0415

    return locate(os.environ, config)
