"""Converters for ids and keys in paths. A path whose segment does not match is answered with 404 by the router."""

from werkzeug.routing import BaseConverter, Map

from handlers.text_rules import EXTERNAL_ID


class IdConverter(BaseConverter):
    """A UUID."""

    regex = "[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"


class KeyConverter(BaseConverter):
    """A file's key (`handlers.files`)."""

    regex = "[A-Za-z0-9_-]{32}"


class ExternalIdConverter(BaseConverter):
    """The id by which an application knows a user."""

    regex = EXTERNAL_ID


def install(url_map: Map) -> None:
    url_map.converters = {**url_map.converters, "id": IdConverter, "key": KeyConverter, "external": ExternalIdConverter}
