"""What checks shapes in signatures: beartype, which with this setting takes an int for a float, as mypy does (PEP 484)."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
