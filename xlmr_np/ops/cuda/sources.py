"""The text of the kernel files.

A compiler gets one text, a file with the headers that it includes in place of its `#include "..."` lines: CuPy's cache
knows a compiled kernel by the text given, and would go on running the old one after a change of an included file.
"""

import re
from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType

_INCLUDE = re.compile(r'\s*#\s*include\s*"([^"]*)"')
_ARCHITECTURES = re.compile(r"^// Architectures:((?: sm_\d+a?)+)$", re.MULTILINE)


def source(file: str, headers: Mapping[str, str] = MappingProxyType({})) -> str:
    """The text to compile for `file` of this folder, such as "norms.cu".

    Every header comes once, where it is first included; `#include <...>` stays. `#line` directives make the compiler
    speak of the lines of our files.

    Args:
        file: its name.
        headers: texts to take in place of the headers of these names.

    Raises:
        FileNotFoundError: this folder has no such file, or not the header that one of its files includes.
    """
    included: set[str] = set()

    def expanded(name: str, text: str) -> list[str]:
        lines = [f'#line 1 "{name}"']
        for number, line in enumerate(text.split("\n"), start=1):
            match = _INCLUDE.match(line)
            if match is None:
                lines.append("" if line == "#pragma once" else line)  # compilers warn of it outside a header
                continue
            header = match[1]
            if header not in included:
                included.add(header)
                header_text = headers[header] if header in headers else _text(header, f"{name}, line {number},")
                lines += expanded(header, header_text)
            lines.append(f'#line {number + 1} "{name}"')
        return lines

    return "\n".join(expanded(file, _text(file, "A kernel")))


def architectures(file: str) -> tuple[str, ...]:
    """The GPU architectures that `file` is for, by its line `// Architectures: sm_80 sm_90a`, the oldest first.

    Raises:
        FileNotFoundError: this folder has no such file.
        ValueError: the file has no such line.
    """
    match = _ARCHITECTURES.search(_text(file, "A kernel"))
    if match is None:
        raise ValueError(f"{file} has no line '// Architectures: sm_80 ...'; add it to the comment at its top.")
    return tuple(match[1].split())


def _text(file: str, wanted_by: str) -> str:
    """The text of a file of this folder, which may lie in a zip archive."""
    folder = files(__package__)
    if file not in {entry.name for entry in folder.iterdir()}:
        raise FileNotFoundError(f"{wanted_by} asks for {file!r}, which is not among the files of {__package__}.")
    return (folder / file).read_text(encoding="utf-8")
