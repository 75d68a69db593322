"""What checks shapes in signatures: beartype, taking an int where a float is asked for, as mypy does (PEP 484)."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
