"""Parameter and sweep files: YAML that says what it means, its problems one line with file, line and remedy."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from anm_nb.config import ParameterError

# YAML 1.1 takes 1e-3 and 1E5 for text, as they have no point; YAML 1.2 and everybody who writes them for numbers.
SCIENTIFIC = re.compile(r"[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$")


class _Loader(yaml.SafeLoader):
    """Safe YAML with numbers in scientific notation, and each key of a mapping once."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """A value. Raises ConstructorError, which has its line, for a date or number that cannot be one."""
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            raise yaml.constructor.ConstructorError(None, None, str(error).split(";")[0], node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping. Raises ConstructorError where a key is written twice."""
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue
            if key in lines:
                problem = f"'{key}' is there already, in line {lines[key]}; keep one of them"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            lines[key] = key_node.start_mark.line + 1
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", SCIENTIFIC, list("-+0123456789"))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file in UTF-8, with or without a byte order mark.

    Raises `ParameterError`, in one line that names file, line and remedy, where it cannot be read, is in another
    encoding, is no YAML, is empty, is no mapping from names, or has a key twice.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        content = yaml.load(text, _Loader)  # a safe loader
    except OSError as error:
        raise ParameterError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ParameterError(f"{path}, line {line}: is not in UTF-8; save the file as UTF-8") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ParameterError(f"{path}{_said(error)}") from None
    if content is None:
        raise ParameterError(f"{path} is empty; write one `name: value` a line")
    if not isinstance(content, dict):
        kind = "a list" if isinstance(content, list) else "a text" if isinstance(content, str) else "a single value"
        raise ParameterError(f"{path}, line 1: is {kind}; write one `name: value` a line")
    if strange := [key for key in content if not isinstance(key, str)]:
        raise ParameterError(f"{path}: {strange[0]!r} is no name; put it in quotes if it is meant as one")
    return content


def stands_for(text: str, value: Any) -> bool:
    """Whether a text, as a person writes it in YAML, means a value: 1e-3 is 0.001, and true is not 1."""
    if text == str(value):
        return True
    try:
        read = yaml.load(text, _Loader)  # a safe loader
    except yaml.YAMLError:
        return False
    return bool(read == value) and isinstance(read, bool) == isinstance(value, bool)


def _said(error: Exception) -> str:
    """Line and problem of an error of the parser, and what to do about the usual ones."""
    mark = getattr(error, "problem_mark", None)
    place = f", line {mark.line + 1}" if mark else ""
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).split("\n")[0]
    if "\\t" in problem:
        problem = "is indented by a tab; use spaces"
    elif "mapping values are not allowed" in problem:
        problem = "has a second `:`; put a text that contains one in quotes"
    elif isinstance(error, yaml.reader.ReaderError):
        problem = f"holds the character {error.character!r}, which YAML does not allow; save the file as UTF-8 text"
    elif isinstance(error, RecursionError):
        problem = "is nested too deep"
    return f"{place}: {problem}"
