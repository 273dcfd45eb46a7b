"""server.tracing: when tracing is on, and what it costs when it is off."""

import subprocess
import sys

import pytest

from server import tracing
from server.config.settings import ConfigError


@pytest.mark.services
def test_off_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without OTEL_* nothing of OpenTelemetry is imported; without the extra, the error says what to install."""
    code = "import sys, server.app; assert not [m for m in sys.modules if m.startswith('opentelemetry')]"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
    assert tracing.is_on(endpoint) and not tracing.is_on({})
    for off in ({"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}):
        assert not tracing.is_on({**endpoint, **off})
    monkeypatch.setattr(tracing, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"bin/pip install '\.\[otel\]'"):
        tracing.open_tracing(endpoint, "one")
