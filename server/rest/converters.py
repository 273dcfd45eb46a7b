"""What stands for a thing in a path: what does not look like one names nothing, and is no other route's business."""

from werkzeug.routing import BaseConverter, Map


class IdConverter(BaseConverter):
    """A UUID."""

    regex = "[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"


class KeyConverter(BaseConverter):
    """A file's key (`handlers.files`)."""

    regex = "[A-Za-z0-9_-]{32}"


def install(url_map: Map) -> None:
    url_map.converters = {**url_map.converters, "id": IdConverter, "key": KeyConverter}
