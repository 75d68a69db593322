"""Parameter and sweep files: YAML that says what it means, its problems one line with file and line."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from anm_nb.config import ParameterError


class _Loader(yaml.SafeLoader):
    """Safe YAML with numbers in scientific notation, and each key of a mapping once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping. Raises ConstructorError where a key is written twice."""
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"):
            if key.value in lines:
                problem = f"'{key.value}' is there already, in line {lines[key.value]}; keep one of them"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


# YAML 1.1 takes 1e-3 and 1E5 for text, as they have no point; YAML 1.2 and everybody who writes them for numbers.
SCIENTIFIC = re.compile(r"[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", SCIENTIFIC, list("-+0123456789"))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file in UTF-8, with or without a byte order mark.

    Raises `ParameterError`, in one line that names the file and, where there is one, the line, for a file that cannot
    be read, is no YAML in UTF-8, is no mapping from names, or has a key twice.
    """
    try:
        content = yaml.load(path.read_text("utf-8-sig"), _Loader)  # a safe loader
    except OSError as error:
        raise ParameterError(f"{path} cannot be read: {error.strerror or error}") from None
    except (yaml.YAMLError, ValueError) as error:
        mark, said = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error).split("\n")[0]
        raise ParameterError(f"{path}{f', line {mark.line + 1}' if mark else ''}: {said}") from None
    if not (isinstance(content, dict) and all(isinstance(key, str) for key in content)):
        raise ParameterError(f"{path} holds no names with values; write one `name: value` a line")
    return content


def stands_for(text: str, value: Any) -> bool:
    """Whether a text, as a person writes it in YAML, means a value: 1e-3 is 0.001, and true is not 1."""
    try:
        read = yaml.load(text, _Loader)  # a safe loader
    except yaml.YAMLError:
        read = text
    return text == str(value) or (bool(read == value) and isinstance(read, bool) == isinstance(value, bool))
