"""Reads the form of a request to /v1/inspect."""

from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import BadImage, BadParameter

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MAX_PARTS, _MAX_PADDING = 32, 256
"""Parts of a form, and blanks in bytes behind a boundary."""


def image_part(body: bytes, content_type: str) -> tuple[bytes, str]:
    """Content and content type of the part of a form named `image`; BadParameter or BadImage."""
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise BadParameter("the form has no boundary")
    delimiter = b"--" + boundary
    _check_delimiters(body, delimiter)
    if not body.startswith(delimiter):  # what precedes the first one is ignored: RFC 2046, 5.1.1
        _, found, rest = body.partition(b"\r\n" + delimiter)
        body = found.lstrip() + rest
    form = _Form()
    try:
        parser = MultipartParser(boundary, form.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise BadImage(f"the form is malformed ({error})") from error
    if not form.complete or len(form.images) != 1:
        raise BadParameter("the form needs exactly one part named 'image', and its end")
    return form.images[0]


def _check_delimiters(body: bytes, delimiter: bytes) -> None:
    """Limits the number of boundaries and the padding after each: the parser reads both byte by byte, which
    would block the event loop."""
    count, place = 0, body.find(delimiter)
    while place >= 0:
        count, end = count + 1, place + len(delimiter)
        if count > _MAX_PARTS + 1:  # the last delimiter ends the form
            raise BadParameter(f"the form has more than {_MAX_PARTS} parts")
        if not body[end : end + _MAX_PADDING].strip(b" \t"):
            raise BadParameter("a boundary of the form is followed by blanks only")
        place = body.find(delimiter, end)


class _Form:
    """Collects the parts named `image` while a form is parsed."""

    def __init__(self) -> None:
        self.images = list[tuple[bytes, str]]()
        self.complete = False
        self._name, self._value = b"", b""
        self._headers = dict[bytes, bytes]()
        self._content = list[bytes]()

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._field,
            "on_header_value": self._text,
            "on_header_end": self._header,
            "on_part_data": lambda data, start, end: self._content.append(data[start:end]),
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._headers, self._content = {}, []

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _text(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name, self._value = b"", b""

    def _end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if options.get(b"name") == b"image":
            kind = self._headers.get(b"content-type", b"").decode("latin-1")
            self.images.append((b"".join(self._content), kind))

    def _finish(self) -> None:
        self.complete = True
