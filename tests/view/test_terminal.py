"""Tables where the terminal is narrow."""

import pytest
from rich.table import Table

from diffpo.view.terminal import show


@pytest.mark.parametrize("width", [20, 40, 200])
def test_no_figure_is_cut(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    table = Table("a sampler with a long name", title="title")
    for name in ("points", "95 %"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("tokens", justify="right")
    table.add_row("entropy_bound:0.1", "+1.5", "[-92.4, +92.4]", "1,024.25")
    show(table)
    shown = capsys.readouterr().out
    assert all(cell in shown for cell in ("+1.5", "[-92.4, +92.4]", "1,024.25", "points", "95 %", "tokens"))
