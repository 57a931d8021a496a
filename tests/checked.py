"""What checks shapes and types while tests run: beartype, to which an int is a float as to any other checker."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
