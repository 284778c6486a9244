"""What every SVG of a report must be: well-formed, without script, and complete without any other file."""

from __future__ import annotations

import re
from io import BytesIO
from xml.etree import ElementTree

from PIL import Image

_NAMESPACES = ("http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink")


def check_svg(svg: bytes) -> ElementTree.Element:
    """Assert it; returns the root element."""
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert b"<!DOCTYPE" not in svg
    for element in root.iter():
        assert element.tag.rpartition("}")[2] not in ("script", "foreignObject", "iframe", "a"), element.tag
        for name, value in element.attrib.items():
            assert not name.lower().startswith("on"), name
            if name.rpartition("}")[2] == "href":
                assert value.startswith(("#", "data:image/png;base64,")), value[:60]
    assert set(re.findall(rb'https?://[^"\'<> ]+', svg)) <= {name.encode() for name in _NAMESPACES}
    assert all(url.startswith(b"#") for url in re.findall(rb"url\(['\"]?([^)]*)", svg))
    return root


def png_size(png: bytes) -> tuple[int, int]:
    """Width and height of a PNG that opens."""
    with Image.open(BytesIO(png)) as image:
        assert image.format == "PNG"
        image.load()
        return image.size
