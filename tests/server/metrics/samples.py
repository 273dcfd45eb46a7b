"""A parsed scrape, for tests of metrics and of what uses them."""

import re
from pathlib import Path
from typing import NamedTuple

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests import plain_http


class Scrape(NamedTuple):
    """`kinds` and `helps` by family; `samples` by name and labels as they are written; `text` is the whole answer."""

    text: str
    kinds: dict[str, str]
    helps: dict[str, str]
    samples: dict[str, float]

    def value(self, name: str, **labels: str) -> float:
        written = ",".join(f'{label}="{value}"' for label, value in labels.items())
        return self.samples[f"{name}{{{written}}}" if written else name]

    @property
    def names(self) -> set[str]:
        """The names of all series, with their suffixes."""
        return {re.split(r"[{]", sample)[0] for sample in self.samples}


def read(text: str) -> Scrape:
    families = list(text_string_to_metric_families(text))
    samples = {}
    for family in families:
        for sample in family.samples:
            written = ",".join(f'{label}="{value}"' for label, value in sample.labels.items())
            samples[f"{sample.name}{{{written}}}" if written else sample.name] = sample.value
    return Scrape(
        text,
        {family.name: family.type for family in families},
        {family.name: family.documentation for family in families},
        samples,
    )


async def scrape(socket: Path) -> Scrape:
    async with admin(socket) as http:
        answer = await http.get("/metrics")
    assert answer.status_code == 200 and answer.headers["Content-Type"].startswith("text/plain; version=")
    return read(answer.text)


def admin(socket: Path) -> httpx.AsyncClient:
    return plain_http.client(transport=plain_http.over(socket), base_url="http://x", timeout=60)
